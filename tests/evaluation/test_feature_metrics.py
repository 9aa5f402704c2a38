"""Closed forms, trusted implementations and invariances of the measures of a generator."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics.fid import get_fid_score
from torch import Tensor

from monai_histodiff.evaluation.feature_metrics import (
    compare_features,
    frechet_distance,
    kid,
    nearest_distances,
    precision_recall_density_coverage,
)
from monai_histodiff.selection.copies import flag_copies


def normal(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def with_moments(mean: Tensor, cov: Tensor, n: int = 50, seed: int = 0) -> Tensor:
    """Features whose sample mean and covariance are exactly these."""
    x = normal(n, len(mean), seed)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    return x @ torch.linalg.cholesky(cov).T + mean


def test_frechet_distance_of_gaussians_has_its_closed_form() -> None:
    one, two = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    shift = torch.tensor([3.0, 0.0, 4.0]).double()
    a, b = (
        with_moments(torch.zeros(3).double(), one.diag()),
        with_moments(shift, two.diag(), seed=1),
    )
    expected = 25 + float((one.sqrt() - two.sqrt()).square().sum())  # 25 + 1 + 0 + 4
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_agrees_with_monai() -> None:
    a, b = normal(80, 6) @ normal(6, 6, 1), normal(60, 6, 2) @ normal(6, 6, 3) + 0.5
    try:
        trusted = float(get_fid_score(a, b))
    except TypeError as error:
        pytest.skip(f"MONAI 1.6.1 calls SciPy as 1.18 no longer allows: {error}")
    assert frechet_distance(a, b) == pytest.approx(trusted, rel=1e-6)


def test_frechet_distance_of_few_features_is_real_and_zero_for_a_set_and_itself() -> None:
    a = normal(5, 12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a[:, :1], a[:, :1] + 2) == pytest.approx(4, rel=1e-9)


def test_kid_is_the_double_sum_over_distinct_pairs() -> None:
    a, b = normal(6, 3), normal(4, 3, 1) + 1

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    own = [
        sum(k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j)
        / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    cross = sum(k(x, y) for x in a for y in b) / (len(a) * len(b))
    assert kid(a, b) == (pytest.approx(own[0] + own[1] - 2 * cross, rel=1e-9), 0.0)


@pytest.mark.parametrize("n", [5, 40])
def test_kid_is_zero_in_expectation_for_equal_distributions_whatever_the_size(n: int) -> None:
    values = torch.tensor(
        [kid(normal(n, 4, 2 * i), normal(n, 4, 2 * i + 1))[0] for i in range(400)]
    )
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(400)
    assert (values < 0).any()  # unbiased, so not clamped


def test_kid_of_shifted_gaussians_has_its_closed_form_in_expectation() -> None:
    """In one dimension the kernel gives E k = 1 + 3 m1 n1 + 3 m2 n2 + m3 n3 for moments m of x and
    n of y.
    """
    mean = 0.7
    moments = (0.0, 1.0, 0.0), (mean, mean**2 + 1, mean**3 + 3 * mean)
    expected = sum(w * (a - b) ** 2 for w, a, b in zip((3, 3, 1), *moments, strict=True))
    values = torch.tensor(
        [kid(normal(30, 1, 2 * i), normal(20, 1, 2 * i + 1) + mean)[0] for i in range(500)]
    )
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / math.sqrt(500)


def test_kid_over_subsets_estimates_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(300), normal(200, seed=1) + 1
    whole, _ = kid(a, b)
    monkeypatch.setattr("monai_histodiff.evaluation.feature_metrics.SUBSET", 50)
    mean, std = kid(a, b, torch.Generator().manual_seed(0))
    assert abs(mean - whole) < 4 * std / math.sqrt(50) and std > 0
    again = kid(a, b, torch.Generator().manual_seed(0))
    assert again == (mean, std)


def test_what_lies_on_the_rim_of_a_ball_is_within() -> None:
    """Balls of copies have the radius 0, and hold the copies."""
    copies = normal(1).repeat(4, 1)
    found = precision_recall_density_coverage(copies, copies.clone(), neighbours=2)
    assert found == {"precision": 1.0, "recall": 1.0, "density": 2.0, "coverage": 1.0}


def test_precision_recall_density_coverage_of_a_known_set() -> None:
    real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])  # each ball reaches 1
    samples = torch.tensor([[0.5], [0.6], [100.0], [101.5]])  # radii 0.1, 0.1, 1.5, 1.5
    expected = {"precision": 0.5, "recall": 0.0, "density": 1.0, "coverage": 0.5}
    assert precision_recall_density_coverage(real, samples, neighbours=1) == expected
    swapped = precision_recall_density_coverage(samples, real, neighbours=1)
    assert (swapped["precision"], swapped["recall"]) == (0.0, 0.5)


def test_density_and_coverage_of_equal_distributions_have_their_expectations() -> None:
    """Naeem et al. 2020: E density = 1; E coverage = 1 - prod over i = 1..k of (N - i) / (N + M -
    i).
    """
    n, m, k, trials = 40, 30, 3, 150
    found = [
        precision_recall_density_coverage(normal(n, 2, 2 * i), normal(m, 2, 2 * i + 1), k)
        for i in range(trials)
    ]
    coverage = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    for name, expected in (("density", 1.0), ("coverage", coverage)):
        values = torch.tensor([f[name] for f in found])
        assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / math.sqrt(trials)


def test_a_collapsed_generator_keeps_precision_and_loses_recall_and_coverage() -> None:
    real = normal(200, 2)
    found = precision_recall_density_coverage(real, 0.01 * normal(200, 2, 1))
    assert found["precision"] == 1.0 and found["recall"] < 0.05 and found["coverage"] < 0.3


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_order_of_features_does_not_matter(shift: float) -> None:
    a, b = normal(30), normal(25, seed=1) + shift
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert compare_features(a[order], b.flip(0)) == pytest.approx(compare_features(a, b), rel=1e-9)


def test_nearest_distances_find_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_histodiff.evaluation.feature_metrics.ROWS", 64)
    references = normal(300)
    features = references[:150] + 1e-3
    distance, index = nearest_distances(features, references)
    assert torch.equal(index, torch.arange(150))
    torch.testing.assert_close(distance, torch.full((150,), 2e-3).double())
    assert float(nearest_distances(references, references)[0].max()) == 0.0


def test_about_a_percentile_of_new_real_patches_are_called_copies() -> None:
    distances = 1 + torch.arange(1000).double()  # a distance of 0 is a copy in any case
    assert int(flag_copies(distances, distances).sum()) == 10
    assert flag_copies(torch.tensor([0.0, 5.0, 50.0]), distances).tolist() == [True, True, False]
    assert not flag_copies(
        torch.ones(3), torch.ones(5)
    ).any()  # as near as every new patch is not nearer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: kid(normal(3), normal(3, 5)),
            r"features must be N x D and M x D, got \(3, 4\) and \(3, 5\)",
        ),
        (
            lambda: frechet_distance(normal(1), normal(3)),
            "each set must hold at least 2 features, got 1 and 3",
        ),
        (
            lambda: kid(normal(3) * math.nan, normal(3)),
            "features must be finite, got NaN or infinity",
        ),
        (
            lambda: precision_recall_density_coverage(normal(5), normal(9)),
            "each set must hold at least 6 features, got 5 and 9",
        ),
        (
            lambda: precision_recall_density_coverage(normal(5), normal(9), 0),
            "neighbours must be at least 1, got 0",
        ),
        (
            lambda: flag_copies(torch.ones(2), torch.ones(0)),
            "copies need at least one held-out distance, got none",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
