"""Options that two stages share, and numbers that are refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import WritePatchSet
from monai.bundle import ConfigWorkflow

from monai_histodiff.bundle.errors import told
from monai_histodiff.bundle.results import describe_dataset
from monai_histodiff.commands.check import main as check
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.options.docs import config_files
from monai_histodiff.options.table import options_of

BUNDLES = Path(__file__).parents[2] / "bundles"
GUIDANCE = BUNDLES / "histopathology_guidance"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("monai_histodiff.bundle.preparation.measure_speed", lambda *_: (1.0, ""))
    monkeypatch.chdir(tmp_path)


def refused(name: str, **overrides: Any) -> str:
    root = BUNDLES if name in ("finetune", "verdict") else GUIDANCE
    given = {"bundle_root": str(root), "device": "cpu", "output_dir": "out", **overrides}
    with pytest.raises(Exception) as caught:
        ConfigWorkflow(config_files(BUNDLES, name), logging_file=False, **given).initialize()
    line = told(caught.value)
    assert line is not None, caught.value
    return line


@pytest.mark.parametrize("stage", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("output_dir", "elsewhere"), ("test_fraction", 0.2), ("draw", 3)],
)
def test_stages_of_one_run_agree(stage: str, key: str, value: Any) -> None:
    line = refused("finetune", **{f"{stage}#{key}": value})
    assert line.startswith(f"{key} must be the same in both stages, got ")
    assert line.endswith(f"give --train#{key} and --evaluate#{key} one value")


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_bfloat16_where_it_is_emulated(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_histodiff.utils.bfloat16._native", lambda kind: False)
    with pytest.warns(UserWarning, match="bfloat16 is True, but this cpu emulates it"):
        refused("finetune", **{f"{stage}#bfloat16": True, f"{stage}#draw": 3})


def test_stages_read_one_data_set(write_patch_set: WritePatchSet, tmp_path: Path) -> None:
    data = str(write_patch_set(tmp_path / "set", 12, 1, side=128))
    assert "dataset_dir must be the same" in refused("finetune", **{"train#dataset_dir": data})


@pytest.mark.parametrize("name", ["finetune", "evaluate", "verdict", "inference", "ldm inference"])
def test_a_seed_that_no_training_takes_is_refused(name: str) -> None:
    known, most = options_of(name)["seeds"], 2**32 - 1
    known.check([0, most])
    with pytest.raises(ValueError, match=f"at most {most}, got .*: give {most} or less"):
        known.check([0, most + 1])
    with pytest.raises(ValueError, match="num_workers must be a whole number, .*, got 100000"):
        options_of("evaluate")["num_workers"].check(100000)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--test_fraction", "2"], "test_fraction must be a number, above 0, at most 1, got 2.0"),
        (["--test_fraction", "nan"], "test_fraction must be a number, above 0, at most 1, got na"),
        (["--draw", "-1"], "draw must be a whole number, at least 0, at most 4294967295, got -1"),
        (
            ["--um_per_px", "0"],
            "um_per_px must be a number, at least 0.02, at most 16, or None, got 0.0",
        ),
        (["--seeds", "100000000"], "seeds must be a number of them, from 2 to 1000, got 100000"),
    ],
)
def test_the_check_command_refuses_numbers_at_once(
    given: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        check(["nowhere", *given])
    assert line in capsys.readouterr().err


def test_a_data_set_that_is_here_has_the_name_of_its_folder(
    write_patch_set: WritePatchSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = PatchSet.open(write_patch_set(tmp_path / "lung", per_class=2))
    monkeypatch.chdir(tmp_path / "lung")
    assert describe_dataset(".", patches, patches)["path"] == "lung"
