"""Which patches there are, by manifests or by folders: their classes, splits and groups, checked
over all sources.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from monai_histodiff.data.class_folders import read_folders, top_folder
from monai_histodiff.data.manifests import read_manifest
from monai_histodiff.data.names import check_name, check_path, matched_group, refuse_twins
from monai_histodiff.data.patch_files import MANIFEST, PatchRecord, PatchSource
from monai_histodiff.data.splits import SPLITS, refuse_torn_groups

__all__ = ["list_patches"]

MISSING = set(
    "nan na n/a #n/a #nv <na> none null -1 ? - missing undefined unknown".split()
)  # as written where there is nothing
PATH = "patch's path"
TILE = re.compile(r"([^/]+?)( \[|[_-]x=?\d+[_,-]+y=?\d+)[^/]*$")  # before the place of a tile
Found = tuple[PatchRecord, str]  # and where it was found


def list_patches(
    sources: Sequence[PatchSource],
    class_level: int | None = None,
    group_level: int | None = None,
    group_pattern: str | None = None,
) -> tuple[list[PatchRecord], list[str]]:
    """The records of all sources, and notes: plain sentences on what was left out or assumed.

    Args:
        sources: with a manifest, or with folders that name the classes.
        class_level: without a manifest, the level of folders that names the class, the topmost
            being 1; needed where there is more than one level beside the split.
        group_level: likewise the level that names the group.
        group_pattern: a regular expression to search each path for; its first bracket, or all of
            it, is the group.

    Raises:
        FileNotFoundError: a file that a manifest names does not exist.
        ValueError: a rule of sources, manifests, folders or names is broken; the message names it.
    """
    _refuse_one_within_another(sources)
    if group_level is not None and group_pattern is not None:
        raise ValueError(
            f"groups must come from group_level or from group_pattern, got {group_level} and "
            f"'{group_pattern}': leave one out"
        )
    found: list[Found] = []
    notes: list[str] = []
    by_levels = class_level is not None or group_level is not None
    tops: dict[int, str] = {}
    foldered = 0
    for i, (source, title) in enumerate(zip(sources, _titles(sources), strict=True)):
        if manifest := _manifest(source):
            rows = read_manifest(source, manifest, notes)
        else:
            rows = read_folders(source, class_level, group_level, notes)
            foldered += 1
            if not by_levels and (top := top_folder(source)):
                tops[i] = top
                if top != source.root.stem:
                    notes.append(
                        f"The folder '{top}', alone at the top of '{source.root}', is taken for no"
                        " class."
                    )
        for record, where in rows:
            own = unicodedata.normalize("NFC", f"{title}/{record.path}")
            if group_pattern is not None:
                if record.group:
                    raise ValueError(
                        f"group_pattern is for patches without a group, got '{group_pattern}', and"
                        f" the group '{record.group}' ({where}): leave one of the two out"
                    )
                own = matched_group(unicodedata.normalize("NFC", record.path), group_pattern, PATH)
                record = replace(record, group=own)
            found.append((replace(record, group=record.group or own, source=i), where))
    if by_levels and not foldered:
        raise ValueError(
            f"class_level and group_level are for sets without a {MANIFEST}, got {class_level} and"
            f" {group_level} for '{sources[0].root}', which has one: leave them out"
        )
    notes += _lost_classes(sources, tops, found)
    sizes = Counter(record.group for record, _ in found)
    grouped = [(record.group, where) for record, where in found if not _alone(record, sizes)]
    labels = [(record.label, where) for record, where in found if record.label]
    for kind, names in (("label", labels), ("group", grouped)):
        for name, where in names:
            check_name(kind, name, where)
        refuse_twins(kind, names)
    for record, _ in found:
        check_path(record.path, f"in '{sources[record.source].root}'")
    shared = _shared_groups(sources, found)
    refuse_torn_groups(((record.group, record.split) for record, _ in found), shared)
    for where, count in Counter(shared.values()).items():
        group = next(group for group, there in shared.items() if there == where)
        notes.append(
            f"{where} have {count} groups of one name, such as '{group}': each is taken for one"
            " patient. If they are not, rename those of one source."
        )
    return [record for record, _ in found], notes + _assumed(
        sources, found, {where for _, where in grouped}
    )


def _manifest(source: PatchSource) -> str:
    """The name of its manifest; empty where there is none."""
    if source.table:
        return source.table
    names = [n for n in source.names if n.lower() == MANIFEST]
    if len(names) > 1:
        raise ValueError(
            f"a patch set must have one {MANIFEST}, got {' and '.join(names)} in"
            f" '{source.root}': remove one"
        )
    return names[0] if names else ""


def _lost_classes(
    sources: Sequence[PatchSource], tops: Mapping[int, str], found: Sequence[Found]
) -> list[str]:
    """Sentences on zips that were made of folders of their own names, which may be one class."""
    notes = []
    for i, top in tops.items():
        own, others = (
            {record.label for record, _ in found if (record.source == i) is inner} - {""}
            for inner in (True, False)
        )
        if own and others and not own & others:
            notes.append(
                f"The folder '{top}' at the top of '{sources[i].root}' is taken for no class, but"
                f" those below it, such as '{min(own)}', which no other source has: if '{top}' is"
                " the class, write a manifest.csv, or pack the folders of all classes together."
            )
    return notes


def _alone(record: PatchRecord, sizes: Mapping[str, int]) -> bool:
    """Whether its group is the patch itself, called by its file: nothing that somebody recorded,
    though a set that was written since has it in its manifest.
    """
    file = unicodedata.normalize("NFC", record.path).rpartition("/")[2]
    return sizes[record.group] == 1 and record.group.rpartition("/")[2] == file


def _shared_groups(sources: Sequence[PatchSource], found: Sequence[Found]) -> dict[str, str]:
    """The sources, in words, of each group that several of them have."""
    where: dict[str, set[int]] = {}
    for record, _ in found:
        where.setdefault(record.group, set()).add(record.source)
    return {
        group: " and ".join(f"'{sources[i].root}'" for i in sorted(own))
        for group, own in sorted(where.items())
        if len(own) > 1
    }


def _tiles(sources: Sequence[PatchSource], paths: Sequence[str]) -> list[str]:
    """A sentence where most of the names look like tiles of slides that have several."""
    stems = Counter(found[1] for path in paths if (found := TILE.search(path)))
    several = {stem: count for stem, count in stems.items() if count > 1}
    if sum(several.values()) <= len(paths) / 2:
        return []
    slides = "1 slide" if len(stems) == 1 else f"{len(stems)} slides"
    given = " ".join(shlex.quote(str(source.root / source.table)) for source in sources)
    command = (
        f", by 'histodiff-check {given} --group_pattern {shlex.quote(TILE.pattern)} --write NEW',"
        " which makes the set NEW of it, or a pattern that finds the patient"
    )
    return [
        f"Names look like tiles of {slides}, such as '{next(iter(several))}': give groups"
        f"{command * (stems.total() == len(paths))}."
    ]


def _assumed(
    sources: Sequence[PatchSource], found: Sequence[Found], grouped: Set[str]
) -> list[str]:
    """Plain sentences on all sources together."""
    notes: list[str] = []
    if odd := sorted({r.label for r, _ in found if r.label.casefold() in MISSING}):
        notes.append(
            f"Labels are taken for names of classes, also {', '.join(map(repr, odd))}: leave them"
            " empty where there is none."
        )
    if odd := sorted({r.group for r, _ in found if r.group.casefold() in MISSING}):
        notes.append(
            f"Groups are taken for names of patients, also {', '.join(map(repr, odd))}: if that"
            " stands for none, name the patient of each patch."
        )
    stems = {source.root.name.removesuffix(".zip").lower() for source in sources}
    told = {SPLITS[stem] for stem in stems if stem in SPLITS}
    if len(told) > 1 and not any(record.split for record, _ in found):
        notes.append(
            f"That sources are called {' and '.join(sorted(told))} is not read as a split: open"
            " the folder above them, or pack each with its folder at the top."
        )
    if len(found) > len(grouped):
        notes.append(
            f"No group is recorded for {len(found) - len(grouped)} of {len(found)} patches: each"
            " counts as a patient of its own. If patients have several, accuracies are too high"
            " and intervals too narrow."
        )
        notes += _tiles(sources, [record.path for record, where in found if where not in grouped])
    if kept := sum(record.split == "val" for record, _ in found):
        notes.append(
            f"{'1 patch' if kept == 1 else f'{kept} patches'} of the split 'val' "
            f"{'is' if kept == 1 else 'are'} kept apart: neither trained nor tested on."
        )
    return notes


def _refuse_one_within_another(sources: Sequence[PatchSource]) -> None:
    """Sources of one set lie apart.

    Raises:
        ValueError: two are the same, or one lies in another.
    """
    roots = [source.root.resolve() for source in sources]
    for i, root in enumerate(roots):
        for j, other in enumerate(roots):
            if i != j and other in (root, *root.parents):
                tables = [sources[k].table for k in (i, j)]
                if all(tables) and root == other and tables[0] != tables[1]:
                    raise ValueError(
                        f"tables of one folder must be one, got '{tables[0]}' and '{tables[1]}' in"
                        f" '{sources[i].root}': put their rows into one, with a column split"
                    )
                raise ValueError(
                    "folders and zips of one set must differ, and none lie in another, got"
                    f" '{sources[i].root}' and '{sources[j].root}': leave one out"
                )


def _titles(sources: Sequence[PatchSource]) -> list[str]:
    """A name for each source: the end of its path, as long as it takes to tell it from others."""
    parts = [Path(os.path.abspath(source.root)).parts for source in sources]
    for length in range(1, max(map(len, parts), default=1) + 1):
        titles = ["/".join(p.strip() for p in own[-length:]) for own in parts]
        if len(set(titles)) == len(titles):
            break
    return titles
