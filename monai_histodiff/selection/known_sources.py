"""The sources of a run: the known patches of which a class is given, or found by the critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.selection.pseudo_labels import assumed_labels, target_sources

__all__ = ["known_sources"]


def known_sources(
    latents: Sequence[Mapping[str, Any]],
    known: PatchSet,
    labelled: PatchSet,
    critic: PatchCritic,
    size: int,
    pseudo_labels: bool | None = None,
) -> Sources:
    """Sources of each class: the labelled patches, and those of the others that the critic is sure
    of, see :func:`~monai_histodiff.selection.assumed_labels`.

    Args:
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
    return target_sources(latents, taken_for, critic.num_classes)
