"""Pairs of patches that show the same, and what they lie across."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_histodiff.data.duplicates import near_pairs
from monai_histodiff.data.overlaps import Marks, overlapping
from monai_histodiff.data.patch_set import PatchSet

__all__ = ["ACROSS", "Twins", "find_overlaps", "find_twins"]

ACROSS = ("splits", "groups", "one group")  # what a pair lies across, the worst first


@dataclass(frozen=True)
class Twins:
    """Two patches of which one is a copy of the other, by :meth:`PatchSet.names`.

    ``distance`` is 0 for equal pixels, and otherwise that of
    :func:`~monai_histodiff.data.duplicates.near_pairs`, NaN for those that overlap; ``across`` is
    ``"splits"`` where they are in different ones, or else ``"groups"``, or ``"one group"``;
    ``labels`` are theirs, empty where there are none.
    """

    first: str
    second: str
    distance: float
    across: str
    labels: tuple[str, str] = ("", "")


def find_twins(
    patches: PatchSet, prints: Sequence[bytes], plain: Sequence[bool], small: Tensor
) -> tuple[Twins, ...]:
    """Pairs of equal pixels, each copy with the first of its kind, and pairs that are nearly
    equal.
    """
    first: dict[bytes, int] = {}
    pairs: dict[tuple[int, int], float] = {}
    for i, print_ in enumerate(prints):
        if (j := first.setdefault(print_, i)) != i and not plain[i]:
            pairs[j, i] = 0.0
    kept = torch.tensor(sorted(first.values()), dtype=torch.long, device="cpu")
    near = near_pairs(small[kept])
    for i, j, distance in zip(kept[near.first], kept[near.second], near.distance, strict=True):
        pairs[int(i), int(j)] = max(float(distance), 1e-9)
    names = patches.names()
    found = [_pair(patches, names, i, j, distance) for (i, j), distance in pairs.items()]
    return tuple(sorted(found, key=lambda t: (ACROSS.index(t.across), t.distance, t.first)))


def find_overlaps(patches: PatchSet, places: Marks, twins: Sequence[Twins]) -> tuple[Twins, ...]:
    """Pairs of different splits, or of different groups where there is one split only, that are no
    copies, and show some of the same tissue.
    """
    known = {(t.first, t.second) for t in twins}
    split = torch.tensor(
        [r.split == "test" for r in patches.records], dtype=torch.bool, device="cpu"
    )
    sides = (places, places)
    if bool(split.any()) and not bool(split.all()):
        sides = places.of(~split), places.of(split)
    pairs = (sorted(pair) for pair in overlapping(*sides))
    names = patches.names()
    found = [_pair(patches, names, i, j, math.nan) for i, j in pairs]
    rest = (t for t in found if t.across != ACROSS[-1] and (t.first, t.second) not in known)
    return tuple(sorted(rest, key=lambda t: (ACROSS.index(t.across), t.first, t.second)))


def _pair(patches: PatchSet, names: Sequence[str], i: int, j: int, distance: float) -> Twins:
    a, b = patches.records[i], patches.records[j]
    across = ACROSS[0] if a.split != b.split else ACROSS[1] if a.group != b.group else ACROSS[2]
    return Twins(names[i], names[j], distance, across, (a.label, b.label))
