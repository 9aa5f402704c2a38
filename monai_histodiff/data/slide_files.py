"""The files of whole slides: found in folders, and told from others by their content."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from monai_histodiff.data.names import count_endings

__all__ = ["SLIDE_SUFFIXES", "find_slides", "slide_bytes", "slide_sha256"]

OME = (".ome.tif", ".ome.tiff", ".ome.btf")
SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu"),
    *(".svslide", ".czi", ".dcm"),
)
BLOCK, BLOCKS = 2**16, 32  # bytes, and how many of a file are looked at
logger = logging.getLogger(__name__)


def find_slides(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Slides by name, from files and from folders that hold some.

    The name of a slide is its file's without the ending. A folder of ``.dcm`` files is one slide,
    of the folder's name. A warning counts the other files of a folder by ending.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder holds no slide, or some in folders of its own, or two slides have one
            name.
    """
    found: dict[str, Path] = {}
    given = [Path(p).expanduser() for p in paths]
    named = {path.resolve() for path in given}
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"a slide must exist, got '{path}'")
        files = [path]
        if path.is_dir():
            shown = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
            files = [f for f in shown if f.name.lower().endswith(SLIDE_SUFFIXES)]
            others = [f.name for f in shown if f not in files]
            dicom = [f for f in files if f.suffix.lower() == ".dcm"]
            files = [f for f in files if f not in dicom[1:]]
            if deeper := [
                f for f in _deeper(path) if not named & {f.resolve(), f.parent.resolve()}
            ]:
                raise ValueError(
                    f"slides must lie in a folder that is given, got {len(deeper)} deeper in"
                    f" '{path}', such as '{deeper[0]}': give '{deeper[0].parent}'"
                    f" {'too' if files else 'in its place'}, and likewise the others, or the"
                    " slides that are meant one by one"
                )
            if not files:
                raise ValueError(
                    f"a folder must hold slides ({', '.join(SLIDE_SUFFIXES)}), got none in "
                    f"'{path}', and {len(others)} other files{count_endings(others)}: convert them"
                    " to one of these, or give another folder"
                )
            if others:
                logger.warning(
                    "%d files of '%s'%s are not read as slides: convert those that are some to"
                    " OME-TIFF or DICOM.",
                    len(others),
                    path,
                    count_endings(others),
                )
        for file in files:
            name = path.name if file.suffix.lower() == ".dcm" and path.is_dir() else file.name
            lower = name.lower()
            ending = next((e for e in (*OME, *SLIDE_SUFFIXES) if lower.endswith(e)), "")
            name = name[: len(name) - len(ending)]
            if name in found and found[name].resolve() != file.resolve():
                raise ValueError(
                    f"slides must have different names, got '{found[name]}' and '{file}': rename "
                    "one"
                )
            found[name] = file
    return dict(sorted(found.items()))


def _deeper(folder: Path) -> list[Path]:
    """Slides in the folders of a folder, at any depth; those of hidden ones are not looked for."""
    return [
        file
        for file in sorted(folder.glob("*/**/*"))
        if file.name.lower().endswith(SLIDE_SUFFIXES)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def slide_bytes(file: Path) -> int:
    """Bytes of a slide's file; 0 where it is gone."""
    return file.stat().st_size if file.exists() else 0


def slide_sha256(file: Path) -> str:
    """What tells a slide from another that has taken its place, without reading gigabytes: SHA-256
    of the names and sizes of its files, and of 32 blocks of 64 KiB of each, from the first to the
    last, evenly spaced (of all that is in files up to 2 MiB). Empty where it is gone.
    """
    if not file.exists():
        return ""
    found = hashlib.sha256()
    for part in _parts(file):
        size = part.stat().st_size
        found.update(f"{part.name}/{size}/".encode())
        last = max(0, size - BLOCK)
        starts: Sequence[int] = range(0, size, BLOCK)
        if len(starts) > BLOCKS:
            starts = [last * i // (BLOCKS - 1) for i in range(BLOCKS)]
        with open(part, "rb") as stream:
            for start in starts:
                stream.seek(start)
                found.update(stream.read(BLOCK))
    return found.hexdigest()


def _parts(file: Path) -> list[Path]:
    """All files of a slide: of DICOM those beside it, of MIRAX those in the folder of its name, of
    Hamamatsu VMS and VMU those that it lists.
    """
    beside = sorted(part for part in file.parent.iterdir() if part.is_file())
    ending = file.suffix.lower()
    if ending == ".dcm":
        return [part for part in beside if part.suffix.lower() == ending]
    if ending == ".mrxs" and file.with_suffix("").is_dir():
        return [file, *sorted(p for p in file.with_suffix("").iterdir() if p.is_file())]
    if ending in (".vms", ".vmu"):
        listed = file.read_text(encoding="utf-8", errors="replace")
        return [file, *(p for p in beside if p != file and p.name in listed)]
    return [file]
