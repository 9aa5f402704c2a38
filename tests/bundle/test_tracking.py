"""The figures of an evaluation reach TensorBoard and MLflow as they are in ``results.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_histodiff.bundle.tracking import check_tracking, figures_of, track_results
from monai_histodiff.bundle.verdict_folder import VerdictFolder

RESULTS: dict[str, Any] = {
    "seeds": [0, 4],
    "arms": {
        "C": {"accuracy": [0.5, 0.75], "auc": [0.5, None]},
        "G": {"accuracy": [0.625, 0.875], "auc": [0.25, 0.5]},
    },
    "differences": {"G-C": {"accuracy": {"mean": 0.125, "low": -0.25, "high": 0.5}}},
    "settings": {"draw": 3},
    "verdict": "It helps.",
    "claim": "helps",
}


@pytest.fixture
def folder(tmp_path: Path) -> VerdictFolder:
    found = VerdictFolder(tmp_path / "out")
    found.root.mkdir()
    found.results.write_text(json.dumps(RESULTS), encoding="utf-8")
    found.report.write_text("<p>It helps.</p>", encoding="utf-8")
    return found


def test_a_seed_is_a_row_and_the_differences_stand_beside_the_last() -> None:
    first, last = figures_of(RESULTS)
    assert first == {"accuracy/C": 0.5, "auc/C": 0.5, "accuracy/G": 0.625, "auc/G": 0.25}
    assert last == {
        "accuracy/C": 0.75,
        "accuracy/G": 0.875,
        "auc/G": 0.5,
        "accuracy/G-C/mean": 0.125,
        "accuracy/G-C/low": -0.25,
        "accuracy/G-C/high": 0.5,
    }


def test_nothing_is_written_unasked(folder: VerdictFolder) -> None:
    before = sorted(folder.root.rglob("*"))
    track_results(folder)
    assert sorted(folder.root.rglob("*")) == before


def test_tensorboard_shows_the_figures_of_the_last_evaluation(folder: VerdictFolder) -> None:
    for _ in range(2):
        track_results(folder, tensorboard=True)
    assert len([*(folder.root / "tensorboard").iterdir()]) == 1, "replaced with its results"
    events = EventAccumulator(str(folder.root / "tensorboard")).Reload()
    rows = figures_of(RESULTS)
    assert set(events.Tags()["scalars"]) == {*rows[0], *rows[1]}
    for name in events.Tags()["scalars"]:
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == {i + 1: row[name] for i, row in enumerate(rows) if name in row}, name


def test_mlflow_keeps_figures_settings_and_report(folder: VerdictFolder, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is in the extra tracking")
    uri = f"sqlite:///{tmp_path / 'mlruns.db'}"
    track_results(folder, mlflow_uri=uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("monai_histodiff")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "out" and found.info.status == "FINISHED"
    rows = figures_of(RESULTS)
    assert {k: v for k, v in found.data.metrics.items()} == {**rows[0], **rows[1]}
    assert [m.value for m in client.get_metric_history(found.info.run_id, "accuracy/G")] == [
        0.625,
        0.875,
    ]
    assert found.data.params["draw"] == "3" and found.data.params["claim"] == "helps"
    assert [a.path for a in client.list_artifacts(found.info.run_id)] == ["report.html"]


def test_a_missing_package_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tracking({"tensorboard": False, "mlflow_uri": ""})
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"mlflow_uri needs the package mlflow, .*\[tracking\]"):
        check_tracking({"tensorboard": False, "mlflow_uri": "sqlite:///x.db"})
