"""Weights and states of a training: moving averages, files that survive a kill, epochs that can be
repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.handlers import CheckpointLoader
from monai.utils import set_determinism
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_histodiff.training.steps import steps_now
from monai_histodiff.utils.counts import check_flags
from monai_histodiff.utils.files import first_line
from monai_histodiff.utils.global_state import keep_random_state
from monai_histodiff.utils.processes import first_rank, process_rank
from monai_histodiff.utils.seeds import candidate_seed
from monai_histodiff.utils.weights import read_state, save_weights, write_state

MADE = "made_with"

__all__ = ["EMAHandler", "EpochSeed", "TrainingCheckpoint", "WeightsSaver"]


class EpochSeed:
    """Seeds all random numbers at the start of each epoch, as a function of the seed, the epoch
    and the process's rank alone.

    A resumed training then repeats the epochs of the uninterrupted one, without a saved state of
    any generator, and each process of a distributed training draws its own patches. The random
    state that the caller had is given back when the training is complete.

    Args:
        seed: of the training.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._give_back: Callable[[], None] | None = None

    def attach(self, engine: Engine) -> None:
        """Seed at the start of every epoch, before its first batch is drawn.

        A start raises ``ValueError`` where the loader's workers are persistent: their random
        numbers would go on from epoch to epoch.
        """
        engine.add_event_handler(Events.STARTED, self._keep)
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _keep(self, engine: Engine) -> None:
        if getattr(engine.state.dataloader, "persistent_workers", False):
            raise ValueError(
                "the workers of a training must be made anew for each epoch, which seeds them, "
                "got a loader with persistent_workers=True: set it to False"
            )
        self._give_back = keep_random_state()

    def _complete(self) -> None:
        if self._give_back is not None:
            self._give_back()
        self._give_back = None

    def __call__(self, engine: Engine) -> None:
        value = candidate_seed(self.seed, engine.state.epoch, process_rank())
        set_determinism(value)
        # transforms that run in this process
        set_rnd(getattr(engine.state.dataloader, "dataset", None), value)


class TrainingCheckpoint:
    """Saves all that a training needs at the end of an epoch, and resumes from it when the
    training starts again.

    One file, ``training.pt``, replaced as a whole: a kill or a full disk while it is written
    leaves the previous one, which MONAI's ``CheckpointSaver`` (in place, the old one removed
    first) would not. Every process reads it; one writes it. Use with :class:`EpochSeed`, which
    makes the epochs that follow those of the uninterrupted training.

    Args:
        save_dir: the folder.
        objects: what has a ``state_dict``, by name: network, optimiser, schedule, averaged
            weights. The trainer, and its gradient scaler if it has one, are added.
        interval: epochs between saves.
        made_with: plain values by which this training is told from others, such as the options and
            a hash of the data: a checkpoint of others is refused.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        objects: Mapping[str, Any],
        interval: int = 1,
        made_with: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.interval = Path(save_dir) / "training.pt", interval
        self.objects, self.made_with = dict(objects), dict(made_with or {})

    def attach(self, engine: Engine) -> None:
        """Resume when the engine starts; save at the end of every ``interval``-th epoch."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def _objects(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)
        return {
            **self.objects,
            **({"scaler": scaler} if scaler is not None else {}),
            "trainer": engine,
        }

    def __call__(self, engine: Engine) -> None:
        if first_rank():
            state = {name: thing.state_dict() for name, thing in self._objects(engine).items()}
            write_state(self.path, {**state, MADE: self.made_with})

    def resume(self, engine: Engine) -> None:
        """Load the checkpoint, if there is one.

        Raises:
            ValueError: the file cannot be read or belongs to another training, or this one has
                had more epochs than ``max_epochs``.
        """
        if not self.path.is_file():
            return
        try:
            state = read_state(self.path)
            self._check_alike(state.get(MADE, {}))
            trainer = state["trainer"]
            done, most = trainer["iteration"] // trainer["epoch_length"], engine.state.max_epochs
            if most is None or done <= most:
                CheckpointLoader(
                    str(self.path), self._objects(engine), name=__name__, map_location="cpu"
                )(engine)
        except Exception as error:  # a damaged file can raise nearly anything
            raise ValueError(
                f"the checkpoint must be one of this training, got '{self.path}' "
                f"({first_line(error)}): continue in the folder of that training, or "
                "remove the file to begin anew"
            ) from error
        if most is not None and done > most:
            raise ValueError(
                f"max_epochs must be at least the {done} that this training has had, got {most} "
                f"with '{self.path}': raise it, or use the weights as they are"
            )

    def _check_alike(self, known: Mapping[str, Any]) -> None:
        for name, value in self.made_with.items():
            if name in known and known[name] != value:
                raise ValueError(f"{name} is {value!r}, and was {known[name]!r}")


class EMAHandler:
    """Keeps an exponential moving average of a network's weights, with warm-up
    ``min(decay, (1 + n) / (10 + n))``.

    Args:
        network: the network in training.
        decay: the final decay for each optimiser step.
        adopt: at completion, give the network its averaged weights.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, adopt: bool = False) -> None:
        check_flags(adopt=adopt)
        self.network, self.decay, self.adopt = network, decay, adopt
        self.average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False
        )

    def attach(self, engine: Engine) -> None:
        """Update after every iteration of the trainer in which the optimiser steps."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        if self.adopt:
            engine.add_event_handler(
                Events.COMPLETED,
                lambda: self.network.load_state_dict(self.average.module.state_dict()),
            )

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
    """Writes a module's ``state_dict`` atomically every few epochs and at the end; in one process
    of a distributed training.

    Args:
        network: the module to save; the network of ``ema``, or one that contains it.
        save_dir: the folder.
        filename: of the file in it.
        interval: epochs between saves.
        ema: save these averaged weights in place of the current ones.
    """

    def __init__(
        self,
        network: nn.Module,
        save_dir: str | os.PathLike[str],
        filename: str = "model.pt",
        interval: int = 1,
        ema: EMAHandler | None = None,
    ) -> None:
        self.network, self.interval, self.ema = network, interval, ema
        self.path = Path(save_dir) / filename

    def attach(self, engine: Engine) -> None:
        """Save at the end of every ``interval``-th epoch and at completion."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if first_rank():
            with self.ema.applied() if self.ema else nullcontext():
                self.save()

    def save(self) -> None:
        """Write the weights that the network holds."""
        save_weights(self.path, self.network.state_dict())
