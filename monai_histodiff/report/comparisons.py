"""Sections about the classifiers: what changes, every arm, class by class, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_histodiff.report.blocks import Block, Fold, Side, Table, TableCell, Words
from monai_histodiff.report.plots import Axis, Intervals, Reliability, Row, Strip
from monai_histodiff.report.values import change_words, claim, finite, number, p_value, span

__all__ = ["METRICS", "arms", "calibration", "change", "changes", "classes_table", "location"]

METRICS = {  # key: (plain name and, on a second line, its meaning; factor for display; decimals)
    "balanced_accuracy": ("Balanced accuracy\n%, each class counts the same", 100, 1),
    "accuracy": ("Accuracy\n% of patches correct", 100, 1),
    "macro_f1": ("F1 score\n%, mean over classes", 100, 1),
    "auc": ("Area under ROC curve\n0.5 chance, 1 perfect", 1, 3),
    "ece": ("Calibration error\n%, lower is better", 100, 1),
    "worst_recall": ("Worst class\n% of its patches found", 100, 1),
}
INTERVALS = (
    "Change in balanced accuracy, in points: mean (dot), 95 % interval (bar). Right of zero, the "
    "first arm is better."
)
BANDS = (
    " Shaded: true changes so small that this run would miss them more often than once in five."
)
ARM_INTERVALS = (
    "Balanced accuracy, in %: mean (dot), 95 % interval over test groups and trainings (bar). "
    "Arms share their test patches, so bars that overlap may differ all the same: the differences "
    "above decide."
)
CORRECTED = (
    "The corrected p-value is Holm’s, over all comparisons of this page: below 0.05, the change "
    "may be claimed."
)
NOT_CLAIMED = (
    "The corrected p-values are Holm’s, over all comparisons of this page. Whatever they are, "
    "nothing is claimed here: see the sentence at the top."
)
CRITIC = "the critic"
AS_IT_IS = "what labels and selects, as it is"
RELIABILITY = (
    "To the right: the confidence of the classifier. Upwards: how often it was right. The area of "
    "a dot: how many test patches. On the diagonal, the confidence can be believed; below it, the "
    "classifier is too sure."
)


def change(metrics: Mapping[str, Any], metric: str = "balanced_accuracy") -> list[float]:
    """Mean, low and high of a change in points; NaN where unknown."""
    found = metrics.get(metric, {})
    return [100 * float(finite(found.get(key)).mean()) for key in ("mean", "low", "high")]


def location(low: float, high: float) -> str:
    """Where an interval lies."""
    if low > 0:
        return "above zero"
    if high < 0:
        return "below zero"
    return "includes zero" if low <= high else "not measured"


def changes(results: Mapping[str, Any]) -> list[Block]:
    """The interval plot of all differences, and a table of every metric."""
    differences, claims = results["differences"], results.get("claims", {})
    if not differences:
        return [Words("No two arms were compared.")]
    changed = {key: change(metrics) for key, metrics in differences.items()}
    least = {key: 100 * float(finite(claims.get(key, {}).get("detectable"))[0]) for key in changed}
    axis = Axis.over((v for values in changed.values() for v in values), signed=True)
    rows = [_change_row(key, values, least[key], axis, results) for key, values in changed.items()]
    known = [key for key in METRICS if any(key in m for m in differences.values())]
    cells = [
        [
            key.replace("-", " against ", 1),
            *(
                TableCell(
                    number(METRICS[m][1] * mean / 100, METRICS[m][2], sign=True),
                    span((METRICS[m][1] * v / 100 for v in (low, high)), METRICS[m][2]),
                )
                for m in known
                for mean, low, high in [change(metrics, m)]
            ),
        ]
        for key, metrics in differences.items()
    ]
    heads = ["Comparison", *(METRICS[m][0] for m in known)]
    every = Table("Changes in every metric, with 95 % intervals", heads, cells, cards=True)
    bands = BANDS if any(row.band for row in rows) else ""
    return [
        Intervals(rows, axis, INTERVALS + bands),
        *([Words(NOT_CLAIMED if results.get("shortfalls") else CORRECTED)] if claims else []),
        Fold("Changes in every metric", [every]),
    ]


def _change_row(
    key: str, values: list[float], least: float, axis: Axis, results: Mapping[str, Any]
) -> Row:
    known = results.get("claims", {}).get(key, {})
    mean, low, high = values
    told, where, tone = change_words(values), location(low, high), claim(low, high, known)
    words = [told, where]
    if (adjusted := known.get("p_holm")) is not None:
        claimed = "" if tone == "inconclusive" else ": claimed"
        words.append(f"corrected p {p_value(adjusted)}{claimed}")
    band = None
    if least == least:
        words.append(f"could have seen {number(least)}")
        band = (max(axis.at(-least), 0.0), min(axis.at(least), 100.0))
    names = results.get("arm_names", {})
    note = " against ".join(names[arm] for arm in key.split("-", 1) if arm in names)
    return Row(
        name=key.replace("-", " against ", 1),
        note=note,
        label=f"{key}: {told} points, {where}",
        words=words,
        dots=axis.dots([mean]),
        bar=axis.bar(low, high),
        band=band,
        tone=tone,
    )


def baselines(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Metrics of what is no arm: of colour alone, and of the critic."""
    critic = results.get("critic")
    return {**results.get("floors", {}), **({CRITIC: critic} if critic else {})}


def arms(results: Mapping[str, Any]) -> list[Block]:
    """The balanced accuracy of all arms and baselines as a plot, and all metrics as a table."""
    names = {**dict.fromkeys(baselines(results), "baseline to beat"), CRITIC: AS_IT_IS}
    names |= results.get("arm_names", {})
    known, count = results.get("intervals", {}), len(results["seeds"])
    if not (every := {**results["arms"], **baselines(results)}):
        return []
    metrics = [key for key in METRICS if any(key in arm for arm in every.values())]
    means = {name: 100 * finite(arm.get("balanced_accuracy")) for name, arm in every.items()}
    ends = {
        name: [
            100 * float(finite(known.get(name, {}).get("balanced_accuracy", {}).get(key))[0])
            for key in ("low", "high")
        ]
        for name in every
    }
    axis = Axis.over(v for name in every for v in (means[name].mean(), *ends[name]))
    strips = Axis.over(v for values in means.values() for v in values)
    rows, lines = [], []
    for name, arm in every.items():
        note = names.get(name, "")
        label = f"balanced accuracy of each seed: {', '.join(map(number, means[name]))} %"
        cells = [
            TableCell(number(factor * finite(arm.get(key)), digits))
            for key in metrics
            for _, factor, digits in [METRICS[key]]
        ]
        seeds = TableCell(plot=Strip(strips.dots(means[name]), label=label))
        rows.append([TableCell(name, note), *cells, seeds])
        mean, (low, high) = float(means[name].mean()), ends[name]
        told = f"{number(mean)} %"
        told += f" ({span((low, high), sign=False)})" if name in known else ""
        dot, bar = axis.dots([mean]), axis.bar(low, high)
        lines.append(Row(name, note, f"{name}: {told}", [told], dot, bar))
    caption = (
        f"Mean ± standard deviation over {count} seeds (fewer where undefined)."
        if count > 1
        else "One seed, so no spread."
    )
    scale = f"Each seed\n{number(strips.low, 0)} to {number(strips.high, 0)} %"
    heads = ["Arm", *(METRICS[key][0] for key in metrics), scale]
    table = Table(caption, heads, rows, cards=True, css="plotted")
    return [Intervals(lines, axis, ARM_INTERVALS), table] if known else [table]


def classes_table(
    results: Mapping[str, Any], classes: Sequence[str], both: Sequence[str]
) -> list[Block]:
    """Recall of each class without and with synthetic patches, beside what was accepted of it.

    Args:
        results: see :func:`~monai_histodiff.report.page.write_report`.
        classes: in the order of the rows.
        both: the reference arm, and the arm with synthetic patches.
    """
    names, chosen = results.get("arm_names", {}), results["selection"].get("per_class", {})
    tests = results["dataset"].get("counts", {}).get("test", {})
    found = [results.get("recall", {}).get(arm, {}) for arm in both]
    rows: list[list[TableCell | str]] = []
    for name in [name for name in classes if any(name in arm for arm in found)]:
        means = [100 * float(finite(arm.get(name)).mean()) for arm in found]
        dots = [v for v in means if v == v]
        label = f"from {' to '.join(map(number, means))} %"
        plot = Strip(dots, (dots[0], dots[-1]) if len(dots) > 1 else None, label, "pairs")
        made = chosen.get(name, {})
        rows.append(
            [
                TableCell(name, f"{number(tests[name], 0)} test patches" if name in tests else ""),
                *(number(100 * finite(arm.get(name))) for arm in found),
                number(means[-1] - means[0], sign=True),
                TableCell(plot=plot),
                f"{number(made.get('accepted'), 0)} of {number(made.get('candidates'), 0)}",
            ]
        )
    heads = [
        "Class",
        *(f"{arm}\n{names.get(arm, '')}" for arm in both),
        "Change\npoints",
        f"0 to 100 %\n{both[-1]} is filled",
        "Accepted\nof candidates",
    ]
    caption = (
        "Recall, in %: of the test patches of each class, the share that the classifier found. "
        "Mean ± standard deviation."
    )
    return [Table(caption, heads, rows, cards=True, css="recall")] if rows else []


def calibration(known: Mapping[str, Any], both: Sequence[str]) -> list[Block]:
    """Reliability diagrams of two arms."""
    figures = [Reliability(f"Arm {arm}", known[arm]) for arm in both if known.get(arm)]
    return [Words(RELIABILITY), Side(figures)] if figures else []
