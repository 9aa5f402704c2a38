"""What the unlabelled patches of the target are taken for: sources of further patches."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.critic import PatchCritic

__all__ = ["assumed_labels", "sure_labels"]


def sure_labels(probabilities: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The probability ``N`` of the most probable class of each row of ``N x K``, and that class,
    or -1 where it is below the threshold (Lee 2013).
    """
    confidence, label = probabilities.max(1)
    return confidence, torch.where(confidence >= threshold, label, -1)


def assumed_labels(known: PatchSet, count: int, critic: PatchCritic | None, size: int) -> Tensor:
    """The class that each known patch is taken for: of labelled ones their label, of others what
    the critic finds in their crops with at least its threshold of confidence (Lee 2013).

    Args:
        known: patches of which the first ``count`` are labelled, see :meth:`PatchSet.extend`;
            labels of the others are not read.
        count: how many are labelled.
        critic: fitted on those; ``None``: the others stay unlabelled.
        size: height and width of the crops that it judges.

    Returns:
        Class indices, int64, shape ``len(known)``; -1 where the critic is not sure.
    """
    labels = torch.full((len(known),), -1, dtype=torch.long)
    labels[:count] = known[:count].labels
    if len(known) > count and critic is not None:
        found = critic.of_patches(known[count:], size)
        labels[count:] = sure_labels(found, float(critic.threshold))[1]
    return labels
