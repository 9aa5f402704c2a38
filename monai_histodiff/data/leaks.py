"""Copies of training patches among the test patches, whatever their groups are called."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_histodiff.data.duplicates import PLAIN, contrasts, near_pairs
from monai_histodiff.data.looking import likeness, looked
from monai_histodiff.data.overlaps import Marks, joined, overlapping
from monai_histodiff.data.patch_set import PatchSet

__all__ = ["Leaks", "find_leaks"]


@dataclass(frozen=True)
class Leaks:
    """Test patches that the training patches hold already.

    Attributes:
        patches: number of test patches.
        exact: how many have the very pixels of a training patch.
        blank: how many of the exact ones are of one colour, as empty glass is: alike by nature.
        near: how many further ones are near duplicates of a training patch, flipped or turned as
            may be, by :func:`~monai_histodiff.data.duplicates.near_pairs`.
        overlap: how many further ones show some of the tissue of a training patch, shifted, by
            :func:`~monai_histodiff.data.overlaps.overlapping`: tiles that overlap.
        pairs: ``(test patch, training patch)`` of each, by :meth:`PatchSet.names`.
    """

    patches: int
    exact: int
    blank: int
    near: int
    overlap: int
    pairs: tuple[tuple[str, str], ...]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """What must not be overlooked, a word and a sentence; none where there is no copy."""
        found = []
        if self.exact:
            blank = f" ({self.blank} of them blank)" if self.blank else ""
            found.append(f"{self.exact}{blank} are exact copies of training patches")
        if self.near:
            found.append(f"{self.near} are nearly copies (re-encoded, flipped or turned)")
        if self.overlap:
            found.append(f"{self.overlap} show some of the same tissue, shifted")
        if not found:
            return []
        return [
            (
                "Leak across the split.",
                f"Of {self.patches} test patches {' and '.join(found)}, such as "
                f"'{self.pairs[0][0]}' of '{self.pairs[0][1]}'. What is claimed of new patients "
                "does not hold for them: take them out, or give both one group.",
            )
        ]


def find_leaks(train: PatchSet, test: PatchSet) -> Leaks:
    """Look for copies across a split: exact, near, and shifted. Every patch is read once.

    Args:
        train: all patches that anything is trained on, unlabelled ones too.
        test: patches that must be new.

    Returns:
        Counts, pairs of paths, and warnings.

    Raises:
        ValueError: a side is empty: nothing would be compared.
    """
    for side, part in (("train", train), ("test", test)):
        if not len(part):
            raise ValueError(
                f"{side} must hold at least one patch, got none: give both parts of a set whose"
                " split is recorded, or drawn by with_split()"
            )
    known, small, there = _described(train)
    unseen, views, here = _described(test)
    places = {digest: i for i, digest in reversed(list(enumerate(known)))}
    flat = contrasts(views) < PLAIN
    exact = {j: places[digest] for j, digest in enumerate(unseen) if digest in places}
    near = {j: i for j, i in _near(small, views).items() if j not in exact}
    found = {**exact, **near}
    shifted = {j: i for i, j in reversed(sorted(overlapping(there, here))) if j not in found}
    known_names, unseen_names = train.names(), test.names()
    pairs = [
        (unseen_names[j], known_names[i])
        for part in (exact, near, dict(sorted(shifted.items())))
        for j, i in part.items()
    ]
    blank = sum(bool(flat[j]) for j in exact)
    return Leaks(len(test), len(exact), blank, len(near), len(shifted), tuple(pairs))


def _described(patches: PatchSet) -> tuple[list[bytes], Tensor, Marks]:
    """SHA-256 of the pixels, 16 x 16 thumbnails, ``N x 3 x 16 x 16``, and marks."""
    digests, small, places = zip(*looked(patches, likeness, "look for copies"), strict=True)
    return list(digests), torch.cat(small), joined(places)


def _near(known: Tensor, views: Tensor) -> dict[int, int]:
    """The nearest row of ``known`` that a view nearly is, for the views that have one."""
    pairs = near_pairs(torch.cat([known, views]))
    found: dict[int, int] = {}
    for p in pairs.distance.argsort().tolist():
        i, j = int(pairs.first[p]), int(pairs.second[p]) - len(known)
        if i < len(known) and j >= 0:
            found.setdefault(j, i)
    return dict(sorted(found.items()))
