from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WritePatchSet
from monai.data import MetaTensor
from monai.transforms import Compose
from sklearn.linear_model import LogisticRegression

from monai_histodiff import PatchEncoder, PatchSet
from monai_histodiff.classifiers.classifier import ClassifierTraining
from monai_histodiff.classifiers.encoder import linear_probe
from monai_histodiff.classifiers.encoder_names import EncoderStart
from monai_histodiff.evaluation.baselines import colour_floors
from monai_histodiff.utils.weights import save_weights


@pytest.mark.parametrize("method", ["features", "descriptors"])
def test_what_is_no_batch_of_patches_is_told(method: str) -> None:
    taken = getattr(PatchEncoder(widths=(8, 8), features=4, described=1).eval(), method)
    whole = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for odd in (whole.numpy(), [whole[0]], whole[0], whole[:, :1], whole.permute(0, 2, 3, 1)):
        with pytest.raises(
            ValueError, match="patches must be a tensor N x 3 x H x W, uint8 or in"
        ):
            taken(odd)
    with pytest.raises(ValueError, match="at least one, got none"):
        taken(whole[:0])
    whole[1, 0, 0, 0] = torch.nan
    with pytest.raises(
        ValueError, match="finite values, got 1 of 3 that do not, such as number 1"
    ):
        taken(whole)


def test_colour_floors_do_not_depend_on_how_often_each_patch_is_shown() -> None:
    images = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images, labels = images.to(torch.uint8), torch.arange(12) % 3
    once, twice = (
        colour_floors(images.repeat(n, 1, 1, 1), labels.repeat(n), images[:6], labels[:6], 3)
        for n in (1, 2)
    )
    for name, row in once.items():
        assert twice[name]["ece"] == pytest.approx(row["ece"], 1e-6)
    asked = colour_floors(images, labels, images[:6], labels[:6], 3, ridge=0.01)
    assert asked == once, "a hundredth of N"
    assert colour_floors(images, labels, images[:6], labels[:6], 3, ridge=1.0) != once


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


def test_a_classifier_starts_from_the_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder().eval()
    for value in encoder.state_dict().values():  # what half precision keeps
        value.copy_(value.half())
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    start, patches = EncoderStart(tmp_path), torch.rand(2, 3, 32, 32)
    first, second = start(num_classes=4).eval(), start(num_classes=4).eval()
    assert all(p.requires_grad for p in first.parameters())
    with torch.no_grad():
        features = encoder(patches)
        for network in (first, second):
            torch.testing.assert_close(network(patches), network[1](features))
            next(network.parameters()).add_(1)  # training one leaves the others alone
    assert not torch.equal(first[1].weight, second[1].weight), "the last layer is drawn anew"
    assert start(num_classes=3)(patches).shape == (2, 3)


def test_a_frozen_start_trains_the_last_layer_alone(tmp_path: Path) -> None:
    save_weights(tmp_path / "models" / "encoder.pt", PatchEncoder().state_dict())
    start = EncoderStart(tmp_path, frozen=True)
    assert start.backbone == "patch encoder, frozen"
    assert EncoderStart(tmp_path).backbone == "patch encoder"
    items = [{"image": np.full((3, 32, 32), i % 2, np.float32), "label": i % 2} for i in range(8)]
    network = ClassifierTraining(start, steps=30, batch_size=8)(items, Compose([]), 2, seed=0)
    patches = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert network(patches).argmax(1).tolist() == [0, 1]
    for key, value in start.encoder.state_dict().items():
        assert torch.equal(network[0].state_dict()[key], value), key
    assert not network.train()[0].training and network[1].training


def test_a_bundle_without_an_encoder_gives_no_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at"):
        EncoderStart(tmp_path)


def small() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(widths=(4, 4, 6, 8), features=10, described=3).eval()


def test_features_do_not_depend_on_the_batch_or_the_kind_of_pixels() -> None:
    encoder = small()
    patches = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    features = encoder.train().features(patches, batch_size=3)
    assert features.shape == (7, encoder.num_features) == (7, 10)
    assert encoder.training  # it is given back as it was
    torch.testing.assert_close(features, encoder.features(patches.float() / 255, batch_size=7))


@pytest.mark.parametrize("method", ["features", "descriptors"])
def test_features_are_plain_tensors_without_a_graph(method: str) -> None:
    encoder = small()
    patches = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = getattr(encoder, method)(patches)
    for given in (MetaTensor(patches), patches.clone().requires_grad_(True)):
        found = getattr(encoder, method)(given)
        assert type(found) is torch.Tensor and not found.requires_grad
        assert torch.equal(found, wanted)


def test_statistics_are_means_and_deviations_at_two_magnifications() -> None:
    encoder, x = small(), torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        found = encoder.statistics(x)
        half = torch.nn.functional.avg_pool2d(x, 2)
        expected = []
        for picture in (x, half):
            maps = picture * 4 - 2.5
            for level in encoder.levels[:3]:
                maps = level(maps)
                deviation = (maps.var((2, 3), correction=0) + 1e-4).sqrt()
                expected += [maps.mean((2, 3)), deviation]
    torch.testing.assert_close(found, torch.cat(expected, 1), atol=1e-5, rtol=1e-4)
    assert found.shape[1] == encoder.discriminant.in_features == 4 * (4 + 4 + 6)
    assert [tuple(v.shape) for v in encoder.parameters()][0] == (4, 3, 5, 5)


@pytest.mark.parametrize("size", [16, 33, 96, 130, 256])
def test_features_of_a_repeated_texture_hardly_depend_on_the_size(size: int) -> None:
    encoder = small()
    texture = torch.rand(1, 3, 16, 16).repeat(1, 1, 17, 17)
    part, whole = encoder.features(texture[..., :size, :size]), encoder.features(texture)
    alike = torch.nn.functional.cosine_similarity(part, whole).item()
    assert alike > (0.9 if size < 96 else 0.99)


def test_patches_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("at least 16 x 16, got (15, 40)")):
        small()(torch.rand(1, 3, 15, 40))


@pytest.mark.parametrize(("widths", "described"), [((4,), 1), ((4, 4), 3), ((4, 4), 0)])
def test_an_encoder_that_cannot_be_is_refused(widths: tuple[int, ...], described: int) -> None:
    with pytest.raises(ValueError, match="an encoder must have at least 2 levels and describe"):
        PatchEncoder(widths=widths, described=described)


def test_the_default_encoder_is_small_enough_to_ship(tmp_path: Path) -> None:
    encoder = PatchEncoder()
    assert sum(p.numel() for p in encoder.parameters()) < 12_000_000
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    assert (tmp_path / "models" / "encoder.pt").stat().st_size < 25_000_000
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(
        PatchEncoder.from_bundle(tmp_path)(x), encoder.eval()(x), atol=1e-2, rtol=1e-2
    )
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at"):
        PatchEncoder.from_bundle(tmp_path / "models")


@pytest.mark.parametrize("balanced", [False, True])
def test_the_linear_probe_is_logistic_regression(balanced: bool) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] * 25 + [2] * 5)
    features = (
        torch.randn(90, 5) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0])
        + labels[:, None]
        + torch.tensor([0.0, 50.0, 0.0, 0.0, 0.0])
    )
    x = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    expected = (
        LogisticRegression(
            C=1 / (0.05 * 90),
            tol=1e-8,
            max_iter=1000,
            class_weight="balanced" if balanced else None,
        )
        .fit(x, labels.numpy())
        .predict_proba(x)
    )
    found = linear_probe(features, labels, penalty=0.05, balanced=balanced)(features).softmax(1)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 2, 2], [-1, 0, 1]])
def test_a_linear_probe_needs_every_class(labels: list[int]) -> None:
    with pytest.raises(
        ValueError,
        match="labels must be 0 to K - 1 with K at least 2, each present, "
        + re.escape(f"got {sorted(set(labels))}"),
    ):
        linear_probe(torch.randn(3, 2), torch.tensor(labels))


ROWS, LABELS = torch.arange(8.0).view(4, 2), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("features", "labels", "penalty", "message"),
    [
        (ROWS.masked_fill(ROWS == 3, math.nan), LABELS, 0.1, "got 1 of 4 rows .* number 1"),
        (ROWS, LABELS, -1.0, "penalty must be at least 0 and finite, got -1.0"),
        (ROWS, LABELS, math.nan, "penalty must be at least 0 and finite, got nan"),
        (ROWS[:0], LABELS[:0], 0.1, r"as many labels, got \(0, 2\) and \(0,\)"),
        (ROWS, LABELS[:3], 0.1, r"as many labels, got \(4, 2\) and \(3,\)"),
        (ROWS, LABELS.float(), 0.1, "labels must be whole numbers, got torch.float32"),
    ],
)
def test_a_linear_probe_names_what_it_cannot_be_fitted_on(
    features: torch.Tensor, labels: torch.Tensor, penalty: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        linear_probe(features, labels, penalty)


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_a_linear_probe_takes_steps(steps: float) -> None:
    with pytest.raises(ValueError, match="steps must be a whole number from 1 on, got"):
        linear_probe(ROWS, LABELS, steps=steps)  # type: ignore[arg-type]


def test_flags_are_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="balanced must be True or False, got 'False'"):
        linear_probe(ROWS, LABELS, balanced="False")  # type: ignore[arg-type]
    save_weights(tmp_path / "models" / "encoder.pt", PatchEncoder().state_dict())
    with pytest.raises(ValueError, match="frozen must be True or False, got 'False'"):
        EncoderStart(tmp_path, frozen="False")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_features_need_a_batch_size(size: float) -> None:
    with pytest.raises(ValueError, match="batch_size must be a whole number from 1 on"):
        PatchEncoder().features(torch.rand(2, 3, 32, 32), size)  # type: ignore[arg-type]


def test_an_encoder_of_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an encoder must be float32, got torch.float16: call"):
        PatchEncoder().half().features(torch.rand(2, 3, 32, 32))


def test_a_constant_feature_does_no_harm() -> None:
    features = torch.cat([torch.ones(20, 1), torch.arange(20.0)[:, None]], 1)
    labels = (torch.arange(20) >= 10).long()
    assert torch.equal(linear_probe(features, labels)(features).argmax(1), labels)


def test_one_common_scale_sees_no_axes_and_keeps_what_spreads_most() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 5) * torch.tensor([9.0, 4.0, 1.0, 0.5, 0.1]) + labels[:, None]
    turn = torch.linalg.qr(torch.randn(5, 5)).Q
    plain, turned = (
        linear_probe(x, labels, penalty=0.1, scaling="common")(x)
        for x in (features, features @ turn * 7 + 2)
    )
    torch.testing.assert_close(plain, turned, atol=1e-3, rtol=1e-3)
    each = linear_probe(features, labels, penalty=0.1)(features)
    assert not torch.allclose(plain, each, atol=0.05)
    # the minimum of the loss that it names
    scale = features.var(0, correction=0).mean().sqrt()
    layer = linear_probe(features, labels, penalty=0.1, scaling="common")
    weight = (layer.weight * scale).double().requires_grad_()
    x = ((features - features.mean(0)) / scale).double()
    bias = (layer.bias + layer.weight @ features.mean(0)).double()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels)
    (slope,) = torch.autograd.grad(loss + 0.05 * weight.square().sum(), weight)
    assert float(slope.abs().max()) < 1e-4
    with pytest.raises(ValueError, match="scaling must be 'each' or 'common', got 'none'"):
        linear_probe(features, labels, scaling="none")
