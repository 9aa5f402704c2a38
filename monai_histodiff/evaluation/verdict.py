"""From the test probabilities of all arms to metrics, differences, claims and the verdict, as
plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_histodiff.evaluation.metrics import (
    METRICS,
    Array,
    Labels,
    class_recall,
    classification_metrics,
    reliability,
)
from monai_histodiff.evaluation.statistics import bootstrap_metrics, holm, summarise

__all__ = ["CLAIM", "PRIMARY", "compare_arms", "verdict"]

PRIMARY = "G-C"
CLAIM = "balanced_accuracy"
LEVEL = 0.05
POINTS = 100


def compare_arms(
    probabilities: Mapping[str, Sequence[Array]],
    labels: Labels,
    groups: Sequence[str],
    classes: Sequence[str],
    comparisons: Sequence[str],
    draws: int = 1000,
) -> dict[str, Any]:
    """Metrics of every arm and seed, differences with intervals, claims, recall and reliability.

    The claims are the ``comparisons`` whose arms are there, in balanced accuracy; their p-values
    are corrected for one another by Holm's method. That of :data:`PRIMARY` has a ``sentence``.

    Args:
        probabilities: arm to test probabilities ``N x K``, one array for each seed, the same seeds
            in every arm.
        labels: test labels, shape ``N``.
        groups: the group of each test patch.
        classes: names of the ``K`` classes.
        comparisons: pairs of arms, such as ``"G-C"``; those of which an arm is missing are left
            out.
        draws: bootstrap draws of the test groups.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    recall: dict[str, dict[str, list[float]]] = {}
    for arm, runs in probabilities.items():
        each = [classification_metrics(p, labels) for p in runs]
        scores[arm] = {m: [e[m] for e in each] for m in METRICS}
        per_class = [class_recall(p, labels) for p in runs]
        recall[arm] = {name: [float(r[k]) for r in per_class] for k, name in enumerate(classes)}
    tables = {
        a: bootstrap_metrics(r, labels, groups, draws)
        for a, r in tqdm(probabilities.items(), desc="bootstrap")
    }
    pairs = {name: name.split("-") for name in comparisons}
    found = {
        name: summarise(tables[a] - tables[b])
        for name, (a, b) in pairs.items()
        if a in tables and b in tables
    }
    return {
        "arms": scores,
        "intervals": _intervals(
            {arm: summarise(table, bounds=(0, 1)) for arm, table in tables.items()}
        ),
        "differences": _intervals(found),
        "claims": _claims(
            {name: metrics[CLAIM] for name, metrics in found.items()},
            len(next(iter(probabilities.values()), ())),
        ),
        "recall": recall,
        "reliability": {
            a: reliability(np.concatenate(r), np.tile(labels, len(r)))
            for a, r in probabilities.items()
        },
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
    return {
        name: {metric: {k: row[k] for k in keys} for metric, row in metrics.items()}
        for name, metrics in found.items()
    }


def verdict(
    difference: Mapping[str, float],
    seeds: int,
    metric: str = "balanced accuracy",
    adjusted: float | None = None,
    claims: int = 1,
) -> tuple[str, str]:
    """What the interval of G - C says: the outcome in a word, and in a plain sentence.

    Args:
        difference: ``mean``, ``low`` and ``high``, as fractions, and ``detectable`` where it is
            known.
        seeds: trainings of each arm. Below 3 the interval says too little about training noise,
            and no claim is made.
        metric: its name in the sentence.
        adjusted: Holm-adjusted p-value; a claim needs it below 0.05 too. ``None``: this is the
            only claim.
        claims: number of claims that it is adjusted for.

    Returns:
        ``"helps"``, ``"hurts"``, ``"same"`` or ``"soft"`` (no verdict), and the sentence.
    """
    mean, low, high = (POINTS * difference[k] for k in ("mean", "low", "high"))
    change = f"{metric} changed by {mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if seeds < 3:
        return (
            "soft",
            f"No difference shown, for want of seeds: {change}, but with {seeds} of at least 3 "
            "this may be training noise.",
        )
    if (low > 0 or high < 0) and adjusted is not None and not adjusted < LEVEL:
        corrected = f"its p-value, corrected for {claims} claims, is {adjusted:.2f}"
        return (
            "same",
            f"No difference shown: {change}; the interval excludes zero, but {corrected}.",
        )
    if low > 0:
        return "helps", f"The selected synthetic patches help: {change}."
    if high < 0:
        return "hurts", f"The selected synthetic patches hurt: {change}. Do not use them."
    least = POINTS * difference.get("detectable", float("nan"))
    power = (
        ""
        if np.isnan(least)
        else f" Only a true change of {least:.1f} points or more would be found four times in five."
    )
    return "same", f"No difference shown: {change}.{power}"
