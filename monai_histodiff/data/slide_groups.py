"""Which patient, class and side of the split each slide belongs to: from a table, from its name,
or itself.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SlideRow", "read_slide_table", "slide_rows"]


@dataclass(frozen=True)
class SlideRow:
    """What is known of a slide beyond its pixels: for the columns of the manifest."""

    group: str
    label: str = ""
    split: str = ""


def read_slide_table(path: str | os.PathLike[str]) -> dict[str, SlideRow]:
    """Read a csv ``slide,group[,label][,split]``: one row for each slide, by its name with or
    without the ending.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a cell is empty, or a slide is listed twice.
    """
    with open(path, newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream)
        missing = [c for c in ("slide", "group") if c not in (table.fieldnames or ())]
        if missing:
            raise ValueError(
                "a table of slides must have the columns slide and group, got none named "
                f"{missing} in '{path}'"
            )
        rows: dict[str, SlideRow] = {}
        for row in table:
            cells = {k: (v or "").strip() for k, v in row.items() if k}
            name, group = cells["slide"], cells["group"]
            if not name or not group:
                raise ValueError(
                    f"a row must name slide and group, got '{name}' and '{group}' in line "
                    f"{table.line_num} of '{path}'"
                )
            if name in rows:
                raise ValueError(
                    f"a table must list each slide once, got '{name}' again in line "
                    f"{table.line_num} of '{path}'"
                )
            rows[name] = SlideRow(group, cells.get("label", ""), cells.get("split", ""))
    return rows


def slide_rows(
    slides: Mapping[str, Path],
    table: Mapping[str, SlideRow] | None = None,
    group_pattern: str | None = None,
) -> dict[str, SlideRow]:
    """Group, label and split of each slide, before any of them is opened.

    Args:
        slides: files by slide name.
        table: rows by slide name or file name.
        group_pattern: a regular expression to search each name for; its first bracket, or all of
            it, is the group.

    Returns: A row for each slide; without ``table`` and ``group_pattern`` each slide is its own
    group.

    Raises:
        ValueError: both are given, a slide is in neither, or a group is in several splits.
    """
    if table is not None and group_pattern is not None:
        raise ValueError(
            "groups must come from a table or from a pattern, got both: leave one out"
        )
    rows: dict[str, SlideRow] = {}
    for name, file in slides.items():
        if table is not None:
            row = table.get(name) or table.get(file.name)
            if row is None:
                raise ValueError(
                    f"the table must list every slide, got none named '{name}': add a row"
                )
            rows[name] = row
        else:
            match = re.search(group_pattern or ".+", name)
            group = match and (match[1] if match.re.groups else match[0])
            if not group:
                raise ValueError(
                    f"group_pattern must match every slide's name, got none in '{name}' for "
                    f"'{group_pattern}'"
                )
            rows[name] = SlideRow(group)
    splits: dict[str, str] = {}
    for row in rows.values():
        if splits.setdefault(row.group, row.split) != row.split:
            raise ValueError(
                f"a group must lie in one split only, got '{row.group}' in '{splits[row.group]}' "
                f"and '{row.split}'"
            )
    return rows
