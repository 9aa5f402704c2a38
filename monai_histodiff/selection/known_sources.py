"""The sources of a run: the known patches of which a class is given, or found by the critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.selection.pseudo_labels import assumed_labels, sure_labels

__all__ = ["known_sources"]

Latents = Sequence[Mapping[str, Any]]


def known_sources(
    model: LatentDiffusion,
    latents: Latents,
    known: PatchSet,
    labelled: PatchSet,
    critic: PatchCritic,
    size: int,
    pseudo_labels: bool | None = None,
) -> Sources:
    """Sources of each class: the labelled patches, and those of the others that the critic is sure
    of, see :func:`~monai_histodiff.selection.assumed_labels`.

    An encoding shows a random part of its patch in other colours. Of an unlabelled patch it is a
    source only where the critic is as sure of it, decoded, as of the patch.

    Args:
        model: whose latents they are.
        latents: of the known patches, from :func:`monai_histodiff.diffusion.encode_latents`.
        known: the labelled patches, in order, and others after them.
        labelled: the patches that the critic was fitted on.
        critic: whose second recipe learned from the unlabelled patches as well.
        size: height and width of the centre crops that it judges.
        pseudo_labels: whether others are sources; ``None``: where the second recipe made the
            better critic.
    """
    trusted = critic.recipe == 1 if pseudo_labels is None else pseudo_labels
    taken_for = assumed_labels(known, len(labelled), critic if trusted else None, size)
    found = taken_for[torch.tensor([item["row"] for item in latents], dtype=torch.long)]
    assumed = [i for i, item in enumerate(latents) if item["row"] >= len(labelled)]
    assumed = [i for i in assumed if found[i] >= 0]
    if assumed:
        shown = _shown(model, [latents[i] for i in assumed], critic, size)
        found[assumed] = torch.where(shown == found[assumed], shown, -1)
    named = [{**item, "label": int(k)} for item, k in zip(latents, found, strict=True) if k >= 0]
    return Sources.of(named, critic.num_classes)


@torch.no_grad()
def _shown(
    model: LatentDiffusion, latents: Latents, critic: PatchCritic, size: int, batch_size: int = 64
) -> Tensor:
    """The class that each latent, decoded, is surely of; -1 where the critic is not sure."""
    z = torch.stack([torch.as_tensor(item["image"]) for item in latents])
    parts = z.to(model.latent_mean.device, torch.float32).split(batch_size)
    found = [critic.probabilities(centre_crop(model.decode(part), size)) for part in parts]
    return sure_labels(torch.cat(found), float(critic.threshold))[1]
