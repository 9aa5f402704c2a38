"""Selection numerics: temperature, the threshold for a target precision, and the choice among candidates.

Pure functions of tensors. The judge is an independent critic, never the guide, for which a guided sample is an
adversarial example.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ACCEPTED", "Selection", "best_scale", "farthest_first", "fit_temperature", "precision_threshold", "select"]

ACCEPTED = "accepted"


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the cross-entropy of ``softmax(logits / T)`` (Guo et al. 2017, arXiv:1706.04599).

    Args:
        logits: shape ``N x K``, of data that the classifier was not fitted on.
        labels: class indices, shape ``N``.

    Returns:
        A temperature in [0.05, 20]; the bounds are met when the logits are perfect or carry nothing.

    Raises:
        ValueError: there is no sample.
    """
    if len(labels) == 0:
        raise ValueError("a temperature needs at least one sample, got none")

    def loss(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / torch.exp(torch.tensor(log_t)), labels))

    low, high = torch.log(torch.tensor([0.05, 20.0])).tolist()
    for _ in range(60):  # the loss is quasi-convex in log T (convex in 1 / T): ternary search
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return float(torch.exp(torch.tensor((low + high) / 2)))


def precision_threshold(probabilities: Tensor, labels: Tensor, target: float = 0.9, least: int = 10) -> tuple[float, float]:
    """The lowest confidence at which labels assigned by a critic are right with the target precision.

    Every pair of a sample and a class whose probability reaches the threshold counts as one assignment, right if the
    class is the sample's label. The threshold is never below chance, ``1 / K``: where the classes are easy to tell apart, a
    modest target would else let patches through that the critic takes for another class.

    Args:
        probabilities: calibrated, shape ``N x K``, of held-out real data.
        labels: class indices, shape ``N``.
        target: wanted precision, in (0, 1].
        least: assignments that an estimate must rest on, at the least.

    Returns:
        The threshold and the precision reached at it. Where no threshold reaches the target, the one with the highest
        precision is returned: compare the second value with the target.

    Raises:
        ValueError: the target is not in (0, 1], or there are fewer than ``least`` samples.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target precision must lie in (0, 1], got {target}")
    if len(labels) < least:
        raise ValueError(f"a threshold needs at least {least} held-out samples, got {len(labels)}")
    scores, order = probabilities.double().flatten().sort(descending=True)
    right = torch.nn.functional.one_hot(labels, probabilities.shape[1]).flatten()[order].double()
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    last_of_ties = torch.cat([scores[1:] < scores[:-1], torch.tensor([True])])
    allowed = last_of_ties & (torch.arange(1, len(right) + 1) >= least) & (scores >= 1 / probabilities.shape[1])
    reached = (allowed & (precision >= target)).nonzero()
    place = int(reached[-1]) if len(reached) else int(torch.where(allowed, precision, -1.0).argmax())
    return float(scores[place]), float(precision[place])


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
    probabilities: Tensor, labels: Tensor, distance: Tensor, nearest: Tensor, threshold: float, copy_threshold: float = 0.0
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
        return "low confidence" if c < threshold else "near copy" if d < copy_threshold else ACCEPTED

    reasons = [reason(c, d) for c, d in zip(confidence.tolist(), distance.tolist(), strict=True)]
    keep = torch.tensor([r == ACCEPTED for r in reasons], dtype=torch.bool)
    return Selection(keep, confidence, distance, nearest, reasons)


def best_scale(scales: Sequence[float], accepted: Tensor, confidence: Tensor, quota: int, max_candidates: int) -> float:
    """The guidance scale that promises the fullest quotas, from a trial of ``n`` candidates of each class at each scale.

    A class of which a share ``r`` was accepted will fill ``min(1, r * max_candidates / quota)`` of its quota. The mean over
    the classes decides, so that what one class has beyond its quota does not make up for another that has none; among
    equals the share accepted of all, then the mean confidence, then the lower scale.

    Args:
        scales: ``S`` scales.
        accepted: bool, shape ``S x K x n``.
        confidence: calibrated probability of the intended class, of the same shape; not finite counts as 0.
        quota: accepted patches wanted of each class.
        max_candidates: candidates of each class, at the most.

    Raises:
        ValueError: there is no scale, or the trial is not ``S x K x n``.
    """
    if not scales or accepted.ndim != 3 or len(accepted) != len(scales) or accepted.shape != confidence.shape or not accepted.numel():
        shapes = f"{tuple(accepted.shape)} and {tuple(confidence.shape)}"
        raise ValueError(f"a trial must be S x K x n for S scales, got {shapes} for {len(scales)} scales")
    rate = accepted.double().mean(2)
    filled = (rate * max_candidates / quota).clamp(max=1).mean(1)
    sure = confidence.double().nan_to_num(0, 0, 0).mean((1, 2))
    ranks = zip(filled.tolist(), rate.mean(1).tolist(), sure.tolist(), [-s for s in scales], strict=True)
    return -max(ranks)[3]


def farthest_first(features: Tensor, count: int) -> Tensor:
    """Indices of the rows that cover all others best: greedy k-centre (Gonzalez 1985), from the row nearest to the mean.

    Each next row is the one farthest from those chosen so far, so that of two that are alike one comes late.

    Args:
        features: shape ``N x D``.
        count: rows wanted, from 1 to ``N``.

    Returns:
        Indices in the order of choice, int64, shape ``count``.

    Raises:
        ValueError: ``count`` is not from 1 to ``N``.
    """
    if not 1 <= count <= len(features):
        raise ValueError(f"count must lie from 1 to the {len(features)} rows, got {count}")
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    distance = torch.full((len(features),), math.inf).to(features)
    while len(chosen) < count:
        distance = torch.minimum(distance, (features - features[chosen[-1]]).square().sum(1))
        distance[chosen[-1]] = -1  # twins of a chosen row remain eligible, the row itself does not
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)
