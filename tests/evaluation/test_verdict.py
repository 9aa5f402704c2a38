"""What is claimed, from what, and in which words."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from monai_histodiff.evaluation.verdict import compare_arms, shortfalls, verdict

Array = NDArray[np.float64]
GAIN = {"mean": 0.034, "low": 0.012, "high": 0.056}
LOSS = {"mean": -0.034, "low": -0.056, "high": -0.012}
UNSURE = {"mean": 0.01, "low": -0.02, "high": 0.04}


def arm(accuracy: float, labels: NDArray[np.int64], seeds: int = 3, seed: int = 0) -> list[Array]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(seeds):
        right = rng.random(len(labels)) < accuracy
        found.append(np.where(np.eye(2)[labels] == right[:, None], 0.9, 0.1))
    return found


def compare(
    groups: list[str], seeds: int = 3, labels: NDArray[np.int64] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    labels = np.arange(len(groups)) // 2 % 2 if labels is None else labels
    arms = {"C": arm(0.6, labels, seeds), "G": arm(0.9, labels, seeds, 1)}
    return compare_arms(arms, labels, groups, ["a", "b"], ["G-C", "G-F"])


def test_a_planted_gain_is_claimed_and_everything_is_plain() -> None:
    found = compare([f"p{i // 4}" for i in range(160)])
    claim = found["claims"]["G-C"]
    assert claim["claim"] == "helps" and claim["p_holm"] == claim["p"] < 0.001
    row = found["differences"]["G-C"]["balanced_accuracy"]
    assert 0.1 < row["low"] < 0.3 < row["high"] < 0.5 and list(found["claims"]) == ["G-C"]
    errors = math.hypot(claim["group_error"], claim["run_error"])
    half = stats.t.ppf(0.975, claim["freedom"]) * errors
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half), "both parts are standard errors"
    assert json.loads(json.dumps(found)) == found and found["shortfalls"] == []
    assert [len(hits) for hits in found["hits"]["G"]] == [160] * 3
    share = np.mean([[digit == "1" for digit in hits] for hits in found["hits"]["G"]])
    assert share == pytest.approx(np.mean(found["arms"]["G"]["accuracy"]))
    assert len(set(found["test"]["groups"])) == 40


def test_what_could_have_been_found_counts_the_claims() -> None:
    labels = np.arange(160) // 2 % 2
    arms = {name: arm(0.6, labels, seed=i) for i, name in enumerate("CGF")}
    groups = [f"p{i // 4}" for i in range(160)]
    for comparisons in (["G-C"], ["G-C", "G-F"]):
        claim = compare_arms(arms, labels, groups, ["a", "b"], comparisons)["claims"]["G-C"]
        error = math.hypot(claim["group_error"], claim["run_error"])
        quantile = stats.t.ppf(1 - 0.025 / len(comparisons), claim["freedom"])
        least = error * (quantile + stats.t.ppf(0.8, claim["freedom"]))
        assert claim["detectable"] == pytest.approx(least)


@pytest.mark.parametrize(
    ("groups", "seeds", "told"),
    [
        (["p1"] * 60, 3, "needs at least 10 test groups (patients), got 1"),
        ([f"p{i // 10}" for i in range(90)], 3, "needs at least 10 test groups (patients), got 9"),
        ([f"p{i // 4}" for i in range(80)], 2, "needs at least 3 seeds, got 2"),
    ],
)
def test_nothing_is_claimed_from_too_little(groups: list[str], seeds: int, told: str) -> None:
    """60 patches of one patient, .6 against .9: this was "helps" up to version 0.9.0."""
    found = compare(groups, seeds)
    claim = found["claims"]["G-C"]
    assert claim["claim"] == "inconclusive" and any(told in s for s in found["shortfalls"])
    assert "nothing is claimed" in claim["sentence"] and told in claim["sentence"]


def test_a_class_needs_test_groups() -> None:
    groups, labels = [f"p{i // 4}" for i in range(80)], np.zeros(80, int)
    assert shortfalls(labels, groups, ["a", "b"], 3) == [
        "A claim needs test groups of every class, at least 2, got 0 of class 'b'. Test on more "
        "patients with it, or leave the class out."
    ]
    labels[:4] = 1
    assert "got 1 of class 'b'" in shortfalls(labels, groups, ["a", "b"], 3)[0]
    found = compare(groups, labels=labels)
    assert found["claims"]["G-C"]["claim"] == "inconclusive"
    assert math.isnan(found["intervals"]["G"]["balanced_accuracy"]["low"]), "no width is known"
    assert "no interval" in str(found["claims"]["G-C"]["sentence"])
    labels[4:8] = 1
    assert shortfalls(labels, groups, ["a", "b"], 3) == []


def test_one_group_must_not_hold_nearly_all_patches_of_two_classes() -> None:
    """Two classes, each of one patient of 200 patches and five of one: up to version 0.26 one in
    five such tests claimed an effect where there was none.
    """
    sizes = [200, *[1] * 5]
    labels = np.repeat([0, 1], sum(sizes))
    groups = np.repeat([f"p{i:02}" for i in range(12)], sizes * 2).tolist()
    assert shortfalls(labels, groups, ["a", "b"], 3) == [
        "A claim needs test groups that count for at least 1.4 equal ones, in all classes but "
        "one, got 1.05 of class 'a', 1.05 of class 'b': one group holds nearly all of their "
        "patches. Test on more patches of other patients, or on fewer of the one."
    ]
    spread = [*groups[:205], *(f"q{i % 15}" for i in range(205))]
    assert shortfalls(labels, spread, ["a", "b"], 3) == [], "one class alone keeps its rate"
    sizes = [100, *[1] * 20]  # counts for 1.4
    labels, groups = np.repeat([0, 1], 120), np.repeat(range(42), sizes * 2).astype(str).tolist()
    assert shortfalls(labels, groups, ["a", "b"], 3) == []


def test_an_interval_is_never_a_point() -> None:
    labels = np.arange(80) // 2 % 2
    arms = {"C": arm(2.0, labels), "G": arm(2.0, labels)}
    found = compare_arms(arms, labels, [f"p{i // 4}" for i in range(80)], ["a", "b"], ["G-C"])
    for rows in (found["intervals"]["G"], found["differences"]["G-C"]):
        for row in rows.values():
            assert math.isnan(row["low"]) or row["low"] < row["high"]
    perfect = found["intervals"]["G"]["balanced_accuracy"]
    assert perfect["mean"] == perfect["high"] == 1 and 0.9 < perfect["low"] < 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "arm G, run 1 must be finite, got NaN or infinity in 1 of 80 rows"),
        (np.inf, "arm G, run 1 must be finite"),
        (0.5, "rows of arm G, run 1 must sum to 1, got "),
        (-0.1, "arm G, run 1 must not be below 0, got -0.1"),
    ],
)
def test_what_is_no_probability_is_refused(value: float, message: str) -> None:
    """NaN used to count as a prediction of the first class."""
    labels = np.arange(80) // 2 % 2
    arms = {"C": arm(0.6, labels), "G": arm(0.9, labels)}
    arms["G"][1][7, 0] = value
    with pytest.raises(ValueError, match=message):
        compare_arms(arms, labels, [f"p{i // 4}" for i in range(80)], ["a", "b"], ["G-C"])


def test_arms_need_the_same_seeds_and_patches_their_groups() -> None:
    labels = np.arange(80) // 2 % 2
    groups = [f"p{i // 4}" for i in range(80)]
    arms = {"C": arm(0.6, labels), "G": arm(0.9, labels, 2)}
    with pytest.raises(ValueError, match="all arms need the same seeds, at least one, got 2 in"):
        compare_arms(arms, labels, groups, ["a", "b"], ["G-C"])
    with pytest.raises(ValueError, match="each test patch needs its group, got 79 groups for 80"):
        compare_arms({"C": arms["C"]}, labels, groups[1:], ["a", "b"], ["G-C"])
    with pytest.raises(ValueError, match="classes must have different names, got .'a', 'a'.: re"):
        compare_arms({"C": arms["C"]}, labels, groups, ["a", "a"], ["G-C"])


def test_what_cannot_be_compared_is_told() -> None:
    labels = np.arange(80) // 2 % 2
    groups: list[Any] = [f"p{i // 4}" for i in range(80)]
    arms = {"C": arm(0.6, labels), "G": arm(0.9, labels)}
    names = ["a", "b"]
    whole = compare_arms(arms, labels, groups, names, ["G-C"])
    tensors: Any = {name: [torch.tensor(p) for p in runs] for name, runs in arms.items()}
    plain: Any = labels.tolist()
    assert compare_arms(tensors, plain, groups, names, ["G-C"]) == whole
    for bad in (labels + 0.0, labels[:, None]):
        with pytest.raises(ValueError, match="labels must be N whole numbers, got "):
            compare_arms(arms, bad, groups, names, ["G-C"])
    for name in ("GC", "G-C-F"):
        with pytest.raises(ValueError, match=f"of two arms, such as 'G-C', got '{name}'"):
            compare_arms(arms, labels, groups, names, [name])
    for nobody in (None, "", 7):
        with pytest.raises(ValueError, match="a group must be the name of .*, got 1 of 80 that"):
            compare_arms(arms, labels, [nobody, *groups[1:]], names, ["G-C"])


# --- the words ---


def test_verdict_of_a_gain() -> None:
    assert verdict(GAIN) == (
        "helps",
        "The selected synthetic patches help: balanced accuracy changed by +3.4 points "
        "(95 % interval +1.2 to +5.6).",
    )


def test_verdict_of_a_loss() -> None:
    assert verdict(LOSS) == (
        "hurts",
        "The selected synthetic patches hurt: balanced accuracy changed by -3.4 points "
        "(95 % interval -5.6 to -1.2). Do not use them.",
    )


@pytest.mark.parametrize("difference", [UNSURE, {**GAIN, "low": 0.0}, {**LOSS, "high": 0.0}])
def test_verdict_without_a_difference(difference: dict[str, float]) -> None:
    word, sentence = verdict(difference)
    assert word == "inconclusive"
    assert sentence.startswith("Inconclusive: balanced accuracy changed by ")


def test_verdict_knows_no_negative_zero() -> None:
    sentence = verdict({"mean": -0.0001, "low": -0.02, "high": 0.0199})[1]
    assert "changed by +0.0 points (95 % interval -2.0 to +2.0)" in sentence


def test_verdict_says_what_would_have_been_found() -> None:
    sentence = verdict({**UNSURE, "detectable": 0.043})[1]
    told = " Only a true change of 4.3 points or more would be found four times in five."
    assert sentence.endswith(told)


def test_verdict_without_an_interval() -> None:
    word, sentence = verdict({"mean": 0.1, "low": math.nan, "high": math.nan}, ["A rule."])
    assert word == "inconclusive"
    assert sentence == (
        "Not tested: balanced accuracy changed by +10.0 points (no interval), but nothing is "
        "claimed. A rule."
    )


@pytest.mark.parametrize("difference", [GAIN, LOSS])
def test_a_claim_must_survive_the_correction_for_the_others(difference: dict[str, float]) -> None:
    word, sentence = verdict(difference, adjusted=0.08, claims=4)
    assert word == "inconclusive"
    assert sentence.endswith(
        "the interval excludes zero, but its p-value, corrected for 4 claims, is 0.08."
    )
    assert verdict(difference, adjusted=0.04, claims=4) == verdict(difference)
    assert verdict(difference, adjusted=math.nan, claims=4)[0] == "inconclusive"
