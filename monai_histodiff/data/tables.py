"""Tables of text, ``.csv``, as people and spreadsheets write them: read strictly, with the line in
every error, and written so that no cell is taken for a formula.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return.
Where such a cell is not a plain number, it is written with an apostrophe before it, which
reading takes off again: what is read is what was written.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monai_histodiff.data.splits import SPLITS

__all__ = [
    "TableRow",
    "likely_columns",
    "number",
    "read_table",
    "scale_columns",
    "with_split",
    "write_table",
]

FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|nan)", re.ASCII)
DELIMITERS = ",;\t"
BY_TEN = "about 10 divided by it"
# names by which others call our columns
OTHERS = {
    "group": "patient, patient_id, patientid, case, case_id, subject, subject_id, slide, slide_id,"
    " wsi, source_slide",
    "split": "fold, subset, set, partition, phase",
    "um_per_px": "mpp, mpp_x, um, um_px, um_per_pixel, micron_per_px, micron_per_pixel,"
    " microns_per_px, microns_per_pixel, micrometers_per_pixel, micrometres_per_pixel, pixel_size,"
    " pixelsize, pixel_size_um, pixel_size_x, spacing, resolution",
    "path": "file, filename, file_name, filepath, file_path, image, image_name, image_path, img,"
    " img_name, img_path",
    "label": "class, classname, class_name, target, category, diagnosis, tissue, tumor, tumour,"
    " majority_vote_label",
}
# how a word begins in names that a note asks about
HINTS = {
    "group": r"patient|pat$|case|donor|subject|slide|wsi|barcode",
    "um_per_px": r"mpp|microns?|\u03bcm$",
    BY_TEN: r"mag$|magnif|objective",
}
# columns that tell the scale in another way, and what um_per_px is then
CONVERTED = {
    BY_TEN: "magnification, mag, objective, objective_power, objective_lens,"
    " nominal_magnification, zoom, power",
    "1000 times it": "mm_per_px, mm_per_pixel, pixel_size_mm, spacing_mm",
    "a thousandth of it": "nm_per_px, nm_per_pixel, pixel_size_nm",
    "1 divided by it": "px_per_um, pixels_per_um, pixels_per_micron, px_per_micron",
}


@dataclass(frozen=True)
class TableRow:
    """The cells of one row by column; ``line`` counts from 1, the header's line."""

    line: int
    cells: dict[str, str]


def read_table(
    content: bytes,
    where: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    taken: list[tuple[str, str]] | None = None,
) -> list[TableRow]:
    """The rows of a table.

    Args:
        content: UTF-8 text, with or without a byte-order mark; cells are separated by commas,
            semicolons or tabs, whichever the header holds most of.
        where: its name, which every error repeats.
        required: columns that must be there. They and ``optional`` ones are found whatever their
            case; blanks around their cells are taken off.
        optional: columns that may be there. Further ones keep their names and cells.
        taken: a required column that is not there may be the only one that has a usual name for
            it, see :func:`likely_columns`; pairs of its name and ours are added to this list.
            ``None``: it must be there by our name.

    Returns:
        One :class:`TableRow` for each line that is not empty.

    Raises:
        ValueError: the text is not UTF-8, a required column is missing or a column is there
            twice, a quote is not closed or follows a blank, a cell holds a line break, two columns
            without a name are filled, or a row has other cells than the header: fewer are the mark
            of a file that was cut.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a table must be UTF-8 text, got another encoding in {where}: save it as 'CSV UTF-8'"
        ) from error
    first = text.lstrip("\r\n").split("\n", 1)[0]
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count), strict=True
    )
    columns: list[str] = []
    rows: list[TableRow] = []
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _columns(cells, where, required, optional, taken)
                continue
            rows.append(_row(cells, columns, lines.line_num, where, (*required, *optional)))
    except csv.Error as error:
        raise ValueError(
            f"a table must be whole, got '{error}' at line {lines.line_num} of {where}:"
            " is a quote not closed?"
        ) from error
    if not columns:
        _columns([], where, required, optional)
    return rows


def likely_columns(columns: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Columns that others give the meaning of one that is not there: pairs of their name, and of
    ours.
    """
    there = {name.casefold() for name in columns}
    converted = {name for name, _ in scale_columns(columns)}
    return [
        (name, ours)
        for ours in wanted
        if ours not in there
        for name in _called(columns, ours, OTHERS[ours])
        if name not in converted
    ]


def _called(columns: Sequence[str], ours: str, others: str) -> list[str]:
    """Columns of one of these names, or, where there is none, of one that hints at ``ours``."""
    exact = [name for name in columns if _plain(name) in others.split(", ")]
    hint = re.compile(HINTS.get(ours, "$^"))
    return exact or [n for n in columns if any(map(hint.match, _plain(n).split("_")))]


def scale_columns(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Columns that tell the scale in another way, where there is no ``um_per_px``: pairs of their
    name, and of how it follows.
    """
    if "um_per_px" in {name.casefold() for name in columns}:
        return []
    return [
        (name, rule) for rule, names in CONVERTED.items() for name in _called(columns, rule, names)
    ]


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip().casefold()).strip("_")


def with_split(rows: list[TableRow], taken: list[tuple[str, str]]) -> list[TableRow]:
    """The rows with a split where one column alone has a usual name for it, and tells it in every
    row; its name and ours are then added to ``taken``.
    """
    likely = [name for name, _ in likely_columns(list(rows[0].cells), ("split",))]
    if len(likely) != 1 or not all(r.cells[likely[0]].strip().lower() in SPLITS for r in rows):
        return rows
    taken.append((likely[0], "split"))
    return [
        TableRow(r.line, {"split" if k in likely else k: v.strip() for k, v in r.cells.items()})
        for r in rows
    ]


def _columns(
    cells: Sequence[str],
    where: str,
    required: Sequence[str],
    optional: Sequence[str],
    taken: list[tuple[str, str]] | None = None,
) -> list[str]:
    if cells and cells[0].lower().startswith("sep="):
        raise ValueError(
            f"a table must begin with the names of its columns, got '{cells[0]}', a line for"
            f" spreadsheets, in {where}: remove this line"
        )
    known = {name.casefold(): name for name in (*required, *optional)}
    columns = [_trimmed(cell, f"the header of {where}") for cell in cells]
    written = columns = [known.get(name.casefold(), name) for name in columns]
    if taken is not None:
        meant = likely_columns(columns, [name for name in required if name in OTHERS])
        sole = [(a, b) for a, b in meant if [b for _, b in meant].count(b) == 1]
        taken += sole
        columns = [dict(sole).get(name, name) for name in columns]
    if missing := [name for name in required if name not in columns]:
        likely = likely_columns(columns, [m for m in missing if m in OTHERS])
        renamed = [f"rename '{a}' to '{b}'" for a, b in likely if a not in required]
        remedy = " or ".join(renamed) or "rename those that are meant, or write them"
        raise ValueError(
            f"a table must have the columns {list(required)}, got none named {missing} among"
            f" {written} in {where}: {remedy}"
        )
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ValueError(f"a column must be there once, got '{twice[0]}' twice in {where}")
    return columns


def _row(
    cells: Sequence[str], columns: Sequence[str], line: int, where: str, known: Sequence[str]
) -> TableRow:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ValueError(
            f"a row must not have more cells than the header, got {list(cells[len(columns) :])}"
            f" beyond it at line {line} of {where}"
        )
    if len(cells) < len(columns):
        raise ValueError(
            f"a row must have the {len(columns)} cells of the header, got {len(cells)} at line"
            f" {line} of {where}: is the file cut? An empty cell needs its separator, too"
        )
    found: dict[str, str] = {}
    for name, cell in zip(columns, cells, strict=False):
        if "\n" in cell or "\r" in cell:
            raise ValueError(
                f"a cell must not hold a line break, got {cell[:40]!r} up to line {line} of"
                f" {where}: is a quote not closed?"
            )
        cell = _trimmed(cell, f"line {line} of {where}") if name in known else cell
        if name in found:  # no name at all: others are there once
            if cell.strip():
                raise ValueError(
                    f"a column must have a name where there is another without, got {cell!r} at"
                    f" line {line} of {where}: name it in the header"
                )
            continue
        found[name] = cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
    return TableRow(line, found)


def _trimmed(cell: str, where: str) -> str:
    """The cell without blanks around it."""
    plain = cell.strip()
    if plain.startswith('"') and cell[0] != '"':
        raise ValueError(
            f"a quote must follow its separator at once, got {cell!r} at {where}: take the blank"
            " away"
        )
    return plain


def number(text: str) -> float:
    """The number that a cell holds, in plain digits.

    Raises:
        ValueError: it holds something else, such as ``1_0``, which Python takes for 10.
    """
    if not NUMBER.fullmatch(text):
        raise ValueError(f"a number must be of plain digits, such as 0.5, got {text!r}")
    return float(text)


def write_table(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Write a table that :func:`read_table` reads back, cell by cell.

    Raises:
        ValueError: a cell holds a line break.
    """
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        for row in (columns, *rows):
            for cell in row:
                if "\n" in cell or "\r" in cell:
                    raise ValueError(f"a cell must not hold a line break, got {cell!r}")
            writer.writerow([_guarded(cell) for cell in row])


def _guarded(cell: str) -> str:
    plain = not FORMULA.match(cell) or NUMBER.fullmatch(cell)
    return cell if plain else f"'{cell}"
