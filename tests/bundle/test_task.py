"""What a run takes of a patch set, and what is told of it before any work."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from monai_histodiff.bundle.labels_needed import least_labels
from monai_histodiff.bundle.metadata import scale_of
from monai_histodiff.bundle.task import LOOKED_AT, check_task, refusal
from monai_histodiff.data.check import FOLDS
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.evaluation.verdict import shortfalls

LDM = Path(__file__).parents[2] / "bundles" / "histopathology_ldm"
VALUES: dict[str, Any] = {
    "ldm_dir": str(LDM),
    "um_per_px": None,
    "patch_size": None,
    "test_fraction": 0.3,
    "draw": 0,
    "labels_per_class": 6,
    "critic_folds": 3,
    "unlabelled_patches": 4,
}
Write = Callable[..., str]


@pytest.fixture
def write(draw_patches: Callable[..., np.ndarray], tmp_path: Path) -> Write:
    """Two classes of 12 patches, ``of_a_group`` to a group, a third of them for testing."""

    def make(side: int = 224, um: str = "0.5", of_a_group: int = 2) -> str:
        items = []
        for label, name in enumerate(("blue", "pink")):
            for i, patch in enumerate(draw_patches(label, 12, side)):
                split = "test" if i >= 8 else "train"
                group = f"{split}{name}{i // (2 if split == 'test' else of_a_group)}"
                extra = {"um_per_px": um}
                items.append((PatchRecord(f"{name}/{i}.png", name, split, group, extra), patch))
        return str(write_patches(tmp_path / "set", items))

    return make


def test_patches_are_taken_at_the_scale_of_the_model(write: Write) -> None:
    task = check_task({**VALUES, "dataset_dir": write()})
    assert task.size == 112 and task.patches.um_per_px == scale_of(LDM) == 1.0
    counts = [len(part) for part in (task.labelled, task.known, task.test)]
    assert counts == [12, 16, 8], "with the four that are left"
    for part in (task.labelled, task.known, task.test):
        assert set(part.sizes()) == {(112, 112)}
    assert task.notes() == ("Patches have 112 x 112 pixels at 1 um per pixel.",)
    power = task.notes(3)[-1]
    assert power.startswith("With 4 test groups (8 patches), 3 seeds and 1 draw of the labelled")
    assert "corrected for 2 comparisons" in task.notes(3, claims=2)[-1] and "corr" not in power


def test_the_parts_of_a_task_are_those_of_its_set(write: Write) -> None:
    task = check_task({**VALUES, "dataset_dir": write(), "um_per_px": 0.25})
    paths = {
        name: [r.path for r in getattr(task, name).records]
        for name in ("train", "test", "labelled", "unlabelled", "known", "pool")
    }
    assert paths["known"] == paths["labelled"] + paths["unlabelled"]
    assert sorted(paths["pool"] + paths["labelled"]) == sorted(paths["train"])
    assert len(paths["pool"]) == 4 and sorted(paths["pool"]) == sorted(paths["unlabelled"])
    assert not {*paths["train"]} & {*paths["test"]} and task.num_classes == 2
    assert task.settings == {
        **{"labels_per_class": 6, "draw": 0, "um_per_px": 0.25},
        **{"model_um_per_px": 1.0, "patch_size": 112},
    }
    task.read()
    (Path(task.patches._sources[0].root) / task.test.records[0].path).write_bytes(b"")
    with pytest.raises(ValueError, match=task.test.records[0].path):
        task.read()


def test_that_nothing_will_be_claimed_is_told_beforehand(write: Write) -> None:
    task = check_task({**VALUES, "dataset_dir": write()})
    found = shortfalls(task.test.labels.numpy(), task.test.groups, task.test.classes, 1)
    assert task.notes(1)[1:] == tuple(f"Nothing will be claimed: {rule}" for rule in found)
    assert len(found) == 2 and "at least 3 seeds, got 1" in found[0] and "10 test gr" in found[1]
    assert "at least 10 test groups (patients), got 4" in task.notes(3)[1]


def test_a_test_part_of_one_class_is_told_beforehand(write: Write) -> None:
    table = Path(folder := write()) / "manifest.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not ("pink" in line and ",test," in line)]
    table.write_text("\n".join(kept), encoding="utf-8")
    told = check_task({**VALUES, "dataset_dir": folder}).notes(3)
    (rule,) = [note for note in told if "test groups of every class" in note]
    assert rule.startswith("Nothing will be claimed: A claim needs test groups of every class")
    assert "0 of class 'pink'. Test on more patients with it, or leave the class out." in rule


def test_groups_that_are_not_recorded_are_told_of_once(
    draw_patches: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    for label, name in enumerate(("blue", "pink")):
        for i, patch in enumerate(draw_patches(label, 12, 96)):
            file = tmp_path / "set" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(patch).save(file)
    task = check_task({**VALUES, "dataset_dir": str(tmp_path / "set"), "um_per_px": 1.0})
    assert sum("patient" in note for note in task.notes()) == 1
    assert task.notes()[1].startswith("No group is recorded for 24 of 24 patches")


def test_what_is_assumed_is_told(write: Write) -> None:
    data = write(um="")
    task = check_task({**VALUES, "dataset_dir": data})
    assert task.size == 128 and task.notes() == (
        "Patches have 224 x 224 pixels at 1 um per pixel: every stage crops them to 128 x 128. "
        "--patch_size 224 takes them larger, and more time.",
        "24 of 24 patches record no um_per_px: taken to be at 1 um per pixel, as the model is.",
    )
    whole = check_task({**VALUES, "dataset_dir": data, "patch_size": 224})
    assert whole.size == 224 and whole.notes() == (
        "Patches have 224 x 224 pixels at 1 um per pixel.",
        "24 of 24 patches record no um_per_px: taken to be at 1 um per pixel, as the model is.",
        "Every step takes 3.1 times as long as with patches of 128 pixels, which the generator "
        "was trained on: --patch_size 128 crops to them.",
    )
    told = check_task({**VALUES, "dataset_dir": data, "um_per_px": 0.5, "patch_size": 101})
    assert told.size == 101 and told.notes() == (
        "Patches have 112 x 112 pixels at 1 um per pixel: every stage crops them to 101 x 101.",
    )


def test_a_scale_that_is_recorded_of_some_only_is_refused(write: Write) -> None:
    table = Path(folder := write()) / "manifest.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[1:3] = [line.removesuffix("0.5") for line in lines[1:3]]
    table.write_text("\n".join(lines), encoding="utf-8")
    message = (
        "for every patch or for none, got 2 of 24 without, such as 'blue/0.png', and 0.5 for "
        "'blue/2.png': complete it, or give --um_per_px"
    )
    with pytest.raises(ValueError, match=message):
        check_task({**VALUES, "dataset_dir": folder})
    task = check_task({**VALUES, "dataset_dir": folder, "um_per_px": 0.5})
    assert set(task.patches.sizes()) == {(112, 112)}


@pytest.mark.parametrize("split", [True, False])
def test_all_classes_that_are_too_few_are_named_at_once_with_what_is_needed(
    split: bool, draw_patches: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    items = []
    for label, (name, count) in enumerate(
        {"blue": 12, "green": 3, "pink": 5, "violet": 1}.items()
    ):
        for i, patch in enumerate(draw_patches(label % 3, count, 96, seed=label)):
            part = ("test" if i == 0 and count > 1 else "train") if split else ""
            items.append((PatchRecord(f"{name}/{i}.png", name, part, f"{name}{i}"), patch))
    values = {**VALUES, "dataset_dir": str(write_patches(tmp_path / "set", items))}
    further = "" if split else " and some of another group .patient. to test on"
    green = "2 in 2" if split else "3 in 3"
    message = (
        f"^each class must have at least 3 labelled patches to train on{further}, got {green} "
        "groups of 'green', 1 in 1 group of 'violet': label more of 'green', 'violet', of further "
        "groups, or leave them out$"
    )
    with pytest.raises(ValueError, match="at least 9 .* leave them out, or give --critic_folds 3"):
        check_task({**values, "critic_folds": 9})
    for asked in (25, 5, 1, "all"):
        with pytest.raises(ValueError, match=message):
            check_task({**values, "labels_per_class": asked})
    few = [item for item in items if item[0].label in ("blue", "pink")]
    values["dataset_dir"] = str(write_patches(tmp_path / "two", few))
    least = 4 if split else 3
    told = f"class 'pink' has {least} patches .*: ask for at most {least}, or"
    with pytest.raises(ValueError, match=told):
        check_task({**values, "labels_per_class": 5})
    every = check_task({**values, "labels_per_class": "all"})
    assert every.labelled.counts()["pink"] == least, "with all of them there are ten"
    assert refusal(PatchSet.open(values["dataset_dir"])) == ""


def of_groups(patch: np.ndarray, folder: Path, sizes: dict[str, list[int]]) -> str:
    """A set without a split, of groups of these sizes by class."""
    items = [
        (PatchRecord(f"{name}{g}/{i}.png", name, "", f"{name}{g}"), patch)
        for name, groups in sizes.items()
        for g, size in enumerate(groups)
        for i in range(size)
    ]
    return str(write_patches(folder, items))


def test_the_plan_tells_the_test_part_that_is_drawn(
    draw_patches: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    (patch,) = draw_patches(0, 1, 96)
    values = {**VALUES, "labels_per_class": 5}
    even = of_groups(patch, tmp_path / "even", {"blue": [2] * 10, "pink": [2] * 10})
    task = check_task({**values, "dataset_dir": even})
    told = "No split is recorded: the test part that is drawn holds 12 of 40 labelled patches"
    assert f"{told}, of 6 groups." in task.notes()
    assert not any("are asked for" in problem for problem in task.problems())
    large = of_groups(patch, tmp_path / "large", {"blue": [4, 4, 60], "pink": [2] * 30})
    task = check_task({**values, "dataset_dir": large})
    test = task.test.select(label="blue")
    found = Counter(test.groups)
    assert task.problems()[0] == (
        f"the test part that is drawn holds {len(test)} of 68 patches of 'blue', where 30% are "
        f"asked for, 60 of them of the group '{max(found, key=lambda group: found[group])}': give "
        "another --draw, or record a split"
    )


def test_a_class_that_a_draw_leaves_too_few_is_told_with_the_group(
    draw_patches: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    (patch,) = draw_patches(0, 1, 96)
    data = of_groups(patch, tmp_path / "set", {"blue": [4] * 6, "pink": [2, 40]})
    refused = set()
    for draw in range(8):
        try:
            check_task({**VALUES, "dataset_dir": data, "draw": draw})
        except ValueError as error:
            refused.add(str(error))
    assert any(
        line.startswith(
            "each class must have at least 3 labelled patches to train on, got 2 in 1 group of "
            "'pink', and 40 of 'pink' in the group 'pink1' drawn for testing: give another --draw,"
            " or record a split, or label more of 'pink', of further groups, or leave it out"
        )
        for line in refused
    )


def test_fewer_folds_are_no_remedy_for_a_single_patch(
    draw_patches: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    (patch,) = draw_patches(0, 1, 96)
    data = of_groups(patch, tmp_path / "set", {"blue": [1] * 9, "pink": [1] * 9})
    for labels, remedy in (("5%", "give more"), (2, "give a smaller --critic_folds, or more")):
        with pytest.raises(ValueError, match=f": {remedy} --labels_per_class$"):
            check_task({**VALUES, "dataset_dir": data, "labels_per_class": labels})


def test_a_run_needs_a_patch_of_each_class_for_each_fold_and_ten_in_all(write: Write) -> None:
    assert [least_labels(n, 3) for n in (1, 2, 3, 4, 25)] == [10, 5, 4, 3, 3]
    values = {**VALUES, "dataset_dir": write(), "labels_per_class": 4}
    with pytest.raises(ValueError, match="got 8: give --labels_per_class all, or 5 or more, wher"):
        check_task(values)
    assert len(check_task({**values, "labels_per_class": 5}).labelled) == 10


def test_classes_of_few_groups_are_told_and_not_refused(write: Write) -> None:
    task = check_task({**VALUES, "dataset_dir": write(of_a_group=8)})
    assert task.notes()[1:] == (
        "Labelled patches of fewer than 3 groups: blue, pink. The critic is fitted and calibrated "
        "on patches of the same groups there, and is surer of them than it should be.",
    )


def test_the_look_before_work_reads_what_the_run_uses(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(write(side=96, um="1.0"))
    (folder / "pink/11.png").write_bytes((folder / "pink/0.png").read_bytes())
    task = check_task({**VALUES, "dataset_dir": str(folder), "unlabelled_patches": 99})
    assert task.problems() == (
        "1 pair of different splits are copies: the test is not of new patches, such as "
        "'pink/0.png' and 'pink/11.png'",
    )
    monkeypatch.setattr("monai_histodiff.bundle.task.LOOKED_AT", 5)
    seen: list[int] = []
    monkeypatch.setattr(
        "monai_histodiff.bundle.task.check",
        lambda part, progress: (seen.append(len(part)), type("Found", (), {"problems": ()}))[1],
    )
    task.problems()
    assert seen == [5] and LOOKED_AT == 3000


def test_of_a_large_set_the_look_takes_all_labelled_patches_and_says_how_many(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = check_task({**VALUES, "dataset_dir": write()})
    monkeypatch.setattr("monai_histodiff.bundle.task.LOOKED_AT", 14)
    seen: list[set[str]] = []
    monkeypatch.setattr(
        "monai_histodiff.bundle.task.check",
        lambda part, progress: (
            seen.append({r.path for r in part.records}),
            type("Found", (), {"problems": ("two are one",)}),
        )[1],
    )
    told = "two are one (of the 14 patches that were looked at, of 24)"
    assert told in task.problems()
    assert len(seen[0]) == 14 and seen[0] >= {r.path for r in task.labelled.records}


@pytest.mark.parametrize("found", [None, 0, -1.0, "1.0", True])
def test_a_bundle_must_tell_its_scale(found: Any, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"um_per_px": found}))
    with pytest.raises(ValueError, match="must tell um_per_px, the micrometres per pixel that"):
        scale_of(tmp_path)
    with pytest.raises(FileNotFoundError):
        scale_of(tmp_path / "none")


def test_the_folds_that_a_set_is_checked_for_are_those_of_the_main_job() -> None:
    root = Path(__file__).parents[2] / "bundles/histopathology_guidance/configs/train.yaml"
    assert ConfigParser.load_config_file(root)["critic_folds"] == FOLDS
