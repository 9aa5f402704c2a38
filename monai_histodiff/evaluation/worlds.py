"""Simulated evaluations of known truth, for which the verdict's coverage and power are measured.

Whether an arm is right on a patch is a threshold of a sum of normal variables, of variance 1 in
all: how hard the patch is for both arms and for this arm, how hard its group is for both and for
this arm, the draw of the labelled patches (both, this arm), the training, and what is left. So the
expected accuracy is known in closed form: ``Phi(threshold)``. Numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from monai_histodiff.evaluation.statistics import Draw

__all__ = ["ALIKE", "APART", "Noise", "World", "make_groups", "simulate", "with_draws"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Noise:
    """Variances of the latent variables; what is missing to 1 is single answers' own.

    A variance ``v`` of something that all patches share moves the accuracy by about
    ``37 sqrt(v)`` points.

    Attributes:
        patch: of a patch, the same for both arms.
        arm_patch: of a patch, for one arm.
        group: of a group, the same for both arms.
        arm_group: of a group, for one arm.
        draw: of a draw of the labelled patches, the same for both arms.
        arm_draw: of a draw, for one arm.
        training: of a single training of an arm.
    """

    patch: float = 0.62
    arm_patch: float = 0.06
    group: float = 0.15
    arm_group: float = 0.03
    draw: float = 0.0
    arm_draw: float = 0.0
    training: float = 0.003

    @property
    def rest(self) -> float:
        """What is left for single answers."""
        parts = (self.patch, self.arm_patch, self.group, self.arm_group)
        return 1 - sum(parts) - self.draw - self.arm_draw - self.training


ALIKE = Noise()  # the same patches and patients are hard for both arms
APART = Noise(patch=0.0, arm_patch=0.5, group=0.0, arm_group=0.1)  # each arm has its own


@dataclass(frozen=True)
class World:
    """Simulated evaluations, for several true effects.

    Attributes:
        labels, groups: of the test patches, shape ``N``.
        control: answers of the control arm, ``W x R x S x N`` for ``R`` draws of ``S`` seeds.
        treated: true change, as a fraction -> answers of the treated arm.
        truth: true change -> the same given the draws, shape ``W x R``.
    """

    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    control: Array
    treated: dict[float, Array]
    truth: dict[float, NDArray[np.float64]]

    def draws(self, effect: float, draws: int, seeds: int) -> list[Draw]:
        """The first draws and seeds, as
        :func:`~monai_histodiff.evaluation.statistics.balanced_estimate` takes them.
        """
        arms = self.treated[effect], self.control
        return [
            Draw(arms[0][:, r, :seeds], arms[1][:, r, :seeds], self.labels, self.groups)
            for r in range(draws)
        ]


def make_groups(
    rng: np.random.Generator,
    groups: int,
    shares: Sequence[float] = (0.5, 0.3, 0.2),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and groups of a test set with imbalanced classes and groups of very different sizes:
    geometric, of six patches in the mean and thirty at the most. A quarter of them holds a second
    class too.

    Args:
        rng: of the sizes.
        groups: number of groups, at least 2 for each class.
        shares: of the classes, among groups.

    Returns:
        Class and group of each patch.
    """
    counts = np.maximum(2, np.floor(np.array(shares) * groups).astype(int))
    counts[0] += groups - counts.sum()
    labels, index = [], []
    for group, first in enumerate(np.repeat(np.arange(len(shares)), counts)):
        patches = np.full(int(min(rng.geometric(1 / 6), 30)), first)
        if len(patches) > 1 and rng.random() < 0.25:
            patches[: rng.integers(1, len(patches))] = rng.integers(len(shares))
        labels.append(np.sort(patches))
        index.append(np.full(len(patches), group))
    return np.concatenate(labels).astype(np.int64), np.concatenate(index).astype(np.int64)


def simulate(
    rng: np.random.Generator,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    noise: Noise,
    effects: Sequence[float],
    shape: tuple[int, int, int],
    accuracy: float = 0.62,
) -> World:
    """Evaluations of one test set.

    Args:
        rng: of all noise.
        labels: class of each test patch, shape ``N``.
        groups: group of each test patch, from 0, shape ``N``.
        noise: its variances.
        effects: true changes in accuracy, the same in every class, as fractions.
        shape: evaluations, draws, seeds.
        accuracy: expected accuracy of the control arm.

    Raises:
        ValueError: the variances sum to 1 or more, or an accuracy is not within (0, 1).
    """
    if noise.rest <= 0:
        raise ValueError(f"variances must sum to less than 1, got {1 - noise.rest:g}")
    if not all(0 < accuracy + effect < 1 for effect in (0.0, *effects)):
        raise ValueError(f"accuracies must lie in (0, 1), got {accuracy} and changes {effects}")
    worlds, draws, seeds = shape
    count, number = int(groups.max()) + 1, len(labels)

    def normal(variance: float, *size: int) -> Array:
        drawn = rng.standard_normal(size, dtype=np.float32)
        return np.asarray(drawn * np.float32(variance**0.5), np.float32)

    def spread(patch: float, group: float) -> Array:
        """Of patches and their groups, ``W x 1 x 1 x N``."""
        found = normal(patch, worlds, number) + normal(group, worlds, count)[:, groups]
        return found[:, None, None]

    both = spread(noise.patch, noise.group)
    common = normal(noise.draw, worlds, draws)
    given = (1 - noise.draw - noise.arm_draw) ** 0.5

    def arm(levels: Sequence[float]) -> list[tuple[Array, NDArray[np.float64]]]:
        """Answers at each accuracy, and the accuracy to expect in each draw."""
        drawn = common + normal(noise.arm_draw, worlds, draws)
        latent = both + spread(noise.arm_patch, noise.arm_group) + drawn[:, :, None, None]
        latent = latent + normal(noise.training, worlds, draws, seeds)[..., None]
        latent += normal(noise.rest, worlds, draws, seeds, number)
        normal_cdf = np.vectorize(NormalDist().cdf, otypes=[float])
        bars = [NormalDist().inv_cdf(level) for level in levels]
        return [
            ((latent + np.float32(b) > 0).astype(np.float32), normal_cdf((b + drawn) / given))
            for b in bars
        ]

    ((control, base),) = arm([accuracy])
    found = dict(zip(effects, arm([accuracy + effect for effect in effects]), strict=True))
    return World(
        labels,
        groups,
        control,
        {effect: answers for effect, (answers, _) in found.items()},
        {effect: expected - base for effect, (_, expected) in found.items()},
    )


def with_draws(noise: Noise) -> Noise:
    """The same world, in which draws of the labelled patches differ: by 3.7 points for both arms,
    and by 1.7 more for each arm.
    """
    return replace(noise, draw=0.01, arm_draw=0.002)
