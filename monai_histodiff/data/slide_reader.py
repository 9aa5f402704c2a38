"""Whole slides, whoever reads them: OpenSlide, or tiffslide where OpenSlide is missing or cannot.

:func:`open_slide` gives a :class:`Slide`, the few things that the rest of the package asks of one.
A reader of your own (cuCIM, fastslide) needs no more than these.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_histodiff.data.slide_files import OME

__all__ = ["Slide", "open_slide"]

READERS = ("openslide", "tiffslide")
SPACINGS = (0.05, 20.0)  # micrometres per pixel that a microscope's scan can have
COLOURS = (1, 2, 6)  # photometric interpretation of a TIFF: grey whose 0 is black, RGB, YCbCr
MICROMETRES = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class Slide(Protocol):
    """One whole slide: a pyramid of levels, finest first."""

    path: Path
    levels: tuple[tuple[int, int], ...]  # width and height of each
    um_per_px: tuple[float, float]  # of the finest level, along x and y

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region within a level, in that level's pixels: uint8 RGB ``height x width x 3``."""

    def close(self) -> None:
        """Let go of the file."""


class _Read:
    """A slide by OpenSlide or by tiffslide, whose calls are the same."""

    def __init__(self, path: Path, reader: str, um_per_px: float | None) -> None:
        module = importlib.import_module(reader)
        self._slide: Any = getattr(module, "OpenSlide" if reader == "openslide" else "TiffSlide")(
            path
        )
        self._up = reader == "tiffslide"  # rounds the position down, OpenSlide does not round it
        self.path, self.reader = path, reader
        self.levels = tuple((int(w), int(h)) for w, h in self._slide.level_dimensions)
        stated = tuple(self._stated(f"{reader}.mpp-{axis}", i) for i, axis in enumerate("xy"))
        known = tuple(value for value in stated if value) or ((um_per_px,) if um_per_px else ())
        self.um_per_px = (known[0], known[-1]) if known else (0.0, 0.0)

    def _stated(self, name: str, axis: int) -> float:
        """The spacing that the file states, or 0 where it states none that a scan can have."""
        value = self._slide.properties.get(name) or (
            _ome_spacing(self._slide)[axis] if self._up else 0
        )
        try:
            found = float(value)
        except ValueError:
            return 0.0
        return found if SPACINGS[0] <= found <= SPACINGS[1] else 0.0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        factor = self._slide.level_downsamples[level]
        corner = [math.ceil(v * factor - 1e-6) if self._up else round(v * factor) for v in (x, y)]
        region = self._slide.read_region(corner, level, (width, height))
        picture = Image.new(
            "RGB", region.size, "white"
        )  # what OpenSlide has no data for is transparent
        picture.paste(region, mask=region.getchannel("A") if "A" in region.getbands() else None)
        return np.asarray(picture)

    def close(self) -> None:
        self._slide.close()


def _ome_spacing(slide: Any) -> tuple[float, float]:
    """Spacing along x and y in the metadata of an OME-TIFF, which tiffslide does not read; 0 where
    there is none.
    """
    text = slide.ts_tifffile.ome_metadata
    if not text:
        return 0.0, 0.0
    pixels = next(
        (node for node in ElementTree.fromstring(text).iter() if node.tag.endswith("}Pixels")),
        None,
    )
    sizes = {} if pixels is None else pixels.attrib
    x, y = (
        float(sizes.get(f"PhysicalSize{a}", 0))
        * MICROMETRES.get(sizes.get(f"PhysicalSize{a}Unit", "µm"), 0.0)
        for a in "XY"
    )
    return x, y


def _tried(path: Path, reader: str, um_per_px: float | None) -> _Read:
    """A slide of which one pixel could be read; otherwise the file is let go of."""
    slide = _Read(path, reader, um_per_px)
    try:
        slide.read(len(slide.levels) - 1, 0, 0, 1, 1)
    except BaseException:
        slide.close()
        raise
    return slide


def open_slide(
    path: str | os.PathLike[str], um_per_px: float | None = None, readers: Sequence[str] = READERS
) -> Slide:
    """Open a slide with the first reader that can, and that finds its spacing.

    An OME-TIFF is tried with tiffslide first, since OpenSlide sees one level only. A TIFF with an
    Orientation tag is left to tiffslide, since OpenSlide mirrors each of its blocks; the tag is
    not applied.

    Args:
        path: the file.
        um_per_px: spacing of the finest level, for a slide that states none; one that does keeps
            its own.
        readers: ``"openslide"``, ``"tiffslide"``, or both, in order.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: no reader is installed.
        ValueError: no reader can read it, it has no spacing, or is a TIFF whose pixels are not
            8-bit RGB, RGBA or grey.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"a slide must exist, got '{path}'")
    if _turned(file):
        readers = ["tiffslide"]
    missing, failed, blind = [], [], False
    ome = file.name.lower().endswith(OME)
    for reader in sorted(readers, key=lambda r: r != "tiffslide") if ome else readers:
        try:
            slide = _tried(file, reader, um_per_px)
        except ModuleNotFoundError as error:
            if error.name not in (
                reader,
                None,
            ):  # None: OpenSlide's own library is what is missing
                raise
            missing.append(f"{reader} ({error})")
            continue
        except Exception as error:  # a damaged file raises nearly anything
            failed.append(f"{reader}: {type(error).__name__}: {error}")
            continue
        if slide.um_per_px[0]:
            return slide
        blind = True
        slide.close()
    if blind:
        why = f" ({'; '.join(failed)})" if failed and ome else ""
        raise ValueError(
            f"a slide must state its micrometres per pixel, {SPACINGS[0]} to {SPACINGS[1]:g}, "
            f"got none in '{path}'{why}: "
            "give --slide_um_per_px (about 0.25 for a scan at 40x, 0.5 at 20x)"
        )
    if failed:
        raise ValueError(
            f"a slide must be a file that a reader knows, got '{path}' ({'; '.join(failed)})"
        )
    raise ImportError(
        f"slides need a reader, got none of {missing}: pip install 'monai-histodiff[slides]'"
    )


def _turned(file: Path) -> bool:
    """Whether a TIFF is to be shown turned or mirrored.

    Raises:
        ValueError: readers would cut its bits, take one channel for the picture, or mistake its
            colours.
    """
    try:
        with importlib.import_module("tifffile").TiffFile(file) as tiff:
            page, channels = tiff.pages[0], int(tiff.pages[0].samplesperpixel)
            bits, planar = int(page.bitspersample), channels > 1 and page.planarconfig == 2
            colours, turn = int(page.photometric), page.tags.get("Orientation")
            if tiff.is_ome:
                first = tiff.series[0]
                sizes = zip(first.axes, first.shape, strict=True)
                channels = math.prod(size for axis, size in sizes if axis not in "YX")
                planar = planar or channels > page.samplesperpixel
    except Exception:  # no TIFF, a damaged one, or nobody to look: for the readers to tell
        return False
    if colours not in COLOURS:
        raise ValueError(
            "a slide must have RGB, YCbCr or grey pixels (0 is black), got "
            f"{getattr(page.photometric, 'name', colours)} in '{file}': convert it to 8-bit RGB"
        )
    if bits != 8 or channels not in (1, 3, 4) or (planar and tiff.is_ome):
        raise ValueError(
            "a slide must have 8-bit RGB, RGBA or grey pixels, which lie together, got"
            f" {channels} channels of {bits} bits{', one after another,' if planar else ''} in"
            f" '{file}': convert it to 8-bit RGB"
        )
    return turn is not None and turn.value != 1
