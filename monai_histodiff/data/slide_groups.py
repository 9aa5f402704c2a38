"""Which patient, class and side of the split each slide belongs to: from a table, from its name,
or itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from monai_histodiff.data.names import check_name, matched_group, refuse_twins
from monai_histodiff.data.splits import read_split, refuse_partial_split, refuse_torn_groups
from monai_histodiff.data.tables import likely_columns, read_table

__all__ = ["SlideRow", "read_slide_table", "slide_rows"]

COLUMNS = ("slide", "group", "label", "split")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideRow:
    """What is known of a slide beyond its pixels: for the columns of the manifest."""

    group: str
    label: str = ""
    split: str = ""


def read_slide_table(path: str | os.PathLike[str]) -> dict[str, SlideRow]:
    """Read a table ``slide,group[,label][,split]``, by the rules of a manifest: one row for each
    slide, by its name with or without the ending.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a rule of tables (:func:`~monai_histodiff.data.tables.read_table`)
            is broken, slide or group is empty, the split is none, or a slide is listed twice.
    """
    where = f"'{path}'"
    rows: dict[str, SlideRow] = {}
    found = read_table(Path(path).read_bytes(), where, COLUMNS[:2], COLUMNS[2:])
    columns = list(found[0].cells) if found else []
    likely = dict(likely_columns(columns, COLUMNS[2:]))
    for name in (name for name in columns if name not in COLUMNS):
        hint = f": call it '{likely[name]}' if it is that" if name in likely else ""
        logger.warning("The column '%s' of %s is not read%s.", name, where, hint)
    for row in found:
        at = f"line {row.line} of {where}"
        slide, group, label, split = (row.cells.get(column, "") for column in COLUMNS)
        if not slide or not group:
            raise ValueError(
                f"a row must name slide and group, got '{slide}' and '{group}' in {at}: fill it in"
            )
        if slide in rows:
            raise ValueError(
                f"a table must list each slide once, got '{slide}' again in {at}: take one away"
            )
        rows[slide] = SlideRow(group, label, read_split(split, f"'{slide}' ({at})"))
    return rows


def slide_rows(
    slides: Mapping[str, Path],
    table: Mapping[str, SlideRow] | None = None,
    group_pattern: str | None = None,
    recorded: Mapping[str, SlideRow] | None = None,
) -> dict[str, SlideRow]:
    """Group, label and split of each slide, before any of them is opened. A warning counts the
    rows of the table of which there is no slide.

    Args:
        slides: files by slide name.
        table: rows by slide name or file name.
        group_pattern: a regular expression to search each name for; its first bracket, or all of
            it, is the group.
        recorded: what was known of slides before. A table corrects what it lists, and is not
            empty there, a pattern the groups; the rest stays.

    Returns: A row for each slide; without ``table`` and ``group_pattern`` each slide is its own
        group.

    Raises:
        ValueError: both are given, or none where a slide has been recorded with more than a group
            of its own, a slide is in neither, or in the table twice, a rule of names
            (:mod:`~monai_histodiff.data.names`) is broken, a group is in several splits, or a
            split is recorded for some slides only.
    """
    if table is not None and group_pattern is not None:
        raise ValueError(
            "groups must come from a table or from a pattern, got both: leave one out"
        )
    rows: dict[str, SlideRow] = {}
    for name, file in slides.items():
        known = (recorded or {}).get(name)
        if table is not None:
            rows[name] = _listed(name, file, table, known)
        elif group_pattern is not None:
            group = matched_group(name, group_pattern, "slide's name")
            rows[name] = replace(known, group=group) if known else SlideRow(group)
        else:
            rows[name] = SlideRow(name)
            if known and known != rows[name]:
                raise ValueError(
                    "group, label and split of a slide must not get lost, got neither table nor"
                    f" group_pattern, and group '{known.group}', label '{known.label}' and split"
                    f" '{known.split}' recorded for '{name}': give it again, or a new folder"
                )
    called = {key for name, file in slides.items() for key in (name, file.name)}
    if lost := [key for key in table or () if key not in called]:
        logger.warning(
            "%d of %d rows of the table name a slide that is not there, such as '%s': not used.",
            len(lost),
            len(table or ()),
            lost[0],
        )
    names = {
        "slide": [(name, f"'{slides[name]}'") for name in rows],
        "group": [(row.group, f"slide '{name}'") for name, row in rows.items()],
        "label": [(row.label, f"slide '{name}'") for name, row in rows.items() if row.label],
    }
    for kind, found in names.items():
        for name, where in found:
            check_name(kind, name, where)
        if kind != "slide":
            refuse_twins(kind, found)
    refuse_torn_groups((row.group, row.split) for row in rows.values())
    refuse_partial_split([(name, row.split) for name, row in rows.items()], "slide")
    return rows


def _listed(
    name: str, file: Path, table: Mapping[str, SlideRow], known: SlideRow | None
) -> SlideRow:
    listed = [key for key in dict.fromkeys((name, file.name)) if key in table]
    if len(listed) > 1:
        raise ValueError(
            f"the table must list each slide once, got '{name}' and '{file.name}', which are one:"
            " take one away"
        )
    if not listed and known is None:
        raise ValueError(f"the table must list every slide, got none named '{name}': add a row")
    if not listed:
        return known or SlideRow(name)
    row = table[listed[0]]
    return (
        replace(row, label=row.label or known.label, split=row.split or known.split)
        if known
        else row
    )
