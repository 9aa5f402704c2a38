"""``Reason``: what became of a candidate."""

from __future__ import annotations

from enum import Enum

__all__ = ["Reason"]


class Reason(str, Enum):
    """What became of a candidate; each is a string, as tables and JSON show it.

    ``accepted`` is what the bank holds. ``over_quota`` passed every check, too, and was not needed
    any more. All others are reasons for rejection.
    """

    accepted = "accepted"
    over_quota = "over quota"
    low_confidence = "low confidence"
    other_class = "another class is more probable"
    near_copy = "near copy"
    test_copy = "copy of a test patch"
    duplicate = "duplicate of another"
    unlike = "unlike real tissue"
    not_finite = "not finite"
    other_centroid = "another centroid is nearer"

    def __str__(self) -> str:
        return self.value

    @property
    def passed(self) -> bool:
        """Whether the candidate passed every check."""
        return self in (Reason.accepted, Reason.over_quota)
