"""The sources of a run: the known patches of which a class is given, or found by the critic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.selection.fitting import check_fitted

__all__ = ["assumed_labels", "known_sources", "sure_labels"]

BATCH = 64  # latents decoded at once
Latents = Sequence[Mapping[str, Any]]


def known_sources(
    model: LatentDiffusion,
    latents: Latents,
    known: PatchSet,
    labelled: PatchSet,
    critic: PatchCritic,
    size: int,
    pseudo_labels: bool = True,
    max_sources: int = 400,
    seed: int = 0,
) -> Sources:
    """Sources of each class: the labelled patches, and those of the others that the critic is sure
    of, see :func:`~monai_histodiff.selection.assumed_labels`.

    An encoding shows a random part of its patch in other colours. Of an unlabelled patch it is a
    source unless the critic, shown it decoded, finds another class more probable. Where a class
    has more than ``max_sources``, they are of as many patches as can be, of labelled ones first.

    Args:
        model: whose latents they are.
        latents: of the known patches, from :func:`monai_histodiff.diffusion.encode_latents`.
        known: the labelled patches, in order, and others after them.
        labelled: the patches that the critic was fitted on.
        critic: judges the others.
        size: height and width of the crops that it judges.
        pseudo_labels: whether others are sources.
        max_sources: encodings of each class, at the most.
        seed: draws them.

    Raises:
        ValueError: ``max_sources`` is below 1, or the critic was fitted on other classes or
            patches than the labelled ones, by their numbers.
    """
    check_fitted(critic, labelled)
    if max_sources < 1:
        raise ValueError(f"max_sources must be at least 1, got {max_sources}")
    taken_for = assumed_labels(known, len(labelled), critic if pseudo_labels else None, size)
    order = _order([item["row"] for item in latents], len(labelled), seed)
    found: list[Mapping[str, Any]] = []
    for k in range(critic.num_classes):
        own = [latents[i] for i in order if taken_for[latents[i]["row"]] == k]
        kept = 0
        while own and kept < max_sources:
            part, own = own[: max_sources - kept], own[max_sources - kept :]
            doubtful = [item for item in part if item["row"] >= len(labelled)]
            shown = iter(_shown(model, doubtful, critic, size))
            for item in part:
                if item["row"] < len(labelled) or next(shown) == k:
                    found.append({**item, "label": k})
                    kept += 1
    return Sources.of(found, critic.num_classes)


def _order(rows: Sequence[int], labelled: int, seed: int) -> list[int]:
    """Places of encodings: the first of each patch, then the second; labelled patches first, and
    else at random.
    """
    generator = torch.Generator().manual_seed(seed)
    count = max(rows, default=-1) + 1
    chance = torch.rand(count, generator=generator, dtype=torch.float32).tolist()
    times: Counter[int] = Counter()
    keys = []
    for row in rows:
        keys.append((times[row], row >= labelled, chance[row]))
        times[row] += 1
    return sorted(range(len(rows)), key=keys.__getitem__)


@torch.no_grad()
def _shown(model: LatentDiffusion, latents: Latents, critic: PatchCritic, size: int) -> list[int]:
    """The class that is most probable of each latent, decoded."""
    found: list[int] = []
    for start in range(0, len(latents), BATCH):
        z = torch.stack([torch.as_tensor(v["image"]) for v in latents[start : start + BATCH]])
        patches = model.decode(z.to(model.latent_mean.device, torch.float32))
        found += critic.probabilities(centre_crop(patches, size)).argmax(1).tolist()
    return found


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
