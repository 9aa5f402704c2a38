"""Crops of patches, each judged, in parts that fit into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_histodiff import PatchSet
from monai_histodiff.classifiers import crops, over_crops
from monai_histodiff.data.patch_files import PatchRecord, write_patches


def written(folder: Path, sides: list[int]) -> PatchSet:
    rng = np.random.default_rng(0)
    items = [
        (
            PatchRecord(f"{i}.png", "ab"[i % 2], "", group=str(i)),
            rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        )
        for i, side in enumerate(sides)
    ]
    return PatchSet.open(write_patches(folder, items))


def corner(images: Tensor) -> Tensor:
    """What tells a crop: its first pixel."""
    assert images.dtype == torch.uint8 and images.shape[1:] == (3, 32, 32)
    return images[:, :, 0, 0].float()


@pytest.mark.parametrize("held", [1, 3, 100])
def test_it_is_the_judge_of_every_crop_whatever_is_held_at_once(
    held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = written(tmp_path / "set", [40, 32, 32, 48, 32])
    monkeypatch.setattr(crops, "BYTES", held * 5 * 3 * 32 * 32)
    expected = corner(patches.five_crops(32).flatten(0, 1)).unflatten(0, (5, 5)).transpose(0, 1)
    found = over_crops(corner, patches, 32)
    assert found.shape == (5, 5, 3) and torch.equal(found, expected)
    assert torch.equal(found[1], found[1, :1].expand(5, 3)), "a patch of that size is its crops"
    assert len(found[0].unique(dim=0)) == 5


def test_patches_of_that_size_are_judged_once(tmp_path: Path) -> None:
    patches = written(tmp_path / "set", [32, 32, 32])
    assert torch.equal(over_crops(corner, patches, 32)[:, 0], corner(patches.images()))


def test_a_small_patch_is_refused_before_any_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = written(tmp_path / "set", [40, 40, 32])
    monkeypatch.setattr(crops, "BYTES", 1)
    with pytest.raises(ValueError, match="patches must be at least 40 x 40, got 1 of 3"):
        over_crops(lambda _: pytest.fail("judged"), patches, 40)
