"""The arms of the verdict: what each one trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from monai_histodiff.data.bank import SyntheticBank
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.candidates import Candidates

__all__ = ["ARMS", "COMPARISONS", "NEEDS", "SYNTHETIC", "arm_bank", "pseudo_labels", "true_labels"]

ARMS = {
    "A": "real patches, no augmentation, as often as G shows them (fewer steps)",
    "B": "real patches repeated, no augmentation",
    "C": "real + strong classical augmentation",
    "D": "C + mixup and cutmix",
    "E": "C + pseudo-labelled real patches",
    "F": "C + random synthetic patches",
    "G": "C + selected synthetic patches",
    "G0": "C + synthetic patches of the published method",
    "H": "C + lowest-scored synthetic patches",
    "S": "C + selected synthetic patches, labels shuffled",
    "I": "selected synthetic patches only, with C's augmentation",
    "J": "linear probe on self-supervised features",
    "R": "C + all further real patches with their true labels: the ceiling",
}
COMPARISONS = ("G-C", "G-F", "G-S", "G-E", "G-G0", "G-D", "G-B", "G-A", "R-C")
SYNTHETIC = ("F", "G", "G0", "H", "I", "S")  # arms that train on candidates
NEEDS = {"E": ("pool", "critic"), "G0": ("published",), "J": ("features",), "R": ("pool",)}


def arm_bank(
    arm: str, candidates: Candidates, classes: Sequence[str], seed: int = 0
) -> SyntheticBank:
    """The synthetic patches of an arm; arms of the same candidates have as many of each class as
    were accepted.

    Args:
        arm: one of :data:`SYNTHETIC`; G0 is as G, of other candidates.
        candidates: all candidates with their outcome.
        classes: class names.
        seed: of the random draw (F) and of the shuffle (S).

    Raises:
        ValueError: there is no such arm.
    """
    if arm not in SYNTHETIC:
        raise ValueError(
            f"an arm of synthetic patches must be one of {', '.join(SYNTHETIC)}, got '{arm}'"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = candidates.accepted.nonzero()[:, 0]
    if arm == "S":
        labels = candidates.labels.clone()
        labels[chosen] = labels[chosen[torch.randperm(len(chosen), generator=generator)]]
        return replace(candidates, labels=labels).bank(chosen, classes)
    if arm in ("F", "H"):
        parts = []
        for k in range(len(classes)):
            rows = (candidates.labels == k).nonzero()[:, 0]
            order = (
                torch.randperm(len(rows), generator=generator)
                if arm == "F"
                else candidates.confidence[rows].argsort()
            )
            parts.append(rows[order[: int(candidates.accepted[rows].sum())]])
        chosen = torch.cat(parts)
    return candidates.bank(chosen, classes)


def pseudo_labels(
    pool: PatchSet,
    judge: Callable[[Tensor], Tensor],
    threshold: float,
    classes: Sequence[str],
    size: int,
) -> SyntheticBank:
    """Pseudo-label real patches: those whose most probable class reaches the threshold, under that
    class (Lee 2013).

    The labels of the pool, if it has any, are not read.

    Args:
        pool: patches without labels, of one size.
        judge: centre crops ``N x 3 x size x size``, uint8, to calibrated probabilities
            ``N x len(classes)``.
        threshold: lowest accepted probability; that of the critic's target precision puts E and G
            under one rule.
        classes: class names.
        size: height and width of what the judge sees.

    Returns:
        Whole patches, to be cropped as the labelled ones are; the confidence is the judge's, the
        seed is the row in the pool.

    Raises:
        ValueError: the pool is empty.
    """
    if len(pool) == 0:
        raise ValueError("arm E needs training patches that were not drawn as labelled, got none")
    images = pool.images(size)
    top, left = (images.shape[2] - size) // 2, (images.shape[3] - size) // 2
    confidence, label = judge(images[..., top : top + size, left : left + size]).max(1)
    return _real_bank(images, torch.where(confidence >= threshold, label, -1), confidence, classes)


def true_labels(pool: PatchSet, classes: Sequence[str]) -> SyntheticBank:
    """Real patches under their true labels: the ceiling of what synthetic patches, or
    pseudo-labels, could bring.

    Args:
        pool: real labelled patches of one size, none of them among those that the arms train on.
        classes: class names.

    Returns:
        Whole patches, to be cropped as the labelled ones are; the confidence is 1, the seed is the
        row in the pool.

    Raises:
        ValueError: no patch of the pool has a label.
    """
    if not bool((pool.labels >= 0).any()):
        raise ValueError(
            f"arm R needs labels of training patches that were not drawn as labelled, got none on {len(pool)} patches"
        )
    return _real_bank(pool.images(), pool.labels, torch.ones(len(pool)), classes)


def _real_bank(
    images: Tensor, labels: Tensor, confidence: Tensor, classes: Sequence[str]
) -> SyntheticBank:
    """Real patches under labels; -1 leaves one out."""
    rows = {k: (labels == k).nonzero()[:, 0] for k in range(len(classes))}
    return SyntheticBank(
        {k: images[r] for k, r in rows.items()},
        {k: confidence[r] for k, r in rows.items()},
        rows,
        classes,
    )
