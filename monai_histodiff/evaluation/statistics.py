r"""How sure a difference of two arms is, each source of chance counted once; Holm's correction.

Let :math:`d_{is} \in \{-1, 0, 1\}` tell whether, in training :math:`s`, one arm is right on test
patch :math:`i` and the other is not. The difference in balanced accuracy is
:math:`D = \frac{1}{K} \sum_k \frac{1}{n_k} \sum_{i \in k} \bar d_i`, with the variance

.. math:: V = V_G + \max(V_R - V_{GR}, 0)

:math:`V_G` of test groups (patients), from the differences averaged over the trainings; it holds
what is left of the noise of single patches in single trainings. :math:`V_R` is the variance of the
trainings' own values, which holds that same noise again: :math:`V_{GR}`, taken off (two-way
clustering: Cameron, Gelbach and Miller 2011; readers and cases: Obuchowski and Rockette 1995).
Several draws of the labelled patches take the place of the trainings, which then lie within them.
Degrees of freedom are Welch's (Biometrika 34, 1947). ``docs/statistics.md`` has it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.special import ndtr

from monai_histodiff.evaluation.clusters import Layout
from monai_histodiff.evaluation.student import t_quantile, t_tail

__all__ = [
    "Draw",
    "Estimate",
    "balanced_estimate",
    "combined",
    "holm",
    "jackknife",
    "leave_out",
    "satterthwaite",
]

Array = NDArray[np.float64]
Answers = NDArray[np.floating[Any]]
LEVEL, POWER = 0.95, 0.8
BLOCKS = 200  # most parts that the jackknife leaves out, one at a time
LEAST_EQUAL = 3  # equal parts that those left out must count for: else nothing is known


@dataclass(frozen=True)
class Draw:
    """Right (1) and wrong (0) answers on a test set, for one draw of the labelled patches.

    ``W`` evaluations are handled at once: one for a verdict, many for a simulation.

    Attributes:
        treated: answers of the first arm, shape ``W x S x N`` for ``S`` seeds.
        control: of the second, likewise; ``None`` estimates the first arm alone.
        labels: class indices, shape ``N``.
        groups: group of each test patch, shape ``N``; of one kind over all draws.
    """

    treated: Answers
    control: Answers | None
    labels: NDArray[np.int64]
    groups: NDArray[np.generic]


@dataclass(frozen=True)
class Estimate:
    """A mean with its variance in two parts and its degrees of freedom, arrays of one shape.

    Attributes:
        mean: the estimate.
        group_variance: of the test groups, with what is left of single patches and trainings.
        run_variance: what trainings (and draws) add to that.
        freedom: degrees of freedom of the sum.
    """

    mean: Array
    group_variance: Array
    run_variance: Array
    freedom: Array

    def at(self, index: int) -> Estimate:
        """One value of several."""
        parts = (self.mean, self.group_variance, self.run_variance, self.freedom)
        return Estimate(*(np.asarray(part[index]) for part in parts))

    @property
    def error(self) -> Array:
        """Standard error."""
        return np.sqrt(self.group_variance + self.run_variance)

    def interval(self) -> tuple[Array, Array]:
        """Student's interval that covers the truth with the chance :data:`LEVEL`."""
        half = t_quantile((1 - LEVEL) / 2, self.freedom) * self.error
        return self.mean - half, self.mean + half

    def p(self) -> Array:
        """Two-sided p-value of a true value of 0; NaN without an error."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(self.error > 0, np.abs(self.mean) / self.error, np.nan)
        return np.minimum(2 * t_tail(ratio, self.freedom), 1)

    def detectable(self, claims: int = 1) -> Array:
        """The true value that is claimed with a chance of 80 %; NaN without an error.

        Args:
            claims: that are tested: the p-value is corrected as that of the smallest one is, the
                worst that :func:`holm` asks.
        """
        level = (1 - LEVEL) / max(1, claims)
        quantiles = t_quantile(level / 2, self.freedom) + t_quantile(1 - POWER, self.freedom)
        return np.where(self.error > 0, quantiles * self.error, np.nan)


def satterthwaite(*parts: tuple[Array, Array | float]) -> Array:
    """Degrees of freedom of a sum of variances, of ``(variance, freedom)``: Welch's of 1947.

    ``V^2 / sum(V_j^2 / (f_j + 2)) - 2``: the square of a variance with ``f`` degrees of freedom is
    too large by the factor ``1 + 2 / f`` in the mean.
    """
    total = np.sum([variance for variance, _ in parts], 0)
    noise = np.sum([variance**2 / (np.asarray(f) + 2) for variance, f in parts], 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.maximum(np.nan_to_num(total**2 / noise - 2, nan=1.0), 1)


def _spread(scores: Array, influences: Array) -> tuple[Array, Array]:
    """Variance of a mean of runs, and the part of it that comes from single groups in single runs.

    Shapes ``... x S`` and ``... x S x G`` to ``...``.
    """
    count = scores.shape[-1]
    rest = influences - influences.mean(-2, keepdims=True)
    inside = (rest**2).sum((-2, -1)) / (count * (count - 1))
    return scores.var(-1, ddof=1) / count, inside


def _sum(
    mean: Array, group: Array, free: Array | float, runs: Array, mixed: Array, f: Array | float
) -> Estimate:
    """The estimate of a mean, from the variance of groups, of runs, and of what both hold.

    What runs add is not taken to be below 0. Its noise counts by how surely it lies above, beside
    the chance alone that :math:`V_R` and :math:`V_{GR}` differ: so an interval does not jump where
    the estimate passes 0.
    """
    extra = np.maximum(runs - mixed, 0)
    noise = runs**2 / (f + 2) + mixed**2 / (f * free + 2)
    alone = mixed * np.sqrt(2 / (f + 2) + 2 / (f * free + 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        surely = ndtr(torch.from_numpy(np.asarray((runs - mixed) / alone, dtype=np.float64)))
        noise = np.where(noise > 0, surely.numpy() * noise, 0)
        whole = (group + extra) ** 2 / (group**2 / (free + 2) + noise) - 2
    return Estimate(mean, group, extra, np.maximum(np.nan_to_num(whole, nan=1.0), 1))


def _trainings(arms: Sequence[tuple[Array, Array, Array | float]]) -> tuple[Array, Array, Array]:
    """Variance of independent arms, what groups have of it, degrees of freedom (Satterthwaite)."""
    runs, mixed = np.sum([v for v, _, _ in arms], 0), np.sum([m for _, m, _ in arms], 0)
    noise = np.sum([v**2 / f for v, _, f in arms], 0)
    return runs, mixed, np.divide(runs**2, noise, out=np.ones_like(runs), where=noise > 0)


def balanced_estimate(draws: Sequence[Draw]) -> Estimate:
    """Difference in balanced accuracy, over test groups, seeds and (if several) draws.

    Trainings of different arms count as independent, under one seed too: the variance of the runs
    is the sum of both arms', with up to ``2 (S - 1)`` degrees of freedom.

    Args:
        draws: one for each draw of the labelled patches; their test sets are the same, or not.

    Returns:
        Shape ``W``. With one seed, or one draw, its noise is not in the variance; NaN variance if
        a class has test patches of fewer than two groups.
    """
    number, total = len(draws), len(draws[0].treated)
    layouts = [Layout(draw.labels, draw.groups) for draw in draws]
    names = np.unique(np.concatenate([layout.names for layout in layouts]))
    values, scores, placed = [], [], np.zeros((total, number, len(names)))
    arms: list[list[tuple[Array, Array, float]]] = [[], []]
    for i, (draw, layout) in enumerate(zip(draws, layouts, strict=True)):
        both = [draw.treated] if draw.control is None else [draw.treated, draw.control]
        for found, arm in zip(arms, both, strict=False):
            if arm.shape[1] > 1:
                found.append((*_spread(*layout.influence(arm)), arm.shape[1] - 1))
        values.append(both[0].mean(1) - (both[1].mean(1) if len(both) > 1 else 0))
        score, influence = layout.influence(values[-1])
        scores.append(score)
        placed[:, i, np.searchsorted(names, layout.names)] = influence
    runs, mixed, f = np.zeros(total), np.zeros(total), np.ones(total)
    if arms[0]:
        pooled = [
            [np.sum(part, 0) for part in zip(*found, strict=True)] for found in arms if found
        ]
        runs, mixed, f = _trainings([(v / number**2, m / number**2, n) for v, m, n in pooled])
    if number > 1:
        spread, double = _spread(np.stack(scores, -1), placed)
        larger = spread - double > np.maximum(runs - mixed, 0)
        runs, mixed = np.where(larger, spread, runs), np.where(larger, double, mixed)
        f = np.where(larger, number - 1, f)
    return _sum(np.mean(scores, 0), *_group_part(values, draws), runs, mixed, f)


def _group_part(values: Sequence[Array], draws: Sequence[Draw]) -> tuple[Array, Array]:
    """Variance over groups of the mean over draws; other test sets are other classes."""
    first = draws[0]
    if all(
        np.array_equal(first.labels, draw.labels) and np.array_equal(first.groups, draw.groups)
        for draw in draws
    ):
        return Layout(first.labels, first.groups).group_variance(np.mean(values, 0))
    most = max(int(draw.labels.max()) for draw in draws) + 1
    strata = np.concatenate([draw.labels + i * most for i, draw in enumerate(draws)])
    groups = np.concatenate([draw.groups for draw in draws])
    return Layout(strata, groups).group_variance(np.concatenate(values, 1))


def leave_out(groups: Sequence[str]) -> Array:
    """Weights that leave out no patch, then one group at a time: ``(1 + B) x N``.

    Above :data:`BLOCKS` groups, ``B`` parts of several groups each.
    """
    index = np.unique(np.asarray(groups), return_inverse=True)[1] % BLOCKS
    return np.concatenate([np.ones((1, len(index))), index != np.arange(index.max() + 1)[:, None]])


def jackknife(weights: Array, treated: Array, control: Array | None = None) -> Estimate:
    """Any metric, or its difference between two arms, with the same parts of the variance.

    The groups' influence is what a metric loses without them (Dorfman, Berbaum and Metz 1992).
    Groups of other sizes tell less of their variance: they have the degrees of freedom of as many
    equal ones as give a mean the same variance (Kish 1965).

    Args:
        weights: of :func:`leave_out`.
        treated: a metric of each training under these weights, ``S x (1 + B)``; further axes are
            further metrics.
        control: likewise, of the other arm.

    Returns:
        Of the shape of the further axes; NaN variance where the groups count for fewer than
        :data:`LEAST_EQUAL` equal ones.
    """
    both = [treated] if control is None else [treated, control]
    blocks = treated.shape[1] - 1
    moved = [np.moveaxis(arm, (0, 1), (-2, -1)) for arm in both]  # ... x S x (1 + B)
    factor = ((blocks - 1) / blocks) ** 0.5
    losses = [factor * (arm[..., 1:] - arm[..., 1:].mean(-1, keepdims=True)) for arm in moved]
    mean = moved[0][..., 0].mean(-1) - (moved[1][..., 0].mean(-1) if len(moved) > 1 else 0)
    loss = losses[0].mean(-2) - (losses[1].mean(-2) if len(moved) > 1 else 0)
    sizes = (1 - weights[1:]).sum(1)
    equal = float(sizes.sum() ** 2 / (sizes**2).sum())
    group, arms = (loss**2).sum(-1) if equal >= LEAST_EQUAL else np.full_like(mean, np.nan), []
    if len(treated) > 1:
        for arm, part in zip(moved, losses, strict=True):
            arms.append((*_spread(arm[..., 0], part), len(treated) - 1.0))
    runs, mixed, f = (
        _trainings(arms) if arms else (np.zeros_like(mean),) * 2 + (np.ones_like(mean),)
    )
    return _sum(mean, group, equal - 1, runs, mixed, f)


def combined(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, such as those of several data sets."""
    count = len(estimates)
    mean, group, runs = (
        np.mean([getattr(e, name) for e in estimates], 0)
        for name in ("mean", "group_variance", "run_variance")
    )
    parts = [(e.group_variance + e.run_variance, e.freedom) for e in estimates]
    return Estimate(mean, group / count, runs / count, satterthwaite(*parts))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of the p-values of a family of claims.

    A claim whose adjusted value is below 0.05 may be made; the chance of making any false one is
    then below 5 %. A NaN is no test: it stays NaN and does not count. Holm, Scandinavian Journal
    of Statistics 6 (1979), 65-70.

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
