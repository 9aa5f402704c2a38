"""Pixels of patches: ranges, crops, thumbnails, colour and contrast, JPEG, grids. Tensors are
``N x 3 x H x W``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

__all__ = [
    "appearance",
    "centre_crop",
    "check_batch",
    "check_range",
    "five_crops",
    "in_parts",
    "octaves",
    "patch_grid",
    "recompressed",
    "reflected",
    "resampled",
    "sharpness",
    "thumbnails",
    "to_bytes",
    "to_unit",
    "turns",
]

BEYOND = (-0.5, 2.0)  # what augmented patches, brighter and with noise, may reach
NEGATIVE = 0.005  # share of the values, above which no interpolation nor noise makes them so low
RARE = 1e-4  # share of values that may lie farther off, up to twice
THUMBNAIL = 16
BATCH = 256  # patches at once
OCTAVES = 5


def to_unit(patches: Tensor) -> Tensor:
    """uint8 patches to float32 in [0, 1]; floating-point patches must be in [0, 1] already. Values
    that are not finite stay.

    Raises:
        ValueError: they are of another integer type, whose range nothing tells, or floating point
            and not scaled to [0, 1], see :func:`check_range`.
    """
    if patches.dtype == torch.uint8:
        return patches.float() / 255
    if not patches.is_floating_point():
        raise ValueError(
            f"patches must be uint8, or floating point in [0, 1], got {patches.dtype}: convert "
            "those of 0 to 255 by .to(torch.uint8)"
        )
    if patches.numel():
        check_range(patches.detach().nan_to_num(0.5, 0.5, 0.5))
    return patches.float()


def check_batch(patches: Any, finite: bool = True) -> None:
    """Refuse what is no batch of patches to be looked at.

    Raises:
        ValueError: it is no tensor ``N x 3 x H x W`` with N at least 1, or, where values must be
            ``finite``, holds NaN or infinity.
    """
    if not isinstance(patches, Tensor) or patches.ndim != 4 or patches.shape[1] != 3:
        shape = tuple(getattr(patches, "shape", ()))
        raise ValueError(
            "patches must be a tensor N x 3 x H x W, uint8 or in [0, 1], got "
            f"{type(patches).__name__} {shape or ''}: PatchSet.images() gives one; of one patch "
            "take patch[None], of N x H x W x 3 .permute(0, 3, 1, 2), of an array torch.as_tensor"
        )
    if not len(patches):
        raise ValueError("patches must be at least one, got none")
    if finite and patches.is_floating_point():
        known = patches.isfinite().flatten(1).all(1)
        if not bool(known.all()):
            raise ValueError(
                f"patches must hold finite values, got {int((~known).sum())} of {len(known)} "
                f"that do not, such as number {int((~known).nonzero()[0])}: leave them out"
            )


def to_bytes(patches: Tensor) -> Tensor:
    """Patches in [0, 1] to uint8, rounded to the nearest of 256 levels and cut off beyond; uint8
    patches stay as they are.
    """
    if patches.dtype == torch.uint8:
        return patches
    return (patches.clamp(0, 1) * 255).round().to(torch.uint8)


def check_range(patch: Any, where: str = "") -> None:
    """Refuse a patch in floating point that is not scaled to [0, 1]: one of 0 to 255, one scaled
    twice, or one around 0, such as [-1, 1] or [-0.5, 0.5].

    What augmentation does to a patch in [0, 1] passes: overshoot of interpolation, noise of a
    standard deviation of 0.1, also on black borders, and brightness. Of a patch around 0 those
    pass that show almost nothing dark: their range could be [0, 1].

    Args:
        patch: floating-point tensor or array with values.
        where: for the message, after the range that was found.

    Raises:
        ValueError: a value is not finite; of 10,000, more than one is far from [0, 1], or one
            very far; more than 0.5 % are negative by more than a quarter of the
            highest (an eighth where that is below 0.55); or none is above 1/255, but for a patch
            that is black, of 0 and 1 of 255 levels.
    """
    low, high = float(patch.min()), float(patch.max())
    why, inside = "", low >= BEYOND[0] and high <= BEYOND[1]
    if not inside and low >= 2 * BEYOND[0] and high <= 2 * BEYOND[1] - 1:  # the tails of noise
        few = int(((patch < BEYOND[0]) | (patch > BEYOND[1])).sum())
        inside = few <= RARE * math.prod(patch.shape)
    if 0 < high < 1.01 / 255 and not _of_levels(patch * 255):
        why = ", as if it was scaled twice"
    elif inside and low < 0:
        deep = high / (4 if high > 0.55 else 8)
        share = int((patch < -deep).sum()) / math.prod(patch.shape)
        if share > NEGATIVE:
            why = f", and {share:.1%} below {-deep:.2g}"
    if why or not inside:
        raise ValueError(
            f"a floating-point patch must lie in [0, 1], got {low:g} to {high:g}{where}{why}: "
            "load it as uint8 (LoadImaged(..., dtype=np.uint8)), cast it back to uint8 where "
            "resampling came before (lazily, too), or scale it before, once"
        )


def _of_levels(values: Any) -> bool:
    """Whether all are whole numbers, but for rounding."""
    return bool((abs(values - values.round()) <= 0.01).all())


def in_parts(measure: Callable[[Tensor], Tensor], patches: Tensor) -> Tensor:
    """What ``measure`` tells of each of many patches, by parts: floating-point ones take four
    times the bytes of uint8, and more while they are measured.
    """
    return torch.cat([measure(part) for part in patches.split(BATCH)])


def thumbnails(patches: Tensor, side: int = THUMBNAIL) -> Tensor:
    """Thumbnails of patches, uint8 or in [0, 1]: float32 ``N x 3 x side x side``. Those of
    thumbnails are the thumbnails.
    """
    return in_parts(lambda part: F.adaptive_avg_pool2d(to_unit(part), side), patches)


def sharpness(patches: Tensor) -> Tensor:
    """Detail of 1 pixel over detail of 2 pixels of patches, uint8 or in [0, 1]: float32, shape
    ``N``. A ramp has 0.5, sharp tissue 0.6 to 1.2; what is smaller than 4 pixels has 1.

    Detail is the root mean square of what the mean of 2 x 2 pixels takes off the brightness.
    """
    return in_parts(_sharpness, patches)


def _sharpness(patches: Tensor) -> Tensor:
    height, width = (side // 4 * 4 for side in patches.shape[2:])
    if not height or not width:
        return torch.ones(len(patches), dtype=torch.float32, device=patches.device)
    bands = octaves(to_unit(patches).mean(1, keepdim=True)[..., :height, :width], 2)[:, :, 0]
    return bands[:, 0] / bands[:, 1].clamp(min=1e-4)


def octaves(level: Tensor, most: int) -> Tensor:
    """Root-mean-square energy of the octaves of detail in each channel, finest first.

    Args:
        level: ``N x C x H x W``.
        most: octaves; fewer, where height or width cannot be halved so often.

    Returns:
        ``N x octaves x C``.
    """
    bands: list[Tensor] = []
    while len(bands) < most and not any(side % 2 for side in level.shape[2:]):
        coarse = F.avg_pool2d(level, 2)
        detail = level - F.interpolate(coarse, scale_factor=2)
        bands.append(detail.square().mean((2, 3)).sqrt())
        level = coarse
    return torch.stack(bands, 1) if bands else level.new_zeros(len(level), 0, level.shape[1])


def centre_crop(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The middle of images ``... x H x W``, as a view; where it cannot lie exactly in the middle,
    it lies nearer to the top left.

    Args:
        images: of any number of leading dimensions.
        size: height and width of the crop, one number for both or each its own.

    Raises:
        ValueError: height or width is below that of the crop.
    """
    high, wide = size if isinstance(size, (tuple, list)) else (size, size)
    h, w = images.shape[-2:]
    if h < high or w < wide:
        raise ValueError(f"a crop of {high} x {wide} needs patches of that size, got {h} x {w}")
    top, left = (h - high) // 2, (w - wide) // 2
    return images[..., top : top + high, left : left + wide]


def reflected(x: Tensor, step: int) -> Tensor:
    """Patches ``N x C x H x W``, reflected at their borders to multiples of ``step``, the patch in
    the middle.

    Raises:
        ValueError: a patch is too small to be reflected so far.
    """
    sides = x.shape[2:]
    below, right = extra = [-side % step for side in sides]
    if any(missing >= 2 * side for missing, side in zip(extra, sides, strict=True)):
        raise ValueError(f"patches must be larger than {step // 3} pixels, got {tuple(sides)}")
    border = (right // 2, right - right // 2, below // 2, below - below // 2)
    return F.pad(x, border, mode="reflect") if any(extra) else x


def appearance(patches: Tensor) -> Tensor:
    """Colour and contrast of patches, which features that were trained on jittered stains leave
    out.

    Args:
        patches: ``N x 3 x H x W``, uint8 or in [0, 1].

    Returns:
        ``N x 11``: mean and standard deviation of each colour, and the standard deviation of the
        brightness in each of five octaves of spatial frequency, from the finest (details of 1
        pixel, absent at 2) to the coarsest (16, absent at 32); fewer octaves, where height or
        width cannot be halved so often.
    """
    x = to_unit(patches)
    bands = octaves(x.mean(1, keepdim=True), OCTAVES)[:, :, 0]
    return torch.cat([x.mean((2, 3)), x.std((2, 3)), bands], 1)


def recompressed(images: Tensor, quality: int = 90) -> Tensor:
    """Patches through JPEG, ``N x 3 x H x W`` uint8: real and synthetic ones then carry the same
    traces of compression.
    """

    def once(image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0)
        return np.array(Image.open(stream))

    pictures = [torch.from_numpy(once(v.permute(1, 2, 0).numpy())) for v in images]
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous() if pictures else images


def turns(images: Tensor) -> list[Tensor]:
    """The eight flips and right-angle turns of ``N x C x H x W``."""
    return [v.rot90(k, (2, 3)) for v in (images, images.flip(3)) for k in range(4)]


def resampled(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Patches ``... x 3 x H x W`` to another height and width: bicubic, with what the new grid
    cannot hold filtered out before. uint8 stays uint8; patches of that size stay as they are.
    """
    if tuple(patches.shape[-2:]) == tuple(size):
        return patches
    x = to_unit(patches.reshape(-1, *patches.shape[-3:]))
    x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    x = x.reshape(*patches.shape[:-2], *size)
    return to_bytes(x) if patches.dtype == torch.uint8 else x


def five_crops(images: Tensor, size: int) -> Tensor:
    """Centre and corner crops ``5 x N x 3 x size x size``; the images themselves, ``1 x N x ...``,
    if they have that size.
    """
    h, w = images.shape[2:]
    if (h, w) == (size, size):
        return images[None]
    corners = [
        images[..., i : i + size, j : j + size] for i in (0, h - size) for j in (0, w - size)
    ]
    return torch.stack([centre_crop(images, size), *corners])


def patch_grid(patches: Tensor, columns: int = 8) -> np.ndarray:
    """Patches ``N x 3 x H x W`` in [0, 1] as one uint8 picture ``H' x W' x 3`` on white."""
    gap, (n, _, h, w) = 2, patches.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), 255, dtype=np.uint8)
    for i, patch in enumerate(to_bytes(patches).permute(0, 2, 3, 1).cpu().numpy()):
        y, x = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        canvas[y : y + h, x : x + w] = patch
    return canvas
