"""From the test probabilities of all arms to metrics, differences, claims and the verdict, as
plain values.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_histodiff.evaluation.answers import checked_answers
from monai_histodiff.evaluation.metrics import (
    METRICS,
    Array,
    Labels,
    class_recall,
    classification_metrics,
    metric_table,
    reliability,
)
from monai_histodiff.evaluation.statistics import (
    Draw,
    Estimate,
    balanced_estimate,
    holm,
    jackknife,
    leave_out,
)

__all__ = [
    "CLAIM",
    "PRIMARY",
    "claims_of",
    "compare_arms",
    "describe",
    "last_word",
    "pseudonym",
    "shortfalls",
    "verdict",
]

PRIMARY = "G-C"
CLAIM = "balanced_accuracy"
LEVEL = 0.05
POINTS = 100
LEAST_SEEDS, LEAST_GROUPS, LEAST_GROUPS_OF_A_CLASS = 3, 10, 2
LEAST_EQUAL_OF_A_CLASS = 1.4  # equal groups that its own must count for, in all classes but one


def shortfalls(
    labels: Labels, groups: Sequence[str], classes: Sequence[str], seeds: int
) -> list[str]:
    """Why nothing may be claimed from a test set: a sentence for each rule that it does not meet.

    Args:
        labels: test labels, shape ``N``.
        groups: the group of each test patch.
        classes: names of the ``K`` classes.
        seeds: trainings of each arm.
    """
    inside: dict[int, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels.tolist(), groups, strict=True):
        inside[label][group] += 1
    found, count = [], len(set(groups))
    if seeds < LEAST_SEEDS:
        found.append(
            f"A claim needs at least {LEAST_SEEDS} seeds, got {seeds}: with fewer, training noise "
            "is not known. Give more of them (seeds)."
        )
    if count < LEAST_GROUPS:
        found.append(
            f"A claim needs at least {LEAST_GROUPS} test groups (patients), got {count}: what "
            "differs between groups is not known from fewer. Test on more of them."
        )
    few = {
        name: len(inside[k])
        for k, name in enumerate(classes)
        if len(inside[k]) < LEAST_GROUPS_OF_A_CLASS
    }
    if few:
        told = ", ".join(f"{number} of class '{name}'" for name, number in few.items())
        found.append(
            f"A claim needs test groups of every class, at least {LEAST_GROUPS_OF_A_CLASS}, got "
            f"{told}. Test on more patients with it, or leave the class out."
        )
    counts = {name: [*inside[k].values()] for k, name in enumerate(classes) if name not in few}
    equal = {name: sum(n) ** 2 / sum(m * m for m in n) for name, n in counts.items()}
    heavy = {name: number for name, number in equal.items() if number < LEAST_EQUAL_OF_A_CLASS}
    if len(heavy) > 1:
        told = ", ".join(f"{number:.2f} of class '{name}'" for name, number in heavy.items())
        found.append(
            f"A claim needs test groups that count for at least {LEAST_EQUAL_OF_A_CLASS} equal "
            f"ones, in all classes but one, got {told}: one group holds nearly all of their "
            "patches. Test on more patches of other patients, or on fewer of the one."
        )
    return found


def compare_arms(
    probabilities: Mapping[str, Sequence[Array]],
    labels: Labels,
    groups: Sequence[str],
    classes: Sequence[str],
    comparisons: Sequence[str],
    accepted: int = 1,
) -> dict[str, Any]:
    """Metrics of every arm and seed, differences with intervals, claims, recall and reliability.

    The claims are the ``comparisons`` whose arms are there, in balanced accuracy; their p-values
    are corrected for one another by Holm's method. That of :data:`PRIMARY` has a ``sentence``.

    Args:
        probabilities: arm to test probabilities ``N x K``, one array for each seed, the same seeds
            in every arm.
        labels: test labels, shape ``N``, whole numbers from 0.
        groups: the group of each test patch, repeated in the outcome: see :func:`pseudonym`.
        classes: names of the ``K`` classes.
        comparisons: pairs of arms, such as ``"G-C"``; those of which an arm is missing are left
            out.
        accepted: synthetic patches that were accepted; without any nothing is claimed.

    Raises:
        ValueError: an arm has no run or another number of them than the others, a patch has no
            group, two classes have one name, a comparison is not one of two arms, labels are no
            whole numbers, or probabilities are not of ``N x K``, not finite, below 0, or rows do
            not sum to 1.
    """
    probabilities, labels = checked_answers(probabilities, labels, groups, classes, comparisons)
    seeds = len(next(iter(probabilities.values()), ()))
    scores: dict[str, dict[str, list[float]]] = {}
    recall: dict[str, dict[str, list[float]]] = {}
    for arm, runs in probabilities.items():
        each = [classification_metrics(p, labels) for p in runs]
        scores[arm] = {m: [e[m] for e in each] for m in METRICS}
        per_class = [class_recall(p, labels) for p in runs]
        recall[arm] = {name: [float(r[k]) for r in per_class] for k, name in enumerate(classes)}
    weights = leave_out(groups)
    tables = {
        arm: np.stack([metric_table(p, labels, weights) for p in runs])
        for arm, runs in probabilities.items()
    }
    hits = {
        arm: np.stack([(p.argmax(1) == labels).astype(float) for p in runs])
        for arm, runs in probabilities.items()
    }

    def estimates(treated: str, control: str | None = None) -> dict[str, Estimate]:
        arms = [treated] if control is None else [treated, control]
        found = jackknife(weights, *(tables[arm] for arm in arms))
        every = {m: found.at(i) for i, m in enumerate(METRICS)}
        for metric, strata in (("accuracy", np.zeros_like(labels)), (CLAIM, labels)):
            answers = [hits[arm][None] for arm in arms]
            draw = Draw(answers[0], answers[1] if control else None, strata, np.asarray(groups))
            every[metric] = balanced_estimate([draw]).at(0)
        return every

    pairs = {name: name.split("-") for name in comparisons}
    differences = {
        name: estimates(a, b) for name, (a, b) in pairs.items() if a in tables and b in tables
    }
    unmet = shortfalls(labels, groups, classes, seeds)
    if not accepted:
        unmet.append("A claim needs accepted synthetic patches, got none: arm G is arm C.")
    return {
        "arms": scores,
        "intervals": {arm: _intervals(estimates(arm), 0) for arm in probabilities},
        "differences": {name: _intervals(found, -1) for name, found in differences.items()},
        "claims": claims_of({name: found[CLAIM] for name, found in differences.items()}, unmet),
        "recall": recall,
        "reliability": {
            a: reliability(np.concatenate(r), np.tile(labels, len(r)))
            for a, r in probabilities.items()
        },
        "shortfalls": unmet,
        "test": {"labels": labels.tolist(), "groups": list(groups)},
        "hits": {
            arm: ["".join("1" if hit else "0" for hit in run) for run in runs]
            for arm, runs in hits.items()
        },
    }


def last_word(claims: Mapping[str, Any], accepted: int) -> tuple[str, str]:
    """The claim of a run in a word, and its sentence.

    Args:
        claims: of :func:`compare_arms`.
        accepted: synthetic patches that were accepted.
    """
    if not accepted:
        return "inconclusive", "Not tested: no synthetic patch was accepted, so arm G is arm C."
    if PRIMARY not in claims:
        return "inconclusive", "Not tested: arm G was not run."
    return claims[PRIMARY]["claim"], claims[PRIMARY]["sentence"]


def pseudonym(group: str) -> str:
    """Tells groups of several runs apart without naming patients."""
    return hashlib.sha256(group.encode()).hexdigest()[:12]


def describe(found: Estimate, lowest: float = -1) -> dict[str, float]:
    """``mean``, ``low``, ``high``, within what is possible; no interval where no error is known.

    Args:
        found: one value.
        lowest: the lowest possible value; the highest is 1.
    """
    low, high = (float(side) for side in found.interval())
    if not float(found.error) > 0:
        low = high = math.nan
    return {"mean": float(found.mean), "low": max(low, lowest), "high": min(high, 1.0)}


def _intervals(found: Mapping[str, Estimate], lowest: float) -> dict[str, dict[str, float]]:
    return {metric: describe(estimate, lowest) for metric, estimate in found.items()}


def claims_of(found: Mapping[str, Estimate], unmet: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The claims of differences, as in :func:`compare_arms`, with rules that are not met."""
    adjusted = holm({name: float(estimate.p()) for name, estimate in found.items()})
    claims: dict[str, dict[str, Any]] = {}
    tested = sum(not math.isnan(p) for p in adjusted.values())
    for name, estimate in found.items():
        row = {**describe(estimate), "detectable": float(estimate.detectable(tested))}
        claim, sentence = verdict(row, unmet, adjusted=adjusted[name], claims=tested)
        claims[name] = {
            "p": float(estimate.p()),
            "detectable": math.nan if unmet else row["detectable"],
            "group_error": float(estimate.group_variance) ** 0.5,
            "run_error": float(estimate.run_variance) ** 0.5,
            "freedom": float(estimate.freedom),
            "p_holm": adjusted[name],
            "claim": claim,
        }
        if name == PRIMARY:
            claims[name]["sentence"] = sentence
    return claims


def verdict(
    difference: Mapping[str, float],
    unmet: Sequence[str] = (),
    adjusted: float | None = None,
    claims: int = 1,
) -> tuple[str, str]:
    """What the interval of G - C says: the claim in a word, and in a plain sentence.

    Args:
        difference: ``mean``, ``low`` and ``high``, as fractions, and ``detectable`` where it is
            known.
        unmet: rules of :func:`shortfalls` that the run does not meet: then nothing is claimed.
        adjusted: Holm-adjusted p-value; a claim needs it below 0.05 too. ``None``: this is the
            only claim.
        claims: number of claims that it is adjusted for.

    Returns:
        ``"helps"``, ``"hurts"`` or ``"inconclusive"``, and the sentence.
    """
    mean, low, high = (POINTS * difference[k] for k in ("mean", "low", "high"))
    unknown = math.isnan(low + high)
    shown = [f"{round(value, 1) + 0.0:+.1f}" for value in (mean, low, high)]  # never -0.0
    interval = "no interval" if unknown else f"95 % interval {shown[1]} to {shown[2]}"
    change = f"balanced accuracy changed by {shown[0]} points ({interval})"
    if unmet:
        return "inconclusive", f"Not tested: {change}, but nothing is claimed. {' '.join(unmet)}"
    if (low > 0 or high < 0) and adjusted is not None and not adjusted < LEVEL:
        corrected = f"its p-value, corrected for {claims} claims, is {adjusted:.2f}"
        return (
            "inconclusive",
            f"Inconclusive: {change}; the interval excludes zero, but {corrected}.",
        )
    if low > 0:
        return "helps", f"The selected synthetic patches help: {change}."
    if high < 0:
        return "hurts", f"The selected synthetic patches hurt: {change}. Do not use them."
    least = POINTS * difference.get("detectable", math.nan)
    power = (
        ""
        if math.isnan(least)
        else f" Only a true change of {least:.1f} points or more would be found "
        "four times in five."
    )
    return "inconclusive", f"Inconclusive: {change}.{power}"
