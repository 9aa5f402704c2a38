"""What a zip holds, once its directory is known to be whole.

The directory has no check sum: damage to it makes readers pass over files, or call them by other
names. Hence the files found are compared with the number that the zip tells, and each name with
the one that stands before the file.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["zip_entries"]

PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
END, END64 = b"PK\x05\x06", b"PK\x06\x06"  # of the directory; the second for 65,535 files or more
MARKED = 0x800  # a flag: the name is UTF-8
TAIL = 2**16 + 256  # bytes in which the end lies


def zip_entries(path: Path) -> tuple[dict[str, str], set[str]]:
    """The files of a zip, names with ``/`` to the names that the zip has; and its folders.

    ``./A/1.png``, ``/A/1.png`` and ``A//1.png`` are ``A/1.png``.

    Raises:
        ValueError: the zip is damaged, encrypted, packed by a method that Python does not know,
            holds a name twice, or one that leads out of it.
    """
    with _whole(path) as archive:
        listed = archive.infolist()
        if (told := _number(path)) != len(listed):
            raise zipfile.BadZipFile(f"it tells of {told} files, and lists {len(listed)}")
        found = [info for info in listed if not info.is_dir()]
    _check_method(path, found)
    with _whole(path) as archive:
        for info in listed:
            archive.open(info).close()  # compares its name with the one before the file
    entries: dict[str, str] = {}
    for info in found:
        name = "/".join(_parts(info, path))
        if name in entries:
            raise ValueError(
                f"a zip must hold each name once, got '{name}' twice in '{path}', as"
                f" '{entries[name]}' and '{info.filename}': pack it again"
            )
        entries[name] = info.filename
    within = [_parts(info, path)[: None if info.is_dir() else -1] for info in listed]
    return entries, {"/".join(p[:i]) for p in within for i in range(1, len(p) + 1)}


def _parts(info: zipfile.ZipInfo, path: Path) -> Sequence[str]:
    """The folders of an entry, and its file.

    A name that is not marked as UTF-8 is by definition of code page 437, and Python reads it so;
    but some programs, such as macOS's own, write UTF-8 without the mark.
    """
    name = info.filename
    if not info.flag_bits & MARKED:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass  # it is of the code page
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(
            f"names in a zip must not lead out of it, got '{info.filename}' in '{path}': pack it"
            " again"
        )
    return parts


@contextmanager
def _whole(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ValueError(
            f"a zip must be whole, got '{path}' ({type(error).__name__}: {error}): copy it again"
        ) from error


def _check_method(path: Path, found: list[zipfile.ZipInfo]) -> None:
    locked = [info.filename for info in found if info.flag_bits & 1]
    if locked:
        raise ValueError(
            f"a zip must not be encrypted, got {len(locked)} files that are in '{path}', such as"
            f" '{locked[0]}': unpack it and give the folder"
        )
    for info in found:
        if info.compress_type not in PACKED:
            raise ValueError(
                f"a zip must be packed by a method that Python reads, got method"
                f" {info.compress_type} (9 is Deflate64) for '{info.filename}' in '{path}':"
                " unpack it and give the folder, or pack it again with plain Deflate"
            )


def _number(path: Path) -> int:
    """Files and folders that the end of the directory tells of."""
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL), os.SEEK_SET)
        tail = stream.read()
    end, end64 = tail.rfind(END), tail.rfind(END64)
    number = int.from_bytes(tail[end + 10 : end + 12], "little")
    if number == 0xFFFF and end64 >= 0:
        return int.from_bytes(tail[end64 + 32 : end64 + 40], "little")
    return number
