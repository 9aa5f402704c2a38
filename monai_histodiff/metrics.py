"""Metrics of a classifier and paired, cluster-bootstrapped differences between arms. Pure numpy functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "classification_metrics", "class_recall", "paired_difference", "verdict"]

Array = NDArray[np.float64]
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "ece")


def _confusion(probabilities: Array, labels: NDArray[np.int64]) -> Array:
    classes = probabilities.shape[1]
    flat = np.bincount(labels * classes + probabilities.argmax(1), minlength=classes**2)
    return flat.reshape(classes, classes).astype(float)


def class_recall(probabilities: Array, labels: NDArray[np.int64]) -> Array:
    """Recall of each class, NaN for a class without samples. Shapes ``N x K``, ``N`` -> ``K``."""
    table = _confusion(probabilities, labels)
    with np.errstate(invalid="ignore"):
        return np.diag(table) / table.sum(1)


def _ranks(x: Array) -> Array:
    """Ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


def _macro_auc(probabilities: Array, labels: NDArray[np.int64]) -> float:
    values = []
    for k in range(probabilities.shape[1]):
        positive = labels == k
        n, m = int(positive.sum()), int((~positive).sum())
        if n and m:  # Mann-Whitney U, ties counted half
            values.append((_ranks(probabilities[:, k])[positive].sum() - n * (n + 1) / 2) / (n * m))
    return float(np.mean(values)) if values else float("nan")


def _expected_calibration_error(probabilities: Array, labels: NDArray[np.int64], bins: int = 15) -> float:
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def classification_metrics(probabilities: Array, labels: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro-F1, macro one-against-rest AUC and expected calibration error (15 bins).

    All are computed over the whole set at once; classes without samples are left out of the macro means.

    Args:
        probabilities: rows sum to 1, shape ``N x K``.
        labels: class indices, shape ``N``.

    Raises:
        ValueError: the set is empty or the shapes disagree.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(f"metrics need N x K probabilities and N labels, got {probabilities.shape} and {labels.shape}")
    table = _confusion(probabilities, labels)
    present = table.sum(1) > 0
    hits, sizes = np.diag(table), table.sum(1) + table.sum(0)
    return {
        "accuracy": float(hits.sum() / table.sum()),
        "balanced_accuracy": float((hits[present] / table.sum(1)[present]).mean()),
        "macro_f1": float((2 * hits[present] / sizes[present]).mean()),
        "auc": _macro_auc(probabilities, labels),
        "ece": _expected_calibration_error(probabilities, labels),
    }


def paired_difference(
    treated: Sequence[Array],
    control: Sequence[Array],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Mean difference of each metric between two arms, with a bootstrap interval.

    Each draw resamples, with replacement, the groups of the test set (patients, not patches), the same for both arms and
    all seeds, and adds training noise: Student's t, scaled by the standard error of the seeds' differences. Resampling
    the seeds themselves would understate that noise: the interval of 3 seeds would cover 3 times in 4.

    Args:
        treated: test probabilities ``N x K`` of one arm, one array for each seed.
        control: those of the other arm, in the order of the same seeds.
        labels: test labels, shape ``N``.
        groups: the group of each test patch.
        draws: bootstrap draws.
        level: coverage of the percentile interval.
        seed: seed of the bootstrap.

    Returns:
        For each metric ``{"mean", "low", "high"}``.

    Raises:
        ValueError: the arms have different numbers of seeds, or none.
    """
    if len(treated) != len(control) or not treated:
        raise ValueError(f"paired arms need the same seeds, got {len(treated)} and {len(control)}")
    rng = np.random.default_rng(seed)
    names = sorted(set(groups))
    members = {g: np.flatnonzero(np.asarray(groups) == g) for g in names}

    def differences(rows: NDArray[np.int64]) -> Array:
        return np.array([_pair(a[rows], b[rows], labels[rows]) for a, b in zip(treated, control, strict=True)])

    seeds = len(treated)
    each = differences(np.arange(len(labels)))
    error = each.std(0, ddof=1) / seeds**0.5 if seeds > 1 else np.zeros(len(METRICS))
    samples = []
    for _ in range(draws):
        rows = np.concatenate([members[names[i]] for i in rng.integers(len(names), size=len(names))])
        samples.append(differences(rows).mean(0) + error * rng.standard_t(max(seeds - 1, 1)))
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.clip(samples, -1, 1), [tail, 1 - tail], axis=0)
    point = each.mean(0)
    return {m: {"mean": float(p), "low": float(a), "high": float(b)} for m, p, a, b in zip(METRICS, point, low, high, strict=True)}


def _pair(treated: Array, control: Array, labels: NDArray[np.int64]) -> Array:
    a, b = classification_metrics(treated, labels), classification_metrics(control, labels)
    return np.array([a[m] - b[m] for m in METRICS])


def verdict(difference: Mapping[str, float], seeds: int, metric: str = "balanced accuracy") -> tuple[str, str]:
    """What the interval of G - C says: the outcome in a word, and in a plain sentence.

    Args:
        difference: ``mean``, ``low`` and ``high``, as fractions.
        seeds: trainings of each arm. Below 3 the interval says too little about training noise, and no claim is made.
        metric: its name in the sentence.

    Returns:
        ``"helps"``, ``"hurts"``, ``"same"`` or ``"soft"`` (no verdict), and the sentence.
    """
    mean, low, high = (100 * difference[k] for k in ("mean", "low", "high"))
    change = f"{metric} changed by {mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if seeds < 3:
        return "soft", f"No difference shown, for want of seeds: {change}, but with {seeds} of at least 3 this may be training noise."
    if low > 0:
        return "helps", f"The selected synthetic patches help: {change}."
    if high < 0:
        return "hurts", f"The selected synthetic patches hurt: {change}. Do not use them."
    return "same", f"No difference shown: {change}."
