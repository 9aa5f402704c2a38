"""Patches in cells of class and group, and the variance of a mean over classes between groups.

:class:`Layout` is what :mod:`monai_histodiff.evaluation.statistics` counts with. Numpy only.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout"]

Array = NDArray[np.float64]
Answers = NDArray[np.floating[Any]]
TYPICAL = 0.1  # correlation within a group for which pairs of patches are weighted best
BOUNDED = 2.0  # degrees of freedom more, as no correlation is below 0 (measured, see the docs)
BORROWED = 10.0  # degrees of freedom that the pooled variance of the groups counts for


class Layout:
    """Patches in cells: those of one class in one group.

    Args:
        strata: class of each patch, shape ``N``; only equality counts.
        groups: group of each patch, shape ``N``.
    """

    def __init__(self, strata: NDArray[np.generic], groups: NDArray[np.generic]) -> None:
        self.names, group = np.unique(groups, return_inverse=True)
        classes, stratum = np.unique(strata, return_inverse=True)
        self.order = np.lexsort((stratum, group))
        self.sorted = bool((np.diff(self.order) > 0).all())
        group, stratum = group[self.order], stratum[self.order]
        self.starts = np.flatnonzero(np.diff(group * len(classes) + stratum, prepend=-1))
        self.group, self.stratum = group[self.starts], stratum[self.starts]
        self.size = np.diff(self.starts, append=len(group)).astype(float)
        self.first = np.flatnonzero(np.diff(self.group, prepend=-1))  # cell of each group
        self.member = np.eye(len(classes))[self.stratum]  # cells x classes
        self.counts = np.zeros((len(self.names), len(classes)))
        self.counts[self.group, self.stratum] = self.size

    @property
    def sound(self) -> bool:
        """Whether each class has patches of two groups or more: else no variance is known."""
        return bool(((self.counts > 0).sum(0) > 1).all())

    def cells(self, values: Answers) -> Array:
        """Sums over cells, ``... x N`` to ``... x cells``."""
        ordered = values if self.sorted else values[..., self.order]
        return np.asarray(np.add.reduceat(ordered, self.starts, axis=-1), float)

    def by_group(self, cells: Array) -> Array:
        """Sums over groups, ``... x cells`` to ``... x G``."""
        return np.add.reduceat(cells, self.first, axis=-1)

    def influence(self, values: Answers) -> tuple[Array, Array]:
        """Mean over the classes' means, and what each group adds to it.

        The squares of the latter sum to the variance of the former (CR2, Bell and McCaffrey 2002).
        Shapes ``... x N`` to ``...`` and ``... x G``.
        """
        total, sums = self.counts.sum(0), self.cells(values)
        means = sums @ self.member / total
        lever = self.size / total[self.stratum]
        with np.errstate(divide="ignore"):
            weight = np.where(lever < 1, (1 - lever) ** -0.5, 0) / total[self.stratum]
        rest = (sums - self.size * means[..., self.stratum]) * weight / len(total)
        return means.mean(-1), self.by_group(rest)

    @cached_property
    def pairs(self) -> tuple[Array, float, float, float]:
        """Weights of the groups' pairs of patches, shape ``G``, and three moments of their sum.

        For residuals ``z`` with the correlation ``rho`` within groups, the weighted sum over pairs
        has the mean ``shift + slope * rho``; ``whole`` is the slope without the classes' means.
        """
        n, size = self.counts, self.counts.sum(1)
        total = n.sum(0)
        spread = _pair_variance(size, TYPICAL)
        weight = np.divide(size * (size - 1), spread, out=np.zeros_like(size), where=spread > 0)
        weighted = (n * weight[:, None]).T @ n - np.diag(weight @ n)
        plain = n.T @ n - np.diag(total)
        within = weight @ (n * (n - 1) ** 2 + (size[:, None] - n) * n**2)
        whole = float(weight @ (size * (size - 1)))
        cross = float((weighted * plain / np.outer(total, total)).sum())
        shift = -float((np.diag(weighted) / total).sum())
        return weight, shift, whole - 2 * float((within / total).sum()) + cross, whole

    def group_variance(self, values: Answers) -> tuple[Array, Array]:
        """Variance over groups of the mean over the classes' means, with its degrees of freedom.

        A mean of two estimates. One is that of :meth:`influence`, in which each class speaks for
        itself. The other takes one correlation within groups for all classes, so that a class of
        few groups borrows from the others; it counts for :data:`BORROWED` degrees of freedom, and
        so for less and less as groups are added. Where all values of each class are the same,
        which tells no variance, it is that of one group in which they are not.

        Args:
            values: shape ``W x N``, in the order of the patches.

        Returns:
            Both of shape ``W``; NaN if a class has patches of fewer than two groups.
        """
        if not self.sound:
            return np.full(len(values), np.nan), np.full(len(values), 1.0)
        total, k, size = self.counts.sum(0), self.stratum, self.counts.sum(1)
        shared = self.counts.T @ self.counts / np.outer(total, total)
        big = np.diag(shared) * total  # mean size of a patch's group, in its class
        rest = values - (self.cells(values) @ self.member / total)[:, _labels(self)]
        powers = [self.cells(rest**p) for p in (1, 2, 4)]
        squares = powers[1] @ self.member
        weight, shift, slope, whole = self.pairs
        rho = np.zeros((len(values), 1))
        for _ in range(3):  # scale and correlation need each other
            known = np.maximum(total - 1 - (big - 1) * rho, 0.5)
            # one patch on which just one arm is right is added, so that no variance is 0
            pool = (squares.sum(1) + 1) / (known.sum(1) + 1)
            scale = np.sqrt((squares + pool[:, None]) / (known + 1))
            scaled = [c / scale[:, k] ** p for c, p in zip(powers, (1, 2, 4), strict=True)]
            pair = (self.by_group(scaled[0]) ** 2 - self.by_group(scaled[1])) @ weight
            if slope > 1e-9:
                rho = np.clip((pair - shift) / slope, 0, 1)[:, None]
        corner = scale[:, :, None] * scale[:, None, :] * shared
        alone = scale**2 / total
        apart, together = alone.sum(1), corner.sum((1, 2))
        pooled = ((1 - rho[:, 0]) * apart + rho[:, 0] * together) / len(total) ** 2
        parts = (1 - rho) * alone + rho * corner.sum(2)
        tails = np.maximum(scaled[2].sum(1, keepdims=True) / total.sum(), 3)
        freedom = 2 * total / (tails - 1) / (1 + (big - 1) * rho**2) - 1
        noise = (2 * parts**2 / (np.maximum(freedom, 1) + 1)).sum(1)
        if slope > 1e-9:
            spread = 2 * (weight**2 * _pair_variance(size, rho)).sum(1) / whole / slope
            noise = noise + (together - apart) ** 2 * spread
        free = 2 * (pooled * len(total) ** 2) ** 2 / noise
        robust = (self.influence(values)[1] ** 2).sum(-1)
        own = self.freedom
        share = own / (own + BORROWED)
        # where nothing differs at all: what one group would give, if it did
        least = shared.sum() / len(total) ** 2 / len(size) * (squares.sum(1) < 1e-9)
        variance = np.maximum(share * robust + (1 - share) * pooled, least)
        error = share * robust / np.sqrt(own) + (1 - share) * pooled / np.sqrt(free)
        return variance, variance**2 / error**2 + BOUNDED

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom of the sum of squares of :meth:`influence`, by Satterthwaite."""
        spread = self.counts * (1 + (self.counts - 1) * TYPICAL)
        classes = spread.sum(0) / self.counts.sum(0) ** 2
        effective = spread.sum(0) ** 2 / (spread**2).sum(0)
        return float(classes.sum() ** 2 / (classes**2 / np.maximum(effective - 1, 0.5)).sum())


def _labels(layout: Layout) -> NDArray[np.int64]:
    """Stratum of each patch, in the order in which the patches came."""
    found = np.empty(len(layout.order), np.int64)
    found[layout.order] = np.repeat(layout.stratum, layout.size.astype(int))
    return found


def _pair_variance(size: Array, rho: float | Array) -> Array:
    """Half the variance of the sum over all pairs of patches of a group, for unit residuals."""
    together, apart = (size - 1) * (1 + (size - 1) * rho), 1 - rho
    return np.asarray(together**2 + (size - 1) * apart**2)
