"""The step of a training: what a stock MONAI ``SupervisedTrainer`` needs to train our networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import SimpleInferer
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.settings import check_guidance
from monai_histodiff.utils.bfloat16 import chosen_bfloat16

__all__ = [
    "AutocastInferer",
    "AutoencoderLoss",
    "AutoencoderPrepareBatch",
    "DenoisingPrepareBatch",
    "NoisyLatentPrepareBatch",
    "bfloat16_autocast",
    "warmup_cosine",
]


def bfloat16_autocast(inputs: Tensor, enabled: bool | None) -> torch.autocast:
    """bfloat16 autocast where the inputs are, see
    :func:`~monai_histodiff.utils.bfloat16.chosen_bfloat16`.
    """
    chosen = chosen_bfloat16(inputs.device, enabled)
    return torch.autocast(inputs.device.type, torch.bfloat16, enabled=chosen)


class AutocastInferer(SimpleInferer):
    """MONAI's ``SimpleInferer`` under bfloat16 autocast, on any device; what the network returns
    comes back as float32.

    A trainer's own ``amp`` is float16 on CUDA alone, and needs a gradient scaler. bfloat16 has the
    range of float32, and on processors that compute in it (AVX-512 BF16, AMX) it about doubles the
    speed; on others it is slower than float32.

    Args:
        enabled: without it, as ``SimpleInferer``, under the trainer's own ``amp`` if there is
            one; ``None``: on a GPU that computes in bfloat16.

    Raises:
        TypeError: ``enabled`` is none of these.
    """

    def __init__(self, enabled: bool | None = True) -> None:
        super().__init__()
        if enabled is not None and not isinstance(enabled, bool):
            raise TypeError(f"bfloat16 must be True, False or None, got {enabled!r}")
        self.enabled = enabled

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        chosen = chosen_bfloat16(inputs.device, self.enabled)
        with bfloat16_autocast(inputs, True) if chosen else nullcontext():
            return super().__call__(inputs, network, *args, **kwargs).float()


class AutoencoderLoss(nn.Module):
    """L1 on pixels, and on their differences at two scales.

    The differences keep edges, which is to say nuclei, without the feature network of a perceptual
    loss.

    Args:
        gradient_weight: weight of the L1 distance of horizontal and vertical differences.
    """

    def __init__(self, gradient_weight: float = 1.0) -> None:
        super().__init__()
        self.gradient_weight = gradient_weight

    def forward(self, output: Tensor, image: Tensor) -> Tensor:
        """The loss of reconstructions against patches in [0, 1], ``N x 3 x H x W``."""
        out = output.float()
        loss = F.l1_loss(out, image)
        for scale in (1, 2):
            a, b = (F.avg_pool2d(v, scale) if scale > 1 else v for v in (out, image))
            loss = loss + self.gradient_weight * (
                F.l1_loss(a.diff(dim=2), b.diff(dim=2)) + F.l1_loss(a.diff(dim=3), b.diff(dim=3))
            )
        return loss


def batch_tensor(
    batchdata: Mapping[str, Any], key: str, device: Any = None, non_blocking: bool = False
) -> Tensor:
    """One entry of a batch as a tensor on the device."""
    return torch.as_tensor(batchdata[key]).to(device=device, non_blocking=non_blocking)


class AutoencoderPrepareBatch:
    """``prepare_batch`` that makes a patch its own target."""

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: Any = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        image = batch_tensor(batchdata, CommonKeys.IMAGE, device, non_blocking)
        return image, image


def stratified_times(n: int, device: Any) -> Tensor:
    """``n`` times in [0, 1], one in each of ``n`` equal strata, which lowers the variance of the
    loss (Kingma et al. 2021).
    """
    return (torch.arange(n, device=device) + torch.rand(n, dtype=torch.float32, device=device)) / n


class DenoisingPrepareBatch:
    """``prepare_batch`` for the denoising loss: draws times and noise for cached latents (key
    ``"image"``); a model of exemplars sees the patch's own descriptor (key ``"descriptor"``), one
    that draws classes its label, -1 for none (key ``"label"``).

    Args:
        model: gives the noise schedule and the prediction type.
        class_scale: of the sampling: at 0, which leaves the classes of a model aside that draws
            classes, it is trained as one of none; otherwise it is shown those of the items.

    Raises:
        ValueError: the model takes exemplars, and the items have no descriptors.
    """

    def __init__(self, model: LatentDiffusion, class_scale: float = 1.0) -> None:
        self.model, self.class_scale = model, class_scale

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: Any = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], dict[str, Any]]:
        z0 = batch_tensor(batchdata, CommonKeys.IMAGE, device, non_blocking).float()
        t = stratified_times(len(z0), z0.device)
        noisy, target = self.model.target(z0, torch.randn_like(z0), t)
        if self.model.exemplar is None and not self.model.num_classes:
            return noisy, target, (t * 1000,), {}
        key = "descriptor" if self.model.exemplar is not None else CommonKeys.LABEL
        if key not in batchdata:
            rule = "a model of exemplars is trained on latents with descriptors"
            raise ValueError(f"{rule}, got none: encode them with describe=")
        condition = batch_tensor(batchdata, key, device, non_blocking)
        if key == CommonKeys.LABEL and not self.class_scale:
            condition = torch.full_like(condition, -1)
        return noisy, target, (t * 1000, condition), {}


class NoisyLatentPrepareBatch:
    """``prepare_batch`` for the guide: cached latents are noised to random times; the target is
    the label.

    Args:
        model: gives the noise schedule.
        mode: what the guide reads as it steers, see :mod:`monai_histodiff.diffusion.guidance`;
            ``"clean"``: always ``t = 0`` (the paper's classifier, which never sees noise).

    Raises:
        ValueError: the mode is unknown.
    """

    def __init__(self, model: LatentDiffusion, mode: str = "noisy") -> None:
        check_guidance(mode=mode)
        self.model, self.mode = model, mode

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: Any = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict[str, Any]]:
        z0 = batch_tensor(batchdata, CommonKeys.IMAGE, device, non_blocking).float()
        label = batch_tensor(batchdata, CommonKeys.LABEL, device, non_blocking)
        t = stratified_times(len(z0), z0.device)
        if self.mode == "clean":
            return z0, label, (torch.zeros_like(t),), {}
        return self.model.target(z0, torch.randn_like(z0), t)[0], label, (t,), {}


def steps_now(engine: Any) -> bool:
    """Whether a MONAI trainer's optimiser steps in this iteration: every one, unless it
    accumulates gradients over several.
    """
    length, every = engine.state.epoch_length, getattr(engine, "accumulation_steps", 1)
    done = (engine.state.iteration - 1) % length + 1
    return bool(done % every == 0 or done == length)


def warmup_cosine(steps: int, warmup: int = 100, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor by step for ``LambdaLR``: linear warm-up, then half a cosine down to
    ``floor``, where it stays.

    MONAI's ``WarmupCosineSchedule`` is the same but for what a training here needs: its first step
    has no learning rate, its floor cuts the cosine off, and it rises again where a training goes
    on beyond the last step.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return factor
