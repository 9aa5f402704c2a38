"""What a run has made, for use after it: how its weights are sampled from, and its critic."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from monai_histodiff.bundle.run_folder import MODELS, RunFolder
from monai_histodiff.classifiers.classifier import PatchClassifier
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.utils.weights import read_state

__all__ = ["chosen_settings", "critic_of", "sampling_of"]

SCRATCH = "members.0.resnet.conv1.weight"


def sampling_of(weights_dir: str | os.PathLike[str], shipped: Mapping[str, Any]) -> dict[str, Any]:
    """How the weights of a folder are to be sampled from: the settings, classes and files of the
    run that made them.

    Args:
        weights_dir: ``models`` of a run, or of the bundle.
        shipped: settings and classes of the bundle's own weights, taken where no run made them.

    Returns:
        The settings of a :class:`~monai_histodiff.GuidedSampler`, and ``classes``.

    Raises:
        FileNotFoundError: the weights are of a run that did not come to its end.
        ValueError: a file is missing, damaged, or of another run.
    """
    folder = RunFolder(Path(weights_dir).parent)
    if not (folder.outcome.exists() or folder.record.exists() or folder.generator.exists()):
        return dict(shipped)
    folder.check_files(MODELS)
    made = folder.read_outcome()
    return {**shipped, **made["sampling"], "classes": list(made["selection"]["per_class"])}


def critic_of(
    path: str | os.PathLike[str],
    ldm_dir: str | os.PathLike[str],
    num_classes: int,
    device: str | torch.device = "cpu",
) -> PatchCritic:
    """The critic of a run: of probes of the patch encoder, as ``train.yaml`` makes it, or of
    classifiers from scratch, as ``published.yaml`` does.

    Args:
        path: its file.
        ldm_dir: the bundle with the patch encoder.
        num_classes: number of classes.
        device: where to put it.

    Raises:
        FileNotFoundError, ValueError: as
            :meth:`~monai_histodiff.PatchCritic.load_probes`.
    """
    layer = read_state(path).get(SCRATCH)
    if layer is None:
        return PatchCritic.load_probes(path, ldm_dir, num_classes, device=device)
    network = partial(PatchClassifier, width=len(layer))
    return PatchCritic.load(path, network, num_classes).to(device)


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
