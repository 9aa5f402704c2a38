"""The two-sample test, and the fidelity to exemplars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, DrawPatches, WritePatchSet
from monai.transforms import Compose, ScaleIntensityRanged, ToTensord
from PIL import Image
from torch import Tensor

from monai_histodiff import ClassifierTraining, PatchSet
from monai_histodiff.evaluation import exemplar_fidelity, two_sample_test

TRAINING = ClassifierTraining(steps=40, batch_size=16)


def drawn(draw_patches: DrawPatches, label: int, count: int, seed: int) -> Tensor:
    return torch.from_numpy(draw_patches(label, count, 32, seed)).permute(0, 3, 1, 2)


class FirstBright(torch.nn.Module):
    """Calls what is white a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        white = (x.mean((1, 2, 3)) > 0.99).float()
        return torch.stack([1 - white, white], 1)


def test_what_is_alike_cannot_be_told_apart(draw_patches: DrawPatches) -> None:
    samples, real, held = (drawn(draw_patches, 0, 80, seed) for seed in (1, 2, 3))
    found = two_sample_test(samples, real, held, TRAINING)
    assert abs(found["accuracy"] - 0.5) < 0.25
    assert found["numbers"] == {"samples": 80, "real": 80, "held_out": 80}


def test_one_sample_in_five_is_for_the_test(draw_patches: DrawPatches) -> None:
    """The share that is recognised counts fifths of 25 samples, and of no more."""
    given: list[int] = []

    def recipe(items: list[dict[str, Any]], *_: Any) -> torch.nn.Module:
        given.append(len({item["image"].data_ptr() for item in items if item["label"] == 1}))
        return FirstBright()

    samples = torch.zeros(25, 3, 32, 32, dtype=torch.uint8)
    samples[20] = 255  # the first that is tested
    real = drawn(draw_patches, 0, 10, 1)
    found = two_sample_test(samples, real, real, recipe)  # type: ignore[arg-type]
    assert given == [20] and found["samples"] == pytest.approx(1 / 5)


def test_what_differs_is_told_apart(draw_patches: DrawPatches) -> None:
    samples, real, held = (drawn(draw_patches, k, n, n) for k, n in ((1, 60), (0, 30), (0, 20)))
    found = two_sample_test(samples, real, held, TRAINING)
    assert found["accuracy"] > 0.95
    assert found["accuracy"] == pytest.approx((found["samples"] + found["held_out"]) / 2)


def test_it_needs_patches_on_every_side() -> None:
    some, none = torch.zeros(12, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 3, 32, 32)
    with pytest.raises(ValueError, match=r"got \(9, 12, 12\)"):
        two_sample_test(some[:9], some, some)
    with pytest.raises(ValueError, match=r"got \(12, 0, 12\)"):
        two_sample_test(some, none, some)


class Encoder:
    """Describes a patch by its mean colour."""

    def descriptors(self, patches: Tensor) -> Tensor:
        return patches.float().mean((2, 3)) / 255


class Painter:
    """Paints what it is told, or, faithless, always the same."""

    size = 32

    def __init__(self, faithful: bool) -> None:
        self.faithful = faithful

    def __call__(self, labels: None, seeds: Any, exemplars: Tensor) -> Tensor:
        told = exemplars if self.faithful else exemplars[:1].expand_as(exemplars)
        noise = torch.stack(
            [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        return (told[:, :, None, None] + 0.05 * (noise - 0.5)).clamp(0, 1)


@pytest.mark.parametrize("faithful", [True, False])
def test_samples_are_given_the_class_of_their_exemplars(
    faithful: bool, write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    train = PatchSet.open(write_patch_set(tmp_path / "train", per_class=12))
    test = PatchSet.open(write_patch_set(tmp_path / "test", per_class=6, seed=1))
    transform = Compose(
        [ScaleIntensityRanged("image", 0, 255, 0.0, 1.0), ToTensord("image", track_meta=False)]
    )
    found = exemplar_fidelity(
        Painter(faithful),  # type: ignore[arg-type]
        Encoder(),  # type: ignore[arg-type]
        train,
        test,
        transform,
        tmp_path,
        per_class=4,
        training=TRAINING,
    )
    assert found["exemplars"] > 0.9 and found["number"] == 12
    assert set(found["per_class"]) == set(CLASSES)
    assert found["samples"] > 0.9 if faithful else found["samples"] == pytest.approx(1 / 3)
    picture = np.array(Image.open(tmp_path / "exemplars.png"))
    assert picture.shape == (6 * 34 + 2, 10 * 34 + 2, 3)  # two exemplars a row, each with four
    tiles = np.stack(
        [
            picture[2 + 34 * i : 34 * (i + 1), 2 + 34 * j : 34 * (j + 1)].reshape(-1, 3)
            for i in range(6)
            for j in range(10)
        ]
    ).reshape(12, 5, 32 * 32, 3)
    apart = np.abs(tiles.mean(2)[:, :1] - tiles.mean(2)[:, 1:]).max((1, 2))
    assert (apart < 12).all() if faithful else (apart > 12).any(), "each beside samples after it"
    for exemplar in tiles:
        assert len({tile.tobytes() for tile in exemplar}) == 5, "samples of different seeds"


def test_each_class_needs_patches(write_patch_set: WritePatchSet, tmp_path: Path) -> None:
    train = PatchSet.open(write_patch_set(tmp_path / "train"))
    with pytest.raises(ValueError, match="training and test patches, got too few of 'blue'"):
        exemplar_fidelity(
            Painter(True),  # type: ignore[arg-type]
            Encoder(),  # type: ignore[arg-type]
            train,
            train.select(label="pink"),
            Compose([]),
            tmp_path,
        )
    grey = PatchSet(train._sources, [replace(r, label="grey") for r in train.records], ["grey"])
    with pytest.raises(ValueError, match="labels must be among the classes .* got 'grey'"):
        exemplar_fidelity(Painter(True), Encoder(), train, grey, Compose([]), tmp_path)  # type: ignore[arg-type]
