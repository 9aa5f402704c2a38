"""Encoders by name: other people's feature extractors, where ours has served so far.

``timm`` is not needed unless an encoder of it is named; the extra ``encoders`` installs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import optional_import
from torch import Tensor, nn

from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.utils.weights import checked_device, load_weights

__all__ = ["ENCODERS", "check_encoder_name", "named_features"]

ENCODERS = ("timm:", "hf-hub:")
Features = Callable[[Tensor], Tensor]


def check_encoder_name(name: str) -> None:
    """Refuse what names no encoder; nothing is downloaded or read.

    Raises:
        FileNotFoundError: it is a path, and there is no such file.
        ValueError: it is no name of an encoder, or it needs timm, which is not installed.
    """
    prefix = next((p for p in ENCODERS if name.startswith(p)), "")
    rest = name[len(prefix) :]
    if not rest or (prefix == "hf-hub:" and rest.count("/") != 1):
        raise ValueError(
            "an encoder must be 'timm:NAME', 'hf-hub:OWNER/NAME' or a file of our own weights, "
            f"got '{name}': give one of these"
        )
    if prefix:
        _timm()
    elif not Path(name).is_file():
        raise FileNotFoundError(
            f"an encoder must be a file, 'timm:NAME' or 'hf-hub:OWNER/NAME', got '{name}', where "
            "there is no file: give its path"
        )


def named_features(
    encoder: str | os.PathLike[str] | Features,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
) -> Features:
    """Features by an encoder of that name.

    Args:
        encoder: ``timm:NAME``, a model of timm with its pre-trained weights;
            ``hf-hub:OWNER/NAME``, one of the Hugging Face hub that timm reads; the path of weights
            of our :class:`PatchEncoder`; or a function, which is returned as it is.
        device: where to compute.
        batch_size: patches encoded at once.

    Returns:
        Patches ``N x 3 x H x W``, uint8 or in [0, 1], to float32 features ``N x D`` on the CPU.
        For a model of timm patches are resized to its own size (bicubic, anti-aliased), without
        the crop that it may have for photographs, and normalised by its own mean and deviation.

    Raises:
        FileNotFoundError, ValueError: as :func:`check_encoder_name`, or the
            weights do not fit.
    """
    if callable(encoder):
        return encoder
    name = str(encoder)
    check_encoder_name(name)
    if not name.startswith(ENCODERS):
        return load_weights(PatchEncoder(), name).to(checked_device(device)).eval().features
    timm = _timm()
    model = timm.create_model(name.removeprefix("timm:"), pretrained=True, num_classes=0)
    about = timm.data.resolve_model_data_config(model)
    return _Resized(model.to(checked_device(device)).eval(), about, batch_size)


class _Resized:
    """Features of a network that has a size, a mean and a deviation of its own.

    Args:
        network: in evaluation mode, ``N x 3 x h x w`` to ``N x D``.
        about: ``input_size``, ``mean`` and ``std``, as timm tells them.
        batch_size: patches at once.
    """

    def __init__(self, network: nn.Module, about: Mapping[str, Any], batch_size: int) -> None:
        self.network, self.batch_size = network, batch_size
        self.size = tuple(int(side) for side in about["input_size"][-2:])
        self.mean, self.std = (
            torch.tensor(about[key], dtype=torch.float32)[:, None, None] for key in ("mean", "std")
        )

    @torch.no_grad()
    def __call__(self, patches: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        parts = []
        for part in patches.split(self.batch_size):
            x = to_unit(part)
            if tuple(x.shape[-2:]) != self.size:
                x = F.interpolate(x, self.size, mode="bicubic", antialias=True).clamp(0, 1)
            found = self.network(((x - self.mean) / self.std).to(device))
            if found.ndim != 2:
                raise ValueError(
                    "an encoder must give one vector for each patch, got features of shape "
                    f"{tuple(found.shape)}: choose one with pooling"
                )
            parts.append(found.float().cpu())
        return torch.cat(parts)


def _timm() -> ModuleType:
    module, found = optional_import("timm")
    if not found:
        raise ValueError(
            "an encoder of timm needs the package timm, got none: pip install "
            "'monai-histodiff[encoders]'"
        )
    return module
