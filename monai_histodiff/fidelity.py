"""How close the synthetic patches of each class are to real ones, beside how close real patches are to one another."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop
from PIL import Image
from torch import Tensor

from monai_histodiff.candidates import Candidates
from monai_histodiff.distances import copy_distances
from monai_histodiff.generator_metrics import compare_features, flag_copies
from monai_histodiff.patchsets import PatchSet

__all__ = ["class_fidelity", "recompressed"]

NEIGHBOURS = 5


def recompressed(images: Tensor, quality: int = 90) -> Tensor:
    """Patches through JPEG, ``N x 3 x H x W`` uint8: real and synthetic ones then carry the same traces of compression."""

    def once(image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0)
        return np.array(Image.open(stream))

    pictures = [torch.from_numpy(once(v.permute(1, 2, 0).numpy())) for v in images]
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous() if pictures else images


def class_fidelity(
    candidates: Candidates,
    train: PatchSet,
    labelled: PatchSet,
    test: PatchSet,
    features: Callable[[Tensor], Tensor],
    size: int,
    percentile: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of the accepted patches of each class, and of as many real training patches of it: the floor.

    Both are compared with the real test patches of the class, which no model has seen. The figures depend on the number of
    patches, which is the same on both sides. All patches are cropped to ``size`` and pass through JPEG.

    Args:
        candidates: all candidates with their outcome.
        train: all real training patches, for the floor; their labels are used here, and nowhere else.
        labelled: those that generator, guide and critic were fitted on, and that could have been copied.
        test: patches of other groups.
        features: uint8 patches ``N x 3 x size x size`` to features ``N x D``.
        size: height and width of the patches.
        percentile: a sample is called a copy if it lies nearer to a labelled patch than all but ``percentile`` per cent of the
            test patches do, by :func:`~monai_histodiff.distances.copy_distances`.
        seed: draws the patches of the larger side.

    Returns:
        For each class: ``samples`` and ``floor``, each the figures of
        :func:`~monai_histodiff.generator_metrics.compare_features`, or ``None`` where a side has too few patches; ``copies``,
        counts among ``samples`` and, by the same rule, ``held_out``; ``numbers`` of ``real``, ``compared`` and ``accepted``.
    """
    crop, generator = CenterSpatialCrop(size), torch.Generator().manual_seed(seed)

    def load(patches: PatchSet) -> Tensor:
        return recompressed(torch.stack([torch.as_tensor(crop(image)) for image in patches.images(size)]))

    def some(x: Tensor, count: int) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)[:count]]

    known, unseen = load(labelled), load(test)
    usual, real = copy_distances(unseen, known)[0], features(unseen)
    found: dict[str, Any] = {}
    for k, name in enumerate(labelled.classes):
        own, accepted = real[test.labels == k], recompressed(candidates.images[candidates.accepted & (candidates.labels == k)])
        others = train.select(label=name)
        n = min(len(accepted), len(others))
        enough = min(n, len(own)) > NEIGHBOURS
        sides = {"samples": accepted, "floor": load(others)} if enough else {"samples": None, "floor": None}
        copies = flag_copies(copy_distances(accepted, known)[0], usual, percentile) if len(accepted) else torch.zeros(0)
        found[name] = {
            **{side: None if x is None else compare_features(own, features(some(x, n)), NEIGHBOURS) for side, x in sides.items()},
            "copies": {"samples": int(copies.sum()), "held_out": int(flag_copies(usual, usual, percentile)[test.labels == k].sum())},
            "numbers": {"real": len(own), "compared": n if enough else 0, "accepted": len(accepted)},
        }
    return found
