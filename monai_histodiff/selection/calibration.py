"""Calibration: the temperature of a critic, and the threshold for a target precision. Pure
functions of tensors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fit_temperature", "precision_at", "precision_threshold"]

ROUNDING = 1e-3  # by which a row of probabilities may miss 1
FEWEST = 10  # assignments that a threshold must rest on
LEAST = 1e-6  # by which chance, 1 / K, may be missed by float32


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the cross-entropy of ``softmax(logits / T)`` (Guo et al.
    2017, arXiv:1706.04599) from smoothed labels: ``(N + 1) / (N + K)`` for the own class of each
    of ``N`` samples, ``1 / (N + K)`` for every other. So ``N`` samples that are all told right do
    not make the classifier sure of everything (Platt 1999; Laplace's rule of succession).

    Args:
        logits: shape ``N x K``, of data that the classifier was not fitted on.
        labels: class indices, shape ``N``.

    Returns:
        A temperature in [0.05, 20]; the bounds are met when the logits hardly differ, or carry
        nothing.

    Raises:
        ValueError: there is no sample, a logit is not finite, or a label is not one of the
            classes.
    """
    if len(labels) == 0:
        raise ValueError("a temperature needs at least one sample, got none")
    _check(logits, labels, "logits")
    samples, classes = logits.shape
    smoothing = classes / (samples + classes)

    def loss(log_t: float) -> float:
        scaled = logits.double() / math.exp(log_t)
        return float(F.cross_entropy(scaled, labels, label_smoothing=smoothing))

    low, high = math.log(0.05), math.log(20.0)
    for _ in range(60):  # the loss is quasi-convex in log T (convex in 1 / T): ternary search
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)


def precision_threshold(
    probabilities: Tensor, labels: Tensor, target: float = 0.9
) -> tuple[float, float]:
    """The lowest confidence at which labels assigned by a critic are right with the target
    precision.

    Every pair of a sample and a class whose probability reaches the threshold counts as one
    assignment, right if the class is the sample's label. The threshold is never below chance,
    ``1 / K``: where the classes are easy to tell apart, a modest target would else let everything
    through. Patches that the critic takes for another class may reach it: assign the most probable
    class.

    Args:
        probabilities: temperature-scaled, shape ``N x K``, of held-out real data.
        labels: class indices, shape ``N``.
        target: wanted precision, in (0, 1].

    Returns:
        The threshold and the precision reached at it. Where no threshold reaches the target, the
        one with the highest precision is returned: compare the second value with the target.

    Raises:
        ValueError: the target is not in (0, 1], there are fewer than ten samples, a
            probability does not lie in [0, 1], a row does not sum to 1, or a label is not one of
            the classes.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target precision must lie in (0, 1], got {target}")
    if len(labels) < FEWEST:
        got = f"got {len(labels)}"
        raise ValueError(f"a threshold needs at least {FEWEST} held-out samples, {got}")
    _check(probabilities, labels, "probabilities")
    if float(probabilities.min()) < 0 or float(probabilities.max()) > 1:
        span = f"{float(probabilities.min()):g} to {float(probabilities.max()):g}"
        raise ValueError(f"probabilities must lie in [0, 1], got {span}")
    sums = probabilities.double().sum(1)
    if float((sums - 1).abs().max()) > ROUNDING:
        row = int((sums - 1).abs().argmax())
        raise ValueError(
            f"rows of probabilities must sum to 1, got {float(sums[row]):g} in row {row}: give "
            "softmax outputs"
        )
    scores, order = probabilities.double().flatten().sort(descending=True)
    right = F.one_hot(labels, probabilities.shape[1]).flatten()[order].double()
    count = torch.arange(1, len(right) + 1, device=right.device)
    precision = right.cumsum(0) / count
    last_of_ties = torch.ones_like(count, dtype=torch.bool)
    last_of_ties[:-1] = scores[1:] < scores[:-1]
    chance = 1 / probabilities.shape[1]
    allowed = last_of_ties & (count >= FEWEST) & (scores >= chance - LEAST)
    reached = (allowed & (precision >= target)).nonzero()
    best = torch.where(allowed, precision, -1.0).argmax()
    place = int(reached[-1]) if len(reached) else int(best)
    return float(scores[place]), float(precision[place])


def precision_at(probabilities: Tensor, labels: Tensor, threshold: float) -> float:
    """The share of samples whose most probable class is their label, of those that reach a
    threshold with it; 0 without any. So a critic labels patches; :func:`precision_threshold`
    counts the other classes that reach the threshold, too, as it rests on few samples.

    Args:
        probabilities: shape ``N x K``.
        labels: class indices, shape ``N``.
        threshold: lowest probability of a label.

    Raises:
        ValueError: the two differ in number, a probability is not finite, or a label is not one of
            the classes.
    """
    if len(labels) == len(probabilities) == 0:
        return 0.0
    _check(probabilities, labels, "probabilities")
    confidence, first = probabilities.max(1)
    given = confidence >= threshold
    return float((first == labels)[given].sum()) / max(1, int(given.sum()))


def _check(values: Tensor, labels: Tensor, name: str) -> None:
    """One row of finite values for each label, and one column for each class."""
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        shapes = f"{tuple(values.shape)} for labels of shape {tuple(labels.shape)}"
        raise ValueError(f"{name} must be N x K, and labels N, got {shapes}")
    if rows := int((~values.isfinite()).any(1).sum()):
        raise ValueError(f"{name} must be finite, got {rows} samples with others")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= values.shape[1]:
        raise ValueError(f"labels must lie from 0 to {values.shape[1] - 1}, got {low} to {high}")
