"""What an option of a config may be, and what is said where it is not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from monai_histodiff.utils.counts import is_whole

__all__ = ["Option"]

WHOLE, NUMBER, FLAG, TEXT, PATH = "a whole number", "a number", "True or False", "text", "a path"
WHOLES, NUMBERS, TEXTS = "a list of whole numbers", "a list of numbers", "a list of texts"
LABELS, DEVICE, SECTION = "'all', a share such as '5%', or a whole number", "a device", "options"
SEVERAL = "several paths"
REMEDIES = {
    WHOLE: "write it without quotes or a point, such as --{name} 5",
    NUMBER: "write it without quotes, such as --{name} 0.5; in YAML 1.0e-3, not 1e-3",
    FLAG: "write --{name} True or --{name} False, with a capital letter",
    TEXT: "put it in two pairs of quotes, such as --{name} '\"{value}\"'",
    PATH: "give one path; one that is a number as --{name} ./{value}",
    SEVERAL: "give one path: put the sets into one folder",
    WHOLES: 'write it in brackets and quotes, such as --{name} "[0,1,2]"',
    NUMBERS: 'write it in brackets and quotes, such as --{name} "[1.5,3.0]"',
    TEXTS: "write it in brackets and two kinds of quotes, such as --{name} \"['a','b']\"",
    LABELS: "write --{name} 25, --{name} 5%, or --{name} all",
    DEVICE: "write --{name} cpu or --{name} cuda",
    SECTION: "write --{name}#OPTION VALUE",
}


@dataclass(frozen=True)
class Option:
    """One option, as it may be given to a config.

    Attributes:
        name: the key of the config.
        kind: what it is.
        help: what it means, one line.
        configs: the configs that have it.
        low: the least allowed number (of a list: of each of its numbers).
        high: the greatest.
        above: the lowest number is not allowed itself.
        below: nor is the greatest.
        choices: allowed texts.
        length: of a list.
        null: it may be ``null`` (``None``).
    """

    name: str
    kind: str
    help: str
    configs: tuple[str, ...]
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    choices: tuple[str, ...] = ()
    length: int | None = None
    null: bool = False

    @property
    def rule(self) -> str:
        """What the value must be, in words."""
        count = f"list of {self.length}" if self.length else "list of"
        words = [self.kind.replace("list of", count)]
        if self.choices:
            words.append(f"of {', '.join(self.choices)}")
        if self.low > -math.inf:
            words.append(f"{'above' if self.above else 'at least'} {self.low}")
        if self.high < math.inf:
            words.append(f"{'below' if self.below else 'at most'} {self.high}")
        return ", ".join(words) + (", or None" if self.null else "")

    def check(self, value: Any) -> None:
        """Refuse a value that is not of the kind, or out of range.

        Raises:
            ValueError: with rule, value and remedy.
        """
        if value is None and self.null:
            return
        if not self._is_kind(value):
            name = value if isinstance(value, (int, float, str)) else "20260101"
            several = self.kind == PATH and isinstance(value, (list, tuple))
            remedy = REMEDIES[SEVERAL if several else self.kind]
            remedy = remedy.format(name=self.name, value=name)
            raise ValueError(f"{self.name} must be {self.rule}, got {value!r}: {remedy}")
        parts = value if self.kind in (WHOLES, NUMBERS, TEXTS) else [value]
        for part in parts:
            if isinstance(part, (int, float)) and not isinstance(part, bool):
                edges = [self.low] * self.above + [self.high] * self.below
                inside = self.low <= part <= self.high and part not in edges
                if not inside:
                    raise ValueError(
                        f"{self.name} must be {self.rule}, got {value!r}: {self._nearest(part)}"
                    )
            if self.choices and part not in self.choices:
                raise ValueError(
                    f"{self.name} must be {self.rule}, got {part!r}: choose among them"
                )
        if self.kind in (WHOLES, NUMBERS, TEXTS):
            if not parts or (self.length and len(parts) != self.length):
                raise ValueError(
                    f"{self.name} must be {self.rule}, got {len(parts)}: give "
                    f"{self.length or 'at least 1'}"
                )
            if self.kind != NUMBERS and len(set(parts)) < len(parts):
                raise ValueError(
                    f"{self.name} must name each once, got {value!r}: leave out what comes twice"
                )
        if self.kind == PATH and str(value).startswith("~"):
            raise ValueError(
                f"{self.name} must be a path without '~', which only a shell understands, got "
                f"'{value}': write the whole path"
            )
        if self.kind == PATH and any(mark in str(value) for mark in ("#", "::")):
            raise ValueError(
                f"{self.name} must be a path without '#', which is '::' to MONAI, got '{value}': "
                "rename the folder, or link to it under another name"
            )

    def _nearest(self, part: float) -> str:
        over = part >= self.high
        edge, more = (self.high, "less") if over else (self.low, "more")
        shown = edge if isinstance(edge, int) else f"{edge:g}"
        open_end = self.below if over else self.above
        return f"give {more} than {shown}" if open_end else f"give {shown} or {more}"

    def _is_kind(self, value: Any) -> bool:
        if self.kind in (WHOLES, NUMBERS, TEXTS):
            one = {WHOLES: is_whole, NUMBERS: _is_number, TEXTS: _is_text}[self.kind]
            return isinstance(value, (list, tuple, range)) and all(one(v) for v in value)
        return {
            WHOLE: is_whole,
            NUMBER: _is_number,
            FLAG: lambda v: isinstance(v, bool),
            TEXT: _is_text,
            PATH: lambda v: _is_text(v) or hasattr(v, "__fspath__"),
            LABELS: _is_labels,
            DEVICE: lambda v: isinstance(v, (str, torch.device)),
            SECTION: lambda v: isinstance(v, Mapping),
        }[self.kind](value)


def _is_number(value: Any) -> bool:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_labels(value: Any) -> bool:
    share = isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?%", value) is not None
    return (
        value == "all"
        or (is_whole(value) and value >= 1)
        or (share and 0 < float(value[:-1]) <= 100)
    )
