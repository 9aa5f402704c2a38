"""The building blocks of a page: its style, tables, plots, pictures and numbers, as HTML text.

Plots have no view box: positions are percentages, so that they fit a phone. A missing or
non-finite value becomes a dash.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_histodiff.utils.files import whole_file

__all__ = [
    "STYLE",
    "Values",
    "curves",
    "finite",
    "intervals",
    "number",
    "pairs",
    "picture",
    "plot",
    "reliability",
    "share",
    "span_of",
    "table",
    "write_page",
]

Values = Sequence[float] | np.ndarray
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
.pairs .n0{fill:var(--page)}.square{aspect-ratio:1;height:auto;max-width:20rem}
.square rect{fill:none;stroke:var(--line)}.square circle{fill-opacity:.55}
.bar{height:.6rem}.bar line{stroke-width:4}tbody>tr>*{border-top:1px solid var(--line)}
table{border-collapse:collapse;width:100%;margin-bottom:2rem;font-size:.94rem}caption{text-align:left;padding-bottom:.6rem}
th,td{text-align:right;padding:.6rem 0 .6rem .8rem;vertical-align:top}td,thead th{overflow-wrap:normal}
th{font-weight:600}thead th{vertical-align:bottom}th:first-child{text-align:left;padding-left:0}tbody th{min-width:5rem}
figure+p,figure+table{margin-top:1.5rem}.square line{stroke:var(--soft)}.curves{height:22rem}
line.main{stroke:var(--mark);stroke-width:2}.other{stroke:var(--soft)}circle.other{fill:var(--soft);stroke:none}
.plotted td:last-child{width:24%;min-width:5rem}.plotted thead th:last-child{text-align:left}.tiles,.side{align-items:start}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(14.5rem,1fr));gap:1.5rem 1.25rem}td b{font-weight:400}
.tiles figure,.two{display:grid;grid-template-columns:1fr 1fr;gap:3px}.two{grid-column:1/3}img{width:100%;height:auto}
.side{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:0 3rem}.side td{overflow-wrap:anywhere}
@media screen and (max-width:46rem){body{padding:2rem 1rem}.verdict{padding:1.2rem}.tiles{grid-template-columns:1fr 1fr}
.row{display:block}.row>*{padding:.3rem 0}.row>svg{height:2.6rem}.row>span{display:none}.wide td svg{width:50%}
.wide tr{display:block;padding:.7rem 0;border-top:1px solid var(--line)}.wide thead{position:absolute;width:1px;height:1px;
 overflow:hidden;clip-path:inset(50%)}
.wide tbody>tr>*{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.15rem 0;width:auto!important}
.wide td::before{content:attr(data-label);color:var(--soft)}.wide th small{text-align:right}}
@media print{:root{--page:#fff;font-size:11px}@page{margin:15mm}body{padding:0}nav,summary{display:none}section{margin-top:2rem}
figure,tr,li,.verdict{break-inside:avoid}h2,h3,caption{break-after:avoid}.tiles{grid-template-columns:repeat(4,1fr)}
.verdict{print-color-adjust:exact}details::details-content{content-visibility:visible;display:block;block-size:auto}}
"""


def pairs(caption: str, values: Mapping[str, Any]) -> str:
    """A table of names and values."""
    rows = [
        [escape(k), number(v, None) if isinstance(v, float) else escape(str(v))]
        for k, v in values.items()
    ]
    return f"<div class=side>{table(caption, ['Name', 'Value'], rows)}</div>" if rows else ""


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """Cells are HTML, the caption and the heads plain text; the second line of a head explains
    it.
    """
    names = [head.partition("\n") for head in heads]
    body, top = (
        "",
        "".join(
            f"<th scope=col>{escape(name)}<small>{escape(more)}</small></th>"
            for name, _, more in names
        ),
    )
    for first, *cells in rows:
        line = "".join(
            f'<td data-label="{escape(name[0])}">{cell}</td>'
            for name, cell in zip(names[1:], cells, strict=True)
        )
        body += f"<tr><th scope=row>{first}</th>{line}</tr>"
    return f'<table class="{css}"><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def plot(
    label: str,
    span: Values,
    dots: Values,
    bar: Values = (math.nan,),
    inner: str = RAIL,
    css: str = "",
) -> str:
    """Dots, and a bar from the first to the last value of ``bar``, on a line that runs over
    ``span``.
    """
    if not math.isnan(sum(bar)):
        inner += f'<line class=interval x1="{_at(bar[0], span)}" x2="{_at(bar[-1], span)}" y1="50%" y2="50%"/>'
    inner += "".join(
        f'<circle class=n{i} cx="{_at(x, span)}" cy="50%" r="4.5"/>'
        for i, x in enumerate(dots)
        if math.isfinite(x)
    )
    return f'<svg class="{css}" role="img" aria-label="{escape(label)}">{inner}</svg>'


def intervals(rows: Sequence[Mapping[str, Any]], caption: str, signed: bool = False) -> str:
    """One line for each row: its ``name`` and ``note`` (HTML), a dot at its mean with a bar, and
    its ``words`` (HTML).

    Args:
        rows: ``values`` is (mean, low, high), of which the last two may be NaN; ``told`` says
            them; ``tone`` is a colour of the style, optional.
        caption: below the axis.
        signed: zero is on the axis, and marked.
    """
    low, high = span = span_of(
        [*([0.0] if signed else []), *(v for row in rows for v in row["values"])]
    )
    step = next(
        s * 10.0**k for k in range(-6, 9) for s in (1, 2, 5) if high - low <= 6 * s * 10.0**k
    )
    ticks = [
        (k * step, _at(k * step, span))
        for k in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]
    grid = "".join(
        f'<line class="{"tick" if t or not signed else "zero"}" x1="{x}" x2="{x}" y1="0" y2="100%"/>'
        for t, x in ticks
    )
    body = ""
    for row in rows:
        tone = f' style="--tone:var(--{row["tone"]})"' if row.get("tone") else ""
        line = plot(row["told"], span, row["values"][:1], row["values"][1:], grid)
        body += f"<li class=row{tone}><div><strong>{row['name']}</strong><small>{row['note']}</small></div>{line}"
        body += f"<div>{row['words']}</div></li>"
    axis = "".join(f'<text x="{x}" y="14">{number(t, None, sign=signed)}</text>' for t, x in ticks)
    axis = f"<div class=row aria-hidden=true><span>&nbsp;</span><svg>{axis}</svg></div><figcaption>{escape(caption)}</figcaption>"
    return f"<figure><ol>{body}</ol>{axis}</figure>"


def reliability(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    """A reliability diagram: confidence to the right, accuracy upwards, the area of a dot the
    share of the patches.
    """
    told = "; ".join(
        f"{number(100 * r['confidence'], 0)} % said, {number(100 * r['accuracy'], 0)} % so"
        for r in rows
    )
    dots = "".join(
        f'<circle cx="{100 * r["confidence"]:.1f}%" cy="{100 - 100 * r["accuracy"]:.1f}%" r="{2 + 14 * r["share"] ** 0.5:.1f}"/>'
        for r in rows
    )
    frame = '<rect width="100%" height="100%"/><line x1="0" y1="100%" x2="100%" y2="0"/>'
    label = escape(f"Reliability of {name}: {told}")
    diagram = f'<svg class=square role="img" aria-label="{label}">{frame}{dots}</svg>'
    return f"<figure>{diagram}<figcaption>{escape(name)}; both axes run from 0 to 100 %</figcaption></figure>"


def curves(name: str, labels: Sequence[str], rows: Mapping[str, Values], caption: str) -> str:
    """Lines over equidistant labels, one for each row; the first rows stand out, and each line
    bears its name at its end.
    """
    span = span_of(v for values in rows.values() for v in values)
    x = [8 + 80 * i / max(len(labels) - 1, 1) for i in range(len(labels))]
    inner = ""
    for i, (row, values) in enumerate(rows.items()):
        points = [
            (a, 92 - 84 * (v - span[0]) / (span[1] - span[0]))
            for a, v in zip(x, values, strict=True)
            if math.isfinite(v)
        ]
        css = "main" if i < 2 else "other"
        for (a, b), (c, d) in zip(points, points[1:], strict=False):
            inner += f'<line class={css} x1="{a:.2f}%" y1="{b:.2f}%" x2="{c:.2f}%" y2="{d:.2f}%"/>'
        inner += "".join(
            f'<circle class={css} cx="{a:.2f}%" cy="{b:.2f}%" r="4"/>' for a, b in points
        )
        if points:
            inner += f'<text x="{points[-1][0] + 4:.2f}%" y="{points[-1][1]:.2f}%" dy="4">{escape(row)}</text>'
    inner += "".join(
        f'<text x="{a:.2f}%" y="100%">{escape(label)}</text>'
        for a, label in zip(x, labels, strict=True)
    )
    told = "; ".join(f"{row}: {', '.join(map(number, values))}" for row, values in rows.items())
    label = escape(f"{name} at {', '.join(labels)}. {told}")
    return f'<figure><svg class=curves role="img" aria-label="{label}">{inner}</svg><figcaption>{escape(caption)}</figcaption></figure>'


def share(whole: Any, part: Any) -> str:
    """A part of a whole in per cent, with a bar."""
    value = float(finite(part)[0]) / (float(finite(whole)[0]) or math.nan)
    return f"<b>{number(100 * value)} %</b>" + plot(
        f"{number(100 * value)} %", (0, 1), (), (0, value), css="bar"
    )


def picture(image: np.ndarray, words: str) -> str:
    """An image inside the page, uint8 ``H x W x 3``; larger ones are shrunk to 256 pixels."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"a picture must be a uint8 array H x W x 3, got {image.dtype} {image.shape}"
        )
    small, stream = Image.fromarray(image), io.BytesIO()
    small.thumbnail((256, 256))
    small.save(stream, "JPEG", quality=90, subsampling=0)
    source = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{source}" alt="{escape(words)}" width="{small.width}" height="{small.height}">'


def span_of(values: Iterable[float]) -> tuple[float, float]:
    """From the lowest to the highest finite value, and a margin."""
    found = np.nan_to_num(finite(list(values)))
    margin = 0.08 * np.ptp(found) or 1.0
    return float(found.min() - margin), float(found.max() + margin)


def _at(value: float, span: Values) -> str:
    return f"{100 * (value - span[0]) / (span[1] - span[0]):.2f}%"


def finite(values: Any) -> np.ndarray:
    """The finite ones among values; never empty: one NaN if there are none."""
    found = np.atleast_1d(np.asarray(values, dtype=float))
    return found[np.isfinite(found)] if np.isfinite(found).any() else np.array([math.nan])


def number(values: Any, digits: int | None = 1, sign: bool = False) -> str:
    """Mean ± standard deviation of several values, one value, or a dash; ``digits=None``: four
    significant ones.
    """
    found = finite(values)
    mean = float(found.mean()) if digits is None else round(float(found.mean()), digits) + 0.0
    text = f"{float(f'{mean:.4g}'):,.10g}" if digits is None else f"{mean:,.{digits}f}"
    text = "–" if math.isnan(mean) else ("+" if sign and mean > 0 else "") + text.replace("-", "−")
    return text + (f"\u00a0±\u00a0{found.std(ddof=1):.{digits}f}" if found.size > 1 else "")


def write_page(
    path: str | os.PathLike[str], title: str, header: str, sections: Mapping[str, str]
) -> Path:
    """Write a page: all of it, or nothing.

    Args:
        path: the HTML file to write; its folder is made if need be.
        title: its title and first heading.
        header: HTML below the first heading.
        sections: HTML by heading; empty ones are left out.
    """
    shown = [
        (f"s{i}", escape(name), body) for i, (name, body) in enumerate(sections.items()) if body
    ]
    links = " ".join(f"<a href=#{key}>{name}</a>" for key, name, _ in shown)
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><header><h1>{escape(title)}</h1>{header}"
        f"<nav aria-label=Contents>{links}</nav></header><main>"
        f"{''.join(f'<section id={key}><h2>{name}</h2>{body}</section>' for key, name, body in shown)}</main></body></html>\n"
    )
    with whole_file(path) as draft:
        draft.write_bytes(page.encode("utf-8", "replace"))
    return Path(path)
