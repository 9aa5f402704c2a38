"""What a run keeps and says: diversity, shortfall; and the trial of guidance scales: what is
tried, and which wins.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.selection.quotas import sample_candidates, tune_scale
from monai_histodiff.selection.selector import Selection
from monai_histodiff.utils.seeds import candidate_seed


class Brush:
    """Stands for a sampler: every pixel of a patch tells the scale; notes what was asked, and
    has room for seven patches.
    """

    max_batch: int | None = None

    def __init__(self, scale: float = 1.0, asked: list | None = None) -> None:
        self.scale, self.asked = scale, [] if asked is None else asked
        self.rooms: list[int | None] = []
        self.settings = SamplingSettings(scale=scale)

    def replace(self, scale: float) -> Brush:
        made = Brush(scale, self.asked)
        made.rooms = self.rooms
        return made

    def origins(self, labels: Tensor, seeds: list[int]) -> Tensor:
        return labels * 1000 + torch.tensor([s % 1000 for s in seeds])

    def __call__(self, labels: Tensor, seeds: list[int]) -> Tensor:
        self.asked.append((self.scale, labels.tolist(), [int(seed) for seed in seeds]))
        self.rooms.append(self.max_batch)
        self.max_batch = 7
        return torch.full((len(seeds), 3, 2, 2), self.scale / 255)


def judge(rates: dict[int, list[int]]) -> Any:
    """Stands for a selector: of each class it accepts the first so many, by the scale that the
    patches tell.
    """

    def select(images: Tensor, labels: Tensor, origins: Tensor) -> Selection:
        assert images.dtype == torch.uint8 and torch.equal(origins // 1000, labels), (
            "each is judged with its origin"
        )
        keep = torch.zeros(len(labels), dtype=torch.bool)
        for label, count in enumerate(rates[int(images[0, 0, 0, 0])]):
            keep[(labels == label).nonzero()[:count, 0]] = True
        reasons = ["accepted" if k else "low confidence" for k in keep.tolist()]
        far, nearest = torch.ones(len(labels)), torch.zeros(len(labels))
        return Selection(keep.float(), far, nearest, reasons)

    return select


class Painter:
    """Stands for a sampler: a patch is of one grey, which its seed tells."""

    def origins(self, labels: Tensor, seeds: Tensor) -> Tensor:
        return labels * 1000 + seeds % 1000

    def __call__(self, labels: Tensor, seeds: Tensor) -> Tensor:
        return ((seeds % 256) / 255).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def even(images: Tensor, labels: Tensor, origins: Tensor) -> Selection:
    """Stands for a selector: accepts even greys, of class 1 only multiples of 8."""
    grey = images[:, 0, 0, 0].long()
    assert torch.equal(origins // 1000, labels) and len(origins) == len(images)
    keep = grey % torch.where(labels == 1, 8, 2) == 0
    reasons = ["accepted" if k else "low confidence" for k in keep.tolist()]
    return Selection(grey / 255, torch.ones(len(labels)), torch.zeros(len(labels)), reasons)


@pytest.mark.parametrize("batch_size", [3, 64])
def test_surplus_keeps_the_most_diverse(batch_size: int) -> None:
    """Of the first 20 accepted greys the 4 kept are the middle one, the two ends and the middle of
    the wider gap.
    """
    painter: Any = Painter()
    found = sample_candidates(painter, even, 1, 4, 100, batch_size, seed=3, surplus=5.0)  # type: ignore
    pool = [g for g in (candidate_seed(3, 0, j) % 256 for j in range(100)) if g % 2 == 0][:20]
    mean = sum(pool) / 20
    middle = min(pool, key=lambda g: abs(g - mean))
    kept = {int(v) for v in found.images[found.accepted, 0, 0, 0]}
    assert len(kept) == 4 and {middle, min(pool), max(pool)} <= kept
    last = (kept - {middle, min(pool), max(pool)}).pop()
    apart = {g: min(abs(g - other) for other in (middle, min(pool), max(pool))) for g in pool}
    assert apart[last] == max(apart.values())
    assert torch.equal(found.origin, found.labels * 1000 + found.seed % 1000), (
        "of each, in its row"
    )
    plain = sample_candidates(painter, even, 1, 4, 100, batch_size, seed=3)  # type: ignore
    assert [int(v) for v in plain.images[plain.accepted, 0, 0, 0]] == pool[:4], (
        "without a surplus, the first"
    )


def test_nothing_is_made_beyond_the_quota() -> None:
    painter: Any = Painter()
    found = sample_candidates(painter, even, 1, 4, 100, batch_size=1, seed=3)  # type: ignore
    greys = [candidate_seed(3, 0, j) % 256 for j in range(100)]
    fourth = [j for j, grey in enumerate(greys) if grey % 2 == 0][3]
    assert len(found.images) == fourth + 1 and int(found.accepted.sum()) == 4


def test_class_that_falls_short_is_named_with_its_acceptance_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    painter: Any = Painter()
    found = sample_candidates(painter, even, 2, 10, 40, seed=3)  # type: ignore
    lucky = int((found.accepted & (found.labels == 1)).sum())
    assert 0 < lucky < 10 and int((found.accepted & (found.labels == 0)).sum()) == 10
    assert caplog.messages == [
        f"class 1: {lucky} of 10 patches found, with {lucky / 40:.1%} of 40 candidates accepted; "
        f"most refused: low confidence ({40 - lucky})"
    ]


def test_run_that_accepts_nothing_says_so_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def never(images: Tensor, labels: Tensor, origins: Tensor) -> Selection:
        n = len(labels)
        reasons = ["low confidence"] * n
        return Selection(torch.zeros(n), torch.ones(n), torch.zeros(n), reasons)

    painter: Any = Painter()
    found = sample_candidates(painter, never, 2, 3, 5)  # type: ignore
    assert (
        len(found.reasons) == 10
        and not found.accepted.any()
        and len(found.bank(found.accepted, ["a", "b"])) == 0
    )
    assert caplog.messages == [
        f"class {c}: 0 of 3 patches found, with 0.0% of 5 candidates accepted; most refused: low "
        "confidence (5)"
        for c in (0, 1)
    ]


def test_what_is_said_of_a_class_has_its_name_and_the_most_frequent_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = ["near copy", "low confidence", "near copy", "accepted"]

    def select(images: Tensor, labels: Tensor, origins: Tensor) -> Selection:
        n = len(labels)
        return Selection(torch.ones(n), torch.ones(n), torch.zeros(n), given)

    painter: Any = Painter()
    options: Any = {"classes": ["tumour"], "max_candidates": 4, "batch_size": 4}
    found = sample_candidates(painter, select, 1, 2, **options)  # type: ignore
    assert caplog.messages == [
        "class 'tumour': 1 of 2 patches found, with 25.0% of 4 candidates accepted; most refused: "
        "near copy (2)"
    ]
    assert found.classes == ("tumour",)
    caplog.clear()
    given[:] = ["accepted"]
    sample_candidates(painter, select, 1, 2, **{**options, "max_candidates": 1})  # type: ignore
    assert caplog.messages == [
        "class 'tumour': 1 of 2 patches found, with 100.0% of 1 candidates accepted"
    ]
    with pytest.raises(ValueError, match="classes must be 2 names, got 1: name each"):
        sample_candidates(painter, select, 2, 2, **options)  # type: ignore


class Ruled:
    """Stands for a selector that tells its rule, and what its critic knows."""

    def __init__(self, variations: bool | None = None, num_classes: int = 2) -> None:
        self.critic = SimpleNamespace(num_classes=num_classes)
        if variations is not None:
            self.variations = variations


@pytest.mark.parametrize("use", [sample_candidates, tune_scale])
@pytest.mark.parametrize(
    ("variations", "strength", "message"),
    [
        (True, 1.0, "must be False at the sampler's strength, 1, got True, by which copies would"),
        (False, 0.5, "must be True at the sampler's strength, 0.5, got False, by which all would"),
    ],
)
def test_sampler_and_selector_agree_on_variations(
    use: Any, variations: bool, strength: float, message: str
) -> None:
    brush: Any = Brush()
    brush.settings = SamplingSettings(strength=strength)
    numbers = {"num_classes": 2, "quota": 3, "max_candidates": 5}
    with pytest.raises(ValueError, match=f"variations of a selector {message}"):
        use(brush, Ruled(variations), **numbers)
    for right in (Ruled(strength < 1), Ruled(None)):
        with pytest.raises(TypeError, match="'Ruled' object is not callable"):
            use(brush, right, **numbers)


@pytest.mark.parametrize("use", [sample_candidates, tune_scale])
@pytest.mark.parametrize("known", [1, 3])
def test_the_critic_knows_the_classes_that_are_filled(use: Any, known: int) -> None:
    with pytest.raises(ValueError, match=f"as many as the critic's, {known}, got 2: give all"):
        use(Brush(), Ruled(None, known), num_classes=2, quota=3, max_candidates=5)


@pytest.mark.parametrize("name", ["quota", "max_candidates"])
@pytest.mark.parametrize("use", [sample_candidates, tune_scale])
def test_counts_are_whole(use: Any, name: str) -> None:
    numbers: Any = {"num_classes": 2, "quota": 3, "max_candidates": 5, name: 2.5}
    with pytest.raises(ValueError, match=f"{name} must be a whole number from 1 on, got 2.5"):
        use(Brush(), judge({}), **numbers)


@pytest.mark.parametrize("surplus", [0.5, float("nan")])
def test_surplus_is_at_least_one(surplus: float) -> None:
    painter: Any = Painter()
    with pytest.raises(ValueError, match="surplus must be at least 1 and finite, got"):
        sample_candidates(painter, even, 2, 3, 5, surplus=surplus)  # type: ignore


def test_every_scale_is_tried_on_the_same_seeds_which_no_candidate_has() -> None:
    brush: Any = Brush()
    tune_scale(
        brush, judge({1: [0, 0], 3: [0, 0], 6: [0, 0]}), 2, scales=(1, 3, 6), trials=4, seed=7
    )
    assert [scale for scale, _, _ in brush.asked] == [1.0, 3.0, 6.0]
    assert all(labels == [0] * 4 + [1] * 4 for _, labels, _ in brush.asked)
    seeds = brush.asked[0][2]
    assert all(other == seeds for _, _, other in brush.asked) and len(set(seeds)) == 8
    assert not set(seeds) & {candidate_seed(7, c, j) for c in range(2) for j in range(1000)}


def test_the_scale_that_fills_all_classes_wins(caplog: pytest.LogCaptureFixture) -> None:
    """Eight of eight and two of eight at scale 6 make more patches, but four and three at scale 3
    fill more of both quotas.
    """
    brush: Any = Brush()
    with caplog.at_level(logging.INFO, "monai_histodiff"):
        best = tune_scale(
            brush,
            judge({1: [1, 1], 3: [4, 3], 6: [8, 2]}),
            2,
            (6, 1, 3),
            trials=8,
            quota=50,
            max_candidates=100,
        )
    assert best == 3.0
    assert (
        "scale 3: [4, 3] of 8 accepted in each class, mean confidence 0.44 (chosen)" in caplog.text
    )
    assert "scale 6: [8, 2] of 8 accepted in each class, mean confidence 0.62\n" in caplog.text


def test_no_scale_is_tried_beyond_one_that_fills_all_classes() -> None:
    brush: Any = Brush()
    given = judge({1: [1, 8], 3: [4, 4], 6: [8, 8]})
    assert tune_scale(brush, given, 2, (6, 1, 3), trials=8, quota=50, max_candidates=100) == 3.0
    assert [scale for scale, _, _ in brush.asked] == [1.0, 3.0]
    assert brush.rooms == [None, 7] and brush.max_batch == 7, "found out once"


def test_a_single_scale_is_not_tried() -> None:
    brush: Any = Brush()
    assert tune_scale(brush, judge({}), 2, scales=[2.5]) == 2.5 and not brush.asked


def test_real_sampler_is_tuned_and_keeps_its_other_settings(
    model: LatentDiffusion, guide: LatentClassifier
) -> None:
    """A judge that wants latents moved far from the unguided ones picks the highest scale."""
    sampler = GuidedSampler(model, guide, steps=2, cap=1.0, max_batch=5, progress=False)
    plain = (
        sampler.replace(scale=0.0)(
            [0, 0, 1, 1], [candidate_seed(0, c, j, 1) for c in range(2) for j in range(2)]
        )
        * 255
    ).round()

    def select(images: Tensor, labels: Tensor, origins: None) -> Selection:
        moved = (images - plain).square().mean((1, 2, 3)).sqrt() / 255
        reasons = ["accepted" if m > 1 else "low confidence" for m in moved.tolist()]
        return Selection(moved, moved, moved, reasons)

    best = tune_scale(sampler, select, 2, scales=(0.0, 4.0, 0.5), trials=2)  # type: ignore
    assert best == 4.0
    again = sampler.replace(scale=best)
    assert (
        again.settings == dataclasses.replace(sampler.settings, scale=4.0)
        and again.max_batch == 5
        and not again.progress
    )
    assert sampler.settings.scale == 3.0


@pytest.mark.parametrize(
    "wrong",
    [{"scales": []}, {"trials": 0}, {"num_classes": 0}, {"quota": 0}, {"max_candidates": 0}],
)
def test_numbers_below_one_are_refused(wrong: dict[str, Any]) -> None:
    options = {"sampler": Brush(), "selector": judge({}), "num_classes": 2, **wrong}
    (name,) = wrong
    rule = f"at least one of {name}, got none|{name} must be a whole number from 1 on, got 0"
    with pytest.raises(ValueError, match=rule):
        tune_scale(**options)


def test_scale_out_of_range_is_refused_before_any_trial(
    model: LatentDiffusion, guide: LatentClassifier
) -> None:
    with pytest.raises(ValueError, match="guidance scale must be at least 0 and finite, got -1.0"):
        tune_scale(GuidedSampler(model, guide), judge({}), 3, scales=(3.0, -1.0))


def test_the_home_of_the_user_is_expanded(
    candidates: Candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    candidates.save("~/c", ("blue", "pink", "violet"))
    assert torch.equal(Candidates.load("~/c").images, candidates.images)
