"""Patch files: folders and zips of pictures with a manifest, read and written."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import NibabelReader, PILReader
from PIL import Image

__all__ = ["PatchRecord", "PatchSource", "decode_patch", "read_records", "write_patches"]

MANIFEST = "manifest.csv"
REQUIRED_COLUMNS = ("path", "label", "split", "group")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz")
SPLITS = ("train", "test", "")


def decode_patch(content: bytes, name: str) -> np.ndarray:
    """Decode one picture.

    Args:
        content: the bytes of the file.
        name: its name, whose ending selects the reader and which every error repeats.

    Returns:
        uint8 RGB array of shape ``H x W x 3``, values 0 to 255.

    Raises:
        ValueError: the picture cannot be read, is not RGB, or is not 8 bits per channel.
    """
    try:
        if name.lower().endswith((".nii", ".nii.gz")):
            mode = "NIfTI"
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / Path(name).name
                path.write_bytes(content)
                reader = NibabelReader()
                array = np.squeeze(np.asarray(reader.get_data(reader.read(str(path)))[0]))
            array = array.swapaxes(0, 1) if array.ndim == 3 else array
        else:
            pil = PILReader(reverse_indexing=False)
            picture: Any = pil.read((io.BytesIO(content),))
            mode = (
                f"16-bit {picture.mode}" if ";16" in str(picture.tile) else picture.mode
            )  # pillow would cut it to 8 bits
            array = np.asarray(pil.get_data(picture)[0])
    except Exception as error:
        raise ValueError(
            f"a patch must be a readable picture, got '{name}' ({type(error).__name__}: {error})"
        ) from error
    if mode not in ("RGB", "NIfTI") or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(
            f"a patch must be RGB, of shape H x W x 3, got {mode} of shape {array.shape} in '{name}'"
        )
    if array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255 or not np.array_equal(array, np.round(array)):
            raise ValueError(
                f"a patch must hold whole numbers from 0 to 255, got {array.min()} to {array.max()} in '{name}'"
            )
        array = array.astype(np.uint8)
    return np.array(array, order="C")  # own memory: pillow's is read-only


class PatchSource:
    """Read-only access to the files under a folder or in a zip; safe to share with forked and
    spawned workers.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise FileNotFoundError(f"dataset_dir must exist, got '{root}'")
        self._zip: zipfile.ZipFile | None = None
        self._pid = -1
        if self.root.is_dir():
            found = (p.relative_to(self.root) for p in self.root.rglob("*") if p.is_file())
            names = (p.as_posix() for p in found)
        elif zipfile.is_zipfile(self.root):
            with zipfile.ZipFile(self.root) as archive:
                names = (n for n in archive.namelist() if not n.endswith("/"))
        else:
            raise ValueError(f"dataset_dir must be a folder or a zip, got '{root}'")
        self.names = sorted(
            n
            for n in names
            if all(p and not p.startswith((".", "__MACOSX")) for p in n.split("/"))
        )

    def read(self, name: str) -> bytes:
        if self.root.is_dir():
            return (self.root / name).read_bytes()
        if (
            self._zip is None or self._pid != os.getpid()
        ):  # a file position must not be shared between processes
            self._zip, self._pid = zipfile.ZipFile(self.root), os.getpid()
        return self._zip.read(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_pid": -1}


@dataclass(frozen=True)
class PatchRecord:
    """One row of a manifest. ``extra`` holds the columns beyond the required four, as strings."""

    path: str
    label: str
    split: str
    group: str
    extra: Mapping[str, str] = field(default_factory=dict)
    source: int = 0


def read_records(source: PatchSource) -> list[PatchRecord]:
    """The rows of a source's manifest, or one row for each picture in its class folders.

    Raises:
        FileNotFoundError: a file that the manifest names does not exist.
        ValueError: a rule of the manifest is broken; the message names it.
    """
    if MANIFEST not in source.names:
        deeper = [n for n in source.names if n.endswith(f"/{MANIFEST}")]
        if deeper:
            raise ValueError(
                f"{MANIFEST} must lie at the top of '{source.root}', got '{deeper[0]}'"
            )
        pictures = [n for n in source.names if n.lower().endswith(SUFFIXES) and "/" in n]
        if not pictures:
            raise ValueError(
                f"dataset_dir must hold a {MANIFEST} or class folders with pictures, got '{source.root}'"
            )
        return [PatchRecord(n, n.split("/")[-2], "", f"{source.root.name}/{n}") for n in pictures]
    try:
        rows = csv.DictReader(io.StringIO(source.read(MANIFEST).decode("utf-8-sig"), newline=""))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a manifest must be UTF-8 text, got another encoding in '{source.root}'"
        ) from error
    missing = [c for c in REQUIRED_COLUMNS if c not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(
            f"a manifest must have the columns {list(REQUIRED_COLUMNS)}, got none named {missing} in '{source.root}'"
        )
    known, seen, records = set(source.names), set(), []
    for row in rows:
        path, label, split, group = (row[c] or "" for c in REQUIRED_COLUMNS)
        if None in row:
            raise ValueError(
                f"a row must not have more cells than the header, got {row[None]} beyond it for '{path}'"
            )
        if path not in known:
            raise FileNotFoundError(
                f"the manifest of '{source.root}' names '{path}', which is not there"
            )
        if path in seen:
            raise ValueError(
                f"a manifest must list each path once, got '{path}' twice in '{source.root}'"
            )
        if split not in SPLITS:
            raise ValueError(f"split must be 'train', 'test' or empty, got '{split}' for '{path}'")
        if not group:
            raise ValueError(
                f"every patch must name its group, got none for '{path}' in '{source.root}'"
            )
        seen.add(path)
        records.append(
            PatchRecord(
                path,
                label,
                split,
                group,
                {k: v or "" for k, v in row.items() if k not in REQUIRED_COLUMNS},
            )
        )
    if not records:
        raise ValueError(
            f"a manifest must list at least one patch, got an empty one in '{source.root}'"
        )
    return records


def write_patches(
    folder: str | os.PathLike[str],
    items: Iterable[tuple[PatchRecord, bytes | np.ndarray]],
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write records with their pictures into a new folder, which appears complete or not at all.

    Args:
        folder: the folder.
        items: each record with its picture: file bytes, or a uint8 ``H x W x 3`` array stored by
            the path's ending.
        beside: further text files, by name.

    Raises:
        FileExistsError: the folder exists and is not empty.
        ValueError: two records have one path.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(
            f"a patch set must be written into a new folder, got '{target}', which is not empty"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        records = []
        for record, content in items:
            path = draft / record.path
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
        extra = list(dict.fromkeys(key for r in records for key in r.extra))
        with open(draft / MANIFEST, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow([*REQUIRED_COLUMNS, *extra])
            for r in records:
                writer.writerow(
                    [r.path, r.label, r.split, r.group, *(r.extra.get(key, "") for key in extra)]
                )
        draft.chmod(0o755)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return target
