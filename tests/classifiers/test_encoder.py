from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import WritePatchSet

from monai_histodiff import LatentDiffusion, PatchEncoder, PatchSet
from monai_histodiff.classifiers.encoder import EncoderStart, bundle_features
from monai_histodiff.evaluation.baselines import colour_floors
from monai_histodiff.utils.weights import save_weights


def test_colour_floors_see_colour_and_nothing_else(
    write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    train, test = (
        PatchSet.open(write_patch_set(tmp_path / str(seed), per_class=6 + seed, seed=seed))
        for seed in (1, 2)
    )
    floors = colour_floors(train.images(), train.labels, test.images(), test.labels, 3)
    assert (
        floors["mean colour"]["balanced_accuracy"]
        == 1.0
        == floors["colour histogram"]["balanced_accuracy"]
    )
    grey = [
        p.images().float().mean((1, 2, 3), keepdim=True).expand(-1, 3, 8, 8).mean(0, keepdim=True)
        for p in (train, test)
    ]
    same = [
        g.round().to(torch.uint8).expand(len(p), -1, -1, -1).contiguous()
        for g, p in zip(grey, (train, test), strict=True)
    ]
    assert colour_floors(same[0], train.labels, same[1], test.labels, 3)["mean colour"][
        "balanced_accuracy"
    ] == pytest.approx(1 / 3)


def test_features_are_the_encoder_s_where_the_bundle_has_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder().eval()
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    patches = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found, expected = bundle_features(tmp_path)(patches), encoder.features(patches)
    torch.testing.assert_close(
        found, expected, atol=5e-3, rtol=0.1
    )  # the file is in half precision


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
    torch.testing.assert_close(
        found[65], torch.cat([latent.mean(1), latent.std(1)]), atol=1e-5, rtol=1e-5
    )


def test_a_bundle_without_either_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a bundle must hold"):
        bundle_features(tmp_path)


def test_a_classifier_starts_from_the_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder().eval()
    for value in encoder.state_dict().values():  # what half precision keeps
        value.copy_(value.half())
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    start, patches = EncoderStart(tmp_path), torch.rand(2, 3, 32, 32)
    first, second = start(num_classes=4).eval(), start(num_classes=4).eval()
    with torch.no_grad():
        features = encoder(patches)
        for network in (first, second):
            last = network.resnet.fc
            assert isinstance(last, torch.nn.Linear)
            torch.testing.assert_close(network(patches), last(features))
            next(network.resnet.parameters()).add_(
                1
            )  # training one classifier leaves the others alone
    assert not torch.equal(first.resnet.fc.weight, second.resnet.fc.weight), (
        "the last layer is drawn anew"
    )
    assert start(num_classes=3)(patches).shape == (2, 3)


def test_a_bundle_without_an_encoder_gives_no_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at"):
        EncoderStart(tmp_path)
