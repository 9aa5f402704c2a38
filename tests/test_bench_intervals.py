"""The benchmark of the intervals tells those that hold their level from those that do not."""

from __future__ import annotations

import pytest
from test_bench_sampling import load

from monai_histodiff.evaluation.power import WORLDS


def test_two_draws_alone_miss_more_often_than_four_sets_of_three() -> None:
    bench, noise = load("bench_intervals"), WORLDS["alike, and draws differ"]
    two, many = (bench.false_alarms(noise, 300, draws, 5, 400) for draws in ((2,), (3, 3, 3, 3)))
    assert many < 0.09 and many + 0.01 < two


def test_it_prints_a_row_for_each_design(capsys: pytest.CaptureFixture[str]) -> None:
    bench = load("bench_intervals")
    bench.main("--worlds 20 --groups 20 --seeds 3 --evaluations 2".split())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(bench.DRAWS) + len(bench.SIZES)
    assert all(0 <= float(cell) <= 100 for cell in lines[-1].split(" | ")[1:-1])
