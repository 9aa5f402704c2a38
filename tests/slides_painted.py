"""Slides that tests write: pyramids as scanners store them, of pictures whose every pixel is
known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

APERIO = "Aperio Image Library v12.0.5\r\n{w}x{h} [0,0 {w}x{h}] (256x256)|AppMag = 20|MPP = {um}"
Picture = NDArray[np.uint8]


def shrunk(picture: Picture, factor: int) -> Picture:
    """Means of squares of ``factor`` pixels; what is left over at the right and the bottom is
    dropped.
    """
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    squares = picture[: height * factor, : width * factor].reshape(
        height, factor, width, factor, 3
    )
    return squares.mean((1, 3)).round().astype(np.uint8)


def write_slide(
    path: Path,
    picture: Picture,
    um: float | None = 0.5,
    factors: tuple[int, ...] = (1, 4, 16),
    compression: str | None = "deflate",
) -> Path:
    """A tiled pyramid: an Aperio file for ``.svs``, an OME-TIFF for ``.ome.tif``, or else a plain
    TIFF with its resolution.
    """
    ome, aperio = path.name.endswith(".ome.tif"), path.suffix == ".svs"
    with tifffile.TiffWriter(path, ome=ome) as stream:
        for i, factor in enumerate(factors):
            options: dict[str, Any] = {
                "tile": (256, 256),
                "photometric": "rgb",
                "compression": compression,
                "metadata": None,
            }
            if i:
                options["subfiletype"] = 1
            if ome and i == 0:
                size = (
                    {}
                    if um is None
                    else {"PhysicalSizeX": um, "PhysicalSizeY": um, "PhysicalSizeXUnit": "µm"}
                )
                options |= {"subifds": len(factors) - 1, "metadata": {"axes": "YXS", **size}}
            elif aperio and um:
                options["description"] = APERIO.format(
                    w=picture.shape[1], h=picture.shape[0], um=um
                )
            elif um and not ome:
                options |= {"resolution": (1e4 / um / factor,) * 2, "resolutionunit": "CENTIMETER"}
            stream.write(shrunk(picture, factor), **options)
    return path


def ramp(width: int, height: int) -> Picture:
    """Red tells x, green tells y: from 0 at the left and top edge to 255 at the right and bottom
    edge.
    """
    y, x = np.mgrid[:height, :width]
    return (
        np.stack([255 * (x + 0.5) / width, 255 * (y + 0.5) / height, np.full(x.shape, 128)], 2)
        .round()
        .astype(np.uint8)
    )


def disc(width: int, height: int, radius: float) -> tuple[Picture, NDArray[np.bool_]]:
    """Pink tissue with violet dots in a disc on glass with a grey gradient, and where the tissue
    is.
    """
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    glass = 228 + 15 * x / width
    picture = np.where(inside[..., None], (225, 150, 190), glass[..., None].repeat(3, 2))
    picture[inside & ((x // 8 + y // 8) % 3 == 0)] = (110, 60, 140)
    return picture.round().astype(np.uint8), inside


def tissue(count: int, side: int = 64, seed: int = 0) -> Tensor:
    """Patches with detail at every scale, as tissue has: uint8 ``count x 3 x side x side``."""
    rng = torch.Generator().manual_seed(seed)
    picture = torch.zeros(count, 3, side, side)
    for octave in range(1, 6):
        noise = torch.randn(count, 3, side // 2**octave + 2, side // 2**octave + 2, generator=rng)
        picture += interpolate(noise, side, mode="bilinear") * 12
    return (picture + torch.tensor([200.0, 150, 190]).view(3, 1, 1)).clamp(0, 255).to(torch.uint8)
