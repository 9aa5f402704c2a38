"""Which patches there are where a manifest names them: its columns, paths and rows."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from monai_histodiff.data.class_folders import UNLABELLED
from monai_histodiff.data.patch_files import COLUMNS, OVERVIEW, SCALE, PatchRecord, PatchSource
from monai_histodiff.data.scale import LEAST, MOST, is_scale, scale_remedy
from monai_histodiff.data.splits import read_split
from monai_histodiff.data.tables import (
    TableRow,
    likely_columns,
    number,
    read_table,
    scale_columns,
    with_split,
)

__all__ = ["read_manifest"]

FORMULAS = ("=", "+", "-", "@")
Found = tuple[PatchRecord, str]  # and where it was found


def read_manifest(source: PatchSource, manifest: str, notes: list[str]) -> list[Found]:
    """The records of a source with a manifest, each with its place; a group is empty where no
    column names it.

    Args:
        source: the folder or zip.
        manifest: the name of its table.
        notes: sentences on what was left out or assumed are added to it.

    Raises:
        FileNotFoundError: a file that a row names does not exist.
        ValueError: a rule of manifests is broken; the message names the line.
    """
    where = f"'{source.root / manifest}'"
    taken: list[tuple[str, str]] = []
    rows = read_table(source.read(manifest), where, COLUMNS[:2], (*COLUMNS[2:], SCALE), taken)
    if not rows:
        raise ValueError(f"a manifest must list at least one patch, got an empty one in {where}")
    _refuse_one_hot(rows, taken, where)
    rows = with_split(rows, taken)
    notes += [f"The column '{name}' of {where} is taken for '{ours}'." for name, ours in taken]
    if folder := _folder_of(source, [row.cells["path"] for row in rows]):
        notes.append(f"The paths of {where} are taken to begin at '{folder}'.")
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        at = f"line {row.line} of {where}"
        name = _file(source, row, folder, at)
        if name in seen:
            raise ValueError(
                f"a manifest must list each path once, got '{name}' twice, at line {seen[name]}"
                f" and {at}"
            )
        seen[name] = row.line
        found.append(_record(row, name, at))
    words = [row.cells["label"] for row in rows if row.cells["label"].casefold() in UNLABELLED]
    if words:
        many, have = ("1 row", "has") if len(words) == 1 else (f"{len(words)} rows", "have")
        notes.append(f"{many} of {where} with the label '{words[0]}' {have} no label.")
    unnamed = [n for n in set(source.pictures) - set(seen) if n.rpartition("/")[2] != OVERVIEW]
    if spare := len(unnamed):
        many, are = ("1 picture", "is") if spare == 1 else (f"{spare} pictures", "are")
        notes.append(f"{many} of '{source.root}' {are} not in its manifest: not used.")
    notes += [
        f"The column '{name}' of {where} is not read: call it '{ours}' if it is that."
        for name, ours in likely_columns(list(rows[0].cells), ("group", "split", SCALE))
    ]
    notes += [
        f"The column '{name}' of {where} is not read: {SCALE} is {rule}; write that in a column "
        "of its own."
        for name, rule in scale_columns(list(rows[0].cells))
    ]
    return found


def _refuse_one_hot(
    rows: Sequence[TableRow], taken: Sequence[tuple[str, str]], where: str
) -> None:
    """Refuse a column that is taken for the label, and is one of several that say yes or no."""
    named = [name for name, ours in taken if ours == "label"]
    binary = [
        column
        for column in rows[0].cells
        if column not in (*COLUMNS[2:], SCALE)
        and {row.cells[column].strip() for row in rows} <= {"0", "1"}
    ]
    once = all(sum(row.cells[column].strip() == "1" for column in binary) == 1 for row in rows)
    if named and "label" in binary and len(binary) > 1 and once:
        other = next(column for column in binary if column != "label")
        raise ValueError(
            f"the class must be in one column, got '{named[0]}' and '{other}' of 0 and 1 in "
            f"{where}: write the name of each patch's class into a column 'label'; if "
            f"'{named[0]}' alone tells it, call it so"
        )


def _folder_of(source: PatchSource, paths: Sequence[str]) -> str:
    """The one folder below the manifest in which its first path is found, if none is beside it;
    an error where a path is found there and in another, too.
    """
    if any(source.find(path) for path in paths):
        return ""
    plain = [unicodedata.normalize("NFC", p.replace("\\", "/")).removeprefix("./") for p in paths]
    within: defaultdict[str, list[str]] = defaultdict(list)  # folders, by what follows
    for name in source.pictures:
        parts = unicodedata.normalize("NFC", name).split("/")
        for i in range(1, len(parts)):
            within["/".join(parts[i:])].append("/".join(parts[:i]))
    if len(within[plain[0]]) != 1:
        return ""
    (folder,) = within[plain[0]]
    for path in plain:
        if folder in within[path] and len(within[path]) > 1:
            other = next(where for where in within[path] if where != folder)
            raise ValueError(
                f"a path must lead to one picture, got '{path}', which is '{folder}/{path}' and "
                f"'{other}/{path}' in '{source.root}': write the folder into the path"
            )
    return folder


def _file(source: PatchSource, row: TableRow, folder: str, at: str) -> str:
    path = row.cells["path"]
    name = source.find(f"{folder}/{path.removeprefix('./')}" if folder else path)
    if name is None and path[:1] in FORMULAS:  # the apostrophe that was taken off may be its own
        name = source.find(f"'{path}")
    if name is None and (PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive):
        root = source.root.resolve()
        inside = Path(path).is_relative_to(root) and source.find(str(Path(path).relative_to(root)))
        remedy = "put the pictures, or a link to their folder, beside the manifest, and write each"
        remedy += " path from there, such as 'FOLDER/" + PureWindowsPath(path).name + "'"
        if inside:
            remedy = f"write it relative to the manifest, as '{inside}'"
        raise ValueError(
            f"a path must be relative to the manifest, got '{path}' at {at}: {remedy}"
        )
    if name is None and ".." in PureWindowsPath(path).parts:
        raise ValueError(
            f"a path must not lead out of the manifest's folder, got '{path}' at {at}: put the "
            "manifest, or a link to the pictures' folder, where both are below it"
        )
    if name is None:
        alike = [n for n in source.names if n.casefold() == path.casefold()]
        hint = (
            f"there is '{alike[0]}'"
            if alike
            else "paths are relative to the manifest; is a file missing, or the manifest cut?"
        )
        raise FileNotFoundError(f"{at} names '{path}', which is not there: {hint}")
    return name


def _record(row: TableRow, name: str, at: str) -> Found:
    split = read_split(row.cells.get("split", ""), f"'{name}' ({at})")
    label, group = (
        unicodedata.normalize("NFC", row.cells.get(column, "")) for column in ("label", "group")
    )
    if label.casefold() in UNLABELLED:  # as a folder of this name
        label = ""
    if "group" in row.cells and not group:
        raise ValueError(f"every patch must name its group, got none for '{name}' ({at})")
    extra = {k: v for k, v in row.cells.items() if k not in COLUMNS}
    if extra.get(SCALE) and not _is_scale(extra[SCALE]):
        raise ValueError(
            f"{SCALE} must be a number of micrometres per pixel, from {LEAST:g} to {MOST:g}, or "
            f"empty, got '{extra[SCALE]}' for '{name}' ({at}): {scale_remedy(extra[SCALE])}"
        )
    return PatchRecord(name, label, split, group, extra), at


def _is_scale(text: str) -> bool:
    try:
        return is_scale(number(text))
    except ValueError:
        return False
