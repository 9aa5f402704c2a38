"""Magnification, in micrometres per pixel: what is one, and what is assumed without one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from monai_histodiff.data.patch_files import SCALE, PatchRecord

__all__ = [
    "check_scale",
    "fill_scale",
    "image_scale",
    "is_scale",
    "scale_in_header",
    "scale_notes",
    "scale_remedy",
]

LEAST, MOST = 0.02, 16.0  # of what microscopes and scanners give; 16 um is less than 1x
ENLARGED = 1.25  # beyond this factor, a note says that detail is missing
ALIKE = 0.05  # scales that differ by no more are one: scanners do, at one magnification
TENFOLD = 10.0  # um per pixel times magnification, about
INCH = 25400.0  # um
SCANNED = 4.0  # um per pixel: what is coarser in a header is of a scanner for paper
OME = re.compile(r'PhysicalSizeX="([0-9.eE+-]+)"')
UNIT = re.compile(r'PhysicalSizeXUnit="([^"]*)"')
IMAGEJ = re.compile(r"^unit=(um|micron|\\u00B5m)$", re.M)
UNITS = {"nm": 1e-3, "mm": 1e3, "cm": 1e4}  # um; without one OME means um


def is_scale(value: Any) -> bool:
    """Whether it is a number of micrometres per pixel that a microscope or a scanner gives."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and LEAST <= value <= MOST


def check_scale(um_per_px: Any) -> None:
    """Refuse what is no magnification; ``None`` says nothing of it.

    Raises:
        ValueError: it is no number from 0.02 to 16.
    """
    if um_per_px is not None and not is_scale(um_per_px):
        raise ValueError(
            f"um_per_px must be a number of micrometres per pixel, from {LEAST:g} to {MOST:g}, "
            f"got {um_per_px!r}: {scale_remedy(str(um_per_px))}"
        )


def scale_remedy(text: str) -> str:
    """What to write in place of a text that is no scale."""
    if re.fullmatch(r"\d+,\d+", text):
        return f"write it with a decimal point, {text.replace(',', '.')}"
    if (found := re.fullmatch(r"(\d+(?:\.\d+)?) ?[xX]", text)) and float(found[1]):
        return _of_magnification(float(found[1]))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if MOST < value <= 100:
        return f"if that is a magnification, {_of_magnification(value)}"
    for factor, unit in ((1e-3, "nanometres"), (1e3, "millimetres")):
        if 0.1 <= value * factor <= MOST:
            return f"if that is in {unit}, write {value * factor:g}"
    return "correct it, or leave it out"


def _of_magnification(value: float) -> str:
    return f"write micrometres per pixel, about {TENFOLD / value:.2g} at {value:g}x"


def fill_scale(
    records: Sequence[PatchRecord], um_per_px: float
) -> tuple[list[PatchRecord], list[str]]:
    """The records, with a magnification where none is recorded; and a plain sentence where what
    is recorded stays, though it differs.
    """
    check_scale(um_per_px)
    said = {SCALE: repr(float(um_per_px))}
    other = {f"{r.um_per_px:g}" for r in records if r.um_per_px not in (None, um_per_px)}
    notes = [
        f"{SCALE} {um_per_px:g} is for patches that record none: {', '.join(sorted(other)[:3])}, "
        "as others record it, stays."
    ] * bool(other)
    return [r if r.um_per_px else replace(r, extra={**r.extra, **said}) for r in records], notes


def scale_notes(
    records: Sequence[PatchRecord], um_per_px: float, own: float | None = None
) -> list[str]:
    """Plain sentences on what is assumed, or lacking, at a magnification; ``own`` is what the
    file of the first patch without one tells, which is not used.
    """
    check_scale(um_per_px)
    scales, notes = [r.um_per_px for r in records], []
    if unknown := sum(s is None for s in scales):
        notes.append(
            f"{unknown} of {len(records)} patches record no {SCALE}: taken to be at {um_per_px:g}"
            " um per pixel, as the model is."
        )
        first = records[scales.index(None)]
        if own is not None and not _one(own, um_per_px):
            notes.append(
                f"'{first.path}' tells {own:.3g} um per pixel in its own header, which is not "
                f"read: if it is right, record it, or give it as {SCALE}."
            )
    if coarse := sum(s is not None and s > ENLARGED * um_per_px for s in scales):
        notes.append(
            f"{coarse} of {len(records)} patches are coarser than {um_per_px:g} um per pixel:"
            " enlarged, without the detail that the model knows."
        )
    return notes


def image_scale(record: PatchRecord, um_per_px: float | None) -> float | None:
    """Micrometres per pixel of an image that is read at ``um_per_px``; ``None`` where the record
    says none. Scales that differ by 5 % or less count as one: the image is as its file is.
    """
    own = record.um_per_px
    return own if own is None or um_per_px is None or _one(own, um_per_px) else um_per_px


def _one(own: float, other: float) -> bool:
    return abs(own / other - 1) < ALIKE + 1e-9


def scale_in_header(info: Mapping[Any, Any], description: str) -> float | None:
    """Micrometres per pixel that a picture's own header tells; ``None`` where it tells none, or
    the resolution of a screen or printer.

    Args:
        info: of the picture as Pillow opens it, with ``dpi`` or ``resolution`` where the header
            has one.
        description: of a TIFF file: OME-XML, or what ImageJ writes.
    """
    value = math.nan
    if found := OME.search(description):
        unit = UNIT.search(description)
        value = float(found[1]) * UNITS.get(unit[1] if unit else "", 1.0)
    elif IMAGEJ.search(description) and "resolution" in info:  # pixels per um
        value = 1 / max(float(info["resolution"][0]), 1e-9)
    elif "dpi" in info:
        value = INCH / max(float(info["dpi"][0]), 1e-9)
    return value if is_scale(value) and value <= SCANNED else None
