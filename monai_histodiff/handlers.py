"""Ignite handlers for long trainings: epochs that can be repeated, checkpoints that survive a kill, gradient norms."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines import IterationEvents
from monai.handlers import CheckpointLoader
from monai.utils import CommonKeys, set_determinism

from monai_histodiff.training import steps_now
from monai_histodiff.weights import write_state

__all__ = ["EpochSeed", "GradientNorm", "TrainingCheckpoint", "training_scalars"]


class EpochSeed:
    """Seeds all random numbers at the start of each epoch, as a function of the seed, the epoch and the process's rank alone.

    A resumed training then repeats the epochs of the uninterrupted one, without a saved state of any generator, and each
    process of a distributed training draws its own patches.

    Args:
        seed: of the training.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Seed at the start of every epoch, before its first batch is drawn."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        value = int(np.random.SeedSequence((self.seed, engine.state.epoch, idist.get_rank())).generate_state(1)[0])
        set_determinism(value)
        set_rnd(getattr(engine.state.dataloader, "dataset", None), value)  # transforms that run in this process


class TrainingCheckpoint:
    """Saves all that a training needs at the end of an epoch, and resumes from it when the training starts again.

    One file, ``training.pt``, replaced as a whole: a kill or a full disk while it is written leaves the previous one, which
    MONAI's ``CheckpointSaver`` (in place, the old one removed first) would not. Every process reads it; one writes it. Use
    with :class:`EpochSeed`, which makes the epochs that follow those of the uninterrupted training.

    Args:
        save_dir: the folder.
        objects: what has a ``state_dict``, by name: network, optimiser, schedule, averaged weights. The trainer, and its
            gradient scaler if it has one, are added.
        interval: epochs between saves.
    """

    def __init__(self, save_dir: str | os.PathLike[str], objects: Mapping[str, Any], interval: int = 1) -> None:
        self.path, self.objects, self.interval = Path(save_dir) / "training.pt", dict(objects), interval

    def attach(self, engine: Engine) -> None:
        """Resume when the engine starts; save at the end of every ``interval``-th epoch."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def _objects(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)
        return {**self.objects, **({"scaler": scaler} if scaler is not None else {}), "trainer": engine}

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            write_state(self.path, {name: thing.state_dict() for name, thing in self._objects(engine).items()})

    def resume(self, engine: Engine) -> None:
        """Load the checkpoint, if there is one.

        Raises:
            ValueError: the file cannot be read or belongs to another training.
        """
        if not self.path.is_file():
            return
        try:
            CheckpointLoader(str(self.path), self._objects(engine), name=__name__, map_location="cpu")(engine)
        except Exception as error:  # a damaged file can raise nearly anything
            raise ValueError(
                f"the checkpoint must be one of this training, got '{self.path}' ({str(error).splitlines()[0]})"
            ) from error


class GradientNorm:
    """Measures, and optionally clips, the Euclidean norm of the gradient before every optimiser step of a MONAI trainer.

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
            RuntimeError: the norm is not finite. The weights are as they were after the last good step. (With a gradient
                scaler no error is raised: it leaves such steps out.)
        """
        if not steps_now(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        parameters = [p for group in engine.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if engine.scaler is None and not math.isfinite(float(norm)):
            loss = float(engine.state.output[CommonKeys.LOSS])
            raise RuntimeError(
                f"the gradient must be finite, got norm {float(norm)}, loss {loss} at iteration {engine.state.iteration}"
            )
        if math.isfinite(self.max_norm):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
        engine.state.output["gradient_norm"] = norm


def training_scalars(optimizer: torch.optim.Optimizer) -> Callable[[Any], dict[str, float]]:
    """The ``output_transform`` of a ``TensorBoardStatsHandler``: loss, learning rate and, where measured, gradient norm."""

    def scalars(output: Any) -> dict[str, float]:
        item = output[0] if isinstance(output, Sequence) else output
        found = {"learning_rate": float(optimizer.param_groups[0]["lr"])}
        return found | {name: float(item[name]) for name in (CommonKeys.LOSS, "gradient_norm") if name in item}

    return scalars
