"""One HTML page with the verdict, its evidence and pictures, for the pathologist and the engineer alike.

The page stands alone: style, plots (inline SVG) and pictures (JPEG data URIs) are inside, nothing is fetched, no script runs.
Plots have no view box: positions are percentages, so that they fit a phone. A missing or non-finite value becomes a dash.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["Tile", "write_report"]

TITLE = "Do synthetic patches help?"
REQUIRED = ("verdict", "dataset", "arms", "differences", "selection", "sampling", "seeds")
Values = Sequence[float] | np.ndarray
METRICS = {  # key: (plain name and, on a second line, its meaning; factor for display; decimals)
    "balanced_accuracy": ("Balanced accuracy\n%, each class counts the same", 100, 1),
    "accuracy": ("Accuracy\n% of patches correct", 100, 1),
    "macro_f1": ("F1 score\n%, mean over classes", 100, 1),
    "auc": ("Area under ROC curve\n0.5 chance, 1 perfect", 1, 3),
    "ece": ("Calibration error\n%, lower is better", 100, 1),
}
WORDS = {"train": "Training patches", "labelled": "Labels used", "test": "Test patches", "steps": "sampling steps"}
OUTCOMES = {  # where the 95 % interval of the change lies, its name, what it says
    "helps": ("above zero", "Helps", "The whole interval lies above zero."),
    "hurts": ("below zero", "Hurts", "The whole interval lies below zero."),
    "same": ("includes zero", "No difference", "The interval includes zero: a real change cannot be told from chance here."),
    "soft": ("not measured", "No verdict", "This run does not allow a verdict."),
}
DEMO = """<p class=demo role=note><strong>Demonstration only.</strong> The patches of this data set are synthetic demonstration
patches, not tissue, and the verdict is only a demonstration of this report: it says nothing about real data.</p>"""
INTERVALS = "Change in balanced accuracy, in points: mean (dot), 95 % interval (bar). Right of zero, the first arm is better."
PICTURES = """<p>Left: the synthetic patch. Right: the real training patch nearest to it, to see whether it is a copy. The bar is
the critic’s confidence in the class. Those shown run evenly from the most to the least confident: not only the best.</p>"""
RAIL = '<line x1="0" x2="100%" y1="50%" y2="50%"/>'
STYLE = """
:root{color-scheme:light dark;--page:#fcfcfb;--ink:#1b2025;--soft:#59636c;--line:#e0e3e7;--mark:#4b4c97;--helps:#1c6a57;
--hurts:#9c3a2b;--same:#43567a}@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;--ink:#e5e8eb;--soft:#a2acb5;
--line:#30363d;--mark:#a8abf2;--helps:#7ccdb4;--hurts:#f2a594;--same:#a9bde2}}
*{box-sizing:border-box;margin:0;padding:0}a,summary{color:var(--mark)}b{color:var(--ink);white-space:nowrap}
body{margin:auto;padding:3.5rem 1.5rem 5rem;max-width:71rem;background:var(--page);color:var(--ink);overflow-wrap:anywhere;
 font:1rem/1.55 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:clamp(1.7rem,4vw,2.3rem);line-height:1.15;letter-spacing:-.02em}h2{font-size:1.35rem;margin-bottom:.6rem}
h3{font-size:1rem;margin:2rem 0 .8rem;padding-top:.6rem;border-top:1px solid var(--line)}h1,h2,h3,strong,b{font-weight:650}
small,caption,figcaption,thead,nav{font-size:.84rem;line-height:1.4}small,caption,figcaption{color:var(--soft);font-weight:400}
section{margin-top:4rem}section p,figcaption{max-width:46rem}section>p{margin-bottom:1rem}nav a{margin-right:1rem}
.verdict{padding:1.5rem 1.8rem;border-left:5px solid var(--tone);background:color-mix(in srgb,var(--tone) 8%,#0000)}
.verdict p{font-size:clamp(1.25rem,2.8vw,1.65rem);line-height:1.35;margin:.3rem 0 .6rem}.verdict strong{color:var(--tone)}
.demo{padding:.9rem 1.2rem;border:2px dashed var(--hurts)}.verdict,.demo,nav{margin-top:1.6rem}summary{margin-bottom:1rem}
th small,td small,.row small{display:block}.row{display:grid;grid-template-columns:17rem 1fr 11.5rem;gap:0 1.75rem}
li.row{border-top:1px solid var(--line)}.row>*{align-self:center;padding:.7rem 0}.row>svg{padding:0;height:0;min-height:100%}
svg{display:block;width:100%;height:1.4rem;overflow:visible}text{fill:var(--soft);font-size:12px;text-anchor:middle}
line{stroke:var(--line)}.zero{stroke:var(--ink);stroke-dasharray:3 3}.interval{stroke:var(--tone,var(--mark));stroke-width:3}
circle{fill:var(--tone,var(--mark));fill-opacity:.8}.pairs circle{stroke:var(--mark);fill-opacity:1;stroke-width:1.5}
.pairs .n0{fill:var(--page)}.bar{height:.6rem}.bar line{stroke-width:4}tbody>tr>*{border-top:1px solid var(--line)}
table{border-collapse:collapse;width:100%;margin-bottom:2rem;font-size:.94rem}caption{text-align:left;padding-bottom:.6rem}
th,td{text-align:right;padding:.6rem 0 .6rem .8rem;vertical-align:top}td,thead th{overflow-wrap:normal}
th{font-weight:600}thead th{vertical-align:bottom}th:first-child{text-align:left;padding-left:0}tbody th{min-width:5rem}
.plotted td:last-child{width:24%;min-width:5rem}.plotted thead th:last-child{text-align:left}.tiles,.side{align-items:start}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(14.5rem,1fr));gap:1.5rem 1.25rem}td b{font-weight:400}
.tiles figure,.two{display:grid;grid-template-columns:1fr 1fr;gap:3px}.two{grid-column:1/3}img{width:100%;height:auto}
.side{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:0 3rem}.side td{overflow-wrap:anywhere}
@media screen and (max-width:46rem){body{padding:2rem 1rem}.verdict{padding:1.2rem}.tiles{grid-template-columns:1fr 1fr}
.row{display:block}.row>*{padding:.3rem 0}.row>svg{height:2.6rem}.row>span{display:none}.wide td svg{width:50%}
.wide tr{display:block;padding:.7rem 0;border-top:1px solid var(--line)}.wide thead{position:absolute;clip-path:inset(50%)}
.wide tbody>tr>*{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.15rem 0;width:auto!important}
.wide td::before{content:attr(data-label);color:var(--soft)}.wide th small{text-align:right}}
@media print{:root{--page:#fff;font-size:11px}@page{margin:15mm}body{padding:0}nav,summary{display:none}section{margin-top:2rem}
figure,tr,li,.verdict{break-inside:avoid}h2,h3,caption{break-after:avoid}.tiles{grid-template-columns:repeat(4,1fr)}
.verdict{print-color-adjust:exact}details::details-content{content-visibility:visible;display:block;block-size:auto}}
"""


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


def write_report(path: str | os.PathLike[str], results: Mapping[str, Any], tiles: Sequence[Tile], max_per_class: int = 8) -> Path:
    """Write the page: all of it, or nothing.

    Args:
        path: the HTML file to write; its folder is made if need be.
        results: what the comparison found. ``verdict``, ``dataset``, ``arms``, ``differences``, ``selection``, ``sampling`` and
            ``seeds`` are required; ``arm_names``, ``recall``, ``floors``, ``versions``, ``settings``, ``seconds`` and ``notes``
            are shown where given. The colour of the verdict and the recall follow ``"G-C"``, or else the first difference.
        tiles: patches to show, accepted and rejected.
        max_per_class: the most patches shown per class and per reason of rejection, spread evenly over the confidence.

    Raises:
        ValueError: a required key is missing, or a picture is not a uint8 array ``H x W x 3``.
    """
    if missing := [key for key in REQUIRED if key not in results]:
        raise ValueError(f"results must hold {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
    data, chosen, changes, named = (results.get(key, {}) for key in ("dataset", "selection", "differences", "arm_names"))
    classes = list(dict.fromkeys([*data.get("classes", ()), *chosen.get("per_class", ()), *(tile.label for tile in tiles)]))
    groups = {name: [tile for tile in tiles if tile.label == name and not tile.reason] for name in classes}
    reasons = {reason: [tile for tile in tiles if tile.reason == reason] for reason in (t.reason for t in tiles) if reason}
    primary = "G-C" if "G-C" in changes else next(iter(changes), "G-C")
    tone = results.get("outcome") or _change(changes.get(primary, {}))[1]
    cost = {f"{key}, seconds": value for key, value in results.get("seconds", {}).items()} | results["sampling"]
    setup = _pairs("Settings, and versions of packages", {**results.get("settings", {}), **results.get("versions", {})})
    sections = {
        "What changes": _differences(changes, named),
        "Every arm": _arms(results["arms"], named, results.get("floors", {}), len(results["seeds"])),
        "Class by class": _recall(results.get("recall", {}), named, classes, primary.split("-", 1)[::-1]),
        "Accepted patches": PICTURES + "".join(_gallery(name, group, max_per_class) for name, group in groups.items()),
        "Rejected patches": "".join(_gallery(reason, group, max_per_class) for reason, group in reasons.items()),
        "Selection": _selection(chosen),
        "Data": _dataset(data, classes) if data.get("counts") else "",
        "Cost": _pairs("Time and throughput", {WORDS.get(key, key.replace("_", " ")): value for key, value in cost.items()}),
        "Settings and versions": f"<details><summary>Show all</summary>{setup}</details>" if setup else "",
        "Notes": "".join(f"<p>{escape(note)}</p>" for note in results.get("notes", ())),
    }
    shown = [(f"s{i}", name, body) for i, (name, body) in enumerate(sections.items()) if body]
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{TITLE}</title><style>{STYLE}</style></head><body><header><h1>{TITLE}</h1>"
        f'<div class=verdict style="--tone:var(--{tone})"><strong>{OUTCOMES[tone][1]}</strong><p>{escape(results["verdict"])}</p>'
        f"{OUTCOMES[tone][2]}</div>{DEMO if data.get('demo') else ''}<nav aria-label=Contents>"
        f"{' '.join(f'<a href=#{key}>{name}</a>' for key, name, _ in shown)}</nav></header><main>"
        f"{''.join(f'<section id={key}><h2>{name}</h2>{body}</section>' for key, name, body in shown)}</main></body></html>\n"
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    try:
        draft.write_bytes(page.encode("utf-8", "replace"))
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _differences(differences: Mapping[str, Any], named: Mapping[str, str]) -> str:
    found = {key: _change(metrics) for key, metrics in differences.items()}
    low, high = span = _range([0.0, *(v for values, _, _ in found.values() for v in values)])
    step = next(s * 10.0**k for k in range(-6, 9) for s in (1, 2, 5) if high - low <= 6 * s * 10.0**k)
    ticks = [(k * step, _at(k * step, span)) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    grid = "".join(f'<line class="{"tick" if t else "zero"}" x1="{x}" x2="{x}" y1="0" y2="100%"/>' for t, x in ticks)
    rows = ""
    for key, (values, tone, told) in found.items():
        words = " against ".join(escape(named[arm]) for arm in key.split("-", 1) if arm in named)
        plot = _plot(f"{key}: {told} points, {OUTCOMES[tone][0]}", span, values[:1], values[1:], grid)
        rows += f'<li class=row style="--tone:var(--{tone})"><div><strong>{escape(key.replace("-", " against ", 1))}</strong>'
        rows += f"<small>{words}</small></div>{plot}<div>{told}<small>{OUTCOMES[tone][0]}</small></div></li>"
    axis = "".join(f'<text x="{x}" y="14">{_number(t, None, sign=True)}</text>' for t, x in ticks)
    axis = f"<div class=row aria-hidden=true><span>&nbsp;</span><svg>{axis}</svg></div><figcaption>{INTERVALS}</figcaption>"
    return f"<figure><ol>{rows}</ol>{axis}</figure>" if rows else "<p>No two arms were compared.</p>"


def _arms(arms: Mapping[str, Any], named: Mapping[str, str], floors: Mapping[str, Any], count: int) -> str:
    every, rows = {**arms, **floors}, []
    metrics = [key for key in METRICS if any(key in arm for arm in every.values())]
    span = _range(100 * v for arm in every.values() for v in _finite(arm.get("balanced_accuracy")))
    for name, arm in every.items():
        seeds = 100 * _finite(arm.get("balanced_accuracy"))
        strip = _plot(f"balanced accuracy of each seed: {', '.join(map(_number, seeds))} %", span, seeds)
        words = escape(named.get(name, "baseline to beat" if name in floors else ""))
        cells = [_number(METRICS[key][1] * _finite(arm.get(key)), METRICS[key][2]) for key in metrics]
        rows.append([f"{escape(name)}<small>{words}</small>", *cells, strip])
    caption = f"Mean ± standard deviation over {count} seeds (fewer where undefined)." if count > 1 else "One seed, so no spread."
    heads = ["Arm", *(METRICS[key][0] for key in metrics), f"Each seed\n{' to '.join(_number(v, 0) for v in span)} %"]
    return _table(caption, heads, rows, "wide plotted")


def _recall(recall: Mapping[str, Any], named: Mapping[str, str], classes: Sequence[str], arms: Sequence[str]) -> str:
    rows, found = [], [recall.get(arm, {}) for arm in arms]
    for name in [name for name in classes if any(name in arm for arm in found)]:
        means = [100 * float(_finite(arm.get(name)).mean()) for arm in found]
        plot = _plot(f"from {' to '.join(map(_number, means))} %", (0, 100), means, means, css="pairs")
        cells = [_number(100 * _finite(arm.get(name))) for arm in found]
        rows.append([escape(name), *cells, _number(means[-1] - means[0], sign=True), plot])
    heads = ["Class", *(f"{arm}\n{named.get(arm, '')}" for arm in arms), "Change\npoints", f"0 to 100 %\n{arms[-1]} is filled"]
    caption = "Recall, in %: of the test patches of each class, the share that the classifier found. Mean ± standard deviation."
    return _table(caption, heads, rows, "wide plotted") if rows else ""


def _gallery(title: str, tiles: Sequence[Tile], limit: int) -> str:
    ranked, cards = sorted(tiles, key=lambda tile: -np.nan_to_num(tile.confidence, nan=-1.0)), ""
    for tile in (ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, min(limit, len(ranked)))):
        state = f"rejected: {tile.reason}" if tile.reason else "accepted"
        told = f"{tile.label}, {state}, confidence {_number(100 * tile.confidence)} %, seed {tile.seed}"
        right, cards = "", f"{cards}<figure>{_picture(tile.image, f'Synthetic patch: {told}')}"
        if tile.nearest is not None:
            cards += _picture(tile.nearest, f"Real training patch nearest to the synthetic patch: {told}")
            right = f"<div>nearest real<br>distance {_number(tile.distance, 3)}</div>"
        left = f"<div>{escape(tile.label) if tile.reason else ''} {_share(1, tile.confidence)}seed {tile.seed}</div>"
        cards += f"<figcaption class=two>{left}{right}</figcaption></figure>"
    return f"<h3>{escape(title)}</h3>" + (f"<div class=tiles>{cards}</div>" if cards else "<p>No patch to show.</p>")


def _selection(chosen: Mapping[str, Any]) -> str:
    counts = {**chosen.get("per_class", {}), "All classes": chosen}
    pairs = {name: [count.get(key) for key in ("candidates", "accepted")] for name, count in counts.items()}
    rows = [[escape(name), *(_number(n, 0) for n in pair), _share(*pair)] for name, pair in pairs.items()]
    why = [[escape(key), _number(n, 0), _share(chosen.get("candidates"), n)] for key, n in chosen.get("reasons", {}).items()]
    least, reached, aim = (float(_finite(chosen.get(key))[0]) for key in ("threshold", "reached_precision", "target_precision"))
    met = "is reached" if reached >= aim else "is not reached" if reached < aim else "cannot be checked"
    text = f"A candidate needs a confidence of at least {_number(100 * least)} %. On held-out real patches, this threshold "
    text += f"has a precision of {_number(100 * reached)} %; the target, {_number(100 * aim)} %, {met}."
    tables = _table("Candidates by intended class", ["Class", "Candidates", "Accepted", "Rate"], rows, "plotted")
    tables += _table("Reasons for rejection", ["Reason", "Patches", "Of all candidates"], why, "plotted") if why else ""
    return f"<p>{text}</p><div class=side>{tables}</div>"


def _dataset(data: Mapping[str, Any], classes: Sequence[str]) -> str:
    counts, groups = data["counts"], data.get("groups", {})
    rows = [[escape(name), *(_number(part.get(name, 0), 0) for part in counts.values())] for name in classes]
    rows += [["All classes", *(_number(sum(part.values()), 0) for part in counts.values())]]
    rows += [["Groups<small>patients, slides or tiles</small>", *(_number(groups.get(key), 0) for key in counts)]]
    return _table(f"Patches in {data.get('path', 'the data set')}", ["Class", *(WORDS.get(key, key) for key in counts)], rows)


def _pairs(caption: str, pairs: Mapping[str, Any]) -> str:
    rows = [[escape(k), _number(v, None) if isinstance(v, float) else escape(str(v))] for k, v in pairs.items()]
    return f"<div class=side>{_table(caption, ['Name', 'Value'], rows)}</div>" if rows else ""


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """Cells are HTML, the caption and the heads plain text; the second line of a head explains it."""
    names = [head.partition("\n") for head in heads]
    body, top = "", "".join(f"<th scope=col>{escape(name)}<small>{escape(more)}</small></th>" for name, _, more in names)
    for first, *cells in rows:
        line = "".join(f'<td data-label="{escape(name[0])}">{cell}</td>' for name, cell in zip(names[1:], cells, strict=True))
        body += f"<tr><th scope=row>{first}</th>{line}</tr>"
    return f'<table class="{css}"><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _plot(label: str, span: Values, dots: Values, bar: Values = (math.nan,), inner: str = RAIL, css: str = "") -> str:
    if not math.isnan(sum(bar)):
        inner += f'<line class=interval x1="{_at(bar[0], span)}" x2="{_at(bar[-1], span)}" y1="50%" y2="50%"/>'
    inner += "".join(f'<circle class=n{i} cx="{_at(x, span)}" cy="50%" r="4.5"/>' for i, x in enumerate(dots) if math.isfinite(x))
    return f'<svg class="{css}" role="img" aria-label="{escape(label)}">{inner}</svg>'


def _share(whole: Any, part: Any) -> str:
    share = float(_finite(part)[0]) / (float(_finite(whole)[0]) or math.nan)
    return f"<b>{_number(100 * share)} %</b>" + _plot(f"{_number(100 * share)} %", (0, 1), (), (0, share), css="bar")


def _picture(image: np.ndarray, words: str) -> str:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture must be a uint8 array H x W x 3, got {image.dtype} {image.shape}")
    picture, stream = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((256, 256))  # larger patches are shrunk for the page
    picture.save(stream, "JPEG", quality=90, subsampling=0)
    source = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{source}" alt="{escape(words)}" width="{picture.width}" height="{picture.height}">'


def _change(metrics: Mapping[str, Any]) -> tuple[list[float], str, str]:
    """Mean, low and high of the change in balanced accuracy, in points; its tone; the three in words."""
    values = [100 * float(_finite(metrics.get("balanced_accuracy", {}).get(key)).mean()) for key in ("mean", "low", "high")]
    tone = "soft" if math.isnan(sum(values)) else "helps" if values[1] > 0 else "hurts" if values[2] < 0 else "same"
    return values, tone, "{} ({} to {})".format(*(_number(value, sign=True) for value in values))


def _range(values: Iterable[float]) -> tuple[float, float]:
    found = np.nan_to_num(_finite(list(values)))
    margin = 0.08 * np.ptp(found) or 1.0
    return float(found.min() - margin), float(found.max() + margin)


def _at(value: float, span: Values) -> str:
    return f"{100 * (value - span[0]) / (span[1] - span[0]):.2f}%"


def _finite(values: Any) -> np.ndarray:  # never empty: one NaN if there are none
    found = np.atleast_1d(np.asarray(values, dtype=float))
    return found[np.isfinite(found)] if np.isfinite(found).any() else np.array([math.nan])


def _number(values: Any, digits: int | None = 1, sign: bool = False) -> str:
    """Mean ± standard deviation of several values, one value, or a dash; ``digits=None``: four significant ones."""
    found = _finite(values)
    mean = float(found.mean()) if digits is None else round(float(found.mean()), digits) + 0.0
    text = f"{float(f'{mean:.4g}'):,.10g}" if digits is None else f"{mean:,.{digits}f}"
    text = "–" if math.isnan(mean) else ("+" if sign and mean > 0 else "") + text.replace("-", "−")
    return text + (f"\u00a0±\u00a0{found.std(ddof=1):.{digits}f}" if found.size > 1 else "")
