"""Checkpoints of the package MONAI Generative Models, ``generative``, whose networks live on in
MONAI under other names.

Its attention blocks defined a last projection, ``proj_attn``, and never applied it; MONAI's apply
theirs, ``out_proj``. The old weights are therefore left out, and the new projection is the
identity (MONAI#7991). MONAI's own ``load_old_state_dict`` copies them, and such a network computes
something else than what was trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from monai_histodiff.utils.weights import load_fitting, read_state

__all__ = ["load_generative"]

Module = TypeVar("Module", bound=nn.Module)
UNUSED = re.compile(r"\.proj_attn\.(weight|bias)$")
RENAMED = (
    (re.compile(r"^((?!.*transformer_blocks).*)(?<!\.attn)\.(to_[qkv]\.\w+)$"), r"\1.attn.\2"),
    (re.compile(r"(transformer_blocks\..*)\.to_out\.0\."), r"\1.out_proj."),
)
PROJECTION = re.compile(r"\.attn\.out_proj\.(weight|bias)$")


def load_generative(
    network: Module, source: str | os.PathLike[str] | Mapping[str, Tensor]
) -> Module:
    """Load a ``state_dict`` of ``generative`` 0.2 into the same network of MONAI, and return it,
    with the same outputs.

    Args:
        network: MONAI's ``AutoencoderKL``, ``VQVAE`` or ``DiffusionModelUNet`` of the same
            arguments, in which ``num_channels`` is now ``channels``, and with
            ``use_combined_linear=False``, as by default.
        source: the file, or what it holds, which stays as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or a weight of either is not the other's.
    """
    given = isinstance(source, Mapping)
    old = source if isinstance(source, Mapping) else read_state(source)
    own = network.state_dict()
    state = {_new_name(k, own): v for k, v in old.items() if not UNUSED.search(k)}
    for key, value in own.items():
        if key not in state and PROJECTION.search(key):
            identity = torch.eye(len(value), dtype=value.dtype)
            state[key] = identity if value.ndim == 2 else torch.zeros_like(value)
    load_fitting(network, state, "the state given" if given else str(source))
    return network


def _new_name(old: str, own: Mapping[str, Tensor]) -> str:
    new = old
    for pattern, name in RENAMED:
        new = pattern.sub(name, new)
    up = new.replace(".conv.conv.", ".postconv.conv.")
    return up if new not in own and up in own else new
