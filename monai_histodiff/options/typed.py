"""Paths as they were typed: Python Fire, which reads the command line for MONAI, takes every value
for Python where it can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fire.parser import DefaultParseValue

from monai_histodiff.options.option import PATH, SECTION
from monai_histodiff.options.table import OPTIONS

__all__ = ["check_typed"]

NAMES = {option.name for option in OPTIONS if option.kind == PATH}
STAGED = {option.name for option in OPTIONS if option.kind == SECTION}
COMPUTED = ("$", "@", "%")  # an expression or a reference to MONAI
QUOTES = ("'", '"')


def check_typed(argv: Sequence[str]) -> None:
    """Refuse paths that reach the config as something else than what was typed.

    Args:
        argv: a command line, without the command.

    Raises:
        ValueError: a path holds ``#``, or is a number, a list or another text to Python.
    """
    for key, text in _given(argv):
        *stage, name = key.replace("::", "#").split("#")
        if name not in NAMES or not STAGED.issuperset(stage) or text.startswith(COMPUTED):
            continue
        if "#" in text:
            raise ValueError(
                f"{key} must be a path without '#', which begins a comment to Python, got "
                f"'{text}': rename the folder, or link to it under another name"
            )
        value = DefaultParseValue(text)
        if value != text and not (isinstance(value, str) and text.startswith(QUOTES)):
            several = "; put several sets into one folder" * isinstance(value, (list, tuple))
            raise ValueError(
                f"{key} must be a path, got '{text}', which Python reads as {_shown(value)}: give "
                f"--{key} ./{text}{several}"
            )


def _given(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their texts, ``--KEY TEXT`` or ``--KEY=TEXT``."""
    for i, word in enumerate(argv):
        key, equals, text = word.partition("=")
        if word.startswith("-") and (equals or i + 1 < len(argv)):
            yield key.lstrip("-").replace("-", "_"), text if equals else argv[i + 1]


def _shown(value: Any) -> str:
    return f"the text {ascii(value)}" if isinstance(value, str) else repr(value)
