"""Plots as plain values: places are per cent of the width or height, so that they fit a phone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from monai_histodiff.report.values import finite, number, percent

__all__ = ["Axis", "Curves", "Intervals", "Line", "Reliability", "Row", "Strip"]

GAP = 4.5  # between the names of two curves, in per cent of the height


@dataclass(frozen=True)
class Axis:
    """A scale from the lowest to the highest finite value, with a margin and round ticks."""

    low: float
    high: float
    signed: bool = False

    @classmethod
    def over(cls, values: Iterable[float], signed: bool = False) -> Axis:
        """The axis of some values; a signed one has zero on it."""
        found = np.nan_to_num(finite([*values, *([0.0] if signed else [])]))
        margin = 0.08 * float(np.ptp(found)) or 1.0
        return cls(float(found.min()) - margin, float(found.max()) + margin, signed)

    def at(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def bar(self, low: float, high: float) -> tuple[float, float] | None:
        return None if math.isnan(low + high) else (self.at(low), self.at(high))

    def dots(self, values: Iterable[float]) -> list[float]:
        return [self.at(value) for value in values if math.isfinite(value)]

    @property
    def ticks(self) -> list[tuple[float, str, bool]]:
        """Place, text, and whether it is the zero of a signed axis."""
        width = self.high - self.low
        steps = (s * 10.0**k for k in range(-6, 9) for s in (1, 2, 5))
        step = next(s for s in steps if width <= 6 * s)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        values = [k * step for k in range(first, last + 1)]
        return [
            (self.at(v), number(v, None, sign=self.signed), self.signed and v == 0) for v in values
        ]


@dataclass(frozen=True)
class Strip:
    """A small plot in a cell: dots and a bar. Without a label it repeats what its cell says."""

    dots: Sequence[float] = ()
    bar: tuple[float, float] | None = None
    label: str = ""
    css: str = ""


@dataclass(frozen=True)
class Row:
    """A line of an interval plot: name, what it is, dots, a bar, a band behind it, and words."""

    name: str
    note: str
    label: str
    words: Sequence[str]
    dots: Sequence[float]
    bar: tuple[float, float] | None = None
    band: tuple[float, float] | None = None
    tone: str = ""


@dataclass(frozen=True)
class Intervals:
    """Means and intervals, one below the other, over one axis."""

    kind: ClassVar[str] = "intervals"
    rows: Sequence[Row]
    axis: Axis
    caption: str


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: confidence to the right, accuracy upwards, the area of a dot the
    share of the patches.

    Args:
        name: whose.
        bins: each with ``confidence``, ``accuracy`` and ``share``, from 0 to 1.
    """

    kind: ClassVar[str] = "reliability"
    name: str
    bins: Sequence[Mapping[str, float]]

    @property
    def label(self) -> str:
        each = (
            f"{percent(b['confidence'], 0)} said, {percent(b['accuracy'], 0)} so"
            for b in self.bins
        )
        return f"Reliability of {self.name}: {'; '.join(each)}"

    @property
    def dots(self) -> list[tuple[float, float, float]]:
        """Centre and radius, where both are finite."""
        found = [(b["confidence"], b["accuracy"], b["share"]) for b in self.bins]
        return [
            (round(100 * x, 1), round(100 - 100 * y, 1), round(2 + 14 * n**0.5, 1))
            for x, y, n in found
            if math.isfinite(x + y + n)
        ]


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points, whether it stands out, and the height of its name."""

    name: str
    points: Sequence[tuple[float, float]]
    main: bool
    y: float


@dataclass(frozen=True)
class Curves:
    """Lines over equidistant labels, one for each row; those of ``main`` stand out, and each
    line bears its name at its end.
    """

    kind: ClassVar[str] = "curves"
    name: str
    labels: Sequence[str]
    rows: Mapping[str, Sequence[float]]
    caption: str
    main: Sequence[str] = ()

    @property
    def axis(self) -> Axis:
        return Axis.over(v for values in self.rows.values() for v in values)

    @property
    def places(self) -> list[float]:
        last = max(len(self.labels) - 1, 1)
        return [round(8 + 78 * i / last, 2) for i in range(len(self.labels))]

    @property
    def lines(self) -> list[Line]:
        """A line for each row that has a finite value; those that stand out come last."""
        axis, found = self.axis, []
        for name, values in self.rows.items():
            points = [
                (x, self.height(axis.at(v)))
                for x, v in zip(self.places, values, strict=True)
                if math.isfinite(v)
            ]
            if points:
                found.append(Line(name, points, name in self.main, points[-1][1]))
        found.sort(key=lambda line: line.y)
        apart = _apart([line.y for line in found])
        found = [replace(line, y=y) for line, y in zip(found, apart, strict=True)]
        return sorted(found, key=lambda line: line.main)

    @staticmethod
    def height(place: float) -> float:
        return round(90 - 0.86 * place, 2)

    @property
    def label(self) -> str:
        told = "; ".join(f"{row}: {', '.join(map(number, v))}" for row, v in self.rows.items())
        return f"{self.name} at {', '.join(self.labels)}. {told}"


def _apart(places: Sequence[float]) -> list[float]:
    """Ascending places moved as little as need be, in least squares, to lie ``GAP`` apart."""
    blocks: list[list[float]] = []  # of what would overlap: the places less their share of gaps
    for i, place in enumerate(places):
        blocks.append([place - GAP * i])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [float(np.mean(block)) for block in blocks for _ in block]
    return [round(y + GAP * i, 2) for i, y in enumerate(level)]
