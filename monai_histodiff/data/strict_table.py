"""Tables that we wrote ourselves, read strictly: whatever is cut or odd is an error that names the
file and the line.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_histodiff.data.patch_files import PatchRecord

__all__ = ["REMEDY", "Row", "read_rows", "read_text"]

REMEDY = "copy the folder anew from where it was whole, or make it again"
MAX_TEXT = 2**28  # bytes of a manifest or JSON file
BASE = ("path", "label", "split", "group")


@dataclass(frozen=True)
class Row:
    """One row of a sealed manifest, with its place for messages.

    Attributes:
        file: the manifest.
        line: line number, from 1.
        record: what it says.
    """

    file: Path
    line: int
    record: PatchRecord

    def fail(self, rule: str, got: Any) -> ValueError:
        """An error that names the rule, the value, the line and the remedy."""
        return ValueError(f"{rule}, got {got!r} in line {self.line} of '{self.file}': {REMEDY}")

    def whole(self, name: str, low: int = -(2**63), high: int = 2**63 - 1) -> int:
        """The whole number in a column.

        Raises:
            ValueError: it is none, or lies outside of ``low`` to ``high``.
        """
        text = self.record.extra[name]
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            limits = "" if low == -(2**63) else f" from {low}" + f" to {high}" * (high < 2**63 - 1)
            raise self.fail(f"{name} must be a whole number{limits}", text)
        return value

    def real(self, name: str, low: float, high: float, finite: bool = True) -> float:
        """The number in a column.

        Raises:
            ValueError: it is none, or lies outside of ``low`` to ``high``; without ``finite`` it
                may also be NaN or infinite.
        """
        text = self.record.extra[name]
        try:
            value = float(text)
        except ValueError:
            raise self.fail(f"{name} must be a number", text) from None
        if not (low <= value <= high or not (finite or math.isfinite(value))):
            raise self.fail(f"{name} must lie in [{low:g}, {high:g}]", text)
        return value


def read_text(path: Path) -> str:
    """The text of a file, with or without a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, or too large.
    """
    size = path.stat().st_size
    if size > MAX_TEXT:
        raise ValueError(f"'{path}' must not exceed {MAX_TEXT} bytes, got {size}: {REMEDY}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{path}' must be UTF-8 text, got other bytes at {error.start}: {REMEDY}"
        ) from error


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a manifest.

    Args:
        path: the manifest.
        columns: those that it must have beyond ``path,label,split,group``, unless it has no row.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is cut, has other columns, or lists a path twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' must exist, got none: {REMEDY}")
    rows: list[Row] = []
    seen: set[str] = set()
    needed = [*BASE, *columns]
    try:
        table = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        found = [(table.line_num, cells) for cells in table]
        header = list(table.fieldnames or ())
        if not found:  # then no column beyond the first four was written
            needed = needed[:4]
        if missing := [name for name in needed if name not in header]:
            raise ValueError(
                f"'{path}' must have the columns {needed}, got no {missing}: {REMEDY}"
            )
        for line, cells in found:
            if None in cells or None in cells.values():
                raise ValueError(
                    f"line {line} of '{path}' must have {len(header)} cells, got another number: "
                    f"{REMEDY}"
                )
            name, label, split, group = (cells.pop(column) for column in BASE)
            row = Row(path, line, PatchRecord(name, label, split, group, cells))
            if name in seen:
                raise row.fail("each path must be listed once", name)
            seen.add(name)
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"'{path}' must be a whole CSV file, got {error}: {REMEDY}") from error
    return rows
