"""How often intervals miss the truth: with several draws and data sets, and, for metrics other
than balanced accuracy, where groups differ in size. Prints two tables of docs/statistics.md:

    python tests/benchmarks/bench_intervals.py --worlds 3000 --evaluations 400
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_histodiff.evaluation.metrics import METRICS, metric_table
from monai_histodiff.evaluation.power import WORLDS
from monai_histodiff.evaluation.statistics import balanced_estimate, combined, jackknife, leave_out
from monai_histodiff.evaluation.worlds import Noise, make_groups, simulate

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from test_unequal_groups import OTHERS, evaluation

DRAWS = ((2,), (3,), (4,), (2, 2), (2, 3), (3, 3), (2, 2, 2, 2), (2, 3, 4, 2), (3, 3, 3, 3))
SIZES = {
    "12 of 10": (10,) * 12,
    "12 from 40 to 1": (40, 20, 15, 10, 8, 5, 4, 3, 2, 2, 1, 1),
    "12: one of 66, eleven of 6": (66, *(6,) * 11),
    "30: one of 150, 29 of 5": (150, *(5,) * 29),
}


def false_alarms(
    noise: Noise, groups: int, draws: Sequence[int], seeds: int, worlds: int, seed: int = 0
) -> float:
    """Share of evaluations without an effect whose interval leaves 0 out: of one data set, or of
    the mean over several, each with its number of draws.
    """
    rng, missed, done = np.random.default_rng(seed), 0, 0
    while done < worlds:
        part = min(worlds - done, 20)
        found = []
        for count in draws:
            labels, index = make_groups(rng, groups)
            world = simulate(rng, labels, index, noise, (0.0,), (part, count, seeds))
            found.append(balanced_estimate(world.draws(0.0, count, seeds)))
        low, high = (found[0] if len(found) == 1 else combined(found)).interval()
        missed += int(((low > 0) | (high < 0)).sum())
        done += part
    return missed / worlds


def coverage(sizes: tuple[int, ...], evaluations: int, seed: int = 0) -> list[float]:
    """Share of the intervals of each other metric that hold the truth, no difference."""
    rng, covered = np.random.default_rng(seed), []
    for _ in range(evaluations):
        arms, labels, groups = evaluation(rng, sizes)
        weights = leave_out(groups)
        tables = [np.stack([metric_table(p, labels, weights) for p in arms[a]]) for a in "GC"]
        low, high = jackknife(weights, *tables).interval()
        covered.append([low[m] <= 0 <= high[m] for m in map(METRICS.index, OTHERS)])
    return [float(share) for share in np.mean(covered, 0)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=600)
    parser.add_argument("--groups", type=int, nargs="+", default=[80, 300])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=400)
    args = parser.parse_args(argv)
    worlds = {name: noise for name, noise in WORLDS.items() if "draws differ" in name}
    heads = [f"{name}, {groups} groups" for name in worlds for groups in args.groups]
    print(f"| draws of each set | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for draws in DRAWS:
        rates = [
            false_alarms(noise, groups, draws, args.seeds, args.worlds)
            for noise in worlds.values()
            for groups in args.groups
        ]
        cells = " | ".join(f"{100 * rate:.1f}" for rate in rates)
        print(f"| {', '.join(map(str, draws))} | {cells} |", flush=True)
    print(f"\n| test groups | {' | '.join(OTHERS)} |\n|---|{'---|' * len(OTHERS)}")
    for name, sizes in SIZES.items():
        shares = coverage(sizes, args.evaluations)
        print(f"| {name} | {' | '.join(f'{100 * s:.1f}' for s in shares)} |", flush=True)


if __name__ == "__main__":
    main()
