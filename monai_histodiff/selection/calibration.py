"""Calibration: the temperature of a critic, and the threshold for a target precision. Pure
functions of tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fit_temperature", "precision_threshold"]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the cross-entropy of ``softmax(logits / T)`` (Guo et al.
    2017, arXiv:1706.04599).

    Args:
        logits: shape ``N x K``, of data that the classifier was not fitted on.
        labels: class indices, shape ``N``.

    Returns:
        A temperature in [0.05, 20]; the bounds are met when the logits are perfect or carry
        nothing.

    Raises:
        ValueError: there is no sample.
    """
    if len(labels) == 0:
        raise ValueError("a temperature needs at least one sample, got none")

    def loss(log_t: float) -> float:
        return float(
            torch.nn.functional.cross_entropy(
                logits.double() / torch.exp(torch.tensor(log_t)), labels
            )
        )

    low, high = torch.log(torch.tensor([0.05, 20.0])).tolist()
    for _ in range(60):  # the loss is quasi-convex in log T (convex in 1 / T): ternary search
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return float(torch.exp(torch.tensor((low + high) / 2)))


def precision_threshold(
    probabilities: Tensor, labels: Tensor, target: float = 0.9, least: int = 10
) -> tuple[float, float]:
    """The lowest confidence at which labels assigned by a critic are right with the target
    precision.

    Every pair of a sample and a class whose probability reaches the threshold counts as one
    assignment, right if the class is the sample's label. The threshold is never below chance,
    ``1 / K``: where the classes are easy to tell apart, a modest target would else let patches
    through that the critic takes for another class.

    Args:
        probabilities: calibrated, shape ``N x K``, of held-out real data.
        labels: class indices, shape ``N``.
        target: wanted precision, in (0, 1].
        least: assignments that an estimate must rest on, at the least.

    Returns:
        The threshold and the precision reached at it. Where no threshold reaches the target, the
        one with the highest
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
    allowed = (
        last_of_ties
        & (torch.arange(1, len(right) + 1) >= least)
        & (scores >= 1 / probabilities.shape[1])
    )
    reached = (allowed & (precision >= target)).nonzero()
    place = (
        int(reached[-1]) if len(reached) else int(torch.where(allowed, precision, -1.0).argmax())
    )
    return float(scores[place]), float(precision[place])
