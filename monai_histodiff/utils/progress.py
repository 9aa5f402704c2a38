"""A bar where something takes long, and none where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["patient"]

PATIENCE = 3  # seconds after which the bar is shown


def patient(items: Iterable[Any], name: str, shown: bool = True, unit: str = "patch") -> Any:
    """The items, with a bar on the standard error once they have taken three seconds.

    Args:
        items: with a length, if the bar is to tell how many are left.
        name: what is done.
        shown: ``False``: never a bar.
        unit: of what the items are.
    """
    return tqdm(items, name, unit=unit, delay=PATIENCE, disable=not shown)
