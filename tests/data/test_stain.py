from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from torch import Tensor

from monai_histodiff import RandHEJitter, RandHEJitterD, RandHEJitterd, RandHEJitterDict
from monai_histodiff.data.stain import STAINS, jitter_stains

ONES, ZEROS = torch.ones(3), torch.zeros(3)
UNIT_STAINS = torch.as_tensor(STAINS) / torch.as_tensor(STAINS).norm(dim=1, keepdim=True)


def stained(haematoxylin: Tensor, eosin: Tensor, residual: Tensor | float = 0.0) -> Tensor:
    """A patch with the given concentrations, by Beer and Lambert's law."""
    concentration = torch.stack([haematoxylin, eosin, torch.zeros_like(eosin) + residual])
    return torch.exp(-torch.einsum("shw,sc->chw", concentration, UNIT_STAINS))


def patch(seed: int = 0) -> Tensor:
    h, e = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(seed)) + 0.3
    return stained(h, e, 0.3)


def every_byte() -> Tensor:
    """All 256 values in every channel, in different places."""
    values = torch.arange(256, dtype=torch.uint8)
    return torch.stack([values, values.flip(0), values.roll(77)]).view(3, 16, 16)


# --- the computation ---


def test_no_change_is_the_identity_on_every_byte() -> None:
    assert torch.equal(jitter_stains(every_byte(), ONES, ZEROS), every_byte())


def test_no_change_is_the_identity_on_floats_above_the_floor() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = jitter_stains(image, ONES, ZEROS)
    torch.testing.assert_close(out, image.clamp(min=1 / 512), rtol=1e-5, atol=1e-6)


def test_black_is_lifted_to_the_floor_at_most() -> None:
    torch.testing.assert_close(
        jitter_stains(torch.zeros(3, 4, 4), ONES, ZEROS),
        torch.full((3, 4, 4), 1 / 512),
        rtol=1e-4,
        atol=0,
    )


def test_a_gain_multiplies_the_concentration_of_its_stain() -> None:
    h, e = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.2
    image = stained(h, e)
    torch.testing.assert_close(
        jitter_stains(image, torch.tensor([1.4, 1.0, 1.0]), ZEROS),
        stained(1.4 * h, e),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(
        jitter_stains(image, torch.tensor([0.8, 1.3, 1.0]), ZEROS),
        stained(0.8 * h, 1.3 * e),
        rtol=1e-4,
        atol=1e-5,
    )
    residual = stained(h, e, 0.4)
    changed = jitter_stains(residual, torch.tensor([1.0, 1.0, 0.5]), ZEROS)
    torch.testing.assert_close(changed, stained(h, e, 0.2), rtol=1e-4, atol=1e-5)


def test_an_offset_adds_to_the_concentration_of_its_stain() -> None:
    h, e = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.2
    out = jitter_stains(stained(h, e, 0.3), ONES, torch.tensor([0.1, -0.05, 0.02]))
    torch.testing.assert_close(out, stained(h + 0.1, e - 0.05, 0.32), rtol=1e-4, atol=1e-5)


def test_more_haematoxylin_is_bluer_and_more_eosin_is_pinker() -> None:
    """Haematoxylin takes red light, eosin green."""
    image = patch()
    blue, pink = (
        jitter_stains(image, torch.tensor(gain), ZEROS).mean((1, 2))
        for gain in ([1.5, 1.0, 1.0], [1.0, 1.5, 1.0])
    )
    before = image.mean((1, 2))
    assert blue[2] / blue[0] > before[2] / before[0]
    assert pink[0] / pink[1] > before[0] / before[1]
    assert (blue < before).all() and (pink < before).all()


@pytest.mark.parametrize("gain", [[0.5, 0.5, 0.5], [1.5, 0.7, 1.2]])
def test_white_stays_white_without_an_offset(gain: list[float]) -> None:
    torch.testing.assert_close(
        jitter_stains(torch.ones(3, 4, 4), torch.tensor(gain), ZEROS),
        torch.ones(3, 4, 4),
        rtol=0,
        atol=1e-6,
    )
    white = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(jitter_stains(white, torch.tensor(gain), ZEROS), white)


def test_the_result_stays_in_range() -> None:
    for gain, offset in ((3.0, 1.0), (0.01, -1.0)):
        out = jitter_stains(
            every_byte().float() / 255, torch.full((3,), gain), torch.full((3,), offset)
        )
        assert out.min() >= 0 and out.max() <= 1
    bright = jitter_stains(every_byte(), ONES, torch.full((3,), -5.0))
    assert (bright == 255).float().mean() > 0.9  # saturated, not wrapped


def test_bytes_and_floats_agree() -> None:
    gain, offset = torch.tensor([1.2, 0.9, 1.1]), torch.tensor([0.02, -0.03, 0.01])
    out = jitter_stains(every_byte(), gain, offset)
    assert out.dtype == torch.uint8
    assert torch.equal(
        out,
        (jitter_stains(every_byte().float() / 255, gain, offset) * 255).round().to(torch.uint8),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_kind_of_number_is_kept(dtype: torch.dtype) -> None:
    out = jitter_stains(patch().to(dtype), torch.tensor([1.2, 0.9, 1.0]), ZEROS)
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.float(),
        jitter_stains(patch(), torch.tensor([1.2, 0.9, 1.0]), ZEROS),
        rtol=0,
        atol=0.01,
    )


def test_any_height_and_width() -> None:
    image = torch.rand(3, 5, 9, generator=torch.Generator().manual_seed(0))
    out = jitter_stains(image, torch.tensor([1.2, 0.9, 1.0]), ZEROS)
    turned = jitter_stains(image.transpose(1, 2), torch.tensor([1.2, 0.9, 1.0]), ZEROS)
    torch.testing.assert_close(out, turned.transpose(1, 2))


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 8), (8, 8, 3), (3, 8), (1, 3, 8, 8)])
def test_a_patch_is_rgb(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a patch must be RGB, of shape 3 x H x W, got "):
        jitter_stains(torch.zeros(shape), ONES, ZEROS)


@pytest.mark.parametrize("values", [(0.0, 255.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 1 / 255)])
def test_other_ranges_are_refused(values: tuple[float, float]) -> None:
    low, high = values
    image = patch() * (high - low) + low
    for bad in (image, image.half(), image.double()):
        with pytest.raises(
            ValueError,
            match=r"floating-point patch must lie in \[0, 1\], got -?\d.* to \d.*or scale it",
        ):
            jitter_stains(bad, ONES, ZEROS)
    jitter_stains(patch() * 1.2 - 0.1, ONES, ZEROS)  # what interpolation does


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_whole_numbers_other_than_bytes_are_refused(dtype: torch.dtype) -> None:
    image = (patch() > 0.3).to(dtype)
    with pytest.raises(ValueError, match="must be uint8 or floating point, got torch.*: cast it"):
        jitter_stains(image, ONES, ZEROS)
    with pytest.raises(ValueError, match="must be uint8 or floating point"):
        RandHEJitterd("image", prob=1.0)({"image": image.numpy()})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    image = patch()
    image[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got .*(nan|inf)"):
        jitter_stains(image, ONES, ZEROS)


# --- the transform ---


def test_probability_zero_returns_the_same_object() -> None:
    image = patch()
    transform = RandHEJitter(prob=0.0)
    assert all(transform(image) is image for _ in range(5))
    array = image.numpy()
    assert transform(array) is array


def test_probability_is_the_frequency_of_change() -> None:
    image, transform = patch(), RandHEJitter(prob=0.3).set_random_state(0)
    changed = sum(transform(image) is not image for _ in range(400))
    assert changed / 400 == pytest.approx(0.3, abs=0.07)


def test_no_strength_changes_nothing() -> None:
    image = every_byte()
    assert torch.equal(
        RandHEJitter(prob=1.0, gain=0.0, offset=0.0).set_random_state(0)(image), image
    )


def test_draws_are_uniform_in_the_stated_ranges() -> None:
    """Recovered from the patches: a change of concentration, solved for gain (by its slope) and
    offset.
    """
    h, e = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    image = stained(h, e, 0.5)
    transform = RandHEJitter(prob=1.0, gain=0.2, offset=0.05).set_random_state(0)
    gains, offsets = [], []
    for _ in range(200):
        concentration = torch.linalg.solve(UNIT_STAINS.T, -torch.log(transform(image)).flatten(1))
        h_after, before = concentration[0], h.flatten()
        slope = ((h_after - h_after.mean()) * (before - before.mean())).sum() / (
            before - before.mean()
        ).square().sum()
        gains.append(float(slope))
        offsets.append(float(h_after.mean() - slope * before.mean()))
    assert 0.8 <= min(gains) < 0.82 and 1.18 < max(gains) <= 1.2
    assert np.std(gains) == pytest.approx(0.4 / 12**0.5, rel=0.1)
    assert -0.0501 <= min(offsets) < -0.045 and 0.045 < max(offsets) <= 0.0501
    assert np.std(offsets) == pytest.approx(0.1 / 12**0.5, rel=0.1)


def test_a_seed_reproduces_the_draws() -> None:
    image = patch()

    def run(seed: int) -> list[Tensor]:
        transform = RandHEJitter(prob=0.5).set_random_state(seed)
        return [transform(image) for _ in range(8)]

    assert all(torch.equal(a, b) for a, b in zip(run(3), run(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(run(3), run(4), strict=True))


def test_without_randomize_the_last_draw_is_applied_again() -> None:
    transform = RandHEJitter(prob=1.0).set_random_state(0)
    first = transform(patch())
    assert torch.equal(transform(patch(), randomize=False), first)
    assert not torch.equal(transform(patch()), first)


def test_global_random_states_are_left_alone() -> None:
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    RandHEJitter(prob=1.0).set_random_state(0)(patch())
    assert (np.random.get_state()[1] == states[0]).all() and torch.equal(
        torch.get_rng_state(), states[1]
    )


@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: x.numpy(), lambda x: MetaTensor(x, meta={"origin": "slide 1"})]
)
@pytest.mark.parametrize("image", [patch(), every_byte()])
def test_every_kind_of_image_gives_the_same_kind_and_values_and_is_not_changed(
    make: Any, image: Tensor
) -> None:
    given = make(image.clone())
    out = RandHEJitter(prob=1.0).set_random_state(0)(given)
    expected = RandHEJitter(prob=1.0).set_random_state(0)(image)
    assert type(out) is type(given) and out.dtype == given.dtype
    np.testing.assert_array_equal(np.asarray(out), expected.numpy())
    np.testing.assert_array_equal(np.asarray(given), image.numpy())
    assert not torch.equal(expected, image)
    if isinstance(given, MetaTensor):
        assert out.meta["origin"] == "slide 1"


def test_flipped_arrays_are_taken() -> None:
    image = patch()
    out = RandHEJitter(prob=1.0).set_random_state(0)(image.numpy()[:, ::-1])
    np.testing.assert_allclose(
        out, RandHEJitter(prob=1.0).set_random_state(0)(image).numpy()[:, ::-1], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "got"),
    [({"gain": 1.0}, "1.0 and"), ({"gain": -0.1}, "-0.1 and"), ({"offset": -0.01}, "and -0.01")],
)
def test_strength_is_checked(arguments: dict[str, float], got: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"gain must lie in \[0, 1\) and offset must not be negative, got .*{got}",
    ):
        RandHEJitter(**arguments)
    with pytest.raises(ValueError, match="gain must lie in"):
        RandHEJitterd("image", **arguments)


# --- the dictionary version ---


def test_aliases() -> None:
    assert RandHEJitterD is RandHEJitterd and RandHEJitterDict is RandHEJitterd


def test_keys_share_one_draw_and_the_rest_is_kept() -> None:
    data = {"a": patch(), "b": patch(), "c": patch(1), "label": 2}
    transform = RandHEJitterd(["a", "b"], prob=1.0).set_random_state(0)
    out = transform(data)
    assert torch.equal(out["a"], out["b"]) and not torch.equal(out["a"], data["a"])
    assert out["c"] is data["c"] and out["label"] == 2
    assert torch.equal(data["a"], patch())
    assert not torch.equal(transform(data)["a"], out["a"])


def test_dictionary_probability() -> None:
    data = {"image": patch()}
    never = RandHEJitterd("image", prob=0.0)(data)
    assert never["image"] is data["image"] and never is not data
    transform = RandHEJitterd("image", prob=0.3).set_random_state(0)
    changed = sum(transform(data)["image"] is not data["image"] for _ in range(400))
    assert changed / 400 == pytest.approx(0.3, abs=0.07)


def test_missing_keys() -> None:
    with pytest.raises(KeyError, match="absent"):
        RandHEJitterd("absent", prob=1.0)({"image": patch()})
    data = {"image": patch()}
    assert RandHEJitterd(["absent", "image"], prob=1.0, allow_missing_keys=True)(data).keys() == {
        "image"
    }


def test_compose_seeds_the_transform() -> None:
    data = {"image": patch()}

    def run(seed: int) -> list[Tensor]:
        pipeline = Compose([RandHEJitterd("image", prob=0.7)]).set_random_state(seed)
        return [pipeline(data)["image"] for _ in range(6)]

    assert all(torch.equal(a, b) for a, b in zip(run(1), run(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(run(1), run(2), strict=True))


def test_array_version_in_compose() -> None:
    pipeline = Compose([RandHEJitter(prob=1.0)])
    first = pipeline.set_random_state(5)(patch())
    assert torch.equal(pipeline.set_random_state(5)(patch()), first) and not torch.equal(
        first, patch()
    )


def test_arrays_changed_and_unchanged_share_a_batch() -> None:
    items = [{"image": patch(i).numpy()} for i in range(8)]
    transform = RandHEJitterd("image", prob=0.5).set_random_state(0)
    torch.manual_seed(0)  # by which the loader seeds
    (batch,) = DataLoader(Dataset(items, transform), batch_size=8)
    changed = [not np.allclose(batch["image"][i], items[i]["image"]) for i in range(8)]
    assert any(changed) and not all(changed)


@pytest.mark.parametrize("copy", [deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_draw_alike(copy: Any) -> None:
    transform = RandHEJitterd("image", prob=0.8).set_random_state(0)
    other = copy(transform)
    for _ in range(4):
        assert torch.equal(
            transform({"image": patch()})["image"], other({"image": patch()})["image"]
        )
