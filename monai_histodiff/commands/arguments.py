"""The arguments of a command, as they were typed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

__all__ = ["parsed"]


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """What a command was given, with ``~`` as the user's home: of ``--html=~/page.html`` shells
    leave it as it is.

    Args:
        parser: of the command.
        argv: what was typed; ``None``: by the user.
    """
    return parser.parse_args([_at_home(text) for text in (sys.argv[1:] if argv is None else argv)])


def _at_home(text: str) -> str:
    option, sign, value = text.partition("=") if text[:2] == "--" else ("", "", text)
    return option + sign + os.path.expanduser(value)
