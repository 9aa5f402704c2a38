"""Several evaluations, of other draws or label counts, in one table: Markdown, or a page."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_histodiff.report.blocks import Page, Section, Table, TableCell, Verdict, share
from monai_histodiff.report.comparisons import baselines, change
from monai_histodiff.report.html import write_page
from monai_histodiff.report.limits import beside, limits, of_each
from monai_histodiff.report.making import passed
from monai_histodiff.report.plots import Axis, Curves, Intervals, Row
from monai_histodiff.report.values import change_words, markdown, number, p_value

__all__ = ["difference_table", "difference_words", "to_html", "to_markdown"]

METRIC = "balanced_accuracy"
MAIN = "G-C"
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
Combined = Mapping[str, Mapping[str, Mapping[str, Any]]]
Differing = Mapping[str, Sequence[str]]
COLUMNS = {  # metric: (name, factor, decimals)
    "balanced_accuracy": ("balanced accuracy, %", 100, 1),
    "accuracy": ("accuracy, %", 100, 1),
    "macro_f1": ("macro-F1, %", 100, 1),
    "auc": ("AUC", 1, 3),
    "ece": ("ECE, %", 100, 1),
    "worst_recall": ("worst class, %", 100, 1),
}
HOW = (
    "Mean over draws of the labelled patches, and its 95 % interval; where there is one draw, for "
    "that draw alone. The p-values are corrected by Holm's method over the comparisons of one "
    "label count."
)
CHANGES = (
    "Change in balanced accuracy, in points, by labels per class: mean (dot), 95 % interval (bar)."
)


def to_markdown(by_labels: Runs, combined: Combined, differing: Differing) -> str:
    """Tables of all arms and of all differences, for each label count; the baselines and what was
    accepted with them. Foreign text is escaped.

    Args:
        by_labels: the runs of each label count.
        combined: their differences, combined over draws.
        differing: what of their method is not the same at all label counts, and its values.
    """
    lines = [f"# {markdown(_data_set(by_labels))}", "", HOW]
    for sentence in beside(_every(by_labels), differing):
        lines += ["", markdown(sentence)]
    for labels, runs in by_labels.items():
        lines += ["", f"## {markdown(_title(labels, runs))}", ""]
        chosen = [run["selection"] for run in runs if "selection" in run]
        if chosen:
            found = ", ".join(map(_accepted, chosen))
            lines += [f"Accepted candidates, by draw: {found}.", ""]
        lines += [
            "| arm | | " + " | ".join(name for name, _, _ in COLUMNS.values()) + " |",
            "|---|---|" + "---|" * len(COLUMNS),
        ]
        for arm, words in arms_of(runs).items():
            cells = _scores_in_words({m: scores_of(runs, arm, m) for m in COLUMNS})
            lines.append(f"| {markdown(arm)} | {markdown(words)} | {' | '.join(cells)} |")
        for name in {name: None for run in runs for name in baselines(run)}:
            floors = [baselines(run).get(name, {}) for run in runs]
            cells = _scores_in_words({m: [f.get(m) for f in floors] for m in COLUMNS})
            lines.append(f"| | {markdown(name)} | {' | '.join(cells)} |")
        lines += difference_table(combined[labels])
        for sentence in limits(runs, combined[labels]):
            lines += ["", markdown(sentence)]
    return "\n".join(lines) + "\n"


def difference_table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table of differences, after an empty one; none without differences."""
    head = ["", "| difference | balanced accuracy, points (95 %) | p | p, corrected | claim |"]
    rows = [
        f"| {markdown(name)} | {difference_words(row)} | {p_value(row['p'])} | "
        f"{p_value(row['p_holm'])} | {row['claim']} |"
        for name, row in found.items()
    ]
    return [*head, "|---|---|---|---|---|", *rows] if rows else []


def to_html(
    by_labels: Runs, combined: Combined, differing: Differing, path: str | os.PathLike[str]
) -> Path:
    """Write a page: the sentence, each difference over the label counts, the arms, and each run;
    arguments as in :func:`to_markdown`.
    """
    every = _every(by_labels)
    names = dict.fromkeys(name for found in combined.values() for name in found)
    sections = [
        Section(name.replace("-", " against ", 1), [_differences(name, by_labels, combined)])
        for name in names
    ]
    sections += [
        Section("Every arm", [*_curves(by_labels), _table(by_labels)]),
        Section("Every run", [_runs(by_labels)]),
    ]
    said = [(f"With {k} labels per class", limits(r, combined[k])) for k, r in by_labels.items()]
    page = Page(
        f"Evaluations on {_data_set(by_labels)}",
        sections,
        origin=f"{len(every)} run{'s' if len(every) > 1 else ''}",
        verdict=_verdict(combined),
        lead=" ".join(dict.fromkeys((HOW, *beside(every, differing), *of_each(said)))),
    )
    return write_page(path, page)


def _verdict(combined: Combined) -> Verdict | None:
    """The main comparison at every label count that has it."""
    rows = {labels: found[MAIN] for labels, found in combined.items() if MAIN in found}
    return verdict_over(rows)


def verdict_over(rows: Mapping[str, Mapping[str, Any]], of: str = "") -> Verdict | None:
    """The sentence on the main comparison at every label count; ``None`` where there is none.

    Args:
        rows: the difference at each label count, with what is claimed of it, if it was tested.
        of: what the difference is the mean of.
    """
    if not rows:
        return None
    claims = {k: "not tested" if row["unmet"] else row["claim"] for k, row in rows.items()}
    same = {*claims.values()} - {"not tested"} or {"inconclusive"}
    each = [
        f"with {labels} labels per class by {difference_words(row)} points"
        + (f": {claims[labels]}" if len({*claims.values()}) > 1 else "")
        for labels, row in rows.items()
    ]
    tone = same.pop() if len(same) == 1 else "inconclusive"
    word = "It depends on the labels" if same else tone.capitalize()
    change = f"balanced accuracy changed{of} {'; '.join(each)}"
    sentence = f"With the selected synthetic patches, {change}."
    return Verdict(tone, word, sentence, "In brackets the 95 % interval.")


def _differences(name: str, by_labels: Runs, combined: Combined) -> Intervals:
    found = {labels: rows[name] for labels, rows in combined.items() if name in rows}
    axis = Axis.over((v for row in found.values() for v in points(row)), signed=True)
    rows = []
    for labels, row in found.items():
        runs = by_labels[labels]
        note = _title(labels, runs).partition("(")[2].rstrip(")")
        place = f"{labels} labels per class"
        rows.append(interval_row(f"{labels} labels", note, place, row, axis))
    return Intervals(rows, axis, CHANGES)


def interval_row(name: str, note: str, place: str, row: Mapping[str, Any], axis: Axis) -> Row:
    """A line of an interval plot that shows a difference; ``place`` says whose to a listener."""
    (mean, low, high), words = points(row), difference_words(row)
    return Row(
        name=name,
        note=note,
        label=f"{place}: {words} points",
        words=[words, f"corrected p {p_value(row['p_holm'])}"],
        dots=axis.dots([mean]),
        bar=axis.bar(low, high),
        tone=row["claim"],
    )


def _curves(by_labels: Runs) -> Iterator[Curves]:
    if len(by_labels) > 1:
        arms = arms_of(_every(by_labels))
        every = {a: [scores_of(runs, a, METRIC) for runs in by_labels.values()] for a in arms}
        scores = {
            a: [100 * float(np.mean(s or np.nan)) for s in each] for a, each in every.items()
        }
        ranked = dict(sorted(scores.items(), key=lambda item: item[0] not in ("G", "C")))
        caption = (
            "Balanced accuracy, in %, by labels per class: mean over all draws and seeds; "
            "C and G in colour."
        )
        name = "Balanced accuracy, in %"
        yield Curves(name, list(by_labels), ranked, caption, main=("C", "G"))


def _table(by_labels: Runs) -> Table:
    arms = arms_of(_every(by_labels))
    rows: list[list[TableCell | str]] = [
        [
            TableCell(arm, words),
            *(
                number([100 * v for v in scores_of(runs, arm, METRIC)])
                for runs in by_labels.values()
            ),
        ]
        for arm, words in arms.items()
    ]
    heads = ["Arm", *(f"{labels}\nlabels per class" for labels in by_labels)]
    caption = "Balanced accuracy, in %: mean ± standard deviation over all draws and seeds"
    return Table(caption, heads, rows, cards=len(heads) > 4)


def _runs(by_labels: Runs) -> Table:
    rows: list[list[TableCell | str]] = []
    for labels, runs in by_labels.items():
        for run in runs:
            chosen = run.get("selection", {})
            done = _accepted(chosen)
            through = passed(chosen) if "accepted" in chosen else None
            own = run["differences"].get(MAIN, {})
            rows.append(
                [
                    TableCell(
                        f"{labels} labels per class", f"draw {run['settings'].get('draw', 0)}"
                    ),
                    number(_seeds(run), 0),
                    change_words(change(own)),
                    done,
                    share(through, chosen.get("candidates")),
                ]
            )
    heads = ["Run", "Seeds", "G against C\npoints, 95 %", "Accepted\nof candidates"]
    caption = "Every run by itself"
    return Table(caption, [*heads, "Rate\npassed of candidates"], rows, cards=True, css="plotted")


def _seeds(run: Mapping[str, Any]) -> int:
    return len(next(iter(run["hits"].values())))


def _accepted(chosen: Mapping[str, Any]) -> str:
    return f"{number(chosen.get('accepted'), 0)} of {number(chosen.get('candidates'), 0)}"


def scores_of(runs: Sequence[Mapping[str, Any]], arm: str, metric: str) -> list[float]:
    """The known ones of all seeds, repeated until each draw has as many: each counts the same."""
    draws = [_known(run["arms"].get(arm, {}).get(metric, [])) for run in runs]
    most = math.lcm(*(len(values) for values in draws if values))
    return [v for values in draws if values for v in values * (most // len(values))]


def _known(values: Iterable[float | None]) -> list[float]:
    """JSON has no NaN: a figure that there is not is ``null``."""
    return [value for value in values if value is not None]


def _every(by_labels: Runs) -> list[Mapping[str, Any]]:
    return [run for runs in by_labels.values() for run in runs]


def _scores_in_words(scores: Mapping[str, Sequence[float | None]]) -> list[str]:
    return [
        number([factor * value for value in _known(scores[metric])], digits)
        for metric, (_, factor, digits) in COLUMNS.items()
    ]


def arms_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each arm trains on; and in how many of the runs it is, where it is not in all: its mean
    is then of these alone.
    """
    names = {arm: run.get("arm_names", {}).get(arm, "") for run in runs for arm in run["arms"]}
    present = {arm: sum(arm in run["arms"] for run in runs) for arm in names}
    return {
        arm: words
        if present[arm] == len(runs)
        else f"{words} ({present[arm]} of {len(runs)} runs)"
        for arm, words in names.items()
    }


def _title(labels: str, runs: Sequence[Mapping[str, Any]]) -> str:
    seeds = sorted(set(map(_seeds, runs)))
    told_seeds = " or ".join(map(str, seeds))
    return f"{labels} labels per class ({draws_of(runs)}, {told_seeds} seeds each)"


def draws_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """How many draws there are, in words."""
    return f"{len(runs)} draw{'s' if len(runs) > 1 else ''}"


def points(row: Mapping[str, Any]) -> list[float]:
    return change({METRIC: row})


def difference_words(row: Mapping[str, Any]) -> str:
    """Mean and interval of a difference, fractions, in points: ``+1.2 (−2.0 to +4.1)``, or that no
    interval is known.
    """
    return change_words(points(row))


def _data_set(by_labels: Runs) -> str:
    return str(next(iter(by_labels.values()))[0]["dataset"]["path"])
