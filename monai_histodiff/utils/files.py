"""Files and folders that appear complete or not at all: a kill or a full disk leaves what was
there before.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = [
    "DRAFT",
    "file_sha256",
    "first_line",
    "read_json",
    "stays_inside",
    "sweep_drafts",
    "whole_file",
    "whole_folder",
    "write_json",
]

# what the name of a draft looks like: .NAME.HEX.part, hidden, beside what it is to become
DRAFT = re.compile(r"\..*\.[0-9a-f]{32}\.part")


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a draft to write, in the folder of the file; it takes the file's place if
    the block ends well.

    The folder is made if need be. The draft is on the disk before it takes the place, and is
    removed if an error is raised. Threads, processes and machines that write the same file at once
    each have a draft of their own; the last one wins. A killed writer leaves its draft behind, see
    :func:`sweep_drafts`.

    Raises:
        OSError: the draft was not written, or cannot take the place.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target)
    try:
        yield draft
        with open(draft, "rb+") as stream:
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a draft of a folder to fill, beside the one that is to be new; it takes its name if
    the block ends well, and is removed if an error is raised. Writers at once have drafts of
    their own; a killed one leaves it behind, see :func:`sweep_drafts`. It is for the system to
    bring the files to the disk.

    Raises:
        FileExistsError: the folder exists and is not empty.
        OSError: it cannot be written.
    """
    target = Path(path)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(
            f"a new folder is needed, got '{target}', which is not empty: choose another path"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target)
    draft.mkdir()
    try:
        yield draft
        if target.exists():
            target.rmdir()
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _draft(target: Path) -> Path:
    """A new one: a hash tells names apart that begin alike."""
    return target.with_name(f".{target.name[:40]}.{_mark(target.name)}{uuid.uuid4().hex[8:]}.part")


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def sweep_drafts(folder: str | os.PathLike[str], name: str | None = None) -> list[Path]:
    """Remove the drafts that killed writers left in a folder, for an owner that knows that nobody
    else writes there: a draft tells nothing of its writer.

    Args:
        folder: searched without the folders in it, which others may own; it may be missing.
        name: remove the drafts of this file or folder alone.

    Returns:
        The drafts that were removed, in order.
    """
    swept = [path for path in sorted(Path(folder).glob("*.part")) if DRAFT.fullmatch(path.name)]
    if name is not None:
        own = f".{name[:40]}.{_mark(name)}"
        swept = [path for path in swept if path.name.startswith(own)]
    for path in swept:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return swept


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stays_inside(path: str) -> bool:
    """Whether a relative path with slashes leads nowhere but below the folder that it is of."""
    return not path.startswith("/") and "\\" not in path and ".." not in PurePosixPath(path).parts


def first_line(error: BaseException) -> str:
    """Of its message; the name of its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_json(
    path: str | os.PathLike[str], keys: Iterable[str] = (), remedy: str = "run what wrote it again"
) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        path: the file; a byte order mark is taken off.
        keys: that it must have.
        remedy: how an error goes on.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no whole JSON object in UTF-8, or lacks one of the keys.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' must be whole JSON, got {error}: {remedy}") from error
    if not isinstance(found, dict):
        raise ValueError(f"'{path}' must be a JSON object, got {type(found).__name__}: {remedy}")
    if missing := [key for key in keys if key not in found]:
        raise ValueError(
            f"'{path}' must have the key '{missing[0]}', got {sorted(found)}: it was written by "
            f"an older version, or changed; {remedy}"
        )
    return found


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write plain values as JSON; the file appears complete or not at all.

    JSON knows neither NaN nor infinity: such numbers are written as ``null``.

    Raises:
        TypeError: a value is not plain.
    """
    with whole_file(path) as draft:
        text = json.dumps(_finite(content), indent=1, allow_nan=False)
        draft.write_text(text, encoding="utf-8")
    return Path(path)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
