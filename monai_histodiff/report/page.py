"""One HTML page with the verdict, its evidence and pictures, for the pathologist and the engineer
alike.

The page stands alone: style, plots (inline SVG) and pictures (JPEG data URIs) are inside, nothing
is fetched, no script runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from monai_histodiff.report.html import (
    finite,
    intervals,
    number,
    pairs,
    picture,
    plot,
    reliability,
    share,
    span_of,
    table,
    write_page,
)

__all__ = ["Tile", "write_report"]

TITLE = "Do synthetic patches help?"
REQUIRED = ("verdict", "dataset", "arms", "differences", "selection", "sampling", "seeds")
METRICS = {  # key: (plain name and, on a second line, its meaning; factor for display; decimals)
    "balanced_accuracy": ("Balanced accuracy\n%, each class counts the same", 100, 1),
    "accuracy": ("Accuracy\n% of patches correct", 100, 1),
    "macro_f1": ("F1 score\n%, mean over classes", 100, 1),
    "auc": ("Area under ROC curve\n0.5 chance, 1 perfect", 1, 3),
    "ece": ("Calibration error\n%, lower is better", 100, 1),
    "worst_recall": ("Worst class\n% of its patches found", 100, 1),
}
WORDS = {
    "train": "Training patches",
    "labelled": "Labels used",
    "test": "Test patches",
    "steps": "sampling steps",
}
OUTCOMES = {  # where the 95 % interval of the change lies, its name, what it says
    "helps": ("above zero", "Helps", "The whole interval lies above zero."),
    "hurts": ("below zero", "Hurts", "The whole interval lies below zero."),
    "same": ("includes zero", "No difference", "A real change cannot be told from chance here."),
    "soft": ("not measured", "No verdict", "This run does not allow a verdict."),
}
DEMO = """<p class=demo role=note><strong>Demonstration only.</strong> The patches of this data set are synthetic demonstration
patches, not tissue, and the verdict is only a demonstration of this report: it says nothing about real data.</p>"""
INTERVALS = "Change in balanced accuracy, in points: mean (dot), 95 % interval (bar). Right of zero, the first arm is better."
ARM_INTERVALS = """Balanced accuracy, in %: mean (dot), 95 % interval over test groups and trainings (bar). Arms share their test
patches, so bars that overlap may differ all the same: the differences above decide."""
CORRECTED = """The corrected p-value is Holm’s, over all comparisons of this page: below 0.05, the change may be claimed."""
RELIABILITY = """To the right: the confidence of the classifier. Upwards: how often it was right. The area of a dot: how many test
patches. On the diagonal, the confidence can be believed; below it, the classifier is too sure."""
GENERATOR = """Accepted patches against real test patches of the class; in small print, as many real training patches against the
same: what a perfect generator would reach. All passed through the same JPEG compression."""
FIDELITY = {  # key: (name and meaning; decimals)
    "kid": ("KID\n0 is equal, lower is better", 3),
    "precision": ("Precision\nshare that looks real", 2),
    "recall": ("Recall\nshare of the real ones reached", 2),
    "density": ("Density\n1 is as real", 2),
    "coverage": ("Coverage\nshare of real neighbourhoods hit", 2),
}
PICTURES = """<p>Left: the synthetic patch. Right: the real training patch nearest to it, to see whether it is a copy; of a variation,
the middle of the labelled patch that it is made from, seen from any side. The bar is the critic’s confidence in the class. Those
shown run evenly from the most to the least confident: not only the best.</p>"""


@dataclass(frozen=True)
class Tile:
    """One synthetic patch for a gallery."""

    image: np.ndarray  # uint8 H x W x 3
    label: str  # intended class
    confidence: float  # the critic's calibrated probability of that class, 0 to 1
    seed: int  # makes this patch again
    reason: str = ""  # why it was rejected; empty: accepted
    nearest: np.ndarray | None = None  # uint8 H x W x 3: the nearest real training patch
    distance: float | None = None  # the distance to it
    origin: np.ndarray | None = (
        # uint8 H x W x 3: the labelled patch that it is a variation of, shown instead of the
        # nearest
        None
    )


def write_report(
    path: str | os.PathLike[str],
    results: Mapping[str, Any],
    tiles: Sequence[Tile],
    max_per_class: int = 8,
) -> Path:
    """Write the page: all of it, or nothing.

    Args:
        path: the HTML file to write; its folder is made if need be.
        results: what the comparison found. ``verdict``, ``dataset``, ``arms``, ``differences``,
            ``selection``, ``sampling`` and ``seeds`` are required; ``arm_names``, ``recall``,
            ``floors``, ``versions``, ``settings``, ``seconds`` and ``notes`` are shown where
            given. The colour of the verdict and the recall follow ``"G-C"``, or else the first
            difference.
        tiles: patches to show, accepted and rejected.
        max_per_class: the most patches shown per class and per reason of rejection, spread evenly
            over the confidence.

    Raises:
        ValueError: a required key is missing, or a picture is not a uint8 array ``H x W x 3``.
    """
    if missing := [key for key in REQUIRED if key not in results]:
        raise ValueError(f"results must hold {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
    data, chosen, changes, named = (
        results.get(key, {}) for key in ("dataset", "selection", "differences", "arm_names")
    )
    classes = list(
        dict.fromkeys(
            [
                *data.get("classes", ()),
                *chosen.get("per_class", ()),
                *(tile.label for tile in tiles),
            ]
        )
    )
    groups = {
        name: [tile for tile in tiles if tile.label == name and not tile.reason]
        for name in classes
    }
    reasons = {
        reason: [tile for tile in tiles if tile.reason == reason]
        for reason in (t.reason for t in tiles)
        if reason
    }
    primary = "G-C" if "G-C" in changes else next(iter(changes), "G-C")
    both = primary.split("-", 1)[::-1]
    tone = results.get("outcome") or _change(changes.get(primary, {}))[1]
    cost = {
        f"{key}, seconds": value for key, value in results.get("seconds", {}).items()
    } | results["sampling"]
    setup = pairs(
        "Settings, and versions of packages",
        {**results.get("settings", {}), **results.get("versions", {})},
    )
    sections = {
        "What changes": _differences(changes, named, results.get("claims", {})),
        "Every arm": _arms(results, named),
        "Class by class": _recall(results.get("recall", {}), named, classes, both),
        "Calibration": _calibration(results.get("reliability", {}), both),
        "Accepted patches": PICTURES
        + "".join(_gallery(name, group, max_per_class) for name, group in groups.items()),
        "Rejected patches": "".join(
            _gallery(reason, group, max_per_class) for reason, group in reasons.items()
        ),
        "Selection": _selection(chosen),
        "Generator": _generator(results.get("generator", {})),
        "Data": _dataset(data, classes) if data.get("counts") else "",
        "Cost": pairs(
            "Time and throughput",
            {WORDS.get(key, key.replace("_", " ")): value for key, value in cost.items()},
        ),
        "Settings and versions": f"<details><summary>Show all</summary>{setup}</details>"
        if setup
        else "",
        "Notes": "".join(f"<p>{escape(note)}</p>" for note in results.get("notes", ())),
    }
    header = (
        f'<div class=verdict style="--tone:var(--{tone})"><strong>{OUTCOMES[tone][1]}</strong><p>{escape(results["verdict"])}</p>'
        f"{OUTCOMES[tone][2]}</div>{DEMO if data.get('demo') else ''}"
    )
    return write_page(path, TITLE, header, sections)


def _differences(
    differences: Mapping[str, Any], named: Mapping[str, str], claims: Mapping[str, Any]
) -> str:
    rows = []
    for key, metrics in differences.items():
        values, tone, told = _change(metrics)
        adjusted = claims.get(key, {}).get("p_holm")
        corrected = "" if adjusted is None else f"<small>corrected p {number(adjusted, 3)}</small>"
        rows.append(
            {
                "name": escape(key.replace("-", " against ", 1)),
                "note": " against ".join(
                    escape(named[arm]) for arm in key.split("-", 1) if arm in named
                ),
                "values": values,
                "told": f"{key}: {told} points, {OUTCOMES[tone][0]}",
                "tone": tone,
                "words": f"{told}<small>{OUTCOMES[tone][0]}</small>{corrected}",
            }
        )
    more = f"<p>{CORRECTED}</p>" if claims else ""
    return (
        intervals(rows, INTERVALS, signed=True) + more
        if rows
        else "<p>No two arms were compared.</p>"
    )


def _arms(results: Mapping[str, Any], named: Mapping[str, str]) -> str:
    floors, count, known = (
        results.get("floors", {}),
        len(results["seeds"]),
        results.get("intervals", {}),
    )
    every, rows = {**results["arms"], **floors}, []
    lines = []
    metrics = [key for key in METRICS if any(key in arm for arm in every.values())]
    span = span_of(100 * v for arm in every.values() for v in finite(arm.get("balanced_accuracy")))
    for name, arm in every.items():
        seeds = 100 * finite(arm.get("balanced_accuracy"))
        strip = plot(
            f"balanced accuracy of each seed: {', '.join(map(number, seeds))} %", span, seeds
        )
        words = escape(named.get(name, "baseline to beat" if name in floors else ""))
        cells = [
            number(METRICS[key][1] * finite(arm.get(key)), METRICS[key][2]) for key in metrics
        ]
        rows.append([f"<b>{escape(name)}</b><small>{words}</small>", *cells, strip])
        found = known.get(name, {}).get("balanced_accuracy", {})
        low, high = (100 * float(finite(found.get(key))[0]) for key in ("low", "high"))
        told = f"{number(seeds.mean())} %" + (
            f" ({number(low)} to {number(high)})" if found else ""
        )
        values = (float(seeds.mean()), low, high)
        lines.append(
            {
                "name": escape(name),
                "note": words,
                "values": values,
                "told": f"{name}: {told}",
                "words": told,
            }
        )
    caption = (
        f"Mean ± standard deviation over {count} seeds (fewer where undefined)."
        if count > 1
        else "One seed, so no spread."
    )
    heads = [
        "Arm",
        *(METRICS[key][0] for key in metrics),
        f"Each seed\n{' to '.join(number(v, 0) for v in span)} %",
    ]
    return (intervals(lines, ARM_INTERVALS) if known else "") + table(
        caption, heads, rows, "wide plotted"
    )


def _calibration(known: Mapping[str, Any], arms: Sequence[str]) -> str:
    figures = "".join(reliability(f"Arm {arm}", known[arm]) for arm in arms if known.get(arm))
    return f"<p>{RELIABILITY}</p><div class=side>{figures}</div>" if figures else ""


def _generator(classes: Mapping[str, Any]) -> str:
    def cell(found: Mapping[str, Any], key: str, digits: int) -> str:
        ours, real = (
            number((found[side] or {}).get(key), digits) for side in ("samples", "floor")
        )
        return f"{ours}<small>real {real}</small>"

    rows = []
    for name, found in classes.items():
        copies, numbers = found["copies"], found["numbers"]
        copied = f"{number(copies['samples'], 0)} of {number(numbers['accepted'], 0)}"
        copied += (
            f"<small>real {number(copies['held_out'], 0)} of {number(numbers['real'], 0)}</small>"
        )
        note = f"<small>{number(numbers['compared'], 0)} against {number(numbers['real'], 0)} patches</small>"
        rows.append(
            [
                f"{escape(name)}{note}",
                *(cell(found, key, digits) for key, (_, digits) in FIDELITY.items()),
                copied,
            ]
        )
    heads = ["Class", *(head for head, _ in FIDELITY.values()), "Copies\nof a labelled patch"]
    return (
        f"<p>{GENERATOR}</p>{table('Accepted patches beside real ones', heads, rows, 'wide')}"
        if rows
        else ""
    )


def _recall(
    recall: Mapping[str, Any],
    named: Mapping[str, str],
    classes: Sequence[str],
    arms: Sequence[str],
) -> str:
    rows, found = [], [recall.get(arm, {}) for arm in arms]
    for name in [name for name in classes if any(name in arm for arm in found)]:
        means = [100 * float(finite(arm.get(name)).mean()) for arm in found]
        change = plot(
            f"from {' to '.join(map(number, means))} %", (0, 100), means, means, css="pairs"
        )
        cells = [number(100 * finite(arm.get(name))) for arm in found]
        rows.append([escape(name), *cells, number(means[-1] - means[0], sign=True), change])
    heads = [
        "Class",
        *(f"{arm}\n{named.get(arm, '')}" for arm in arms),
        "Change\npoints",
        f"0 to 100 %\n{arms[-1]} is filled",
    ]
    caption = "Recall, in %: of the test patches of each class, the share that the classifier found. Mean ± standard deviation."
    return table(caption, heads, rows, "wide plotted") if rows else ""


def _gallery(title: str, tiles: Sequence[Tile], limit: int) -> str:
    ranked, cards = sorted(tiles, key=lambda tile: -np.nan_to_num(tile.confidence, nan=-1.0)), ""
    for tile in (
        ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, min(limit, len(ranked)))
    ):
        state = f"rejected: {tile.reason}" if tile.reason else "accepted"
        told = f"{tile.label}, {state}, confidence {number(100 * tile.confidence)} %, seed {tile.seed}"
        right, cards = "", f"{cards}<figure>{picture(tile.image, f'Synthetic patch: {told}')}"
        if tile.origin is not None:
            cards += picture(
                tile.origin, f"Labelled patch that the synthetic patch is a variation of: {told}"
            )
            right = "<div>made from this<br>labelled patch</div>"
        elif tile.nearest is not None:
            cards += picture(
                tile.nearest, f"Real training patch nearest to the synthetic patch: {told}"
            )
            right = f"<div>nearest real<br>distance {number(tile.distance, 3)}</div>"
        left = f"<div>{escape(tile.label) if tile.reason else ''} {share(1, tile.confidence)}seed {tile.seed}</div>"
        cards += f"<figcaption class=two>{left}{right}</figcaption></figure>"
    return f"<h3>{escape(title)}</h3>" + (
        f"<div class=tiles>{cards}</div>" if cards else "<p>No patch to show.</p>"
    )


def _selection(chosen: Mapping[str, Any]) -> str:
    counts = {**chosen.get("per_class", {}), "All classes": chosen}
    made = {
        name: [count.get(key) for key in ("candidates", "accepted")]
        for name, count in counts.items()
    }
    rows = [
        [escape(name), *(number(n, 0) for n in pair), share(*pair)] for name, pair in made.items()
    ]
    heads = ["Class", "Candidates", "Accepted", "Rate"]
    if "sources" in chosen:
        heads.insert(3, "From\nlabelled patches")
        for row, count in zip(rows, counts.values(), strict=True):
            row.insert(3, number(count.get("sources"), 0))
    why = [
        [escape(key), number(n, 0), share(chosen.get("candidates"), n)]
        for key, n in chosen.get("reasons", {}).items()
    ]
    least, reached, aim = (
        float(finite(chosen.get(key))[0])
        for key in ("threshold", "reached_precision", "target_precision")
    )
    met = (
        "is reached"
        if reached >= aim
        else "is not reached"
        if reached < aim
        else "cannot be checked"
    )
    text = f"A candidate needs a confidence of at least {number(100 * least)} %. On held-out real patches, this threshold "
    text += (
        f"has a precision of {number(100 * reached)} %; the target, {number(100 * aim)} %, {met}."
    )
    tables = table("Candidates by intended class", heads, rows, "plotted")
    tables += (
        table("Reasons for rejection", ["Reason", "Patches", "Of all candidates"], why, "plotted")
        if why
        else ""
    )
    return f"<p>{text}</p><div class=side>{tables}</div>"


def _dataset(data: Mapping[str, Any], classes: Sequence[str]) -> str:
    counts, groups = data["counts"], data.get("groups", {})
    rows = [
        [escape(name), *(number(part.get(name, 0), 0) for part in counts.values())]
        for name in classes
    ]
    rows += [["All classes", *(number(sum(part.values()), 0) for part in counts.values())]]
    rows += [
        [
            "Groups<small>patients, slides or tiles</small>",
            *(number(groups.get(key), 0) for key in counts),
        ]
    ]
    return table(
        f"Patches in {data.get('path', 'the data set')}",
        ["Class", *(WORDS.get(key, key) for key in counts)],
        rows,
    )


def _change(metrics: Mapping[str, Any]) -> tuple[list[float], str, str]:
    """Mean, low and high of the change in balanced accuracy, in points; its tone; the three in
    words.
    """
    values = [
        100 * float(finite(metrics.get("balanced_accuracy", {}).get(key)).mean())
        for key in ("mean", "low", "high")
    ]
    tone = (
        "soft"
        if math.isnan(sum(values))
        else "helps"
        if values[1] > 0
        else "hurts"
        if values[2] < 0
        else "same"
    )
    return values, tone, "{} ({} to {})".format(*(number(value, sign=True) for value in values))
