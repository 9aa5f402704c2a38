"""All five crops of a test patch are judged, and their mean counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandSpatialCropd, ScaleIntensityRanged, ToTensord
from torch import Tensor, nn

import monai_histodiff as mh
from monai_histodiff.data.pixels import five_crops
from monai_histodiff.evaluation.arms import Material
from monai_histodiff.evaluation.experiment import Recipe, _timed


class Bright(nn.Module):
    """Judges a crop by its upper left pixel alone: every crop says something else."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-3, 3, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 0, None] * self.weight


class Untrained(mh.ClassifierTraining):
    """Fits nothing."""

    def __call__(self, data: Any, transform: Any, num_classes: int, *_: Any) -> nn.Module:
        return Bright(num_classes)


@pytest.mark.parametrize("side", [48, 32])
def test_the_mean_of_five_crops_counts(
    side: int, write_patch_set: Any, candidates: mh.Candidates, tmp_path: Path
) -> None:
    patches = mh.PatchSet.open(write_patch_set(tmp_path / "set", side=side))
    labelled, test = patches.hold_out(0.4, seed=0)
    unit = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    scale = [unit, ToTensord("image", track_meta=False)]
    crop = RandSpatialCropd("image", (32, 32), random_size=False)
    plain = Compose(scale)
    recipe = Recipe(training=Untrained(), crop=crop, classical=plain, plain=plain)
    material = Material(labelled=labelled, candidates=candidates, size=32)
    found = mh.Evaluation(material, test, recipe, ("C",), (0,)).run()["C"][0]
    crops = [c.float() / 255 for c in five_crops(test.images(), 32)]
    assert len(crops) == (1 if side == 32 else 5)
    expected = torch.stack([Bright(3)(c).softmax(1) for c in crops]).mean(0).detach()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    if side > 32:
        assert float((expected - Bright(3)(crops[0]).softmax(1).detach()).abs().max()) > 0.05


def test_views_are_averaged_and_the_time_is_told() -> None:
    views = torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]], [[1.0, 0.0]], [[0.5, 0.5]], [[1.0, 0.0]]])
    found = _timed(lambda *_: views, [], torch.zeros(5), 0)
    assert found["probabilities"].tolist() == [[pytest.approx(0.6), pytest.approx(0.4)]]
    assert found["probabilities"].dtype == np.float64 and float(found["seconds"]) >= 0
