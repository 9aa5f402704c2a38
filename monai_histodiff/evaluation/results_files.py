"""``results.json`` files: what they must hold, and which of them may be combined."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_histodiff.evaluation.combining import hits_of, label_key
from monai_histodiff.evaluation.methods import compare_methods
from monai_histodiff.evaluation.results_kinds import REMEDY, check_kinds
from monai_histodiff.utils.files import read_json

__all__ = ["read_results"]

KEYS = ("arms", "claims", "differences", "dataset", "settings", "hits", "test", "shortfalls")
CERTAIN = 5  # wrong answers in common from which on equal answers are no coincidence
WITHIN = {"settings": ("labels_per_class", "draw"), "dataset": ("path",), "test": ()}
Run = Mapping[str, Any]


def read_results(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Read ``results.json`` files.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: none is given, one is no JSON, lacks what is combined here or contradicts
            itself, a draw occurs twice (also under two numbers, or as all patches that train),
            draws are of other methods or classes, results answer two questions, or two data sets
            have one name or share test groups.
    """
    if not paths:
        raise ValueError("at least one results.json is needed, got none")
    found: list[dict[str, Any]] = []
    for path in paths:
        results = _read(path)
        for other in found:
            if _same_set(results, other):  # a zip, and the folder that it was: one name for both
                results["dataset"]["path"] = other["dataset"]["path"]
            _check_beside(results, other, path)
        found.append(results)
    return found


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"results must be a file, got '{path}'")
    results = read_json(path, remedy=REMEDY)
    if missing := _missing(results):
        raise ValueError(f"results must hold {', '.join(missing)}, got none in '{path}': {REMEDY}")
    check_kinds(results, path)
    _check(results, path)
    return results


def _missing(results: Run) -> list[str]:
    """Keys, and keys within them, that are not there."""
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
    if not all(0 <= k < most for k in labels):
        raise ValueError(
            f"test labels must be class indices from 0 to {most - 1}, got others in '{path}'"
        )
    if not all(results["hits"].values()) or not results["hits"]:
        raise ValueError(f"hits must be there for every arm, got none in '{path}'")
    for arm, runs in results["hits"].items():
        for run in runs:
            if len(run) != len(labels) or set(run) - {"0", "1"}:
                raise ValueError(
                    f"hits must be one digit, 0 or 1, for each of the {len(labels)} test patches, "
                    f"got {len(run)} characters in arm {arm} of '{path}'"
                )
    for name in results["claims"]:
        if not all(arm in results["hits"] for arm in name.split("-")):
            raise ValueError(f"hits must be there for both arms of {name}, got none in '{path}'")
        if name not in results["differences"]:
            raise ValueError(f"differences must hold {name}, a claim, got none in '{path}'")
    for arm, metrics in results["arms"].items():
        _check_figures(results, arm, metrics, path)


def _check_figures(
    results: Run, arm: str, metrics: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Refuse figures of an arm that are not those of its answers."""
    trainings = len(results["hits"].get(arm, ()))
    if {*map(len, metrics.values())} - {trainings}:
        raise ValueError(
            f"arms must hold one figure for each of the {trainings} trainings in hits, got "
            f"others for arm {arm} in '{path}'"
        )
    if not trainings:
        return
    (right,), labels = hits_of(results, arm), np.array(results["test"]["labels"])
    shares = [right[:, labels == k].mean(1) for k in np.unique(labels)]
    known = {"accuracy": right.mean(1), "balanced_accuracy": np.mean(shares, 0)}
    for metric, figures in known.items():
        if metric in metrics and not np.allclose(np.array(metrics[metric], float), figures):
            raise ValueError(
                f"{metric} of arm {arm} must be that of its answers (hits), got "
                f"{metrics[metric]} for {figures.tolist()} in '{path}': {REMEDY}"
            )


def _same_set(results: Run, other: Run) -> bool:
    """Whether both are of the very same patches; before 0.11 it is not known."""
    own = results["dataset"].get("sha256")
    return bool(own) and own == other["dataset"].get("sha256")


def _check_beside(results: Run, other: Run, path: str | os.PathLike[str]) -> None:
    """Refuse results that are not another draw, or another data set, beside these."""
    asked = ["verdict.json" if "foreign" in run else "evaluate.yaml" for run in (other, results)]
    if asked[0] != asked[1]:
        raise ValueError(
            f"results must answer one question, got those of {asked[0]} and of {asked[1]}, the "
            f"second in '{path}': combine them apart"
        )
    mine, theirs = (run["dataset"] for run in (results, other))
    if mine["path"] != theirs["path"]:
        both = f"'{theirs['path']}' and '{mine['path']}' in '{path}'"
        if mine.get("pictures") and mine["pictures"] == theirs.get("pictures"):
            raise ValueError(
                f"data sets must be of pictures of their own, got the very same ones in {both}: "
                "they would count twice; leave one out"
            )
        groups = [{*run["test"]["groups"]} for run in (results, other)]
        shared = groups[0] & groups[1]
        if 2 * len(shared) >= min(map(len, groups)):  # fewer may have one name by chance
            raise ValueError(
                f"data sets must have test groups of their own, got {len(shared)} in both of "
                f"{both}: leave one out; or, if other patients have the same names, give them "
                "others in its manifest, and evaluate it again (the trainings are in the cache)"
            )
        return
    if mine.get("sha256") and theirs.get("sha256") and not _same_set(results, other):
        raise ValueError(
            f"results of '{mine['path']}' must be of one data set, got two of that name, the "
            f"second in '{path}': rename the folder of one, and evaluate it again"
        )
    if mine.get("classes") and theirs.get("classes") and mine["classes"] != theirs["classes"]:
        raise ValueError(
            f"draws of '{mine['path']}' must have the same classes, got {theirs['classes']} and "
            f"{mine['classes']} in '{path}': combine them apart"
        )
    mine, theirs = (run["settings"]["labels_per_class"] for run in (results, other))
    if label_key(mine) == label_key(theirs):
        _check_draw(results, other, path)


def _check_draw(results: Run, other: Run, path: str | os.PathLike[str]) -> None:
    """Refuse what is no other draw of the same method, with as many labels of one data set."""
    name, draws = results["dataset"]["path"], [r["settings"]["draw"] for r in (other, results)]
    if draws[0] == draws[1]:
        raise ValueError(
            f"each draw must occur once, got draw {draws[0]} with "
            f"{results['settings']['labels_per_class']} labels per class of {name} twice, in "
            f"'{path}'"
        )
    for key, before, now in compare_methods(other, results):
        raise ValueError(
            f"draws of '{name}' must have the same settings, got {key} {before} and {now} in "
            f"'{path}': combine them apart"
        )
    if results["test"] != other["test"]:
        return
    if (number := _all_labelled(results)) and number == _all_labelled(other):
        raise ValueError(
            f"draws must be of other labelled patches, got all {number} that train in both draws "
            f"{draws} of '{name}', in '{path}': leave one out, and give the other more seeds"
        )
    if _repeats(results, other):
        raise ValueError(
            f"draws must differ, got the same answers of arm C in draw {draws[0]} and in "
            f"draw {draws[1]} of '{name}', in '{path}': labelled patches and seeds are the same, "
            "and would count twice; leave one out"
        )


def _all_labelled(run: Run) -> int:
    """Number of the labelled patches where these are all that train; 0 where they are drawn, or
    that is not recorded.
    """
    counts = run["dataset"].get("counts") or {}
    labelled = counts.get("labelled")
    return sum(labelled.values()) if labelled and labelled == counts.get("train") else 0


def _repeats(one: Run, two: Run) -> bool:
    """Whether a training of arm C, of whichever seed, is in both results: its answers are, wrong
    ones among them. Classifiers that have learned nothing, or all, may answer alike: that these
    are others is seen from their calibration errors.
    """
    answers = [{*run["hits"].get("C", [])} for run in (one, two)]
    wrong = sum(run.count("0") for run in answers[0] & answers[1])
    errors = [
        {number and round(number, 3) for number in run["arms"].get("C", {}).get("ece", [])}
        for run in (one, two)
    ]
    apart = all(errors) and not errors[0] & errors[1]
    return wrong >= CERTAIN and not apart
