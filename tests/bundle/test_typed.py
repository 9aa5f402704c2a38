"""A path is taken as it was typed, or refused: never another one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from monai_histodiff.bundle import preparation
from monai_histodiff.bundle.errors import told
from monai_histodiff.commands import main_job
from monai_histodiff.options.docs import config_files
from monai_histodiff.options.table import options_of
from monai_histodiff.options.typed import check_typed

BUNDLES = Path(__file__).parents[2] / "bundles"
REFUSED = [
    (["--dataset_dir", "cohort#2"], "dataset_dir must be a path without '#', which begins a comm"),
    (["--output_dir=/x/out#1"], "got '/x/out#1': rename the folder, or link to it under another"),
    (["--train#output_dir", "a#b"], "train#output_dir must be a path without '#'"),
    (["--train::output_dir", "a#b"], "train::output_dir must be a path without '#'"),
    (["-dataset-dir", "a #b"], "dataset_dir must be a path without '#'"),
    (["--draw", "1", "--dataset_dir", "2024_05"], "as 202405: give --dataset_dir ./2024_05"),
    (["--dataset_dir=1e5"], "got '1e5', which Python reads as 100000.0: give --dataset_dir ./1e5"),
    (["--dataset_dir", "a,b"], "./a,b; put several sets into one folder"),
    (["--dataset_dir", "[set]"], "reads as ['set']: give --dataset_dir ./[set]; put several"),
    (["--dataset_dir", "(old)"], "reads as the text 'old': give --dataset_dir ./(old)"),
    (["--dataset_dir", "Mu\u0308nchen"], "as the text 'M\\xfcnchen': give --dataset_dir ./M"),
    (["--dataset_dir", "None"], "which Python reads as None: give --dataset_dir ./None"),
    (["--dataset_dir", "b'x'"], "which Python reads as b'x'"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED)
def test_a_path_that_python_reads_otherwise_is_refused(
    argv: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError) as caught:
        check_typed(argv)
    assert message in str(caught.value)
    monkeypatch.setattr(main_job, "run", lambda **_: pytest.fail("it runs"))
    with pytest.raises(SystemExit):
        main_job.main(argv)
    assert message in capsys.readouterr().err
    monkeypatch.setattr(preparation, "by_command", lambda: True)
    monkeypatch.setattr(sys, "argv", ["monai", "run", *argv])
    with pytest.raises(ValueError) as caught:
        preparation.prepare("train")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--dataset_dir", "/data/a b.zip", "--output_dir", "./2024_05", "-x"],
        ["--dataset_dir", "'2024_05'", "--output_dir", '"2024"'],
        ["--dataset_dir", "@train#dataset_dir", "--output_dir", "$@ldm_dir + '#'"],
        ["--train#quota", "7", "--optimizer#output_dir", "7", "--labels_per_class=5%"],
        ["--dataset_dir", "", "--output_dir", "a-1.b", "--dataset_dir"],
        ["--class", "1#2", "2024_05", "dataset_dir=5"],
    ],
)
def test_other_texts_are_taken(argv: list[str]) -> None:
    check_typed(argv)


def test_no_other_process_has_a_command_line_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "--dataset_dir", "5#"])
    assert preparation.prepare("train").steps == []


@pytest.mark.parametrize("key", ["dataset_dir", "output_dir", "train#output_dir"])
def test_a_path_that_monai_rewrites_is_refused(key: str) -> None:
    given = {"bundle_root": str(BUNDLES), "device": "cpu", key: "/x/out#1"}
    with pytest.raises(Exception) as caught:
        ConfigWorkflow(config_files(BUNDLES, "finetune"), logging_file=False, **given).initialize()
    name = key.split("#")[-1]
    assert told(caught.value) == (
        f"{name} must be a path without '#', which is '::' to MONAI, got '/x/out::1': rename the "
        "folder, or link to it under another name"
    )


def test_several_paths_are_no_number() -> None:
    with pytest.raises(ValueError, match="give one path: put the sets into one folder$"):
        options_of("train")["dataset_dir"].check(["a", "b"])
    with pytest.raises(ValueError, match="without '#'"):
        options_of("train")["dataset_dir"].check(Path("a#b"))
