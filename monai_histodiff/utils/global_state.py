"""The global state of the process: what a call of ours sets is given back, and what the user set
does not change our numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from monai.utils import misc

__all__ = ["float32_default", "kept_random_state"]


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Give the caller's random state back at the end of the block, whatever the block seeds or
    draws.

    Python's, NumPy's and torch's generators, on the CPU and on every CUDA device; the seed that
    ``monai.utils.get_seed`` tells; cuDNN's ``deterministic`` and ``benchmark``, and torch's
    deterministic algorithms. MONAI's ``set_determinism`` sets most of them, and its ``DataLoader``
    seeds torch's generator anew where it is made.
    """
    python, arrays, seed = random.getstate(), np.random.get_state(), misc.get_seed()
    cudnn, cuda = torch.backends.cudnn, torch.cuda.is_initialized()
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else ()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        misc._seed = seed  # MONAI sets it in no other way without seeding
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        if not cuda and torch.cuda.is_available():  # what a first use would have seeded it with
            torch.cuda.manual_seed_all(torch.initial_seed())


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
