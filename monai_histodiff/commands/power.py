"""``histodiff-power``: coverage, false alarms and power of the verdict in simulated worlds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from monai_histodiff.commands.arguments import parsed
from monai_histodiff.evaluation.power import WORLDS, measure, rows


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of ``docs/statistics.md``, of other designs if asked to."""
    parser = argparse.ArgumentParser(
        "histodiff-power",
        description="Coverage, false alarms and power of the verdict in simulated worlds.",
    )
    parser.add_argument("--worlds", type=int, default=400, help="evaluations of each design")
    parser.add_argument("--groups", type=int, nargs="+", default=[12, 30, 80])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--effects", type=float, nargs="+", default=[3, 6, 10], help="in points")
    args = parsed(parser, argv)
    if min(args.groups) < 6 or min(args.seeds) < 2 or min(args.draws) < 1 or args.worlds < 8:
        parser.error("at least 6 groups, 2 seeds, 1 draw and 8 worlds are needed")
    if not all(0 < abs(effect) < 30 for effect in args.effects):
        parser.error(f"effects must be other than 0 and within 30 points, got {args.effects}")
    effects = [0.0, *(effect / 100 for effect in args.effects)]
    for name, noise in WORLDS.items():
        print(f"\n### {name[0].upper()}{name[1:]}\n")
        found = measure(noise, args.groups, args.draws, args.seeds, effects, args.worlds)
        for line in rows(found, effects):
            print(line, flush=True)


if __name__ == "__main__":
    main()
