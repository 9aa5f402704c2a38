"""Numbers and foreign text as they may stand on a page, in Markdown, or on a terminal."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

__all__ = [
    "CLAIMS",
    "change_words",
    "claim",
    "clean",
    "finite",
    "markdown",
    "number",
    "p_value",
    "percent",
    "span",
]

CLAIMS = ("helps", "hurts", "inconclusive")
BREAKS = "\t\n\v\f\r\x85\u2028\u2029"
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the reading direction


def clean(text: object) -> str:
    """Foreign text on one line: breaks become blanks, and what steers a terminal, turns the
    reading direction or has no encoding becomes U+FFFD.
    """

    def safe(character: str) -> str:
        if character in BREAKS:
            return " "
        steers = unicodedata.category(character) in ("Cc", "Cs") or character in TURNS
        return "\ufffd" if steers else character

    return "".join(map(safe, str(text)))


def markdown(text: object) -> str:
    """Foreign text for a table of Markdown: no markup, no further column, no further row."""
    return escape(re.sub(r"([\\`*|\[\]])", r"\\\1", clean(text)), quote=False)


def finite(values: Any) -> np.ndarray:
    """The finite ones among values; never empty: one NaN if there are none."""
    found = np.atleast_1d(np.asarray(values, dtype=float))
    return found[np.isfinite(found)] if np.isfinite(found).any() else np.array([math.nan])


def p_value(value: Any) -> str:
    """Three digits after the point, and what is less than they show as such."""
    text = number(value, 3)
    return "< 0.001" if text == "0.000" else text


def number(values: Any, digits: int | None = 1, sign: bool = False) -> str:
    """Mean ± standard deviation of several values, one value, or a dash.

    Args:
        values: one or several; those that are missing or not finite do not count.
        digits: after the point; ``None``: four significant ones.
        sign: a plus before a positive mean.
    """
    found = finite(values)
    mean = float(found.mean()) if digits is None else round(float(found.mean()), digits) + 0.0
    if math.isnan(mean):
        return "–"
    text = f"{float(f'{mean:.4g}'):,.10g}" if digits is None else f"{mean:,.{digits}f}"
    text = ("+" if sign and mean > 0 else "") + text.replace("-", "−")
    return text + (f"\u00a0±\u00a0{found.std(ddof=1):.{digits}f}" if found.size > 1 else "")


def percent(share: Any, digits: int = 1) -> str:
    """A share as text in per cent."""
    return f"{number(100 * float(finite(share).mean()), digits)}\u00a0%"


def span(ends: Iterable[float], digits: int = 1, sign: bool = True) -> str:
    """An interval as ``−2.0 to +4.1``, or that there is none, where an end is not known."""
    both = [*ends]
    if not all(map(math.isfinite, both)):
        return "no interval"
    return " to ".join(number(end, digits, sign) for end in both)


def change_words(values: Sequence[float]) -> str:
    """Mean, low and high of a change as ``+1.2 (−2.0 to +4.1)``."""
    return f"{number(values[0], sign=True)} ({span(values[1:])})"


def claim(low: float, high: float, known: Mapping[str, Any] | None = None) -> str:
    """``helps``, ``hurts`` or ``inconclusive``: what the statistics claimed, or else what the
    interval says.

    Args:
        low: lower end of the interval; it may be NaN, as may ``high``.
        high: its upper end.
        known: what is known of the comparison: its ``claim``, or its corrected p-value ``p_holm``,
            which a claim needs below 0.05.
    """
    known = known or {}
    if said := known.get("claim"):
        return said if said in CLAIMS else "inconclusive"
    if known.get("p_holm") is not None and not known["p_holm"] < 0.05:
        return "inconclusive"
    return "helps" if low > 0 else "hurts" if high < 0 else "inconclusive"
