"""Counts: whole numbers, of Python or NumPy; and flags."""

from __future__ import annotations

from numbers import Integral
from typing import Any

__all__ = ["check_flags", "check_from", "is_whole"]


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_from(least: int, **counts: Any) -> None:
    """Refuse counts that are no whole numbers from ``least`` on.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, value in counts.items():
        if not is_whole(value) or value < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")


def check_flags(**flags: Any) -> None:
    """Refuse flags that are neither ``True`` nor ``False``: the text "False" would be true.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
