"""One run at a time in a folder: a record of who works in it, locked for as long as that process
lives.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: a lock is then a record only
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock"]

HELD: dict[Path, int] = {}  # open files, by the record that this process has locked
logger = logging.getLogger(__name__)


class FolderLock:
    """The right to write into a folder, held by one process at a time.

    The record is a JSON file whose lock the system releases when the process ends, however it
    ends: a record without a lock is that of a run that is over. A process may take anew what it
    holds already.

    Args:
        path: of the record; its folder is made if need be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def content(self) -> dict[str, Any]:
        """What the last holder recorded; empty if there was none, or if its record is damaged."""
        with suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}

    def check(self) -> None:
        """Refuse a folder in which another process works.

        Raises:
            FileExistsError: another process holds it; the message tells which.
        """
        if self.path.is_file() and self.path.resolve() not in HELD:
            os.close(self._locked())

    def take(self, content: Mapping[str, Any]) -> None:
        """Take the lock, and record who has it since when, beside the content.

        Raises:
            FileExistsError: another process holds it; the message tells which.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        held = self.path.resolve()
        if held not in HELD:
            HELD[held] = self._locked()
        who = {"pid": os.getpid(), "host": platform.node(), "started": _now(), "finished": None}
        self._write(HELD[held], {**content, **who})

    def release(self) -> None:
        """Record that the work is done, and let others have the folder."""
        file = HELD.pop(self.path.resolve(), None)
        if file is not None:
            self._write(file, {**self.content, "finished": _now()})
            os.close(file)

    def _locked(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            known = self.content
            pid, host, started = (known.get(key, "?") for key in ("pid", "host", "started"))
            raise FileExistsError(
                f"output_dir must be free, got '{self.path.parent}', where process {pid} on {host}"
                f" has worked since {started}: wait for it, or choose another folder"
            ) from error
        except OSError as error:
            logger.warning("'%s' cannot be locked (%s): see to it yourself", self.path, error)
        return file

    def _write(self, file: int, content: Mapping[str, Any]) -> None:
        """In place: a lock belongs to the file, not to its name."""
        text = json.dumps(content, indent=1).encode()
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)  # Windows has no pwrite
        os.write(file, text)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
