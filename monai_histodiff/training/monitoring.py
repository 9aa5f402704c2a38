"""What is watched while a network trains: its loss, its gradient, its pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.utils import CommonKeys, optional_import
from torch import Tensor

from monai_histodiff.data.pixels import patch_grid
from monai_histodiff.training.checkpoints import EMAHandler
from monai_histodiff.training.steps import steps_now

__all__ = ["FiniteLoss", "GradientNorm", "PatchGridLogger", "training_scalars"]

SummaryWriter, _ = optional_import("torch.utils.tensorboard", name="SummaryWriter")


def _number(value: Any) -> float:
    """Of a tensor that may have a gradient, or of a number."""
    return float(torch.as_tensor(value).detach())


class FiniteLoss:
    """Ignite handler that stops a MONAI trainer at the first loss that is not finite, before it
    changes a weight.
    """

    def attach(self, engine: Engine) -> None:
        """Check every loss before its backward pass."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        out = engine.state.output
        loss = out[0][CommonKeys.LOSS] if isinstance(out, Sequence) else out[CommonKeys.LOSS]
        if not math.isfinite(value := _number(loss)):
            raise RuntimeError(
                f"the loss must be finite, got {value} at iteration {engine.state.iteration}"
            )


class GradientNorm:
    """Measures, and optionally clips, the Euclidean norm of the gradient before every optimiser
    step of a MONAI trainer.

    The norm is left in ``engine.state.output["gradient_norm"]``.

    Args:
        max_norm: larger gradients are scaled down to this norm.
    """

    def __init__(self, max_norm: float = math.inf) -> None:
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Measure after every backward pass that a step follows."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Measure once.

        Raises:
            RuntimeError: the norm is not finite. The weights are as they were after the last good
                step. (With a gradient scaler no error is raised: it leaves such steps out.)
        """
        if not steps_now(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        parameters = [
            p
            for group in engine.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if engine.scaler is None and not math.isfinite(float(norm)):
            loss = _number(engine.state.output[CommonKeys.LOSS])
            raise RuntimeError(
                "the gradient must be finite, "
                f"got norm {float(norm)}, loss {loss} at iteration {engine.state.iteration}"
            )
        if math.isfinite(self.max_norm):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
        engine.state.output["gradient_norm"] = norm


def training_scalars(optimizer: torch.optim.Optimizer) -> Callable[[Any], dict[str, float]]:
    """The ``output_transform`` of a ``TensorBoardStatsHandler``: loss, learning rate and, where
    there are, gradient norm and the discriminator's loss.
    """

    def scalars(output: Any) -> dict[str, float]:
        item = output[0] if isinstance(output, Sequence) else output
        found = {"learning_rate": float(optimizer.param_groups[0]["lr"])}
        watched = (CommonKeys.LOSS, "gradient_norm", "discriminator_loss")
        return found | {name: _number(item[name]) for name in watched if name in item}

    return scalars


class PatchGridLogger:
    """Ignite handler that writes a grid of patches to TensorBoard at the end of every few epochs.

    Args:
        make: makes patches ``N x 3 x H x W`` in [0, 1], such as samples of the network in
            training.
        log_dir: TensorBoard's folder.
        interval: epochs between grids.
        ema: the network holds these averaged weights meanwhile.
    """

    def __init__(
        self,
        make: Callable[[], Tensor],
        log_dir: str | os.PathLike[str],
        interval: int = 5,
        ema: EMAHandler | None = None,
    ) -> None:
        self.make, self.interval, self.ema = make, interval, ema
        self.writer = SummaryWriter(log_dir=str(log_dir))

    def attach(self, engine: Engine) -> None:
        """Write at the end of every ``interval``-th epoch; close the file at completion."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self.writer.close)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        with self.ema.applied() if self.ema else nullcontext():
            patches = self.make()
        self.writer.add_image(
            "patches", patch_grid(patches), engine.state.epoch, dataformats="HWC"
        )
