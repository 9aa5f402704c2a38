from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    CastToTyped,
    Compose,
    RandGaussianNoised,
    RandSpatialCropSamplesd,
    ScaleIntensityRanged,
)

from monai_histodiff import ClassifierTraining, PatchClassifier, PatchSet
from monai_histodiff.classifiers.classifier import mix_batch, predict


def marked_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four images, constant at 0, 1, 2 and 3, each its own class: a pixel tells which image it
    comes from.
    """
    return torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 12).contiguous(), torch.eye(4)


def test_targets_follow_the_area_of_what_is_mixed() -> None:
    images, targets = marked_batch()
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(60):
        mixed, share = mix_batch(images, targets, 1.0, rng)
        torch.testing.assert_close(share.sum(1), torch.ones(4))
        # the mean of an image of constants is the mean of the marks under its target, in mixup and
        # CutMix alike
        torch.testing.assert_close(
            mixed.mean((1, 2, 3)), share @ torch.arange(4.0), atol=1e-5, rtol=1e-5
        )
        cut = all(
            v.unique().tolist() == sorted(s.nonzero()[:, 0].tolist())
            for v, s in zip(mixed, share, strict=True)
        )
        kinds.append("cutmix" if cut else "mixup")
    assert 15 < kinds.count("cutmix") < 45
    assert torch.equal(images, marked_batch()[0]), "the batch itself is left alone"


def test_cutmix_pastes_one_rectangle() -> None:
    images, targets = marked_batch()
    rng = np.random.default_rng(1)
    pasted = 0
    for _ in range(30):
        mixed, _ = mix_batch(images, targets, 1.0, rng)
        other = mixed[:, 0] != images[:, 0]
        if set(mixed.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0} and other.any():
            rows, columns = (
                other.any(0).any(1).nonzero()[:, 0],
                other.any(0).any(0).nonzero()[:, 0],
            )
            inside = other[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].flatten(1)
            assert all(bool(v.all()) or not bool(v.any()) for v in inside), (
                "a whole rectangle, or the image itself"
            )
            pasted += 1
    assert pasted > 5


def test_mixing_is_reproducible() -> None:
    images, targets = marked_batch()
    one, other = (mix_batch(images, targets, 0.5, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_mixing_needs_a_positive_alpha() -> None:
    with pytest.raises(ValueError, match="alpha must be above 0, got -1"):
        mix_batch(*marked_batch(), -1, np.random.default_rng(0))


def test_training_with_mixing_learns_and_differs(patch_set: PatchSet) -> None:
    items = [{"image": d["image"], "label": d["label"]} for d in patch_set]
    scale = Compose([ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)])
    recipe = {
        "network": lambda num_classes: PatchClassifier(num_classes, width=8),
        "steps": 30,
        "batch_size": 8,
    }
    plain, mixed, again = (
        ClassifierTraining(**recipe, mixing=m)(items, scale, 3, 0) for m in (0.0, 1.0, 1.0)
    )
    found = predict(mixed, patch_set.images())
    assert (found.argmax(1) == patch_set.labels).float().mean() > 0.9
    assert not torch.allclose(found, predict(plain, patch_set.images())) and torch.equal(
        found, predict(again, patch_set.images())
    )


def tiny(num_classes: int) -> PatchClassifier:
    return PatchClassifier(num_classes, width=8)


def fit(items: list[dict[str, Any]], transform: Compose) -> None:
    ClassifierTraining(network=tiny, steps=2, batch_size=4)(items, transform, 3, 0)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ([], r"floating point in \[0, 1\], got torch.uint8: let it scale them"),
        ([CastToTyped("image", np.float32)], r"in \[0, 1\], got a first batch of .*: scale uint8"),
        ([ScaleIntensityRanged("image", 0, 255, -1.0, 1.0)], "got a first batch of -1 to .*below"),
        (
            [ScaleIntensityRanged("image", 0, 255, -0.5, 0.5)],
            "got a first batch of -0.5 to .*below",
        ),
        (
            [ScaleIntensityRanged("image", 0, 255, 0.0, 1 / 255)],
            "got a first batch of 0.*scale uint",
        ),
    ],
)
def test_a_transform_of_another_range_is_refused(
    transform: list[Any], message: str, patch_set: PatchSet
) -> None:
    with pytest.raises(ValueError, match=message):
        fit([{"image": d["image"], "label": d["label"]} for d in patch_set], Compose(transform))


@pytest.mark.parametrize(
    "augmentation",
    [
        [RandGaussianNoised("image", prob=1.0, std=0.3)],
        [ScaleIntensityRanged("image", 0, 1, 0.0, 2.5)],
        [RandSpatialCropSamplesd("image", (16, 16), num_samples=2, random_size=False)],
    ],
)
def test_strong_augmentation_is_no_other_range(
    augmentation: list[Any], patch_set: PatchSet
) -> None:
    scaled = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    items = [{"image": d["image"], "label": np.int32(d["label"])} for d in patch_set]
    fit(items, Compose([scaled, *augmentation]))


@pytest.mark.parametrize("label", [-100, -1, 3, 1.0, "blue", None, [1]])
def test_a_label_that_is_no_class_is_refused(label: Any, patch_set: PatchSet) -> None:
    items = [{"image": d["image"] / 255, "label": label} for d in patch_set]
    with pytest.raises(ValueError, match="a label must be a whole number from 0 to 2, got"):
        fit(items, Compose([]))
    for item in items:
        del item["label"]
    with pytest.raises(ValueError, match="got None of item"):
        fit(items, Compose([]))


def test_a_training_needs_patches_and_numbers_in_range() -> None:
    with pytest.raises(ValueError, match="a classifier needs labelled patches, got none"):
        fit([], Compose([]))
    wrong = {"steps": 0, "batch_size": 1.5, "learning_rate": math.nan, "weight_decay": -1}
    for name, value in {**wrong, "mixing": math.inf, "label_smoothing": 2}.items():
        with pytest.raises(ValueError, match=rf"{name} must be .*, got {value}"):
            ClassifierTraining(**{name: value})
    assert ClassifierTraining(label_smoothing=1, steps=np.int64(3)).steps == 3
