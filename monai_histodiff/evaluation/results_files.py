"""``results.json`` files: what they must hold, and which of them may be combined."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff.evaluation.draws import label_key
from monai_histodiff.evaluation.methods import compare_methods

__all__ = ["REMEDY", "check_kinds", "read_results"]

REMEDY = "run the evaluation again, its trainings are kept in the cache"

KEYS = ("arms", "claims", "differences", "dataset", "settings", "hits", "test", "shortfalls")
CERTAIN = 5  # wrong answers in common from which on equal answers are no coincidence
WITHIN = {"settings": ("labels_per_class", "draw"), "dataset": ("path",), "test": ()}
Run = Mapping[str, Any]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _number(value: Any) -> bool:
    """JSON has no NaN: such a figure is ``null``."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _all(one: Callable[[Any], bool], value: Any) -> bool:
    """Whether it is a list, or a mapping, of such values."""
    values = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, (list, tuple, Mapping)) and all(map(one, values))


# part -> what it must be, in words, and whether it is that
KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "verdict": ("text", _text),
    "claim": ("text", _text),
    "versions": ("a mapping", _mapping),
    "options": ("a mapping", _mapping),
    "files": ("number, bytes and sha256 of each file", lambda v: _mapping(v) and _all(_file, v)),
    "sampling": ("a mapping", _mapping),
    "selection": ("a mapping", _mapping),
    "selection#accepted": ("a whole number", _whole),
    "selection#candidates": ("a whole number", _whole),
    "dataset#path": ("text", _text),
    "settings#draw": ("a whole number", _whole),
    "settings#labels_per_class": ("a whole number or text", lambda v: _whole(v) or _text(v)),
    "shortfalls": ("a list of texts", lambda v: not _mapping(v) and _all(_text, v)),
    "notes": ("a list of texts", lambda v: not _mapping(v) and _all(_text, v)),
    "arms": (
        "a list of numbers for each metric of each arm",
        lambda v: _mapping(v) and _all(lambda m: _mapping(m) and _all(_figures, m), v),
    ),
    "claims": (
        "a mapping for each comparison, such as G-C",
        lambda v: _mapping(v) and _all(_mapping, v) and all(n.count("-") == 1 for n in v),
    ),
    "differences": (
        "mean, low and high for each metric of each comparison",
        lambda v: _mapping(v) and _all(lambda m: _mapping(m) and _all(_ends, m), v),
    ),
    "hits": (
        "a list of texts for each arm",
        lambda v: _mapping(v) and _all(lambda a: not _mapping(a) and _all(_text, a), v),
    ),
    "test#labels": ("a list of whole numbers", lambda v: not _mapping(v) and _all(_whole, v)),
    "test#groups": ("a list of texts", lambda v: not _mapping(v) and _all(_text, v)),
    "floors": (
        "a number for each metric of each floor",
        lambda v: _mapping(v) and _all(lambda m: _mapping(m) and _all(_number, m), v),
    ),
    "critic": ("a number for each metric", lambda v: _mapping(v) and _all(_number, v)),
    "dataset#counts": (
        "a whole number for each class of each part",
        lambda v: _mapping(v) and _all(lambda m: _mapping(m) and _all(_whole, m), v),
    ),
    "foreign": ("a mapping", _mapping),
    "foreign#sets": (
        "a list of mappings",
        lambda v: isinstance(v, list) and bool(v) and _all(_mapping, v),
    ),
}


def _file(value: Any) -> bool:
    return _mapping(value) and {"files", "bytes", "sha256"} <= {*value}


def _figures(value: Any) -> bool:
    return isinstance(value, list) and _all(_number, value)


def _ends(value: Any) -> bool:
    return _mapping(value) and all(_number(value.get(k, "")) for k in ("mean", "low", "high"))


def check_kinds(results: Run, path: str | os.PathLike[str], needed: Collection[str] = ()) -> None:
    """Refuse results of which a part is not what it must be.

    Args:
        results: the content of a ``results.json``.
        path: its path, for the message.
        needed: parts that must be there, such as ``selection#accepted``.

    Raises:
        ValueError: with rule, value and remedy.
    """
    for name, (rule, is_so) in KINDS.items():
        part: Any = results
        for key in name.split("#"):
            part = part.get(key, KINDS) if isinstance(part, Mapping) else KINDS
        there = part is not KINDS
        if (there and not is_so(part)) or (not there and name in needed):
            got = (repr(part)[:60] if there else "none") + f" in '{path}'"
            raise ValueError(f"{name} of results must be {rule}, got {got}: {REMEDY}")


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
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"results must be JSON as evaluate.yaml writes it, got '{path}' ({error}): {REMEDY}"
        ) from None
    if missing := _missing(results):
        raise ValueError(f"results must hold {', '.join(missing)}, got none in '{path}': {REMEDY}")
    check_kinds(results, path)
    _check(results, path)
    return dict(results)


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
