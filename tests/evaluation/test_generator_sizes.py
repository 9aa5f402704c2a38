"""Samples of other sizes beside real patches: as good as the floor where they are, and crops of
what both have.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from slides_painted import tissue
from torch import Tensor

from monai_histodiff import PatchEncoder, PatchSet
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.evaluation.generator_sizes import _windows, evaluate_sizes

SIDE, CANVAS = 32, 64  # of real patches, and of the pictures that all patches are cut from


def cut(count: int, side: int, seed: int) -> Tensor:
    return tissue(count, CANVAS, seed)[..., :side, :side].contiguous()


def patches(folder: Path, count: int, seed: int) -> PatchSet:
    items = (
        (PatchRecord(f"{i}.png", "", "", f"g{seed}-{i}"), picture.permute(1, 2, 0).numpy())
        for i, picture in enumerate(cut(count, SIDE, seed))
    )
    return PatchSet.open(write_patches(folder, items))


def sampler(dark: int = 0, size: int = SIDE) -> Any:
    """Samples by the process of the real ones, with a dark border of so many pixels."""

    def sample(labels: None, seeds: range) -> Tensor:
        found = cut(len(seeds), size, 100 + seeds[0]) / 255
        found[..., :dark, :] = 0
        found[..., size - dark :, :] = 0
        return found

    class Fake(SimpleNamespace):
        def __call__(self, labels: None, seeds: range) -> Tensor:
            return sample(labels, seeds)

    return Fake(replace=lambda size: sampler(dark, size))


def test_one_crop_of_each_sample_reaches_middle_and_corners() -> None:
    images = torch.zeros(7, 3, 6, 6)
    images[:, :, 2:4, 2:4], images[:, :, 4:, 4:] = 1, 2
    found = _windows(images, 2)
    assert found.shape == (7, 3, 2, 2)
    assert found.amax((1, 2, 3)).tolist() == [1, 0, 0, 0, 2, 1, 0]
    assert torch.equal(_windows(images, 6), images)


def test_each_size_is_compared_on_what_both_have(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(widths=(4, 4, 8, 8, 8), features=16).eval()
    train, held_out = patches(tmp_path / "a", 40, 0), patches(tmp_path / "b", 40, 1)
    found = {
        dark: evaluate_sizes(
            sampler(dark), encoder, train, held_out, [24, 32, 48], tmp_path / name, 40, 16
        )
        for dark, name in ((0, "new/0"), (4, "new"))  # below nothing yet, and there already
    }
    for size, crop in (("24", 24), ("32", 32), ("48", 32)):
        fine, broken = (found[dark][size] for dark in (0, 4))
        assert fine["crop"] == broken["crop"] == crop and fine["floor"] == broken["floor"]
        assert fine["samples"]["appearance"] < 3 * fine["floor"]["appearance"] + 0.5
        assert broken["samples"]["appearance"] > 5 * fine["samples"]["appearance"]
        assert broken["samples"]["kid"] > fine["samples"]["kid"]
        with Image.open(tmp_path / "new/0" / f"samples-{size}.png") as grid:
            assert grid.size == (4 * (int(size) + 2) + 2,) * 2
    few, more = (
        evaluate_sizes(sampler(), encoder, train, held_out, [24], tmp_path / "y", number, 20)
        for number in (40, 60)
    )
    assert few == more, "of 40, as the floor"
    with pytest.raises(ValueError, match="each set must hold at least"):
        evaluate_sizes(sampler(), encoder, train, held_out[:1], [32], tmp_path / "x", 8)


def test_the_floor_draws_patches_of_large_groups_less_often(tmp_path: Path) -> None:
    """By the square root of the group's size, as the training does (and as the samples are)."""
    large = patches(tmp_path / "a", 36, 0)
    records = [replace(r, group="one" if i < 35 else "two") for i, r in enumerate(large.records)]
    drawn: list[float] = []

    class Weighed(PatchSet):
        def weights(self, power: float = 0.5) -> Tensor:
            drawn.append(power)
            return super().weights(power)

    train = Weighed(large._sources, records, large.classes)
    encoder = PatchEncoder(widths=(4, 4, 8, 8, 8), features=16).eval()
    evaluate_sizes(sampler(), encoder, train, large, [32], tmp_path / "x", 16)
    assert drawn == [0.5]
    share = large._with(records).weights()
    assert float(share[-1] / share[0]) == pytest.approx(35**0.5)
