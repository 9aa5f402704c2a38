"""One HTML page with the verdict, its evidence and pictures, for the pathologist and the engineer alike.

The page stands alone: style, plots (inline SVG) and pictures (JPEG data URIs) are inside, nothing is fetched, no script runs.
Plots have no view box: positions are percentages, so that they fit a phone. Nothing is computed here but means and standard
deviations over seeds; a value that is missing or not finite is shown as a dash.
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
MAX_SIDE = 256  # pixels: larger patches are shrunk for the page
METRICS = {  # key: (plain name and, on a second line, its meaning; factor for display; decimals)
    "balanced_accuracy": ("Balanced accuracy\n%, each class counts the same", 100, 1),
    "accuracy": ("Accuracy\n% of patches correct", 100, 1),
    "macro_f1": ("F1 score\n%, mean over classes", 100, 1),
    "auc": ("Area under ROC curve\n0.5 chance, 1 perfect", 1, 3),
    "ece": ("Calibration error\n%, lower is better", 100, 1),
}
WORDS = {"train": "Training patches", "labelled": "Labels used", "test": "Test patches", "guidance_scale": "guidance strength"}
OUTCOMES = {  # where the 95 % interval of the change lies, and what that says
    "helps": ("above zero", "Synthetic patches help."),
    "hurts": ("below zero", "Synthetic patches hurt."),
    "same": ("includes zero", "No difference shown: a real change cannot be told from chance here."),
    "open": ("not measured", "Not compared."),
}
DEMO = """<p class=demo role=note><strong>Demonstration only.</strong> The patches of this data set are synthetic demonstration
patches, not tissue, and the verdict is only a demonstration of this report: it says nothing about real data.</p>"""
INTERVALS = """Change in balanced accuracy, in percentage points. Dot: mean over seeds; bar: 95 % interval. Right of the dashed
line the first arm is better; where the bar touches that line, no difference is shown."""
PICTURES = """<p>Left: the synthetic patch. Right: the real training patch nearest to it, to see whether it is a copy. The bar is
the critic’s confidence in the intended class. Those shown run evenly from the most to the least confident, not only the best.</p>"""
RAIL = '<line x1="0" x2="100%" y1="50%" y2="50%"/>'
STYLE = """
:root{color-scheme:light dark;--page:#fcfcfb;--ink:#1b2025;--soft:#59636c;--line:#e0e3e7;--mark:#4b4c97;
 --helps:#1c6a57;--hurts:#9c3a2b;--same:#43567a;--open:#59636c}
@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;--ink:#e5e8eb;--soft:#a2acb5;--line:#30363d;--mark:#a8abf2;
 --helps:#7ccdb4;--hurts:#f2a594;--same:#a9bde2;--open:#a2acb5}}
*{box-sizing:border-box;margin:0;padding:0}a,summary{color:var(--mark)}summary{cursor:pointer;padding-bottom:1rem}
body{margin:auto;padding:3.5rem 1.5rem 5rem;max-width:71rem;background:var(--page);color:var(--ink);overflow-wrap:anywhere;
 font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:clamp(1.7rem,4vw,2.3rem);line-height:1.15;letter-spacing:-.02em}h2{font-size:1.35rem;margin-bottom:.6rem}
h1,h2,h3,strong{font-weight:650}h3{font-size:1rem;margin:2rem 0 .8rem;padding-top:.6rem;border-top:1px solid var(--line)}
small,caption,figcaption,thead,nav{font-size:.84rem;line-height:1.4}small,caption,figcaption{color:var(--soft);font-weight:400}
section{margin-top:4rem}p{max-width:46rem}section>p{margin-bottom:1.25rem}nav{margin-top:1.5rem}nav a{margin-right:1rem}
.helps{--tone:var(--helps)}.hurts{--tone:var(--hurts)}.same{--tone:var(--same)}.open{--tone:var(--open)}
.verdict{margin-top:2rem;padding:1.6rem 1.8rem;border-left:5px solid var(--tone);border-radius:3px;
 background:color-mix(in srgb,var(--tone) 8%,var(--page))}.verdict p{max-width:none}.verdict strong{color:var(--tone)}
.verdict p+p{font-size:clamp(1.25rem,2.8vw,1.7rem);line-height:1.35;margin-top:.4rem}
.demo{margin-top:1.5rem;padding:.9rem 1.2rem;border:2px dashed var(--hurts);border-radius:3px;max-width:none}
th small,td small,.row small{display:block}.row{display:grid;grid-template-columns:17rem 1fr 10.5rem;gap:0 1.75rem}
li.row{border-top:1px solid var(--line)}.row>div{padding:.7rem 0}.row>svg{height:100%;min-height:2rem}figcaption{max-width:46rem}
svg{display:block;width:100%;height:1.4rem;overflow:visible}text{fill:var(--soft);font-size:12px;text-anchor:middle}
line{stroke:var(--line)}.zero{stroke:var(--ink);stroke-dasharray:3 3}.interval{stroke:var(--tone,var(--mark));stroke-width:3}
circle{fill:var(--tone,var(--mark));fill-opacity:.8}.pairs circle{stroke:var(--mark);fill-opacity:1;stroke-width:1.5}
.pairs circle:first-of-type{fill:var(--page)}.bar{height:.6rem}.bar line{stroke-width:4}
table{border-collapse:collapse;width:100%;margin-bottom:2rem;font-size:.94rem}caption{text-align:left;padding-bottom:.6rem}
th,td{text-align:right;padding:.6rem 0 .6rem 1.1rem;vertical-align:top;font-weight:400}thead th{vertical-align:bottom;font-weight:600}
th:first-child{text-align:left;padding-left:0;font-weight:600}tbody>tr>*{border-top:1px solid var(--line)}
.plotted td:last-child{width:24%;min-width:7rem}.plotted thead th:last-child{text-align:left}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(14.5rem,1fr));gap:1.5rem 1.25rem}
.tiles div{display:grid;grid-template-columns:1fr 1fr;gap:3px;margin-bottom:.3rem}img{width:100%;height:auto;border-radius:2px}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:0 3.5rem;align-items:start}
@media screen and (max-width:46rem){body{padding:2rem 1rem 3rem}section{margin-top:3rem}.verdict{padding:1.2rem}
 .row{grid-template-columns:1fr;padding:.3rem 0}.row>div{padding:.3rem 0}.row>svg{order:3;height:2.6rem}
 .tiles{grid-template-columns:1fr 1fr;gap:1.2rem 1rem}.wide thead{position:absolute;clip-path:inset(50%)}
 .wide tr{display:block;padding:.7rem 0;border-top:1px solid var(--line)}.wide td svg{width:50%}.wide th small{text-align:right}
 .wide tbody>tr>*{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.15rem 0;width:auto!important}
 .wide td::before{content:attr(data-label);color:var(--soft)}}
@media print{@page{margin:16mm 14mm}body{padding:0;max-width:none;font-size:10pt}nav,summary{display:none}section{margin-top:2rem}
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
    missing = [key for key in REQUIRED if key not in results]
    if missing:
        raise ValueError(f"results must hold {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
    data, chosen, target, named = results["dataset"], results["selection"], Path(path), results.get("arm_names", {})
    classes = list(dict.fromkeys([*data.get("classes", ()), *chosen.get("per_class", ()), *(tile.label for tile in tiles)]))
    good, bad = [tile for tile in tiles if not tile.reason], [tile for tile in tiles if tile.reason]
    primary = "G-C" if "G-C" in results["differences"] else next(iter(results["differences"]), "G-C")
    tone = _change(results["differences"].get(primary, {}))[1]
    setup = [("Version", results.get("versions", {})), ("Setting", results.get("settings", {}))]
    sections = {
        "What changes": _differences(results["differences"], named),
        "Every arm": _arms(results["arms"], named, results.get("floors", {}), len(results["seeds"])),
        "Class by class": _recall(results.get("recall", {}), named, classes, primary.split("-", 1)[::-1]),
        "Accepted patches": PICTURES + "".join(_gallery(c, [t for t in good if t.label == c], max_per_class) for c in classes),
        "Rejected patches": "".join(
            _gallery(r, [t for t in bad if t.reason == r], max_per_class) for r in dict.fromkeys(t.reason for t in bad)
        ),
        "Selection": _selection(chosen),
        "Data": _dataset(data, classes),
        "Cost": _pairs([("Time, in seconds", results.get("seconds", {})), ("Sampling", results["sampling"])]),
        "Settings and versions": f"<details><summary>Show all</summary>{_pairs(setup)}</details>" if setup[0][1] or setup[1][1] else "",
        "Notes": "".join(f"<p>{_text(note)}</p>" for note in results.get("notes", ())),
    }
    shown = [(f"s{i}", name, body) for i, (name, body) in enumerate(sections.items()) if body]
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{TITLE}</title><style>{STYLE}</style></head><body><header><h1>{TITLE}</h1><div class="verdict {tone}">'
        f"<p><strong>{OUTCOMES[tone][1]}</strong></p><p>{_text(results['verdict'])}</p></div>{DEMO if data.get('demo') else ''}"
        f"<nav aria-label=Contents>{' '.join(f'<a href=#{key}>{name}</a>' for key, name, _ in shown)}</nav></header><main>"
        f"{''.join(f'<section id={key}><h2>{name}</h2>{body}</section>' for key, name, body in shown)}</main></body></html>\n"
    )
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
        words = " against ".join(_text(named[arm]) for arm in key.split("-", 1) if arm in named)
        plot = _plot(f"{key}: {told} points, {OUTCOMES[tone][0]}", span, values[:1], values[1:], grid)
        rows += f'<li class="row {tone}"><div><strong>{_text(key.replace("-", " against ", 1))}</strong><small>{words}</small></div>'
        rows += f"{plot}<div>{told}<small>{OUTCOMES[tone][0]}</small></div></li>"
    axis = "".join(f'<text x="{x}" y="14">{_number(t, None, sign=True)}</text>' for t, x in ticks)
    axis = f"<div class=row aria-hidden=true><span></span><svg>{axis}</svg></div>"
    return f"<figure><ol>{rows}</ol>{axis}<figcaption>{INTERVALS}</figcaption></figure>"


def _arms(arms: Mapping[str, Any], named: Mapping[str, str], floors: Mapping[str, Any], seeds: int) -> str:
    metrics = {key: METRICS[key] for key in METRICS if any(key in arm for arm in (*arms.values(), *floors.values()))}
    span = _range(100 * v for arm in (*arms.values(), *floors.values()) for v in _finite(arm.get("balanced_accuracy")))

    def row(name: str, arm: Mapping[str, Any], words: str) -> list[str]:
        values = 100 * _finite(arm.get("balanced_accuracy"))
        strip = _plot(f"balanced accuracy of each seed: {', '.join(map(_number, values))} %", span, values, inner=RAIL)
        return [f"{_text(name)}<small>{_text(words)}</small>", *(_spread(arm.get(m), *METRICS[m][1:]) for m in metrics), strip]

    caption = f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed, so no spread over seeds."
    heads = ["Arm", *(words for words, _, _ in metrics.values()), f"Each seed\n{' to '.join(_number(v, 0) for v in span)} %"]
    rows, more = [row(k, v, named.get(k, "")) for k, v in arms.items()], [row(k, v, "baseline to beat") for k, v in floors.items()]
    return _table(caption, heads, rows, more, "wide plotted")


def _recall(recall: Mapping[str, Any], named: Mapping[str, str], classes: Sequence[str], arms: Sequence[str]) -> str:
    rows, found = [], [recall.get(arm, {}) for arm in arms]
    for name in [name for name in classes if any(name in arm for arm in found)]:
        means = [100 * _mean(arm.get(name)) for arm in found]
        plot = _plot(f"from {' to '.join(map(_number, means))} %", (0, 100), means, means, RAIL, "pairs")
        spreads = [_spread(arm.get(name), 100, 1) for arm in found]
        rows.append([_text(name), *spreads, _number(means[-1] - means[0], sign=True), plot])
    heads = ["Class", *(f"{arm}\n{named.get(arm, '')}" for arm in arms), "Change\npoints", f"0 to 100 %\n{arms[-1]} is filled"]
    caption = "Recall, in %: of the test patches of each class, the share that the classifier found. Mean ± standard deviation."
    return _table(caption, heads, rows, css="plotted") if rows else ""


def _gallery(title: str, tiles: Sequence[Tile], limit: int) -> str:
    ranked, cards = sorted(tiles, key=lambda tile: -np.nan_to_num(tile.confidence, nan=-1.0)), ""
    for tile in (ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, min(limit, len(ranked)))):
        sure, state = f"{_number(100 * tile.confidence)} %", f"rejected: {tile.reason}" if tile.reason else "accepted"
        told = f"{tile.label}, {state}, confidence {sure}, seed {tile.seed}"
        cards += f"<figure><div>{_picture(tile.image, f'Synthetic patch: {told}')}"
        cards += _picture(tile.nearest, f"Real training patch nearest to the synthetic one: {told}") if tile.nearest is not None else ""
        where = f" · distance {_number(tile.distance, None)}" if tile.distance is not None else ""
        words = f"{tile.label} · {sure}" if tile.reason else sure
        cards += f"</div><figcaption>{_bar(tile.confidence, sure)}{_text(words)} · seed {tile.seed}{where}</figcaption></figure>"
    return f"<h3>{_text(title)}</h3>" + (f"<div class=tiles>{cards}</div>" if cards else "<p>No patch to show.</p>")


def _selection(chosen: Mapping[str, Any]) -> str:
    def row(name: str, count: Mapping[str, Any]) -> list[str]:
        made, kept = (_mean(count.get(key)) for key in ("candidates", "accepted"))
        return [_text(name), _number(made, 0), _number(kept, 0), _bar(kept / made if made else math.nan, "")]

    rows = [row(name, count) for name, count in chosen.get("per_class", {}).items()]
    heads = ["Class", "Candidates", "Accepted", "Rate"]
    table = _table("Candidates by intended class", heads, rows, [row("All classes", chosen)], "plotted")
    made = _mean(chosen.get("candidates"))
    why = [[_text(key), _number(count, 0), _bar(count / made)] for key, count in chosen.get("reasons", {}).items()]
    aim, reached = (_mean(chosen.get(key)) for key in ("target_precision", "reached_precision"))
    met = "" if math.isnan(aim + reached) else " The target is reached." if reached >= aim else " The target is not reached."
    return (
        f"<p>A candidate must have a confidence of at least {_number(100 * _mean(chosen.get('threshold')))} %. Precision of that rule on "
        f"held-out real patches: {_number(100 * reached)} %, target {_number(100 * aim)} %.{met}</p><div class=side>{table}"
        f"{_table('Reasons for rejection', ['Reason', 'Patches', 'Share'], why, css='plotted') if why else ''}</div>"
    )


def _dataset(data: Mapping[str, Any], classes: Sequence[str]) -> str:
    counts, groups = data.get("counts", {}), data.get("groups", {})
    rows = [[_text(name), *(_number(part.get(name, 0), 0) for part in counts.values())] for name in classes]
    more = [["All classes", *(_number(sum(part.values()), 0) for part in counts.values())]]
    more += [["Groups<small>patients, slides or tiles</small>", *(_number(groups.get(key), 0) for key in counts)]] if groups else []
    where = f"<p>{_text(data['path'])}</p>" if "path" in data else ""
    return where + (_table("Patches per class", ["Class", *(WORDS.get(k, k) for k in counts)], rows, more) if counts else "")


def _pairs(tables: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    def body(pairs: Mapping[str, Any]) -> list[list[str]]:
        return [[_text(WORDS.get(k, k.replace("_", " "))), _number(v, None) if isinstance(v, float) else _text(v)] for k, v in pairs.items()]

    return f"<div class=side>{''.join(_table('', [name, 'Value'], body(pairs)) for name, pairs in tables if pairs)}</div>"


def _table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], more: Sequence[Sequence[str]] = (), css: str = ""
) -> str:
    names = [head.partition("\n") for head in heads]
    top = "".join(f"<th scope=col>{_text(a)}<small>{_text(b)}</small></th>" for a, _, b in names)
    bodies = ""
    for part in filter(None, (rows, more)):
        lines = (
            "".join(f'<td data-label="{_text(n[0])}">{cell}</td>' for n, cell in zip(names[1:], cells, strict=True)) for _, *cells in part
        )
        bodies += "<tbody>" + "".join(f"<tr><th scope=row>{r[0]}</th>{line}</tr>" for r, line in zip(part, lines, strict=True)) + "</tbody>"
    return f'<table class="{css}"><caption>{_text(caption)}</caption><thead><tr>{top}</tr></thead>{bodies}</table>'


def _plot(label: str, span: Sequence[float], dots: Iterable[float] = (), bar: Sequence[float] = (math.nan, math.nan),
          inner: str = "", css: str = "") -> str:
    if not math.isnan(sum(bar)):
        inner += f'<line class=interval x1="{_at(bar[0], span)}" x2="{_at(bar[1], span)}" y1="50%" y2="50%"/>'
    inner += "".join(f'<circle cx="{_at(dot, span)}" cy="50%" r="4.5"/>' for dot in dots if math.isfinite(dot))
    return f'<svg class="{css}" role="img" aria-label="{_text(label)}">{inner}</svg>'


def _bar(share: float, words: str) -> str:
    told = words or f"{_number(100 * share)} %"
    return f"{'' if words else told}{_plot(told, (0, 1), (), (0, share), RAIL, 'bar')}"


def _picture(image: np.ndarray, words: str) -> str:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture must be a uint8 array H x W x 3, got {image.dtype} {image.shape}")
    picture, stream = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(stream, "JPEG", quality=90, subsampling=0)
    source = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{source}" alt="{_text(words)}" width="{picture.width}" height="{picture.height}">'


def _change(metrics: Mapping[str, Any]) -> tuple[list[float], str, str]:
    """Mean, low and high of the change in balanced accuracy, in points; its tone; the three in words."""
    values = [100 * _mean(metrics.get("balanced_accuracy", {}).get(key)) for key in ("mean", "low", "high")]
    tone = "open" if math.isnan(sum(values)) else "helps" if values[1] > 0 else "hurts" if values[2] < 0 else "same"
    mean, low, high = (_number(value, sign=True) for value in values)
    return values, tone, f"{mean} ({low} to {high})"


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    margin = 0.08 * (max(finite) - min(finite)) or 1.0
    return min(finite) - margin, max(finite) + margin


def _at(value: float, span: Sequence[float]) -> str:
    return f"{100 * (value - span[0]) / (span[1] - span[0]):.2f}%"


def _finite(values: Any) -> np.ndarray:
    found = np.atleast_1d(np.asarray(values, dtype=float))
    return found[np.isfinite(found)]


def _mean(values: Any) -> float:
    found = _finite(values)
    return float(found.mean()) if found.size else math.nan


def _spread(values: Any, factor: float, digits: int) -> str:
    found = factor * _finite(values)
    sd = f" ± {_number(found.std(ddof=1), digits)}" if found.size > 1 else ""
    return _number(_mean(found), digits) + sd + (f"<small>{found.size} of {np.size(values)} seeds</small>" if 0 < found.size < np.size(values) else "")


def _number(value: Any, digits: int | None = 1, sign: bool = False) -> str:
    """Plain text of a number, a dash if there is none; without digits, as many as it needs."""
    number = _mean(value)
    if math.isnan(number):
        return "–"
    text = f"{number:{'+' if sign and number else ''}.4g}" if digits is None else f"{round(number, digits) + 0.0:{'+' if sign else ''},.{digits}f}"
    return text.replace("-", "−")


def _text(value: object) -> str:
    return escape(str(value))
