from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import WritePatchSet
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from monai_histodiff import LatentDiffusion, PatchEncoder, PatchSet
from monai_histodiff.networks import save_weights
from monai_histodiff.probes import bundle_features, colour_floors, linear_probe


def test_colour_floors_see_colour_and_nothing_else(write_patch_set: WritePatchSet, tmp_path: Path) -> None:
    train, test = (PatchSet.open(write_patch_set(tmp_path / str(seed), per_class=6 + seed, seed=seed)) for seed in (1, 2))
    floors = colour_floors(train.images(), train.labels, test.images(), test.labels, 3)
    assert floors["mean colour"]["balanced_accuracy"] == 1.0 == floors["colour histogram"]["balanced_accuracy"]
    grey = [p.images().float().mean((1, 2, 3), keepdim=True).expand(-1, 3, 8, 8).mean(0, keepdim=True) for p in (train, test)]
    same = [g.round().to(torch.uint8).expand(len(p), -1, -1, -1).contiguous() for g, p in zip(grey, (train, test), strict=True)]
    assert colour_floors(same[0], train.labels, same[1], test.labels, 3)["mean colour"]["balanced_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("penalty", [0.5, None])
def test_the_probe_is_scikit_learn_s_logistic_regression(penalty: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    train, test = (5 + 2 * torch.randn(n, 8, generator=generator) for n in (60, 20))
    train += labels[:, None] * torch.linspace(0, 1, 8)
    strength = 1 / (8 * 3 / 100 if penalty is None else penalty)
    scaler = StandardScaler().fit(train.numpy())
    trusted = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(scaler.transform(train.numpy()), labels.numpy())
    expected = torch.from_numpy(trusted.predict_proba(scaler.transform(test.numpy())))
    torch.testing.assert_close(linear_probe(train, labels, test, 3, penalty).float(), expected.float(), atol=2e-4, rtol=0)


def test_a_constant_feature_and_a_missing_class_do_no_harm() -> None:
    train, labels = torch.tensor([[0.0, 7.0], [0.1, 7.0], [1.0, 7.0], [1.1, 7.0]]), torch.tensor([0, 0, 2, 2])
    found = linear_probe(train, labels, torch.tensor([[0.05, 7.0], [1.05, 7.0]]), 3)
    assert found.argmax(1).tolist() == [0, 2] and found.isfinite().all() and torch.allclose(found.sum(1), torch.ones(2).double())


@pytest.mark.parametrize("shapes", [((4, 2), (4,), (3, 5)), ((4, 2), (3,), (3, 2)), ((4,), (4,), (3, 2))])
def test_the_probe_checks_its_shapes(shapes: tuple[tuple[int, ...], ...]) -> None:
    train, labels, test = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="a probe needs features N x D, labels N and features M x D, got "):
        linear_probe(train, labels.long(), test, 2)


def test_features_are_the_encoder_s_where_the_bundle_has_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder().eval()
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    patches = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found, expected = bundle_features(tmp_path)(patches), encoder.features(patches)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0.1)  # the file is in half precision


def test_features_are_else_the_mean_and_spread_of_the_latents(
    make_model: Callable[..., LatentDiffusion], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = make_model()
    monkeypatch.setattr(LatentDiffusion, "from_bundle", lambda *_: model)
    patches = torch.randint(0, 256, (66, 3, 32, 32), dtype=torch.uint8)
    found = bundle_features(tmp_path)(patches)
    assert found.shape == (66, 8)
    with torch.no_grad():
        latent = model.encode(patches[65:] / 255)[0].flatten(1)
    torch.testing.assert_close(found[65], torch.cat([latent.mean(1), latent.std(1)]), atol=1e-5, rtol=1e-5)


def test_a_bundle_without_either_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a bundle must hold"):
        bundle_features(tmp_path)
