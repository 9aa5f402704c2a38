"""The split: its parts and what they may be called, and what a recorded one must keep to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["SPLITS", "read_split", "refuse_partial_split", "refuse_torn_groups"]

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_split(text: str, where: str = "") -> str:
    """The part of the split that a text tells: ``train``, ``val``, ``test``, or empty.

    Args:
        text: such as ``train``, ``Training`` or ``validation``.
        where: name and place of the patch or slide, for the message.

    Raises:
        ValueError: it tells something else.
    """
    if text and text.lower() not in SPLITS:
        place = f" for {where}" if where else ""
        raise ValueError(
            f"split must be 'train', 'val', 'test' or empty, got '{text}'{place}: name one of them"
        )
    return SPLITS.get(text.lower(), "")


def refuse_torn_groups(
    found: Iterable[tuple[str, str]], shared: Mapping[str, str] | None = None
) -> None:
    """Refuse a group of which one part of the split would know the other.

    Args:
        found: group and part of the split, of each patch or slide.
        shared: the sources of groups that several have, for the message.

    Raises:
        ValueError: a group lies in several parts.
    """
    sides: dict[str, set[str]] = defaultdict(set)
    for group, split in found:
        sides[group].add(split)
    if torn := sorted(group for group, splits in sides.items() if len(splits) > 1):
        own, where = "record one for it", (shared or {}).get(torn[0])
        other = f"{where} have this name: if it is one patient, {own}; if not, rename it in one"
        raise ValueError(
            f"a group must lie in one split only, got {len(torn)} that straddle, such as"
            f" '{torn[0]}' in {' and '.join(sorted(map(repr, sides[torn[0]])))}:"
            f" {other if where else own}"
        )


def refuse_partial_split(found: Sequence[tuple[str, str]], kind: str) -> None:
    """Refuse a split that is recorded for some alone: the others would get lost, or lie anywhere.

    Args:
        found: name and part of the split, of each patch or slide.
        kind: what they are, for the message.

    Raises:
        ValueError: some have none.
    """
    blank = [name for name, split in found if not split]
    if 0 < len(blank) < len(found):
        raise ValueError(
            f"a split must be recorded for every {kind} or for none, got {len(blank)} of "
            f"{len(found)} without, such as '{blank[0]}': record theirs, or leave them out"
        )
