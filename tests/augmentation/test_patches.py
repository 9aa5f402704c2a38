"""What is no patch is told what it is and how to mend it; and patches of another size or scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from torch import Tensor

from monai_histodiff import SyntheticAugment, SyntheticAugmentd, SyntheticBank
from monai_histodiff.augmentation.patches import Scale
from monai_histodiff.data.pixels import appearance, resampled

SIDE = 8


def bank_of(side: int = SIDE, um_per_px: float | None = None, count: int = 1) -> SyntheticBank:
    values = torch.arange(count * 3 * side * side).remainder(251).to(torch.uint8)
    return SyntheticBank({0: values.view(count, 3, side, side)}, um_per_px=um_per_px)


def zeros(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


WRONG: list[tuple[Any, str]] = [
    ("a/b.png", r"got the path 'a/b.png': load it before, by LoadImaged\(keys='image'"),
    (Path("b.png"), r"got the path 'b.png': load it before, by LoadImaged\(keys='image'"),
    (Image.new("RGB", (SIDE, SIDE)), "got a Image: load it before, by LoadImaged"),
    ([[0]], "got a list: load it before"),
    (
        zeros(SIDE, SIDE, 3),
        r"shape \(8, 8, 3\), with the channels last: .*EnsureChannelFirstd",
    ),
    (zeros(SIDE, SIDE, 4), r"got shape \(8, 8, 4\), with the channels last"),
    (zeros(SIDE, SIDE), r"got shape \(8, 8\), a grey picture: read it in colour"),
    (zeros(1, SIDE, SIDE), r"got shape \(1, 8, 8\), a grey picture"),
    (zeros(SIDE, SIDE, 1), r"got shape \(8, 8, 1\), a grey picture"),
    (zeros(4, SIDE, SIDE), r"got shape \(4, 8, 8\), a picture with alpha: .*x\[:3\]"),
    (zeros(2, 3, SIDE, SIDE), r"got shape \(2, 3, 8, 8\): apply the transform to each item"),
    (zeros(5, SIDE, SIDE), r"got shape \(5, 8, 8\): bring it to three channels"),
    (zeros(SIDE), r"got shape \(8,\): bring it to three channels"),
    (zeros(3, SIDE, SIDE, dtype=torch.int16), "or floating point, got torch.int16: cast it"),
    (np.zeros((3, SIDE, SIDE), np.int64), "or floating point, got int64: cast it"),
    (np.zeros((3, SIDE, SIDE), bool), "or floating point, got bool: cast it"),
    (zeros(3, 6, 8), "size of the bank's, 8 x 8, got 6 x 8: pass um_per_px="),
    (zeros(3, 12, 8), r"size of the bank's, 8 x 8, got 12 x 8: crop it before, .*\(8, 8\)"),
]


@pytest.mark.parametrize("prob", [0.0, 1.0])
@pytest.mark.parametrize(("img", "message"), WRONG, ids=[m for _, m in WRONG])
def test_what_is_no_patch_of_its_size_is_told_so(img: Any, message: str, prob: float) -> None:
    """At the first item, whether it is replaced or not."""
    transform = SyntheticAugmentd("image", bank_of(), prob=prob, full_prob_at=1)
    rule = "the patch under 'image' must be an RGB tensor or array 3 x H x W|a patch must have the"
    with pytest.raises((TypeError, ValueError), match=rf"({rule}).*{message}"):
        transform({"image": img, "label": 0})


def test_an_empty_bank_has_no_size_to_compare() -> None:
    empty = SyntheticBank({0: zeros(0, 3, SIDE, SIDE)})
    image = zeros(3, 5, 7)
    assert SyntheticAugment(empty, 0.0)(image, 0)[0] is image


# -------------------------------------------------------------------------------------------------
# -------------------- scale

SCALES: list[tuple[float | None, float, str]] = [
    (None, 0.5, "um_per_px is 0.5, but the bank .* with SyntheticBank.* into its bank.json"),
    (0.5, 0.0, "um_per_px must be a number of micrometres"),
    (0.5, 0.1, "must be within 4 times the bank's 0.5, got 0.1: resample your patches"),
    (0.5, 2.1, "must be within 4 times the bank's 0.5, got 2.1"),
]


@pytest.mark.parametrize(("theirs", "mine", "message"), SCALES)
def test_scale_that_cannot_be(theirs: float | None, mine: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticAugment(bank_of(um_per_px=theirs), um_per_px=mine)


@pytest.mark.parametrize(
    ("theirs", "mine", "told"), [(1.0, None, 1), (1.0, 1.0, 0), (None, None, 0)]
)
def test_a_scale_that_is_taken_for_granted_is_told(
    theirs: float | None, mine: float | None, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    SyntheticAugment(bank_of(um_per_px=theirs), um_per_px=mine)
    assert caplog.text.count("the bank shows 1 um per pixel, and patches are taken") == told


def test_patches_that_show_more_than_the_banks_are_refused() -> None:
    transform = SyntheticAugment(bank_of(8, 0.5), 0.0, um_per_px=0.25)
    transform(zeros(3, 16, 16), 0)
    with pytest.raises(
        ValueError,
        match=r"no more than the bank's, 8 x 8 at 0.5 um per pixel, got 20 x 16, which takes "
        r"10 x 8: crop it to at most 16 x 16",
    ):
        transform(zeros(3, 20, 16), 0)


def test_patches_at_the_banks_scale_are_cropped_anywhere() -> None:
    bank = bank_of(8, 0.5)
    transform = SyntheticAugment(bank, 1.0, full_prob_at=1, um_per_px=0.5).set_random_state(0)
    whole, corners = bank.images[0][0], set()
    for _ in range(200):
        cut = transform(zeros(3, 6, 5), 0)[0]
        places = [
            (top, left)
            for top in range(3)
            for left in range(4)
            if torch.equal(whole[:, top : top + 6, left : left + 5], cut)
        ]
        assert len(places) == 1
        corners.add(places[0])
    assert len(corners) == 12
    image = zeros(3, 6, 5)
    assert SyntheticAugment(bank, 0.0, um_per_px=0.5)(image, 0)[0] is image


def test_without_a_scale_nothing_more_is_drawn() -> None:
    """The stream of random numbers of a seed stays what it was before there were scales."""
    plain = SyntheticAugment(bank_of(count=30), 0.5, full_prob_at=1).set_random_state(3)
    plain(zeros(3, SIDE, SIDE), 0)
    state = np.random.RandomState(3)
    state.rand(4)
    assert plain.R.rand() == state.rand()


@pytest.mark.parametrize(("factor", "size"), [(2.0, (16, 12)), (0.5, (4, 3)), (1.5, (11, 9))])
def test_one_last_step_for_real_and_synthetic(factor: float, size: tuple[int, int]) -> None:
    """A patch of the bank that is put back as a real one at the user's scale stays what it is."""
    bank = bank_of(8, 1.0)
    scale = Scale(bank, 1.0 / factor)
    height, width = scale.size_in_bank(size)
    assert (height, width) == (round(size[0] / factor), round(size[1] / factor))
    patch = bank.images[0][0]
    made = scale.of_synthetic(patch, size, np.zeros(2))
    assert made.shape == (3, *size) and made.dtype == torch.uint8
    assert torch.equal(made, resampled(patch[:, :height, :width], size))
    small = resampled(made, (height, width))
    expected = resampled(small, size) if factor > 1 else made
    assert torch.equal(scale.of_real(made), expected)


KINDS: list[Any] = [
    lambda x: x,
    lambda x: x.numpy(),
    lambda x: x.float() / 255,
    lambda x: (x.double() / 255).numpy(),
    lambda x: MetaTensor(x, meta={"filename_or_obj": "a.png"}),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resampled_real_patch_keeps_type_and_metadata(kind: Any) -> None:
    image = torch.arange(3 * 16 * 16).remainder(256).to(torch.uint8).view(3, 16, 16)
    transform = SyntheticAugment(bank_of(8, 0.5), 0.0, um_per_px=0.25)
    expected = transform(image, 0)[0]
    assert not torch.equal(expected, image)
    img = kind(image)
    out: Any = transform(img, 0)[0]
    assert type(out) is type(img) and out.dtype == img.dtype
    unit = 1 if "uint8" in str(img.dtype) else 255
    plain = torch.as_tensor(np.asarray(out)).double() * unit
    assert torch.allclose(plain, expected.double(), atol=1e-4)
    if isinstance(img, MetaTensor):
        assert out.meta["filename_or_obj"] == "a.png" and not out.applied_operations
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 200 to 200"):
        transform(torch.full((3, 16, 16), 200.0), 0)


def texture(count: int, side: int, seed: int) -> Tensor:
    """Textures of which each octave holds as much as the next, uint8."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.fftfreq(side)
    falling = 1 / ((rows**2 + columns**2).sqrt() + 1 / side)
    white = torch.fft.fft2(torch.randn(count, 3, side, side, generator=generator))
    x = torch.fft.ifft2(white * falling).real
    x = 0.5 + 0.12 * x / x.std((1, 2, 3), keepdim=True)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def separable(real: Tensor, synthetic: Tensor) -> float:
    """How well the contrast of the finest octave tells two sets apart: area under the curve, from
    0.5 to 1.
    """
    scores = [appearance(x)[:, 6] for x in (real, synthetic)]
    above = (scores[0][:, None] > scores[1][None]).double().mean()
    return max(float(above), 1 - float(above))


@pytest.mark.parametrize(("um_per_px", "bound"), [(0.25, 0.65), (1.0, 0.8)])
def test_sharpness_does_not_tell_real_from_synthetic(um_per_px: float, bound: float) -> None:
    """At twice the bank's scale and at half of it. What is only enlarged is told apart in every
    case, as is a reduction that does not filter before. Reduced twice is a little less sharp than
    reduced once, so that the second bound is wider.
    """
    count, finest = 60, 0.25
    truth = texture(2 * count, 128, 0)  # at 0.25 um per pixel, by the same process
    bank = SyntheticBank({0: resampled(truth[:count], (64, 64))}, um_per_px=0.5)
    side = round(128 * finest / um_per_px)
    real = resampled(truth[count:], (side, side))[..., :32, :32]
    shown = {}
    for prob in (0.0, 1.0):
        transform = SyntheticAugment(bank, prob, full_prob_at=1, um_per_px=um_per_px)
        transform.set_random_state(1)
        shown[prob] = torch.stack([transform(x, 0)[0] for x in real])
    assert separable(shown[0.0], shown[1.0]) < bound
    naive = (
        resampled(bank.images[0][..., :16, :16], (32, 32))
        if um_per_px < 0.5
        else bank.images[0][..., ::2, ::2]
    )
    assert separable(real, naive) > 0.99


def test_everything_is_named_a_dtype_and_a_device() -> None:
    """Whatever torch's defaults are, one seed gives one patch."""
    item, bank = {"image": torch.rand(3, 16, 16), "label": 0}, bank_of(8, 0.5, count=30)

    def run() -> dict[Any, Any]:
        transform = SyntheticAugmentd(
            "image",
            bank,
            prob=1.0,
            um_per_px=0.25,
            weight_key="w",
            soft_label_key="s",
        )
        return transform.set_random_state(2)(item)

    plain, before = run(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            other = run()
    finally:
        torch.set_default_dtype(before)
    for key, value in plain.items():
        if isinstance(value, Tensor):
            assert other[key].dtype == value.dtype and other[key].device.type == "cpu", key
            assert torch.equal(other[key], value), key
    assert plain["w"].dtype == plain["s"].dtype == torch.float32
