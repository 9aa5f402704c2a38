"""A classifier cannot tell by their sharpness which patches came into a training by which door, so
long as all were resampled by the one path; a careless resampling it tells at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.transforms import Compose, RandAxisFlipd, ScaleIntensityRanged
from slides_painted import tissue
from torch import Tensor, nn

from monai_histodiff import ClassifierTraining, PatchClassifier, PatchSet, SyntheticAugment
from monai_histodiff.classifiers.classifier import predict
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.evaluation.arms import true_labels

COUNT, SIDE = 120, 64  # patches of each door, and their pixels at 0.5 um


def stored(folder: Path, pictures: Tensor, um: str) -> Path:
    extra = {"um_per_px": um} if um else {}
    return write_patches(
        folder,
        (
            (PatchRecord(f"{i}.png", "A", "", f"{i}", extra), v.permute(1, 2, 0).numpy())
            for i, v in enumerate(pictures)
        ),
    )


def told_apart(first: Tensor, second: Tensor) -> float:
    """Accuracy of a small classifier on a half that it was not trained on."""

    def small(num_classes: int) -> nn.Module:
        return PatchClassifier(num_classes, width=8)

    half = COUNT // 2
    data = [
        {"image": image, "label": k}
        for k, part in enumerate((first, second))
        for image in part[:half]
    ]
    transform = Compose(
        [RandAxisFlipd("image", 0.5), ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)]
    )
    training = ClassifierTraining(network=small, steps=60, batch_size=24, learning_rate=4e-3)
    network = training(data, transform, 2, 0)
    right = [
        predict(network, part[half:]).argmax(1) == k for k, part in enumerate((first, second))
    ]
    return float(torch.cat(right).float().mean())


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Patches at 1 um per pixel of textures at 0.5, by several doors."""
    root = tmp_path_factory.mktemp("doors")
    mine, others = tissue(COUNT, SIDE, 1), tissue(COUNT, SIDE, 2)
    recorded = PatchSet.open(stored(root / "recorded", mine, "0.5")).at(1.0)
    told = PatchSet.open(stored(root / "told", others, ""), um_per_px=0.5).at(1.0)
    bank = true_labels(told, ["A"])  # as the arms that show further real patches have them
    shown = SyntheticAugment(bank, prob=1.0, full_prob_at=1).set_random_state(0)
    return {
        "read": recorded.images(),
        "from a bank": torch.stack([shown(image, 0)[0] for image in recorded.images()]),
        "every second pixel": others[..., ::2, ::2].contiguous(),
        "enlarged": torch.nn.functional.interpolate(
            others[..., ::4, ::4].float(), scale_factor=2.0, mode="bilinear"
        ).to(torch.uint8),
    }


def test_the_one_path_leaves_no_trace(doors: dict[str, Tensor]) -> None:
    assert doors["read"].shape == doors["from a bank"].shape == (COUNT, 3, SIDE // 2, SIDE // 2)
    assert told_apart(doors["read"], doors["from a bank"]) < 0.65


@pytest.mark.parametrize("door", ["every second pixel", "enlarged"])
def test_a_careless_path_is_told_at_once(door: str, doors: dict[str, Tensor]) -> None:
    assert told_apart(doors["read"], doors[door]) > 0.9
