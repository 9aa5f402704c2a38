"""What a page is made of, as plain values: each block is laid out by the macro of its ``kind`` in
``templates/blocks.html``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from monai_histodiff.report.plots import Strip
from monai_histodiff.report.values import clean, finite, number, percent

__all__ = [
    "TableCell",
    "Fact",
    "Fold",
    "Gallery",
    "Page",
    "Picture",
    "Section",
    "Table",
    "TileView",
    "Verdict",
    "Words",
    "pairs",
    "share",
]

Block = Any  # a dataclass with a ``kind``


@dataclass(frozen=True)
class TableCell:
    """A cell of a table: its text, small print below, and a plot."""

    text: str = ""
    note: str = ""
    plot: Strip | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its head, the second line of a head explains it.

    On a narrow screen the rows of ``cards`` stand as cards.
    """

    kind: ClassVar[str] = "table"
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[TableCell | str]]
    cards: bool = False
    css: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture inside the page."""

    source: str  # a data URI
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class TileView:
    """One or two pictures that enlarge together, with what is to be known of them."""

    pictures: Sequence[Picture]
    told: str
    notes: Sequence[TableCell] = ()

    @property
    def ratio(self) -> float:
        """Width over height of the pictures side by side."""
        return round(sum(p.width / p.height for p in self.pictures), 3)


@dataclass(frozen=True)
class Gallery:
    """Pictures under a heading; folded away where there are many galleries."""

    kind: ClassVar[str] = "gallery"
    title: str
    tiles: Sequence[TileView]
    folded: bool = False
    note: str = ""


@dataclass(frozen=True)
class Words:
    """A paragraph, or several as a list."""

    kind: ClassVar[str] = "words"
    text: str | Sequence[str]

    @property
    def several(self) -> bool:
        return not isinstance(self.text, str)


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for; side by side where they fit."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Side:
    """Blocks side by side where they fit."""

    kind: ClassVar[str] = "side"
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Verdict:
    """The sentence that a page is about: a claim in a word, the sentence, and what it means."""

    tone: str
    word: str
    sentence: str
    more: str = ""


@dataclass(frozen=True)
class Fact:
    """A figure for the top of a page: what it is, the figure, and small print."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page; sections without blocks are left out."""

    title: str
    sections: Sequence[Section]
    origin: str = ""
    verdict: Verdict | None = None
    lead: str = ""
    warnings: Sequence[tuple[str, str]] = ()
    facts: Sequence[Fact] = ()
    footer: str = ""

    @property
    def shown(self) -> list[tuple[str, Section]]:
        """The sections that have something to show, each with its id."""
        found = [section for section in self.sections if section.blocks]
        return [(f"s{i}", section) for i, section in enumerate(found)]


def pairs(caption: str, values: Mapping[str, Any]) -> list[Table]:
    """A table of names and values; none if there are none."""
    rows = [
        [clean(key), number(value, None) if isinstance(value, float) else clean(value)]
        for key, value in values.items()
    ]
    return [Table(caption, ["Name", "Value"], rows, css="pairs")] if rows else []


def share(part: Any, whole: Any, least: bool = False) -> TableCell:
    """A part of a whole in per cent, with a bar; ``least``: it may be more."""
    value = float(finite(part)[0]) / (float(finite(whole)[0]) or math.nan)
    bar = None if math.isnan(value) else (0.0, round(100 * min(value, 1.0), 2))
    return TableCell(("≥\u00a0" if least else "") + percent(value), plot=Strip(bar=bar, css="bar"))
