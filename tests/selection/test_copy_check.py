from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DrawPatches

from monai_histodiff import PatchSet, RandHEJitter
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import thumbnails, to_bytes
from monai_histodiff.selection.copies import FLOOR
from monai_histodiff.selection.copy_check import APART, CopyCheck, structure


def written(folder: Path, images: torch.Tensor, name: str = "p") -> PatchSet:
    """A patch set of images ``N x 3 x H x W``, each a group of its own."""
    arrays = to_bytes(images).permute(0, 2, 3, 1).numpy()
    items = [
        (PatchRecord(f"{i}.png", "a", "", f"{name}{i}"), array) for i, array in enumerate(arrays)
    ]
    return PatchSet.open(write_patches(folder, items))


def tissue(count: int, side: int = 48, seed: int = 0) -> torch.Tensor:
    """Stained blobs, of another place in each patch."""
    rng = np.random.default_rng(seed)
    amount = rng.uniform(0.2, 1.2, (count, 1, side // 4, side // 4)).repeat(4, 2).repeat(4, 3)
    stain = np.array([0.65, 0.70, 0.29])[None, :, None, None]
    return torch.from_numpy(np.exp(-amount * stain) * 0.95).float()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> PatchSet:
    return written(tmp_path_factory.mktemp("real") / "set", tissue(24))


def test_structure_has_mean_0_and_deviation_1_whatever_light_and_contrast() -> None:
    small = tissue(3, 32)
    found = structure(small)
    assert found.shape == (3, 1, 16, 16)
    assert torch.allclose(found.mean((1, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(found.square().mean((1, 2, 3)), torch.ones(3), atol=1e-4)
    assert torch.allclose(structure(0.5 * small + 0.2), found, atol=1e-4)


def test_copies_are_found_in_other_colours_turned_and_cropped(
    real: PatchSet, tmp_path: Path
) -> None:
    check, images = CopyCheck(real, 32), real.images().float() / 255
    jitter = RandHEJitter(prob=1.0, gain=0.4, offset=0.1).set_random_state(0)
    stained = torch.stack([torch.as_tensor(jitter(image)).clamp(0, 1) for image in images])
    views = {
        "same": images,
        "turned": images.rot90(1, (2, 3)).flip(3),
        "stained": stained,
        "stained, turned": stained.rot90(2, (2, 3)),
        "middle": images[..., 8:40, 8:40],
        "corner": images[..., 16:, 16:],
    }
    for name, pictures in views.items():
        found = check(written(tmp_path / name, pictures))
        assert bool(found.copy.all()), name
        assert found.nearest.tolist() == list(range(24)), name
        assert float(found.likeness.min()) > 0.9, name
    same = check(written(tmp_path / "again", images))
    assert float(same.distance.max()) == 0 and torch.allclose(same.likeness, torch.ones(24))
    changed = check(written(tmp_path / "far", stained)).distance > check.threshold
    assert bool(changed.any()), "thumbnails alone do not find all of them"


def test_new_pictures_are_no_copies(tmp_path: Path) -> None:
    found = CopyCheck(written(tmp_path / "real", tissue(120)), 32)(
        written(tmp_path / "new", tissue(40, seed=9), "new")
    )
    assert int(found.copy.sum()) <= 4 and float(found.likeness.max()) < APART + 0.1


def test_one_group_leaves_the_fixed_thresholds(tmp_path: Path) -> None:
    real = written(tmp_path / "set", tissue(3))
    single = PatchSet(real._sources, [r for r in real.records[:1]], real.classes)
    check = CopyCheck(single, 32)
    assert check.threshold == pytest.approx(4 / 255) and check.likeness == pytest.approx(0.95)
    with pytest.raises(ValueError, match="copies need at least one real patch, got none"):
        CopyCheck(real[:0], 32)


def test_the_threshold_is_what_real_patches_of_other_groups_keep(
    real: PatchSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A percentile of the distances of thumbnails, over all flips and turns; never less than four
    levels.
    """
    images = thumbnails(real.images())
    turned = [v for x in (images, images.flip(3)) for v in (x.rot90(k, (2, 3)) for k in range(4))]
    pairs = torch.stack([torch.cdist(images.flatten(1), v.flatten(1)) for v in turned]).amin(0)
    nearest = (pairs / images[0].numel() ** 0.5).fill_diagonal_(9).amin(1)
    monkeypatch.setattr("monai_histodiff.selection.copy_check.PERCENTILE", 50)
    found = CopyCheck(real, 48).threshold
    assert found == pytest.approx(float(nearest.quantile(0.5)), rel=1e-3) and found > 5 * FLOOR


def test_plain_pictures_have_no_structure(draw_patches: DrawPatches) -> None:
    plain = structure(torch.full((1, 3, 32, 32), 0.9))
    assert bool(plain.isfinite().all()) and float(plain.abs().max()) < 1e-3


def test_a_size_out_of_range_is_refused(real: PatchSet) -> None:
    with pytest.raises(ValueError, match="size must be a whole number from 1 on, got 0"):
        CopyCheck(real, size=0)


def test_no_picture_is_refused(real: PatchSet) -> None:
    with pytest.raises(ValueError, match="among at least one picture, got none"):
        CopyCheck(real, 32)(real[:0])
