"""Bytes, unit range, crops and thumbnails: each is written once, and means the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import (
    Affine,
    CenterSpatialCrop,
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandScaleIntensity,
    RandShiftIntensity,
    Rotate,
    Zoom,
)
from torch import Tensor

import monai_histodiff
from monai_histodiff.data.pixels import (
    appearance,
    centre_crop,
    check_range,
    five_crops,
    patch_grid,
    sharpness,
    thumbnails,
    to_bytes,
    to_unit,
)
from monai_histodiff.data.stain import STAINS

LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def test_every_level_survives_the_way_there_and_back() -> None:
    assert torch.equal(to_bytes(to_unit(LEVELS)), LEVELS)
    assert to_bytes(LEVELS) is LEVELS and to_unit(LEVELS).dtype == torch.float32


def test_values_are_rounded_to_the_nearest_level_and_cut_off_beyond() -> None:
    values = torch.tensor([-0.5, 0.0019, 0.002, 0.5, 0.9981, 1.0, 1.5])
    assert to_bytes(values).tolist() == [0, 0, 1, 128, 255, 255, 255]


@pytest.mark.parametrize("side", [(33, 40), (128, 128), (131, 224)])
@pytest.mark.parametrize("size", [32, 24])
def test_the_centre_is_monai_s(side: tuple[int, int], size: int) -> None:
    image = torch.rand(3, *side)
    found = centre_crop(image, size)
    assert torch.equal(found, torch.as_tensor(CenterSpatialCrop(size)(image)))
    assert torch.equal(five_crops(image[None], size)[0, 0], found)
    assert torch.equal(centre_crop(image[None], size)[0], found), "any leading dimensions"
    assert torch.equal(centre_crop(image, np.int64(size)), found)


def test_an_odd_crop_is_as_near_to_the_middle_as_can_be() -> None:
    assert centre_crop(torch.arange(4).expand(4, 4), 3)[0].tolist() == [0, 1, 2]
    assert centre_crop(torch.arange(5).expand(5, 5), 3)[0].tolist() == [1, 2, 3]


def test_a_crop_larger_than_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="a crop of 9 x 9 needs patches of that size, got 8 x 12"):
        centre_crop(torch.zeros(3, 8, 12), 9)


def test_thumbnails_are_means_and_their_own_thumbnails() -> None:
    patches = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    small = thumbnails(patches, 8)
    assert torch.allclose(small[1, 2, 3, 4], patches[1, 2, 12:16, 24:30].float().mean() / 255)
    assert torch.equal(thumbnails(small, 8), small)


def test_a_grid_holds_the_patches_byte_for_byte() -> None:
    patches = torch.rand(3, 3, 8, 8)
    grid = patch_grid(patches, columns=2)
    assert grid.shape == (22, 22, 3)
    assert (grid[2:10, 12:20] == to_bytes(patches)[1].permute(1, 2, 0).numpy()).all()
    assert (grid[12:20, 12:20] == 255).all(), "an empty place is white"


def test_a_ramp_has_half_the_sharpness_and_blurring_takes_some_off() -> None:
    ramp = torch.arange(32).float().view(1, 1, 1, 32).expand(1, 3, 32, 32) / 32
    assert sharpness(ramp).tolist() == pytest.approx([0.5])
    noise = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    assert sharpness(noise).shape == (4,) and bool((sharpness(blurred) < sharpness(noise)).all())
    assert torch.equal(sharpness(noise[1:2]), sharpness(noise)[1:2]), "each by itself"
    assert sharpness(to_bytes(noise)).tolist() == pytest.approx(
        sharpness(noise).tolist(), rel=0.01
    )
    assert sharpness(noise[..., :3, :]).tolist() == [1.0] * 4
    assert sharpness(torch.zeros(1, 3, 8, 8)).tolist() == [0.0]


def test_nobody_writes_bytes_or_centre_crops_by_hand() -> None:
    own = re.compile(r"\* ?255\)?\.round\(\)|CenterSpatialCrop\b|\.float\(\) / 255")
    package = Path(monai_histodiff.__file__).parent
    found = [
        path.name
        for path in sorted(package.rglob("*.py"))
        if own.search(path.read_text(encoding="utf-8")) and path.name != "pixels.py"
    ]
    assert not found, f"call data/pixels.py in {found}"


# -------------------------------------------------------------------------------------------------
# -------------------- range


def tissue(white: float, strength: float = 1.0, side: int = 96) -> Tensor:
    """A patch in [0, 1] of nuclei in stroma, by Beer and Lambert's law, beside white."""
    generator = torch.Generator().manual_seed(0)

    def places(cells: int, share: float) -> Tensor:
        field = torch.randn(1, 1, cells, cells, generator=generator)
        field = F.interpolate(field, (side, side), mode="bicubic")[0, 0]
        return (field >= field.quantile(1 - share)).float()

    nuclei, there = places(24, 0.15), strength * places(4, 1 - white)
    stains = torch.stack([(nuclei + 0.12) * there, 0.35 * there, torch.zeros_like(there)])
    clean = torch.exp(-torch.einsum("shw,sc->chw", stains, 1.2 * STAINS))
    return (clean + 0.01 * torch.randn(3, side, side, generator=generator)).clamp(0, 1)


NOISE = RandGaussianNoise(prob=1.0, std=0.1, sample_std=False)
BRIGHTER = RandScaleIntensity(factors=(0.2, 0.2), prob=1.0)
AUGMENTED: dict[str, Any] = {
    "nothing": lambda x: x,
    "noise": NOISE,
    "brighter": RandScaleIntensity(factors=(0.3, 0.3), prob=1.0),
    "darker": RandShiftIntensity(offsets=(-0.1, -0.1), prob=1.0),
    "contrast": RandAdjustContrast(prob=1.0, gamma=(4.0, 4.01)),
    "bicubic": Affine(rotate_params=0.5, mode="bicubic", image_only=True),
    "spline": Affine(rotate_params=0.5, mode=3, padding_mode="reflect", image_only=True),
    "black borders": Compose([Rotate(np.pi / 4, padding_mode="zeros"), NOISE]),
    "black frame": Compose([Zoom(0.7, padding_mode="constant"), NOISE]),
    "bright noise": Compose([BRIGHTER, RandAdjustContrast(prob=1.0, gamma=(0.7, 0.71)), NOISE]),
}


@pytest.mark.parametrize("white", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", AUGMENTED)
def test_what_augmentation_does_to_a_patch_passes(name: str, white: float) -> None:
    for strength in (0.6, 1.0):
        check_range(AUGMENTED[name](tissue(white, strength)))
        check_range(np.asarray(AUGMENTED[name](tissue(white, strength))))


def test_the_tails_of_noise_pass_and_a_patch_of_them_does_not() -> None:
    image = torch.zeros(3, 128, 128, dtype=torch.float32)
    image.flatten()[:4] = torch.tensor([-0.54, 2.1, -0.9, 1.0])
    check_range(image)
    for value, count in ((-0.54, 8), (-1.1, 1), (3.5, 1)):
        bad = image.clone()
        bad.flatten()[10 : 10 + count] = value
        with pytest.raises(ValueError, match="patch must lie in"):
            check_range(bad)


SCALED: dict[str, tuple[float, float, str]] = {
    "0 to 255": (255, 0, r"got [\d.]+ to 2\d\d.* here: load"),
    "twice": (1 / 255, 0, r"got 0.00\d+ to 0.00[\d]+ here, as if it was scaled twice: load"),
    "around 0 by 1": (2, -1, r"got -0.\d+ to [01].* here.*: load"),
    "around 0 by a half": (1, -0.5, r"got -0.\d+ to 0.\d+ here, and [\d.]+% below -0.0\d+: load"),
    "normalised": (1 / 0.225, -0.45 / 0.225, r"got -[\d.]+ to [\d.]+ here: load"),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("white", [0.0, 0.5])
def test_another_range_is_told(name: str, white: float) -> None:
    factor, offset, got = SCALED[name]
    image = tissue(white) * factor + offset
    for patch in (image, image.half(), image.double().numpy()):
        with pytest.raises(
            ValueError, match=rf"patch must lie in \[0, 1\], {got} it as uint8 .* once"
        ):
            check_range(patch, " here")


def test_black_with_the_noise_of_a_scanner_lies_in_the_range() -> None:
    levels = torch.randint(0, 2, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    for patch in (levels.float() / 255, levels.half() / 255, levels.numpy() / 255):
        check_range(patch)


def test_black_and_white_lie_in_the_range() -> None:
    for value in (0.0, 1.0):
        check_range(torch.full((3, 4, 4), value))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool])
def test_patches_of_other_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"must be uint8, or floating point in \[0, 1\], got"):
        to_unit(torch.ones(1, 3, 4, 4).to(dtype))


def test_patches_that_are_not_scaled_are_refused_wherever_they_enter() -> None:
    """By `to_unit`, through which all comparisons, features and judgements take them."""
    patches = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for other in (patches * 255, patches * 2 - 1, patches / 255):
        for take in (to_unit, thumbnails, appearance, sharpness):
            with pytest.raises(
                ValueError, match=r"must lie in \[0, 1\], got .*: load it as uint8"
            ):
                take(other)
    broken = patches.clone()
    broken[0, 0, 0, 0], broken[1, 0, 0, 0] = float("nan"), float("inf")
    assert torch.equal(to_unit(broken).isfinite(), broken.isfinite()), "for the caller to tell"
    assert to_unit(patches[:0]).shape == (0, 3, 32, 32)
