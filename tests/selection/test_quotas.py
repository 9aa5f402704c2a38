"""Sampling until the quotas are full, where what is sampled is spoilt."""

from __future__ import annotations

import math

import pytest
from painting import Judge, Painter
from torch import Tensor

from monai_histodiff import sample_candidates


class Spoiling(Painter):
    """Paints what is not finite into every fourth patch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def __call__(self, labels: Tensor, seeds: Tensor) -> Tensor:
        images = super().__call__(labels, seeds)
        images[seeds % 4 == 0, 2, 3, 3] = self.value
        return images


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_patch_that_is_not_finite_is_marked_whatever_its_bytes(value: float) -> None:
    plain = sample_candidates(Painter(), Judge(), 2, 5, 20, progress=False)
    found = sample_candidates(Spoiling(value), Judge(), 2, 5, 20, progress=False)
    spoilt = found.seed % 4 == 0
    assert 0 < int(spoilt.sum()) < len(spoilt)
    assert [r == "not finite" for r in found.reasons] == spoilt.tolist()
    assert not bool(found.accepted[spoilt].any())
    assert bool(found.confidence[spoilt].isnan().all())
    assert not bool(found.images[spoilt, 2, 3, 3].any()), "black, whatever it was"
    assert bool(found.confidence[~spoilt].isfinite().all())
    assert int((found.labels[found.accepted] == 0).sum()) == 5
    assert set(plain.reasons) == {"accepted", "low confidence", "over quota"}
