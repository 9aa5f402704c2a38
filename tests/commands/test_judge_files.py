"""``histodiff-judge`` on files that are damaged, changed or not there: one line, and a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_judge import finished

from monai_histodiff.commands.judge import main


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"versions": None}, "versions of results must be a mapping, got None in"),
        ({"selection": {}}, "selection#accepted of results must be a whole number, got none in"),
        ({"selection": {"accepted": None}}, "selection#accepted of results must be a whole num"),
        ({"notes": 5}, "notes of results must be a list of texts, got 5 in"),
        ({"files": None}, "files of results must be number, bytes and sha256 of each file"),
        (
            {"foreign": {}},
            "foreign#sets of results must be a list of mappings, with counts of",
        ),
        ({"foreign": {"sets": [{"classes": {"a": 5}}]}}, "with counts of each class, got"),
        (
            {"foreign": {"sets": [{"classes": {"a": {"pictures": 9, "right": 3}}}]}},
            "with counts of each class, got",
        ),
        ({"foreign": {"sets": [{"pictures": None}]}}, "must count what each set holds, got no"),
    ],
)
def test_results_of_another_shape_end_in_one_line(
    changed: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = finished(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({**results, **changed}))
    for run in (tmp_path, tmp_path / "results.json"):
        if "files" in changed and run != tmp_path:
            continue
        with pytest.raises(SystemExit) as stop:
            main([str(run)])
        assert stop.value.code == 1 and line in capsys.readouterr().err


def test_predictions_of_another_run_send_to_the_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = finished(tmp_path)
    results["files"]["predictions.npz"]["sha256"] = "0" * 64
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    told = capsys.readouterr().err
    assert "got other content: run the evaluation again" in told and "training stage" not in told


def test_what_is_not_there_is_named_and_what_is_judged_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
    told = capsys.readouterr().err
    assert told.startswith("a run must have 'results.json', got none in '") and "Errno" not in told
    finished(tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--output", str(tmp_path / "results.json")])
    assert "output must be a new file, got" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before
