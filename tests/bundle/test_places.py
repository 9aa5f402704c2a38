"""No run removes what it has not written, or is given what it will write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import WritePatchSet
from monai.bundle import ConfigWorkflow

from monai_histodiff.bundle import RunFolder, VerdictFolder
from monai_histodiff.bundle.checks import _check_apart
from monai_histodiff.bundle.errors import told
from monai_histodiff.bundle.tracking import track_results
from monai_histodiff.options.docs import config_files

BUNDLES = Path(__file__).parents[2] / "bundles"
GUIDANCE = BUNDLES / "histopathology_guidance"
ROOTS = {"finetune": BUNDLES, "verdict": BUNDLES, "train": GUIDANCE, "evaluate": GUIDANCE}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def refused(name: str, **overrides: Any) -> str:
    root = ROOTS.get(name, BUNDLES / "histopathology_ldm")
    given = {"bundle_root": str(root), "device": "cpu", **overrides}
    with pytest.raises(Exception) as caught:
        ConfigWorkflow(config_files(BUNDLES, name), logging_file=False, **given).initialize()
    line = told(caught.value)
    assert line is not None, caught.value
    return line


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


MINE = ("accepted/lung_n/0.png", "second/thesis.txt", "results.json")


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("replace", [False, True])
def test_a_verdict_removes_only_what_a_verdict_wrote(
    name: str, replace: bool, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    folder = VerdictFolder(tmp_path)
    for stage in (None, "train"):
        if stage:
            (tmp_path / "run.json").write_text(json.dumps({"stage": stage}))
        for call in (folder.check, folder.lock):
            with pytest.raises(FileExistsError, match="and no verdict has written it: choose"):
                call(replace)
    assert (tmp_path / name).read_text() == "mine"


def test_what_a_verdict_left_half_done_makes_room(tmp_path: Path) -> None:
    folder = VerdictFolder(tmp_path / "out")
    folder.lock()
    (folder.root / "accepted").mkdir()
    folder.release()
    folder.lock()
    assert not (folder.root / "accepted").exists()
    folder.release()


def test_a_training_stage_removes_only_what_one_left(tmp_path: Path) -> None:
    """The record of a verdict does not make candidates those of an unfinished training."""
    (tmp_path / "candidates").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"stage": "verdict"}))
    with pytest.raises(FileExistsError, match="which holds 'candidates' already"):
        RunFolder(tmp_path).lock()
    (tmp_path / "run.json").write_text(json.dumps({"stage": "train"}))
    RunFolder(tmp_path).check_new()


def test_figures_replace_figures_alone(tmp_path: Path) -> None:
    folder = VerdictFolder(tmp_path)
    rows = {"arms": {"C": {"auc": [0.5]}}, "seeds": [0], "differences": {}}
    folder.results.write_text(json.dumps(rows))
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "notes.txt").write_text("mine")
    for _ in range(2):
        track_results(folder, tensorboard=True)
    assert len(found := files(tmp_path / "tensorboard")) == 2 and found["notes.txt"] == b"mine"


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("verdict", {"synthetic_dir": "set", "output_dir": "set"}),
        ("verdict", {"synthetic_dir": "out/accepted", "output_dir": "out", "replace": True}),
        ("verdict", {"synthetic_dir": "set", "second_dir": "out/second", "output_dir": "out"}),
        ("verdict", {"synthetic_dir": "classes", "output_dir": "classes/a/../b"}),
        ("finetune", {"dataset_dir": "classes", "output_dir": "classes/new"}),
        ("train", {"dataset_dir": "out/bank", "output_dir": "out"}),
        ("train", {"dataset_dir": "link", "output_dir": "classes/new"}),
        ("evaluate", {"dataset_dir": "set", "output_dir": "set"}),
        ("ldm train_encoder", {"dataset_dir": "out", "output_dir": "out"}),
        ("ldm train_decoder", {"initial_weights": "out/model.pt", "output_dir": "out"}),
    ],
)
def test_what_is_read_lies_apart_from_what_is_written(
    name: str, places: dict[str, Any], write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    for folder in ("set", "classes", "out/accepted", "out/second", "out/bank"):
        write_patch_set(tmp_path / folder, per_class=1)
    (tmp_path / "classes" / "manifest.csv").unlink()
    (tmp_path / "out/model.pt").touch()
    (tmp_path / "link").symlink_to("classes")
    before = files(tmp_path)
    line = refused(name, **places)
    assert (
        "output_dir must lie apart from " in line and f"got '{places['output_dir']}' and" in line
    )
    assert files(tmp_path) == before


@pytest.mark.parametrize("path", ["$HOME/set", "@home", "@seeds", "$1/0"])
@pytest.mark.parametrize("key", ["dataset_dir", "output_dir"])
def test_a_path_that_monai_would_compute_is_told(key: str, path: str) -> None:
    line = refused("train", **{key: path})
    assert line.startswith(f"{key} must be ") and f"--{key} ./NAME" in line


@pytest.mark.parametrize(
    "places",
    [
        {"dataset_dir": "set", "output_dir": "."},
        {"dataset_dir": "set.zip", "output_dir": "."},
        {"dataset_dir": "out/set.zip", "output_dir": "out"},
        {"dataset_dir": "set", "output_dir": "set/out"},
        {"dataset_dir": "shelf", "sources": ["set"], "output_dir": "shelf/out"},
    ],
)
def test_places_that_nothing_endangers_are_taken(
    places: dict[str, Any], write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    write_patch_set(tmp_path / "set", per_class=1)
    _check_apart(places)


def test_a_path_with_an_at_sign_is_a_path() -> None:
    assert "dataset_dir must exist, got 'me@home/set'" in refused(
        "train", dataset_dir="me@home/set"
    )
    assert "got none in 'me@home'" in refused("evaluate", output_dir="me@home")
