"""Names: what a class, a group or a path may be called, when two are one, and endings."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

__all__ = [
    "check_name",
    "check_ordered",
    "check_path",
    "count_endings",
    "matched_group",
    "refuse_twins",
]

BLANKS = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # but those between two numbers
ZEROS = re.compile(r"(?<!\d)(?<!\d\.)0+(?=\d)")  # before a number, but none of its decimals
DECIMAL = re.compile(r"(\d+)\.(\d*?)0*")
ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")  # as spreadsheets write numbers of many digits


def check_ordered(classes: Any) -> None:
    """Refuse class names in no order of their own.

    Raises:
        ValueError: they are a set, a mapping (such as of names to indices), or one text.
    """
    if isinstance(classes, (str, Set, Mapping)):
        raise ValueError(
            "class names must be a list, in the order of the class indices, got "
            f"{type(classes).__name__} {classes!r}: give a list of them"
        )


def check_name(kind: str, name: Any, where: str = "") -> None:
    """Refuse a name that cannot be printed, or be told from another by sight.

    Args:
        kind: what it is the name of, for the message.
        name: the name.
        where: its place, for the message.

    Raises:
        ValueError: it is no text, is empty, has blanks around it, holds what is not printable
            (line breaks, tabs, hard or zero-width blanks), or is a number that a spreadsheet has
            rounded: other names may have become the same.
    """
    at = f" ({where})" if where else ""
    if not (isinstance(name, str) and name and name.isprintable() and name == name.strip()):
        raise ValueError(
            f"a {kind} must be printable text, not empty, and without blanks around it, got"
            f" {name!r}{at}: rename it"
        )
    if ROUNDED.fullmatch(name):
        raise ValueError(
            f"a {kind} must be a name in full, got {name!r}{at}, a number that a spreadsheet has"
            " rounded: write the table anew, with this column as text"
        )


def check_path(path: str, where: str) -> None:
    """Refuse a path that a table cannot hold as it is.

    Args:
        path: of a picture.
        where: its place, for the message.

    Raises:
        ValueError: there are blanks around it, or a line break in it.
    """
    if path != path.strip() or "\n" in path or "\r" in path:
        raise ValueError(
            "a path must be without blanks around it, and without line breaks, got"
            f" {path!r} ({where}): rename it"
        )


def refuse_twins(kind: str, names: Iterable[tuple[str, str]]) -> None:
    """Refuse two names that are one, mistyped.

    Args:
        kind: what they are the names of, for the message.
        names: pairs of a name and its place.

    Raises:
        ValueError: two differ only by case, by blanks, by zeros before a number (``P1``, ``P01``),
            or, where the name is a number, by zeros after it (``1``, ``1.0``; of labels ``1.5``,
            ``1.50`` too).
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, where in names:
        plain = BLANKS.sub("", unicodedata.normalize("NFC", name).casefold())
        plain = ZEROS.sub("", plain)
        number = DECIMAL.fullmatch(plain)
        if number and (kind == "label" or not number[2]):  # a group may be the tenth of 1: 1.10
            plain = ".".join(filter(None, number.groups()))
        first, there = seen.setdefault(plain, (name, where))
        if first != name:
            raise ValueError(
                f"two {kind}s must differ by more than case, blanks, or zeros around a number,"
                f" got {first!r} ({there}) and {name!r} ({where}): write them alike, or tell them"
                " apart clearly"
            )


def count_endings(names: Sequence[str]) -> str:
    """How many files have which ending, in brackets after a blank; empty where there is none."""
    counts = Counter(f".{n.rsplit('.', 1)[-1]}" if "." in n else "no ending" for n in names)
    listed = ", ".join(f"{ending} {count}" for ending, count in counts.most_common())
    return f" ({listed})" if listed else ""


def matched_group(text: str, pattern: str, what: str) -> str:
    """The first bracket of a regular expression in a text, or all that it matches.

    Args:
        text: to search.
        pattern: the regular expression.
        what: the text is, in words.

    Raises:
        ValueError: it is no regular expression, or finds nothing.
    """
    try:
        match = re.search(pattern, text)
    except re.error as error:
        raise ValueError(
            f"group_pattern must be a regular expression, got '{pattern}' ({error})"
        ) from error
    group = match and (match[1] if match.re.groups else match[0])
    if not group:
        raise ValueError(
            f"group_pattern must match every {what}, got none in '{text}' for '{pattern}'"
        )
    return str(group)
