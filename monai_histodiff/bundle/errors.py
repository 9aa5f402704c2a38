"""The last line of a failed command: the rule that was broken, the value, and what to do."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

__all__ = ["by_command", "plain_errors", "show_error", "show_errors", "told"]

BAD_INPUT = (ValueError, OSError)
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def told(error: BaseException) -> str | None:
    """One line for what went wrong, without the chain of the configuration that led to it; or
    ``None`` where it is not the input's fault.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BAD_INPUT):
        cause = cause.__cause__
    if cause is None:
        return None
    if isinstance(cause, OSError) and cause.errno is not None:
        where = f"'{cause.filename}'" if cause.filename else "a file"
        if cause.errno in FULL:
            return (
                f"the disk must have room, got none for {where} ({cause.strerror}): free some, or "
                "give --output_dir on another disk; the files that are there are whole"
            )
        if cause.errno in CLOSED:
            return (
                f"{where} must be writable, got '{cause.strerror}': change its permissions, or "
                "give another --output_dir"
            )
    return " ".join(str(cause).split())


@contextmanager
def plain_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Let bad input, or a package that is missing, end a command in the line that says so, with
    exit status 1.
    """
    try:
        yield
    except (*BAD_INPUT, ImportError) as error:
        parser.exit(1, f"{error}\n")


def show_errors() -> None:
    """Let an uncaught error of a command end in the one line that :func:`told` gives.

    Where our own checks raised it the line is all; the traceback comes before it otherwise. Only
    for ``python -m monai.bundle``: elsewhere errors are the caller's.
    """
    if by_command():
        sys.excepthook = show_error


def by_command() -> bool:
    """Whether this process is ``python -m monai.bundle``."""
    started = sys.modules["__main__"].__spec__
    return started is not None and started.name == "monai.bundle.__main__"


def show_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An ``excepthook`` that ends in the line of :func:`told`."""
    line = told(error)
    if line is None or not _is_own(error):
        traceback.print_exception(kind, error, trace)
    if line is not None:
        print(f"Error: {line}", file=sys.stderr)


def _is_own(error: BaseException) -> bool:
    """Whether our own code, or the system, raised what is told."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BAD_INPUT):
        cause = cause.__cause__
    last = traceback.extract_tb(cause.__traceback__ if cause is not None else None)
    return isinstance(cause, OSError) or bool(last and last[-1].filename.startswith(PACKAGE))
