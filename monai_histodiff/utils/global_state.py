"""The global state of the process: what a call of ours sets is given back, and what the user set
does not change our numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.utils import misc

__all__ = ["float32_default", "keep_random_state", "kept_random_state", "untracked"]


def keep_random_state() -> Callable[[], None]:
    """Take the random state of now; calling what is returned gives it back.

    Python's, NumPy's and torch's generators, on the CPU and on every CUDA device; the seed that
    ``monai.utils.get_seed`` tells; cuDNN's ``deterministic`` and ``benchmark``, and torch's
    deterministic algorithms. MONAI's ``set_determinism`` sets most of them, and its ``DataLoader``
    seeds torch's generator anew where it is made.

    For what begins and ends in different calls. (An open :func:`kept_random_state` that is
    forgotten gives its state back whenever the garbage collector finds it: in the midst of
    whatever is drawn then.)
    """
    python, arrays, seed = random.getstate(), np.random.get_state(), misc.get_seed()
    cudnn, cuda = torch.backends.cudnn, torch.cuda.is_initialized()
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    processor, devices = torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else []

    def give_back() -> None:
        random.setstate(python)
        np.random.set_state(arrays)
        misc._seed = seed  # MONAI sets it in no other way without seeding
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.set_rng_state(processor)
        if cuda:
            torch.cuda.set_rng_state_all(devices)
        elif torch.cuda.is_available():  # what a first use would have seeded it with
            torch.cuda.manual_seed_all(torch.initial_seed())

    return give_back


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Give the caller's random state back at the end of the block, whatever the block seeds or
    draws: see :func:`keep_random_state`.
    """
    give_back = keep_random_state()
    try:
        yield
    finally:
        give_back()


@contextmanager
def float32_default() -> Iterator[None]:
    """Make float32 torch's default dtype within the block: for networks made there, whose weights
    would else have the dtype that the user set, and other values by the same seed.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def untracked() -> Iterator[None]:
    """Let MONAI's transforms keep no metadata and no history within the block, for items that have
    none: the same numbers in three quarters of the time.
    """
    tracked = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracked)
