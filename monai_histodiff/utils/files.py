"""Files that appear complete or not at all: a kill or a full disk leaves the previous file as it
was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["whole_file", "write_json"]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a draft to write, in the folder of the file; it takes the file's place if
    the block ends well.

    The folder is made if need be. The draft is on the disk before it takes the place, and is
    removed if an error is raised. Processes that write the same file at once each have their own
    draft; the last one wins.

    Raises:
        OSError: the draft was not written, or cannot take the place.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield draft
        with open(draft, "rb+") as stream:
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write plain values as JSON; the file appears complete or not at all."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return Path(path)
