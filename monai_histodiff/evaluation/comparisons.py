"""Which pairs of arms are compared."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COMPARISONS", "USUAL", "compared"]

COMPARISONS = (
    *("G-C", "G-F", "G-S", "G-K", "G-E", "G-M", "G-G0", "G-D", "G-B", "G-A"),
    *("P-C", "P-E", "G2-C", "G-G2", "R-C"),
)
USUAL = ("C", "F", "G")  # arms of the main job where none are named


def compared(arms: Sequence[str], comparisons: Sequence[str] = COMPARISONS) -> list[str]:
    """The comparisons whose two arms are there, each of which is a claim that is tested.

    Args:
        arms: that are trained.
        comparisons: pairs of arms, such as ``"G-C"``.
    """
    return [pair for pair in comparisons if {*pair.split("-")} <= {*arms}]
