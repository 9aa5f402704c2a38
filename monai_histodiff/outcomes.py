"""From the test probabilities of all arms to metrics, differences, claims and the verdict, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_histodiff.comparisons import bootstrap_metrics, holm, summarise, verdict
from monai_histodiff.metrics import METRICS, Array, Labels, class_recall, classification_metrics, reliability

__all__ = ["CLAIM", "PRIMARY", "compare_arms"]

PRIMARY = "G-C"
CLAIM = "balanced_accuracy"


def compare_arms(
    probabilities: Mapping[str, Sequence[Array]],
    labels: Labels,
    groups: Sequence[str],
    classes: Sequence[str],
    comparisons: Sequence[str],
    draws: int = 1000,
) -> dict[str, Any]:
    """Metrics of every arm and seed, differences with intervals, claims, recall and reliability.

    The claims are the ``comparisons`` whose arms are there, in balanced accuracy; their p-values are corrected for one another
    by Holm's method. That of :data:`PRIMARY` has a ``sentence``.

    Args:
        probabilities: arm to test probabilities ``N x K``, one array for each seed, the same seeds in every arm.
        labels: test labels, shape ``N``.
        groups: the group of each test patch.
        classes: names of the ``K`` classes.
        comparisons: pairs of arms, such as ``"G-C"``; those of which an arm is missing are left out.
        draws: bootstrap draws of the test groups.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    recall: dict[str, dict[str, list[float]]] = {}
    for arm, runs in probabilities.items():
        each = [classification_metrics(p, labels) for p in runs]
        scores[arm] = {m: [e[m] for e in each] for m in METRICS}
        per_class = [class_recall(p, labels) for p in runs]
        recall[arm] = {name: [float(r[k]) for r in per_class] for k, name in enumerate(classes)}
    tables = {a: bootstrap_metrics(r, labels, groups, draws) for a, r in tqdm(probabilities.items(), desc="bootstrap")}
    pairs = {name: name.split("-") for name in comparisons}
    found = {name: summarise(tables[a] - tables[b]) for name, (a, b) in pairs.items() if a in tables and b in tables}
    return {
        "arms": scores,
        "intervals": _intervals({arm: summarise(table, bounds=(0, 1)) for arm, table in tables.items()}),
        "differences": _intervals(found),
        "claims": _claims({name: metrics[CLAIM] for name, metrics in found.items()}, len(next(iter(probabilities.values()), ()))),
        "recall": recall,
        "reliability": {a: reliability(np.concatenate(r), np.tile(labels, len(r))) for a, r in probabilities.items()},
    }


def _claims(found: Mapping[str, Mapping[str, float]], seeds: int) -> dict[str, dict[str, Any]]:
    adjusted = holm({name: row["p"] for name, row in found.items()})
    claims = {}
    for name, row in found.items():
        outcome, sentence = verdict(row, seeds, adjusted=adjusted[name], claims=len(found))
        extra = {key: row[key] for key in ("p", "detectable", "group_error", "seed_error")}
        claims[name] = {**extra, "p_holm": adjusted[name], "outcome": outcome}
        if name == PRIMARY:
            claims[name]["sentence"] = sentence
    return claims


def _intervals(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    keys = ("mean", "low", "high")
    return {name: {metric: {k: row[k] for k in keys} for metric, row in metrics.items()} for name, metrics in found.items()}
