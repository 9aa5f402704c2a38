"""Files that appear complete or not at all: a kill or a full disk leaves the previous file as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a draft to write, in the folder of the file; it takes the file's place if the block ends well.

    The folder is made if need be. The draft is on the disk before it takes the place, and is removed if an error is raised.
    Processes that write the same file at once each have their own draft; the last one wins.

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
