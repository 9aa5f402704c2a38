"""What is told of synthetic sets of any origin: one column for each, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_histodiff.report.blocks import Block, Fact, Table, TableCell, Words
from monai_histodiff.report.making import generator
from monai_histodiff.report.values import finite, number, percent, span

__all__ = ["foreign_facts", "foreign_sets"]

MATRIX = 10  # classes, from which on not every pair is counted
WHOLE = "The whole set, as it was given, beside real patches"


def foreign_facts(found: Mapping[str, Any]) -> list[Fact]:
    """Figures of the first set for the top of the page."""
    if not (sets := found.get("sets")):
        return []
    told = sets[0]
    total = number(told["pictures"], 0)
    return [
        Fact(
            "Copies of training patches",
            f"{number(told['copies'], 0)} of {total}",
            f"by the same rule {percent(told['usual'], 0)} of real test patches",
        ),
        Fact(
            "Labels that the critic gives too",
            percent(told["taught"], 0),
            f"of real patches of the same classes that it has not seen "
            f"{percent(told['expected'], 0)}",
        ),
    ]


def foreign_sets(found: Mapping[str, Any], differences: Mapping[str, Any]) -> list[Block]:
    """A table of the sets, one column for each, and the fidelity of the whole of each set.

    Args:
        found: ``sets``: of each its counts and its ``whole`` fidelity.
        differences: of the arms: G is the first set's, G2 the second's.
    """
    if not (sets := found.get("sets", ())):
        return []
    rows: list[list[TableCell | str]] = [
        ["Pictures", *(number(told["pictures"], 0) for told in sets)],
        ["Worth keeping", *_counts(sets, "accepted")],
        ["Copies of training patches", *_counts(sets, "copies")],
        ["Copies of test patches", *_counts(sets, "test_copies")],
        ["Unlike all real training patches", *_counts(sets, "unlike")],
        ["Repeat another picture", *_counts(sets, "twins")],
        ["Softer than 99 in 100 real patches", *_counts(sets, "soft")],
        [
            TableCell("Labels that the critic gives too", "and of unseen real patches so mixed"),
            *(TableCell(percent(t["taught"]), percent(t["expected"])) for t in sets),
        ],
        ["KID, mean of the classes\n0 is equal, lower is better", *(_kid(told) for told in sets)],
        [
            TableCell("Change of balanced accuracy", "points, against arm C"),
            *(_change(differences, arm) for arm, _ in zip(("G-C", "G2-C"), sets, strict=False)),
        ],
    ]
    heads = ["measure", *(told["name"] for told in sets)]
    caption = "The set" if len(sets) == 1 else "The sets side by side"
    blocks: list[Block] = [Table(caption, heads, rows), *_generators(sets)]
    for told in sets:
        blocks += _called(told)
        shown = generator(told.get("whole", {}), f"{WHOLE}: {told['name']}")
        blocks += shown[1:]
    usual, odd, soft = (sets[0].get(key) for key in ("usual", "usual_unlike", "usual_soft"))
    words = (
        f"By the rule that finds copies, {percent(usual)} of the real test patches count as "
        f"copies of training patches, by that which finds what is unlike them {percent(odd)}, "
        f"and by that which finds what is soft {percent(soft)}."
    )
    return [Words(words), *blocks]


def _counts(sets: Sequence[Mapping[str, Any]], key: str) -> list[TableCell]:
    return [
        TableCell(number(told[key], 0), percent(told[key] / (told["pictures"] or math.nan)))
        for told in sets
    ]


def _called(told: Mapping[str, Any]) -> list[Block]:
    """The labels that pictures were given, beside those that the critic gives them."""
    shown = {name: row for name, row in told["classes"].items() if row["pictures"]}
    if not shown:
        return []
    names = list(next(iter(shown.values()))["called"])
    rows: list[list[TableCell | str]]
    if len(names) <= MATRIX:
        heads = ["Given label", *names]
        rows = [[n, *(number(row["called"][k], 0) for k in names)] for n, row in shown.items()]
    else:
        heads, rows = ["Given label", "The same", "Most often besides"], []
        for name, row in shown.items():
            count, other = max((row["called"][k], k) for k in names if k != name)
            besides = TableCell(other, number(count, 0)) if count else TableCell("none")
            rows.append([name, number(row["called"][name], 0), besides])
    for cells, row in zip(rows, shown.values(), strict=True):
        cells += [number(row["pictures"], 0), number(row["accepted"], 0)]
    caption = f"Given labels, and what the critic calls these pictures: {told['name']}"
    return [Table(caption, [*heads, "Pictures", "Worth keeping"], rows)]


def _kid(told: Mapping[str, Any]) -> TableCell:
    """Mean KID of the classes that have enough pictures, beside that of real patches."""
    both = [
        [float(finite(part[side]["kid"])[0]) for side in ("samples", "floor")]
        for part in told.get("whole", {}).values()
        if part["samples"] and part["floor"]
    ]
    if not both:
        return TableCell("not known", "too few pictures of each class")
    ours, real = np.array(both).mean(0)
    return TableCell(number(ours, 3), f"real {number(real, 3)}")


def _change(differences: Mapping[str, Any], name: str) -> TableCell:
    if name not in differences:
        return TableCell("not tested")
    known = differences[name]["balanced_accuracy"]
    mean, low, high = (100 * float(finite(known[key])[0]) for key in ("mean", "low", "high"))
    return TableCell(number(mean, sign=True), span((low, high)))


def _generators(sets: Sequence[Mapping[str, Any]]) -> list[Block]:
    """By generator, where a set names several."""
    rows: list[list[TableCell | str]] = [
        [name, *(number(count[key], 0) for key in ("pictures", "accepted", "copies"))]
        for told in sets
        for name, count in told.get("generators", {}).items()
    ]
    heads = ["Generator", "Pictures", "Worth keeping", "Copies"]
    return [Table("By generator", heads, rows)] if rows else []
