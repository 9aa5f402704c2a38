"""Metrics of a classifier, of a whole test set or of many weightings of it at once. Pure numpy
functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "METRICS",
    "check_probabilities",
    "class_recall",
    "classification_metrics",
    "metric_table",
    "reliability",
]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "ece", "worst_recall")
BINS = 15
BLOCK = 4_000_000  # weights handled at once
ROUNDING = 1e-3  # by which a row of probabilities may miss 1


def check_probabilities(
    probabilities: Array, shape: tuple[int, int], name: str = "probabilities"
) -> None:
    """Refuse what is no table of probabilities.

    Args:
        probabilities: what should be one.
        shape: rows and classes that it must have.
        name: what the error calls it.

    Raises:
        ValueError: another shape, a value that is not finite or below 0, or a row that does not
            sum to 1.
    """
    if probabilities.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, got {probabilities.shape}")
    if bad := int((~np.isfinite(probabilities)).any(1).sum()):
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {bad} of {len(probabilities)} rows: "
            "the classifier has diverged, or a file is damaged"
        )
    if probabilities.size and probabilities.min() < 0:
        raise ValueError(f"{name} must not be below 0, got {probabilities.min():g}")
    away = np.abs(probabilities.sum(1) - 1)
    if probabilities.size and away.max() > ROUNDING:
        raise ValueError(
            f"rows of {name} must sum to 1, got {probabilities.sum(1)[away.argmax()]:g} in row "
            f"{away.argmax()}: give softmax outputs, not logits"
        )


def _checked(probabilities: Array, labels: Labels) -> tuple[Array, Labels]:
    """As arrays, which tensors on the CPU become, too."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if (
        probabilities.ndim != 2
        or labels.shape != probabilities.shape[:1]
        or not probabilities.size
    ):
        raise ValueError(
            "metrics need N x K probabilities and N labels, "
            f"got {probabilities.shape} and {labels.shape}"
        )
    classes = probabilities.shape[1]
    check_probabilities(probabilities, (len(labels), classes))
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
        )
    return probabilities, labels


def metric_table(probabilities: Array, labels: Labels, weights: Array) -> Array:
    """All metrics under many weightings of the same predictions, such as the test set without
    one of its groups.

    Args:
        probabilities: rows sum to 1, shape ``N x K``.
        labels: class indices, shape ``N``.
        weights: not negative, shape ``D x N``. A class without weight is left out of the macro
            means.

    Returns:
        Shape ``D x len(METRICS)``, in the order of :data:`METRICS`.

    Raises:
        ValueError: the set is empty, the shapes disagree, probabilities are none, a label is no
            class, or a weight is negative or not finite.
    """
    probabilities, labels = _checked(probabilities, labels)
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != len(labels):
        raise ValueError(
            f"metrics need D x N weights for {len(labels)} samples, got {weights.shape}"
        )
    if weights.size and not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ValueError("weights must be finite and not negative")
    rows = max(1, BLOCK // len(labels))
    parts = [
        _table(probabilities, labels, weights[i : i + rows].astype(float))
        for i in range(0, len(weights), rows)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(METRICS)))


def _table(probabilities: Array, labels: Labels, weights: Array) -> Array:
    classes = np.arange(probabilities.shape[1])
    chosen = probabilities.argmax(1)
    own, named = (
        (labels[:, None] == classes).astype(float),
        (chosen[:, None] == classes).astype(float),
    )
    sizes, predicted, hits = weights @ own, weights @ named, weights @ (own * named)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / sizes  # NaN without weight
        f1 = np.where(sizes > 0, 2 * hits / (sizes + predicted), np.nan)
        columns = [
            hits.sum(1) / weights.sum(1),
            _mean(recall),
            _mean(f1),
            _macro_auc(probabilities, own, weights),
        ]
        columns += [
            _calibration_error(probabilities.max(1), chosen == labels, weights),
            np.fmin.reduce(recall, axis=1),
        ]
    return np.stack(columns, 1)


def _mean(values: Array) -> Array:
    """Mean over the columns that are not NaN; NaN if none."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(1) / known.sum(1)


def _macro_auc(probabilities: Array, own: Array, weights: Array) -> Array:
    values = []
    for k in range(own.shape[1]):
        order = probabilities[:, k].argsort()
        starts = np.flatnonzero(
            np.diff(probabilities[order, k], prepend=-np.inf)
        )  # one run for each distinct score
        positive, negative = (
            np.add.reduceat(weights[:, order] * side, starts, axis=1)
            for side in (own[order, k], 1 - own[order, k])
        )
        below = negative.cumsum(1) - negative / 2  # Mann-Whitney U, ties counted half
        values.append((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))
    return _mean(np.stack(values, 1))


def _bins(confidence: Array) -> Array:
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return (place[:, None] == np.arange(BINS)).astype(float)


def _calibration_error(confidence: Array, right: NDArray[np.bool_], weights: Array) -> Array:
    return np.abs((weights * (confidence - right)) @ _bins(confidence)).sum(1) / weights.sum(1)


def classification_metrics(probabilities: Array, labels: Labels) -> dict[str, float]:
    """The metrics of a test set, computed over the whole set at once.

    Accuracy, balanced accuracy, macro-F1, macro one-against-rest AUC, expected calibration error
    (15 bins) and the recall of the worst class. Classes without samples are left out of the macro
    means.

    Args:
        probabilities: rows sum to 1, shape ``N x K``.
        labels: class indices, shape ``N``.

    Raises:
        ValueError: the set is empty or the shapes disagree.
    """
    (values,) = metric_table(probabilities, labels, np.ones((1, len(labels))))
    return dict(zip(METRICS, values.tolist(), strict=True))


def class_recall(probabilities: Array, labels: Labels) -> Array:
    """Recall of each class, NaN for a class without samples. Shapes ``N x K``, ``N`` -> ``K``.

    Raises:
        ValueError: as :func:`metric_table`.
    """
    probabilities, labels = _checked(probabilities, labels)
    right = probabilities.argmax(1) == labels
    classes = probabilities.shape[1]
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, right, classes) / np.bincount(labels, minlength=classes)


def reliability(probabilities: Array, labels: Labels) -> list[dict[str, float]]:
    """The reliability diagram: of each of 15 equal bins of confidence that is not empty, what was
    said and what was so.

    Returns:
        ``confidence`` (mean probability of the predicted class), ``accuracy`` (share of right
        predictions) and ``share`` (of all samples), by rising confidence. The expected calibration
        error is the mean of their gap, weighted by ``share``.

    Raises:
        ValueError: as :func:`metric_table`.
    """
    probabilities, labels = _checked(probabilities, labels)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    inside = _bins(confidence)
    counts = inside.sum(0)
    rows = [k for k in range(BINS) if counts[k]]
    said, so = confidence @ inside, right @ inside
    return [
        {
            "confidence": said[k] / counts[k],
            "accuracy": so[k] / counts[k],
            "share": counts[k] / len(labels),
        }
        for k in rows
    ]
