"""Several evaluations combined: draws of the labelled patches, label counts, data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    "read_results",
    "rejudged",
]

KEYS = ("arms", "claims", "differences", "dataset", "settings", "hits", "test", "shortfalls")
# "critic_losses" is in results of 0.17 and before
OF_A_DRAW = ("draw", "critic_losses", "pseudo_labelled", "unlabelled_patches")
CERTAIN = 5  # wrong answers in common from which on equal answers are no coincidence
WITHIN = {"settings": ("labels_per_class", "draw"), "dataset": ("path",), "test": ()}
Run = Mapping[str, Any]


def read_results(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Read ``results.json`` files.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: none is given, one is no JSON, lacks what is combined here or contradicts
            itself, a draw occurs twice (also under two numbers), draws have other settings or
            classes, or two data sets have one name or one has two.
    """
    if not paths:
        raise ValueError("at least one results.json is needed, got none")
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, int | str, int]] = set()
    digests: dict[str, str] = {}
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"results must be a file, got '{path}'")
        try:
            results = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"results must be JSON as evaluate.yaml writes it, got '{path}' ({error}): "
                "run the evaluation again, its trainings are kept in the cache"
            ) from None
        if missing := _missing(results):
            raise ValueError(
                f"results must hold {', '.join(missing)}, got none in '{path}': if an earlier "
                "version wrote it, run evaluate.yaml again, its trainings are kept in the cache"
            )
        _check(results, path)
        settings, name = results["settings"], results["dataset"]["path"]
        key = (name, settings["labels_per_class"], settings["draw"])
        if key in seen:
            raise ValueError(
                f"each draw must occur once, got draw {key[2]} with {key[1]} labels per class of "
                f"{name} twice, in '{path}'"
            )
        seen.add(key)
        digest = results["dataset"].get("sha256")  # of versions before 0.11 it is not known
        if digest and digests.setdefault(name, digest) != digest:
            raise ValueError(
                f"results of '{name}' must be of one data set, got two of that name, the second in"
                f" '{path}': rename the folder of one, and evaluate it again"
            )
        for other in found:
            _check_beside(results, other, path)
        found.append(results)
    return found


def _check_beside(results: Run, other: Run, path: str | os.PathLike[str]) -> None:
    """Refuse results that are not another draw, or another data set, beside these."""
    names = [run["dataset"]["path"] for run in (results, other)]
    digests = [run["dataset"].get("sha256") for run in (results, other)]
    if names[0] != names[1]:
        if digests[0] and digests[0] == digests[1]:
            raise ValueError(
                f"data sets must differ, got one under two names, '{names[1]}' and '{names[0]}' "
                f"in '{path}': its patients would count twice; leave one out"
            )
        return
    classes = [run["dataset"].get("classes") for run in (results, other)]
    if all(classes) and classes[0] != classes[1]:
        raise ValueError(
            f"draws of '{names[0]}' must have the same classes, got {classes[1]} and {classes[0]} "
            f"in '{path}': combine them apart"
        )
    mine, theirs = ({**run["settings"], "foreign": "foreign" in run} for run in (results, other))
    if mine["labels_per_class"] != theirs["labels_per_class"]:
        return
    for key in [key for key in mine if key in theirs and key not in OF_A_DRAW]:
        if mine[key] != theirs[key]:
            raise ValueError(
                f"draws of '{names[0]}' must have the same settings, got {key} {theirs[key]!r} "
                f"and {mine[key]!r} in '{path}': combine them apart"
            )
    answers = results["hits"].get("C", [])
    wrong = sum(run.count("0") for run in answers)
    same = results["test"] == other["test"] and answers == other["hits"].get("C")
    if same and wrong >= CERTAIN:
        raise ValueError(
            f"draws must differ, got the same answers of arm C in draw {theirs['draw']} and in "
            f"draw {mine['draw']} of '{names[0]}', in '{path}': labelled patches and seeds are "
            "the same, and would count twice; leave one out"
        )


def _missing(results: Any) -> list[str]:
    """Keys, and keys within them, that are not there."""
    if not isinstance(results, dict):
        return [*KEYS]
    parts = {key: results[key] for key in WITHIN if isinstance(results.get(key), dict)}
    lacking = [f"{key}#{k}" for key, part in parts.items() for k in WITHIN[key] if k not in part]
    return [key for key in KEYS if key not in results or key in {*WITHIN} - {*parts}] + lacking


def _check(results: Run, path: str | os.PathLike[str]) -> None:
    """Refuse answers that do not fit the test patches."""
    labels, groups = results["test"].get("labels", []), results["test"].get("groups", [])
    if not labels or len(labels) != len(groups):
        raise ValueError(
            f"each test patch must have a label and a group, got {len(labels)} labels and "
            f"{len(groups)} groups in '{path}'"
        )
    classes = results["dataset"].get("classes")
    most = len(classes) if classes else len(labels)
    if not all(isinstance(k, int) and 0 <= k < most for k in labels):
        raise ValueError(
            f"test labels must be class indices from 0 to {most - 1}, got others in '{path}'"
        )
    for arm, runs in results["hits"].items():
        for run in runs:
            if len(run) != len(labels) or set(run) - {"0", "1"}:
                raise ValueError(
                    f"hits must be one digit, 0 or 1, for each of the {len(labels)} test patches, "
                    f"got {len(run)} characters in arm {arm} of '{path}'"
                )
    for name in results["claims"]:
        first, second = (results["hits"].get(arm, []) for arm in name.split("-"))
        if not first or not second:
            raise ValueError(f"hits must be there for both arms of {name}, got none in '{path}'")


def _answers(run: Run, arm: str) -> np.ndarray:
    return np.array([[digit == "1" for digit in hits] for hits in run["hits"][arm]], float)[None]


def _estimate(runs: Sequence[Run], name: str) -> Estimate:
    first, second = name.split("-")
    return balanced_estimate(
        [
            Draw(
                _answers(run, first),
                _answers(run, second),
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
        For each comparison that all draws have: ``mean``, ``low``, ``high``, ``p``, ``p_holm`` and
        ``claim``, in a word.
    """
    return _rows({name: _estimate(runs, name) for name in _names(runs)}, runs)


def rejudged(run: Run, accepted: int) -> dict[str, Any]:
    """Claims, differences in balanced accuracy, and shortfalls of one run, made anew from which
    of its answers were right (``hits``), where the probabilities are not at hand.

    Args:
        run: the results, of :func:`read_results`.
        accepted: synthetic patches that were accepted; without any nothing is claimed.
    """
    classes = run["dataset"].get("classes") or list(run["recall"]["C"])
    labels, groups = np.array(run["test"]["labels"], np.int64), run["test"]["groups"]
    seeds = min(len(hits) for hits in run["hits"].values())
    unmet = shortfalls(labels, groups, classes, seeds)
    if not accepted:
        unmet.append("A claim needs accepted synthetic patches, got none: arm G is arm C.")
    found = {name: _only(_estimate([run], name)) for name in run["claims"]}
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
    return _rows(found, [run for runs in sets for run in runs])


def _names(runs: Sequence[Run]) -> list[str]:
    return [name for name in runs[0]["claims"] if all(name in run["claims"] for run in runs)]


def _rows(found: Mapping[str, Estimate], runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    unmet = list(dict.fromkeys(sentence for run in runs for sentence in _unmet(run)))
    single = {name: _only(estimate) for name, estimate in found.items()}
    p = {name: float(estimate.p()) for name, estimate in single.items()}
    adjusted, rows = holm(p), {}
    for name, estimate in single.items():
        row = describe(estimate)
        word, _ = verdict(row, unmet, adjusted=adjusted[name], claims=len(found))
        rows[name] = {**row, "p": p[name], "p_holm": adjusted[name], "claim": word}
    return rows


def _unmet(run: Run) -> list[str]:
    """Why nothing may be claimed from a run: what it says itself, and what its answers say."""
    labels = np.array(run["test"]["labels"], np.int64)
    classes = run["dataset"].get("classes") or [str(k) for k in range(labels.max() + 1)]
    seeds = min(len(run["hits"][arm]) for name in run["claims"] for arm in name.split("-"))
    return [*run["shortfalls"], *shortfalls(labels, run["test"]["groups"], classes, seeds)]


def _only(found: Estimate) -> Estimate:
    parts = (found.mean, found.group_variance, found.run_variance, found.freedom)
    return Estimate(*(np.asarray(part)[0] for part in parts))


def by_data_set(results: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the name of their data set, in the order in which these first occur."""
    names = dict.fromkeys(str(run["dataset"]["path"]) for run in results)
    return {name: [run for run in results if run["dataset"]["path"] == name] for name in names}


def by_label_count(results: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label count, from few to many, ``"all"`` last."""
    counts = sorted(
        {run["settings"]["labels_per_class"] for run in results},
        key=lambda n: (isinstance(n, str), n),
    )
    return {
        str(n): [run for run in results if run["settings"]["labels_per_class"] == n]
        for n in counts
    }
