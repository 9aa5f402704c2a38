"""Options of sampling against one another and the generator's schedule, before any work."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.solvers import SAME_TIME, SOLVERS
from monai_histodiff.utils.weights import read_state

__all__ = ["check_sampling", "schedule_of"]

# settings of a sampler whose options have other names
OPTION_OF = {
    "steps": "solver_steps",
    "stop": "solver_stop",
    "scale": "guidance_scale",
    "interval": "guidance_interval",
}
DEFAULTS = {"solver": "dpmpp_2m", "eta": 0.0}  # of a training stage, which has no such option
CHECKED = (*OPTION_OF, *DEFAULTS, "strength", "exemplar_scale")
OF_EXEMPLARS = ("exemplar_mix", "exemplar_noise")


def schedule_of(ldm_dir: str | os.PathLike[str]) -> NoiseSchedule:
    """The noise schedule in the weights of a generator's bundle; no network is built.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: they are damaged, or hold no schedule.
    """
    path = Path(ldm_dir) / "models" / "model.pt"
    state = read_state(path)
    table, flow = (state.get(f"schedule.{name}") for name in ("log_snr_table", "is_flow"))
    if table is None or flow is None:
        raise ValueError(
            f"the weights of a generator must hold its noise schedule, got none in '{path}': save "
            "the state_dict of a whole LatentDiffusion there"
        )
    return NoiseSchedule(table, bool(flow))


def check_sampling(
    values: Mapping[str, Any], schedule: NoiseSchedule, made: Mapping[str, Any] | None = None
) -> None:
    """Refuse options, each within its range, with which no sampler can be built, or of which one
    leaves another without effect.

    Args:
        values: of a training stage; or of inference, where ``None``, but for a ``solver_stop``,
            is as in the run that made the weights.
        schedule: of the generator.
        made: the settings of that run, see :func:`~monai_histodiff.bundle.made.sampling_of`.

    Raises:
        ValueError: with rule, value and remedy.
    """
    settings = {**DEFAULTS, **(made or {})}
    for setting in CHECKED:
        option = OPTION_OF.get(setting, setting)
        if option in values and (values[option] is not None or setting == "stop"):
            settings[setting] = values[option]
    if settings["stop"] is not None:
        if settings["steps"] < 2:
            rule = "solver_steps must be at least 2 with a solver_stop"
            raise ValueError(f"{rule}, got {settings['steps']}: give more")
        _check_stop(float(settings["stop"]), float(settings["strength"]), schedule)
    if settings["eta"] and not SOLVERS[settings["solver"]].stochastic:
        raise ValueError(
            f"eta must be 0 with the solver {settings['solver']}, which draws no noise, got "
            f"{settings['eta']}: give --eta 0, or --solver ddim"
        )
    for option in OF_EXEMPLARS:
        if values.get(option) and not settings["exemplar_scale"]:
            raise ValueError(
                f"{option} must be 0 with an exemplar_scale of 0, which leaves exemplars aside, "
                f"got {values[option]}: leave it out, or give --exemplar_scale 1"
            )
    tried = values.get("guidance_scales", []) if "scale" not in settings else [settings["scale"]]
    if any(tried):
        _check_interval(settings, schedule)


def _check_interval(settings: Mapping[str, Any], schedule: NoiseSchedule) -> None:
    """That the guide acts somewhere between the start of the solver and its stop."""
    low, high = settings["interval"]
    ends = schedule.log_snr(schedule.log_snr_table.new_tensor([settings["strength"], 0.0]))
    first, last = ends.tolist()
    last = last if settings["stop"] is None else settings["stop"]
    if high < first or low > last:
        raise ValueError(
            f"guidance_interval must reach into the log-SNRs that sampling passes, {first:.2f} to "
            f"{last:.2f}, or the guide never acts, got [{low:g}, {high:g}]: give one that does, "
            "or --guidance_scale 0"
        )


def _check_stop(stop: float, strength: float, schedule: NoiseSchedule) -> None:
    """That a solver stops after it starts, and before the schedule ends."""
    table = schedule.log_snr_table
    end = float(schedule.time(table.new_tensor(stop)))
    if end <= 0:
        raise ValueError(
            f"solver_stop must be below {float(table[0]):.2f}, the log-SNR at which the schedule "
            f"of the generator ends, got {stop:g}: give less, or None, which solves to the end"
        )
    if end >= strength - SAME_TIME:
        first = float(schedule.log_snr(torch.tensor(strength, dtype=table.dtype)))
        least = (math.floor(100 * end) + 1) / 100
        raised = f", or the strength to {least:g}" if least <= 1 else ""
        raise ValueError(
            f"solver_stop must lie beyond the log-SNR at which sampling starts, {first:.2f} at a "
            f"strength of {strength:g}, got {stop:g}: raise solver_stop{raised}"
        )
