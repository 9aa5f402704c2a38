"""Files from the web: resumed where they stopped, checked, and in their place only when whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

__all__ = ["check_file", "checksum", "fetch_file"]

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte
PARTIAL, BEYOND = 206, 416  # HTTP: the range asked for; there is none


def checksum(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """The checksum of a file in hexadecimal."""
    found = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as stream:
        while part := stream.read(CHUNK):
            found.update(part)
    return found.hexdigest()


def check_file(path: str | os.PathLike[str], known: str, size: int | None = None) -> None:
    """See that a file is the one that is meant.

    Args:
        path: the file.
        known: ``"md5:..."`` or ``"sha256:..."``; empty where none is known.
        size: its bytes, where they are known.

    Raises:
        ValueError: the size or the checksum differs.
    """
    if size is not None and (here := Path(path).stat().st_size) != size:
        raise ValueError(f"'{path}' must have {size} bytes, got {here}: remove it and try again")
    if known:
        algorithm, _, wanted = known.partition(":")
        if (found := checksum(path, algorithm)) != wanted:
            raise ValueError(
                f"'{path}' must have the {algorithm} {wanted}, got {found}: it is damaged or "
                "another version; remove it and try again"
            )


def fetch_file(
    url: str,
    path: str | os.PathLike[str],
    known: str = "",
    size: int | None = None,
    progress: bool = True,
) -> None:
    """Download a file, or what is missing of it; it takes its place when it is whole and checked.

    What has come of it lies in ``<path>.part``, from which a later call goes on if the server can.

    Args:
        url: ``http`` or ``https``.
        path: where it goes. A file that is there already is checked and kept.
        known: see :func:`check_file`.
        size: its bytes, where they are known.
        progress: show a bar.

    Raises:
        ConnectionError: the server cannot be reached, refuses, or stopped in the middle.
        ValueError: what came is not what was meant; it is removed.
    """
    target = Path(path)
    if target.exists():
        check_file(target, known, size)
        return
    if not re.match("https?://", url):
        raise ValueError(f"a url must begin with http:// or https://, got '{url}'")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _receive(url, part, progress)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ConnectionError(
            f"'{url}' could not be had ({error}): try again, it goes on where it stopped; or "
            f"download it by other means to '{target}'"
        ) from error
    try:
        check_file(part, known, size)
    except ValueError as error:
        part.unlink()
        raise ValueError(f"{error} (from '{url}'; what came was removed)") from None
    part.replace(target)


def _receive(url: str, part: Path, progress: bool) -> None:
    """Append to ``part`` what is missing, or begin anew where the server gives no ranges."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "monai-histodiff"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if (
            error.code == BEYOND and have
        ):  # nothing is missing, or it is another file: the check tells
            error.close()
            return
        raise
    with response:
        resumed = response.status == PARTIAL
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=part.stem,
            disable=not progress,
        )
        with bar, open(part, "ab" if resumed else "wb") as stream:
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                bar.update(len(chunk))
            came = stream.tell()
    if total is not None and came < total:
        raise ConnectionError(f"{came} of {total} bytes came")
