"""Paired comparison of two arms: bootstrap over groups, training noise, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monai_histodiff.evaluation.metrics import METRICS, Array, Labels, metric_table

__all__ = ["bootstrap_metrics", "holm", "paired_difference", "summarise"]

Z_LEVEL, Z_POWER = 1.95996, 0.84162  # normal quantiles of 97.5 % and 80 %


def bootstrap_metrics(
    runs: Sequence[Array], labels: Labels, groups: Sequence[str], draws: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """All metrics of the runs of an arm, on the test set and on bootstrap resamples of its groups.

    Groups (patients, not patches) are drawn with replacement. The same ``groups``, ``draws`` and
    ``seed`` give the same resamples, so that two arms may be subtracted from each other.

    Args:
        runs: test probabilities ``N x K``, one array for each seed.
        labels: test labels, shape ``N``.
        groups: the group of each test patch.
        draws: bootstrap draws.
        seed: seed of the bootstrap.

    Returns:
        Shape ``seeds x (1 + draws) x len(METRICS)``; the first draw is the test set itself.

    Raises:
        ValueError: there is no run, or a test patch has no group.
    """
    if not runs:
        raise ValueError("an arm needs at least one run, got none")
    if len(groups) != len(labels):
        raise ValueError(
            f"each test patch needs its group, got {len(groups)} groups for {len(labels)} patches"
        )
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng((seed, 0)).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=draws
    )
    weights = np.concatenate([np.ones((1, len(labels))), drawn[:, index]])
    return np.stack([metric_table(p, labels, weights) for p in runs])


def summarise(
    values: NDArray[np.float64],
    level: float = 0.95,
    bounds: tuple[float, float] = (-1, 1),
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Mean and interval over groups and trainings of what :func:`bootstrap_metrics` gives, or of a
    difference of two such.

    To the mean over seeds of each draw is added training noise: Student's t, scaled by the
    standard error of the seeds' values. Resampling the seeds themselves would understate that
    noise: the interval of 3 seeds would cover 3 times in 4.

    Args:
        values: shape ``seeds x (1 + draws) x len(METRICS)``.
        level: coverage of the percentile interval.
        bounds: lowest and highest possible value.
        seed: of the training noise.

    Returns:
        For each metric ``mean``, ``low`` and ``high``; ``p``, two-sided for a true value of 0,
        from the same draws; ``detectable``, the true value that an interval of this width would
        tell from zero four times in five; and the standard errors ``group_error`` and
        ``seed_error`` that the interval is made of.
    """
    seeds, point, drawn = len(values), values[:, 0].mean(0), values[:, 1:].mean(0)
    seed_error = values[:, 0].std(0, ddof=1) / seeds**0.5 if seeds > 1 else np.zeros(len(METRICS))
    noise = np.random.default_rng((seed, 1)).standard_t(max(seeds - 1, 1), size=(len(drawn), 1))
    samples = np.clip(drawn + noise * seed_error, *bounds)
    tail = (1 - level) / 2
    found = {}
    for m, metric in enumerate(METRICS):
        kept = samples[~np.isnan(samples[:, m]), m]
        if not len(kept) or np.isnan(point[m]):
            keys = ("low", "high", "p", "detectable", "group_error", "seed_error")
            found[metric] = {"mean": float(point[m]), **dict.fromkeys(keys, float("nan"))}
            continue
        low, high = np.quantile(kept, [tail, 1 - tail])
        side = min((kept <= 0).sum(), (kept >= 0).sum())
        row = {
            "mean": point[m],
            "low": low,
            "high": high,
            "p": min(1.0, 2 * (side + 1) / (len(kept) + 1)),
            "detectable": (high - low) / 2 * (1 + Z_POWER / Z_LEVEL),
            "group_error": np.nanstd(drawn[:, m]),
            "seed_error": seed_error[m],
        }
        found[metric] = {key: float(value) for key, value in row.items()}
    return found


def paired_difference(
    treated: Sequence[Array],
    control: Sequence[Array],
    labels: Labels,
    groups: Sequence[str],
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Mean difference of each metric between two arms, paired by seed and by resample, with its
    interval.

    Args:
        treated: test probabilities ``N x K`` of one arm, one array for each seed.
        control: those of the other arm, in the order of the same seeds.
        labels: see :func:`bootstrap_metrics`, as for ``groups``, ``draws`` and ``seed``.
        groups: the group of each test patch.
        draws: bootstrap draws.
        level: coverage of the interval.
        seed: seed of the bootstrap.

    Returns:
        As :func:`summarise`.

    Raises:
        ValueError: the arms have different numbers of seeds, or none; or a test patch has no
            group.
    """
    if len(treated) != len(control) or not treated:
        raise ValueError(f"paired arms need the same seeds, got {len(treated)} and {len(control)}")
    first, second = (
        bootstrap_metrics(arm, labels, groups, draws, seed) for arm in (treated, control)
    )
    return summarise(first - second, level, seed=seed)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of the p-values of a family of claims.

    A claim whose adjusted value is below 0.05 may be made; the chance of making any false one is
    then below 5 %. A NaN is
    no test: it stays NaN and does not count. Holm, Scandinavian Journal of Statistics 6 (1979),
    65-70.

    Raises:
        ValueError: a value lies outside [0, 1].
    """
    for name, p in values.items():
        if p < 0 or p > 1:
            raise ValueError(f"p-values must lie in [0, 1], got {p} for '{name}'")
    known = sorted(
        (name for name in values if not np.isnan(values[name])), key=lambda name: values[name]
    )
    adjusted, largest = dict.fromkeys(values, float("nan")), 0.0
    for i, name in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - i) * values[name]))
        adjusted[name] = largest
    return adjusted
