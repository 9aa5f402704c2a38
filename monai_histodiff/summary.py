"""Several evaluations in one table: draws of the labelled patches, and label counts.

``python -m monai_histodiff.summary out/*/results.json`` prints Markdown; ``--html page.html`` writes a page with the curves
over label counts as well.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from monai_histodiff.comparisons import holm
from monai_histodiff.markup import curves, intervals, number, table, write_page

__all__ = ["combine", "read_results", "to_html", "to_markdown"]

METRIC = "balanced_accuracy"
SAMPLES = 100_000
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


def read_results(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Read ``results.json`` files.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: none is given, one lacks what is combined here, the data sets differ, or a draw occurs twice.
    """
    if not paths:
        raise ValueError("at least one results.json is needed, got none")
    found: list[dict[str, Any]] = []
    seen: set[tuple[int | str, int]] = set()
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"results must be a file, got '{path}'")
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        if missing := [key for key in ("arms", "claims", "differences", "dataset", "settings") if key not in results]:
            raise ValueError(f"results must hold {', '.join(missing)}, got none in '{path}'")
        if results["dataset"]["path"] != (first := (found or [results])[0]["dataset"]["path"]):
            raise ValueError(f"results must be of one data set, got '{first}' and '{results['dataset']['path']}'")
        key = (results["settings"]["labels_per_class"], results["settings"]["draw"])
        if key in seen:
            raise ValueError(f"each draw must occur once, got draw {key[1]} with {key[0]} labels per class twice, in '{path}'")
        seen.add(key)
        found.append(results)
    return found


def combine(runs: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Differences in balanced accuracy, combined over draws of the labelled patches.

    The test groups are taken to be the same in every draw, as they are where a data set comes with its split; their noise is
    then not reduced by more draws. Where they differ, the interval is too wide. A single draw keeps interval and p of its own
    report: there is nothing to combine.

    Args:
        runs: the results of each draw, of one label count.
        seed: of the simulated noise.

    Returns:
        For each comparison that all draws have: ``mean``, ``low``, ``high``, ``p`` and ``p_holm``.
    """
    names = [name for name in runs[0]["claims"] if all(name in run["claims"] for run in runs)]
    found = {name: _over_draws(runs, name, seed) if len(runs) > 1 else _reported(runs[0], name) for name in names}
    adjusted = holm({name: row["p"] for name, row in found.items()})
    return {name: {**row, "p_holm": adjusted[name]} for name, row in found.items()}


def _reported(run: Mapping[str, Any], name: str) -> dict[str, float]:
    return {**run["differences"][name][METRIC], "p": float(run["claims"][name]["p"])}


def _over_draws(runs: Sequence[Mapping[str, Any]], name: str, seed: int) -> dict[str, float]:
    values = np.array([run["differences"][name][METRIC]["mean"] for run in runs])
    groups = float(np.mean([run["claims"][name]["group_error"] ** 2 for run in runs])) ** 0.5
    error = float(values.std(ddof=1)) / len(runs) ** 0.5
    rng = np.random.default_rng(seed)
    noise = groups * rng.standard_normal(SAMPLES) + error * rng.standard_t(len(runs) - 1, SAMPLES)
    samples = np.clip(values.mean() + noise, -1, 1)
    side = min((samples <= 0).sum(), (samples >= 0).sum())
    low, high = np.quantile(samples, [0.025, 0.975])
    p = min(1.0, 2 * (side + 1) / (SAMPLES + 1))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "p": float(p)}


def _by_labels(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Runs by label count, from few to many, ``"all"`` last."""
    counts = sorted({run["settings"]["labels_per_class"] for run in results}, key=lambda n: (isinstance(n, str), n))
    return {str(n): [run for run in results if run["settings"]["labels_per_class"] == n] for n in counts}


def _scores(runs: Sequence[Mapping[str, Any]], arm: str, metric: str) -> list[float]:
    return [value for run in runs for value in run["arms"].get(arm, {}).get(metric, [])]


def _arms(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each arm trains on; and in how many of the runs it is, where it is not in all: its mean is then of these alone."""
    names = {arm: run.get("arm_names", {}).get(arm, "") for run in runs for arm in run["arms"]}
    present = {arm: sum(arm in run["arms"] for run in runs) for arm in names}
    return {
        arm: words if present[arm] == len(runs) else f"{words} ({present[arm]} of {len(runs)} runs)" for arm, words in names.items()
    }


def _title(labels: str, runs: Sequence[Mapping[str, Any]]) -> str:
    seeds = sorted({len(run["seeds"]) for run in runs})
    draws = f"{len(runs)} draw{'s' if len(runs) > 1 else ''}"
    return f"{labels} labels per class ({draws}, {' or '.join(map(str, seeds))} seeds each)"


def _told(row: Mapping[str, float]) -> str:
    return "{} ({} to {})".format(*(number(100 * row[key], sign=True) for key in ("mean", "low", "high")))


def to_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Tables of all arms and of all differences, for each label count; the floors and what was accepted with them."""
    lines = [f"# {results[0]['dataset']['path']}", "", HOW]
    for labels, runs in _by_labels(results).items():
        chosen = [run["selection"] for run in runs if "selection" in run]
        lines += ["", f"## {_title(labels, runs)}", ""]
        if chosen:
            told = ", ".join(f"{s['accepted']} of {s['candidates']}" for s in chosen)
            lines += [f"Accepted candidates, by draw: {told}.", ""]
        lines += ["| arm | | " + " | ".join(name for name, _, _ in COLUMNS.values()) + " |", "|---|---|" + "---|" * len(COLUMNS)]
        for arm, words in _arms(runs).items():
            cells = (number([f * v for v in _scores(runs, arm, m)], digits) for m, (_, f, digits) in COLUMNS.items())
            lines.append(f"| {arm} | {words} | {' | '.join(cells)} |")
        for floor in runs[0].get("floors", {}):
            found = {m: [run["floors"][floor][m] for run in runs if m in run.get("floors", {}).get(floor, {})] for m in COLUMNS}
            cells = (number([f * v for v in found[m]], digits) for m, (_, f, digits) in COLUMNS.items())
            lines.append(f"| | {floor} | {' | '.join(cells)} |")
        lines += ["", "| difference | balanced accuracy, points (95 %) | p | p, corrected |", "|---|---|---|---|"]
        for name, row in combine(runs).items():
            lines.append(f"| {name} | {_told(row)} | {number(row['p'], 3)} | {number(row['p_holm'], 3)} |")
    return "\n".join(lines) + "\n"


def to_html(results: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Write a page: each difference over the label counts, and the arms in a table."""
    by_labels = _by_labels(results)
    combined = {labels: combine(runs) for labels, runs in by_labels.items()}
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
                    {"name": f"{escape(labels)} labels", "note": note, "values": values, "told": told, "tone": tone, "words": words}
                )
        caption = "Change in balanced accuracy, in points, by labels per class: mean (dot), 95 % interval (bar)."
        sections[name.replace("-", " against ", 1)] = intervals(rows, caption, signed=True)
    cells: list[list[str]] = []
    for arm, words in _arms(results).items():
        means = (number([100 * v for v in _scores(runs, arm, METRIC)]) for runs in by_labels.values())
        cells.append([f"<b>{escape(arm)}</b><small>{escape(words)}</small>", *means])
    scores = {a: [float(np.mean(_scores(runs, a, METRIC) or np.nan)) * 100 for runs in by_labels.values()] for a in _arms(results)}
    ranked = dict(sorted(scores.items(), key=lambda item: item[0] not in ("G", "C")))
    told = "Balanced accuracy, in %, by labels per class: mean over all draws and seeds; C and G in colour."
    drawn = curves("Balanced accuracy, in %", list(by_labels), ranked, told) if len(by_labels) > 1 else ""
    heads = ["Arm", *(f"{labels}\nlabels per class" for labels in by_labels)]
    caption = "Balanced accuracy, in %: mean ± standard deviation over all draws and seeds"
    sections["Every arm"] = drawn + table(caption, heads, cells, "wide")
    return write_page(path, f"Evaluations on {results[0]['dataset']['path']}", f"<p>{escape(HOW)}</p>", sections)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the Markdown of several results, and write the page if asked to."""
    parser = argparse.ArgumentParser("python -m monai_histodiff.summary", description="Combine several results.json into one table.")
    parser.add_argument("results", nargs="+", help="results.json files: other draws, other label counts")
    parser.add_argument("--html", help="a page to write")
    args = parser.parse_args(argv)
    try:
        results = read_results(args.results)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(to_markdown(results), end="")
    if args.html:
        to_html(results, args.html)


if __name__ == "__main__":
    main()
