"""Synthetic pictures of any origin, read by the doors of every patch set, and checked against the
real one.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from monai_histodiff.data.patch_files import PatchRecord
from monai_histodiff.data.patch_set import PatchSet

__all__ = ["open_synthetic"]

SHOWN = 4  # names in an error
LARGEST = 2**63 - 1  # seed that a candidate can have
ASSUMED = "um_per_px: taken to be at"  # in a note


def open_synthetic(
    path: str | os.PathLike[str],
    real: PatchSet,
    size: int,
    option: str = "synthetic_dir",
    um_per_px: float | None = None,
) -> PatchSet:
    """Open a set of synthetic pictures: class folders, or a folder or zip with a ``manifest.csv``
    of ``path,label`` and, where known, ``seed``, ``confidence``, ``origin`` (path of the real
    patch that a picture is made from), ``generator`` and ``um_per_px``. They are read at the
    magnification of the real set.

    Args:
        path: the folder or zip.
        real: the whole real patch set: its classes are the classes.
        size: height and width that a picture must have at the least.
        option: what the errors call the path.
        um_per_px: micrometres per pixel of the pictures that record none; ``None``: what all real
            patches record, if that is one number, or else that at which they are read.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as :meth:`PatchSet.open`; or a picture has
            no label, one that the real set does not know, a seed that is no whole number, is
            smaller than ``size``, or is made from a test patch.
    """
    if not str(path) or not Path(path).expanduser().exists():
        raise FileNotFoundError(
            f"{option} must exist, got '{path}': give a folder or zip of synthetic pictures"
        )
    found = _at_scale(PatchSet.open(path, um_per_px=um_per_px), real, um_per_px)
    if blind := [r.path for r in found.records if not r.label]:
        raise ValueError(
            f"every picture of {option} must have a label, got {len(blind)} of {len(found)} "
            f"without, such as '{blind[0]}': name its class"
        )
    if unknown := sorted(set(found.classes) - set(real.classes)):
        near = get_close_matches(unknown[0], real.classes, 1, 0.6)
        remedy = f"did you mean '{near[0]}'?" if near else "rename the classes, or leave these out"
        raise ValueError(
            f"labels of {option} must be classes of the real set, {', '.join(real.classes)}, got "
            f"{', '.join(map(repr, unknown[:SHOWN]))}: {remedy}"
        )
    for record in found.records:
        _check_seed(record, option)
    tested = {r.path for r in real.records if r.split == "test"} - {
        r.path for r in real.records if r.split != "test"
    }
    if leaked := [r for r in found.records if r.extra.get("origin") in tested]:
        raise ValueError(
            f"pictures of {option} must not be made from test patches, got {len(leaked)} that "
            f"are, such as '{leaked[0].path}' of '{leaked[0].extra['origin']}': leave them out"
        )
    small = [side for side in found.sizes() if min(side) < size]
    if small:
        least = min(map(min, small))
        scale = "" if found.um_per_px is None else f" at {found.um_per_px:g} um per pixel"
        assumed = "".join(f" ({note})" for note in found.notes if ASSUMED in note)
        raise ValueError(
            f"pictures of {option} must be at least {size} x {size}{scale}, got {len(small)} of "
            f"{len(found)} that are smaller, the smallest {least}{assumed}: give their "
            "--synthetic_um_per_px if it is another, or a smaller --patch_size, or make them "
            "larger"
        )
    return found


def _at_scale(found: PatchSet, real: PatchSet, um_per_px: float | None) -> PatchSet:
    """The pictures at the magnification of the real set; where nothing tells theirs, they are
    taken to be as the files of the real patches are, and a note says so.
    """
    unknown = sum(r.um_per_px is None for r in found.records)
    theirs = {r.um_per_px for r in real.records}
    own = theirs.pop() if len(theirs) == 1 else None
    if not unknown or own is None or real.um_per_px is None:
        return found.at(real.um_per_px)
    note = (
        f"{unknown} of {len(found)} synthetic pictures record no {ASSUMED} {own:g} um per pixel, "
        "as the real patches are."
    )
    return found.filled(own, note).at(real.um_per_px)


def _check_seed(record: PatchRecord, option: str) -> None:
    text = record.extra.get("seed", "")
    if text and not (text.isascii() and text.isdigit() and int(text) <= LARGEST):
        raise ValueError(
            f"a seed in {option} must be a whole number of at least 0, or empty, got '{text}' "
            f"for '{record.path}': correct it, or leave the column out"
        )
