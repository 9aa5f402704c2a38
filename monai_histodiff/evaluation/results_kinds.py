"""What each part of a ``results.json`` must be."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from monai_histodiff.utils.counts import is_whole

__all__ = ["REMEDY", "check_kinds"]

REMEDY = "run the evaluation again, its trainings are kept in the cache"


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
    "selection#accepted": ("a whole number", is_whole),
    "selection#candidates": ("a whole number", is_whole),
    "dataset#path": ("text", _text),
    "dataset#classes": (
        "a list of texts",
        lambda v: v is None or isinstance(v, list) and _all(_text, v),
    ),
    "settings#draw": ("a whole number", is_whole),
    "settings#labels_per_class": ("a whole number or text", lambda v: is_whole(v) or _text(v)),
    "shortfalls": ("a list of texts", lambda v: not _mapping(v) and _all(_text, v)),
    "notes": ("a list of texts", lambda v: not _mapping(v) and _all(_text, v)),
    "arm_names": ("text for each arm", lambda v: _mapping(v) and _all(_text, v)),
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
    "test#labels": ("a list of whole numbers", lambda v: not _mapping(v) and _all(is_whole, v)),
    "test#groups": ("a list of texts", lambda v: not _mapping(v) and _all(_text, v)),
    "floors": (
        "a number for each metric of each floor",
        lambda v: _mapping(v) and _all(lambda m: _mapping(m) and _all(_number, m), v),
    ),
    "critic": ("a number for each metric", lambda v: _mapping(v) and _all(_number, v)),
    "dataset#counts": (
        "a whole number for each class of each part",
        lambda v: _mapping(v) and _all(lambda m: _mapping(m) and _all(is_whole, m), v),
    ),
    "foreign": ("a mapping", _mapping),
    "foreign#sets": (
        "a list of mappings, with counts of each class",
        lambda v: isinstance(v, list) and bool(v) and _all(_set, v),
    ),
}


def _set(value: Any) -> bool:
    return _mapping(value) and _mapping(rows := value.get("classes", {})) and _all(_class, rows)


def _class(value: Any) -> bool:
    """Counts of pictures, and of labelled patches and those of them that are told right."""
    if not _mapping(value):
        return False
    counts = [value.get("pictures"), value.get("labelled", 0), value.get("right", 0)]
    return all(map(is_whole, counts)) and 0 <= counts[2] <= counts[1]


def _file(value: Any) -> bool:
    return _mapping(value) and {"files", "bytes", "sha256"} <= {*value}


def _figures(value: Any) -> bool:
    return isinstance(value, list) and _all(_number, value)


def _ends(value: Any) -> bool:
    return _mapping(value) and all(_number(value.get(k, "")) for k in ("mean", "low", "high"))


def check_kinds(
    results: Mapping[str, Any], path: str | os.PathLike[str], needed: Collection[str] = ()
) -> None:
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
