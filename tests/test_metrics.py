from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from monai_histodiff.metrics import METRICS, class_recall, classification_metrics, paired_difference, verdict

Array = NDArray[np.float64]


def predictions(count: int, classes: int, seed: int = 0, ties: bool = False) -> tuple[Array, NDArray[np.int64]]:
    """Probabilities that know something of the labels; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=count - classes)])
    raw = rng.integers(1, 4, (count, classes)).astype(float) if ties else rng.gamma(0.7, size=(count, classes))
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
        assert found["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro", labels=range(classes)))
        assert found["auc"] == pytest.approx(roc_auc_score(labels, score, multi_class="ovr", average="macro"))
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
    assert found["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro", labels=present))
    assert found["auc"] == pytest.approx(np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in present]))
    np.testing.assert_allclose(class_recall(probabilities, labels), [recall[0], recall[1], np.nan, recall[2]])


def test_class_recall_by_hand() -> None:
    chosen = np.array([0, 0, 1, 1, 1, 2, 0])
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(class_recall(np.eye(3)[chosen], labels), [2 / 3, 1.0, 0.5])


def test_metrics_of_perfect_useless_and_inverted_predictions() -> None:
    labels = np.arange(30) % 3
    assert classification_metrics(np.eye(3)[labels], labels) == {**dict.fromkeys(METRICS, 1.0), "ece": 0.0}
    useless = classification_metrics(np.full((30, 3), 1 / 3), labels)
    assert useless["auc"] == 0.5 and useless["balanced_accuracy"] == pytest.approx(1 / 3)
    assert useless["ece"] == pytest.approx(0.0)
    inverted = classification_metrics((1 - np.eye(3)[labels]) / 2, labels)
    assert inverted["auc"] == 0.0 and inverted["accuracy"] == 0.0 and inverted["ece"] == pytest.approx(0.5)


def test_auc_is_undefined_for_a_single_class() -> None:
    found = classification_metrics(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert np.isnan(found["auc"]) and found["balanced_accuracy"] == 0.5


def test_calibration_error_by_hand() -> None:
    """Bins of 1/15: 0.55 (right) and 0.58 (wrong) share one, 0.95 and 1.0 (both right) the last, 0.7 (wrong) is alone."""
    top = np.array([0.55, 0.58, 0.95, 1.0, 0.7])
    labels = np.array([0, 1, 0, 0, 1])
    expected = (abs(0.55 + 0.58 - 1) + abs(0.95 + 1.0 - 2) + 0.7) / 5
    assert classification_metrics(np.stack([top, 1 - top], 1), labels)["ece"] == pytest.approx(expected)


def test_calibration_error_of_calibrated_and_overconfident_predictions() -> None:
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, 20000)
    probabilities = np.stack([top, 1 - top], 1)
    assert classification_metrics(probabilities, (rng.random(20000) > top).astype(int))["ece"] < 0.02
    over = classification_metrics(probabilities, (rng.random(20000) > top - 0.1).astype(int))["ece"]
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


# --- differences between arms ---


def correct(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> Array:
    """Two-class probabilities that are right just where they should be."""
    return np.where(np.eye(2)[labels] == right[:, None], 0.9, 0.1)


def test_identical_arms_differ_by_zero() -> None:
    arm = [predictions(40, 3, seed)[0] for seed in range(3)]
    labels = np.arange(40) % 3
    found = paired_difference(arm, arm, labels, [str(i // 4) for i in range(40)], draws=30)
    assert found == {m: {"mean": 0.0, "low": 0.0, "high": 0.0} for m in METRICS}


def test_the_mean_is_the_mean_over_seeds_of_the_paired_differences() -> None:
    labels = predictions(60, 3)[1]
    treated, control = ([predictions(60, 3, seed)[0] for seed in seeds] for seeds in ((0, 1, 2), (3, 4, 5)))
    found = paired_difference(treated, control, labels, [str(i) for i in range(60)], draws=5)
    for metric in METRICS:
        each = [
            classification_metrics(a, labels)[metric] - classification_metrics(b, labels)[metric]
            for a, b in zip(treated, control, strict=True)
        ]
        assert found[metric]["mean"] == pytest.approx(np.mean(each))


def test_a_planted_gain_is_found() -> None:
    """Each of three seeds is right for 80 % of the patches instead of 65 %."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    treated, control = ([correct(rng.random(600) < p, labels) for _ in range(3)] for p in (0.8, 0.65))
    found = paired_difference(treated, control, labels, [str(i) for i in range(600)], draws=100)
    for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert 0 < found[metric]["low"] < 0.15 < found[metric]["high"] < 0.3
        assert found[metric]["low"] < found[metric]["mean"] < found[metric]["high"]
    reversed_arms = paired_difference(control, treated, labels, [str(i) for i in range(600)], draws=100)
    assert reversed_arms["accuracy"]["mean"] == pytest.approx(-found["accuracy"]["mean"])
    assert reversed_arms["accuracy"]["high"] < 0


def test_pairing_removes_what_both_arms_share() -> None:
    """Both arms fail on the same hard patches: the difference is far more certain than either accuracy."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    easy = rng.random(200) < 0.6
    gain = easy | (np.arange(200) % 10 == 0)
    groups = [str(i) for i in range(200)]
    paired = paired_difference([correct(gain, labels)], [correct(easy, labels)], labels, groups, draws=200)["accuracy"]
    chance = paired_difference([correct(gain, labels)], [correct(rng.permutation(easy), labels)], labels, groups, draws=200)[
        "accuracy"
    ]
    assert paired["high"] - paired["low"] < 0.5 * (chance["high"] - chance["low"])
    assert paired["low"] > 0


def test_copies_within_a_group_add_no_certainty() -> None:
    """Four copies of every patch in its own group leave every draw, and so the interval, as it was."""
    labels = predictions(50, 3)[1]
    treated, control = ([predictions(50, 3, seed)[0] for seed in seeds] for seeds in ((0, 1), (2, 3)))
    groups = [f"g{i:02}" for i in range(50)]
    plain = paired_difference(treated, control, labels, groups, draws=60)
    copied = paired_difference(
        *([np.tile(p, (4, 1)) for p in arm] for arm in (treated, control)), np.tile(labels, 4), groups * 4, draws=60
    )
    for metric in METRICS:
        assert copied[metric] == pytest.approx(plain[metric])


def test_clustering_widens_the_interval_of_correlated_groups() -> None:
    """Ten patches a group, right or wrong together: as groups they tell sqrt(10) times less than as patches."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    treated, control = ([correct(np.repeat(rng.random(40) < 0.7, 10), labels)] for _ in range(2))
    groups = [str(i // 10) for i in range(400)]
    clustered, naive = (
        paired_difference(treated, control, labels, g, draws=200)["accuracy"] for g in (groups, [str(i) for i in range(400)])
    )
    assert (clustered["high"] - clustered["low"]) / (naive["high"] - naive["low"]) == pytest.approx(10**0.5, rel=0.25)


@pytest.mark.parametrize(("seeds", "quantile"), [(3, 4.303), (6, 2.571)])
def test_training_noise_widens_the_interval_as_student_s_t(seeds: int, quantile: float) -> None:
    """With a single group only the seeds vary: the interval is the textbook one for a mean of so few values."""
    labels = np.arange(100) % 2
    right = np.random.default_rng(0).integers(60, 80, seeds)
    treated = [correct(np.arange(100) < r, labels) for r in right]
    control = [correct(np.arange(100) < 60, labels)] * seeds
    found = paired_difference(treated, control, labels, ["one"] * 100, draws=300)["accuracy"]
    half = quantile * np.std((right - 60) / 100, ddof=1) / seeds**0.5
    assert found["mean"] == pytest.approx(np.mean(right - 60) / 100)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.2)


def test_one_seed_and_one_group_have_no_spread() -> None:
    labels = np.arange(20) % 2
    treated, control = [correct(np.arange(20) < 15, labels)], [correct(np.arange(20) < 10, labels)]
    found = paired_difference(treated, control, labels, ["one"] * 20, draws=10)["accuracy"]
    assert found == pytest.approx({"mean": 0.25, "low": 0.25, "high": 0.25})


def test_intervals_stay_within_what_a_difference_can_be() -> None:
    labels = np.arange(20) % 2
    treated, control = ([correct(np.full(20, right), labels) for right in arm] for arm in ((True, False), (False, True)))
    found = paired_difference(treated, control, labels, ["one"] * 20, draws=100)["accuracy"]
    assert (found["low"], found["mean"], found["high"]) == (-1.0, 0.0, 1.0)


def test_the_level_is_the_coverage_of_the_interval() -> None:
    labels = predictions(60, 3)[1]
    arms = [[predictions(60, 3, seed)[0]] for seed in (0, 1)]
    wide, narrow = (paired_difference(*arms, labels, [str(i) for i in range(60)], 200, level)["accuracy"] for level in (0.95, 0.5))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]
    assert (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(1.96 / 0.674, rel=0.25)


def test_the_bootstrap_is_reproducible_and_blind_to_the_order_of_the_patches() -> None:
    labels = predictions(40, 3)[1]
    treated, control = ([predictions(40, 3, seed)[0] for seed in seeds] for seeds in ((0, 1), (2, 3)))
    groups = [str(i // 4) for i in range(40)]
    first = paired_difference(treated, control, labels, groups, draws=20)
    assert paired_difference(treated, control, labels, groups, draws=20) == first
    assert paired_difference(treated, control, labels, groups, draws=20, seed=1)["auc"]["low"] != first["auc"]["low"]
    order = np.random.default_rng(0).permutation(40)
    mixed = paired_difference(
        [p[order] for p in treated], [p[order] for p in control], labels[order], [groups[i] for i in order], draws=20
    )
    for metric in METRICS:
        assert mixed[metric] == pytest.approx(first[metric])


def coverage(draw: Callable[[np.random.Generator], Array], seeds: int, trials: int = 25) -> float:
    """How often the interval of two arms drawn alike, from 30 groups of 2 patches, contains the true difference, zero."""
    labels = np.arange(60) % 2
    groups = [str(i // 2) for i in range(60)]
    hits = 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        shared = [rng.normal(size=30).repeat(2) for _ in range(2)]
        treated, control = ([correct(draw(rng) + s > 0, labels) for _ in range(seeds)] for s in shared)
        found = paired_difference(treated, control, labels, groups, draws=40, seed=trial)["accuracy"]
        hits += found["low"] <= 0 <= found["high"]
    return hits / trials


def test_intervals_cover_zero_about_as_often_as_they_say_when_groups_vary() -> None:
    assert 0.84 <= coverage(lambda rng: 0.7 + rng.normal(size=60), seeds=3)


def test_intervals_cover_zero_about_as_often_as_they_say_when_trainings_vary() -> None:
    assert 0.84 <= coverage(lambda rng: 0.7 + 1.5 * rng.normal() + 0.3 * rng.normal(size=60), seeds=3)


@pytest.mark.parametrize("counts", [(2, 3), (0, 0), (1, 0)])
def test_arms_need_the_same_seeds(counts: tuple[int, int]) -> None:
    arms = [[np.full((4, 2), 0.5)] * n for n in counts]
    with pytest.raises(ValueError, match=f"paired arms need the same seeds, got {counts[0]} and {counts[1]}"):
        paired_difference(*arms, np.zeros(4, int), ["a"] * 4)


# --- verdict ---

GAIN = {"mean": 0.034, "low": 0.012, "high": 0.056}
LOSS = {"mean": -0.034, "low": -0.056, "high": -0.012}
UNSURE = {"mean": 0.01, "low": -0.02, "high": 0.04}


def test_verdict_of_a_gain() -> None:
    assert verdict(GAIN, 5) == (
        "helps",
        "The selected synthetic patches help: balanced accuracy changed by +3.4 points (95 % interval +1.2 to +5.6).",
    )


def test_verdict_of_a_loss() -> None:
    assert verdict(LOSS, 3, "accuracy") == (
        "hurts",
        "The selected synthetic patches hurt: accuracy changed by -3.4 points (95 % interval -5.6 to -1.2). Do not use them.",
    )


@pytest.mark.parametrize("difference", [UNSURE, {**GAIN, "low": 0.0}, {**LOSS, "high": 0.0}, dict.fromkeys(GAIN, float("nan"))])
def test_verdict_without_a_difference(difference: dict[str, float]) -> None:
    outcome, sentence = verdict(difference, 10)
    assert outcome == "same"
    assert sentence.startswith("No difference shown: balanced accuracy changed by ")


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("difference", [GAIN, LOSS, UNSURE])
def test_verdict_makes_no_claim_from_fewer_than_three_seeds(difference: dict[str, float], seeds: int) -> None:
    outcome, sentence = verdict(difference, seeds)
    assert outcome == "soft"
    assert sentence.startswith("No difference shown, for want of seeds: ")
    assert f"with {seeds} of at least 3 this may be training noise" in sentence
    assert "help" not in sentence and "hurt" not in sentence
