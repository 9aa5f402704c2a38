"""What a stock MONAI ``SupervisedTrainer`` needs to train our networks: losses, ``prepare_batch``, data, EMA."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer
from monai.utils import CommonKeys
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_histodiff.networks import LatentDiffusion
from monai_histodiff.weights import save_weights

__all__ = [
    "AutocastInferer",
    "AutoencoderLoss",
    "AutoencoderPrepareBatch",
    "DiffusionPrepareBatch",
    "EMAHandler",
    "NoisyLatentPrepareBatch",
    "WeightsSaver",
    "FiniteLoss",
    "warmup_cosine",
]


class AutocastInferer(SimpleInferer):
    """MONAI's ``SimpleInferer`` under bfloat16 autocast, on any device; what the network returns comes back as float32.

    A trainer's own ``amp`` is float16 on CUDA alone, and needs a gradient scaler. bfloat16 has the range of float32, and on
    processors that compute in it (AVX-512 BF16, AMX) it about doubles the speed; on others it is slower than float32.

    Args:
        enabled: without it, as ``SimpleInferer``.

    Raises:
        TypeError: ``enabled`` is not a bool.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        if not isinstance(enabled, bool):
            raise TypeError(f"bfloat16 must be True or False, got {enabled!r}")
        self.enabled = enabled

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.enabled):
            return super().__call__(inputs, network, *args, **kwargs).float()


class AutoencoderLoss(nn.Module):
    """L1 on pixels, and on their differences at two scales.

    The differences keep edges, which is to say nuclei, without the feature network of a perceptual loss.

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
            loss = loss + self.gradient_weight * (F.l1_loss(a.diff(dim=2), b.diff(dim=2)) + F.l1_loss(a.diff(dim=3), b.diff(dim=3)))
        return loss


class AutoencoderPrepareBatch:
    """``prepare_batch`` that makes a patch its own target."""

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor]:
        image = torch.as_tensor(batchdata[CommonKeys.IMAGE]).to(device=device, non_blocking=non_blocking)
        return image, image


def stratified_times(n: int, device: Any) -> Tensor:
    """``n`` times in [0, 1], one in each of ``n`` equal strata, which lowers the variance of the loss (Kingma et al. 2021)."""
    return (torch.arange(n, device=device) + torch.rand(n, device=device)) / n


class DiffusionPrepareBatch:
    """``prepare_batch`` for the denoising loss: draws times and noise for cached latents (key ``"image"``).

    Args:
        model: gives the noise schedule and the prediction type.
    """

    def __init__(self, model: LatentDiffusion) -> None:
        self.model = model

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict[str, Any]]:
        z0 = torch.as_tensor(batchdata[CommonKeys.IMAGE]).to(device=device, non_blocking=non_blocking).float()
        t = stratified_times(len(z0), z0.device)
        noisy, target = self.model.target(z0, torch.randn_like(z0), t)
        return noisy, target, (t * 1000,), {}


class NoisyLatentPrepareBatch:
    """``prepare_batch`` for the guide: cached latents are noised to random times; the target is the label.

    Args:
        model: gives the noise schedule.
        clean: always ``t = 0`` (the paper's classifier, which never sees noise).
    """

    def __init__(self, model: LatentDiffusion, clean: bool = False) -> None:
        self.model, self.clean = model, clean

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict[str, Any]]:
        z0 = torch.as_tensor(batchdata[CommonKeys.IMAGE]).to(device=device, non_blocking=non_blocking).float()
        label = torch.as_tensor(batchdata[CommonKeys.LABEL]).to(device=device, non_blocking=non_blocking)
        t = stratified_times(len(z0), z0.device)
        if self.clean:
            return z0, label, (torch.zeros_like(t),), {}
        return self.model.target(z0, torch.randn_like(z0), t)[0], label, (t,), {}


def steps_now(engine: Any) -> bool:
    """Whether a MONAI trainer's optimiser steps in this iteration: every one, unless it accumulates gradients over several."""
    length, every = engine.state.epoch_length, getattr(engine, "accumulation_steps", 1)
    done = (engine.state.iteration - 1) % length + 1
    return bool(done % every == 0 or done == length)


class EMAHandler:
    """Keeps an exponential moving average of a network's weights, with warm-up ``min(decay, (1 + n) / (10 + n))``.

    Args:
        network: the network in training.
        decay: the final decay for each optimiser step.
        adopt: at completion, give the network its averaged weights.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, adopt: bool = False) -> None:
        self.network, self.decay, self.adopt = network, decay, adopt
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)

    def attach(self, engine: Engine) -> None:
        """Update after every iteration of the trainer in which the optimiser steps."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        if self.adopt:
            engine.add_event_handler(Events.COMPLETED, lambda: self.network.load_state_dict(self.average.module.state_dict()))

    def __call__(self, engine: Engine) -> None:
        if not steps_now(engine):
            return
        n = int(self.average.n_averaged)
        self.average.multi_avg_fn = get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))
        self.average.update_parameters(self.network)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates, for a checkpoint."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.average.load_state_dict(state)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the network holds the averaged weights."""
        own = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.network.load_state_dict(own)


class WeightsSaver:
    """Writes a module's ``state_dict`` atomically every few epochs and at the end; in one process of a distributed training.

    Args:
        network: the module to save; the network of ``ema``, or one that contains it.
        path: the file.
        interval: epochs between saves.
        ema: save these averaged weights in place of the current ones.
    """

    def __init__(self, network: nn.Module, path: str | os.PathLike[str], interval: int = 1, ema: EMAHandler | None = None) -> None:
        self.network, self.path, self.interval, self.ema = network, Path(path), interval, ema

    def attach(self, engine: Engine) -> None:
        """Save at the end of every ``interval``-th epoch and at completion."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        with self.ema.applied() if self.ema else nullcontext():
            save_weights(self.path, self.network.state_dict())


class FiniteLoss:
    """Ignite handler that stops training at the first loss that is not finite, before it spoils a checkpoint."""

    def attach(self, engine: Engine) -> None:
        """Check after every iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        out = engine.state.output
        loss = out[0][CommonKeys.LOSS] if isinstance(out, Sequence) else out[CommonKeys.LOSS]
        if not math.isfinite(float(loss)):
            raise RuntimeError(f"the loss must be finite, got {float(loss)} at iteration {engine.state.iteration}")


def warmup_cosine(steps: int, warmup: int = 100, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor by step for ``LambdaLR``: linear warm-up, then half a cosine down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return factor
