"""The sampler of a pre-trained bundle, in one call."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import torch

from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.diffusion.sources import Sources

__all__ = ["pretrained_sampler"]


def pretrained_sampler(
    bundle_dir: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    few_steps: bool = True,
    **changes: Any,
) -> GuidedSampler:
    """A sampler of a bundle's model, such as ``bundles/histopathology_ldm``: after the bundle's
    stored exemplars, or after those that are given to it.

    Args:
        bundle_dir: the bundle.
        device: where to put the network.
        few_steps: take the student, ``models/few_steps.pt``: four evaluations of the network for
            a patch. Otherwise ``models/model.pt``.
        changes: arguments of :class:`GuidedSampler`, or settings, by name; see
            :meth:`SamplingSettings.pretrained` for those that the student has.

    Raises:
        FileNotFoundError: the folder is not a bundle, or has no such weights.
        TypeError: there is no argument or setting of that name.
        ValueError: a setting is out of range, or one that the student was not taught.
    """
    chosen = {f.name: changes.pop(f.name) for f in fields(SamplingSettings) if f.name in changes}
    settings = SamplingSettings.pretrained(few_steps, **chosen)
    load = LatentDiffusion.few_steps_from_bundle if few_steps else LatentDiffusion.from_bundle
    model = load(bundle_dir, device)
    sources = changes.pop("sources", None) or Sources.from_bundle(bundle_dir)
    return GuidedSampler(model, sources=sources, settings=settings, **changes)
