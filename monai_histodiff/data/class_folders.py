"""Which patches there are where folders name the classes, and above or below them the split."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence

from monai_histodiff.data.names import count_endings
from monai_histodiff.data.patch_files import MANIFEST, TABLES, PatchRecord, PatchSource
from monai_histodiff.data.pictures import SUFFIXES
from monai_histodiff.data.splits import SPLITS

__all__ = ["UNLABELLED", "read_folders", "top_folder"]

COPIED = r"([ _-]?\(\d+\)| - .+| copy( \d+)?)?"  # what systems and browsers append to a name
SHOWN = 4  # names of a folder level in an error
UNLABELLED = ("unlabelled", "unlabeled")  # a folder of this name is no class
SHEETS = (".xlsx", ".xls", ".ods")
# files that hold pictures and are not read, by their ending, and what to do with them
KINDS = {
    (".gif",): "convert them to PNG, in folders that name their classes",
    (".npy", ".npz", ".h5", ".hdf5", ".mat", ".pt", ".parquet", ".tfrecord"): (
        "save each picture of these arrays as a PNG, in folders that name their classes"
    ),
    (
        ".zip",
        ".tar",
        ".gz",
        ".tgz",
        ".rar",
        ".7z",
    ): "unpack the archives: one within a set is not read",
    (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".dcm", ".czi"): (
        "cut these slides into patches by 'histodiff-tiles FOLDER NEW'"
    ),
}


def read_folders(
    source: PatchSource, class_level: int | None, group_level: int | None, notes: list[str]
) -> list[tuple[PatchRecord, str]]:
    """The records of a source without a manifest, each with its place; a group is empty where no
    level names it.

    Args:
        source: the folder or zip.
        class_level: the level of folders that names the class, from 1 at the top; needed where
            there are several beside the split.
        group_level: likewise the level that names the group.
        notes: sentences on what was left out are added to it.

    Raises:
        ValueError: there is no class folder, one holds no picture, or it is not clear which level
            names the class or the split; the message lists the levels.
    """
    _refuse_deeper_manifest(source)
    pictures = _in_folders(source)
    _tell_ignored(source, pictures, notes)
    folders = [n.split("/")[:-1] for n in pictures]
    levels = _levels(source, folders, class_level, group_level)
    found, unlabelled = [], ""
    for name, folder in zip(pictures, folders, strict=True):
        split, label, group = ("" if level is None else folder[level] for level in levels)
        label, group = (unicodedata.normalize("NFC", text) for text in (label, group))
        if label.lower() in UNLABELLED:
            label, unlabelled = "", label
        record = PatchRecord(name, label, SPLITS.get(split.lower(), ""), group)
        found.append((record, f"'{source.root / name}'"))
    if unlabelled:
        count = sum(not record.label for record, _ in found)
        notes.append(f"{count} pictures in '{unlabelled}' of '{source.root}' have no label.")
    return found


def top_folder(source: PatchSource) -> str:
    """The one folder that a zip was made of, which names neither class nor split; or nothing. The
    zip has its name, or that of a copy (``set (1).zip``).
    """
    parts = [n.split("/") for n in source.pictures if "/" in n]
    tops = {p[0] for p in parts}
    if not source.root.is_file() or len(tops) != 1 or min(map(len, parts)) < 3:
        return ""
    top, stem = tops.pop(), source.root.stem
    alike = re.fullmatch(re.escape(top) + COPIED, stem)
    return top if alike and top.lower() not in SPLITS else ""


def _refuse_deeper_manifest(source: PatchSource) -> None:
    deeper = [n for n in source.names if n.lower().endswith(f"/{MANIFEST}")]
    if deeper:
        raise ValueError(
            f"{MANIFEST} must lie at the top of '{source.root}', got '{deeper[0]}': point at, or "
            "pack, the folder that it lies in"
        )


def _in_folders(source: PatchSource) -> list[str]:
    """Its pictures that lie in folders."""
    pictures = [n for n in source.pictures if "/" in n]
    tables = [n for n in source.names if "/" not in n and n.lower().endswith(TABLES)]
    if not pictures or (tables and len({n.split("/")[0] for n in pictures}) == 1):
        loose = len(source.pictures) - len(pictures)
        other = [n for n in source.names if n not in source.pictures]
        got = [f"{loose} pictures that lie in no folder"] * bool(loose)
        got += [f"one folder, '{pictures[0].split('/')[0]}'"] if pictures else []
        got += [f"{files_of(other)}{count_endings(other)}"] * bool(other or not got)
        remedy = (
            f"put pictures into folders that name their classes, or are called '{UNLABELLED[0]}', "
            f"or write a {MANIFEST}"
        )
        if tables:
            remedy = f"give '{source.root / tables[0]}' if it lists them"
            if source.root.is_file():
                remedy = f"call '{tables[0]}' {MANIFEST} if it lists them"
        elif not source.pictures:
            remedy = _converted(other) or remedy
        raise ValueError(
            f"{source.option} must hold a {MANIFEST} or class folders with pictures"
            f" ({', '.join(SUFFIXES)}), got '{source.root}' with {' and '.join(got)}: {remedy}"
        )
    return pictures


def files_of(names: Sequence[str]) -> str:
    """How many files that are no pictures."""
    return f"{len(names)} other file{'s' * (len(names) != 1)}"


def _converted(names: Sequence[str]) -> str:
    """What to do with files of a kind that holds pictures and is not read; empty of others."""
    if any("camelyonpatch" in name.lower() for name in names):
        return (
            "'histodiff-fetch pcam NEW --archives FOLDER' makes a set of PatchCamelyon's files, as"
            " they are downloaded (.h5.gz, and the tables)"
        )
    for endings, remedy in KINDS.items():
        if any(name.lower().endswith(endings) for name in names):
            return remedy
    return ""


def _tell_ignored(source: PatchSource, pictures: Sequence[str], notes: list[str]) -> None:
    """A note of the files that are not used; an error where a whole folder would vanish."""
    used = {"/".join(n.split("/")[:i]) for n in pictures for i in range(1, n.count("/") + 1)}
    for folder in source.folders:
        if folder not in used:
            inside = [n for n in source.names if n.startswith(f"{folder}/")]
            remedy = _converted(inside) or "convert them"
            raise ValueError(
                f"a folder must hold pictures ({', '.join(SUFFIXES)}), got {files_of(inside)}"
                f"{count_endings(inside)} and no picture in '{source.root / folder}':"
                f" {remedy}, or take the folder away"
            )
    if other := sorted(set(source.names) - set(pictures)):
        are = "1 file" if len(other) == 1 else f"{len(other)} files"
        no = "is no picture" if len(other) == 1 else "are no pictures"
        notes.append(
            f"{are} of '{source.root}'{count_endings(other)} {no} in class folders: not used."
        )
    for name in (n for n in other if "/" not in n and n.lower().endswith(TABLES + SHEETS)):
        saved = "save it as" if name.lower().endswith(SHEETS) else "call it"
        notes.append(
            f"The table '{name}' beside the class folders is not read: if it names the class,"
            f" patient or split of each picture, {saved} {MANIFEST}."
        )


def _levels(
    source: PatchSource,
    folders: Sequence[Sequence[str]],
    class_level: int | None,
    group_level: int | None,
) -> tuple[int | None, int, int | None]:
    """Indices of the levels that name split, class and group."""
    depth = min(len(f) for f in folders)
    names = [sorted({f[i] for f in folders}) for i in range(depth)]
    told = _described(source, names)
    chosen = {level - 1 for level in (class_level, group_level) if level is not None}
    if not chosen <= set(range(depth)) or class_level == group_level is not None:
        raise ValueError(
            "class_level and group_level, where they are given, must be two of the levels 1 to"
            f" {depth} that each picture has, got {class_level} and {group_level}, {told}: choose"
            " among these"
        )
    parts = [i for i in range(depth) if all(n.lower() in SPLITS for n in names[i])]
    if wrong := chosen & set(parts):
        raise ValueError(
            "class_level and group_level must be levels that name classes and groups, got"
            f" {min(wrong) + 1}, which names the split: choose another {told}"
        )
    split = parts[0] if parts else None
    places = {(i, n) for f in folders for i, n in enumerate(f) if i != split and i not in chosen}
    if stray := sorted({n for _, n in places if n.lower() in SPLITS}):
        others = [n for _, n in places if n.lower() in UNLABELLED]
        into = f"'{stray[-1]}/{others[0]}' is for the unlabelled; " if others else ""
        raise ValueError(
            "folders called 'train', 'val' or 'test' must be all of one level, or none, got"
            f" {', '.join(map(repr, stray))} beside others {told}: {into}call the others so,"
            " too, or take them away; a level of classes or groups that are called so is named by"
            f" class_level or group_level, or by a {MANIFEST}"
        )
    skipped = {split, *chosen} | ({0} if not chosen and top_folder(source) else set())
    rest = [i for i in range(depth) if i not in skipped]
    deeper = max(len(f) for f in folders) > depth
    if class_level is None and group_level is not None and len(rest) != 1:
        left = ", ".join(str(i + 1) for i in rest)
        raise ValueError(
            "class_level must be given beside group_level unless one level alone is left, got"
            f" group_level {group_level}, and {f'levels {left}' if rest else 'no level'} left,"
            f" {told}: give class_level, too{'' if rest else ', and another group_level'}"
        )
    if class_level is None and (len(rest) != 1 or deeper):
        raise ValueError(
            "a picture must lie in one folder, which names its class, below 'train', 'val' and"
            f" 'test' (all or none) if there is a split, got {told}"
            f"{'; some lie deeper' if deeper else ''}: {_remedy(source, names, split)}"
        )
    of_class = rest[0] if class_level is None else class_level - 1
    return split, of_class, None if group_level is None else group_level - 1


def _remedy(source: PatchSource, names: Sequence[Sequence[str]], split: int | None) -> str:
    levels = [i for i in range(len(names)) if i != split]
    levels = [i for i in levels if len(names[i]) > 1] or levels
    if not levels:
        return f"put them into folders that name their classes, or write a {MANIFEST}"
    whole = f"point at, or pack, '{names[0][0]}' itself, " if len(names[0]) == 1 else ""
    which = " or ".join(str(level + 1) for level in levels)
    path = shlex.quote(str(source.root))
    return (
        f"{whole}say which level names the class, and which the patient or slide if one does, by"
        f" 'histodiff-check {path} --class_level N --group_level N --write NEW' (N is {which}),"
        f" which makes the set NEW of it (in Python: PatchSet.open), or write a {MANIFEST}"
    )


def _described(source: PatchSource, names: Sequence[Sequence[str]]) -> str:
    levels = [
        f"level {i + 1} ({len(found)} name{'s' * (len(found) != 1)}): "
        + ", ".join(map(repr, found[:SHOWN]))
        + (", ..." if len(found) > SHOWN else "")
        for i, found in enumerate(names)
    ]
    return f"in '{source.root}' {'; '.join(levels)}"
