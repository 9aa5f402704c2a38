"""Encoders by name: other people's feature extractors, where ours has served so far.

``timm`` is not needed unless an encoder of it is named; the extra ``encoders`` installs it.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import optional_import
from torch import Tensor, nn

from monai_histodiff.classifiers.encoder import PatchEncoder, in_evaluation
from monai_histodiff.utils.counts import check_flags
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.weights import checked_device, load_weights

__all__ = [
    "ENCODERS",
    "EncoderStart",
    "NamedEncoder",
    "check_encoder_name",
    "features_of",
    "named_encoder",
    "named_features",
    "stored_name",
]

logger = logging.getLogger(__name__)
ENCODERS = ("timm:", "hf-hub:")
# well-known encoders whose licence does not let others pass on what is made of their weights
CLOSED = {
    **{f"MahmoodLab/{name}": "CC BY-NC-ND 4.0" for name in ("UNI", "UNI2-h", "conch", "CONCH")},
    **{f"bioptimus/{name}": "CC BY-NC-ND 4.0" for name in ("H-optimus-1", "H0-mini")},
    "paige-ai/Virchow2": "CC BY-NC-ND 4.0",
    "owkin/phikon": "Owkin, non-commercial",
}
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


def named_encoder(
    encoder: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> PatchEncoder | NamedEncoder:
    """The encoder of that name, in evaluation mode.

    Args:
        encoder: ``timm:NAME``, a model of timm with its pre-trained weights;
            ``hf-hub:OWNER/NAME``, one of the Hugging Face hub that timm reads; the path of weights
            of our :class:`PatchEncoder`, or a bundle that has them.
        device: where to put it.

    Raises:
        FileNotFoundError, ValueError: as :func:`check_encoder_name`, or the
            weights do not fit.
    """
    name = str(encoder)
    if name and Path(name).is_dir():
        return PatchEncoder.from_bundle(name, device)
    check_encoder_name(name)
    if not name.startswith(ENCODERS):
        return load_weights(PatchEncoder(), name).to(checked_device(device)).eval()
    if licence := next((v for k, v in CLOSED.items() if k in name), None):
        rule = "what contains these weights, or was trained on from them, must not be passed on"
        logger.warning("licence of '%s' (%s): %s", name, licence, rule)
    timm = _timm()
    with float32_default():
        model = timm.create_model(name.removeprefix("timm:"), pretrained=True, num_classes=0)
    about = timm.data.resolve_model_data_config(model)
    made = NamedEncoder(model, about).to(checked_device(device)).eval()
    made.name = name
    return made


def stored_name(name: Any, path: str | os.PathLike[str]) -> str:
    """The name of an encoder of others that a file of weights keeps as bytes.

    Raises:
        ValueError: it is none of timm's or of the hub's.
    """
    found = ""
    if isinstance(name, Tensor) and name.dtype == torch.uint8:
        found = bytes(name.flatten().tolist()).decode("utf-8", "replace")
    if not found.startswith(ENCODERS):
        raise ValueError(
            f"a critic must name an encoder that begins with {' or '.join(ENCODERS)}, got "
            f"{found or name!r} in '{path}': fit it anew"
        )
    return found


def named_features(
    encoder: str | os.PathLike[str] | Features,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
) -> Features:
    """Features by an encoder of that name.

    Args:
        encoder: as for :func:`named_encoder`; or a function, which is returned as it is, and
            checked where it is used, by :func:`features_of`.
        device: where to compute.
        batch_size: patches encoded at once.

    Returns:
        Patches ``N x 3 x H x W``, uint8 or in [0, 1], to float32 features ``N x D`` on the CPU.

    Raises:
        FileNotFoundError, ValueError: as :func:`named_encoder`.
    """
    if callable(encoder):
        return encoder
    return partial(named_encoder(encoder, device).features, batch_size=batch_size)


def features_of(features: Features, patches: Tensor) -> Tensor:
    """What a function, which may be anyone's, gives patches ``N x 3 x H x W``.

    Raises:
        ValueError: it does not give one vector of finite values for each patch.
    """
    found = features(patches)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(patches):
        got = tuple(getattr(found, "shape", ())) or type(found).__name__
        raise ValueError(
            f"features must be a tensor N x D for N patches, here {len(patches)}, got {got}: give "
            "a function of one vector for each patch"
        )
    if bad := int((~found.isfinite()).any(1).sum()):
        raise ValueError(
            f"features must be finite, got NaN or infinity for {bad} of {len(found)} patches: "
            "look at the encoder and its precision"
        )
    return found


class NamedEncoder(nn.Module):
    """An encoder of another make in the place of :class:`PatchEncoder`: patches in [0, 1], ``N x 3
    x H x W``, to features ``N x D``.

    Patches are resized to the network's own size (bicubic, anti-aliased), without the crop that it
    may have for photographs, and normalised by its own mean and deviation.

    Args:
        network: ``N x 3 x h x w`` to ``N x D``. One black patch tells ``D``.
        about: ``input_size``, ``mean`` and ``std``, as timm tells them.

    Raises:
        ValueError: it does not give one vector for each patch, or its mean or deviation cannot
            scale one.
    """

    mean: Tensor
    std: Tensor
    name = ""  # that it was asked for by

    def __init__(self, network: nn.Module, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network.eval()
        device = next((p.device for p in network.parameters()), None)
        self.size = tuple(int(side) for side in about["input_size"][-2:])
        for key in ("mean", "std"):
            value = torch.tensor(about[key], dtype=torch.float32, device=device)[:, None, None]
            self.register_buffer(key, value, persistent=False)
        if not bool(
            self.mean.isfinite().all() and (0 < self.std).all() and self.std.isfinite().all()
        ):
            got = f"{list(about['mean'])} and {list(about['std'])}"
            raise ValueError(
                "an encoder's mean must be finite, and its std finite and above 0, got "
                f"{got}: give those of the patches that it was trained on"
            )
        with torch.no_grad():
            found = self(torch.zeros(1, 3, *self.size, dtype=torch.float32, device=device))
        if found.ndim != 2:
            raise ValueError(
                "an encoder must give one vector for each patch, got features of shape "
                f"{tuple(found.shape)}: choose one with pooling"
            )
        self.num_features = found.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.network((x - self.mean) / self.std)

    def features(self, patches: Tensor, batch_size: int = 64) -> Tensor:
        """Features of any number of patches, on the CPU, in evaluation mode; arguments as those of
        :meth:`PatchEncoder.features`.
        """
        return in_evaluation(self, patches, batch_size, self.mean)


class EncoderStart:
    """Makes classifiers that start from a patch encoder, with a last layer that is random.

    For :attr:`monai_histodiff.ClassifierTraining.network`, in place of ``PatchClassifier``, which
    starts from scratch.

    Args:
        encoder: as for :func:`named_encoder`: a bundle with ``models/encoder.pt``, or a name.
        frozen: train the last layer alone, on the features of the encoder as it is (a linear
            probe with augmentation); ``False``: all of it.

    Raises:
        FileNotFoundError, ValueError: as :func:`named_encoder`, or ``frozen`` is no bool.
    """

    def __init__(self, encoder: str | os.PathLike[str], frozen: bool = False) -> None:
        check_flags(frozen=frozen)
        self.encoder, self.frozen = named_encoder(encoder), frozen
        name = "patch encoder" if isinstance(self.encoder, PatchEncoder) else str(encoder)
        self.backbone = f"{name}, frozen" if frozen else name

    def __call__(self, num_classes: int) -> nn.Sequential:
        encoder = copy.deepcopy(self.encoder).requires_grad_(not self.frozen)
        made = _Frozen if self.frozen else nn.Sequential
        return made(encoder, nn.Linear(encoder.num_features, num_classes))


class _Frozen(nn.Sequential):
    """Its first part stays in evaluation mode."""

    def train(self, mode: bool = True) -> _Frozen:
        super().train(mode)
        self[0].eval()
        return self


def _timm() -> ModuleType:
    module, found = optional_import("timm")
    if not found:
        raise ValueError(
            "an encoder of timm needs the package timm, got none: pip install "
            "'monai-histodiff[encoders]'"
        )
    return module
