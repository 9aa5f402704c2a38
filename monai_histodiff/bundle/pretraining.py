"""What one pre-training is told from another by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_histodiff.bundle.running import option_values, running_config, without_places
from monai_histodiff.data.patch_set import PatchSet

__all__ = ["check_steps", "made_with"]

# how long, how fast, and what is told of it: a training that goes on may change them
FREE = {
    *("steps", "accumulation_steps", "save_interval", "log_every"),
    *("num_workers", "bfloat16", "tensorboard"),
}


def made_with(name: str, patches: PatchSet) -> dict[str, Any]:
    """The options of the running config that a pre-training cannot change when it is resumed, and
    the digest of its patches, for a checkpoint. Empty where no config is running.

    Args:
        name: the config's, in the table of options.
        patches: it is trained on.
    """
    if (running := running_config()) is None:
        return {}
    kept = without_places(name, option_values(name, running[0]), FREE)
    return {**kept, "the digest of the patches": patches.digest()}


def check_steps(values: Mapping[str, Any]) -> None:
    """A training is of whole epochs, at whose ends it is saved.

    Raises:
        ValueError: ``steps`` are others.
    """
    steps, length = values["steps"], values["epoch_length"]
    if steps % length:
        more = steps + length - steps % length
        raise ValueError(
            f"steps must be a multiple of epoch_length, {length}, after which it is saved, "
            f"got {steps}: give --steps {more}, or --epoch_length {_divisor(steps, length)}"
        )


def _divisor(steps: int, length: int) -> int:
    """The largest number of steps, up to ``length``, that divides all."""
    return next(n for n in range(min(steps, length), 0, -1) if steps % n == 0)
