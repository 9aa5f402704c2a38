from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, WritePatchSet
from PIL import Image
from warm import FORKS

from monai_histodiff import Candidates, PatchCritic, PatchSet, __version__
from monai_histodiff.bundle.made import adapted_weights, chosen_settings, sampling_of
from monai_histodiff.bundle.run_folder import MADE, RunFolder
from monai_histodiff.bundle.split_file import changed_warning
from monai_histodiff.bundle.task import Task
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.diffusion.sources import Sources

Parts = tuple[PatchSet, PatchSet, PatchSet]


@pytest.fixture
def parts(write_patch_set: WritePatchSet, tmp_path: Path) -> Parts:
    """Labelled patches, those with further ones, and test patches of other groups."""
    train = PatchSet.open(write_patch_set(tmp_path / "train", per_class=6, split="train"))
    test = PatchSet.open(write_patch_set(tmp_path / "test", per_class=2, split="test", seed=1))
    labelled = train.few(2, seed=0)
    return labelled, labelled.extend(train, 5, seed=0), test


class Sampler:
    """Stands for a sampler of which only the settings are asked."""

    settings = SamplingSettings(steps=4, scale=3.0, interval=(-6.0, 6.0))
    network_evaluations = 6


def finish(root: Path, parts: Parts, candidates: Candidates) -> RunFolder:
    """What a training stage does with a folder, without the trainings."""
    folder, sampler = RunFolder(root), Sampler()
    folder.lock()
    folder.models.mkdir()
    for name in ("guide", "critic", "generator"):
        torch.save({"w": torch.ones(3)}, getattr(folder, name))
    folder.split.write(parts[1], parts[0], parts[2])
    judge: Any = SimpleNamespace(critic=PatchCritic([torch.nn.Identity()], 3), settings={})
    made: Any = sampler
    folder.save(candidates, CLASSES, judge, made, {"draw": 0, "labels_per_class": 25})
    return folder


@pytest.fixture
def done(parts: Parts, candidates: Candidates, tmp_path: Path) -> RunFolder:
    return finish(tmp_path / "run", parts, candidates)


# ------------------------------------------------------------------------------------------ claims


def claim(folder: Path, held: Any) -> None:
    RunFolder(folder).lock()
    held.set()
    time.sleep(60)


def hold(folder: Path) -> BaseProcess:
    """A process that has claimed the folder."""
    held = FORKS.Event()
    process = FORKS.Process(target=claim, args=(folder, held))
    process.start()
    assert held.wait(60)
    return process


def test_a_second_run_is_refused_at_once_and_a_dead_one_makes_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "run"
    process = hold(root)
    try:
        folder, start = RunFolder(root), time.perf_counter()
        for refused in (folder.check_new, folder.lock, folder.check_unevaluated):
            with pytest.raises(
                FileExistsError,
                match=rf"must be free, got '{root}', where process {process.pid} on .* has worked "
                "since .*: wait for it, or choose another folder",
            ):
                refused()
        assert time.perf_counter() - start < 1
    finally:
        process.kill()
        process.join()
    (root / "models").mkdir()
    leftovers = [folder.generator, folder.split.path, folder.cache / f".x.npz.{'0' * 32}.part"]
    for path in (*leftovers, folder.cache / "kept.npz", root / "mine.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("of the run that was killed")
    leftovers.append(root / f".candidates.{'0' * 32}.part")
    leftovers[-1].mkdir()
    with caplog.at_level(logging.WARNING):
        run = folder.lock()
    assert "what the run of" in caplog.text and "models/generator.pt" in caplog.text
    assert not any(path.exists() for path in leftovers)
    assert (folder.cache / "kept.npz").exists() and (root / "mine.txt").exists()
    record = json.loads(folder.record.read_text())
    assert (record["run"], record["pid"], record["stage"]) == (run, os.getpid(), "train")
    assert record["version"] == __version__ and record["finished"] is None
    assert folder.lock() != run, "a process may begin again what it holds"
    folder.release()
    assert json.loads(folder.record.read_text())["finished"] is not None
    process = hold(root)
    process.kill()
    process.join()


def test_a_folder_of_no_known_run_is_not_touched(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.models.mkdir()
    folder.check_new()
    folder.generator.write_text("somebody's")
    for refused in (folder.check_new, folder.lock):
        with pytest.raises(FileExistsError, match="which holds 'models/generator.pt' already"):
            refused()
    assert folder.generator.read_text() == "somebody's" and not folder.record.exists()


def test_a_finished_run_is_claimed_for_its_evaluation_only(done: RunFolder) -> None:
    with pytest.raises(FileExistsError, match="which holds 'candidates' already: choose another"):
        done.lock()
    draft = done.root / f".results.json.{'0' * 32}.part"
    draft.write_text("half")
    assert done.lock("evaluate") == done.read_outcome()["run"]
    assert json.loads(done.record.read_text())["stage"] == "evaluate" and not draft.exists()
    done.check_files()
    done.release()


def test_results_are_replaced_when_asked_for(done: RunFolder) -> None:
    done.check_unevaluated()
    done.results.write_text("{}")
    with pytest.raises(
        FileExistsError,
        match=r"results.json alone, of an evaluation that was stopped after results.json: add "
        r"--replace True \(nothing is trained again\)",
    ):
        done.check_unevaluated()
    done.report.write_text("")
    with pytest.raises(FileExistsError, match="holds results.json and report.html: add --replace"):
        done.check_unevaluated()
    done.check_unevaluated(replace=True)


def test_an_evaluation_that_replaces_begins_without_the_old_results(done: RunFolder) -> None:
    """Else one that is stopped before its page would leave the old page beside new numbers."""
    outputs = [done.predictions, done.results, done.report]
    kept = [done.cache / "C-0.npz", done.root / "tensorboard" / "events", done.root / "mine.txt"]
    for path in (*outputs, *kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("old")
    with pytest.raises(FileExistsError, match="which holds results.json and report.html: add"):
        done.lock("evaluate")
    assert all(path.read_text() == "old" for path in (*outputs, *kept))
    done.lock("evaluate", replace=True)
    assert not any(path.exists() for path in outputs)
    assert all(path.read_text() == "old" for path in kept)
    done.check_files()
    done.release()


# -------------------------------------------------------------------------------------- provenance


def test_the_outcome_names_the_files_of_the_run(done: RunFolder) -> None:
    outcome = done.read_outcome()
    assert set(outcome["files"]) == set(MADE) - {"models/sources.pt"}
    assert outcome["version"] == __version__
    made = [path for path in done.candidates.rglob("*") if path.is_file()]
    assert outcome["files"]["candidates"]["files"] == len(made) > 18
    split = done.split.path.read_bytes()
    assert outcome["files"]["split.csv"]["bytes"] == len(split)
    assert outcome["run"] == json.loads(done.record.read_text())["run"]
    done.check_files()


def test_files_of_another_run_and_damaged_ones_are_refused(done: RunFolder) -> None:
    some = next(done.candidates.glob("*/*.png"))
    kept = some.read_bytes()
    some.unlink()
    with pytest.raises(
        ValueError, match=r"'.*candidates' must be as its run wrote it, \d+ file\(s\) of .*, got"
    ):
        done.check_files()
    some.write_bytes(kept)
    weights = bytearray(done.guide.read_bytes())
    weights[-200] ^= 1
    done.guide.write_bytes(weights)
    with pytest.raises(ValueError, match=r"'.*model.pt' must be .*, got other content: run the"):
        done.check_files()
    done.guide.unlink()
    with pytest.raises(ValueError, match=r"'.*model.pt' must be as its run wrote it.*got nothing"):
        sampling_of(done.models, {}, "bundle/models")
    done.sources.write_text("of another run")
    with pytest.raises(ValueError, match=r"got '.*sources.pt', which is of another: delete it"):
        done.check_files(["models/sources.pt"])


def test_inference_takes_the_files_of_a_run_that_came_to_its_end(
    done: RunFolder, tmp_path: Path
) -> None:
    shipped = {"steps": 12, "scale": 6.0, "extra": 0.5, "classes": ["a", "b"]}
    bundle = tmp_path / "bundle" / "models"
    made = sampling_of(done.models, shipped, bundle)
    assert adapted_weights(done.models) == done.generator and adapted_weights(bundle) is None
    assert (made["steps"], made["scale"], made["extra"]) == (4, 3.0, 0.5)
    assert made["classes"] == list(CLASSES)
    given = chosen_settings(made, None, steps=7, scale=None, size=64)
    assert given == replace(Sampler.settings, steps=7, size=64), "what is given, and the run's"
    assert chosen_settings(shipped, 4.0).stop == 4.0 and chosen_settings(shipped, 4.0).scale == 6.0
    assert sampling_of(bundle, shipped, f"{bundle}/") == shipped
    taken = tmp_path / "elsewhere" / "models"
    with pytest.raises(
        FileNotFoundError, match=r"the bundle's own, got '.*elsewhere/models', and"
    ):
        sampling_of(taken, shipped, bundle)
    done.outcome.unlink()
    with pytest.raises(FileNotFoundError, match="must have written 'outcome.json', got none in"):
        sampling_of(done.models, shipped, bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "'.*outcome.json' must be whole JSON, got"),
        (lambda text: "[]", "'.*outcome.json' must be a JSON object, got list"),
        (lambda text: text.replace('"files"', '"file"'), "must have the key 'files', got"),
    ],
)
def test_a_damaged_outcome_is_named(done: RunFolder, change: Any, message: str) -> None:
    text = done.outcome.read_text()
    done.outcome.write_text("\ufeff" + text, encoding="utf-8")
    done.check_files()
    done.outcome.write_text(change(text))
    with pytest.raises(ValueError, match=message):
        done.check_files()


def test_candidates_are_judged_by_the_patches_that_they_were_made_for(
    done: RunFolder, tmp_path: Path
) -> None:
    done.check_settings(draw=0, labels_per_class=25, other=3)
    with pytest.raises(
        ValueError,
        match="draw must be what the candidates were made with, 0, got 1: give --draw 0",
    ):
        done.check_settings(draw=1, labels_per_class=25)
    with pytest.raises(
        FileNotFoundError, match="the training stage must have written 'outcome.js"
    ):
        RunFolder(tmp_path / "other").check_settings(draw=0)


def test_a_training_stage_ends_with_all_that_an_evaluation_reads(
    parts: Parts, candidates: Candidates, tmp_path: Path
) -> None:
    labelled, known, test = parts
    patches = PatchSet.open([tmp_path / "train", tmp_path / "test"])
    task = Task(patches, labelled, known, 32, {"labels_per_class": 2, "draw": 0})
    rows = (torch.tensor([0, 0, 6]), torch.tensor([2, 7, 7]), torch.tensor([4]))
    described = tuple(torch.zeros(len(own), 5) for own in rows)
    sampler: Any = Sampler()
    sampler.sources = Sources(rows=rows, descriptors=described)
    critic = PatchCritic([torch.nn.Identity()], 3)
    judge: Any = SimpleNamespace(critic=critic, settings={})
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    folder.models.mkdir()
    torch.save({}, folder.guide)
    folder.finish(task, candidates, judge, sampler, {"quota": 4}, ("2 are blank",))
    assert folder.read_outcome()["found"] == ["2 are blank"]
    assert folder.read_outcome()["settings"] == {
        **{"labels_per_class": 2, "draw": 0, "quota": 4},
        **{"model_um_per_px": None, "patch_size": 32},
        **{"unlabelled_patches": 5, "pseudo_labelled": 2},
    }
    assert Sources.load(folder.sources, 3).counts == [3, 3, 1]
    folder.check(task)
    other = replace(task, asked={"labels_per_class": 3, "draw": 0})
    with pytest.raises(ValueError, match="labels_per_class must be what the candidates were made"):
        folder.check(other)
    with pytest.raises(ValueError, match="labelled patches must be those of the candidates"):
        folder.check(replace(task, labelled=labelled[1:]))
    folder.sources.unlink()
    with pytest.raises(ValueError, match=r"'.*sources.pt' must be as its run wrote it"):
        folder.check(task)


# ------------------------------------------------------------------------------------------- split


def test_every_patch_that_was_used_is_listed_with_its_role(parts: Parts, tmp_path: Path) -> None:
    labelled, known, test = parts
    folder = RunFolder(tmp_path / "run")
    assert folder.split.count() == 0, "the plan asks before there is one"
    with open(folder.split.write(known, labelled, test), newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = {
        role: [row for row in rows if row["role"] == role]
        for role in ("labelled", "unlabelled", "test")
    }
    counts = {role: len(of_role) for role, of_role in found.items()}
    assert counts == {"labelled": 6, "unlabelled": 5, "test": 6} and len(rows) == 17
    for role, part in (("labelled", labelled), ("test", test)):
        assert [(r["path"], r["label"], r["group"], r["sha256"]) for r in found[role]] == [
            (r.path, r.label, r.group, file)
            for r, file in zip(part.records, part.file_hashes(), strict=True)
        ]
    folder.split.check(labelled, test)


def test_no_cell_of_the_list_is_a_formula(parts: Parts, tmp_path: Path) -> None:
    labelled, known, test = parts
    odd = [replace(r, group=f"=1+{i}", label="@x") for i, r in enumerate(test.records)]
    folder = RunFolder(tmp_path)
    folder.split.write(known, labelled, PatchSet(test._sources, odd, test.classes))
    assert ",'@x,'=1+0,test," in folder.split.path.read_text()
    folder.split.check(labelled, test)


def test_test_patches_that_are_others_are_named(parts: Parts, tmp_path: Path) -> None:
    labelled, known, test = parts
    folder = RunFolder(tmp_path)
    folder.split.write(known, labelled, test)
    assert folder.split.changed(test) == [] == changed_warning([])
    first = test.records[0]
    for other in (
        [replace(first, group="new"), *test.records[1:]],
        [replace(first, label=test.classes[-1]), *test.records[1:]],
        [replace(first, extra={"um_per_px": "2"}), *test.records[1:]],
        test.records[1:],
    ):
        changed = folder.split.changed(PatchSet(test._sources, other, test.classes))
        assert changed == [first.path]
    ((word, sentence),) = changed_warning([first.path])
    assert word == "Other test patches." and sentence.startswith("1 of the test patches are not")


def with_group(patches: PatchSet, group: str) -> PatchSet:
    records = [replace(patches.records[0], group=group), *patches.records[1:]]
    return PatchSet(patches._sources, records, patches.classes)


def test_a_test_group_that_was_seen_is_refused(parts: Parts, tmp_path: Path) -> None:
    labelled, known, test = parts
    folder = RunFolder(tmp_path)
    folder.split.write(known, labelled, test)
    adapted_to = known.without(labelled)
    group = adapted_to.records[0].group
    renamed = with_group(adapted_to[:1], "by another name")
    for torn, name in ((with_group(test, group), group), (renamed, "by another name")):
        with pytest.raises(
            ValueError,
            match=f"must be new to the candidates, got 1 they were made with, such as '{name}'",
        ):
            folder.split.check(labelled, torn)


def test_sources_that_share_file_names_are_told_apart_in_the_list(tmp_path: Path) -> None:
    for k, name in enumerate(("one", "two")):
        items = [
            (PatchRecord(f"{i}.png", "AB"[i % 2], "", f"{name}{i}"), np.full((8, 8, 3), 9 * k + i))
            for i in range(3)
        ]
        write_patches(tmp_path / name, [(r, p.astype(np.uint8)) for r, p in items])
    patches = PatchSet.open([tmp_path / "one", tmp_path / "two"])
    one, two, test = patches.take([0, 1]), patches.take([3, 4]), patches.take([5])
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir(exist_ok=True)
    folder.split.write(patches.take([0, 1, 3, 4]), one, test)
    folder.split.check(one, test)
    assert folder.split.known(patches).records == patches.take([0, 1, 3, 4]).records
    with pytest.raises(ValueError, match="must be those of the candidates, got 2 that differ"):
        folder.split.check(two, test)


def test_other_labelled_patches_are_refused(parts: Parts, tmp_path: Path) -> None:
    labelled, known, test = parts
    folder = RunFolder(tmp_path)
    folder.split.write(known, labelled, test)
    first = labelled.records[0]
    edited = [
        PatchSet(
            labelled._sources,
            [replace(first, **change), *labelled.records[1:]],
            labelled.classes,
        )
        for change in (
            {"group": "new"},
            {"extra": {"um_per_px": "2"}},
            {"label": labelled.classes[-1]},
        )
    ]
    for other, number in ((labelled[1:], 1), (known, 5), *((part, 1) for part in edited)):
        with pytest.raises(
            ValueError,
            match=rf"must be those of the candidates, got {number} that differ \(.*\), such as '",
        ):
            folder.split.check(other, test)


def test_what_differs_is_told_and_a_renamed_folder_differs_in_nothing(tmp_path: Path) -> None:
    """Groups that nobody recorded begin with the folder's name."""
    for i in range(6):
        file = tmp_path / "old" / "AB"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(file)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    old, new = (PatchSet.open(tmp_path / name) for name in ("old", "new"))
    assert old.groups != new.groups
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir(exist_ok=True)
    folder.split.write(old[:5], old[:4], old[5:])
    folder.split.check(new[:4], new[5:])
    assert folder.split.changed(new[5:]) == []
    assert folder.split.known(new).groups == new.groups[:5]
    path = new.records[0].path
    edited = PatchSet(
        new._sources, [replace(new.records[0], label="B", group="p1"), *new.records[1:4]], "AB"
    )
    told = rf"got 1 that differ \(file.*\), such as '{path}' by its label and group: give the data"
    with pytest.raises(ValueError, match=told):
        folder.split.check(edited, new[5:])
    with pytest.raises(ValueError, match=f"such as '{path}' which is in one of them alone: give"):
        folder.split.check(new[1:4], new[5:])


def test_patches_are_known_by_the_list_not_drawn_anew(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Candidates name the nearest of them by its place."""
    labelled, known, test = parts
    folder = RunFolder(tmp_path)
    folder.split.write(known, labelled, test)
    root = Path(known._sources[0].root)
    for name in ("blue/0.png", "pink/zzz.png"):  # one more of each class: another draw
        Image.new("RGB", (32, 32)).save(root / name.replace("/", "_"))
    rows = (root / "manifest.csv").read_text().splitlines()
    more = ["blue_0.png,blue,train,new-1,", "pink_zzz.png,pink,train,new-2,"]
    (root / "manifest.csv").write_text("\n".join([rows[0], more[0], *rows[1:], more[1]]) + "\n")
    grown = PatchSet.open(root)
    assert labelled.extend(grown, 5, seed=0).records != known.records
    assert folder.split.known(grown).records == known.records and not caplog.text
    shown = known[7]["image"]
    assert torch.equal(folder.split.known(grown)[7]["image"], shown)
    name = known.records[7].path
    Image.new("RGB", (32, 32)).save(root / name)
    with pytest.raises(
        ValueError,
        match=f"got 1 of 11 that are missing or changed, such as '{name}'",
    ):
        folder.split.known(grown)
    lines = folder.split.path.read_text().splitlines()
    for told in ("got 1 of 11 that are missing or changed", "must have the columns .*'sha256'"):
        lines = [line.rsplit(",", 1)[0] for line in lines]  # without scale, and without hashes
        folder.split.path.write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=told):
            folder.split.known(grown)


def test_a_run_without_the_list_or_with_a_damaged_one_is_refused(
    parts: Parts, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    acts = (lambda: folder.split.check(parts[0], parts[2]), lambda: folder.split.known(parts[1]))
    for act in acts:
        with pytest.raises(
            FileNotFoundError, match="stage must have written 'split.csv', got none in"
        ):
            act()
    text = folder.split.write(parts[1], parts[0], parts[2]).read_text()
    damages = {
        "": "must have the columns",
        text.replace("role", "part", 1): "must have the columns .*'role'.* got none named",
        text.splitlines()[0] + "\n": "must list at least one patch, got none",
        text.rstrip()[:-70]: "must have the 6 cells of the header, got .* is the file cut",
    }
    for damaged, message in damages.items():
        folder.split.path.write_text(damaged)
        for act in acts:
            with pytest.raises(ValueError, match=f"{message}.*: run the training stage again"):
                act()
    folder.split.path.write_text("\ufeff" + text, encoding="utf-8")
    folder.split.check(parts[0], parts[2])
