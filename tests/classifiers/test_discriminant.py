"""The discriminant of two views of each patch, and how an encoder is fitted to a target."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from monai_histodiff import PatchEncoder, PatchSet
from monai_histodiff.classifiers import PatchViews, Scatter, adapted_encoder
from monai_histodiff.classifiers.discriminant import view_scatter
from monai_histodiff.utils.weights import read_state, save_weights, write_state


def made(first: Tensor, second: Tensor, features: int, ridge: float = 0.01) -> nn.Linear:
    return Scatter.of(first, second).discriminant(features, ridge)


def pairs(n: int = 4000) -> tuple[Tensor, Tensor]:
    """Two views of each patch: three statistics that tell patches apart, two that do not."""
    torch.manual_seed(0)
    patch = torch.randn(n, 5) * torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0])
    mix = torch.randn(5, 5)
    first, second = (patch + torch.randn(2, n, 5)) @ mix + 7
    return first, second


def test_the_discriminant_solves_the_generalised_eigenvalue_problem() -> None:
    first, second = pairs()
    layer = made(first, second, 5, ridge=1e-9)
    both = torch.cat([first, second])
    scale = both.std(0, correction=0)
    within = ((first - second).T @ (first - second) / (2 * len(first))).double()
    centre = (first + second) / 2 - both.mean(0)
    between = (centre.T @ centre / len(first)).double()
    values, vectors = scipy.linalg.eigh(between.numpy(), within.numpy())
    found, expected = layer.weight.double(), torch.from_numpy(vectors).flip(1).T
    sign = (found * scale * expected * scale).sum(1).sign()[:, None]
    torch.testing.assert_close(found, sign * expected, atol=2e-3, rtol=2e-3)
    # views of one patch spread by 1, patches' means by lambda; the three real ones are found
    spread = (layer(first) - layer(second)).square().mean(0) / 2
    torch.testing.assert_close(spread, torch.ones(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        torch.from_numpy(values).flip(0).float(),
        torch.tensor([9.5, 4.5, 1.5, 0.5, 0.5]),
        atol=0.3,
        rtol=0,
    )
    assert float(torch.cat([layer(first), layer(second)]).mean(0).abs().max()) < 1e-4


def test_the_discriminant_does_not_depend_on_the_units_of_the_statistics() -> None:
    first, second = pairs()
    scale, shift = torch.tensor([1.0, 1e3, 1e-2, 5.0, 0.3]), torch.randn(5)
    plain = made(first, second, 3)
    other = made(first * scale + shift, second * scale + shift, 3)
    a, b = plain(first), other(first * scale + shift)
    torch.testing.assert_close(a, b * (a * b).sum(0).sign(), atol=1e-2, rtol=1e-2)
    a, b = plain(first), made(second, first, 3)(first)
    torch.testing.assert_close(a, b * (a * b).sum(0).sign(), atol=1e-3, rtol=1e-3)


def test_a_constant_statistic_does_no_harm() -> None:
    first, second = (torch.cat([v, torch.ones(len(v), 1)], 1) for v in pairs(100))
    layer = made(first, second, 3)
    assert bool(layer.weight.isfinite().all()) and float(layer.weight[:, 5].abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("features", "ridge", "rows", "message"),
    [
        (6, 0.1, 9, "features must lie between 1 and the 5 statistics, got 6"),
        (0, 0.1, 9, "features must be a whole number from 1 on, got 0"),
        (2, 0.0, 9, "ridge must be above 0 and finite, got 0.0"),
        (2, math.nan, 9, "ridge must be above 0 and finite, got nan"),
        (2.5, 0.1, 9, "features must be a whole number from 1 on, got 2.5"),
        (2, 0.1, 1, "a scatter needs at least 2 patches, got 1"),
    ],
)
def test_a_discriminant_that_cannot_be_is_refused(
    features: int, ridge: float, rows: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(torch.randn(rows, 5), torch.randn(rows, 5), features, ridge)


def test_statistics_that_are_not_finite_are_refused() -> None:
    first, second = torch.randn(2, 9, 5)
    second[3, 1] = math.nan
    with pytest.raises(ValueError, match="must be finite, got 1 of 18 rows .* such as number 12"):
        Scatter.of(first, second)


def test_scatters_add_up_to_that_of_all_patches() -> None:
    first, second = pairs(300)
    second = second + torch.linspace(0, 3, 300)[:, None]  # so that the parts differ in the mean
    whole = Scatter.of(first, second)
    cut = [Scatter.of(first[rows], second[rows]) for rows in (slice(0, 90), slice(90, 300))]
    found = cut[0] + cut[1]
    assert found.count == 300
    for name in ("mean", "within", "between"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name))


def test_a_scatter_survives_its_file(tmp_path: Path) -> None:
    scatter = replace(Scatter.of(*pairs(200)), encoder="me")
    scatter.save(tmp_path / "scatter.pt")
    found = Scatter.load(tmp_path / "scatter.pt")
    assert (found.count, found.encoder) == (200, "me")
    for name in ("mean", "within", "between"):
        torch.testing.assert_close(
            getattr(found, name), getattr(scatter, name), rtol=1e-6, atol=2e-3
        )
    torch.testing.assert_close(found.within, found.within.T)
    state = dict(read_state(tmp_path / "scatter.pt"))
    for change in ({"between": state["between"][1:]}, {"mean": None}, {"mean": state["mean"][:2]}):
        write_state(tmp_path / "bad.pt", {**state, **change})
        with pytest.raises(ValueError, match="a scatter must hold count, mean, within, .*bad.pt"):
            Scatter.load(tmp_path / "bad.pt")
    write_state(tmp_path / "bad.pt", {k: v for k, v in state.items() if k != "encoder"})
    with pytest.raises(ValueError, match="a scatter must hold"):
        Scatter.load(tmp_path / "bad.pt")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small encoder, and the scatter of patches of noise."""
    torch.manual_seed(0)
    encoder = PatchEncoder(widths=(4, 4, 6, 8), features=8, described=3).eval()
    (tmp_path / "models").mkdir()
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    state = read_state(tmp_path / "models" / "encoder.pt")
    encoder.load_state_dict(state)
    noise = [torch.rand(20, 3, 32, 32) for _ in range(3)]
    pool = view_scatter(encoder, noise, PatchViews(32, (1.0, 1.0)))
    pool.save(tmp_path / "models" / "scatter.pt")
    return tmp_path


def opened(bundle: Path) -> PatchEncoder:
    encoder = PatchEncoder(widths=(4, 4, 6, 8), features=8, described=3).eval()
    encoder.load_state_dict(read_state(bundle / "models" / "encoder.pt"))
    return encoder


def test_an_adapted_encoder_tells_the_target_apart(bundle: Path, patch_set: PatchSet) -> None:
    encoder, images = opened(bundle), patch_set.images(32)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = torch.get_rng_state()
    found = adapted_encoder(encoder, patch_set, bundle, 32, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(found, PatchEncoder) and found.levels is encoder.levels
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    # it is the discriminant of pool and target together
    torch.manual_seed(1)
    target = view_scatter(encoder, images.split(64), PatchViews(32, (1.0, 1.0)))
    layer = (Scatter.load(bundle / "models" / "scatter.pt") + target).discriminant(8)
    assert torch.equal(layer.weight, found.discriminant.weight)
    # views of the target spread less, compared with its patches, than in the pool's directions
    ratios = []
    pool = encoder.with_discriminant(
        Scatter.load(bundle / "models" / "scatter.pt").discriminant(8)
    )
    for each in (pool, found):
        torch.manual_seed(5)
        views = PatchViews(32, (1.0, 1.0))
        first, second = (each.features(views(images.float() / 255)) for _ in range(2))
        within, between = (first - second).square().sum() / 2, (first + second).var(0).sum() / 4
        ratios.append(float(between / within))
    assert ratios[1] > 1.1 * ratios[0]
    again = adapted_encoder(encoder, patch_set, bundle / "models" / "encoder.pt", 32, seed=1)
    assert torch.equal(again.discriminant.weight, found.discriminant.weight)  # type: ignore[union-attr, arg-type]


def test_other_encoders_stay_as_they_are(
    bundle: Path, patch_set: PatchSet, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = nn.Identity()
    assert adapted_encoder(foreign, patch_set, bundle) is foreign
    encoder = opened(bundle)
    assert adapted_encoder(encoder, patch_set[:1], bundle, 32) is encoder
    with torch.no_grad():
        next(encoder.levels.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match=r"must be of the encoder beside it, got another's"):
        adapted_encoder(encoder, patch_set, bundle, 32)
    (bundle / "models" / "scatter.pt").unlink()
    with caplog.at_level(logging.INFO):
        assert adapted_encoder(encoder, patch_set, bundle, 32) is encoder
    assert "the encoder is used as it is" in caplog.text
