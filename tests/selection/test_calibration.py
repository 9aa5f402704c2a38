from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_histodiff.selection import calibration
from monai_histodiff.selection.calibration import (
    fit_temperature,
    precision_at,
    precision_threshold,
)
from monai_histodiff.selection.fitting import checked_labels, checked_origins
from monai_histodiff.selection.folds import group_folds
from monai_histodiff.selection.quotas import best_scale, farthest_first
from monai_histodiff.selection.reasons import Reason
from monai_histodiff.selection.selector import select


def calibrated(
    count: int, seed: int, classes: int = 4, sharpness: float = 2.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, their probabilities, and labels drawn from just these probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(count, classes, generator=generator)
    probabilities = torch.softmax(logits, 1)
    return logits, probabilities, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


# --- temperature ---


@pytest.mark.parametrize("planted", [0.3, 1.0, 2.0, 6.0])
def test_fit_temperature_recovers_a_planted_temperature(planted: float) -> None:
    logits, _, labels = calibrated(4000, seed=0)
    assert fit_temperature(logits * planted, labels) == pytest.approx(planted, rel=0.08)


def test_fit_temperature_is_the_minimum_of_the_smoothed_cross_entropy() -> None:
    logits, _, labels = calibrated(300, seed=1)
    logits = logits * 2.7 + torch.tensor([1.0, 0.0, -1.0, 0.5])

    targets = (torch.nn.functional.one_hot(labels, 4) * 300 + 1).double() / 304

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / temperature, targets))

    best = fit_temperature(logits, labels)
    assert loss(best) <= min(loss(best * f) for f in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))


@pytest.mark.parametrize("samples", [3, 15, 30, 3000])
def test_right_answers_make_no_more_sure_than_their_number_allows(samples: int) -> None:
    """One held-out patch of each class more would have been (N + 1) / (N + K) right."""
    labels = torch.arange(samples) % 3
    logits = torch.nn.functional.one_hot(labels, 3).float()
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(1 / math.log(samples + 1), rel=1e-4)
    sure = torch.softmax(logits / temperature, 1).max(1).values
    assert sure.tolist() == pytest.approx([(samples + 1) / (samples + 3)] * samples, rel=1e-4)


def test_temperatures_have_bounds() -> None:
    labels = torch.arange(30) % 3
    logits = torch.nn.functional.one_hot(labels, 3).float()
    assert fit_temperature(logits / 100, labels) == pytest.approx(0.05, rel=1e-4)
    assert fit_temperature(-logits, labels) == pytest.approx(20.0, rel=1e-4)


def test_a_temperature_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="a temperature needs at least one sample, got none"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


# --- threshold ---


@pytest.mark.parametrize("target", [0.75, 0.8, 0.9])
def test_the_threshold_holds_its_precision_on_fresh_data(target: float) -> None:
    _, probabilities, labels = calibrated(3000, seed=2)
    threshold, reached = precision_threshold(probabilities, labels, target)
    assert target <= reached < target + 0.01
    _, fresh, fresh_labels = calibrated(20000, seed=3)
    assigned = fresh >= threshold
    right = torch.nn.functional.one_hot(fresh_labels, 4).bool()
    assert float(right[assigned].float().mean()) == pytest.approx(target, abs=0.025)


def test_the_precision_that_is_told_is_that_of_the_labels_that_are_given() -> None:
    """Above one half no other class reaches the threshold; below, others count for it alone."""
    _, probabilities, labels = calibrated(500, seed=3)
    threshold, reached = precision_threshold(probabilities, labels, 0.9)
    assert threshold > 0.5
    assert precision_at(probabilities, labels, threshold) == pytest.approx(reached, abs=1e-12)
    threshold, reached = precision_threshold(probabilities, labels, 0.6)
    _, fresh, fresh_labels = calibrated(20000, seed=4)
    sure = fresh.amax(1) >= threshold
    right = (fresh.argmax(1) == fresh_labels)[sure].float().mean()
    assert threshold < 0.5 and precision_at(probabilities, labels, threshold) > reached + 0.05
    assert precision_at(fresh, fresh_labels, threshold) == pytest.approx(float(right))


def test_the_precision_at_a_threshold_counts_by_hand() -> None:
    probabilities = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    labels = torch.tensor([0, 0, 0])
    assert precision_at(probabilities, labels, 0.6) == pytest.approx(2 / 3)
    assert precision_at(probabilities, labels, 0.3) == pytest.approx(2 / 3)
    assert precision_at(probabilities, labels, 0.7) == pytest.approx(1 / 2)
    assert precision_at(probabilities, labels, 0.95) == 0.0, "no assignment"


def test_the_threshold_of_calibrated_data_is_where_the_mean_confidence_is_the_target() -> None:
    _, probabilities, labels = calibrated(20000, seed=4)
    threshold, _ = precision_threshold(probabilities, labels, 0.85)
    assert float(probabilities[probabilities >= threshold].mean()) == pytest.approx(0.85, abs=0.01)


def tied() -> tuple[Tensor, Tensor]:
    """Ten certain and right at 0.9, ten at 0.8 of which five are right, in mixed order."""
    probabilities = torch.tensor([[0.9, 0.1]] * 10 + [[0.8, 0.2]] * 10)
    labels = torch.tensor([0] * 10 + [0, 1] * 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    return probabilities[order], labels[order]


@pytest.mark.parametrize(
    ("target", "threshold", "precision"),
    [(1.0, 0.9, 1.0), (0.8, 0.9, 1.0), (0.75, 0.8, 15 / 20), (0.5, 0.8, 15 / 20)],
)
def test_ties_stand_or_fall_together(target: float, threshold: float, precision: float) -> None:
    assert precision_threshold(*tied(), target) == (
        pytest.approx(threshold),
        pytest.approx(precision),
    )


@pytest.mark.parametrize("target", [0.3, 0.5, 0.75])
def test_the_threshold_is_never_below_chance(target: float) -> None:
    """A sure critic of three easy classes: even its second choices would not spoil a modest
    precision.
    """
    labels = torch.arange(30) % 3
    probabilities = torch.full((30, 3), 0.01).scatter_(1, labels[:, None], 0.98)
    probabilities[:3] = torch.tensor([0.4, 0.35, 0.25])
    threshold, reached = precision_threshold(probabilities, labels, target)
    right = torch.nn.functional.one_hot(labels, 3).bool()
    assert threshold == pytest.approx(0.35) and reached == pytest.approx(
        float(right[probabilities >= 0.35].double().mean())
    )


def test_logits_are_no_probabilities() -> None:
    _, probabilities, labels = calibrated(20, seed=8)
    probabilities[3] *= 0.5
    with pytest.raises(ValueError, match="must sum to 1, got 0.5 in row 3: give softmax outputs"):
        precision_threshold(probabilities, labels)


def test_the_reached_precision_is_that_of_all_at_or_above_the_threshold() -> None:
    _, probabilities, labels = calibrated(200, seed=5)
    probabilities = probabilities[torch.arange(200) // 5 * 5]  # many ties
    for target in (0.5, 0.7, 0.9):
        threshold, reached = precision_threshold(probabilities, labels, target)
        right = torch.nn.functional.one_hot(labels, 4).bool()
        assert reached == pytest.approx(float(right[probabilities >= threshold].double().mean()))


def test_the_lowest_of_several_thresholds_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Precision dips below the target and recovers: the larger set is wanted."""
    sure = torch.tensor([[0.9, 0.1]] * 4 + [[0.8, 0.2]] * 4 + [[0.7, 0.3]] * 12)
    labels = torch.tensor([0, 0, 0, 0] + [1, 1, 1, 0] + [0] * 12)
    monkeypatch.setattr(calibration, "FEWEST", 1)
    assert precision_threshold(sure, labels, 0.8) == (
        pytest.approx(0.7),
        pytest.approx(17 / 20),
    )


def test_an_unreachable_target_gives_the_best_and_says_so() -> None:
    probabilities = torch.tensor([[0.9, 0.1]] * 10 + [[0.7, 0.3]] * 10)
    labels = torch.tensor([0] * 6 + [1] * 4 + [0] * 9 + [1])
    threshold, reached = precision_threshold(probabilities, labels, 0.95)
    assert threshold == pytest.approx(0.7)
    assert reached == pytest.approx(15 / 20)
    assert reached < 0.95


def test_an_estimate_rests_on_the_least_number_of_assignments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probabilities = torch.tensor([[0.99, 0.01]] * 3 + [[0.6, 0.4]] * 17)
    labels = torch.tensor([0] * 3 + [0] * 12 + [1] * 5)
    monkeypatch.setattr(calibration, "FEWEST", 3)
    assert precision_threshold(probabilities, labels, 0.9) == (pytest.approx(0.99), 1.0)
    monkeypatch.setattr(calibration, "FEWEST", 4)
    assert precision_threshold(probabilities, labels, 0.9) == (
        pytest.approx(0.6),
        pytest.approx(15 / 20),
    )


def test_the_threshold_accepts_the_sample_that_it_was_read_from() -> None:
    """No rounding on the way: float32 confidences against a Python number."""
    _, probabilities, labels = calibrated(500, seed=6)
    threshold, _ = precision_threshold(probabilities, labels, 0.9)
    confidence = probabilities.max(1).values
    assert (confidence == threshold).any()
    outcome = select(
        probabilities, probabilities.argmax(1), torch.ones(500), torch.zeros(500), threshold
    )
    assert torch.equal(outcome.keep, confidence >= threshold)


def test_a_critic_that_knows_nothing_is_at_chance() -> None:
    blind = torch.full((20, 2), 0.5, dtype=torch.float32)
    assert precision_threshold(blind, torch.arange(20) % 2, 0.9) == (0.5, 0.5)
    for classes in range(5, 60):  # 1 / 25, in float32, is below 1 / 25
        blind = torch.softmax(torch.zeros(2 * classes, classes), 1)
        found = precision_threshold(blind, torch.arange(2 * classes) % classes, 0.9)
        assert found == pytest.approx((1 / classes, 1 / classes), rel=1e-5)


def test_certainty_is_a_probability() -> None:
    sure = torch.eye(2, dtype=torch.float32).repeat(10, 1)
    assert precision_threshold(sure, sure.argmax(1), 0.9) == (1.0, 1.0)


@pytest.mark.parametrize("target", [0.0, -0.5, 1.01, math.nan])
def test_a_target_is_a_fraction(target: float) -> None:
    with pytest.raises(ValueError, match=r"target precision must lie in \(0, 1\], got "):
        precision_threshold(*tied(), target)


def test_a_threshold_needs_samples() -> None:
    probabilities, labels = tied()
    with pytest.raises(ValueError, match="a threshold needs at least 10 held-out samples, got 9"):
        precision_threshold(probabilities[:9], labels[:9])


# --- selection ---


def test_every_candidate_gets_its_reason() -> None:
    nan = float("nan")
    certain = [0.9, 0.1]
    probabilities = torch.tensor(
        [
            certain,
            certain,
            [0.6, 0.4],
            certain,
            [nan, nan],
            certain,
            [0.75, 0.25],
            certain,
            certain,
        ]
    )
    labels = torch.tensor([0, 1, 0, 0, 0, 0, 0, 0, 0])
    distance = torch.tensor([0.5, 0.5, 0.0, 0.01, 0.5, nan, 0.5, 0.125, math.inf])
    nearest = torch.arange(9)
    outcome = select(
        probabilities, labels, distance, nearest, threshold=0.75, copy_threshold=0.125
    )
    assert outcome.reasons == [
        Reason.accepted,
        "low confidence",  # in the intended class, whatever the critic sees in the other
        "low confidence",  # comes before the copy gate
        "near copy",
        "not finite",
        "not finite",
        Reason.accepted,  # at the threshold
        Reason.accepted,  # at the copy threshold
        "not finite",
    ]
    assert outcome.keep.dtype == torch.bool
    assert outcome.keep.tolist() == [r == Reason.accepted for r in outcome.reasons]
    torch.testing.assert_close(
        outcome.confidence,
        torch.tensor([0.9, 0.1, 0.6, 0.9, nan, 0.9, 0.75, 0.9, 0.9]),
        equal_nan=True,
    )
    assert outcome.distance is distance and outcome.nearest is nearest


def test_without_a_copy_threshold_exact_copies_pass() -> None:
    outcome = select(
        torch.tensor([[0.9, 0.1]]),
        torch.tensor([0]),
        torch.tensor([0.0]),
        torch.tensor([3]),
        threshold=0.5,
    )
    assert outcome.reasons == [Reason.accepted]


def test_no_candidate_is_no_outcome() -> None:
    outcome = select(
        torch.zeros(0, 2),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0),
        torch.zeros(0),
        threshold=0.5,
    )
    assert (
        outcome.keep.shape == (0,) and outcome.keep.dtype == torch.bool and outcome.reasons == []
    )


def test_a_label_must_be_the_most_probable_whatever_the_threshold() -> None:
    """Of many classes the threshold may be so low that another class reaches it, too."""
    parts = torch.tensor([[0.4, 0.6]]), torch.tensor([0]), torch.ones(1), torch.zeros(1)
    assert select(*parts, threshold=0.3).reasons == [Reason.other_class]


# --- guidance scale ---


def trial(*counts: list[int], n: int = 8) -> tuple[Tensor, Tensor]:
    """Accepted candidates, of ``n``, by scale and class; those accepted are certain, the others at
    0.2.
    """
    accepted = torch.stack([torch.stack([torch.arange(n) < c for c in row]) for row in counts])
    return accepted, torch.where(accepted, 1.0, 0.2)


@pytest.mark.parametrize(
    ("counts", "best"),
    [
        (([1, 1], [3, 3], [2, 2]), 2.0),  # more accepted
        (([4, 4], [8, 3], [8, 0]), 1.0),  # both quotas filled, against more patches of one class
        (([4, 4], [6, 6], [4, 8]), 1.0),  # all fill both: the least guidance
        (([3, 4], [6, 6], [4, 8]), 2.0),  # two fill both: the lesser of them
        (([2, 2], [2, 2], [2, 2]), 1.0),  # nothing tells them apart: the least guidance
    ],
)
def test_best_scale_fills_the_most_quotas(counts: tuple[list[int], ...], best: float) -> None:
    assert best_scale([1.0, 2.0, 3.0], *trial(*counts), quota=50, max_candidates=100) == best


def test_best_scale_depends_on_the_attempts() -> None:
    """With many attempts a low rate fills the quota too."""
    accepted, confidence = trial([2, 2], [8, 1])
    assert best_scale([1.0, 2.0], accepted, confidence, quota=10, max_candidates=10) == 2.0
    assert best_scale([1.0, 2.0], accepted, confidence, quota=10, max_candidates=40) == 1.0


def test_where_nothing_is_accepted_the_mean_confidence_decides() -> None:
    confidence = torch.tensor([[[0.1, 0.2]], [[0.3, 0.4]], [[0.6, math.nan]], [[0.3, 0.4]]])
    nothing = torch.zeros(4, 1, 2, dtype=torch.bool)
    assert best_scale([1, 2, 3, 4], nothing, confidence, 5, 10) == 2, "what is not finite is none"
    sure = confidence.nan_to_num(0.9)
    assert best_scale([1, 2, 3, 4], nothing, sure, 5, 10) == 3
    assert best_scale([1, 2, 3, 4], nothing, sure, 1, 1) == 3, "the fewest there are"
    one = nothing.clone()
    one[0, 0, 0] = True
    assert best_scale([1, 2, 3, 4], one, sure, 5, 10) == 1, "the one that is accepted at all"
    assert best_scale([1, 4, 9, 2], nothing[[0, 1, 1, 3]], confidence[[0, 1, 1, 3]], 5, 10) == 2, (
        "the lowest of equals, in any order"
    )


@pytest.mark.parametrize(
    ("scales", "shape", "other"),
    [
        ([], (0, 2, 2), (0, 2, 2)),
        ([1], (2, 2, 2), (2, 2, 2)),
        ([1], (1, 2, 2), (1, 2, 3)),
        ([1], (1, 2), (1, 2)),
        ([1], (1, 2, 0), (1, 2, 0)),
    ],
)
def test_a_trial_has_scales_classes_and_candidates(
    scales: list[float], shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"a trial must be S x K x n for S scales, got \("):
        best_scale(scales, torch.zeros(shape, dtype=torch.bool), torch.zeros(other), 5, 10)


# --- diversity ---


def test_farthest_first_goes_from_the_middle_to_the_ends() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [5.0], [10.0], [10.0]])  # the mean is 4.67
    assert farthest_first(points, 5).tolist() == [3, 0, 4, 2, 1]
    assert farthest_first(points, 1).tolist() == [3]
    assert sorted(farthest_first(points, 6).tolist()) == [0, 1, 2, 3, 4, 5], (
        "twins come last, but each once"
    )


def test_farthest_first_covers_within_twice_the_best_radius() -> None:
    """Gonzalez 1985: the greedy radius is at most twice that of the best centres, here those of
    five tight clusters.
    """
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(5)
    points = (
        centres[:, None] + 0.5 * torch.randn(5, 40, 5, generator=generator).clamp(-1, 1)
    ).flatten(0, 1)
    best = torch.cdist(points, centres).amin(1).max()
    chosen = farthest_first(points, 5)
    assert sorted((chosen // 40).tolist()) == [0, 1, 2, 3, 4]
    assert torch.cdist(points, points[chosen]).amin(1).max() <= 2 * best + 1e-4
    assert farthest_first(points, 3).tolist() == chosen[:3].tolist(), (
        "the first ones do not depend on the count"
    )


@pytest.mark.parametrize("count", [0, 4])
def test_farthest_first_takes_some_of_what_there_is(count: int) -> None:
    with pytest.raises(ValueError, match=f"count must lie from 1 to the 3 rows, got {count}"):
        farthest_first(torch.zeros(3, 2), count)


# --- what is not a number is refused ---

NAN, INF = math.nan, math.inf
Call = Callable[[], Any]


def judged(threshold: float = 0.5, copies: float = 0.0, labels: list[int] | None = None) -> Any:
    parts = torch.full((2, 2), 0.5), torch.tensor(labels or [0, 1]), torch.ones(2), torch.zeros(2)
    return select(*parts, threshold, copies)


def with_one(value: float, shape: tuple[int, ...] = (20, 2)) -> Tensor:
    out = torch.full(shape, 0.5)
    out.view(-1)[3] = value
    return out


LABELS = torch.arange(20) % 2
REFUSED: list[tuple[Call, str]] = [
    (
        lambda: fit_temperature(with_one(NAN), LABELS),
        "logits must be finite, got 1 samples with others",
    ),
    (lambda: fit_temperature(with_one(-INF), LABELS), "logits must be finite, got 1 samples"),
    (
        lambda: fit_temperature(with_one(0.5), LABELS + 1),
        "labels must lie from 0 to 1, got 1 to 2",
    ),
    (
        lambda: fit_temperature(with_one(0.5), LABELS - 1),
        "labels must lie from 0 to 1, got -1 to 0",
    ),
    (
        lambda: fit_temperature(with_one(0.5), LABELS[:9]),
        r"logits must be N x K, and labels N, got \(20, 2\) for labels of shape \(9,\)",
    ),
    (lambda: precision_threshold(with_one(NAN), LABELS), "probabilities must be finite, got 1"),
    (
        lambda: precision_threshold(with_one(1.5), LABELS),
        r"probabilities must lie in \[0, 1\], got 0.5 to 1.5",
    ),
    (
        lambda: precision_threshold(with_one(-0.1), LABELS),
        r"probabilities must lie in \[0, 1\], got -0.1 to 0.5",
    ),
    (lambda: precision_threshold(with_one(0.5), LABELS * 2), "labels must lie from 0 to 1, got 0"),
    (lambda: judged(NAN), r"threshold must lie in \[0, 1\], got nan"),
    (lambda: judged(1.01), r"threshold must lie in \[0, 1\], got 1.01"),
    (lambda: judged(-0.01), r"threshold must lie in \[0, 1\], got -0.01"),
    (lambda: judged(copies=NAN), "copy threshold must be at least 0 and finite, got nan"),
    (lambda: judged(copies=INF), "copy threshold must be at least 0 and finite, got inf"),
    (lambda: judged(copies=-1.0), "copy threshold must be at least 0 and finite, got -1.0"),
    (lambda: judged(labels=[0, 2]), "labels must lie from 0 to 1, got 0 to 2"),
    (lambda: judged(labels=[-1, 1]), "labels must lie from 0 to 1, got -1 to 1"),
    (
        lambda: judged(labels=[0, 1, 1]),
        r"each candidate needs one row of each part, got \[2, 3, 2, 2\]",
    ),
    (
        lambda: farthest_first(with_one(NAN, (4, 2)), 2),
        "features must be finite, got 1 rows with others",
    ),
    (lambda: farthest_first(with_one(INF, (4, 2)), 2), "features must be finite, got 1 rows"),
    (lambda: best_scale([NAN, 1.0], *trial([1, 1], [2, 2]), 5, 9), "scales must be finite, got"),
    (lambda: best_scale([INF], *trial([1, 1]), 5, 9), r"scales must be finite, got \[inf\]"),
    (
        lambda: best_scale([1.0], *trial([1, 1]), 0, 9),
        "quota and candidates must be at least 1, got 0 and 9",
    ),
    (
        lambda: best_scale([1.0], *trial([1, 1]), 5, NAN),  # type: ignore[arg-type]
        "quota and candidates must be at least 1, got 5 and nan",
    ),
    (
        lambda: group_folds([0, 0, 1, NAN], list("abcd"), 2),  # type: ignore[list-item]
        "labels must be whole numbers, got nan",
    ),
    (
        lambda: precision_at(torch.full((2, 2), 0.5), torch.zeros(3).long(), 0.5),
        r"labels N, got \(2, 2\) for labels of shape \(3,\)",
    ),
    (
        lambda: precision_at(torch.tensor([[NAN, 0.5]]), torch.zeros(1).long(), 0.5),
        "probabilities must be finite, got 1",
    ),
    (lambda: group_folds([0, 0, -1], list("abc"), 2), "index of a class, from 0 on, got -1 of 1"),
    (lambda: group_folds([0, 0, 1], list("abcd"), 2), "each label needs a group, got 3 and 4"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_not_a_number_is_refused(call: Call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_threshold_may_be_0_or_1() -> None:
    assert judged(0.0).keep.tolist() == [True, True]
    assert judged(1.0).keep.tolist() == [False, False]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_value_that_is_not_finite_spoils_a_candidate(value: float) -> None:
    """Even of a class that is not the intended one, or in the distance alone."""
    probabilities = torch.tensor([[0.9, value], [0.9, 0.1], [0.9, 0.1]])
    distance = torch.tensor([1.0, value, 1.0])
    outcome = select(probabilities, torch.zeros(3).long(), distance, torch.zeros(3), 0.5)
    assert outcome.reasons == ["not finite", "not finite", "accepted"]
    assert outcome.keep.tolist() == [False, False, True]


def test_labels_and_origins_of_any_whole_numbers() -> None:
    for given in ([0, 1], np.array([0, 1], np.uint16), torch.tensor([0, 1], dtype=torch.int32)):
        assert torch.equal(checked_labels(given, 2, 2), torch.tensor([0, 1]))
        assert torch.equal(checked_origins(given, 2), torch.tensor([0, 1]))
    assert len(checked_origins([], 0)) == 0
    with pytest.raises(ValueError, match=r"must name a patch, .*, got \['a', 'b'\] for 2"):
        checked_origins(["a", "b"], 2)
    folds = group_folds(np.array([0, 0, 1, 1]), list("abcd"), 2)
    assert sorted(folds.tolist()) == [0, 0, 1, 1]
