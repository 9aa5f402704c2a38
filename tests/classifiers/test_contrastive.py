"""The patch encoder: its features, the views it learns from, and that learning from them separates
tissues.
"""

from __future__ import annotations

import re

import pytest
import torch
from monai.losses import ContrastiveLoss
from sklearn.linear_model import LogisticRegression

from monai_histodiff import PatchClassifier, PatchEncoder, PatchSet
from monai_histodiff.classifiers.contrastive import (
    DIHEDRAL,
    PairLoss,
    PatchViews,
    ViewPairPrepareBatch,
    projection_head,
)
from monai_histodiff.classifiers.encoder import linear_probe
from monai_histodiff.utils.weights import save_weights


def small() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(width=4)


def test_features_do_not_depend_on_the_batch_or_the_kind_of_pixels() -> None:
    encoder = small()
    patches = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    features = encoder.train().features(patches, batch_size=3)
    assert features.shape == (7, encoder.num_features) == (7, 32)
    assert encoder.training  # it is given back as it was
    torch.testing.assert_close(features, encoder.features(patches.float() / 255, batch_size=7))
    assert encoder.features(patches[:, :, :20]).shape == (7, 32)


def test_the_default_encoder_is_the_backbone_of_the_classifier() -> None:
    encoder, classifier = PatchEncoder(), PatchClassifier(3)
    own = {k: v for k, v in classifier.resnet.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in own.items()} == {
        k: v.shape for k, v in encoder.resnet.state_dict().items()
    }
    assert sum(p.numel() for p in encoder.parameters()) < 4_000_000


def test_from_bundle_reads_its_weights(tmp_path) -> None:
    encoder = PatchEncoder()
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(
        PatchEncoder.from_bundle(tmp_path)(x), encoder.eval()(x), atol=1e-2, rtol=1e-2
    )
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at"):
        PatchEncoder.from_bundle(tmp_path / "models")


def test_a_view_without_change_is_one_of_the_eight_orientations_of_the_patch() -> None:
    torch.manual_seed(0)
    patch = torch.rand(1, 3, 16, 16) * 0.9 + 0.05
    views = PatchViews(size=16, zoom=(1.0, 1.0), gain=0.0, offset=0.0)(
        patch.expand(64, -1, -1, -1)
    )
    orientations = torch.stack(
        [torch.rot90(v, k, (1, 2)) for v in (patch[0], patch[0].flip(2)) for k in range(4)]
    )
    distance = (views[:, None] - orientations[None]).abs().amax((2, 3, 4))
    assert float(distance.amin(1).max()) < 1e-4
    assert set(distance.argmin(1).tolist()) == set(range(8))  # each of them occurs
    assert torch.equal(DIHEDRAL.det().abs(), torch.ones(8))


def test_a_view_is_a_crop_at_the_asked_magnification() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 32).expand(3, 32, 32)
    views = PatchViews(size=8, zoom=(2.0, 2.0), gain=0.0, offset=0.0)(ramp.expand(32, -1, -1, -1))
    slope = torch.maximum(
        views.diff(dim=2).abs().amax((1, 2, 3)), views.diff(dim=3).abs().amax((1, 2, 3))
    )
    torch.testing.assert_close(slope, torch.full((32,), 0.6 / 31 / 2), atol=1e-5, rtol=0)
    assert float(views.mean((1, 2, 3)).std()) > 0.05  # from places all over the patch
    assert 0.2 - 1e-5 <= float(views.min()) and float(views.max()) <= 0.8 + 1e-5


def test_stain_jitter_differs_by_patch_and_is_reproducible() -> None:
    make, patches = PatchViews(size=8, zoom=(1.0, 1.0)), torch.full((4, 3, 8, 8), 0.6)
    torch.manual_seed(3)
    first = make(patches)
    torch.manual_seed(3)
    assert torch.equal(first, make(patches))
    assert len({tuple(v.mean((1, 2)).tolist()) for v in first}) == 4
    assert 0 <= float(first.min()) and float(first.max()) <= 1


def test_views_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="zoom must be a range above 0, got \\(0, 1\\)"):
        PatchViews(zoom=(0, 1))
    with pytest.raises(
        ValueError, match="patches must be at least 16 x 16 for these views, got 12"
    ):
        PatchViews(size=8, zoom=(0.5, 1.0))(torch.rand(1, 3, 12, 12))


def test_the_pair_loss_compares_first_with_second_views() -> None:
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    loss = PairLoss(ContrastiveLoss(temperature=0.2))
    both = torch.cat([first, second])
    logits = torch.nn.functional.cosine_similarity(both[:, None], both[None], dim=2) / 0.2
    logits.fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([*range(5, 10), *range(5)]))
    torch.testing.assert_close(loss(both, both), expected)
    assert loss(torch.cat([first, first]), both) < loss(both, both)


def test_training_on_pairs_makes_views_of_one_patch_alike(patch_set: PatchSet) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(width=4)
    network = torch.nn.Sequential(encoder, projection_head(32, 32, 16))
    prepare = ViewPairPrepareBatch(PatchViews(size=16, zoom=(0.75, 1.5), gain=0.1, offset=0.02))
    loss = PairLoss(ContrastiveLoss(temperature=0.2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    values = []
    for _ in range(30):
        pair, target = prepare({"image": patch_set.images()}, device="cpu")
        assert pair.shape == (36, 3, 16, 16)
        optimizer.zero_grad()
        value = loss(network(pair), target)
        value.backward()
        optimizer.step()
        values.append(float(value))
    assert sum(values[-5:]) / 5 < 0.75 * values[0]


def test_the_linear_probe_is_logistic_regression() -> None:
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    features = (
        torch.randn(90, 5) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0])
        + labels[:, None]
        + torch.tensor([0.0, 50.0, 0.0, 0.0, 0.0])
    )
    x = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    expected = (
        LogisticRegression(C=1 / (0.05 * 90), tol=1e-8, max_iter=1000)
        .fit(x, labels.numpy())
        .predict_proba(x)
    )
    found = linear_probe(features, labels, penalty=0.05)(features).softmax(1)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 2, 2], [-1, 0, 1]])
def test_a_linear_probe_needs_every_class(labels: list[int]) -> None:
    with pytest.raises(
        ValueError,
        match="labels must be 0 to K - 1 with K at least 2, each present, got "
        + re.escape(str(sorted(set(labels)))),
    ):
        linear_probe(torch.randn(3, 2), torch.tensor(labels))


def test_a_constant_feature_does_no_harm() -> None:
    features = torch.cat([torch.ones(20, 1), torch.arange(20.0)[:, None]], 1)
    labels = (torch.arange(20) >= 10).long()
    assert torch.equal(linear_probe(features, labels)(features).argmax(1), labels)
