"""Selectors: which candidates are kept, and why the others are not.

The judge is an independent critic, never the guide, for which a guided sample is an adversarial
example.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop, check_batch, thumbnails
from monai_histodiff.selection.copies import CopyGate, copy_distances, copy_gate
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.selection.fitting import checked_labels
from monai_histodiff.selection.reasons import Reason

__all__ = ["CENTROIDS", "CentroidSelector", "Selection", "Selector", "select"]

CENTROIDS = "nearest centroid"  # the published rule, as a run tells it

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The outcome for each candidate.

    Attributes:
        confidence: the critic's probability of the intended class, shape ``N``.
        distance: distance to the nearest real training patch, shape ``N``.
        nearest: index of that patch, shape ``N``.
        reasons: :attr:`Reason.accepted`, or why the candidate was rejected.
    """

    confidence: Tensor
    distance: Tensor
    nearest: Tensor
    reasons: list[Reason]

    @property
    def keep(self) -> Tensor:
        """Whether a candidate is accepted: bool, shape ``N``."""
        kept = [reason == Reason.accepted for reason in self.reasons]
        return torch.tensor(kept, dtype=torch.bool, device="cpu")


def select(
    probabilities: Tensor,
    labels: Tensor,
    distance: Tensor,
    nearest: Tensor,
    threshold: float,
    copy_threshold: float = 0.0,
) -> Selection:
    """Keep the candidates whose intended class is confident, than which no other is more probable,
    and which are no copies.

    Args:
        probabilities: of the critic, shape ``N x K``.
        labels: intended classes, shape ``N``.
        distance: distance to the nearest real training patch, shape ``N``.
        nearest: index of that patch, shape ``N``.
        threshold: lowest accepted probability of the intended class.
        copy_threshold: candidates nearer than this are rejected.

    Raises:
        ValueError: a threshold is not a number in its range, a label is not one of the classes, or
            the parts differ in length.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
    if not 0 <= copy_threshold < math.inf:
        raise ValueError(f"copy threshold must be at least 0 and finite, got {copy_threshold}")
    if len(set(counts := [*map(len, (probabilities, labels, distance, nearest))])) > 1:
        raise ValueError(f"each candidate needs one row of each part, got {counts}")
    labels = checked_labels(labels, *probabilities.shape).to(probabilities.device)
    confidence = probabilities.gather(1, labels[:, None])[:, 0]
    finite = probabilities.isfinite().all(1) & distance.isfinite()
    beaten = (probabilities > confidence[:, None]).any(1)

    def reason(c: float, other: bool, d: float, known: bool) -> Reason:
        if not known:
            return Reason.not_finite
        if c < threshold:
            return Reason.low_confidence
        if other:
            return Reason.other_class
        return Reason.near_copy if d < copy_threshold else Reason.accepted

    found = (confidence, beaten, distance, finite)
    reasons = [reason(*row) for row in zip(*(part.tolist() for part in found), strict=True)]
    return Selection(confidence, distance, nearest, reasons)


class Selector:
    """Candidates to a :class:`~monai_histodiff.selection.selector.Selection`: confident for the
    critic, and no copies.

    A variation has the class of its source, which a label tells, or a critic that is sure of the
    whole patch. It is accepted unless another class is more probable: were the critic to be as
    sure of it, too, what it finds easy would be all that a classifier is shown. Of others it must
    be: their class is only claimed.

    Args:
        critic: judges the candidates.
        real: real training patches, ``M x 3 x H x W``, uint8 or in [0, 1]: what must not be
            copied.
        groups: the group of each real patch, from which the copy threshold is calibrated.
        threshold: lowest accepted confidence; by default the critic's own, and none for
            variations.
        variations: the candidates are variations of real patches (a sampler's ``strength`` below
            1). They are near their sources by design, and are not refused for it; others are where
            they are nearer to a real patch than real patches of other groups are.

    Raises:
        ValueError: a threshold or the critic's temperature is not a number in its range, there is
            no real patch, or one is not finite or has no group.
    """

    def __init__(
        self,
        critic: PatchCritic,
        real: Tensor,
        groups: Sequence[str],
        threshold: float | None = None,
        variations: bool = False,
    ) -> None:
        own = 0.0 if variations else float(critic.threshold)
        self.threshold, self.variations = own if threshold is None else threshold, variations
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}")
        if not 0 < float(critic.temperature) < math.inf:
            raise ValueError(
                f"the critic's temperature must be above 0, got {float(critic.temperature)}"
            )
        check_batch(real, finite=False)
        # once: patches are compared as thumbnails
        self.critic, self.real = critic, thumbnails(real)
        self.gate = CopyGate(0.0, 0, 0) if variations else copy_gate(self.real, groups)
        self.copy_threshold = self.gate.threshold
        if self.gate.twins:
            logger.warning(
                "%d of %d real patches have a twin in another group (duplicates, blank tiles): "
                "they are set aside where the copy threshold, %.3f, is calibrated",
                self.gate.twins,
                len(real),
                self.copy_threshold,
            )

    @classmethod
    def for_patches(
        cls, critic: PatchCritic, patches: PatchSet, size: int, strength: float = 1.0
    ) -> Selector:
        """A selector of candidates that are made from, or after, known patches.

        Args:
            critic: judges the candidates.
            patches: all that must not be copied.
            size: height and width of their centre crops.
            strength: of the sampler; below 1 candidates are variations.

        Raises:
            ValueError: as for the class, or a patch is smaller than ``size``.
        """
        own = patches.images(size)
        return cls(critic, own, patches.groups, variations=strength < 1)

    def __call__(
        self, patches: Tensor, labels: Sequence[int] | Tensor, origins: Tensor | None = None
    ) -> Selection:
        """Judge candidate patches.

        Args:
            patches: ``N x 3 x H x W``.
            labels: their intended classes.
            origins: of variations, see :meth:`PatchCritic.probabilities`; ``None``: all members of
                the critic judge.

        Raises:
            ValueError: these are no patches, or labels or origins are not one for each.
        """
        check_batch(patches, finite=False)
        wanted = checked_labels(labels, len(patches), self.critic.num_classes)
        distance, nearest = copy_distances(patches, self.real)
        probabilities = self.critic.probabilities(patches, origins)
        limits = (self.threshold, self.copy_threshold)
        return select(probabilities, wanted, distance, nearest, *limits)

    @property
    def settings(self) -> dict[str, Any]:
        """The thresholds in force, that of sources, and the real patches that the copy threshold
        rests on.
        """
        return {
            "threshold": self.threshold,
            "source_threshold": float(self.critic.threshold),
            "copy_threshold": self.copy_threshold,
            "copy_twins": self.gate.twins,
            "copy_compared": self.gate.compared,
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
        ValueError: these are no patches, labels are not one for each, or a class has no patch.
    """

    def __init__(
        self, critic: PatchCritic, images: Tensor, labels: Tensor, size: int = 128
    ) -> None:
        check_batch(images)
        labels = checked_labels(labels, len(images), critic.num_classes)
        counts = torch.bincount(labels, minlength=critic.num_classes)
        if bool((counts == 0).any()):
            raise ValueError(
                "a centroid needs at least one patch of its class, got none of class "
                f"{int(counts.argmin())}"
            )
        self.critic, self.real = critic, thumbnails(images)
        features = self._features(centre_crop(images, size))
        self.centroids = normalize(
            torch.stack([features[labels == k].mean(0) for k in range(critic.num_classes)])
        )

    @classmethod
    def for_patches(cls, critic: PatchCritic, patches: PatchSet, size: int) -> CentroidSelector:
        """A selector whose centroids are those of labelled patches, of their centre crops."""
        return cls(critic, patches.images(size), patches.labels, size)

    def __call__(self, patches: Tensor, labels: Any, origins: Tensor | None = None) -> Selection:
        """Judge candidate patches, ``N x 3 x H x W``, of the intended classes; the confidence is
        (1 + cosine) / 2. The published method makes no variations: ``origins`` are not read.
        """
        check_batch(patches, finite=False)
        wanted = checked_labels(labels, len(patches), self.critic.num_classes)
        cosine = self._features(patches) @ self.centroids.T
        distance, nearest = copy_distances(patches, self.real)
        known = cosine.isfinite().all(1)
        own = (cosine.argmax(1) == wanted).tolist()
        confidence = (1 + cosine.gather(1, wanted[:, None])[:, 0]).clamp(0, 2) / 2
        reasons = [
            Reason.not_finite if not k else Reason.accepted if o else Reason.other_centroid
            for k, o in zip(known.tolist(), own, strict=True)
        ]
        return Selection(confidence, distance, nearest, reasons)

    @property
    def settings(self) -> dict[str, Any]:
        """The rule in force."""
        return {"rule": CENTROIDS}

    @torch.no_grad()
    def _features(self, patches: Tensor) -> Tensor:
        """Of each member, what its last layer takes, of length 1; together of length 1 too."""
        found: list[Tensor] = []
        heads = [member.get_submodule("resnet.fc") for member in self.critic.members]
        hooks = [
            head.register_forward_pre_hook(
                lambda _, inputs: found.append(normalize(inputs[0].float()).cpu())
            )
            for head in heads
        ]
        try:
            self.critic.probabilities(patches)
        finally:
            for hook in hooks:
                hook.remove()
        members = [torch.cat(found[i :: len(heads)]) for i in range(len(heads))]
        return normalize(torch.cat(members, 1))
