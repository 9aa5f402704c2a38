"""Evaluation mode for as long as it is needed."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

__all__ = ["evaluating"]

_lock = threading.RLock()
_inside: Counter[nn.Module] = Counter()  # blocks that each module is evaluated by now
_trained: set[nn.Module] = set()  # those of them that a block found in training mode


def _begin_anew() -> None:
    """In a forked process, which has none of the other threads."""
    global _lock
    _lock = threading.RLock()
    _inside.clear()
    _trained.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def evaluating(*networks: nn.Module | None) -> Iterator[None]:
    """Networks in evaluation mode, without the caller's autocast. In the end, also after an error,
    each of their modules is in the mode that it was in: MONAI's ``eval_mode`` puts all of a
    network into that of its top. Of several threads that evaluate one network the last gives the
    mode back.
    """
    own = [network for network in networks if network is not None]
    modules = {module for network in own for module in network.modules()}
    with _lock:
        _trained.update(m for m in modules if m.training)
        _inside.update(modules)
    try:
        with _lock:
            for network in own:
                network.eval()
        with ExitStack() as plain:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    plain.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        with _lock:
            _inside.subtract(modules)
            for module in modules:
                if _inside[module] <= 0:
                    del _inside[module]
                    if module in _trained:
                        _trained.remove(module)
                        module.training = True
