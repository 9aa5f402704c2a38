"""Findings about a patch set, or anything else of tables, notes and pictures, as one page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff.report.blocks import (
    Block,
    Fact,
    Gallery,
    Page,
    Section,
    Table,
    TableCell,
    TileView,
    Verdict,
    Words,
)
from monai_histodiff.report.html import picture, write_page

__all__ = ["write_findings"]

TONES = {"good": "helps", "bad": "hurts", "plain": "inconclusive"}
PAGE = ("title", "word", "sentence", "tone", "facts", "sections")
SECTION = ("title", "notes", "tables", "pictures")


def write_findings(path: str | os.PathLike[str], values: Mapping[str, Any]) -> Path:
    """Write a page of plain values: all of it, or nothing.

    Args:
        path: the HTML file to write; its folder is made if need be.
        values: ``title``, and optionally

            * ``sentence``: what was found, ``word``: the same in a word or two, and ``tone``:
              ``"good"``, ``"bad"`` or ``"plain"``;
            * ``facts``: pairs of a name and a figure for the top of the page;
            * ``sections``: each with a ``title`` and, in this order, ``notes`` (texts),
              ``tables`` (each ``caption``, ``heads`` and ``rows``, cells of text or numbers) and
              ``pictures`` (each ``image``, uint8 ``H x W x 3``, or ``images``, several side by
              side; ``alt``, what they show; ``caption``, optional).

    Returns:
        The path of the page.

    Raises:
        ValueError: a key is missing or unknown, the tone is unknown, a row has not one cell for
            each head, or a picture is not such an array.
    """
    _check("findings", values, PAGE, ("title",))
    if (tone := values.get("tone", "plain")) not in TONES:
        raise ValueError(f"tone must be one of {', '.join(TONES)}, got '{tone}'")
    verdict = None
    if "sentence" in values:
        verdict = Verdict(TONES[tone], values.get("word", ""), values["sentence"])
    facts = [Fact(str(name), str(value)) for name, value in values.get("facts", ())]
    sections = [_section(section) for section in values.get("sections", ())]
    return write_page(path, Page(values["title"], sections, verdict=verdict, facts=facts))


def _section(values: Mapping[str, Any]) -> Section:
    _check("a section", values, SECTION, ("title",))
    notes, blocks = list(values.get("notes", ())), list[Block]()
    if notes:
        blocks.append(Words(notes))
    blocks += [_table(table) for table in values.get("tables", ())]
    if tiles := [_tile(shown) for shown in values.get("pictures", ())]:
        blocks.append(Gallery("", tiles))
    return Section(values["title"], blocks)


def _table(values: Mapping[str, Any]) -> Table:
    keys = ("caption", "heads", "rows")
    _check("a table", values, keys, keys)
    rows = [[str(cell) for cell in row] for row in values["rows"]]
    for row in rows:
        if len(row) != len(values["heads"]):
            raise ValueError(
                f"a row must have one cell for each of {len(values['heads'])} heads, got {row}"
            )
    return Table(values["caption"], values["heads"], rows, cards=len(values["heads"]) > 4)


def _tile(values: Mapping[str, Any]) -> TileView:
    _check("a picture", values, ("image", "images", "alt", "caption"), ("alt",))
    images = values["images"] if "images" in values else [values["image"]]
    caption = [TableCell(str(values["caption"]))] if "caption" in values else []
    return TileView([picture(image, values["alt"]) for image in images], values["alt"], caption)


def _check(
    name: str, values: Mapping[str, Any], known: Sequence[str], needed: Sequence[str]
) -> None:
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"{name} must hold {', '.join(needed)}; missing: {', '.join(missing)}")
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{name} may hold {', '.join(known)}, got {', '.join(unknown)}")
