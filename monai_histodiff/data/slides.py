"""Tiles of a whole slide: at any spacing, where there is tissue, at places that can be told.

Everything is asked in micrometres. A :class:`View` is the slide resampled to one spacing, whatever
levels the file holds; tiles and the picture that tissue is looked for in are two views of it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from monai_histodiff.data.slide_reader import Slide

__all__ = ["SlideTile", "TilePlan", "View", "cut", "overview", "plan_tiles", "tissue_mask"]

MASK_UM = 8.0  # spacing of the picture in which tissue is looked for
LARGEST = 1.05  # how far a level may be enlarged: scanners differ by as much at one magnification
LANCZOS = 3  # pixels that the filter reaches, at the coarser of the two spacings
BLOCK = 2048  # pixels of a level read at once, for the sake of memory
COLOURED = (
    10,
    30,
)  # of 255: a pixel counts as stained from a difference of channels in this range
DARK = 40  # of 255: the brightest channel of ink, shadow and black borders
OUTLINE = (0, 140, 90)


@dataclass(frozen=True)
class View:
    """A slide at one spacing, anti-aliased, read from the coarsest level that is fine enough.

    Resampled by Lanczos's kernel, widened to the output's pixels: what is too fine for them
    becomes its mean instead of moire. Regions that meet, meet without a seam.

    Args:
        slide: an open slide.
        um_per_px: wanted micrometres per pixel.

    Raises:
        ValueError: that is finer than the slide by more than 5 %.
    """

    slide: Slide
    um_per_px: float
    level: int = field(init=False)
    scale: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        scales = [self._scale(level) for level in range(len(self.slide.levels))]
        if min(scales[0]) < 1 / LARGEST:
            finest = max(self.slide.um_per_px)
            raise ValueError(
                f"um_per_px must be at least the slide's own, {finest:.4g}, got "
                f"{self.um_per_px:g} for '{self.slide.path}': detail that was not scanned cannot "
                "be had"
            )
        fine = [level for level, scale in enumerate(scales) if min(scale) >= 0.995] or [0]
        object.__setattr__(self, "level", fine[-1])
        object.__setattr__(self, "scale", scales[fine[-1]])

    def _scale(self, level: int) -> tuple[float, float]:
        """Pixels of a level for one of the view, along x and y."""
        x, y = (
            self.um_per_px / (um * _factor(whole, part))
            for um, whole, part in zip(
                self.slide.um_per_px, self.slide.levels[0], self.slide.levels[level], strict=True
            )
        )
        return x, y

    @property
    def size(self) -> tuple[int, int]:
        """Width and height: the pixels that lie within the slide whole."""
        width, height = (
            int(n / s + 1e-6)
            for n, s in zip(self.slide.levels[self.level], self.scale, strict=True)
        )
        return width, height

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """A region in the view's pixels, within :attr:`size`: uint8 RGB ``height x width x 3``."""
        near, far, box = [], [], []
        for start, length, scale, end in zip(
            (x, y), (width, height), self.scale, self.slide.levels[self.level], strict=True
        ):
            margin = math.ceil(LANCZOS * max(scale, 1)) + 1
            low = max(0, math.floor(start * scale) - margin)
            high = min(end, math.ceil((start + length) * scale) + margin)
            near.append(low)
            far.append(high)
            box.append((start * scale - low, min((start + length) * scale, high) - low))
        region = self.slide.read(self.level, near[0], near[1], far[0] - near[0], far[1] - near[1])
        corners = (box[0][0], box[1][0], box[0][1], box[1][1])
        return np.asarray(
            Image.fromarray(region).resize((width, height), Image.Resampling.LANCZOS, corners)
        )

    def corner(self, x: int, y: int) -> tuple[int, int]:
        """A pixel's corner in pixels of the slide's finest level, rounded: where OpenSlide and
        MONAI count from.
        """
        left, top = (
            round(v * self.um_per_px / um)
            for v, um in zip((x, y), self.slide.um_per_px, strict=True)
        )
        return left, top


def _factor(whole: int, part: int) -> float:
    """How much coarser a level is: the whole number that its size was rounded from, or the ratio
    where there is none.
    """
    ratio = whole / part
    return round(ratio) if abs(whole - round(ratio) * part) < round(ratio) else ratio


def overview(view: View) -> NDArray[np.uint8]:
    """All of a view as one picture ``H x W x 3``, read in blocks so that a slide without coarse
    levels fits into memory.
    """
    width, height = view.size
    if not width or not height:
        raise ValueError(
            f"a slide must span at least {view.um_per_px:g} um, got less in '{view.slide.path}'"
        )
    picture = np.empty((height, width, 3), np.uint8)
    step = max(1, int(BLOCK / max(view.scale)))
    for y in range(0, height, step):
        for x in range(0, width, step):
            w, h = min(step, width - x), min(step, height - y)
            picture[y : y + h, x : x + w] = view.read(x, y, w, h)
    return picture


def tissue_mask(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a picture of a slide shows stained tissue.

    A pixel is tissue where its channels differ by more than a threshold, Otsu's (1979) kept
    between 10 and 30 of 255, and it is not nearly black. Glass and its shadows are grey; stain is
    not, and nor is coloured ink, which is not told apart.

    Args:
        picture: uint8 RGB ``H x W x 3``, some 8 um per pixel.

    Returns:
        Boolean ``H x W``.
    """
    smooth = np.asarray(Image.fromarray(picture).filter(ImageFilter.MedianFilter(3)))
    colour = smooth.max(2) - smooth.min(2)
    return (colour > np.clip(_otsu(colour), *COLOURED)) & (smooth.max(2) > DARK)


def _otsu(values: NDArray[np.uint8]) -> int:
    """The threshold that leaves the least variance within the two sides (Otsu 1979, IEEE Trans.
    SMC 9(1), 62-66).
    """
    share = np.bincount(values.ravel(), minlength=256) / values.size
    low, mean = share.cumsum(), (share * np.arange(256)).cumsum()
    between = np.zeros(256)
    np.divide(
        (mean[-1] * low - mean) ** 2,
        low * (1 - low),
        out=between,
        where=(low > 0) & (low < 1 - 1e-12),
    )
    return int(between.argmax())


@dataclass(frozen=True)
class SlideTile:
    """One tile: its corner in pixels of the view, and in pixels of the slide's finest level."""

    x: int
    y: int
    left: int
    top: int


@dataclass(frozen=True)
class TilePlan:
    """Which tiles a slide gives, and why others were left out.

    Attributes:
        tiles: those to cut.
        found: places of the grid that lie within the slide whole.
        background: of these, those with too little tissue.
        beyond: those with tissue that were not drawn, since ``per_slide`` was reached.
        picture: the slide at about 8 um per pixel with the tiles drawn in, ``H x W x 3``.
    """

    tiles: tuple[SlideTile, ...]
    found: int
    background: int
    beyond: int
    picture: NDArray[np.uint8] = field(repr=False)


def plan_tiles(
    slide: Slide,
    um_per_px: float,
    size: int,
    tissue: float = 0.5,
    per_slide: int | None = None,
    seed: int = 0,
) -> TilePlan:
    """Lay a grid of tiles over a slide and keep those with tissue.

    Args:
        slide: an open slide.
        um_per_px: spacing of the tiles.
        size: their side, in pixels.
        tissue: least share of a tile that must be tissue (:func:`tissue_mask`).
        per_slide: at most so many, drawn at random.
        seed: of that draw, together with the slide's file name.

    Raises:
        ValueError: the spacing is finer than the slide's.
    """
    view = View(slide, um_per_px)
    small = View(slide, max(MASK_UM, um_per_px))
    picture = overview(small)
    columns, rows = (n // size for n in view.size)
    side = size * um_per_px / small.um_per_px  # of a tile, in pixels of the picture
    wanted: list[SlideTile] = []
    if columns and rows:
        mask = np.pad(tissue_mask(picture), ((0, 1), (0, 1)), "edge").astype(np.float32)
        box = (0, 0, min(columns * side, mask.shape[1]), min(rows * side, mask.shape[0]))
        share = Image.fromarray(mask).resize((columns, rows), Image.Resampling.BOX, box)
        places = np.argwhere(np.asarray(share) >= tissue - 1e-6) * size
        wanted = [SlideTile(x, y, *view.corner(x, y)) for y, x in places.tolist()]
    kept = wanted
    if per_slide is not None and len(wanted) > per_slide:
        rng = np.random.default_rng((seed, zlib.crc32(slide.path.name.encode())))
        kept = [wanted[i] for i in sorted(rng.permutation(len(wanted))[:per_slide].tolist())]
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    for tile in kept:
        x, y = (v / size * side for v in (tile.x, tile.y))
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline=OUTLINE)
    found = columns * rows
    return TilePlan(
        tuple(kept), found, found - len(wanted), len(wanted) - len(kept), np.asarray(drawn)
    )


def cut(
    slide: Slide, plan: TilePlan, um_per_px: float, size: int
) -> Iterator[tuple[SlideTile, NDArray[np.uint8]]]:
    """Read the tiles of a plan, one at a time: uint8 RGB ``size x size x 3``."""
    view = View(slide, um_per_px)
    for tile in plan.tiles:
        yield tile, view.read(tile.x, tile.y, size, size)
