from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from monai_histodiff.evaluation.metrics import (
    METRICS,
    class_recall,
    classification_metrics,
    metric_table,
    reliability,
)

Array = NDArray[np.float64]


def predictions(
    count: int, classes: int, seed: int = 0, ties: bool = False
) -> tuple[Array, NDArray[np.int64]]:
    """Probabilities that know something of the labels; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=count - classes)])
    raw = (
        rng.integers(1, 4, (count, classes)).astype(float)
        if ties
        else rng.gamma(0.7, size=(count, classes))
    )
    raw[np.arange(count), labels] += rng.integers(0, 2, count)
    return raw / raw.sum(1, keepdims=True), labels


# --- metrics ---


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_metrics_are_scikit_learn_s(classes: int, ties: bool) -> None:
    for seed in range(3):
        probabilities, labels = predictions(97, classes, seed, ties)
        found, chosen = classification_metrics(probabilities, labels), probabilities.argmax(1)
        score = probabilities[:, 1] if classes == 2 else probabilities
        assert found["accuracy"] == pytest.approx(accuracy_score(labels, chosen))
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, chosen))
        assert found["macro_f1"] == pytest.approx(
            f1_score(labels, chosen, average="macro", labels=range(classes))
        )
        assert found["auc"] == pytest.approx(
            roc_auc_score(labels, score, multi_class="ovr", average="macro")
        )
        assert found["worst_recall"] == pytest.approx(
            min(recall_score(labels, chosen, average=None, labels=range(classes)))
        )
        assert set(found) == set(METRICS)


def test_a_class_missing_from_the_test_set_is_left_out_of_the_means() -> None:
    probabilities, labels = predictions(80, 4, seed=1)
    keep = labels != 2
    probabilities, labels = probabilities[keep], labels[keep]
    chosen, present = probabilities.argmax(1), [0, 1, 3]
    assert (chosen == 2).any()  # predicted all the same, and that is an error
    found = classification_metrics(probabilities, labels)
    recall = [float((chosen[labels == k] == k).mean()) for k in present]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recall))
    assert found["macro_f1"] == pytest.approx(
        f1_score(labels, chosen, average="macro", labels=present)
    )
    assert found["auc"] == pytest.approx(
        np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in present])
    )
    np.testing.assert_allclose(
        class_recall(probabilities, labels), [recall[0], recall[1], np.nan, recall[2]]
    )


def test_class_recall_by_hand() -> None:
    chosen = np.array([0, 0, 1, 1, 1, 2, 0])
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(class_recall(np.eye(3)[chosen], labels), [2 / 3, 1.0, 0.5])


def test_metrics_of_perfect_useless_and_inverted_predictions() -> None:
    labels = np.arange(30) % 3
    assert classification_metrics(np.eye(3)[labels], labels) == {
        **dict.fromkeys(METRICS, 1.0),
        "ece": 0.0,
    }
    useless = classification_metrics(np.full((30, 3), 1 / 3), labels)
    assert useless["auc"] == 0.5 and useless["balanced_accuracy"] == pytest.approx(1 / 3)
    assert useless["ece"] == pytest.approx(0.0)
    inverted = classification_metrics((1 - np.eye(3)[labels]) / 2, labels)
    assert (
        inverted["auc"] == 0.0
        and inverted["accuracy"] == 0.0
        and inverted["ece"] == pytest.approx(0.5)
    )


def test_auc_is_undefined_for_a_single_class() -> None:
    found = classification_metrics(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert np.isnan(found["auc"]) and found["balanced_accuracy"] == 0.5


def test_calibration_error_by_hand() -> None:
    """Bins of 1/15: 0.55 (right) and 0.58 (wrong) share one, 0.95 and 1.0 (both right) the last,
    0.7 (wrong) is alone.
    """
    top = np.array([0.55, 0.58, 0.95, 1.0, 0.7])
    labels = np.array([0, 1, 0, 0, 1])
    expected = (abs(0.55 + 0.58 - 1) + abs(0.95 + 1.0 - 2) + 0.7) / 5
    assert classification_metrics(np.stack([top, 1 - top], 1), labels)["ece"] == pytest.approx(
        expected
    )


def test_calibration_error_of_calibrated_and_overconfident_predictions() -> None:
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, 20000)
    probabilities = np.stack([top, 1 - top], 1)
    assert (
        classification_metrics(probabilities, (rng.random(20000) > top).astype(int))["ece"] < 0.02
    )
    over = classification_metrics(probabilities, (rng.random(20000) > top - 0.1).astype(int))[
        "ece"
    ]
    assert over == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.ones((4, 2)), np.zeros(3, int)),
        (np.ones(4), np.zeros(4, int)),
        (np.ones((4, 2)), np.zeros((4, 1), int)),
    ],
)
def test_metrics_check_their_shapes(probabilities: Array, labels: NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="metrics need N x K probabilities and N labels, got "):
        classification_metrics(probabilities, labels)


def test_tensors_are_taken_for_arrays() -> None:
    probabilities, labels = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), np.array([0, 1, 1])
    weights, given = np.ones((2, 3)), (torch.from_numpy(probabilities), torch.from_numpy(labels))
    assert classification_metrics(*given) == classification_metrics(probabilities, labels)  # type: ignore[arg-type]
    table = metric_table(*given, torch.from_numpy(weights))  # type: ignore[arg-type]
    assert np.array_equal(table, metric_table(probabilities, labels, weights))
    assert class_recall(*given).tolist() == [1.0, 0.5]  # type: ignore[arg-type]
    assert reliability(*given) == reliability(probabilities, labels)  # type: ignore[arg-type]


def test_a_weight_of_n_is_n_copies_and_a_weight_of_zero_is_absence() -> None:
    probabilities, labels = predictions(60, 4, seed=3, ties=True)
    weights = np.random.default_rng(0).integers(0, 4, (5, 60)).astype(float)
    weights[0, labels == 2] = 0  # a class is gone
    for found, counts in zip(
        metric_table(probabilities, labels, weights), weights.astype(int), strict=True
    ):
        copies = classification_metrics(probabilities.repeat(counts, 0), labels.repeat(counts))
        assert dict(zip(METRICS, found, strict=True)) == pytest.approx(copies)
    np.testing.assert_allclose(
        metric_table(probabilities, labels, 7 * weights),
        metric_table(probabilities, labels, weights),
    )
    assert metric_table(probabilities, labels, weights[:0]).shape == (0, len(METRICS))


def test_metrics_in_blocks_are_the_metrics_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, labels = predictions(30, 3)
    weights = np.random.default_rng(0).integers(1, 4, (7, 30))
    whole = metric_table(probabilities, labels, weights)
    monkeypatch.setattr("monai_histodiff.evaluation.metrics.BLOCK", 60)
    np.testing.assert_array_equal(metric_table(probabilities, labels, weights), whole)


@pytest.mark.parametrize("shape", [(2, 5), (4,)])
def test_weights_need_one_column_for_each_sample(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"D x N weights for 4 samples, got \\({shape[0]},"):
        metric_table(np.full((4, 2), 0.5), np.zeros(4, int), np.ones(shape))


def test_reliability_by_hand() -> None:
    top = np.array([0.55, 0.58, 0.95, 1.0, 0.7])
    labels = np.array([0, 1, 0, 0, 1])
    rows = reliability(np.stack([top, 1 - top], 1), labels)
    assert [row["share"] for row in rows] == pytest.approx([0.4, 0.2, 0.4])
    assert [row["accuracy"] for row in rows] == pytest.approx([0.5, 0.0, 1.0])
    assert [row["confidence"] for row in rows] == pytest.approx([0.565, 0.7, 0.975])


def test_the_calibration_error_is_the_mean_gap_of_the_reliability_diagram() -> None:
    probabilities, labels = predictions(300, 4, seed=5)
    gap = sum(
        row["share"] * abs(row["confidence"] - row["accuracy"])
        for row in reliability(probabilities, labels)
    )
    assert gap == pytest.approx(classification_metrics(probabilities, labels)["ece"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "probabilities must be finite, got NaN or infinity in 1 of 12 rows"),
        (np.inf, "probabilities must be finite, got NaN or infinity in 1 of 12 rows"),
        (-0.5, "probabilities must not be below 0, got -0.5"),
        (7.0, "rows of probabilities must sum to 1, got .* in row 4: give softmax outputs"),
    ],
)
def test_what_is_no_probability_is_refused_by_every_metric(value: float, message: str) -> None:
    """NaN counted as a prediction of the first class up to version 0.9.0."""
    probabilities, labels = predictions(12, 3)
    probabilities[4, 1] = value
    weights = np.ones((1, 12))
    for metric in (
        classification_metrics,
        class_recall,
        reliability,
        lambda p, y: metric_table(p, y, weights),
    ):
        with pytest.raises(ValueError, match=message):
            metric(probabilities, labels)


def test_labels_are_classes_and_weights_are_weights() -> None:
    probabilities, labels = predictions(12, 3)
    with pytest.raises(ValueError, match="labels must be from 0 to 2, got 0 to 3"):
        class_recall(probabilities, np.where(labels == 2, 3, labels))
    with pytest.raises(ValueError, match="weights must be finite and not negative"):
        metric_table(probabilities, labels, np.full((1, 12), np.nan))
