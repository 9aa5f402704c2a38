"""Tables that we wrote ourselves, read strictly: whatever is cut or odd is an error that names the
file and the line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_histodiff.data.patch_files import COLUMNS, PatchRecord
from monai_histodiff.data.tables import number, read_table

__all__ = ["REMEDY", "SealedRow", "check_length", "read_rows"]

REMEDY = "copy the folder anew from where it was whole, or make it again"
MAX_TEXT = 2**28  # bytes of a manifest or JSON file


@dataclass(frozen=True)
class SealedRow:
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
            number(text)
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
            value = number(text)
        except ValueError:
            raise self.fail(f"{name} must be a number", text) from None
        if not (low <= value <= high or not (finite or math.isfinite(value))):
            raise self.fail(f"{name} must lie in [{low:g}, {high:g}]", text)
        return value


def check_length(path: Path) -> None:
    """Refuse a text file that is too large to be one of ours.

    Raises:
        ValueError: it is.
    """
    size = path.stat().st_size
    if size > MAX_TEXT:
        raise ValueError(f"'{path}' must not exceed {MAX_TEXT} bytes, got {size}: {REMEDY}")


def read_rows(path: Path, columns: Sequence[str]) -> list[SealedRow]:
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
    check_length(path)
    try:
        found = read_table(path.read_bytes(), f"'{path}'", COLUMNS)
    except ValueError as error:
        raise ValueError(f"{error}: {REMEDY}") from error
    rows: list[SealedRow] = []
    seen: set[str] = set()
    for line, cells in ((row.line, dict(row.cells)) for row in found):
        name, label, split, group = (cells.pop(column) for column in COLUMNS)
        row = SealedRow(path, line, PatchRecord(name, label, split, group, cells))
        if missing := [column for column in columns if column not in cells]:
            raise ValueError(
                f"'{path}' must have the columns {list(columns)}, got no {missing}: {REMEDY}"
            )
        if name in seen:
            raise row.fail("each path must be listed once", name)
        seen.add(name)
        rows.append(row)
    return rows
