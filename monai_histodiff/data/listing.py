"""Which patches there are, by a manifest or by folders: their classes, splits and groups, checked
over all sources.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from monai_histodiff.data.patch_files import (
    COLUMNS,
    MANIFEST,
    OVERVIEW,
    SCALE,
    PatchRecord,
    PatchSource,
)
from monai_histodiff.data.pictures import SUFFIXES
from monai_histodiff.data.tables import TableRow, likely_columns, read_table

__all__ = ["list_patches"]

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHOWN = 4  # names of a folder level in an error


@dataclass(frozen=True)
class _Found:
    """A record, where it was found, and whether its group was named there."""

    record: PatchRecord
    where: str
    grouped: bool


def list_patches(
    sources: Sequence[PatchSource],
    class_level: int | None = None,
    group_level: int | None = None,
) -> tuple[list[PatchRecord], list[str]]:
    """The records of all sources, and notes: plain sentences on what was left out or assumed.

    Args:
        sources: with a manifest, or with folders that name the classes.
        class_level: without a manifest, the level of folders that names the class, the topmost
            being 1; needed where there is more than one level beside the split.
        group_level: likewise the level that names the group.

    Raises:
        FileNotFoundError: a file that a manifest names does not exist.
        ValueError: a rule of the manifest or of the folders is broken; the message names it.
    """
    found: list[_Found] = []
    notes: list[str] = []
    for i, source in enumerate(sources):
        manifest = [n for n in source.names if n.lower() == MANIFEST]
        if len(manifest) > 1:
            raise ValueError(
                f"a patch set must have one {MANIFEST}, got {' and '.join(manifest)} in "
                f"'{source.root}': remove one"
            )
        rows = (
            _from_table(source, manifest[0], notes)
            if manifest
            else _from_folders(source, class_level, group_level, notes)
        )
        found += [replace(f, record=replace(f.record, source=i)) for f in rows]
    _refuse_twins("label", ((f.record.label, f.where) for f in found if f.record.label))
    _refuse_twins("group", ((f.record.group, f.where) for f in found if f.grouped))
    sides = defaultdict(set)
    for f in found:
        sides[f.record.group].add(f.record.split)
    if torn := sorted(group for group, splits in sides.items() if len(splits) > 1):
        raise ValueError(
            f"a group must lie in one split only, got {len(torn)} that straddle, such as"
            f" '{torn[0]}'"
        )
    if alone := sum(not f.grouped for f in found):
        notes.append(
            f"No group is recorded for {alone} of {len(found)} patches: each counts as a patient"
            " of its own. If patients have several, accuracies are too high and intervals too"
            " narrow."
        )
    if kept := sum(f.record.split == "val" for f in found):
        notes.append(
            f"{kept} patches of the split 'val' are kept apart: neither trained nor tested on."
        )
    return [f.record for f in found], notes


def _refuse_twins(kind: str, names: Iterable[tuple[str, str]]) -> None:
    """Names that differ only by case or blanks are one name, mistyped."""
    seen: dict[str, tuple[str, str]] = {}
    for name, where in names:
        first, there = seen.setdefault("".join(name.casefold().split()), (name, where))
        if first != name:
            raise ValueError(
                f"two {kind}s must differ by more than case or blanks, got {first!r} ({there}) and"
                f" {name!r} ({where}): write them alike, or tell them apart clearly"
            )


# ------------------------------------------------------------------------------------ manifests


def _from_table(source: PatchSource, manifest: str, notes: list[str]) -> list[_Found]:
    where = f"'{source.root / manifest}'"
    rows = read_table(source.read(manifest), where, COLUMNS[:2], (*COLUMNS[2:], SCALE))
    if not rows:
        raise ValueError(f"a manifest must list at least one patch, got an empty one in {where}")
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        at = f"line {row.line} of {where}"
        name = _file(source, row, at)
        if name in seen:
            raise ValueError(
                f"a manifest must list each path once, got '{name}' twice, at line {seen[name]}"
                f" and {at}"
            )
        seen[name] = row.line
        found.append(_record(source, row, name, at))
    unnamed = [n for n in set(source.pictures) - set(seen) if n.rpartition("/")[2] != OVERVIEW]
    if spare := len(unnamed):
        notes.append(f"{spare} pictures of '{source.root}' are not in its manifest: not used.")
    notes += [
        f"The column '{name}' of {where} is not read: call it '{ours}' if it is that."
        for name, ours in likely_columns(list(rows[0].cells), ("group", "split", SCALE))
    ]
    return found


def _file(source: PatchSource, row: TableRow, at: str) -> str:
    path = row.cells["path"]
    name = source.find(path)
    if name is None:
        alike = [n for n in source.names if n.casefold() == path.casefold()]
        hint = (
            f"there is '{alike[0]}'"
            if alike
            else "paths are relative to the manifest; is a file missing, or the manifest cut?"
        )
        raise FileNotFoundError(f"{at} names '{path}', which is not there: {hint}")
    return name


def _record(source: PatchSource, row: TableRow, name: str, at: str) -> _Found:
    split = row.cells.get("split", "")
    if split and split.lower() not in SPLITS:
        raise ValueError(
            f"split must be 'train', 'val', 'test' or empty, got '{split}' for '{name}' ({at})"
        )
    label, group = (
        unicodedata.normalize("NFC", row.cells.get(column, "")) for column in ("label", "group")
    )
    if "group" in row.cells and not group:
        raise ValueError(f"every patch must name its group, got none for '{name}' ({at})")
    extra = {k: v for k, v in row.cells.items() if k not in COLUMNS}
    if extra.get(SCALE) and not _positive(extra[SCALE]):
        raise ValueError(
            f"{SCALE} must be a number above 0, such as 0.5, or empty, got"
            f" '{extra[SCALE]}' for '{name}' ({at})"
        )
    own = f"{source.root.name}/{name}"
    record = PatchRecord(name, label, SPLITS.get(split.lower(), ""), group or own, extra)
    return _Found(record, at, bool(group))


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


# -------------------------------------------------------------------------------------- folders


def _from_folders(
    source: PatchSource, class_level: int | None, group_level: int | None, notes: list[str]
) -> list[_Found]:
    _refuse_deeper_manifest(source)
    pictures = [n for n in source.pictures if "/" in n]
    tables = [n for n in source.names if "/" not in n and n.lower().endswith((".csv", ".tsv"))]
    if not pictures or (tables and len({n.split("/")[0] for n in pictures}) == 1):
        loose = len(source.pictures) - len(pictures)
        other = [n for n in source.names if n not in source.pictures]
        got = [f"{loose} pictures that lie in no folder"] * bool(loose)
        got += [f"one folder, '{pictures[0].split('/')[0]}'"] if pictures else []
        got += [f"{len(other)} other files{_endings(other)}"] * bool(other or not got)
        remedy = (
            f"call '{tables[0]}' {MANIFEST} if it lists them"
            if tables
            else (f"put pictures into folders that name their classes, or write a {MANIFEST}")
        )
        raise ValueError(
            f"dataset_dir must hold a {MANIFEST} or class folders with pictures"
            f" ({', '.join(SUFFIXES)}), got '{source.root}' with {' and '.join(got)}: {remedy}"
        )
    _tell_ignored(source, pictures, notes)
    folders = [n.split("/")[:-1] for n in pictures]
    wrapped = source.root.is_file() and {f[0] for f in folders} == {source.root.stem}
    if wrapped and min(len(f) for f in folders) > 1:
        folders = [f[1:] for f in folders]  # a zip that was made of a folder of its own name
    split, of_class, of_group = _levels(source, folders, class_level, group_level)
    found = []
    for name, folder in zip(pictures, folders, strict=True):
        group = "" if of_group is None else unicodedata.normalize("NFC", folder[of_group])
        record = PatchRecord(
            name,
            unicodedata.normalize("NFC", folder[of_class]),
            "" if split is None else SPLITS[folder[split].lower()],
            group or f"{source.root.name}/{name}",
        )
        found.append(_Found(record, f"'{source.root / name}'", bool(group)))
    return found


def _refuse_deeper_manifest(source: PatchSource) -> None:
    deeper = [n for n in source.names if n.lower().endswith(f"/{MANIFEST}")]
    if deeper:
        raise ValueError(
            f"{MANIFEST} must lie at the top of '{source.root}', got '{deeper[0]}': point at, or "
            "pack, the folder that it lies in"
        )


def _tell_ignored(source: PatchSource, pictures: Sequence[str], notes: list[str]) -> None:
    """A note of the files that are not used; an error where a whole folder would vanish."""
    used = {"/".join(n.split("/")[:i]) for n in pictures for i in range(1, n.count("/") + 1)}
    for folder in source.folders:
        if folder not in used:
            inside = [n for n in source.names if n.startswith(f"{folder}/")]
            raise ValueError(
                f"a folder must hold pictures ({', '.join(SUFFIXES)}), got {len(inside)} other"
                f" files{_endings(inside)} and no picture in '{source.root / folder}':"
                " convert them, or take the folder away"
            )
    if other := sorted(set(source.names) - set(pictures)):
        notes.append(
            f"{len(other)} files of '{source.root}'{_endings(other)} are no pictures in class"
            " folders: not used."
        )


def _endings(names: Sequence[str]) -> str:
    counts = Counter(f".{n.rsplit('.', 1)[-1]}" if "." in n else "no ending" for n in names)
    listed = ", ".join(f"{ending} {count}" for ending, count in counts.most_common())
    return f" ({listed})" if listed else ""


def _levels(
    source: PatchSource,
    folders: Sequence[Sequence[str]],
    class_level: int | None,
    group_level: int | None,
) -> tuple[int | None, int, int | None]:
    """Indices of the levels that name split, class and group."""
    depth = min(len(f) for f in folders)
    names = [sorted({f[i] for f in folders}) for i in range(depth)]
    chosen = {level - 1 for level in (class_level, group_level) if level is not None}
    if not chosen <= set(range(depth)) or class_level == group_level is not None:
        raise ValueError(
            f"class_level and group_level must be two of the levels 1 to {depth} that each picture"
            f" has, got {class_level} and {group_level}: {_described(source, names)}"
        )
    splits = [
        i for i in range(depth) if i not in chosen and all(n.lower() in SPLITS for n in names[i])
    ]
    split = splits[0] if splits else None
    rest = [i for i in range(depth) if i != split and i not in chosen]
    if class_level is not None:
        return split, class_level - 1, None if group_level is None else group_level - 1
    mixed = split is None and any(n.lower() in SPLITS for n in names[0])
    deeper = max(len(f) for f in folders) > depth
    if len(rest) != 1 or mixed or deeper:
        whole = f"point at, or pack, '{names[0][0]}' itself, " if len(names[0]) == 1 else ""
        raise ValueError(
            "a picture must lie in one folder, which names its class, below 'train', 'val' and"
            f" 'test' (all or none) if there is a split, got {_described(source, names)}"
            f"{'; some lie deeper' if deeper else ''}: {whole}say which level is what by"
            f" 'histodiff-check {source.root} --class_level 1 --group_level 2 --write NEW', which"
            f" makes the set NEW of it (in Python: PatchSet.open), or write a {MANIFEST}"
        )
    return split, rest[0], None if group_level is None else group_level - 1


def _described(source: PatchSource, names: Sequence[Sequence[str]]) -> str:
    levels = [
        f"level {i + 1} ({len(found)} names): {', '.join(map(repr, found[:SHOWN]))}"
        + (", ..." if len(found) > SHOWN else "")
        for i, found in enumerate(names)
    ]
    return f"in '{source.root}' {'; '.join(levels)}"
