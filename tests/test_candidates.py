"""The trial of guidance scales: what is tried, on which seeds, and which scale wins."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion
from monai_histodiff.candidates import tune_scale
from monai_histodiff.sampling import candidate_seed
from monai_histodiff.selection import Selection


class Brush:
    """Stands for a sampler: every pixel of a patch tells the scale; notes what was asked."""

    def __init__(self, scale: float = 1.0, asked: list | None = None) -> None:
        self.scale, self.asked = scale, [] if asked is None else asked

    def replace(self, scale: float) -> Brush:
        return Brush(scale, self.asked)

    def __call__(self, labels: Tensor, seeds: list[int]) -> Tensor:
        self.asked.append((self.scale, labels.tolist(), list(seeds)))
        return torch.full((len(seeds), 3, 2, 2), self.scale / 255)


def judge(rates: dict[int, list[int]]) -> Any:
    """Stands for a selector: of each class it accepts the first so many, by the scale that the patches tell."""

    def select(images: Tensor, labels: Tensor) -> Selection:
        assert images.dtype == torch.uint8
        keep = torch.zeros(len(labels), dtype=torch.bool)
        for label, count in enumerate(rates[int(images[0, 0, 0, 0])]):
            keep[(labels == label).nonzero()[:count, 0]] = True
        return Selection(keep, keep.float(), torch.ones(len(labels)), torch.zeros(len(labels)), [])

    return select


def test_every_scale_is_tried_on_the_same_seeds_which_no_candidate_has() -> None:
    brush: Any = Brush()
    tune_scale(brush, judge({1: [0, 0], 3: [0, 0], 6: [0, 0]}), 2, scales=(1, 3, 6), trials=4, seed=7)
    assert [scale for scale, _, _ in brush.asked] == [1.0, 3.0, 6.0]
    assert all(labels == [0] * 4 + [1] * 4 for _, labels, _ in brush.asked)
    seeds = brush.asked[0][2]
    assert all(other == seeds for _, _, other in brush.asked) and len(set(seeds)) == 8
    assert not set(seeds) & {candidate_seed(7, c, j) for c in range(2) for j in range(1000)}


def test_the_scale_that_fills_all_classes_wins(caplog: pytest.LogCaptureFixture) -> None:
    """Six of eight and two of eight at scale 6 make more patches, but four and four at scale 3 fill both quotas."""
    brush: Any = Brush()
    with caplog.at_level(logging.INFO, "monai_histodiff"):
        best = tune_scale(brush, judge({1: [1, 1], 3: [4, 4], 6: [8, 2]}), 2, (1, 3, 6), trials=8, quota=50, max_candidates=100)
    assert best == 3.0
    assert "scale 3: [4, 4] of 8 accepted in each class, mean confidence 0.50 (chosen)" in caplog.text
    assert "scale 6: [8, 2] of 8 accepted in each class, mean confidence 0.62\n" in caplog.text


def test_a_single_scale_is_not_tried() -> None:
    brush: Any = Brush()
    assert tune_scale(brush, judge({}), 2, scales=[2.5]) == 2.5 and not brush.asked


def test_real_sampler_is_tuned_and_keeps_its_other_settings(model: LatentDiffusion, guide: LatentClassifier) -> None:
    """A judge that wants latents moved far from the unguided ones picks the highest scale."""
    sampler = GuidedSampler(model, guide, steps=2, cap=1.0, max_batch=5, progress=False)
    plain = (sampler.replace(scale=0.0)([0, 0, 1, 1], [candidate_seed(0, c, j, 1) for c in range(2) for j in range(2)]) * 255).round()

    def select(images: Tensor, labels: Tensor) -> Selection:
        moved = (images - plain).square().mean((1, 2, 3)).sqrt() / 255
        return Selection(moved > 1, moved, moved, moved, [])

    best = tune_scale(sampler, select, 2, scales=(0.0, 4.0, 0.5), trials=2)  # type: ignore
    assert best == 4.0
    again = sampler.replace(scale=best)
    assert again.settings == {**sampler.settings, "scale": 4.0} and again.max_batch == 5 and not again.progress
    assert sampler.scale == 3.0


@pytest.mark.parametrize("wrong", [{"scales": []}, {"trials": 0}, {"num_classes": 0}, {"quota": 0}, {"max_candidates": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, Any]) -> None:
    options = {"sampler": Brush(), "selector": judge({}), "num_classes": 2, **wrong}
    with pytest.raises(ValueError, match=r"scales, classes, trials, quota and candidates must be at least 1, got \(.*0.*\)"):
        tune_scale(**options)


def test_scale_out_of_range_is_refused_before_any_trial(model: LatentDiffusion, guide: LatentClassifier) -> None:
    with pytest.raises(ValueError, match="guidance scale must be at least 0 and finite, got -1.0"):
        tune_scale(GuidedSampler(model, guide), judge({}), 3, scales=(3.0, -1.0))
