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

REQUIRED = ("verdict", "dataset", "arms", "differences", "selection", "sampling", "seeds")
MAX_SIDE = 256  # pixels: larger patches are shrunk for the page
METRICS = {  # key: (plain name, explanation, factor for display, decimals)
    "balanced_accuracy": ("Balanced accuracy", "%, each class counts the same", 100, 1),
    "accuracy": ("Accuracy", "% of patches correct", 100, 1),
    "macro_f1": ("F1 score", "%, mean over classes", 100, 1),
    "auc": ("Area under ROC curve", "0.5 chance, 1 perfect", 1, 3),
    "ece": ("Calibration error", "%, lower is better", 100, 1),
}
WORDS = {"train": "Training patches", "labelled": "Labels used", "test": "Test patches", "guidance_scale": "guidance strength"}
OUTCOMES = {
    "helps": ("Synthetic patches help", "The whole 95 % interval of the change in balanced accuracy lies above zero."),
    "hurts": ("Synthetic patches hurt", "The whole 95 % interval of the change in balanced accuracy lies below zero."),
    "same": ("No difference shown", "The 95 % interval includes zero: a real change cannot be told from chance here. That does not"
             " prove that there is none; more test patches or seeds would narrow the interval."),
    "open": ("Not compared", "No interval was measured for the change in balanced accuracy."),
}  # fmt: skip
DEMO = ("<p class=demo role=note><strong>Demonstration only.</strong> The data set is made of synthetic demonstration patches, not"
        " of tissue, and the verdict is only a demonstration of this report: it says nothing about real data.</p>")  # fmt: skip
STYLE = """
:root{color-scheme:light dark;--page:#fcfcfb;--ink:#1b2025;--soft:#59636c;--line:#e0e3e7;--mark:#4b4c97;
 --helps:#1c6a57;--hurts:#9c3a2b;--same:#43567a;--open:#59636c}
@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;--ink:#e5e8eb;--soft:#a2acb5;--line:#30363d;--mark:#a8abf2;
 --helps:#7ccdb4;--hurts:#f2a594;--same:#a9bde2;--open:#a2acb5}}
*{box-sizing:border-box;margin:0;padding:0}
body{margin:auto;padding:3.5rem 1.5rem 5rem;max-width:71rem;background:var(--page);color:var(--ink);overflow-wrap:anywhere;
 font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:clamp(1.7rem,4vw,2.3rem);line-height:1.15;letter-spacing:-.02em}h2{font-size:1.35rem;margin-bottom:.5rem}
h1,h2,h3,dd,strong{font-weight:650}h3{font-size:1rem;margin:2rem 0 .8rem;padding-top:.6rem;border-top:1px solid var(--line)}
small,caption,figcaption,dt,thead,nav{font-size:.84rem;line-height:1.4}small,caption,figcaption,dt{color:var(--soft);font-weight:400}
section{margin-top:4rem}p,li{max-width:46rem}section>p{margin-bottom:1.25rem}ol,ul{list-style:none}a,summary{color:var(--mark)}
nav a{margin-right:1.2em;display:inline-block;padding:.2rem 0;text-underline-offset:.2em}
.helps{--tone:var(--helps)}.hurts{--tone:var(--hurts)}.same{--tone:var(--same)}.open{--tone:var(--open)}
.verdict{margin-top:2rem;padding:1.6rem 1.8rem;border-left:5px solid var(--tone);border-radius:3px;
 background:color-mix(in srgb,var(--tone) 8%,var(--page))}.verdict strong{color:var(--tone)}
.verdict .sentence{font-size:clamp(1.25rem,2.8vw,1.7rem);line-height:1.35;margin:.3rem 0 .7rem;max-width:none}
.demo{margin-top:1.5rem;padding:.9rem 1.2rem;border:2px dashed var(--hurts);border-radius:3px;max-width:none}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:1.25rem 2rem;margin:2rem 0 1.5rem}dd{font-size:1.3rem}
dd small,th small,td small,.row small{display:block}.row{display:grid;grid-template-columns:17rem 1fr 11rem;gap:0 1.75rem;max-width:none}
li.row{border-top:1px solid var(--line)}.row>div{padding:.7rem 0}.row>svg{height:100%;min-height:2.2rem}.row+figcaption{padding-top:.5rem}
svg{display:block;width:100%;height:1.4rem;overflow:visible}text{fill:var(--soft);font-size:12px;text-anchor:middle}
line{stroke:var(--line)}.zero{stroke:var(--ink);stroke-dasharray:3 3}.interval{stroke:var(--tone,var(--mark));stroke-width:3}
circle{fill:var(--tone,var(--mark));fill-opacity:.8}.pairs circle{stroke:var(--mark);fill-opacity:1}.pairs circle:first-of-type{fill:var(--page)}
.bar{height:.5rem;margin-top:.45rem}.bar line{stroke-width:4}figcaption .bar{margin:0 0 .2rem}
table{border-collapse:collapse;width:100%;margin-bottom:2rem;font-size:.94rem}caption{text-align:left;padding-bottom:.6rem}
th,td{text-align:right;padding:.6rem 0 .6rem 1.1rem;vertical-align:top;font-weight:400}thead th{vertical-align:bottom;font-weight:600}
th:first-child{text-align:left;padding-left:0;font-weight:600}tbody>tr>*{border-top:1px solid var(--line)}.floors{color:var(--soft)}
.plotted td:last-child{width:24%;min-width:7rem}.plotted thead th:last-child{text-align:left}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(14.5rem,1fr));gap:1.5rem 1.25rem}
.tiles div{display:grid;grid-template-columns:1fr 1fr;gap:3px;margin-bottom:.4rem}img{width:100%;height:auto;display:block;border-radius:2px}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:0 3.5rem;align-items:start}
summary{cursor:pointer;padding-bottom:1rem}
@media screen and (max-width:46rem){body{padding:2rem 1rem 3rem}section{margin-top:3rem}.verdict{padding:1.2rem}
 .row{grid-template-columns:1fr;padding:.3rem 0}.row>div{padding:.3rem 0}.row>svg{order:3;height:2.6rem}dl,.tiles{grid-template-columns:1fr 1fr;gap:1.2rem 1rem}
 .wide thead{position:absolute;clip-path:inset(50%)}.wide tr{display:block;padding:.7rem 0;border-top:1px solid var(--line)}
 .wide tbody>tr>*{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.15rem 0;width:auto!important}
 .wide td::before{content:attr(data-label);color:var(--soft)}.wide td svg{width:50%}}
@media print{@page{margin:16mm 14mm}body{padding:0;max-width:none;font-size:10pt}nav,summary{display:none}section{margin-top:2rem}
 figure,tr,li,.verdict,dl{break-inside:avoid}h2,h3,caption{break-after:avoid}.tiles{grid-template-columns:repeat(4,1fr)}
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
        results: what the comparison of arms found. ``verdict``, ``dataset``, ``arms``, ``differences``, ``selection``,
            ``sampling`` and ``seeds`` are required; ``arm_names``, ``recall``, ``floors``, ``versions``, ``settings``,
            ``seconds`` and ``notes`` are shown where given. The colour and heading of the verdict follow the interval of
            balanced accuracy in ``differences["G-C"]``, or in the first comparison where that one is missing.
        tiles: patches to show, accepted and rejected.
        max_per_class: the most patches shown per class, and per reason of rejection; where there are more, those shown are
            spread evenly over the confidence, so that the page shows not only the best.

    Returns:
        The path written.

    Raises:
        ValueError: a required key is missing, or a picture is not a uint8 array ``H x W x 3``.
    """
    missing = [key for key in REQUIRED if key not in results]
    if missing:
        raise ValueError(f"results must hold {', '.join(REQUIRED)}, got none of these: {', '.join(missing)}")
    classes = list(dict.fromkeys([*map(str, results["dataset"].get("classes", ())), *(tile.label for tile in tiles)]))
    sections = {
        "What changes": _differences(results),
        "Every arm": _arms(results),
        "Class by class": _recall(results, classes),
        "Accepted patches": _accepted(results, tiles, classes, max_per_class),
        "Rejected patches": _rejected(results, tiles, max_per_class),
        "Selection": _selection(results["selection"]),
        "Data": _dataset(results["dataset"], classes),
        "Cost": _cost(results),
        "Settings and versions": _settings(results),
        "Notes": "".join(f"<p>{_text(note)}</p>" for note in results.get("notes", ())),
    }
    shown = [(title, body) for title, body in sections.items() if body]
    links = "".join(f'<a href="#s{i}">{title}</a> ' for i, (title, _) in enumerate(shown))
    body = "".join(f'<section id="s{i}"><h2>{title}</h2>{body}</section>' for i, (title, body) in enumerate(shown))
    title = "Do synthetic patches help?"
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><header><h1>{title}</h1>{_verdict(results)}"
        f"<nav aria-label=Contents>{links}</nav></header><main>{body}</main></body></html>\n"
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


def _verdict(results: Mapping[str, Any]) -> str:
    mean, low, high = _change(results, _primary(results))
    tone = _tone(low, high)
    chosen, sampling = results["selection"], results["sampling"]
    facts = {
        "Change in balanced accuracy": (_number(mean, sign=True), f"points, 95 % interval {_interval(low, high)}"),
        "Synthetic patches accepted": (_count(chosen, "accepted"), f"of {_count(chosen, 'candidates')} candidates"),
        "Precision of the accepted": (_number(chosen.get("reached_precision"), 100) + " %", _aim(chosen)),
        "Accepted per second": (_number(sampling.get("accepted_per_second")), f"of {_count(sampling, 'candidates_per_second')} made"),
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, (value, more) in facts.items())
    words = f"<p><strong>{OUTCOMES[tone][0]}</strong></p><p class=sentence>{_text(results['verdict'])}</p><p>{OUTCOMES[tone][1]}</p>"
    return f'<div class="verdict {tone}">{words}</div>{DEMO if results["dataset"].get("demo") else ""}<dl>{cells}</dl>'


def _differences(results: Mapping[str, Any]) -> str:
    names, found = results.get("arm_names", {}), {key: _change(results, key) for key in results["differences"]}
    low, high = _range([0.0, *(v for change in found.values() for v in change)])
    step = next(s for k in range(-4, 9) for s in (10.0**k, 2 * 10.0**k, 5 * 10.0**k) if (high - low) / s <= 6)
    ticks = {k * step: f"{100 * (k * step - low) / (high - low):.2f}%" for k in range(math.ceil(low / step), math.floor(high / step) + 1)}
    grid = "".join(f'<line {"" if t else "class=zero "}x1="{x}" x2="{x}" y1="0" y2="100%"/>' for t, x in ticks.items())
    rows = ""
    for key, (mean, lo, hi) in found.items():
        new, base = (_text(arm) for arm in _pair(key))
        tone = _tone(lo, hi)
        side = {"helps": "above zero", "hurts": "below zero", "same": "includes zero", "open": "not measured"}[tone]
        told = f"{_number(mean, sign=True)} ({_interval(lo, hi)})"
        words = " against ".join(_text(names.get(arm, arm)) for arm in _pair(key))
        plot = _plot(f"{key}: {told} points, {side}", (low, high), [mean], (lo, hi), extra=grid)
        rows += f'<li class="row {tone}"><div><strong>{new} against {base}</strong><small>{words}</small></div>{plot}'
        rows += f"<div>{told}<small>{side}</small></div></li>"
    labels = "".join(f'<text x="{x}" y="14">{_number(t, digits=step < 1, sign=bool(t))}</text>' for t, x in ticks.items())
    note = (
        "Change in balanced accuracy, in percentage points. Dot: mean over the seeds; bar: 95 % interval. Right of the dashed line "
        "the first arm is better; where the bar crosses the line, no difference is shown."
    )
    return (
        f'<figure><ol>{rows}</ol><div class="row axis" aria-hidden=true><span></span><svg>{labels}</svg></div>'
        f"<figcaption>{note}</figcaption></figure>"
    )
