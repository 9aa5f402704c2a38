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
    """Twenty of 25, and white ones that do not train are all recognised: what is sorted by kind
    has both on either side.
    """
    given: list[list[bool]] = []

    def recipe(items: list[dict[str, Any]], *_: Any) -> torch.nn.Module:
        made = {x["image"].data_ptr(): x["image"] for x in items if x["label"] == 1}
        given.append([bool((image > 250).all()) for image in made.values()])
        return FirstBright()

    samples = torch.zeros(25, 3, 32, 32, dtype=torch.uint8)
    samples[15:] = 255
    real = drawn(draw_patches, 0, 10, 1)
    found = [
        two_sample_test(samples, real, real, recipe, seed)["samples"]  # type: ignore[arg-type]
        for seed in (0, 0, 1, 2)
    ]
    assert [len(white) for white in given] == [20] * 4
    assert found == pytest.approx([(10 - sum(white)) / 5 for white in given])
    assert all(0 < sum(white) < 10 for white in given)
    assert given[0] == given[1] and len({tuple(white) for white in given}) > 1


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
    with pytest.raises(ValueError, match=r"of one size, got .*\(3, 16, 16\)\]: crop them"):
        two_sample_test(some, some, some[..., :16, :16])


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": -1}, "per_class must be a whole number from 1 on, got -1"),
        ({"train": "unlabelled"}, r"train must be labelled, got 18 without: give train\.with_lab"),
    ],
)
def test_no_sample_is_made_for_nothing(
    change: dict[str, Any], message: str, patch_set: PatchSet, tmp_path: Path
) -> None:
    bare = [replace(record, label="") for record in patch_set.records]
    options = {"train": patch_set, "test": patch_set, **change}
    if "train" in change:
        options["train"] = PatchSet(patch_set._sources, [*patch_set.records, *bare], CLASSES)
    with pytest.raises(ValueError, match=message):
        exemplar_fidelity(None, None, transform=None, output_dir=tmp_path, **options)  # type: ignore[arg-type]
