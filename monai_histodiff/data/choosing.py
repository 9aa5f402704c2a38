"""Parts of a set: by indices or a mask, and by split and class; which may be put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from monai_histodiff.data.patch_files import PatchRecord
from monai_histodiff.data.splits import read_split

__all__ = ["check_named", "chosen_rows", "own_paths", "select_records"]


def chosen_rows(chosen: Iterable[int] | Iterable[bool], count: int) -> list[int]:
    """The indices that are meant.

    Args:
        chosen: indices, in their order, or a bool mask.
        count: of the rows that there are.

    Raises:
        ValueError: a mask has another length than ``count``, an index is no whole number or
            outside of the rows, or the indices are a mask of another type than bool.
    """
    values = chosen.cpu().numpy() if isinstance(chosen, Tensor) else chosen
    found = values if isinstance(values, np.ndarray) else np.array(list(values))
    if found.dtype == bool and found.shape != (count,):
        raise ValueError(
            f"a mask must have one value for each of the {count} rows, got shape {found.shape}:"
            " make it from this very set"
        )
    if found.size and (found.dtype.kind not in "iub" or found.ndim != 1):
        raise ValueError(
            f"indices must be a list of whole numbers, got {found.dtype} of shape {found.shape}:"
            " give indices or a bool mask"
        )
    if found.dtype == bool:
        return found.nonzero()[0].tolist()
    masked = found.dtype.itemsize == 1 or (len(found) == count > 2 and found.max() <= 1)
    if found.size and masked:
        raise ValueError(
            f"a mask must be of bool, got {found.dtype} of {found.min()} to {found.max()} for"
            f" {count} rows: make it bool; or indices int64"
        )
    if found.size and not 0 <= found.min() <= found.max() < count:
        raise ValueError(
            f"indices must lie from 0 to {count - 1}, got {found.min()} to {found.max()}: choose"
            " among the rows of this set"
        )
    return found.tolist()


def select_records(
    records: Sequence[PatchRecord], classes: Sequence[str], split: str | None, label: str | None
) -> list[PatchRecord]:
    """The records of a split and of a class; ``None``: of all, ``""``: those that have none.

    Raises:
        ValueError: there is no such split or class.
    """
    if label not in (None, "", *classes):
        raise ValueError(
            f"label must be one of the classes {list(classes)}, got {label!r}: name one of them"
        )
    part = None if split is None else read_split(split)
    return [r for r in records if part in (None, r.split) and label in (None, r.label)]


def check_named(
    records: Sequence[PatchRecord], own: Sequence[str], classes: Sequence[str]
) -> None:
    """Refuse labels that are none of these classes.

    Args:
        records: of a set.
        own: its classes, for the message.
        classes: those of another set.

    Raises:
        ValueError: there is one; the message names it, and the classes of both.
    """
    if odd := Counter(r.label for r in records if r.label and r.label not in classes):
        name, count = odd.most_common(1)[0]
        raise ValueError(
            f"labels must be among the classes {list(classes)}, got {name!r} of {count} patches "
            f"in a set of {list(own)}: give each class one name in both sets"
        )


def own_paths(records: Sequence[PatchRecord]) -> list[PatchRecord]:
    """Records to be written into one folder: where sources share a path, under the numbers of the
    sources.

    Raises:
        ValueError: there is none, or a patch occurs twice.
    """
    if not records:
        raise ValueError("a set to write must hold at least one patch, got none: choose others")
    (_, path), times = Counter((r.source, r.path) for r in records).most_common(1)[0]
    if times > 1:
        raise ValueError(f"a patch can be written once, got '{path}' {times} times: take it once")
    shared = len({r.path for r in records}) < len(records)
    return [replace(r, path=f"{r.source}/{r.path}") for r in records] if shared else [*records]
