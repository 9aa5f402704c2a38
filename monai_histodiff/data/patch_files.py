"""Patch files: folders and zips of pictures, read and written."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_histodiff.data.pictures import LIMITS, SUFFIXES, Limits
from monai_histodiff.data.tables import number, write_table
from monai_histodiff.data.zip_entries import zip_entries
from monai_histodiff.utils.files import stays_inside, whole_file, whole_folder

__all__ = ["PatchRecord", "PatchSource", "write_patches", "write_rows"]

MANIFEST = "manifest.csv"
TABLES = (".csv", ".tsv")
COLUMNS = ("path", "label", "split", "group")
SCALE = "um_per_px"
OVERVIEW = "overview.jpg"  # of a slide, beside its tiles: no patch
DATALIST = "write a MONAI datalist as a patch set, by write_patches, see docs/data.md"


@dataclass(frozen=True)
class PatchRecord:
    """One row of a manifest. ``extra`` holds the columns beyond the first four, as strings."""

    path: str
    label: str
    split: str
    group: str
    extra: Mapping[str, str] = field(default_factory=dict)
    source: int = 0

    @property
    def um_per_px(self) -> float | None:
        """Micrometres per pixel of the file, or ``None`` where nothing is recorded."""
        return number(self.extra[SCALE]) if self.extra.get(SCALE) else None


class PatchSource:
    """Read-only access to the files under a folder or in a zip; safe to share with forked and
    spawned workers.

    Links to folders are followed, each folder being reached once. Names that begin with a dot or
    ``__MACOSX`` are hidden files and are left out.

    Args:
        root: the folder or zip, or a table (``.csv``, ``.tsv``), which is then the manifest of the
            folder that it lies in; ``~`` is the user's home.
        limits: of pixels and bytes of each file.
        option: what errors call the folder or zip.

    Attributes:
        root: the folder or zip.
        table: the name of the table, empty where none was given.
        names: of all files, with ``/`` between folders, sorted.
        headers: height and width of pictures, by name, once they are known.
        folders: of all folders, likewise.

    Raises:
        FileNotFoundError: there is no such folder or zip, or a link in it leads nowhere.
        PermissionError: a folder or file in it may not be read.
        TypeError: it is no path.
        ValueError: it is neither, the zip is damaged, encrypted or packed by a method that Python
            does not know, a link leads to a folder that is in the set already, or a name is no
            UTF-8 text.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        limits: Limits = LIMITS,
        option: str = "dataset_dir",
    ) -> None:
        if not isinstance(root, (str, os.PathLike)):
            raise TypeError(f"{option} must be a path, got a {type(root).__name__}: {DATALIST}")
        self.root, self.limits, self.option = Path(root).expanduser(), limits, option
        self.headers: dict[str, tuple[int, int]] = {}
        if not self.root.exists():
            raise FileNotFoundError(f"{option} must exist, got '{root}'")
        self.table = ""
        if self.root.is_file() and self.root.name.lower().endswith(TABLES):
            self.root, self.table = self.root.parent, self.root.name
        self._zip: zipfile.ZipFile | None = None
        self._pid = -1
        if self.root.is_dir():
            names, folders = _walk(self.root)
            self._entries = {name: name for name in names}
        elif zipfile.is_zipfile(self.root):
            self._entries, folders = _below_top(*zip_entries(self.root))
        else:
            picture = self.root.name.lower().endswith(SUFFIXES)
            remedy = "if it is meant to be a zip, it is damaged or cut; copy it again"
            if picture:
                remedy = "give the folder that holds the folders of its classes, or a manifest"
            elif self.root.suffix.lower() == ".json":
                remedy = DATALIST
            got = f"got {'the picture ' * picture}'{root}'"
            rule = f"{option} must be a folder, a zip or a table ({', '.join(TABLES)})"
            raise ValueError(f"{rule}, {got}: {remedy}")
        self.names = sorted(n for n in self._entries if _visible(n))
        self.folders = sorted(n for n in folders if _visible(n))
        _check_text(self.root, (self.root.name, *self.folders, *self.names))
        self._known = set(self.names)
        self._plain: dict[str, list[str]] = {}
        for name in self.names:
            self._plain.setdefault(unicodedata.normalize("NFC", name), []).append(name)

    @property
    def pictures(self) -> list[str]:
        """The names that end as a picture's does."""
        return [n for n in self.names if n.lower().endswith(SUFFIXES)]

    def find(self, path: str) -> str | None:
        """The name of a file that a manifest calls ``path``, which may begin with ``./``, have
        backslashes, or be composed of other Unicode characters (NFC, NFD); ``None`` if there is
        none, or more than one.
        """
        if path in self._known:
            return path
        plain = unicodedata.normalize("NFC", path.replace("\\", "/"))
        while plain.startswith("./"):
            plain = plain[2:]
        found = self._plain.get(plain, [])
        return found[0] if len(found) == 1 else None

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: it is gone.
            ValueError: it is larger than the limit, or damaged in the zip.
        """
        if self.root.is_dir():
            path = self.root / name
            self._check(path.stat().st_size, name)
            return path.read_bytes()
        # a file position must not be shared between processes
        if self._zip is None or self._pid != os.getpid():
            self._zip, self._pid = zipfile.ZipFile(self.root), os.getpid()
        entry = self._entries[name]
        self._check(self._zip.getinfo(entry).file_size, name)
        try:
            return self._zip.read(entry)
        except Exception as error:
            raise ValueError(
                f"a zip must be whole, got '{name}' damaged in '{self.root}'"
                f" ({type(error).__name__}: {error}): copy or pack it again"
            ) from error

    def _check(self, size: int, name: str) -> None:
        if size > self.limits.bytes:
            raise ValueError(
                f"a file must have at most {self.limits.bytes:,} bytes, got {size:,} in '{name}':"
                " raise the limit by PatchSet.open(..., limits=Limits(bytes=...)) if it is right"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "headers": {}, "_zip": None, "_pid": -1}


def _below_top(entries: dict[str, str], folders: set[str]) -> tuple[dict[str, str], set[str]]:
    """Files and folders of a zip, named from the one folder at its top if a manifest lies there,
    as where a folder was packed whole.
    """
    tops = {name.split("/")[0] for name in entries if _visible(name)}
    top = f"{min(tops, default='')}/"
    if len(tops) > 1 or not any(name.lower() == f"{top}{MANIFEST}".lower() for name in entries):
        return entries, folders
    within = {name.removeprefix(top): own for name, own in entries.items() if _visible(name)}
    return within, {name.removeprefix(top) for name in folders if name.startswith(top)}


def _visible(name: str) -> bool:
    return all(p and not p.startswith((".", "__MACOSX")) for p in name.split("/"))


def _check_text(root: Path, names: Iterable[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"names of files and folders must be UTF-8 text, got {os.fsencode(name)!r} in"
                f" {os.fsencode(root)!r}: rename it"
            ) from None


def _walk(root: Path) -> tuple[list[str], set[str]]:
    """Names of all files and folders, through links, of which none may lead to a folder that has
    another name in the set: it would be read twice, or for ever.
    """
    names: list[str] = []
    folders: set[str] = set()
    denied: list[str] = []
    lost: list[str] = []
    known: dict[Path, Path] = {}

    def enter(folder: Path, prefix: str) -> None:
        first = known.setdefault(folder.resolve(), folder)
        if first != folder:
            raise ValueError(
                "a link must not lead to a folder that the set has already, got"
                f" '{folder}' and '{first}', which are one: remove the link"
            )
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except PermissionError:
            denied.append(str(folder))
            return
        for entry in entries:
            name = prefix + entry.name
            if not _visible(entry.name):
                continue
            if entry.is_dir():
                folders.add(name)
                enter(Path(entry.path), f"{name}/")
            elif not entry.is_file():
                lost.append(entry.path)
            else:
                if not os.access(entry.path, os.R_OK):
                    denied.append(entry.path)
                names.append(name)

    enter(root, "")
    if denied:
        raise PermissionError(
            f"every folder and file of '{root}' must be readable, got {len(denied)} that"
            f" may not be read, such as '{denied[0]}'"
        )
    if lost:
        raise FileNotFoundError(
            f"every file of '{root}' must be there, got {len(lost)} links that lead to none,"
            f" such as '{lost[0]}'"
        )
    return names, folders


def write_patches(
    folder: str | os.PathLike[str],
    items: Iterable[tuple[PatchRecord, bytes | np.ndarray]],
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write records with their pictures into a new folder, which appears complete or not at all.

    Args:
        folder: the folder; ``~`` is the user's home.
        items: each record with its picture: file bytes, or a uint8 ``H x W x 3`` array stored by
            the path's ending.
        beside: further text files, by name.

    Raises:
        FileExistsError: the folder exists and is not empty.
        ValueError: two records have one path, a path leads out of the folder, or a cell of the
            manifest holds a line break, or has blanks around it, which reading would take off.
    """
    target = Path(folder).expanduser()
    with whole_folder(target) as draft:
        records = []
        for record, content in items:
            path = draft / record.path
            if not stays_inside(record.path):
                rule = "a path must stay within the folder"
                raise ValueError(f"{rule}, got '{record.path}': rename it")
            for column in COLUMNS:
                if (cell := getattr(record, column)) != cell.strip():
                    raise ValueError(
                        f"a {column} must be without blanks around it, got {cell!r}: rename it"
                    )
            if path.exists():
                raise ValueError(f"each patch needs its own path, got '{record.path}' twice")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                Image.fromarray(content).save(path, quality=92, subsampling=0)
            records.append(record)
        for name, text in (beside or {}).items():
            (draft / name).write_text(text, encoding="utf-8")
        write_rows(draft / MANIFEST, records, records)
    return target


def write_rows(path: Path, records: Iterable[PatchRecord], every: Iterable[PatchRecord]) -> None:
    """Write records as a manifest, with the columns that any of ``every`` has."""
    extra = list(dict.fromkeys(key for r in every for key in r.extra))
    rows = (
        [*(getattr(r, name) for name in COLUMNS), *(r.extra.get(key, "") for key in extra)]
        for r in records
    )
    with whole_file(path) as draft:
        write_table(draft, [*COLUMNS, *extra], rows)
