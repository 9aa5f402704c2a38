"""A classifier cannot tell by their sharpness which patches came into a training by which door, so
long as all were resampled by the one path; a careless resampling it tells at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from slides_painted import tissue
from torch import Tensor
from torch.nn.functional import interpolate

from monai_histodiff import PatchSet, SyntheticAugment
from monai_histodiff.classifiers.encoder import linear_probe
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import appearance
from monai_histodiff.evaluation.real_banks import true_labels

COUNT, SIDE = 160, 64  # patches of each door, and their pixels at 0.5 um


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
    """Accuracy, on a half that it was not fitted on, of a classifier of the detail in each octave
    of spatial frequency.
    """
    parts = [appearance(part)[:, 6:].log() for part in (first, second)]
    labels = torch.arange(2).repeat_interleave(COUNT // 2)
    probe = linear_probe(torch.cat([part[: COUNT // 2] for part in parts]), labels)
    found = probe(torch.cat([part[COUNT // 2 :] for part in parts]).float()).argmax(1)
    return float((found == labels).float().mean())


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Patches at 1 um per pixel of textures at 0.5, by several doors."""
    root = tmp_path_factory.mktemp("doors")
    mine, others = tissue(COUNT, SIDE, 1), tissue(COUNT, SIDE, 2)
    recorded = PatchSet.open(stored(root / "recorded", mine, "0.5")).at(1.0).images()
    told = PatchSet.open(stored(root / "told", others, ""), um_per_px=0.5).at(1.0)
    shown = []
    for half in (told[: COUNT // 2], told[COUNT // 2 :]):  # none of them on both sides
        bank = true_labels(half, ["A"])  # as the arms that show further real patches have them
        mix = SyntheticAugment(bank, prob=1.0, full_prob_at=1).set_random_state(0)
        shown += [mix(image, 0)[0] for image in recorded[: len(half)]]
    return {
        "read": recorded,
        "from a bank": torch.stack(shown),
        "every second pixel": others[..., ::2, ::2].contiguous(),
        "enlarged": interpolate(others[..., ::4, ::4].float(), scale_factor=2.0, mode="bilinear")
        .round()
        .to(torch.uint8),
    }


def test_the_one_path_leaves_no_trace(doors: dict[str, Tensor]) -> None:
    assert doors["read"].shape == doors["from a bank"].shape == (COUNT, 3, SIDE // 2, SIDE // 2)
    assert told_apart(doors["read"], doors["from a bank"]) < 0.62  # of chance, 0.5


@pytest.mark.parametrize("door", ["every second pixel", "enlarged"])
def test_a_careless_path_is_told_at_once(door: str, doors: dict[str, Tensor]) -> None:
    assert told_apart(doors["read"], doors[door]) > 0.9
