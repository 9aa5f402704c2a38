from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAxisFlipd, ScaleIntensityRanged
from torch import nn

from monai_histodiff import ClassifierTraining, Critic, PatchSet, Selector, fit_critic
from monai_histodiff.classifiers import PatchClassifier, predict
from monai_histodiff.critics import group_folds


def small(num_classes: int) -> nn.Module:
    return PatchClassifier(num_classes, width=8)


TRAINING = ClassifierTraining(network=small, steps=25, batch_size=12, learning_rate=3e-3)


def transform() -> Compose:
    return Compose([RandAxisFlipd("image", 0.5), ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)])


@pytest.fixture(scope="module")
def labelled(write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> PatchSet:
    return PatchSet.open(write_patch_set(tmp_path_factory.mktemp("critic") / "set", per_class=12))


@pytest.fixture(scope="module")
def critic(labelled: PatchSet) -> Critic:
    return fit_critic(labelled, TRAINING, transform(), size=32, folds=3, target_precision=0.9)


def test_folds_keep_groups_together_and_spread_classes() -> None:
    labels = [k for k in range(3) for _ in range(12)]
    groups = [f"{k}-{i // 2}" for k in range(3) for i in range(12)]
    folds = group_folds(labels, groups, 3, seed=1)
    for group in set(groups):
        assert len({int(f) for f, g in zip(folds, groups, strict=True) if g == group}) == 1
    counts = Counter(zip(labels, folds.tolist(), strict=True))
    assert set(counts.values()) == {4}


def test_folds_with_patients_of_several_classes() -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{rng.integers(25)}" for _ in range(150)]
    labels = [i % 3 for i in range(150)]
    folds = group_folds(labels, groups, 3)
    assert all(len({int(f) for f, g in zip(folds, groups, strict=True) if g == name}) == 1 for name in set(groups))
    for k in range(3):
        share = np.bincount(folds[torch.tensor(labels) == k].numpy(), minlength=3)
        assert share.min() >= 8


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        ([0, 0, 1, 1], ["a", "b", "c", "d"], 1, "at least 2 folds, got 1"),
        ([0, 0, 1], ["a", "b", "c"], 2, "at least 2 patches for 2 folds, got 1 of class 1"),
        ([0, 0, 1, 1], ["a", "b", "c", "c"], 2, "at least 2 groups for 2 folds, got 1 in class 1"),
    ],
)
def test_fold_errors(labels: list[int], groups: list[str], folds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_folds(labels, groups, folds)


def test_training_is_reproducible_by_seed_and_learns(labelled: PatchSet) -> None:
    items = [labelled[i] for i in range(len(labelled))]
    data = [{"image": d["image"], "label": d["label"]} for d in items]
    first, again, other = (TRAINING(data, transform(), 3, seed) for seed in (0, 0, 1))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert (predict(first, labelled.images()).argmax(1) == labelled.labels).float().mean() > 0.9


def test_critic_reaches_its_target_on_separable_classes(critic: Critic, labelled: PatchSet) -> None:
    assert float(critic.precision) >= 0.9 - 1e-6 and float(critic.target_precision) == pytest.approx(0.9)
    probabilities = critic.probabilities(labelled.images())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(labelled)))
    assert (probabilities.argmax(1) == labelled.labels).float().mean() > 0.9
    torch.testing.assert_close(probabilities, critic.probabilities(labelled.images(), batch_size=5))


def test_critic_survives_saving(critic: Critic, labelled: PatchSet, tmp_path: Path) -> None:
    critic.save(tmp_path / "critic.pt")
    twin = Critic.load(tmp_path / "critic.pt", small, 3, members=3)
    torch.testing.assert_close(twin.probabilities(labelled.images()), critic.probabilities(labelled.images()), atol=0.02, rtol=0)
    assert float(twin.threshold) == float(critic.threshold) and float(twin.temperature) == float(critic.temperature)
    with pytest.raises(ValueError, match="weights must fit the network"):
        Critic.load(tmp_path / "critic.pt", small, 3, members=2)
    with pytest.raises(FileNotFoundError, match="weights must exist"):
        Critic.load(tmp_path / "none.pt", small, 3)


def test_selector_rejects_copies_and_wrong_classes(
    critic: Critic, labelled: PatchSet, draw_patches: Callable[..., np.ndarray]
) -> None:
    real = labelled.images()
    fresh = torch.from_numpy(draw_patches(0, 6, 32, seed=99)).permute(0, 3, 1, 2)
    selector = Selector(critic, real, labelled.groups, threshold=0.5)
    outcome = selector(torch.cat([fresh, fresh, real[:1].flip(3)]), [0] * 6 + [1] * 6 + [int(labelled.labels[0])])
    assert outcome.reasons[6:12] == ["low confidence"] * 6
    assert outcome.reasons[12] == "near copy" and int(outcome.nearest[12]) == 0 and float(outcome.distance[12]) < 1e-6
    assert outcome.reasons[:6].count("accepted") >= 4
    assert outcome.keep.tolist() == [r == "accepted" for r in outcome.reasons]


def test_selector_threshold_must_be_a_probability(critic: Critic, labelled: PatchSet) -> None:
    with pytest.raises(ValueError, match="threshold must lie in"):
        Selector(critic, labelled.images(), labelled.groups, threshold=1.2)
    assert Selector(critic, labelled.images(), labelled.groups).threshold == float(critic.threshold)
