from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import WritePatchSet

from monai_histodiff import PatchSet
from monai_histodiff.bundle.run_folder import check_split, write_split


@pytest.fixture
def parts(write_patch_set: WritePatchSet, tmp_path: Path) -> tuple[PatchSet, PatchSet, PatchSet]:
    """Labelled patches, those with further ones, and test patches of other groups."""
    train = PatchSet.open(write_patch_set(tmp_path / "train", per_class=6, split="train"))
    test = PatchSet.open(write_patch_set(tmp_path / "test", per_class=2, split="test", seed=1))
    labelled = train.few(2, seed=0)
    return labelled, labelled.extend(train, 5, seed=0), test


def test_every_patch_that_was_used_is_listed_with_its_role(
    parts: tuple[PatchSet, PatchSet, PatchSet], tmp_path: Path
) -> None:
    labelled, known, test = parts
    path = write_split(tmp_path / "run", known, labelled, test)
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = {
        role: [row for row in rows if row["role"] == role]
        for role in ("labelled", "unlabelled", "test")
    }
    assert {role: len(of_role) for role, of_role in found.items()} == {
        "labelled": 6,
        "unlabelled": 5,
        "test": 6,
    } and len(rows) == 17
    assert [(r["path"], r["label"], r["group"]) for r in found["labelled"]] == [
        (r.path, r.label, r.group) for r in labelled.records
    ]
    assert {r["group"] for r in found["test"]} == set(test.groups)
    check_split(tmp_path / "run", labelled, test)


def test_a_test_group_that_was_seen_is_refused(
    parts: tuple[PatchSet, PatchSet, PatchSet], tmp_path: Path
) -> None:
    labelled, known, test = parts
    write_split(tmp_path, known, labelled, test)
    adapted_to = min(set(known.groups) - set(labelled.groups))  # seen without a label
    torn = PatchSet(
        test._sources,
        [replace(test.records[0], group=adapted_to), *test.records[1:]],
        test.classes,
    )
    with pytest.raises(
        ValueError,
        match=f"must be new to the candidates, got 1 they were made with, such as '{adapted_to}'",
    ):
        check_split(tmp_path, labelled, torn)


def test_other_labelled_patches_are_refused(
    parts: tuple[PatchSet, PatchSet, PatchSet], tmp_path: Path
) -> None:
    labelled, known, test = parts
    write_split(tmp_path, known, labelled, test)
    for other, number in ((labelled[1:], 1), (known, 5)):
        with pytest.raises(
            ValueError,
            match=f"labelled patches must be those of the candidates, got {number} that differ, such as '",
        ):
            check_split(tmp_path, other, test)


def test_a_run_without_the_list_is_refused(
    parts: tuple[PatchSet, PatchSet, PatchSet], tmp_path: Path
) -> None:
    with pytest.raises(
        FileNotFoundError, match="the training stage must have written 'split.csv', got none in"
    ):
        check_split(tmp_path, parts[0], parts[2])
