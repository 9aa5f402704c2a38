"""How weights are sampled from: as in the run that made them, but for what is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from monai_histodiff.bundle.run_folder import MODELS, RunFolder
from monai_histodiff.diffusion.settings import SamplingSettings

__all__ = ["adapted_weights", "chosen_settings", "sampling_of"]


def sampling_of(
    weights_dir: str | os.PathLike[str],
    shipped: Mapping[str, Any],
    own_dir: str | os.PathLike[str],
) -> dict[str, Any]:
    """How the weights of a folder are to be sampled from: the settings, classes and files of the
    run that made them.

    Args:
        weights_dir: ``models`` of a run, or of the bundle.
        shipped: settings and classes of the bundle's own weights.
        own_dir: the folder of these.

    Returns:
        The settings of a :class:`~monai_histodiff.GuidedSampler`, and ``classes``.

    Raises:
        FileNotFoundError: the weights are of a run that did not come to its end, or were taken
            out of its folder: nothing tells how they were sampled from, and of which classes.
        ValueError: a file is missing, damaged, or of another run.
    """
    folder = RunFolder(Path(weights_dir).parent)
    if not (folder.outcome.exists() or folder.record.exists() or folder.generator.exists()):
        if os.path.realpath(weights_dir) == os.path.realpath(own_dir):
            return dict(shipped)
        raise FileNotFoundError(
            f"weights_dir must be 'models' of a run, with its outcome.json beside, or '{own_dir}',"
            f" the bundle's own, got '{weights_dir}', and no '{folder.outcome}', which tells "
            "classes and settings: copy the whole folder of the run"
        )
    folder.check_files(MODELS)
    made = folder.read_outcome()
    return {**shipped, **made["sampling"], "classes": list(made["selection"]["per_class"])}


def adapted_weights(weights_dir: str | os.PathLike[str]) -> Path | None:
    """The generator of a run, ``generator.pt``; ``None`` where none was adapted, and the bundle's
    own is meant.
    """
    path = Path(weights_dir) / "generator.pt"
    return path if path.is_file() else None


def chosen_settings(
    made: Mapping[str, Any], stop: float | None, **chosen: Any
) -> SamplingSettings:
    """Settings of a sampler: those that are chosen, and, where one is ``None``, that of the run
    that made the weights.

    Args:
        made: of :func:`sampling_of`.
        stop: as it is: ``None`` solves to the end.
        chosen: others, by name.

    Raises:
        TypeError, ValueError: as :class:`~monai_histodiff.diffusion.SamplingSettings`.
    """
    own = {f.name: made[f.name] for f in fields(SamplingSettings) if f.name in made}
    given = {name: value for name, value in chosen.items() if value is not None}
    return SamplingSettings(**{**own, **given, "stop": stop})
