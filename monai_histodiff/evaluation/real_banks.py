"""Banks of real patches, which arms train on in place of synthetic ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import RandSpatialCropd
from torch import Tensor

from monai_histodiff.classifiers.crops import over_crops
from monai_histodiff.data.bank import SyntheticBank
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.sourcing import sure_labels

__all__ = ["fitted", "pseudo_labels", "real_bank", "true_labels", "whole_patches"]


def pseudo_labels(
    pool: PatchSet,
    judge: Callable[[Tensor], Tensor],
    threshold: float,
    classes: Sequence[str],
    size: int,
    beside: PatchSet | None = None,
) -> SyntheticBank:
    """Pseudo-label real patches: those whose most probable class reaches the threshold, under that
    class (Lee 2013).

    The labels of the pool, if it has any, are not read.

    Args:
        pool: patches without labels.
        judge: crops ``N x 3 x size x size``, uint8, to probabilities
            ``N x len(classes)``; of a patch the mean over its centre and corner crops counts.
        threshold: lowest accepted probability; that of the critic's target precision puts E and G
            under one rule.
        classes: class names.
        size: height and width of what the judge sees.
        beside: the real patches that they take the places of, see :func:`whole_patches`.

    Returns:
        Whole patches, to be cropped as the labelled ones are; the confidence is the judge's, the
        seed is the row in the pool.

    Raises:
        ValueError: the pool is empty.
    """
    if len(pool) == 0:
        rule = "arm E needs training patches that were not drawn as labelled"
        raise ValueError(f"{rule}, got none")
    confidence, label = sure_labels(over_crops(judge, pool, size).mean(1), threshold)
    return real_bank(whole_patches(pool, beside), label, confidence, classes)


def true_labels(
    pool: PatchSet, classes: Sequence[str], beside: PatchSet | None = None
) -> SyntheticBank:
    """Real patches under their true labels: the ceiling of what synthetic patches, or
    pseudo-labels, could bring.

    Args:
        pool: real labelled patches, none of them among those that the arms train on.
        classes: class names.
        beside: the real patches that they take the places of, see :func:`whole_patches`.

    Returns:
        Whole patches, to be cropped as the labelled ones are; the confidence is 1, the seed is the
        row in the pool.

    Raises:
        ValueError: no patch of the pool has a label, or one has a label that is none of the
            classes.
    """
    pool = pool.with_classes(classes)
    if not bool((pool.labels >= 0).any()):
        rule = "arm R needs labels of training patches that were not drawn as labelled"
        raise ValueError(f"{rule}, got none on {len(pool)} patches")
    sure = torch.ones(len(pool), dtype=torch.float32)
    return real_bank(whole_patches(pool, beside), pool.labels, sure, classes)


def whole_patches(pool: PatchSet, beside: PatchSet | None = None) -> Tensor:
    """Whole patches; where they differ in size from one another, or from those ``beside``, centre
    crops of the largest size that all have.
    """
    sizes = {*pool.sizes(), *(beside.sizes() if beside else ())}
    return pool.images(None if len(sizes) == 1 else min(min(size) for size in sizes))


def fitted(items: Sequence[Mapping[str, Any]], bank: SyntheticBank) -> list[Any]:
    """The transform that brings whole real patches, items with ``"image"``, to the size of the
    bank's that take their places; none where all have it.
    """
    if bank.size is None or all(tuple(item["image"].shape[1:]) == bank.size for item in items):
        return []
    return [RandSpatialCropd("image", bank.size, random_size=False)]


def real_bank(
    images: Tensor, labels: Tensor, confidence: Tensor, classes: Sequence[str]
) -> SyntheticBank:
    """Real patches under labels; -1 leaves one out."""
    rows = {k: (labels == k).nonzero()[:, 0] for k in range(len(classes))}
    shown, sure = ({k: v[r] for k, r in rows.items()} for v in (images, confidence))
    return SyntheticBank(shown, sure, rows, classes)
