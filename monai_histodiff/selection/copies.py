"""Near copies of real patches: the memorisation check.

Distances are root-mean-square differences of 16 x 16 thumbnails, in units of the intensity range,
over the eight flips and right-angle turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_histodiff.data.pixels import thumbnails, turns

__all__ = [
    "FLOOR",
    "PERCENTILE",
    "CopyGate",
    "copy_distances",
    "copy_gate",
    "flag_copies",
    "group_index",
    "nearest_views",
]

BATCH = 256  # patches compared at once, at the most
PAIRS = 2**24  # of a patch and a reference, likewise: for the sake of memory
# Below this distance two patches are one: 4 of 256 levels. JPEG of quality 75 moved 1,361 H&E
# patches of four data sets by 0.002 (median) and 0.011 (at the most); the nearest two of other
# groups were 0.032 apart.
FLOOR = 4 / 255
PERCENTILE = 1.0  # of distances between real patches, below which a picture is a copy


@dataclass(frozen=True)
class CopyGate:
    """The distance below which a patch counts as a copy, and what it rests on.

    Attributes:
        threshold: the distance, never below :data:`FLOOR`: an exact copy does not pass.
        twins: real patches that lie nearer than :data:`FLOOR` to one of another group: duplicates,
            and blank tiles. They would make the threshold 0, and are set aside.
        compared: real patches that the threshold rests on; with a single group none.
    """

    threshold: float
    twins: int
    compared: int


def group_index(groups: Sequence[str]) -> Tensor:
    """A number for the group of each patch, int64, from 0 in the order in which they come."""
    names = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return torch.tensor([names[group] for group in groups], dtype=torch.long, device="cpu")


def nearest_views(
    patches: Tensor,
    references: Tensor,
    groups: tuple[Tensor, Tensor] | None = None,
    least: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest reference of each patch, over the eight flips and turns of the patch.

    Args:
        patches: thumbnails, or other maps of one size, floating point, ``N x C x H x W``.
        references: likewise, ``M x C x H x W``.
        groups: index of the group of each patch and of each reference, ``N`` and ``M``: those of
            its own group do not count.
        least: nor do those that are nearer than this.

    Returns:
        Distance to the nearest one that counts (infinite where none does), its index, and whether
        there is one nearer than ``least``; each of shape ``N``.
    """
    targets = references.flatten(1)
    parts = []
    size = min(BATCH, max(1, PAIRS // max(1, len(targets))))
    for rows in torch.arange(len(patches), device="cpu").split(size):
        turned = torch.stack([v.flatten(1) for v in turns(patches[rows])])
        # by matrix product: fast, but not exactly 0 for a copy
        rough = torch.cdist(turned, targets).amin(0)
        if groups is not None:
            rough[groups[0][rows, None] == groups[1][None]] = float("inf")
        near = rough < least * targets.shape[1] ** 0.5
        rough[near] = float("inf")
        index = rough.argmin(1)
        exact = (turned - targets[index]).square().mean(2).sqrt().amin(0)
        exact[rough.amin(1).isposinf()] = float("inf")
        parts.append((exact, index, near.any(1)))
    distance, index, twin = (torch.cat(part) for part in zip(*parts, strict=True))
    return distance, index, twin


def copy_distances(patches: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each patch to its nearest reference.

    Args:
        patches: ``N x 3 x H x W``, uint8 or floating point in [0, 1].
        references: ``M x 3 x H' x W'``, likewise.

    Returns:
        The distances, NaN for patches that are not finite, and the indices of the references;
        both of shape ``N``.

    Raises:
        ValueError: there is no reference, or one is not finite, or patches or references are not
            scaled to [0, 1], see :func:`~monai_histodiff.data.pixels.check_range`.
    """
    if len(references) == 0:
        raise ValueError("copy distances need at least one reference, got none")
    _check_finite(references)
    small = thumbnails(patches)
    distance, index, _ = nearest_views(small, thumbnails(references))
    distance[~small.isfinite().flatten(1).all(1)] = float("nan")
    return distance, index


def copy_gate(references: Tensor, groups: Sequence[str]) -> CopyGate:
    """Calibrate the distance below which a patch counts as a copy: a low percentile of the
    distances from each real patch to its nearest real patch of another group, twins left out.

    Args:
        references: real patches, ``M x 3 x H x W``.
        groups: the group of each; only distances to other groups count. With a single group there
            is no such distance, and the threshold is :data:`FLOOR`.

    Raises:
        ValueError: a reference is not finite, not scaled to [0, 1], or has no group.
    """
    _check_finite(references)
    if len(references) != len(groups):
        raise ValueError(f"each patch needs a group, got {len(references)} and {len(groups)}")
    if len(set(groups)) < 2:
        return CopyGate(FLOOR, 0, 0)
    own = group_index(groups)
    small = thumbnails(references)
    distance, _, twin = nearest_views(small, small, (own, own), FLOOR)
    known = distance[distance.isfinite()]
    threshold = float(torch.quantile(known, PERCENTILE / 100)) if len(known) else FLOOR
    return CopyGate(max(FLOOR, threshold), int(twin.sum()), len(known))


def flag_copies(to_train: Tensor, held_out_to_train: Tensor, floor: float = 0.0) -> Tensor:
    """Which samples lie nearer to the training set than nearly all patches that were kept out of
    it: of new real patches one per cent would.

    Args:
        to_train: distance of each sample to its nearest training patch, shape ``N``.
        held_out_to_train: the same for real patches of groups kept out of training.
        floor: distance up to which two patches are one: such a sample is a copy whatever the
            held-out patches are, and a held-out patch that is one is set aside.

    Returns:
        Boolean tensor of shape ``N``.

    Raises:
        ValueError: there is no held-out distance, a distance is NaN, or ``floor`` is
            negative.
    """
    if held_out_to_train.numel() == 0:
        raise ValueError("copies need at least one held-out distance, got none")
    if not floor >= 0:
        raise ValueError(f"floor must be at least 0, got {floor}")
    if unknown := int(to_train.isnan().sum() + held_out_to_train.isnan().sum()):
        raise ValueError(f"distances must be numbers, got {unknown} that are NaN")
    known = held_out_to_train[held_out_to_train > floor].to(to_train)
    copies = to_train <= floor
    return copies | (to_train < torch.quantile(known, PERCENTILE / 100)) if len(known) else copies


def _check_finite(references: Tensor) -> None:
    if references.is_floating_point() and not bool(references.isfinite().all()):
        count = int((~references.isfinite()).flatten(1).any(1).sum())
        raise ValueError(f"real patches must be finite, got {count} that are not")
