"""Evaluation mode for as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(*networks: nn.Module | None) -> Iterator[None]:
    """Networks in evaluation mode, without the caller's autocast. In the end, also after an error,
    each of their modules is in the mode that it was in: MONAI's ``eval_mode`` puts all of a
    network into that of its top.
    """
    own = [network for network in networks if network is not None]
    trained = [m for network in own for m in network.modules() if m.training]
    try:
        for network in own:
            network.eval()
        with ExitStack() as plain:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    plain.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for module in trained:
            module.training = True
