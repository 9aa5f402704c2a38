"""Selectors: which candidates are kept, and why the others are not.

The judge is an independent critic, never the guide, for which a guided sample is an adversarial
example.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from monai_histodiff.data.pixels import centre_crop, thumbnails, to_unit
from monai_histodiff.selection.copies import copy_distances, copy_threshold
from monai_histodiff.selection.critic import PatchCritic

__all__ = ["ACCEPTED", "CentroidSelector", "Selection", "Selector", "select"]

ACCEPTED = "accepted"


@dataclass(frozen=True)
class Selection:
    """The outcome for each candidate.

    Attributes:
        keep: bool, shape ``N``.
        confidence: calibrated probability of the intended class, shape ``N``.
        distance: distance to the nearest real training patch, shape ``N``.
        nearest: index of that patch, shape ``N``.
        reasons: ``"accepted"``, or why the candidate was rejected.
    """

    keep: Tensor
    confidence: Tensor
    distance: Tensor
    nearest: Tensor
    reasons: list[str]

    def counts(self) -> dict[str, int]:
        """Number of rejected candidates for each reason."""
        return dict(Counter(r for r in self.reasons if r != ACCEPTED))


def select(
    probabilities: Tensor,
    labels: Tensor,
    distance: Tensor,
    nearest: Tensor,
    threshold: float,
    copy_threshold: float = 0.0,
) -> Selection:
    """Keep the candidates whose intended class is confident and which are no copies.

    Args:
        probabilities: calibrated, shape ``N x K``.
        labels: intended classes, shape ``N``.
        distance: distance to the nearest real training patch, shape ``N``.
        nearest: index of that patch, shape ``N``.
        threshold: lowest accepted probability of the intended class.
        copy_threshold: candidates nearer than this are rejected.
    """
    confidence = probabilities.gather(1, labels[:, None])[:, 0]

    def reason(c: float, d: float) -> str:
        if not math.isfinite(c + d):
            return "not finite"
        return (
            "low confidence" if c < threshold else "near copy" if d < copy_threshold else ACCEPTED
        )

    reasons = [reason(c, d) for c, d in zip(confidence.tolist(), distance.tolist(), strict=True)]
    keep = torch.tensor([r == ACCEPTED for r in reasons], dtype=torch.bool)
    return Selection(keep, confidence, distance, nearest, reasons)


class Selector:
    """Candidates to a :class:`~monai_histodiff.selection.selector.Selection`: confident for the
    critic, and no copies.

    Args:
        critic: judges the candidates.
        real: real training patches, ``M x 3 x H x W``, uint8 or in [0, 1]: what must not be
            copied.
        groups: the group of each real patch, from which the copy threshold is calibrated.
        threshold: lowest accepted confidence; the critic's own by default.
        refuse_copies: reject what is nearer to a real patch than real patches of other groups are.
            Variations of real patches (a sampler's ``strength`` below 1) are near their sources by
            design, and are not refused for it.
    """

    def __init__(
        self,
        critic: PatchCritic,
        real: Tensor,
        groups: Sequence[str],
        threshold: float | None = None,
        refuse_copies: bool = True,
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self.critic, self.real = (
            critic,
            thumbnails(real),
        )  # once: patches are compared as thumbnails
        self.threshold = float(critic.threshold) if threshold is None else threshold
        self.copy_threshold = copy_threshold(self.real, groups) if refuse_copies else 0.0

    def __call__(
        self, patches: Tensor, labels: Sequence[int] | Tensor, origins: Tensor | None = None
    ) -> Selection:
        """Judge candidate patches.

        Args:
            patches: ``N x 3 x H x W``.
            labels: their intended classes.
            origins: of variations, see :meth:`PatchCritic.probabilities`; ``None``: all members of the
                critic judge.
        """
        wanted = torch.as_tensor(labels, dtype=torch.long)
        distance, nearest = copy_distances(patches, self.real)
        probabilities = self.critic.probabilities(patches, origins)
        return select(
            probabilities, wanted, distance, nearest, self.threshold, self.copy_threshold
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The thresholds in force."""
        return {
            "threshold": self.threshold,
            "copy_threshold": self.copy_threshold,
            "temperature": float(self.critic.temperature),
        }


class CentroidSelector:
    """Keeps a candidate if, of all class centroids of the labelled patches, that of its own class
    is nearest.

    The rule of HistoDiffusion (Ye et al. 2023, arXiv:2308.04020), whose code takes L2-normalised
    features of a classifier fitted on the labelled patches; here those of the critic's members,
    one after another. Where the published code sorts what is left by distance and keeps a fixed
    number, :func:`~monai_histodiff.sample_candidates` keeps the first ones. Nothing is calibrated,
    and near copies are not refused. In ``bundles/histopathology_guidance/configs/published.yaml``.

    Args:
        critic: its members must be :class:`~monai_histodiff.PatchClassifier`.
        images: labelled patches, ``M x 3 x H x W``, uint8 or in [0, 1].
        labels: their classes, every class at least once.
        size: height and width of the centre crop from which the centroids are made: that of the
            candidates.

    Raises:
        ValueError: a class has no patch.
    """

    def __init__(
        self, critic: PatchCritic, images: Tensor, labels: Tensor, size: int = 128
    ) -> None:
        counts = torch.bincount(labels, minlength=critic.num_classes)
        if bool((counts == 0).any()):
            raise ValueError(
                f"a centroid needs at least one patch of its class, got none of class {int(counts.argmin())}"
            )
        self.critic, self.real = critic, thumbnails(images)
        features = self._features(centre_crop(images, size))
        self.centroids = normalize(
            torch.stack([features[labels == k].mean(0) for k in range(critic.num_classes)])
        )

    def __call__(self, patches: Tensor, labels: Any, origins: Tensor | None = None) -> Selection:
        """Judge candidate patches, ``N x 3 x H x W``, of the intended classes; the confidence is
        (1 + cosine) / 2. The published
        method makes no variations: ``origins`` are not read.
        """
        wanted = torch.as_tensor(labels, dtype=torch.long)
        cosine = self._features(patches) @ self.centroids.T
        distance, nearest = copy_distances(patches, self.real)
        keep = cosine.argmax(1) == wanted
        confidence = (1 + cosine.gather(1, wanted[:, None])[:, 0]) / 2
        return Selection(
            keep,
            confidence,
            distance,
            nearest,
            [ACCEPTED if k else "another centroid is nearer" for k in keep.tolist()],
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The rule in force."""
        return {"rule": "nearest centroid"}

    @torch.no_grad()
    def _features(self, patches: Tensor, batch_size: int = 64) -> Tensor:
        found: list[Tensor] = []
        heads = [member.get_submodule("resnet.fc") for member in self.critic.members]
        hooks = [
            head.register_forward_pre_hook(
                lambda _, inputs: found.append(normalize(inputs[0].float()).cpu())
            )
            for head in heads
        ]
        try:
            parts = []
            for part in patches.split(batch_size):
                self.critic(to_unit(part).to(self.critic.temperature.device))
                parts.append(torch.cat(found, 1))
                found.clear()
        finally:
            for hook in hooks:
                hook.remove()
        return normalize(torch.cat(parts))
