"""Can a small network tell samples from real patches?"""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import (
    Compose,
    RandAxisFlipd,
    RandRotate90d,
    ScaleIntensityRanged,
    ToTensord,
)
from torch import Tensor

from monai_histodiff.classifiers.classifier import ClassifierTraining, predict
from monai_histodiff.data.pixels import recompressed

__all__ = ["two_sample_test"]

FEWEST = 10  # samples


def two_sample_test(
    samples: Tensor,
    real: Tensor,
    held_out: Tensor,
    training: ClassifierTraining | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545): a small network
    learns to tell samples from real patches, and is tested on others of both.

    All patches pass through JPEG, so that its traces tell nothing. Real and synthetic patches
    count alike, whatever their numbers.

    Args:
        samples: uint8 patches ``N x 3 x H x W``, in any order: four fifths, drawn at random, to
            learn from, the rest to test on.
        real: real patches to learn from, likewise uint8 of that size.
        held_out: real patches of other groups, to test on; likewise.
        training: the recipe; by default 300 steps.
        seed: of the training, and of the draw.

    Returns:
        ``accuracy`` on samples and held-out patches, alike weighted: 0.5 means that they cannot be
        told apart; ``samples`` and ``held_out``: the share of each that is recognised;
        ``numbers`` of patches.

    Raises:
        ValueError: there are fewer than 10 samples, or no real patches on a side, or they differ
            in size, which alone would tell them apart.
    """
    if len(samples) < FEWEST or not len(real) or not len(held_out):
        counts = (len(samples), len(real), len(held_out))
        raise ValueError(
            f"a test needs {FEWEST} samples and real patches on both sides, got {counts}"
        )
    shapes = [tuple(x.shape[1:]) for x in (samples, real, held_out)]
    if len({*shapes}) > 1:
        raise ValueError(
            f"samples, real and held_out must be patches of one size, got {shapes}: crop them"
        )
    order = torch.Generator().manual_seed(seed)
    samples = samples[torch.randperm(len(samples), generator=order)]
    recipe = training or ClassifierTraining(steps=300)
    made, known, unseen = (recompressed(x) for x in (samples, real, held_out))
    cut = len(made) * 4 // 5
    count = max(cut, len(known))
    sides = ((made[:cut], 1), (known, 0))
    items = [{"image": x[i % len(x)], "label": label} for x, label in sides for i in range(count)]
    transform = Compose(
        [
            RandAxisFlipd("image", prob=0.5),
            RandRotate90d("image", prob=0.75),
            ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
            ToTensord("image", track_meta=False),
        ]
    )
    network = recipe(items, transform, 2, seed, "two-sample test")
    found = float((predict(network, made[cut:]).argmax(1) == 1).double().mean())
    kept = float((predict(network, unseen).argmax(1) == 0).double().mean())
    return {
        "accuracy": (found + kept) / 2,
        "samples": found,
        "held_out": kept,
        "numbers": {"samples": len(made), "real": len(known), "held_out": len(unseen)},
    }
