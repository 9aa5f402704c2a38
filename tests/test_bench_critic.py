"""The benchmark of the critic tells a probe from a critic that has learned from more patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_bench_sampling import load

from monai_histodiff.data.patch_files import PatchRecord, write_patches


def test_it_prints_a_row_for_each_draw_and_their_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    items = [
        (
            PatchRecord(f"{part}{i}.png", name, part, f"{part}{i}", {"um_per_px": "1"}),
            (base + rng.integers(-30, 30, (96, 96, 1))).astype(np.uint8),
        )
        for part in ("train", "test")
        for i in range(20)
        for name, base in [(("pink", [220, 150, 190]), ("violet", [120, 80, 170]))[i % 2]]
    ]
    folder = write_patches(tmp_path / "data", items)
    asked = ["--dataset_dir", str(folder), "--labels_per_class", "5", "--draws", "0", "1"]
    load("bench_critic").main(asked)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line[0] in "01m" and " | " in line]
    assert [row.split(" | ")[0] for row in rows] == ["0", "1", "mean"]
    values = [[float(v) for part in row.split(" | ")[1:] for v in part.split()] for row in rows]
    assert values[2] == pytest.approx(np.mean(values[:2], 0), abs=0.06)
    assert min(values[2]) == 100, "colours that anyone tells apart"
