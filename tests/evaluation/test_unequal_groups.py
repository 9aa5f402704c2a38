"""Intervals of metrics other than balanced accuracy, where groups differ much in size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_histodiff.evaluation.metrics import METRICS, metric_table
from monai_histodiff.evaluation.statistics import jackknife, leave_out
from monai_histodiff.evaluation.verdict import compare_arms

OTHERS = ("macro_f1", "auc", "ece", "worst_recall")
UNEQUAL = (40, 20, 15, 10, 8, 5, 4, 3, 2, 2, 1, 1)


def evaluation(
    rng: np.random.Generator, sizes: tuple[int, ...], seeds: int = 5
) -> tuple[dict[str, list[NDArray[np.float64]]], NDArray[np.int64], list[str]]:
    """Two arms that are alike: each has its own hard patients, of all three classes."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.integers(0, 3, len(group))
    shared = rng.normal(0, 1, (len(group), 3)) + rng.normal(0, 0.6, (len(sizes), 3))[group]
    arms: dict[str, list[NDArray[np.float64]]] = {}
    for arm in "CG":
        own = rng.normal(0, 0.6, (len(sizes), 3))[group]
        right = 1.2 + rng.normal(0, 0.6, len(sizes))[group]
        for _ in range(seeds):
            level = shared + own + rng.normal(0, 0.5, shared.shape)
            level[np.arange(len(labels)), labels] += right
            chance = np.exp(level)
            arms.setdefault(arm, []).append(chance / chance.sum(1, keepdims=True))
    return arms, labels, [f"{g:02}" for g in group]


def test_unequal_groups_count_for_as_many_equal_ones() -> None:
    rng = np.random.default_rng(0)
    for sizes in (UNEQUAL, (7,) * 12):
        arms, labels, groups = evaluation(rng, sizes)
        weights = leave_out(groups)
        table = np.stack([metric_table(arms["C"][0], labels, weights)])
        n = np.array(sizes)
        assert jackknife(weights, table).freedom == pytest.approx(n.sum() ** 2 / (n @ n) - 1)


def test_where_one_group_holds_nearly_all_no_interval_is_shown() -> None:
    arms, labels, groups = evaluation(np.random.default_rng(1), (200, *(4,) * 11))
    found = compare_arms(arms, labels, groups, ["a", "b", "c"], ["G-C"])
    for row in (found["differences"]["G-C"], found["intervals"]["C"]):
        for metric in OTHERS:
            assert np.isnan([row[metric]["low"], row[metric]["high"]]).all()
        assert np.isfinite(row["balanced_accuracy"]["low"]), "it has estimates of its own"


def test_intervals_of_unequal_groups_cover_the_truth() -> None:
    rng, covered = np.random.default_rng(0), []
    for _ in range(250):
        arms, labels, groups = evaluation(rng, UNEQUAL, seeds=3)
        weights = leave_out(groups)
        tables = [np.stack([metric_table(p, labels, weights) for p in arms[a]]) for a in "GC"]
        low, high = jackknife(weights, *tables).interval()
        covered.append([low[m] <= 0 <= high[m] for m in map(METRICS.index, OTHERS)])
    assert (np.mean(covered, 0) >= 0.95).all(), "with one degree for each group it was 91 to 94 %"
