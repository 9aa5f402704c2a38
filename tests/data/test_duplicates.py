"""Copies are found whatever was done to them; nothing that is near is missed, and nothing else
found.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from slides_painted import tissue
from torch import Tensor

from monai_histodiff.data.duplicates import NEAR, near_pairs
from monai_histodiff.data.pixels import thumbnails


def by_hand(patches: Tensor, limit: float) -> dict[tuple[int, int], float]:
    """Every pair compared in every turn."""
    small = thumbnails(patches).double()
    contrast = (small - small.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt()
    found = {}
    for i in range(len(small)):
        flips = (small[i], small[i].flip(2))
        turned = torch.stack([v.rot90(k, (1, 2)) for v in flips for k in range(4)])
        for j in range(i + 1, len(small)):
            distance = (turned - small[j]).square().mean((1, 2, 3)).min().sqrt()
            distance = float(distance / min(contrast[i], contrast[j]))
            if distance <= limit and min(contrast[i], contrast[j]) >= 0.02:
                found[i, j] = distance
    return found


@pytest.mark.parametrize("limit", [NEAR, 0.9, 1.5])
def test_the_bounds_miss_no_pair(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_histodiff.data.duplicates.ROWS", 7)
    monkeypatch.setattr("monai_histodiff.data.duplicates.PAIRS", 5)
    monkeypatch.setattr("monai_histodiff.data.duplicates.NEAR", limit)
    patches = tissue(30)
    shifted = patches.roll(2, 3)[:8].rot90(1, (2, 3))
    patches = torch.cat([patches, shifted, patches[:3].flip(2), torch.full((3, 3, 64, 64), 240)])
    patches = patches.to(torch.uint8)
    pairs = near_pairs(patches)
    found = {
        (i, j): d
        for i, j, d in zip(
            pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist(), strict=True
        )
    }
    truth = by_hand(patches, limit)
    assert len(truth) >= 3 and found == pytest.approx(truth, abs=1e-5)
    if limit > 1:
        assert len(truth) > 20


def jpeg(patch: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(patch).save(stream, "JPEG", quality=70)
    return np.asarray(Image.open(stream))


def halved(patch: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(patch)
    return np.asarray(picture.resize((32, 32)).resize((64, 64)))


CHANGES = {
    "nothing": lambda patch: patch,
    "flipped": lambda patch: patch[:, ::-1],
    "turned": lambda patch: np.rot90(patch),
    "recompressed": jpeg,
    "resized": halved,
    "turned and recompressed": lambda patch: jpeg(np.ascontiguousarray(np.rot90(patch, 3))),
    "a little darker": lambda patch: (patch * 0.98).astype(np.uint8),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_changed_copy_is_found_and_no_other(change: str) -> None:
    patches = tissue(40).permute(0, 2, 3, 1).numpy()
    copies = np.stack([CHANGES[change](patch) for patch in patches[:10]])
    both = torch.from_numpy(np.concatenate([patches, copies])).permute(0, 3, 1, 2)
    pairs = near_pairs(both)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found == {(i, 40 + i) for i in range(10)}


def test_plain_pictures_are_no_copies_of_each_other() -> None:
    plain = torch.stack(
        [torch.full((3, 32, 32), 230 + i % 3, dtype=torch.uint8) for i in range(9)]
    )
    assert not len(near_pairs(plain).first) and not len(near_pairs(plain[:1]).first)
