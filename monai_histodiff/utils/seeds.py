"""Seeds: which there are, and how they are mixed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from monai_histodiff.utils.counts import check_from

__all__ = ["candidate_seed", "checked_seeds"]


def candidate_seed(*identity: int) -> int:
    """A well-mixed seed from whole numbers, such as ``(run seed, refresh, class, candidate)``.

    Raises:
        ValueError: one is negative or not whole.
    """
    for part in identity:
        check_from(0, seed=part)
    return int(np.random.SeedSequence(identity).generate_state(1, np.uint32)[0])


def checked_seeds(seeds: Iterable[Any]) -> list[int]:
    """Seeds that a generator tells apart, as Python's numbers.

    Raises:
        ValueError: there is none, or one is no whole number from 0 to 2^32 - 1.
    """
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Iterable):
        raise ValueError(f"seeds must be several whole numbers, got {seeds!r}: give [{seeds!r}]")
    found = []
    for given in seeds:
        try:
            whole = not isinstance(given, bool) and 0 <= given < 2**32 and given == int(given)
        except (TypeError, ValueError):  # no number, or several
            whole = False
        if not whole:
            raise ValueError(f"seeds must be whole numbers from 0 to 2^32 - 1, got {given!r}")
        found.append(int(given))
    if not found:
        raise ValueError("at least one seed is needed, got none")
    return found
