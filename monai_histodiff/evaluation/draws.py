"""Several evaluations combined: draws of the labelled patches, and label counts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_histodiff.evaluation.statistics import holm

__all__ = ["by_label_count", "combine", "read_results"]

METRIC = "balanced_accuracy"
SAMPLES = 100_000


def read_results(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Read ``results.json`` files.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: none is given, one lacks what is combined here, the data sets differ, or a draw
            occurs twice.
    """
    if not paths:
        raise ValueError("at least one results.json is needed, got none")
    found: list[dict[str, Any]] = []
    seen: set[tuple[int | str, int]] = set()
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"results must be a file, got '{path}'")
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        if missing := [
            key
            for key in ("arms", "claims", "differences", "dataset", "settings")
            if key not in results
        ]:
            raise ValueError(f"results must hold {', '.join(missing)}, got none in '{path}'")
        if results["dataset"]["path"] != (first := (found or [results])[0]["dataset"]["path"]):
            raise ValueError(
                "results must be of one data set, "
                f"got '{first}' and '{results['dataset']['path']}'"
            )
        key = (results["settings"]["labels_per_class"], results["settings"]["draw"])
        if key in seen:
            raise ValueError(
                "each draw must occur once, "
                f"got draw {key[1]} with {key[0]} labels per class twice, in '{path}'"
            )
        seen.add(key)
        found.append(results)
    return found


def combine(runs: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Differences in balanced accuracy, combined over draws of the labelled patches.

    The test groups are taken to be the same in every draw, as they are where a data set comes with
    its split; their noise is then not reduced by more draws. Where they differ, the interval is
    too wide. A single draw keeps interval and p of its own
    report: there is nothing to combine.

    Args:
        runs: the results of each draw, of one label count.
        seed: of the simulated noise.

    Returns:
        For each comparison that all draws have: ``mean``, ``low``, ``high``, ``p`` and ``p_holm``.
    """
    names = [name for name in runs[0]["claims"] if all(name in run["claims"] for run in runs)]
    found = {
        name: _over_draws(runs, name, seed) if len(runs) > 1 else _reported(runs[0], name)
        for name in names
    }
    adjusted = holm({name: row["p"] for name, row in found.items()})
    return {name: {**row, "p_holm": adjusted[name]} for name, row in found.items()}


def _reported(run: Mapping[str, Any], name: str) -> dict[str, float]:
    return {**run["differences"][name][METRIC], "p": float(run["claims"][name]["p"])}


def _over_draws(runs: Sequence[Mapping[str, Any]], name: str, seed: int) -> dict[str, float]:
    values = np.array([run["differences"][name][METRIC]["mean"] for run in runs])
    groups = float(np.mean([run["claims"][name]["group_error"] ** 2 for run in runs])) ** 0.5
    error = float(values.std(ddof=1)) / len(runs) ** 0.5
    rng = np.random.default_rng(seed)
    noise = groups * rng.standard_normal(SAMPLES) + error * rng.standard_t(len(runs) - 1, SAMPLES)
    samples = np.clip(values.mean() + noise, -1, 1)
    side = min((samples <= 0).sum(), (samples >= 0).sum())
    low, high = np.quantile(samples, [0.025, 0.975])
    p = min(1.0, 2 * (side + 1) / (SAMPLES + 1))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "p": float(p)}


def by_label_count(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Runs by label count, from few to many, ``"all"`` last."""
    counts = sorted(
        {run["settings"]["labels_per_class"] for run in results},
        key=lambda n: (isinstance(n, str), n),
    )
    return {
        str(n): [run for run in results if run["settings"]["labels_per_class"] == n]
        for n in counts
    }
