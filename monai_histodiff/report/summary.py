"""Several evaluations in one table: Markdown, or a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from monai_histodiff.report.html import curves, intervals, number, table, write_page

__all__ = ["to_html", "to_markdown"]

METRIC = "balanced_accuracy"
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
Combined = Mapping[str, Mapping[str, Mapping[str, float]]]
COLUMNS = {  # metric: (name, factor, decimals)
    "balanced_accuracy": ("balanced accuracy, %", 100, 1),
    "accuracy": ("accuracy, %", 100, 1),
    "macro_f1": ("macro-F1, %", 100, 1),
    "auc": ("AUC", 1, 3),
    "ece": ("ECE, %", 100, 1),
    "worst_recall": ("worst class, %", 100, 1),
}
HOW = (
    "Mean over draws of the labelled patches; 95 % interval of the noise of test groups (bootstrap, not reduced by more draws) "
    "and of draws and trainings (Student's t over the draws). Where there is one draw, the interval of its own report. The p-values "
    "are corrected by Holm's method over the comparisons of one label count."
)


def _scores(runs: Sequence[Mapping[str, Any]], arm: str, metric: str) -> list[float]:
    return [value for run in runs for value in run["arms"].get(arm, {}).get(metric, [])]


def _arms(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
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
    seeds = sorted({len(run["seeds"]) for run in runs})
    draws = f"{len(runs)} draw{'s' if len(runs) > 1 else ''}"
    return f"{labels} labels per class ({draws}, {' or '.join(map(str, seeds))} seeds each)"


def _told(row: Mapping[str, float]) -> str:
    return "{} ({} to {})".format(
        *(number(100 * row[key], sign=True) for key in ("mean", "low", "high"))
    )


def _data_set(by_labels: Runs) -> str:
    return str(next(iter(by_labels.values()))[0]["dataset"]["path"])


def to_markdown(by_labels: Runs, combined: Combined) -> str:
    """Tables of all arms and of all differences, for each label count; the floors and what was
    accepted with them.

    Args:
        by_labels: the runs of each label count.
        combined: their differences, combined over draws.
    """
    lines = [f"# {_data_set(by_labels)}", "", HOW]
    for labels, runs in by_labels.items():
        chosen = [run["selection"] for run in runs if "selection" in run]
        lines += ["", f"## {_title(labels, runs)}", ""]
        if chosen:
            told = ", ".join(f"{s['accepted']} of {s['candidates']}" for s in chosen)
            lines += [f"Accepted candidates, by draw: {told}.", ""]
        lines += [
            "| arm | | " + " | ".join(name for name, _, _ in COLUMNS.values()) + " |",
            "|---|---|" + "---|" * len(COLUMNS),
        ]
        for arm, words in _arms(runs).items():
            cells = (
                number([f * v for v in _scores(runs, arm, m)], digits)
                for m, (_, f, digits) in COLUMNS.items()
            )
            lines.append(f"| {arm} | {words} | {' | '.join(cells)} |")
        for floor in runs[0].get("floors", {}):
            found = {
                m: [
                    run["floors"][floor][m]
                    for run in runs
                    if m in run.get("floors", {}).get(floor, {})
                ]
                for m in COLUMNS
            }
            cells = (
                number([f * v for v in found[m]], digits) for m, (_, f, digits) in COLUMNS.items()
            )
            lines.append(f"| | {floor} | {' | '.join(cells)} |")
        lines += [
            "",
            "| difference | balanced accuracy, points (95 %) | p | p, corrected |",
            "|---|---|---|---|",
        ]
        for name, row in combined[labels].items():
            lines.append(
                f"| {name} | {_told(row)} | {number(row['p'], 3)} | {number(row['p_holm'], 3)} |"
            )
    return "\n".join(lines) + "\n"


def to_html(by_labels: Runs, combined: Combined, path: str | os.PathLike[str]) -> Path:
    """Write a page: each difference over the label counts, and the arms in a table; arguments as
    in :func:`to_markdown`.
    """
    arms = _arms([run for runs in by_labels.values() for run in runs])
    sections = {}
    for name in dict.fromkeys(name for found in combined.values() for name in found):
        rows = []
        for labels, found in combined.items():
            if name in found:
                row = found[name]
                tone = "helps" if row["low"] > 0 else "hurts" if row["high"] < 0 else "same"
                values = [100 * row[key] for key in ("mean", "low", "high")]
                words = f"{_told(row)}<small>corrected p {number(row['p_holm'], 3)}</small>"
                note = escape(_title(labels, by_labels[labels]).partition("(")[2].rstrip(")"))
                told = f"{labels} labels per class: {_told(row)} points"
                rows.append(
                    {
                        "name": f"{escape(labels)} labels",
                        "note": note,
                        "values": values,
                        "told": told,
                        "tone": tone,
                        "words": words,
                    }
                )
        caption = "Change in balanced accuracy, in points, by labels per class: mean (dot), 95 % interval (bar)."
        sections[name.replace("-", " against ", 1)] = intervals(rows, caption, signed=True)
    cells: list[list[str]] = []
    for arm, words in arms.items():
        means = (
            number([100 * v for v in _scores(runs, arm, METRIC)]) for runs in by_labels.values()
        )
        cells.append([f"<b>{escape(arm)}</b><small>{escape(words)}</small>", *means])
    scores = {
        a: [
            float(np.mean(_scores(runs, a, METRIC) or np.nan)) * 100 for runs in by_labels.values()
        ]
        for a in arms
    }
    ranked = dict(sorted(scores.items(), key=lambda item: item[0] not in ("G", "C")))
    told = "Balanced accuracy, in %, by labels per class: mean over all draws and seeds; C and G in colour."
    drawn = (
        curves("Balanced accuracy, in %", list(by_labels), ranked, told)
        if len(by_labels) > 1
        else ""
    )
    heads = ["Arm", *(f"{labels}\nlabels per class" for labels in by_labels)]
    caption = "Balanced accuracy, in %: mean ± standard deviation over all draws and seeds"
    sections["Every arm"] = drawn + table(caption, heads, cells, "wide")
    return write_page(
        path, f"Evaluations on {_data_set(by_labels)}", f"<p>{escape(HOW)}</p>", sections
    )
