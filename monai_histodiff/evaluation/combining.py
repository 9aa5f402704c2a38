"""Several evaluations combined: draws of the labelled patches, label counts, data sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_histodiff.evaluation.statistics import (
    Draw,
    Estimate,
    balanced_estimate,
    combined,
    holm,
)
from monai_histodiff.evaluation.verdict import claims_of, describe, shortfalls, verdict

__all__ = [
    "by_data_set",
    "by_label_count",
    "combine",
    "combine_sets",
    "hits_of",
    "label_key",
    "rejudged",
]

LEAST_DRAWS, LEAST_DRAWS_OF_A_SET = 3, 2
Run = Mapping[str, Any]


def hits_of(run: Run, arm: str) -> np.ndarray:
    """Which answers of an arm were right: 1 or 0, ``1 x seeds x patches``."""
    return np.array([[digit == "1" for digit in hits] for hits in run["hits"][arm]], float)[None]


def _estimate(runs: Sequence[Run], name: str) -> Estimate:
    first, second = name.split("-")
    return balanced_estimate(
        [
            Draw(
                hits_of(run, first),
                hits_of(run, second),
                np.array(run["test"]["labels"], np.int64),
                np.array(run["test"]["groups"]),
            )
            for run in runs
        ]
    )


def combine(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Differences in balanced accuracy, combined over draws of the labelled patches.

    Test groups that several draws share are known by their pseudonyms, so that their noise is
    neither counted as if it were new in each draw nor left out. A single draw has the interval of
    its own report.

    Args:
        runs: the results of each draw, of one label count of one data set.

    Returns:
        For each comparison that all draws have: ``mean``, ``low``, ``high``, ``p``, ``p_holm``,
        ``claim``, in a word, and ``unmet``, sentences on why nothing may be claimed.
    """
    return _rows({name: _estimate(runs, name) for name in _names(runs)}, [runs])


def rejudged(run: Run, accepted: int) -> dict[str, Any]:
    """Claims, differences in balanced accuracy, and shortfalls of one run, made anew from which
    of its answers were right (``hits``), where the probabilities are not at hand.

    Args:
        run: the results, of :func:`~monai_histodiff.evaluation.results_files.read_results`.
        accepted: synthetic patches that were accepted; without any nothing is claimed.
    """
    labels, groups = np.array(run["test"]["labels"], np.int64), run["test"]["groups"]
    classes = _classes(run)
    seeds = min(len(hits) for hits in run["hits"].values())
    unmet = shortfalls(labels, groups, classes, seeds)
    if not accepted:
        unmet.append("A claim needs accepted synthetic patches, got none: arm G is arm C.")
    found = {name: _estimate([run], name).at(0) for name in run["claims"]}
    differences = {
        name: {**run["differences"][name], "balanced_accuracy": describe(estimate)}
        for name, estimate in found.items()
    }
    return {
        "claims": claims_of(found, unmet),
        "differences": {**run["differences"], **differences},
        "shortfalls": unmet,
    }


def combine_sets(sets: Sequence[Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Mean difference over data sets, each combined over its draws.

    The interval is for these data sets: new groups, draws and trainings of them, not for others.

    Args:
        sets: the runs of each data set, of one label count.

    Returns:
        As :func:`combine`.
    """
    names = [name for name in _names(sets[0]) if all(name in _names(runs) for runs in sets)]
    found = {name: combined([_estimate(runs, name) for runs in sets]) for name in names}
    return _rows(found, sets)


def _names(runs: Sequence[Run]) -> list[str]:
    return [name for name in runs[0]["claims"] if all(name in run["claims"] for run in runs)]


def _rows(
    found: Mapping[str, Estimate], sets: Sequence[Sequence[Run]]
) -> dict[str, dict[str, Any]]:
    single = {name: estimate.at(0) for name, estimate in found.items()}
    p = {name: float(estimate.p()) for name, estimate in single.items()}
    few = _few_draws([len(runs) for runs in sets])
    adjusted, rows = holm(p), {}
    for name, estimate in single.items():
        unmet = [why for runs in sets for run in runs for why in _unmet(run, name)]
        unmet = list(dict.fromkeys([*unmet, *few]))
        row = describe(estimate)
        word, _ = verdict(row, unmet, adjusted=adjusted[name], claims=len(found))
        own = {"p": p[name], "p_holm": adjusted[name], "claim": word, "unmet": unmet}
        rows[name] = {**row, **own}
    return rows


def _few_draws(counts: Sequence[int]) -> list[str]:
    """Why nothing may be claimed for new draws; one draw of one set is for that draw alone.

    Args:
        counts: draws of each data set.
    """
    least = LEAST_DRAWS if len(counts) == 1 else LEAST_DRAWS_OF_A_SET
    if list(counts) == [1] or min(counts) >= least:
        return []
    of = "" if len(counts) == 1 else " of every data set"
    return [
        f"A claim needs at least {least} draws of the labelled patches{of}, got "
        f"{', '.join(map(str, counts))}: how much draws differ is not known from fewer. Evaluate "
        "more of them (draw)."
    ]


def _unmet(run: Run, name: str) -> list[str]:
    """Why nothing may be claimed of a comparison: what the run says itself, of all of them and of
    this one, and what its answers say.
    """
    labels = np.array(run["test"]["labels"], np.int64)
    classes = _classes(run)
    seeds = min(len(run["hits"][arm]) for arm in name.split("-"))
    own = run["claims"][name].get("withheld")
    told = [*run["shortfalls"], *([own] if own else [])]
    return [*told, *shortfalls(labels, run["test"]["groups"], classes, seeds)]


def _classes(run: Run) -> list[str]:
    """Class names, or their numbers where the names are not recorded."""
    most = max(run["test"]["labels"])
    return list(run["dataset"].get("classes") or map(str, range(most + 1)))


def by_data_set(results: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the name of their data set, in the order in which these first occur."""
    names = dict.fromkeys(str(run["dataset"]["path"]) for run in results)
    return {name: [run for run in results if run["dataset"]["path"] == name] for name in names}


def by_label_count(results: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label count, from few to many: numbers, then shares, ``"all"`` last."""
    found: dict[tuple[int, float], list[Run]] = {}
    for run in results:
        found.setdefault(label_key(run["settings"]["labels_per_class"]), []).append(run)
    return {
        str(runs[0]["settings"]["labels_per_class"]): runs for _, runs in sorted(found.items())
    }


def label_key(count: int | str) -> tuple[int, float]:
    """Equal for equal ``labels_per_class``, such as 5 % and 5.0 %, and in their order."""
    text = str(count)
    if re.fullmatch(r"\d+(\.\d+)?%", text):
        return 1, float(text[:-1])
    return (0, int(text)) if text.isdecimal() else (2, 0)
