"""Evaluations on several data sets on one page: each comparison over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from monai_histodiff.report.blocks import Page, Section, Table, TableCell, Verdict
from monai_histodiff.report.html import write_page
from monai_histodiff.report.limits import beside, left_out, limits, of_each
from monai_histodiff.report.plots import Axis, Intervals
from monai_histodiff.report.summary import (
    HOW,
    MAIN,
    METRIC,
    Combined,
    Differing,
    Runs,
    arms_of,
    draws_of,
    interval_row,
    points,
    scores_of,
    verdict_over,
)
from monai_histodiff.report.values import number

__all__ = ["UNSHARED", "sets_to_html"]

CHANGES = "Change in balanced accuracy, in points: mean (dot), 95 % interval (bar)."
MEAN = (
    "The mean over the data sets has an interval for new test groups, trainings and draws of "
    "these data sets, not for other data sets."
)
UNSHARED = "There is no such mean here: no label count is in all of the data sets."


class _Place(NamedTuple):
    """One line of a plot: a data set and a label count, or the mean of all."""

    name: str
    note: str
    found: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]


def sets_to_html(
    sets: Mapping[str, tuple[Runs, Combined]],
    across: Combined,
    differing: Differing,
    path: str | os.PathLike[str],
) -> Path:
    """Write a page: the sentence, each difference over the data sets, and the arms.

    Args:
        sets: of each data set, by name, its runs and their differences, each by label count.
        across: mean differences over the data sets, of the label counts that all have.
        differing: what of the method is not the same in all runs, and its values.
        path: the page.
    """
    places = list(_places(sets, across))
    names = dict.fromkeys(name for place in places for name in place.found)
    every = [points(row) for place in places for row in place.found.values()]
    axis = Axis.over((value for each in every for value in each), signed=True)
    sections = [
        Section(name.replace("-", " against ", 1), [_differences(name, places, axis)])
        for name in names
    ]
    runs = [run for place in places for run in place.runs]
    lead = (
        HOW,
        MEAN,
        *([] if across else [UNSHARED]),
        *beside(runs, differing),
        left_out(runs),
        *_limits(places),
    )
    page = Page(
        f"Evaluations on {len(sets)} data sets",
        [*sections, Section("Every arm", [_table(places)])],
        origin=f"{len(runs)} runs",
        verdict=_verdict(across),
        lead=" ".join(dict.fromkeys(filter(None, lead))),
    )
    return write_page(path, page)


def _places(sets: Mapping[str, tuple[Runs, Combined]], across: Combined) -> Iterator[_Place]:
    for name, (by_labels, combined) in sets.items():
        for labels, runs in by_labels.items():
            note = f"{labels} labels per class, {draws_of(runs)}"
            yield _Place(PurePath(name).name, note, combined[labels], runs)
    for labels, found in across.items():
        yield _Place(f"Mean of {len(sets)} sets", f"{labels} labels per class", found, [])


def _limits(places: Sequence[_Place]) -> list[str]:
    """What the differences do not say, with the names of the lines that it is said of."""
    return of_each(
        [(f"{p.name}, {p.note.partition(',')[0]}", limits(p.runs, p.found)) for p in places]
    )


def _differences(name: str, places: Sequence[_Place], axis: Axis) -> Intervals:
    rows = []
    for place in (place for place in places if name in place.found):
        row = place.found[name]
        whose = f"{place.name}, {place.note}"
        rows.append(interval_row(place.name, place.note, whose, row, axis))
    return Intervals(rows, axis, CHANGES)


def _table(places: Sequence[_Place]) -> Table:
    """The arms of every data set and label count."""
    there = [place for place in places if place.runs]
    arms = arms_of([run for place in there for run in place.runs])
    rows: list[list[TableCell | str]] = [
        [
            TableCell(place.name, place.note),
            *(number([100 * v for v in scores_of(place.runs, arm, METRIC)]) for arm in arms),
        ]
        for place in there
    ]
    caption = "Balanced accuracy, in %: mean ± standard deviation over all draws and seeds"
    return Table(caption, ["Data set", *arms], rows, cards=len(arms) > 3)


def _verdict(across: Combined) -> Verdict | None:
    """The main comparison, in the mean, at every label count that all data sets have."""
    rows = {labels: found[MAIN] for labels, found in across.items() if MAIN in found}
    return verdict_over(rows, ", in the mean over the data sets,")
