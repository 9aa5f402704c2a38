from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import Compose, RandAxisFlipd, RandSpatialCropd, ScaleIntensityRanged
from torch import nn

from monai_histodiff import Candidates, ClassifierTraining, PatchClassifier, PatchSet
from monai_histodiff.evaluation.synthetic import label_agreement

TRAINING = ClassifierTraining(
    network=lambda num_classes: PatchClassifier(num_classes, width=8),
    steps=30,
    batch_size=12,
    learning_rate=3e-3,
)


@pytest.fixture(scope="module")
def real(
    write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> list[PatchSet]:
    base = tmp_path_factory.mktemp("agreement")
    return [
        PatchSet.open(write_patch_set(base / str(seed), per_class=8, side=48, seed=seed))
        for seed in range(3)
    ]


def made_of(patches: PatchSet, wrong: int) -> Candidates:
    """Candidates that are real patches: of every class the first ``wrong`` bear the label of the
    next class and are rejected.
    """
    labels = patches.labels.clone()
    reasons = ["accepted"] * len(labels)
    for k in range(3):
        rows = (patches.labels == k).nonzero()[:wrong, 0]
        labels[rows] = (k + 1) % 3
        for row in rows.tolist():
            reasons[row] = "low confidence"
    n = len(labels)
    return Candidates(
        patches.images()[:, :, 8:40, 8:40],
        labels,
        torch.arange(n),
        torch.ones(n),
        torch.ones(n),
        torch.zeros(n),
        reasons,
    )


def transform() -> Compose:
    crop = RandSpatialCropd("image", (32, 32), random_size=False)
    return Compose(
        [crop, RandAxisFlipd("image", 0.5), ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)]
    )


def test_true_and_wrong_labels_are_told_apart(real: list[PatchSet]) -> None:
    others, labelled, test = real
    found = label_agreement(
        made_of(labelled, 2), others, labelled, test, TRAINING, transform(), 32
    )
    assert found == {
        "patches": 24,
        "accepted": 1.0,
        "candidates": 0.75,
        "labelled": 1.0,
        "test": 1.0,
    }


def test_nothing_accepted_has_no_share(real: list[PatchSet]) -> None:
    others, labelled, test = real
    none = replace(made_of(labelled, 0), reasons=["low confidence"] * 24)
    found = label_agreement(
        none, others, labelled, test, replace(TRAINING, steps=2), transform(), 32
    )
    assert found["accepted"] is None and 0 <= found["candidates"] <= 1


def test_every_class_is_shown_equally_often(real: list[PatchSet]) -> None:
    others, labelled, test = real
    first = others.classes[0]
    few = PatchSet(
        others._sources,
        [r for i, r in enumerate(others.records) if r.label != first or i == 0],
        others.classes,
    )
    shown: list[int] = []

    class Recorder(ClassifierTraining):
        def __call__(self, data: Any, *args: Any, **kwargs: Any) -> nn.Module:
            shown.extend(d["label"] for d in data)
            return PatchClassifier(3, width=8).eval()

    found = label_agreement(made_of(labelled, 0), few, labelled, test, Recorder(), transform(), 32)
    assert [shown.count(k) for k in range(3)] == [8, 8, 8] and found["patches"] == len(few) == 17


def test_others_without_a_label_are_left_out(real: list[PatchSet]) -> None:
    others, labelled, test = real
    records = [replace(r, label="") if i % 2 else r for i, r in enumerate(others.records)]
    half = PatchSet(others._sources, records, others.classes)
    found = label_agreement(
        made_of(labelled, 0), half, labelled, test, replace(TRAINING, steps=2), transform(), 32
    )
    assert found["patches"] == 12 and 0 <= found["test"] <= 1


def test_sets_opened_apart_are_matched_by_name(real: list[PatchSet], tmp_path: Path) -> None:
    others, labelled, test = real
    last = PatchSet.open(test.select(label="violet").write(tmp_path / "test"))
    made = made_of(labelled, 0)
    found = label_agreement(made, others, labelled, last, TRAINING, transform(), 32)
    assert found["test"] == 1.0
    renamed = PatchSet(test._sources, [replace(r, label="x") for r in test.records], ["x"])
    for sides in ((renamed, labelled, test), (others, labelled, renamed)):
        with pytest.raises(ValueError, match="labels must be among the classes .* got 'x'"):
            label_agreement(made, *sides, TRAINING, transform(), 32)
    with pytest.raises(ValueError, match="classes must be those of the candidates"):
        other = replace(made, classes=("x", "y", "z"))
        label_agreement(other, others, labelled, test, TRAINING, transform(), 32)


def test_every_class_must_be_there(real: list[PatchSet]) -> None:
    others, labelled, test = real
    lacking = PatchSet(
        others._sources, [r for r in others.records if r.label != "pink"], others.classes
    )
    with pytest.raises(
        ValueError,
        match="needs training patches of every class beyond the labelled ones, got none of 'pink'",
    ):
        label_agreement(made_of(labelled, 0), lacking, labelled, test, TRAINING, transform(), 32)
