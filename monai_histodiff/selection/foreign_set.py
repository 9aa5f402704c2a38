"""Synthetic pictures of any origin, read by the doors of every patch set, and checked against the
real one.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from monai_histodiff.data.listing import list_patches
from monai_histodiff.data.patch_files import PatchRecord, PatchSource
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.sizes import SMALLEST, told_size
from monai_histodiff.data.tables import number
from monai_histodiff.utils.progress import patient

__all__ = ["check_pictures", "open_synthetic"]

ROW = re.compile(r"-?\d+")  # of an origin, in the manifest of our own candidates

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
            no label, one that the real set does not know, a seed that is no whole number, a
            confidence beyond [0, 1], an origin that the real set does not have, is smaller than
            ``size``, or is made from a test patch.
    """
    if not str(path) or not Path(path).expanduser().exists():
        raise FileNotFoundError(
            f"{option} must exist, got '{path}': give a folder or zip of synthetic pictures"
        )
    source = PatchSource(path, option=option)
    listed, notes = list_patches([source])
    records, more = _with_origins(listed, real, option)
    classes = sorted({r.label for r in records} - {""})
    found = PatchSet([source], records, classes, [*notes, *more])
    found = found if um_per_px is None else found.filled(um_per_px)
    found = _at_scale(found, real)
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
        _check_confidence(record, option)
    tested = {r.path for r in real.records if r.split == "test"} - {
        r.path for r in real.records if r.split != "test"
    }
    if leaked := [r for r in found.records if r.extra.get("origin") in tested]:
        raise ValueError(
            f"pictures of {option} must not be made from test patches, got {len(leaked)} that "
            f"are, such as '{leaked[0].path}' of '{leaked[0].extra['origin']}': leave them out"
        )
    sides = [min(side) for side in found.sizes()]
    if small := [side for side in sides if side < size]:
        least = min(small)
        scale = "" if found.um_per_px is None else f" at {found.um_per_px:g} um per pixel"
        lower = f", or --patch_size {least}" if least >= SMALLEST else ""
        assumed = "".join(f" ({note})" for note in found.notes if ASSUMED in note)
        raise ValueError(
            f"pictures of {option} must be at least {size} x {size}{scale}, got {len(small)} of "
            f"{len(found)} that are smaller, the smallest {told_size(found, sides.index(least))}"
            f"{assumed}: give their "
            f"--synthetic_um_per_px if it is another{lower}, or make them larger"
        )
    return found


def _at_scale(found: PatchSet, real: PatchSet) -> PatchSet:
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


def check_pictures(found: PatchSet) -> None:
    """Decode every picture of a set, before any work.

    Raises:
        ValueError: one cannot be read, or is no 8-bit RGB, grey or palette picture.
    """
    for _ in patient(found, "look at the pictures"):
        pass


def _with_origins(
    records: Sequence[PatchRecord], real: PatchSet, option: str
) -> tuple[list[PatchRecord], list[str]]:
    """The records, once every origin is a path of the real set, as that has it, or a number, which
    our own candidates have there: a note says that those are not read.
    """
    paths = {_plain(r.path): r.path for r in real.records}
    rows, found = 0, []
    for record in records:
        told = record.extra.get("origin", "")
        path = paths.get(_plain(told), "")
        if told and not path and not ROW.fullmatch(told):
            name = _plain(told).rpartition("/")[2]
            near = [p for p in paths.values() if p.rpartition("/")[2] == name]
            remedy = f"did you mean '{near[0]}'?" if near else "correct it, or leave it empty"
            raise ValueError(
                f"an origin in {option} must be the path of a patch of the real set, or empty, "
                f"got '{told}' for '{record.path}', which is none: {remedy}"
            )
        rows += bool(told) and not path
        found.append(replace(record, extra={**record.extra, "origin": path}) if path else record)
    note = f"The origin of {rows} of {len(found)} synthetic pictures is a number, no path: unread."
    return found, [note] * bool(rows)


def _plain(path: str) -> str:
    """A path with slashes, without a dot at its beginning, and of composed characters (NFC)."""
    return unicodedata.normalize("NFC", path.replace("\\", "/")).removeprefix("./")


def _check_confidence(record: PatchRecord, option: str) -> None:
    text = record.extra.get("confidence", "")
    try:
        good = text in ("", "nan") or 0 <= number(text) <= 1
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"a confidence in {option} must lie in [0, 1], or be empty, got '{text}' for "
            f"'{record.path}': correct it, or call the column otherwise"
        )


def _check_seed(record: PatchRecord, option: str) -> None:
    text = record.extra.get("seed", "")
    if text and not (text.isascii() and text.isdigit() and int(text) <= LARGEST):
        raise ValueError(
            f"a seed in {option} must be a whole number of at least 0, or empty, got '{text}' "
            f"for '{record.path}': correct it, or leave the column out"
        )
