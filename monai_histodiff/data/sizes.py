"""The size of a task: to which height and width every stage crops its patches."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.reading import size_words

__all__ = [
    "LARGEST",
    "MODEL",
    "SMALLEST",
    "PretrainingPool",
    "crop_size",
    "open_part",
    "open_pool",
    "size_note",
    "told_size",
]

SMALLEST, USUAL, LARGEST = 96, 128, 512  # pixels at the model's scale
MODEL, FAR = 1.0, 1.8  # um per pixel of the shipped generator, and the factor that is too far off


def crop_size(patches: PatchSet, size: int | None = None) -> int:
    """Height and width to which every stage crops the patches of a set.

    Args:
        patches: the set, at the model's scale (:meth:`PatchSet.at`).
        size: what is asked for. By default what all patches have, the smallest height or width of
            any of them, but at most the 128 pixels that the generator was trained on.

    Raises:
        ValueError: the set is empty, a patch is smaller than ``size``, or, by default, than 96
            pixels.
    """
    sides = _sides(patches)
    least = min(sides)
    chosen = min(USUAL, max(SMALLEST, least)) if size is None else size
    if small := [i for i, side in enumerate(sides) if side < chosen]:
        scale = "" if patches.um_per_px is None else f" at {patches.um_per_px:g} um per pixel"
        remedy = f"give patch_size {least}, or leave them out"
        if least < SMALLEST:
            remedy = f"leave them out, cut larger ones{_large_enough(patches, small[0])}, or give "
            remedy += "their um_per_px if it is another"
        raise ValueError(
            f"patches must be at least {chosen} x {chosen}{scale}, got {len(small)} of "
            f"{len(sides)} that are smaller, the smallest of {least}, such as "
            f"{told_size(patches, small[0])}: {remedy}"
        )
    return chosen


def _large_enough(patches: PatchSet, index: int) -> str:
    """The size of a file, at the scale of a patch's, that would show enough."""
    own, wanted = patches.records[index].um_per_px, patches.um_per_px
    if own is None or wanted is None or own == wanted:
        return ""
    return f" (at {own:g} um per pixel {math.ceil(SMALLEST * wanted / own)} pixels or more)"


def told_size(patches: PatchSet, index: int) -> str:
    """The path of a patch, the height and width that it is read at, and those of its file if they
    are others, in words.
    """
    one = patches.take([index])
    return size_words(one.names()[0], one.sizes()[0], one.at(None).sizes()[0])


def open_pool(
    folder: str | os.PathLike[str],
    names: Sequence[str],
    um_per_px: float | None = None,
    size: int = 1,
) -> PatchSet:
    """Open patch sets to train a generator or an encoder on, or to evaluate one.

    A model should know a range of magnifications, and patches come as they are. Those that are
    recorded at less than 1 / 1.8, or more than 1.8, times the 1 um per pixel of the shipped bundle
    are at another magnification, and refused unless a scale is given.

    Args:
        folder: where they lie.
        names: of folders or zips in it.
        um_per_px: micrometres per pixel at which each patch is read; ``None``: as its file is.
        size: the least height and width that they must have there.

    Raises:
        ValueError: some are recorded at another magnification, or are smaller; see also
            :meth:`PatchSet.open`.
    """
    patches = PatchSet.open([Path(folder) / name for name in names]).at(um_per_px)
    if um_per_px is None:
        recorded = [(r.um_per_px, r.path) for r in patches.records if r.um_per_px is not None]
        far = [(um, path) for um, path in recorded if not MODEL / FAR <= um <= MODEL * FAR]
        if far:
            raise ValueError(
                f"patches must be at about {MODEL:g} um per pixel ({MODEL / FAR:.2g} to "
                f"{MODEL * FAR:.2g}), got {len(far)} of {len(patches)} that are not, such as "
                f"'{far[0][1]}' at {far[0][0]:g}: give --read_at {MODEL:g}, and all are resampled "
                "to it, or the scale that your model is to have"
            )
    patches.check_size(size)
    return patches


@dataclass(frozen=True)
class PretrainingPool:
    """Patches to train a generator or an encoder on, and patches of other groups.

    Attributes:
        train: to train on.
        held_out: never trained on; none where nothing is held out.
    """

    train: PatchSet
    held_out: PatchSet

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        names: Sequence[str],
        um_per_px: float | None = None,
        size: int = 1,
        held_out: float = 0.05,
    ) -> PretrainingPool:
        """Open patch sets by :func:`open_pool`, and hold some groups out, always the same. What a
        manifest calls test is in neither part.

        Args:
            folder: where they lie.
            names: of folders or zips in it.
            um_per_px: as for :func:`open_pool`.
            size: as for :func:`open_pool`.
            held_out: share of the groups; 0: none.

        Raises:
            ValueError: as :func:`open_pool` and :meth:`PatchSet.hold_out`.
        """
        whole = open_pool(folder, names, um_per_px, size)
        pool = whole.without(whole.select(split="test"))
        return cls(*(pool.hold_out(held_out, seed=0) if held_out else (pool, pool[:0])))


def open_part(
    folder: str | os.PathLike[str],
    name: str,
    split: str,
    um_per_px: float | None = None,
    size: int = 1,
) -> PatchSet:
    """The training or the test patches of one labelled set, opened by :func:`open_pool`.

    Args:
        folder: where it lies.
        name: of its folder or zip.
        split: ``"train"`` or ``"test"``, as recorded, or see :meth:`PatchSet.with_split`.
        um_per_px: as for :func:`open_pool`.
        size: as for :func:`open_pool`.

    Raises:
        ValueError: as :func:`open_pool` and :meth:`PatchSet.with_split`.
    """
    return open_pool(folder, [name], um_per_px, size).with_split().select(split)


def size_note(patches: PatchSet, size: int) -> str:
    """A plain sentence on what a size leaves of the patches of a set."""
    sizes = set(patches.sizes())
    least, most = min(min(s) for s in sizes), max(max(s) for s in sizes)
    scale = "" if patches.um_per_px is None else f" at {patches.um_per_px:g} um per pixel"
    have = f"{least} x {least}" if least == most else f"{least} to {most}"
    if most == size:
        return f"Patches have {have} pixels{scale}."
    why = ", which all have" if size == least else ""
    told = f"Patches have {have} pixels{scale}: every stage crops them to {size} x {size}{why}."
    if USUAL == size < least:
        told += f" --patch_size {min(least, LARGEST)} takes them larger, and more time."
    return told


def _sides(patches: PatchSet) -> list[int]:
    """The smaller of height and width of each patch."""
    if not len(patches):
        raise ValueError("a patch set must hold at least one patch, got none")
    return [min(size) for size in patches.sizes()]
