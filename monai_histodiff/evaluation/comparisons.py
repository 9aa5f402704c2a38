"""Which pairs of arms are compared."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COMPARISONS", "USUAL", "compared"]

COMPARISONS = (
    *("G-C", "G-F", "G-S", "G-K", "G-E", "G-M", "G-G0", "G-D", "G-B", "G-A"),
    *("P-C", "P-E", "G2-C", "G-G2", "R-C"),
)
USUAL = ("C", "F", "G")  # arms of the main job where none are named


def compared(arms: Sequence[str]) -> list[str]:
    """The comparisons of which both arms are trained, each of which is a claim that is tested."""
    return [pair for pair in COMPARISONS if {*pair.split("-")} <= {*arms}]
