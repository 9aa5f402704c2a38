"""Training without labels: the views, the loss, the discriminant, the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.losses import ContrastiveLoss

from monai_histodiff import PatchEncoder, PatchSet
from monai_histodiff.classifiers import Scatter, ViewContrast, ViewProjection, ViewsPrepareBatch
from monai_histodiff.classifiers.self_supervised import (
    EncoderSaver,
    fit_discriminant,
)
from monai_histodiff.classifiers.views import DIHEDRAL, PatchViews
from monai_histodiff.training import EMAHandler, EpochSeed, TrainingCheckpoint
from monai_histodiff.utils.weights import load_weights


def small(features: int = 8) -> PatchEncoder:
    torch.manual_seed(0)
    # oneDNN of torch 2.13 writes beyond a strided 1 x 1 kernel of 4 channels, with AVX2
    return PatchEncoder(widths=(4, 8, 8, 8), features=features, described=3)


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


def test_the_prepared_batch_names_the_patch_of_each_view() -> None:
    views = PatchViews(size=16, zoom=(1.0, 1.0), gain=0.0, offset=0.0)
    patches = torch.linspace(0.1, 0.9, 5).reshape(5, 1, 1, 1).expand(5, 3, 16, 16)
    output, target = ViewsPrepareBatch(views, count=3)({"image": patches}, device="cpu")
    assert output.shape == (15, 3, 16, 16)
    torch.testing.assert_close(output.mean((1, 2, 3)), torch.linspace(0.1, 0.9, 5)[target])
    assert torch.bincount(target).tolist() == [3] * 5
    with pytest.raises(ValueError, match="a patch must have at least 2 views, got count 1"):
        ViewsPrepareBatch(views, count=1)


def test_with_two_views_the_loss_is_simclr_s() -> None:
    first, second = torch.randn(2, 5, 8)
    found = ViewContrast(0.3)(torch.cat([first, second]), torch.arange(5).repeat(2))
    torch.testing.assert_close(found, ContrastiveLoss(temperature=0.3)(first, second))


def test_the_loss_by_its_definition() -> None:
    z, target = (
        torch.nn.functional.normalize(torch.randn(7, 4), dim=1),
        torch.tensor([0, 1, 0, 0, 1, 2, 2]),
    )
    terms = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        total = torch.stack([(z[i] @ z[j] / 0.5).exp() for j in others]).sum().log()
        same = [z[i] @ z[j] / 0.5 - total for j in others if target[j] == target[i]]
        terms.append(-torch.stack(same).mean())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(ViewContrast(0.5)(z * 3, target), expected)  # of any length
    order = torch.randperm(7)
    torch.testing.assert_close(ViewContrast(0.5)(z[order], target[order]), expected)


def test_the_loss_is_least_where_views_agree_and_patches_are_opposite() -> None:
    z = torch.tensor([[1.0], [-1.0]]).repeat(2, 1)  # two patches, two views
    expected = torch.log(1 + 2 * torch.exp(torch.tensor(-2 / 0.5)))
    torch.testing.assert_close(ViewContrast(0.5)(z, torch.tensor([0, 1, 0, 1])), expected)


def test_the_loss_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        ViewContrast(0)
    with pytest.raises(ValueError, match="each patch must have at least 2 views"):
        ViewContrast()(torch.randn(3, 2), torch.tensor([0, 0, 1]))


def test_fitting_sets_the_last_layer_alone(patch_set: PatchSet) -> None:
    encoder, patches = small(), patch_set.images()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    still = PatchViews(size=32, zoom=(1.0, 1.0), gain=0.2, offset=0.05)
    fit_discriminant(encoder.train(), [{"image": p} for p in patches.split(5)], still)
    changed = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"discriminant.weight", "discriminant.bias"}
    assert encoder.training
    assert not any(p.requires_grad for p in encoder.discriminant.parameters())
    labels = patch_set.labels
    features = encoder.features(patches)
    distance = torch.cdist(features, features)
    same = labels[:, None] == labels
    assert float(distance[same].mean()) < 0.7 * float(distance[~same].mean())


def train(folder: Path, patch_set: PatchSet, epochs: int) -> list[float]:
    """The bundle's training in small; the losses of its steps."""
    encoder = small()
    network = ViewProjection(encoder, hidden=16, out=8)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    ema = EMAHandler(encoder, decay=0.9)
    views = PatchViews(size=24, zoom=(0.8, 1.2), gain=0.1, offset=0.02)
    losses: list[float] = []
    loader = torch.utils.data.DataLoader(patch_set, batch_size=9, shuffle=True)
    objects: dict[str, Any] = {"network": network, "optimizer": optimizer, "ema": ema}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=ViewContrast(0.2),
        prepare_batch=ViewsPrepareBatch(views, count=3),
        train_handlers=[
            ema,
            EpochSeed(0),
            TrainingCheckpoint(folder, objects),
            EncoderSaver(encoder, ema, loader, views, folder, interval=100),
        ],
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda run: losses.append(float(run.state.output[0]["loss"]))
    )
    trainer.run()
    return losses


def test_training_makes_views_of_one_patch_alike_and_resumes_to_the_bit(
    patch_set: PatchSet, tmp_path: Path
) -> None:
    whole = train(tmp_path / "whole", patch_set, 12)
    assert sum(whole[-4:]) < 0.85 * sum(whole[:4])  # 0.81, chance 1
    first = train(tmp_path / "parts", patch_set, 5)
    assert first + train(tmp_path / "parts", patch_set, 12) == whole
    a, b = (torch.load(tmp_path / n / "encoder.pt", weights_only=True) for n in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    encoder = load_weights(small(), tmp_path / "whole" / "encoder.pt")
    scatter = Scatter.load(tmp_path / "whole" / "scatter.pt")
    first, own = scatter.discriminant(1).weight[0], encoder.discriminant.weight[0]
    assert abs(float(torch.cosine_similarity(first, own, 0))) > 0.999
    assert scatter.encoder == encoder.digest() != small().digest()
    assert not torch.equal(encoder.discriminant.weight, small().discriminant.weight.half())
