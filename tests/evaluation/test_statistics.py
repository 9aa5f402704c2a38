"""The comparison of arms on synthetic truth: planted gains, no gain at all, and noise of known
size.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_histodiff.evaluation.metrics import METRICS, classification_metrics
from monai_histodiff.evaluation.statistics import (
    bootstrap_metrics,
    holm,
    paired_difference,
    summarise,
)
from monai_histodiff.evaluation.verdict import verdict

Array = NDArray[np.float64]


def predictions(count: int, classes: int, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Probabilities that know something of the labels; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=count - classes)])
    raw = rng.gamma(0.7, size=(count, classes))
    raw[np.arange(count), labels] += rng.integers(0, 2, count)
    return raw / raw.sum(1, keepdims=True), labels


def correct(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> Array:
    """Two-class probabilities that are right just where they should be."""
    return np.where(np.eye(2)[labels] == right[:, None], 0.9, 0.1)


def test_identical_arms_differ_by_zero() -> None:
    arm = [predictions(40, 3, seed)[0] for seed in range(3)]
    labels = np.arange(40) % 3
    found = paired_difference(arm, arm, labels, [str(i // 4) for i in range(40)], draws=30)
    same = {
        "mean": 0.0,
        "low": 0.0,
        "high": 0.0,
        "p": 1.0,
        "detectable": 0.0,
        "group_error": 0.0,
        "seed_error": 0.0,
    }
    assert found == dict.fromkeys(METRICS, same)


def test_the_mean_is_the_mean_over_seeds_of_the_paired_differences() -> None:
    labels = predictions(60, 3)[1]
    treated, control = (
        [predictions(60, 3, seed)[0] for seed in seeds] for seeds in ((0, 1, 2), (3, 4, 5))
    )
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
    treated, control = (
        [correct(rng.random(600) < p, labels) for _ in range(3)] for p in (0.8, 0.65)
    )
    found = paired_difference(treated, control, labels, [str(i) for i in range(600)], draws=100)
    for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert 0 < found[metric]["low"] < 0.15 < found[metric]["high"] < 0.3
        assert found[metric]["low"] < found[metric]["mean"] < found[metric]["high"]
    reversed_arms = paired_difference(
        control, treated, labels, [str(i) for i in range(600)], draws=100
    )
    assert reversed_arms["accuracy"]["mean"] == pytest.approx(-found["accuracy"]["mean"])
    assert reversed_arms["accuracy"]["high"] < 0


def test_pairing_removes_what_both_arms_share() -> None:
    """Both arms fail on the same hard patches: the difference is far more certain than either
    accuracy.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    easy = rng.random(200) < 0.6
    gain = easy | (np.arange(200) % 10 == 0)
    groups = [str(i) for i in range(200)]
    paired = paired_difference(
        [correct(gain, labels)], [correct(easy, labels)], labels, groups, draws=200
    )["accuracy"]
    chance = paired_difference(
        [correct(gain, labels)],
        [correct(rng.permutation(easy), labels)],
        labels,
        groups,
        draws=200,
    )["accuracy"]
    assert paired["high"] - paired["low"] < 0.5 * (chance["high"] - chance["low"])
    assert paired["low"] > 0


def test_copies_within_a_group_add_no_certainty() -> None:
    """Four copies of every patch in its own group leave every draw, and so the interval, as it
    was.
    """
    labels = predictions(50, 3)[1]
    treated, control = (
        [predictions(50, 3, seed)[0] for seed in seeds] for seeds in ((0, 1), (2, 3))
    )
    groups = [f"g{i:02}" for i in range(50)]
    plain = paired_difference(treated, control, labels, groups, draws=60)
    copied = paired_difference(
        *([np.tile(p, (4, 1)) for p in arm] for arm in (treated, control)),
        np.tile(labels, 4),
        groups * 4,
        draws=60,
    )
    for metric in METRICS:
        assert copied[metric] == pytest.approx(plain[metric])


def test_clustering_widens_the_interval_of_correlated_groups() -> None:
    """Ten patches a group, right or wrong together: as groups they tell sqrt(10) times less than
    as patches.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    treated, control = ([correct(np.repeat(rng.random(40) < 0.7, 10), labels)] for _ in range(2))
    groups = [str(i // 10) for i in range(400)]
    clustered, naive = (
        paired_difference(treated, control, labels, g, draws=200)["accuracy"]
        for g in (groups, [str(i) for i in range(400)])
    )
    assert (clustered["high"] - clustered["low"]) / (
        naive["high"] - naive["low"]
    ) == pytest.approx(10**0.5, rel=0.25)


@pytest.mark.parametrize(("seeds", "quantile"), [(3, 4.303), (6, 2.571)])
def test_training_noise_widens_the_interval_as_student_s_t(seeds: int, quantile: float) -> None:
    """With a single group only the seeds vary: the interval is the textbook one for a mean of so
    few values.
    """
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
    assert [found[key] for key in ("mean", "low", "high", "detectable")] == pytest.approx(
        [0.25, 0.25, 0.25, 0]
    )


def test_intervals_stay_within_what_a_difference_can_be() -> None:
    labels = np.arange(20) % 2
    treated, control = (
        [correct(np.full(20, right), labels) for right in arm]
        for arm in ((True, False), (False, True))
    )
    found = paired_difference(treated, control, labels, ["one"] * 20, draws=100)["accuracy"]
    assert (found["low"], found["mean"], found["high"]) == (-1.0, 0.0, 1.0)


def test_the_level_is_the_coverage_of_the_interval() -> None:
    labels = predictions(60, 3)[1]
    arms = [[predictions(60, 3, seed)[0]] for seed in (0, 1)]
    wide, narrow = (
        paired_difference(*arms, labels, [str(i) for i in range(60)], 200, level)["accuracy"]
        for level in (0.95, 0.5)
    )
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]
    assert (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(
        1.96 / 0.674, rel=0.25
    )


def test_the_bootstrap_is_reproducible_and_blind_to_the_order_of_the_patches() -> None:
    labels = predictions(40, 3)[1]
    treated, control = (
        [predictions(40, 3, seed)[0] for seed in seeds] for seeds in ((0, 1), (2, 3))
    )
    groups = [str(i // 4) for i in range(40)]
    first = paired_difference(treated, control, labels, groups, draws=20)
    assert paired_difference(treated, control, labels, groups, draws=20) == first
    assert (
        paired_difference(treated, control, labels, groups, draws=20, seed=1)["auc"]["low"]
        != first["auc"]["low"]
    )
    order = np.random.default_rng(0).permutation(40)
    mixed = paired_difference(
        [p[order] for p in treated],
        [p[order] for p in control],
        labels[order],
        [groups[i] for i in order],
        draws=20,
    )
    for metric in METRICS:
        assert mixed[metric] == pytest.approx(first[metric])


def trial(rng: np.random.Generator, gain: float, seeds: int, training: float) -> dict[str, float]:
    """One evaluation of 60 groups of 2 patches, right or wrong by group, training and patch, whose
    true gain is ``gain``.
    """
    labels = np.arange(120) % 2

    def arm(rate: float) -> list[Array]:
        shared = rng.normal(size=60).repeat(2)
        noise = [training * rng.normal() + rng.normal(size=120) for _ in range(seeds)]
        bar = np.sqrt(2 + training**2) * NormalDist().inv_cdf(rate)
        return [correct(shared + own + bar > 0, labels) for own in noise]

    treated, control = arm(0.65 + gain), arm(0.65)
    groups = [str(i // 2) for i in range(120)]
    return paired_difference(
        treated, control, labels, groups, draws=150, seed=int(rng.integers(1 << 30))
    )["accuracy"]


@pytest.mark.parametrize(("seeds", "training"), [(3, 0.0), (3, 0.8), (6, 0.3)])
def test_without_a_gain_the_interval_covers_zero_at_its_rate_and_no_gain_is_called(
    seeds: int, training: float
) -> None:
    rng = np.random.default_rng(seeds)
    found = [trial(rng, 0.0, seeds, training) for _ in range(120)]
    covered = np.mean([f["low"] <= 0 <= f["high"] for f in found])
    assert 0.91 <= covered, "0.95, less 2 standard errors of 120 trials"
    assert np.mean([verdict(f, seeds)[0] == "same" for f in found]) == pytest.approx(covered)
    assert np.mean([f["p"] < 0.05 for f in found]) == pytest.approx(1 - covered, abs=0.04)


def test_a_planted_gain_is_found_at_its_size() -> None:
    rng = np.random.default_rng(0)
    found = [trial(rng, 0.15, 5, 0.2) for _ in range(60)]
    error = np.std([f["mean"] for f in found]) / 60**0.5
    assert np.mean([f["mean"] for f in found]) == pytest.approx(0.15, abs=3 * error)
    assert np.mean([f["low"] <= 0.15 <= f["high"] for f in found]) >= 0.88
    assert np.mean([verdict(f, 5)[0] == "helps" for f in found]) > 0.5 and not [
        f for f in found if f["high"] < 0
    ]


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    least = float(np.mean([trial(rng, 0.0, 5, 0.1)["detectable"] for _ in range(20)]))
    assert 0.05 < least < 0.3
    assert np.mean([trial(rng, least, 5, 0.1)["low"] > 0 for _ in range(80)]) == pytest.approx(
        0.8, abs=0.12
    )


@pytest.mark.parametrize("counts", [(2, 3), (0, 0), (1, 0)])
def test_arms_need_the_same_seeds(counts: tuple[int, int]) -> None:
    arms = [[np.full((4, 2), 0.5)] * n for n in counts]
    with pytest.raises(
        ValueError, match=f"paired arms need the same seeds, got {counts[0]} and {counts[1]}"
    ):
        paired_difference(*arms, np.zeros(4, int), ["a"] * 4)


# --- verdict ---

GAIN = {"mean": 0.034, "low": 0.012, "high": 0.056}
LOSS = {"mean": -0.034, "low": -0.056, "high": -0.012}
UNSURE = {"mean": 0.01, "low": -0.02, "high": 0.04}


def test_verdict_of_a_gain() -> None:
    assert verdict(GAIN, 5) == (
        "helps",
        "The selected synthetic patches help: balanced accuracy changed by +3.4 points (95 % "
        "interval +1.2 to +5.6).",
    )


def test_verdict_of_a_loss() -> None:
    assert verdict(LOSS, 3, "accuracy") == (
        "hurts",
        "The selected synthetic patches hurt: accuracy changed by -3.4 points (95 % interval -5.6 "
        "to -1.2). Do not use them.",
    )


@pytest.mark.parametrize(
    "difference",
    [UNSURE, {**GAIN, "low": 0.0}, {**LOSS, "high": 0.0}, dict.fromkeys(GAIN, float("nan"))],
)
def test_verdict_without_a_difference(difference: dict[str, float]) -> None:
    outcome, sentence = verdict(difference, 10)
    assert outcome == "same"
    assert sentence.startswith("No difference shown: balanced accuracy changed by ")


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("difference", [GAIN, LOSS, UNSURE])
def test_verdict_makes_no_claim_from_fewer_than_three_seeds(
    difference: dict[str, float], seeds: int
) -> None:
    outcome, sentence = verdict(difference, seeds)
    assert outcome == "soft"
    assert sentence.startswith("No difference shown, for want of seeds: ")
    assert f"with {seeds} of at least 3 this may be training noise" in sentence
    assert "help" not in sentence and "hurt" not in sentence


def test_verdict_says_what_would_have_been_found() -> None:
    sentence = verdict({**UNSURE, "detectable": 0.043}, 5)[1]
    assert sentence.endswith(
        " Only a true change of 4.3 points or more would be found four times in five."
    )


@pytest.mark.parametrize("difference", [GAIN, LOSS])
def test_a_claim_must_survive_the_correction_for_the_others(difference: dict[str, float]) -> None:
    outcome, sentence = verdict(difference, 5, adjusted=0.08, claims=4)
    assert outcome == "same"
    assert sentence.endswith(
        "the interval excludes zero, but its p-value, corrected for 4 claims, is 0.08."
    )
    assert verdict(difference, 5, adjusted=0.04, claims=4) == verdict(difference, 5)
    assert verdict(difference, 5, adjusted=float("nan"), claims=4)[0] == "same"


# --- families of claims ---


def test_holm_by_hand() -> None:
    found = holm({"a": 0.04, "b": 0.01, "c": float("nan"), "d": 0.03, "e": 0.9})
    assert found == pytest.approx(
        {"b": 0.04, "d": 0.09, "a": 0.09, "e": 0.9, "c": float("nan")}, nan_ok=True
    )
    assert (
        list(found) == ["a", "b", "c", "d", "e"]
        and holm({}) == {}
        and holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0}
    )


def test_holm_keeps_the_error_rate_of_a_family() -> None:
    rng = np.random.default_rng(0)
    false = [min(holm(dict(enumerate(rng.random(4)))).values()) < 0.05 for _ in range(2000)]  # type: ignore[arg-type]
    assert np.mean(false) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_holm_refuses_what_is_no_p_value(p: float) -> None:
    with pytest.raises(ValueError, match=f"p-values must lie in \\[0, 1\\], got {p} for 'G-C'"):
        holm({"G-C": p})


# --- one arm ---


def test_interval_of_an_arm_is_wider_than_that_of_a_paired_difference() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    hard = rng.random(200) < 0.6
    runs = [correct(hard | (rng.random(200) < 0.1), labels) for _ in range(3)]
    groups = [str(i) for i in range(200)]
    one = summarise(bootstrap_metrics(runs, labels, groups, draws=200), bounds=(0, 1))["accuracy"]
    assert one["mean"] == pytest.approx(
        np.mean([classification_metrics(p, labels)["accuracy"] for p in runs])
    )
    assert 0 <= one["low"] < one["mean"] < one["high"] <= 1
    pair = paired_difference(runs, [correct(hard, labels)] * 3, labels, groups, draws=200)[
        "accuracy"
    ]
    assert pair["high"] - pair["low"] < one["high"] - one["low"]


def test_the_first_draw_is_the_test_set_and_the_others_have_whole_groups() -> None:
    probabilities, labels = predictions(30, 3)
    table = bootstrap_metrics([probabilities], labels, ["one"] * 30, draws=4)
    assert table.shape == (1, 5, len(METRICS))
    for row in table[0]:  # the only group is drawn every time
        assert dict(zip(METRICS, row, strict=True)) == pytest.approx(
            classification_metrics(probabilities, labels)
        )


def test_an_arm_needs_a_run() -> None:
    with pytest.raises(ValueError, match="an arm needs at least one run, got none"):
        bootstrap_metrics([], np.zeros(2, int), ["a", "b"])


def test_each_patch_needs_its_group() -> None:
    arm = [np.full((4, 2), 0.5)]
    with pytest.raises(
        ValueError, match="each test patch needs its group, got 3 groups for 4 patches"
    ):
        paired_difference(arm, arm, np.arange(4) % 2, ["a", "b", "c"])


def test_a_metric_that_is_undefined_stays_so() -> None:
    arm = [np.array([[0.9, 0.1], [0.2, 0.8]])]
    found = paired_difference(arm, arm, np.zeros(2, int), ["a", "b"], draws=10)
    assert (
        np.isnan([found["auc"][key] for key in ("mean", "low", "high", "p")]).all()
        and found["accuracy"]["mean"] == 0
    )
