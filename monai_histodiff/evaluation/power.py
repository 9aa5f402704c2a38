"""What an evaluation will be able to see: before it is run, and in a table over designs.

``histodiff-power`` prints the latter. Numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_histodiff.evaluation.statistics import balanced_estimate
from monai_histodiff.evaluation.worlds import (
    ALIKE,
    APART,
    Noise,
    World,
    make_groups,
    simulate,
    with_draws,
)

__all__ = ["WORLDS", "Design", "Foresight", "foresee", "measure", "rows"]

Z = 1.959964  # normal quantile of 97.5 %
SEEDS, DRAWS = (3, 5, 10, 20), (3, 5, 10)  # one draw cannot speak of others
AIMS = (0.03, 0.06)
ANSWERS = 20_000_000  # simulated at once
DESIGNS = 4  # test sets that the simulated evaluations are spread over
WORLDS = {
    "patches hard for both arms alike": ALIKE,
    "patches hard for one arm": APART,
    "alike, and draws differ": with_draws(ALIKE),
    "apart, and draws differ": with_draws(APART),
}


USUAL = with_draws(ALIKE)


@dataclass(frozen=True)
class Foresight:
    """What a design can be expected to see; changes are fractions of balanced accuracy.

    Attributes:
        detectable: the true change that would be found four times in five; NaN: none would.
        seeds: aim -> fewest seeds, of :data:`SEEDS`, that find it so, with the draws given; 0: no
            number of them.
        draws: aim -> fewest draws, of :data:`DRAWS`, with the seeds given; 0: no number of them.
        sentence: the same in words.
    """

    detectable: float
    seeds: dict[float, int]
    draws: dict[float, int]
    sentence: str


def foresee(
    labels: NDArray[np.int64],
    groups: Sequence[str],
    seeds: int,
    draws: int = 1,
    noise: Noise = USUAL,
    worlds: int = 60,
    claims: int = 1,
) -> Foresight:
    """Simulate evaluations on the test set at hand, without a training.

    Args:
        labels: class of each test patch, shape ``N``.
        groups: its group.
        seeds: planned trainings of each arm.
        draws: planned draws of the labelled patches.
        noise: assumed; the default is measured in ``docs/statistics.md``.
        worlds: simulated evaluations, at the most.
        claims: comparisons that are tested, for which p-values are corrected.

    Raises:
        ValueError: there are no patches, fewer than one draw or world, or than two seeds,
            or a number is not whole.
    """
    if not len(labels) or len(labels) != len(groups) or seeds < 2 or draws < 1:
        raise ValueError(
            "a forecast needs test patches with groups, 2 seeds and 1 draw, got "
            f"{len(labels)} patches, {len(groups)} groups, {seeds} seeds and {draws} draws"
        )
    numbers = {"seeds": seeds, "draws": draws, "worlds": worlds, "claims": claims}
    for name, given in numbers.items():
        lowest = 0 if name == "claims" else 1  # a run may have no two arms to compare
        if given % 1 or given < lowest:
            raise ValueError(f"{name} must be a whole number from {lowest} on, got {given}")
    most = max(seeds, *SEEDS), max(draws, *DRAWS)
    number = int(np.clip(ANSWERS / (most[0] * most[1] * len(labels)), 10, worlds))
    index = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    rng = np.random.default_rng(0)
    world = simulate(rng, labels, index, noise, (0.0,), (number, most[1], most[0]))

    def least(draws: int, seeds: int) -> float:
        found = balanced_estimate(world.draws(0.0, draws, seeds)).detectable(claims)
        return float(np.median(found))

    detectable = least(draws, seeds)
    design = (
        f"With {len(set(groups))} test groups ({len(labels)} patches), {seeds} seeds and {draws} "
        f"draw{'s' if draws > 1 else ''} of the labelled patches, "
    )
    if not np.isfinite(detectable):
        none = dict.fromkeys(AIMS, 0)
        return Foresight(
            detectable,
            none,
            none,
            f"{design}no change could be told from chance, however large: test on several groups "
            "of each class.",
        )
    by_seeds = {s: least(draws, s) for s in SEEDS}
    by_draws = {r: least(r, seeds) for r in DRAWS}
    needed = [
        {aim: next((n for n, change in found.items() if change <= aim), 0) for aim in AIMS}
        for found in (by_seeds, by_draws)
    ]
    hopeless = [aim for aim in AIMS if not needed[0][aim] and not needed[1][aim]]
    told = [_needed(a, needed[0][a], needed[1][a]) for a in AIMS if a not in hopeless]
    if hopeless:
        told.append(
            f"for {' or '.join(f'{100 * aim:.0f}' for aim in hopeless)} points neither "
            f"{SEEDS[-1]} seeds nor {DRAWS[-1]} draws suffice: test on more patients, of the "
            "rarest classes first"
        )
    beside = f", corrected for {claims} comparisons" if claims > 1 else ""
    sentence = (
        f"{design}a true change of about {100 * detectable:.1f} points of balanced accuracy would "
        f"be found four times in five{', with this draw' if draws == 1 else ''}{beside}; "
        f"{'; '.join(told)}. (Simulated with the usual noise.)"
    )
    return Foresight(detectable, needed[0], needed[1], sentence)


def _needed(aim: float, seeds: int, draws: int) -> str:
    """How to see a change of this size, where one of the two does."""
    ways = [f"{number} {what}" for number, what in ((seeds, "seeds"), (draws, "draws")) if number]
    return f"for {100 * aim:.0f} points take {' or '.join(ways)}"


@dataclass(frozen=True)
class Design:
    """One design, measured: shares of simulated evaluations.

    Attributes:
        groups, draws, seeds: the design.
        coverage: intervals that hold the truth, over all effects.
        found: effect -> evaluations whose interval excludes 0.
        oracle: effect -> the same for a test that knows the variance.
    """

    groups: int
    draws: int
    seeds: int
    coverage: float
    found: dict[float, float]
    oracle: dict[float, float]


def measure(
    noise: Noise,
    groups: Sequence[int],
    draws: Sequence[int],
    seeds: Sequence[int],
    effects: Sequence[float] = (0.0, 0.03, 0.06, 0.10),
    worlds: int = 400,
) -> Iterator[Design]:
    """Coverage, false alarms and power of :func:`balanced_estimate`.

    With one draw the truth is that of this draw; with several, that of all draws.

    Args:
        noise: of the world.
        groups: numbers of test groups.
        draws: numbers of draws.
        seeds: numbers of seeds.
        effects: true changes; 0 must be among them for false alarms.
        worlds: evaluations of each cell.
    """
    for count in groups:
        parts: list[World] = []
        for design in range(DESIGNS):
            rng = np.random.default_rng((0, count, design))
            shape = (-(-worlds // DESIGNS), max(draws), max(seeds))
            parts.append(simulate(rng, *make_groups(rng, count), noise, effects, shape))
        for r in draws:
            for s in seeds:
                yield _design(parts, effects, count, r, s)


def _design(
    parts: Sequence[World], effects: Sequence[float], groups: int, draws: int, seeds: int
) -> Design:
    covered: list[NDArray[np.bool_]] = []
    found: dict[float, list[NDArray[np.bool_]]] = {effect: [] for effect in effects}
    oracle: dict[float, list[NDArray[np.bool_]]] = {effect: [] for effect in effects}
    for world in parts:
        for effect in effects:
            estimate = balanced_estimate(world.draws(effect, draws, seeds))
            truth = world.truth[effect][:, 0] if draws == 1 else np.float64(effect)
            low, high = estimate.interval()
            covered.append((low <= truth) & (truth <= high))
            found[effect].append((low > 0) | (high < 0))
            error = float(np.mean((estimate.mean - truth) ** 2)) ** 0.5
            oracle[effect].append(np.abs(estimate.mean) > Z * error)
    share = {e: float(np.mean(np.concatenate(v))) for e, v in found.items()}
    best = {e: float(np.mean(np.concatenate(v))) for e, v in oracle.items()}
    return Design(groups, draws, seeds, float(np.mean(np.concatenate(covered))), share, best)


def rows(cells: Iterable[Design], effects: Sequence[float]) -> Iterator[str]:
    """A table of Markdown, line by line: in brackets what a test that knows the variances finds.

    Args:
        cells: of one world.
        effects: true changes that were measured, 0 among them.
    """
    rest = [effect for effect in effects if effect]
    heads = [f"{100 * e:+.0f} found (oracle), %" for e in rest]
    yield f"| groups | draws | seeds | coverage, % | false alarms, % | {' | '.join(heads)} |"
    yield "|---" * (5 + len(rest)) + "|"
    for cell in cells:
        power = [f"{100 * cell.found[e]:.0f} ({100 * cell.oracle[e]:.0f})" for e in rest]
        yield (
            f"| {cell.groups} | {cell.draws} | {cell.seeds} | {100 * cell.coverage:.1f} | "
            f"{100 * cell.found[0.0]:.1f} | {' | '.join(power)} |"
        )
