"""The size of a task: to which height and width every stage crops its patches."""

from __future__ import annotations

from monai_histodiff.data.patch_set import PatchSet

__all__ = ["LARGEST", "SMALLEST", "crop_size", "size_note"]

SMALLEST, USUAL, LARGEST = 96, 128, 512  # pixels at the model's scale


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
            remedy = "leave them out, cut larger ones, or give their um_per_px if it is another"
        raise ValueError(
            f"patches must be at least {chosen} x {chosen}{scale}, got {len(small)} of "
            f"{len(sides)} that are smaller, the smallest of {least}, such as "
            f"'{patches.records[small[0]].path}': {remedy}"
        )
    return chosen


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
