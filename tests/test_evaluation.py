from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Identityd, RandAxisFlipd, RandSpatialCropd, ScaleIntensityRanged

from monai_histodiff import Candidates, ClassifierTraining, Evaluation, PatchClassifier, PatchSet
from monai_histodiff.evaluation import ARMS, arm_bank, colour_floors, five_crops
from monai_histodiff.results import gallery, run_and_report

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


def test_shuffled_patches_are_the_selected_ones_under_other_labels(candidates: Candidates) -> None:
    selected, shuffled = (arm_bank(arm, candidates, CLASSES, seed=2) for arm in "GS")
    assert selected is not None and shuffled is not None
    own = {int(s): (k, v) for k in range(3) for s, v in zip(selected.seeds[k], selected.images[k], strict=True)}
    moved = 0
    for k in range(3):
        assert shuffled.count(k) == 2, "as many of each class as were accepted"
        for seed, image in zip(shuffled.seeds[k].tolist(), shuffled.images[k], strict=True):
            assert torch.equal(image, own[seed][1])
            moved += own[seed][0] != k
    assert moved >= 2
    assert candidates.labels.tolist() == [k for k in range(3) for _ in range(6)], "the candidates themselves keep their labels"


def test_classes_with_unequal_numbers_of_accepted_patches(candidates: Candidates) -> None:
    reasons = ["accepted"] * 4 + ["near copy"] * 2 + ["low confidence"] * 6 + ["over quota"] * 5 + ["accepted"]
    uneven = Candidates(**{**candidates.__dict__, "reasons": reasons})
    for arm in "FGHSI":
        bank = arm_bank(arm, uneven, CLASSES, seed=5)
        assert bank is not None and [bank.count(k) for k in range(3)] == [4, 0, 1], arm
    low = arm_bank("H", uneven, CLASSES)
    assert low is not None and low.confidence[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.8])


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
    oblong = five_crops(torch.arange(24.0).view(1, 1, 4, 6), 4)
    assert oblong.shape == (5, 1, 1, 4, 4) and [int(c[0, 0, 0, 0]) for c in oblong] == [1, 0, 2, 0, 2]


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
    for runs in first.probabilities.values():
        for probabilities in runs:
            assert probabilities.shape == (24, 3) and np.allclose(probabilities.sum(1), 1)
    again = evaluation(parts, candidates, arms=["C", "G"], seeds=[1])
    for _ in range(2):
        again.run()
        assert len(again.probabilities["G"]) == 1, "a second run replaces the first"
    np.testing.assert_allclose(again.probabilities["G"][0], first.probabilities["G"][1], atol=1e-5)


def test_arms_see_the_data_that_they_are_named_after(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates) -> None:
    seen: list[tuple[str, int, torch.Tensor]] = []

    class Recorder(ClassifierTraining):
        def __call__(self, data: Any, transform: Any, num_classes: int, seed: int, name: str = "fit") -> torch.nn.Module:
            transform.set_random_state(seed)
            for item in [transform(data[i % len(data)]) for i in range(60)]:
                assert set(item) == {"image", "label"}
                seen.append((name[4], item["label"], (item["image"] * 255).round().to(torch.uint8)))
            return PatchClassifier(num_classes, width=8).eval()

    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    evaluation(parts, candidates, training=Recorder(), arms=list(ARMS), seeds=[3], classical=scale, prob=0.4).run()
    real = {bytes(d["image"].numpy().tobytes()): d["label"] for d in parts[1]}
    accepted = candidates.accepted.tolist()
    made = {image.numpy().tobytes(): (int(k), ok) for image, k, ok in zip(candidates.images, candidates.labels, accepted, strict=True)}
    for arm in ARMS:
        rows = [(label, image.numpy().tobytes()) for name, label, image in seen if name == arm]
        synthetic = [(label, *made[image]) for label, image in rows if image in made]
        assert len(rows) == 60 and all(label == real[image] for label, image in rows if image in real)
        assert len(synthetic) + sum(image in real for _, image in rows) == 60
        if arm in "AC":
            assert not synthetic
        elif arm == "I":
            assert len(synthetic) == 60
        else:
            assert 12 <= len(synthetic) <= 36, "about 40 % of them"
        if arm in "GI":
            assert all(label == k and ok for label, k, ok in synthetic)
        if arm in "FH":
            assert all(label == k for label, k, _ in synthetic) and not all(ok for *_, ok in synthetic)
        if arm == "S":
            assert any(label != k for label, k, _ in synthetic) and all(ok for *_, ok in synthetic)


def test_larger_patches_are_judged_by_five_crops(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates) -> None:
    small = Candidates(**{**candidates.__dict__, "images": candidates.images[..., :24, :24].contiguous()})
    crop = RandSpatialCropd("image", (24, 24), random_size=False)
    run = evaluation(parts, small, crop=crop, size=24, seeds=[0], arms=["C", "G"])
    run.run()
    assert run.results(draws=5)["floors"]["mean colour"]["accuracy"] == 1.0 and len(run.probabilities["G"][0]) == 24


def test_classes_that_differ_in_colour_are_learned_and_shuffled_labels_hurt(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    training = ClassifierTraining(network=lambda num_classes: PatchClassifier(num_classes, width=8), steps=40, batch_size=12)
    shuffled = Candidates(**{**candidates.__dict__, "labels": candidates.labels.roll(6)})  # every label is wrong
    shuffled.reasons = ["accepted"] * 18
    run = evaluation(parts, shuffled, training=training, arms=["C", "I"], seeds=[0])
    run.run()
    arms = run.results(draws=5)["arms"]
    assert arms["C"]["balanced_accuracy"][0] > 0.9 and arms["I"]["balanced_accuracy"][0] < 0.4


def test_nothing_accepted_is_a_stated_outcome(parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates) -> None:
    none = Candidates(**{**candidates.__dict__, "reasons": ["low confidence"] * 18})
    run = evaluation(parts, none, arms=["C", "F", "G"], seeds=[0])
    run.run()
    results = run.results(draws=5)
    assert results["verdict"] == "Not tested: no synthetic patch was accepted, so arm G is arm C."
    np.testing.assert_allclose(run.probabilities["G"][0], run.probabilities["F"][0], atol=1e-6)


OUTCOME = {
    "selection": {
        "candidates": 18,
        "accepted": 6,
        "per_class": {name: {"candidates": 6, "accepted": 2} for name in CLASSES},
        "threshold": 0.7,
        "target_precision": 0.9,
        "reached_precision": 0.8,
        "temperature": 1.0,
        "reasons": {"low confidence": 9, "near copy": 3},
    },
    "sampling": {"steps": 4, "seconds": 2.5, "candidates_per_second": 7.2},
    "settings": {"quota": 4, "labels_per_class": 6},
}


def test_run_and_report_writes_results_and_a_page(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps(OUTCOME))
    run = evaluation(parts, candidates, seeds=[0, 1, 2], prob=0.25)
    report = run_and_report(run, parts[0], "/home/someone/secret/patches.zip", tmp_path)
    assert report == tmp_path / "report.html" and sorted(p.name for p in tmp_path.iterdir()) == [
        "outcome.json",
        "report.html",
        "results.json",
    ]
    results = json.loads((tmp_path / "results.json").read_text())

    assert results["arms"] == json.loads(json.dumps(run.results()))["arms"], "the file holds what was measured"
    assert list(results["arms"]) == ["C", "F", "G"] and results["seeds"] == [0, 1, 2]
    assert results["dataset"] == {
        "path": "patches.zip",
        "classes": list(CLASSES),
        "demo": False,
        "counts": {"train": dict.fromkeys(CLASSES, 6), "labelled": dict.fromkeys(CLASSES, 6), "test": dict.fromkeys(CLASSES, 8)},
        "groups": {"train": 9, "labelled": 9, "test": 12},
    }
    assert results["selection"] == OUTCOME["selection"]
    assert results["sampling"] == {"steps": 4, "candidates_per_second": 7.2} and results["seconds"]["sampling"] == 2.5
    expected = {"quota": 4, "labels_per_class": 6, "classifier_steps": 12, "classifier_batch_size": 8, "synthetic_probability": 0.25}
    assert results["settings"] == expected
    notes = " ".join(results["notes"])
    assert "precision of 0.80" in notes and "below the target of 0.90" in notes
    assert all(f"Class {name} is short of its quota: 2 of 4 accepted, from 6 candidates" in notes for name in CLASSES)
    assert "own group" not in notes, "the labelled patches are in groups of two"

    page = report.read_text(encoding="utf-8")
    assert escape(results["verdict"]) in page and results["verdict"] in capsys.readouterr().out
    assert "secret" not in page and "secret" not in (tmp_path / "results.json").read_text(), "paths of the user stay private"
    assert all(name in page for name in CLASSES) and "near copy" in page


def test_gallery_shows_accepted_over_their_range_and_every_reason(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    tiles = gallery(candidates, parts[1], size=24, per_class=2)
    for k, name in enumerate(CLASSES):
        own = [t for t in tiles if t.label == name]
        assert [t.confidence for t in own if not t.reason] == pytest.approx([0.9, 0.8])
        assert 1 <= sum(bool(t.reason) for t in own) <= 2
        for tile in own:
            row = candidates.seed.tolist().index(tile.seed)
            assert np.array_equal(tile.image, candidates.images[row].permute(1, 2, 0).numpy()) and int(candidates.labels[row]) == k
            assert tile.nearest is not None and tile.nearest.shape == (24, 24, 3)
            centre = parts[1][int(candidates.nearest[row])]["image"][:, 4:28, 4:28].permute(1, 2, 0).numpy()
            assert np.array_equal(tile.nearest, centre)
