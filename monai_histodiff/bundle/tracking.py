"""The figures of an evaluation, for TensorBoard and MLflow, through MONAI's handlers: as a
training writes its losses, so that both stand side by side there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler
from monai.utils import optional_import

from monai_histodiff.bundle.results_folder import ResultsFolder
from monai_histodiff.utils.files import read_json

__all__ = ["check_tracking", "figures_of", "track_results"]

PACKAGES = {"tensorboard": "tensorboard", "mlflow_uri": "mlflow"}


def check_tracking(values: Mapping[str, Any]) -> None:
    """Refuse options whose package is missing.

    Raises:
        ValueError: it names the package and the extra.
    """
    for option, package in PACKAGES.items():
        if values[option] and not optional_import(package)[1]:
            rule = f"{option} needs the package {package}, got none"
            raise ValueError(f"{rule}: pip install 'monai-histodiff[tracking]'")


def figures_of(results: Mapping[str, Any]) -> list[dict[str, float]]:
    """What is tracked of ``results.json``: for each seed, in order, every metric of every arm as
    ``metric/arm``; beside the last the differences too, as ``metric/arm-arm/mean``, ``low`` and
    ``high``. Figures that there are not (an AUC without a class) are left out.
    """
    arms = results["arms"]
    rows: list[dict[str, float]] = [{} for _ in results["seeds"]]
    for arm, metrics in arms.items():
        for metric, values in metrics.items():
            for row, value in zip(rows, values, strict=True):
                row[f"{metric}/{arm}"] = value
    for pair, metrics in results["differences"].items():
        for metric, found in metrics.items():
            for bound in ("mean", "low", "high"):
                rows[-1][f"{metric}/{pair}/{bound}"] = found[bound]
    return [{k: float(v) for k, v in row.items() if v is not None} for row in rows]


def track_results(folder: ResultsFolder, tensorboard: bool = False, mlflow_uri: str = "") -> None:
    """Write the figures of a finished evaluation where they are asked for; a seed is an epoch.

    Args:
        folder: holds ``results.json`` and ``report.html``.
        tensorboard: write them into its folder ``tensorboard``.
        mlflow_uri: of MLflow, such as ``sqlite:///mlruns.db``, whose experiment
            ``monai_histodiff`` gets a run with the figures, the settings, the claim, and the
            report as an artifact; empty: none.
    """
    results = read_json(folder.results)
    rows = figures_of(results)
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.ITERATION_COMPLETED)
    def show(engine: Engine) -> None:
        engine.state.metrics = rows[engine.state.epoch - 1]

    if tensorboard:
        log_dir = str(folder.root / "tensorboard")
        for events in Path(log_dir).glob("events.out.tfevents.*"):  # of results that were replaced
            events.unlink()
        writer = TensorBoardStatsHandler(log_dir=log_dir, iteration_log=False)
        writer.attach(engine)
        engine.add_event_handler(Events.COMPLETED, writer.close)
    if mlflow_uri:
        said = {name: results[name] for name in ("verdict", "claim") if name in results}
        MLFlowHandler(
            tracking_uri=mlflow_uri,
            iteration_log=False,
            experiment_name="monai_histodiff",
            run_name=Path(os.path.abspath(folder.root)).name,
            experiment_param={**results.get("settings", {}), **said},
            artifacts=[str(folder.report)],
            close_on_complete=True,
        ).attach(engine)
    if tensorboard or mlflow_uri:
        engine.run([None], max_epochs=len(rows))
