from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Identityd, RandAxisFlipd, ScaleIntensityRanged

from monai_histodiff import Candidates, ClassifierTraining, Evaluation, PatchClassifier, PatchSet
from monai_histodiff.evaluation import ARMS, arm_bank, colour_floors, five_crops

CLASSES = ("blue", "pink", "violet")
REASONS = ["accepted", "low confidence", "accepted", "low confidence", "low confidence", "near copy"]


@pytest.fixture(scope="module")
def candidates(draw_patches: Callable[..., np.ndarray]) -> Candidates:
    images = torch.from_numpy(np.concatenate([draw_patches(k, 6, 32, seed=50) for k in range(3)])).permute(0, 3, 1, 2)
    labels = torch.arange(3).repeat_interleave(6)
    confidence = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.3, 0.95]).repeat(3)
    n = len(labels)
    return Candidates(images, labels, torch.arange(n), confidence, torch.ones(n), torch.zeros(n, dtype=torch.long), REASONS * 3)


@pytest.fixture(scope="module")
def parts(write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[PatchSet, PatchSet, PatchSet]:
    base = tmp_path_factory.mktemp("evaluation")
    train = write_patch_set(base / "train", per_class=6, split="train", seed=1)
    test = write_patch_set(base / "test", per_class=8, split="test", seed=2)
    whole = PatchSet.open([train, test])
    return whole, whole.select("train"), whole.select("test")


def evaluation(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates, **options: Any) -> Evaluation:
    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    settings: dict[str, Any] = {
        "labelled": parts[1],
        "test": parts[2],
        "candidates": candidates,
        "training": ClassifierTraining(network=lambda num_classes: PatchClassifier(num_classes, width=8), steps=12, batch_size=8),
        "crop": Identityd("image"),
        "classical": Compose([RandAxisFlipd("image", 0.5), scale]),
        "plain": scale,
        "size": 32,
    }
    return Evaluation(**{**settings, **options})


def test_every_synthetic_arm_has_as_many_patches_as_were_accepted(candidates: Candidates) -> None:
    assert arm_bank("A", candidates, CLASSES) is None and arm_bank("C", candidates, CLASSES) is None
    for arm in ("F", "G", "H", "I"):
        bank = arm_bank(arm, candidates, CLASSES)
        assert bank is not None and [bank.count(k) for k in range(3)] == [2, 2, 2], arm
    shuffled = arm_bank("S", candidates, CLASSES, seed=1)
    assert shuffled is not None and len(shuffled) == 6
    selected = arm_bank("G", candidates, CLASSES)
    assert selected is not None and selected.confidence[0].tolist() == pytest.approx([0.9, 0.8])
    assert sorted(int(s) for k in range(3) for s in shuffled.seeds[k]) == sorted(int(s) for k in range(3) for s in selected.seeds[k])
    assert any(shuffled.seeds[k].tolist() != selected.seeds[k].tolist() for k in range(3))


def test_lowest_scored_are_the_lowest_and_random_depends_on_the_seed(candidates: Candidates) -> None:
    low = arm_bank("H", candidates, CLASSES)
    assert low is not None and sorted(low.confidence[1].tolist()) == pytest.approx([0.1, 0.2])
    draws = {tuple(arm_bank("F", candidates, CLASSES, seed=s).seeds[0].tolist()) for s in range(10)}  # type: ignore[union-attr]
    assert len(draws) > 3
    with pytest.raises(ValueError, match="arm must be one of"):
        arm_bank("Z", candidates, CLASSES)


def test_five_crops_cover_centre_and_corners() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    crops = five_crops(x, 2)
    assert crops.shape == (5, 1, 1, 2, 2)
    assert [int(c[0, 0, 0, 0]) for c in crops] == [14, 0, 4, 24, 28]
    assert torch.equal(five_crops(x, 6), x[None])


def test_colour_floors_see_colour_and_nothing_else(parts: tuple[PatchSet, PatchSet, PatchSet]) -> None:
    _, train, test = parts
    floors = colour_floors(train.images(), train.labels, test.images(), test.labels, 3)
    assert floors["mean colour"]["balanced_accuracy"] == 1.0 == floors["colour histogram"]["balanced_accuracy"]
    grey = [p.images().float().mean((1, 2, 3), keepdim=True).expand(-1, 3, 8, 8).mean(0, keepdim=True) for p in (train, test)]
    same = [g.round().to(torch.uint8).expand(len(p), -1, -1, -1).contiguous() for g, p in zip(grey, (train, test), strict=True)]
    assert colour_floors(same[0], train.labels, same[1], test.labels, 3)["mean colour"]["balanced_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ["C", "Z"]}, "arms must be among .* got \\['C', 'Z'\\]"),
        ({"arms": ["G"]}, "include 'C', got \\['G'\\]"),
        ({"seeds": []}, "at least one seed"),
    ],
)
def test_errors(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation(parts, candidates, **options)


def test_overlapping_groups_are_refused(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates) -> None:
    with pytest.raises(ValueError, match="training and test groups must be disjoint, got 9 in both"):
        evaluation(parts, candidates, test=parts[1])


def test_all_arms_run_pair_by_seed_and_are_reproducible(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates) -> None:
    first = evaluation(parts, candidates, arms=list(ARMS), seeds=[0, 1])
    first.run()
    results = json.loads(json.dumps(first.results(draws=20)))
    assert list(results["arms"]) == list(ARMS) and all(len(v) == 2 for a in results["arms"].values() for v in a.values())
    assert set(results["differences"]) == {"G-C", "G-F", "G-S", "G-A"} and set(results["recall"]["C"]) == set(CLASSES)
    gain = np.subtract(results["arms"]["G"]["macro_f1"], results["arms"]["C"]["macro_f1"]).mean()
    assert results["differences"]["G-C"]["macro_f1"]["mean"] == pytest.approx(gain)
    assert results["outcome"] == "soft" and "for want of seeds" in results["verdict"]
    again = evaluation(parts, candidates, arms=["C", "G"], seeds=[1])
    again.run()
    np.testing.assert_allclose(again.probabilities["G"][0], first.probabilities["G"][1], atol=1e-5)


def test_nothing_accepted_is_a_stated_outcome(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates) -> None:
    none = Candidates(**{**candidates.__dict__, "reasons": ["low confidence"] * 18})
    run = evaluation(parts, none, arms=["C", "F", "G"], seeds=[0])
    run.run()
    results = run.results(draws=5)
    assert results["verdict"] == "Not tested: no synthetic patch was accepted, so arm G is arm C."
    np.testing.assert_allclose(run.probabilities["G"][0], run.probabilities["F"][0], atol=1e-6)
