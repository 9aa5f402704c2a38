"""Distributed processes: who is first, and what all agree on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
from torch import distributed

__all__ = [
    "barrier",
    "first_rank",
    "from_first_rank",
    "is_distributed",
    "process_rank",
]


def is_distributed() -> bool:
    """Whether this process belongs to a process group."""
    return distributed.is_available() and distributed.is_initialized()


def process_rank() -> int:
    """Rank of this process: that of its process group, else the one that the launcher put into
    ``RANK``, else 0.

    Raises:
        ValueError: ``RANK`` is no whole number.
    """
    if is_distributed():
        return distributed.get_rank()
    rank = os.environ.get("RANK", "0")
    if not rank.isdecimal():
        raise ValueError(
            f"the environment's RANK must be a whole number, got {rank!r}: unset it, or start the "
            "processes by a launcher such as torchrun"
        )
    return int(rank)


def first_rank() -> bool:
    """Whether this process is the first of its process group, or belongs to none."""
    return not is_distributed() or distributed.get_rank() == 0


def barrier() -> None:
    """Wait for all processes of the group, if there is one."""
    idist.barrier()


def from_first_rank(make: Callable[[], Any]) -> Any:
    """What ``make`` returns on the first rank, on all ranks; an exception is raised on all ranks,
    too.

    Without a process group it is what ``make`` returns here. The value is pickled.
    """
    if not is_distributed():
        return make()
    values: list[Any] = [None]
    if first_rank():
        try:
            values = [make()]
        except Exception as error:
            values = [error]
    distributed.broadcast_object_list(values, src=0)
    if isinstance(values[0], Exception):
        raise values[0]
    return values[0]
