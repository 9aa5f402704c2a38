from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.transforms import Compose, RandAxisFlipd, ScaleIntensityRanged
from torch import Tensor, nn

from monai_histodiff import ClassifierTraining, PatchClassifier, PatchSet
from monai_histodiff.classifiers import BesideUnlabelled, FixMatchTraining
from monai_histodiff.classifiers.classifier import predict
from monai_histodiff.classifiers.fixmatch import FixMatchPrepareBatch


class Brightness(nn.Module):
    """Logits that the mean of a patch decides."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1) * self.scale


def call(inputs: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
    return network(inputs)


def flat(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_sure_weak_views_are_the_targets_of_strong_ones() -> None:
    network = Brightness()
    prepare = FixMatchPrepareBatch(network, 2, 0.95, call)
    batch = {
        "image": flat(0.5, 0.6),
        "label": torch.tensor([1, 0]),
        "weak": flat(1.0, -1.0),
        "strong": flat(7.0, 8.0),
    }
    images, targets = prepare(batch)
    assert torch.equal(images, flat(0.5, 0.6, 7.0, 8.0))
    assert targets.tolist() == [[0, 1], [1, 0], [1, 0], [0, 1]] and not targets.requires_grad
    # 10 * (m - -m) = log(p / (1 - p)): p = 0.95 at m = log(19) / 20
    edge = float(torch.log(torch.tensor(19.0)) / 20)
    unsure = {**batch, "weak": flat(edge - 1e-4, edge + 1e-4)}
    assert prepare(unsure)[1][2:].tolist() == [[0, 0], [1, 0]]


def test_unsure_patches_add_nothing_to_loss_and_gradient() -> None:
    network = Brightness()
    prepare, loss = FixMatchTraining()._objective(network, 2, 0)
    batch = {"image": flat(0.1, 0.2), "label": torch.tensor([0, 1])}
    views = {"weak": flat(0.0, 0.0), "strong": flat(3.0, 4.0)}
    images, targets = prepare({**batch, **views})
    value = loss(network(images), targets)
    (found,) = torch.autograd.grad(value, network.scale)
    plain = nn.functional.cross_entropy(network(batch["image"]), batch["label"])
    (expected,) = torch.autograd.grad(plain, network.scale)
    assert torch.allclose(2 * value, plain) and torch.allclose(2 * found, expected)


def items_of(patches: PatchSet) -> list[dict[str, Any]]:
    return [{"image": d["image"], "label": d["label"]} for d in patches]


def views() -> tuple[Compose, Compose]:
    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    return Compose([scale]), Compose([RandAxisFlipd("image", 0.5), scale])


def test_it_learns_from_unlabelled_patches_and_repeats_itself(patch_set: PatchSet) -> None:
    recipe: dict[str, Any] = {
        "network": lambda num_classes: PatchClassifier(num_classes, width=8),
        "steps": 40,
        "batch_size": 8,
    }
    few = items_of(patch_set.few(1))

    def fit(images: Tensor) -> Tensor:
        weak, strong = views()
        transform = Compose([*weak.transforms, BesideUnlabelled(images, weak, strong)])
        network = FixMatchTraining(**recipe, threshold=0.6)(few, transform, 3, 0)
        return predict(network, patch_set.images())

    pool = patch_set.images()
    found = fit(pool)
    assert (found.argmax(1) == patch_set.labels).float().mean() > 0.9
    assert torch.equal(found, fit(pool))
    assert not torch.allclose(found, fit(pool[:1]))
    plain = ClassifierTraining(**recipe)(few, views()[0], 3, 0)
    assert not torch.allclose(found, predict(plain, patch_set.images()))


def test_views_of_another_range_are_refused(patch_set: PatchSet) -> None:
    weak, _ = views()
    beside = BesideUnlabelled(patch_set.images(), weak, Compose([]))
    recipe = FixMatchTraining(steps=1, batch_size=4)
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\], got torch.uint8"):
        recipe(items_of(patch_set), Compose([*weak.transforms, beside]), 3, 0)


def test_views_follow_the_seed_and_are_of_one_patch() -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4) * 50
    beside = BesideUnlabelled(images, *views())

    def drawn(seed: int) -> list[float]:
        beside.set_random_state(seed)
        made = [beside({"image": 0, "label": 1}) for _ in range(30)]
        assert all(torch.equal(m["weak"], m["strong"]) for m in made), "flat: flips keep it"
        assert all(m["label"] == 1 and m["image"] == 0 for m in made)
        return [float(m["weak"][0, 0, 0]) for m in made]

    assert drawn(0) == drawn(0) != drawn(1)
    assert {round(v * 255) for v in drawn(0)} == {0, 50, 100, 150, 200}


def test_there_must_be_unlabelled_patches() -> None:
    with pytest.raises(ValueError, match="FixMatch needs unlabelled patches, got none"):
        BesideUnlabelled(torch.empty(0, 3, 8, 8), *views())


@pytest.mark.parametrize("threshold", [95, -0.1, "0.95", float("nan")])
def test_the_threshold_is_a_probability(threshold: Any) -> None:
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\], got"):
        FixMatchTraining(threshold=threshold)
