"""What a reader must know of the data stands at the start of a run and beside its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import CLASSES, WritePatchSet

from monai_histodiff import Candidates, PatchSet
from monai_histodiff.bundle.notes import (
    critic_note,
    data_notes,
    forecast_note,
    left_out_note,
    look_warning,
    precision_note,
    precision_warning,
    result_notes,
    uncompared_note,
)
from monai_histodiff.bundle.short_trainings import colour_note, training_notes, views_note
from monai_histodiff.evaluation.arms import Material


def scaled(patches: PatchSet, *scales: str) -> PatchSet:
    records = [
        replace(r, extra={"um_per_px": scales[i % len(scales)]})
        for i, r in enumerate(patches.records)
    ]
    return PatchSet(patches._sources, records, patches.classes, patches.notes)


def test_notes_name_no_path_of_the_user(write_patch_set: WritePatchSet, tmp_path: Path) -> None:
    root = write_patch_set(tmp_path / "secret" / "set")
    (root / "extra.png").write_bytes((root / "blue" / "0-0.png").read_bytes())
    notes = data_notes(PatchSet.open(root), str(root))
    assert notes == ["1 picture of 'set' is not in its manifest: not used."]
    rows = [line.rsplit(",", 2)[0] for line in (root / "manifest.csv").read_text().splitlines()]
    (root / "manifest.csv").write_text("\n".join(rows))
    (_, told) = data_notes(PatchSet.open(root), str(root))
    assert told.startswith("No group is recorded for 18 of 18 patches: each counts as a patient")


def test_the_folder_where_one_stands_takes_no_dot_from_a_note(
    write_patch_set: WritePatchSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_patch_set(tmp_path / "secret" / "set")
    (root / "extra.png").write_bytes((root / "blue" / "0-0.png").read_bytes())
    (root / "manifest.csv").rename(root / "all.csv")
    monkeypatch.chdir(root)
    for given in ("all.csv", str(root / "all.csv"), "./all.csv"):
        (note,) = data_notes(PatchSet.open(given), given)
        assert note == "1 picture of 'set' is not in its manifest: not used.", given
    (root / "all.csv").rename(root / "manifest.csv")
    assert data_notes(PatchSet.open("."), ".") == [note]


def test_patches_that_are_each_a_group_are_told_and_few_ones_of_many_are_not(
    patch_set: PatchSet,
) -> None:
    alone = [replace(r, group=f"p{i}") for i, r in enumerate(patch_set.records)]
    (note,) = data_notes(PatchSet(patch_set._sources, alone, CLASSES), "set")
    assert note.startswith("Each patch is its own group")
    assert data_notes(patch_set, "set") == [], "two to a group, though few(3) takes one of each"


def test_candidates_of_other_classes_are_refused(
    patch_set: PatchSet, candidates: Candidates, tmp_path: Path
) -> None:
    """Labels are indices: of another list of classes they would mean others."""
    candidates.save(tmp_path / "made", CLASSES)
    loaded = Candidates.load(tmp_path / "made")
    assert loaded.classes == CLASSES
    Material(labelled=patch_set, candidates=loaded, published=loaded)
    other = PatchSet(patch_set._sources, patch_set.records, CLASSES[::-1])
    message = r"classes must be those of the candidates, in their order, \['blue', .*got \['viol"
    for made in ({"candidates": loaded}, {"candidates": candidates, "published": loaded}):
        with pytest.raises(ValueError, match=message):
            Material(labelled=other, **made)
    Material(labelled=other, candidates=candidates)  # not loaded: their names are not known


@pytest.mark.parametrize("guessed", [0, 12])
def test_what_the_critic_s_labels_bring_is_told(guessed: int, patch_set: PatchSet) -> None:
    evaluation: Any = SimpleNamespace(material=SimpleNamespace(labelled=patch_set))
    selection = {"reached_precision": 1.0, "target_precision": 0.75, "per_class": {}}
    selection["sources"] = {"labelled": 3, "unlabelled": 7}
    outcome = {
        "selection": selection,
        "sampling": {},
        "settings": {"pseudo_labelled": guessed},
    }
    found = result_notes(outcome, evaluation, {}, None)
    assert any("Compare with arm E" in note for note in found) == bool(guessed)
    assert any("and 7 of the 12 pseudo-labelled" in note for note in found) == bool(guessed)


@pytest.mark.parametrize("reached", [0.6, 0.68, 0.75, 0.9])
def test_a_precision_below_the_target_is_told(reached: float, patch_set: PatchSet) -> None:
    evaluation: Any = SimpleNamespace(material=SimpleNamespace(labelled=patch_set))
    selection = {"reached_precision": reached, "target_precision": 0.75, "per_class": {}}
    outcome = {"selection": selection, "sampling": {}, "settings": {}}
    found = [note for note in result_notes(outcome, evaluation, {}, None) if "target" in note]
    assert len(found) == (reached == 0.68), "lower ones are a warning at the top"
    assert all("has a precision of 0.68" in note and "trusted_share" in note for note in found)


def test_a_classifier_that_knows_no_more_than_colour_is_told_of() -> None:
    def told(*runs: float) -> str:
        floors = {"mean colour": {"balanced_accuracy": 0.4}}
        floors["colour histogram"] = {"balanced_accuracy": 0.5}
        return colour_note({"arms": {"C": {"balanced_accuracy": runs}}, "floors": floors})

    assert told(0.5, 0.52) == "" and colour_note({"arms": {}}) == ""
    assert told(0.48, 0.5).startswith("Arm C reaches 49% of balanced accuracy, and the colour")
    assert "alone 50%: its classifier was trained too little" in told(0.4, 0.6)


def test_a_critic_that_sees_no_more_than_colour_is_not_recommended() -> None:
    def told(alone: float) -> str:
        arms = {"C": {"balanced_accuracy": [0.1]}, "G": {"balanced_accuracy": [0.2]}}
        floors = {name: {"balanced_accuracy": 0.3 + 0.1 * i} for i, name in enumerate("ab")}
        critic = {"balanced_accuracy": alone}
        return critic_note({"arms": arms, "critic": critic, "floors": floors})

    assert told(0.35) == told(0.4) == "" and told(0.41).startswith("The critic itself reaches 41")


def test_what_the_look_found_is_one_warning() -> None:
    assert look_warning(()) == []
    assert look_warning(["a is b", "c"]) == [("Look at this first:", "a is b; c.")]


def test_a_critic_that_does_as_well_as_arm_g_is_told_of() -> None:
    def told(alone: float, *runs: float) -> str:
        arms = {"C": {"balanced_accuracy": [0.1]}, "G": {"balanced_accuracy": runs}}
        return critic_note({"arms": arms, "critic": {"balanced_accuracy": alone}})

    assert told(0.5, 0.5, 0.52) == "" and told(0.5) == ""
    assert critic_note({"arms": {"G": {"balanced_accuracy": [0.1]}}}) == ""
    assert told(0.5, 0.5, 0.5).startswith("The critic itself reaches 50.0% of balanced accuracy")
    assert "arm G, which learns from what it selected, 41.5%: in this run" in told(0.5, 0.41, 0.42)


@pytest.mark.parametrize(
    ("steps", "accepted", "told"),
    [(250, 1200, "3.3 times"), (749, 1200, "10.0 times"), (750, 1200, ""), (1, 0, "")],
)
def test_too_few_views_of_the_synthetic_patches_are_told(
    steps: int, accepted: int, told: str
) -> None:
    settings: dict[str, float] = {"classifier_steps": steps, "classifier_batch_size": 32}
    results: dict[str, Any] = {"settings": settings, "selection": {"accepted": accepted}}
    settings["synthetic_probability"] = 0
    assert views_note(results | {"arms": {"C": {}, "G": {}}}) == ""
    results["settings"] = settings | {"synthetic_probability": 0.5}
    assert views_note(results | {"arms": {"C": {}}}) == ""
    found = views_note(results | {"arms": {"C": {}, "G": {}}})
    assert told in found and bool(told) == ("classifier_steps 750 or more" in found)


def test_a_quick_look_is_called_so_once() -> None:
    def told(steps: int, accepted: int = 10, arms: Sequence[str] = "CG") -> list[str]:
        settings: dict[str, float] = {"classifier_steps": steps, "classifier_batch_size": 32}
        settings["synthetic_probability"] = 0.5
        results = {"settings": settings, "selection": {"accepted": accepted}}
        return training_notes({**results, "arms": {arm: {} for arm in arms}})

    assert told(251) == [] == told(100, arms="C")
    (note,) = told(100)
    assert "took 100 steps, which is a quick look" in note and "classifier_steps 1000" in note
    (note,) = told(100, 1200)
    assert "a quick look" in note and "(classifier_steps 1000 or more)" in note
    (note,) = told(250, 2400)
    assert "(classifier_steps 1500 or more)" in note, "as many as the patches need"
    (note,) = told(251, 1200)
    assert note.startswith("Arm G saw each"), "enough steps, but not for these"


def test_a_class_of_few_accepted_patches_is_seen_less_often() -> None:
    """20 of a class, where 25 are needed for the whole probability: 0.4 in place of 0.5."""
    results: dict[str, Any] = {
        "arms": {"C": {}, "G": {}},
        "settings": {"classifier_steps": 300, "classifier_batch_size": 5},
        "selection": {"accepted": 140, "per_class": {k: {"accepted": 20} for k in "ab"}},
        "dataset": {"counts": {"labelled": {"a": 8, "b": 8}}},
    }
    results["settings"] |= {"synthetic_probability": 0.5, "full_probability_at": 25}
    assert "saw each synthetic patch 4.3 times" in views_note(results)
    assert "(classifier_steps 700 or more)" in views_note(results)
    results["selection"]["per_class"]["b"]["accepted"] = 100
    results["dataset"]["counts"]["labelled"]["b"] = 24
    assert "saw each synthetic patch 5.1 times" in views_note(results)


def test_labels_far_less_sure_than_asked_for_are_a_warning() -> None:
    assert precision_warning(0.66, 0.75) == [] == precision_note(0.75, 0.75)
    ((word, sentence),) = precision_warning(0.6, 0.75)
    assert word == "Labels are less sure than was asked for."
    assert [sentence] == precision_note(0.6, 0.75)
    assert "precision of 0.60 on held-out real patches, below the target of 0.75" in sentence


def test_what_is_foreseen_is_told_from_what_is_measured() -> None:
    measured = {"G-C": {"detectable": 0.05}}
    before = "Foreseen before any training, from the test groups alone: A change."
    assert forecast_note("A change.", {}) == before
    assert forecast_note("A change.", {"G-C": {"detectable": math.nan}}) == before
    after = " What this run measured afterwards stands at the top."
    assert forecast_note("A change.", measured) == before + after


def test_arms_that_are_left_out_are_named_with_the_reason() -> None:
    assert left_out_note({}) == []
    assert left_out_note({"S": "of one class"}) == ["Arm S was not trained: of one class."]


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ("C F G", []),
        ("C R", []),
        ("C P E", []),
        ("C G2", []),
        ("C K", ["No verdict on arms C and K, without arm G to compare with: add G."]),
        ("C R D", ["No verdict on arm D, without arm G to compare with: add G."]),
        ("C G H I", ["No verdict on arms H and I, in no comparison: scores alone."]),
        (
            "C E H D",
            [
                "No verdict on arms C, E and D, without arm G to compare with: add G.",
                "No verdict on arm H, in no comparison: scores alone.",
            ],
        ),
    ],
)
def test_arms_that_get_no_verdict_are_told_before_work(arms: str, told: list[str]) -> None:
    assert uncompared_note(arms.split()) == told
