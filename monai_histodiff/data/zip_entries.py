"""What a zip holds, once its directory is known to be whole.

The directory has no check sum: damage to it makes readers pass over files, or call them by other
names. Hence the files found are compared with the number that the zip tells, and each name with
the one that stands before the file.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["zip_entries"]

PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
END, END64 = b"PK\x05\x06", b"PK\x06\x06"  # of the directory; the second for 65,535 files or more
TAIL = 2**16 + 256  # bytes in which the end lies


def zip_entries(path: Path) -> dict[str, str]:
    """The files of a zip: names with ``/`` to the names that the zip has.

    Raises:
        ValueError: the zip is damaged, encrypted, packed by a method that Python does not know,
            or holds a name twice.
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
    names = [info.filename.replace("\\", "/") for info in found]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"a zip must hold each name once, got '{twice}' twice in '{path}'")
    return dict(zip(names, (info.filename for info in found), strict=True))


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
