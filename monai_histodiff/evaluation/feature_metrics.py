"""How close samples are to real patches, from features ``N x D``: Frechet distance, KID,
precision, recall, copies.

All computed in float64, on the device of the features.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "compare_features",
    "frechet_distance",
    "kid",
    "nearest_distances",
    "precision_recall_density_coverage",
]

ROWS = 1024  # compared at once with all
SUBSETS, SUBSET = 50, 500  # of features, over which the kernel distance is averaged
NEIGHBOURS = 5  # the k of precision, recall, density and coverage


def _pair(first: Tensor, second: Tensor, least: int) -> tuple[Tensor, Tensor]:
    shapes = tuple(first.shape), tuple(second.shape)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features must be N x D and M x D, got {shapes[0]} and {shapes[1]}")
    if min(len(first), len(second)) < least:
        raise ValueError(
            f"each set must hold at least {least} features, got {len(first)} and {len(second)}"
        )
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinity")
    return first.double(), second.double()


def _root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of features (Heusel et al.
    2017, arXiv:1706.08500).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``. Biased upward for few features: compare only
    figures of the same numbers of features. The trace of the square root is that of the symmetric
    ``(C1^(1/2) C2 C1^(1/2))^(1/2)``, which stays real where the covariances are singular.

    Args:
        first: features ``N x D``, N at least 2.
        second: features ``M x D``, M at least 2.

    Raises:
        ValueError: the features do not fit each other, are too few, or are not finite.
    """
    a, b = _pair(first, second, 2)
    cov_a, cov_b = torch.cov(a.T).view(a.shape[1], -1), torch.cov(b.T).view(a.shape[1], -1)
    root = _root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float(
        (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    )


def _polynomial_mmd(a: Tensor, b: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def kid(
    first: Tensor, second: Tensor, generator: torch.Generator | None = None
) -> tuple[float, float]:
    """Kernel distance: unbiased squared MMD with the kernel ``(x . y / D + 1)^3`` (Binkowski et
    al. 2018, arXiv:1801.01401).

    Zero in expectation for equal distributions, whatever the number of features; it can be
    negative. Averaged over 50 pairs of random subsets of 500 features; where neither set holds
    more, the distance of the whole sets is taken once.

    Args:
        first: features ``N x D``, N at least 2.
        second: features ``M x D``, M at least 2.
        generator: draws the subsets.

    Returns:
        The mean over the subsets, and their standard deviation (0 for the whole sets).

    Raises:
        ValueError: the features do not fit each other, are too few, or are not finite.
    """
    a, b = _pair(first, second, 2)
    if max(len(a), len(b)) <= SUBSET:
        return _polynomial_mmd(a, b), 0.0

    def draw(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)[:SUBSET].to(x.device)]

    values = torch.tensor(
        [_polynomial_mmd(draw(a), draw(b)) for _ in range(SUBSETS)], dtype=torch.double
    )
    return float(values.mean()), float(values.std())


def precision_recall_density_coverage(
    real: Tensor, samples: Tensor, neighbours: int = NEIGHBOURS
) -> dict[str, float]:
    """Fidelity and diversity from balls that reach to the k-th neighbour within each set.

    ``precision``: part of the samples in a ball around a real feature; ``recall``: part of the
    real features in a ball around a sample (Kynkaanniemi et al. 2019, arXiv:1904.06991).
    ``density``: number of real balls that hold a sample, over k, on average; ``coverage``: part of
    the real balls that hold a sample (Naeem et al. 2020, arXiv:2002.09797). For equal
    distributions the density is 1 in expectation. All depend on the numbers of features.

    Args:
        real: features ``N x D``.
        samples: features ``M x D``.
        neighbours: k; each set must hold more features than this.

    Raises:
        ValueError: the features do not fit each other, are too few, or are not finite, or
            ``neighbours`` is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    a, b = _pair(real, samples, neighbours + 1)

    def radii(x: Tensor) -> Tensor:
        parts = (_distances(rows, x) for rows in x.split(ROWS))  # the nearest is the row itself
        return torch.cat([part.kthvalue(neighbours + 1, dim=1).values for part in parts])

    distance = _distances(a, b)
    in_real = distance <= radii(a)[:, None]
    return {
        "precision": float(in_real.any(0).double().mean()),
        "recall": float((distance <= radii(b)[None, :]).any(1).double().mean()),
        "density": float(in_real.sum(0).double().mean() / neighbours),
        "coverage": float(in_real.any(1).double().mean()),
    }


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(
        a,
        b,
        compute_mode="donot_use_mm_for_euclid_dist"
        if len(a) * len(b) < 10_000
        else "use_mm_for_euclid_dist",
    )


def nearest_distances(features: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance of each feature to its nearest reference, and the index of that
    reference; both of shape ``N``.

    Raises:
        ValueError: the features do not fit each other, are none, or are not finite.
    """
    a, b = _pair(features, references, 1)
    index = torch.cat([_distances(part, b).argmin(1) for part in a.split(ROWS)])
    return (a - b[index]).square().sum(1).sqrt(), index


def compare_features(real: Tensor, samples: Tensor) -> dict[str, float]:
    """All of the above of one set of samples: ``kid``, ``kid_std``, ``fid``, ``precision``,
    ``recall``, ``density``, ``coverage``.

    Args:
        real: features of real patches ``N x D``.
        samples: features of samples, or of other real patches, ``M x D``.
    """
    mean, std = kid(real, samples, generator=torch.Generator().manual_seed(0))
    fid = frechet_distance(real, samples)
    return {
        "kid": mean,
        "kid_std": std,
        "fid": fid,
        **precision_recall_density_coverage(real, samples),
    }
