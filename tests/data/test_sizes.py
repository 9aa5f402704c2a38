"""The size of a task: what all patches have at the model's scale, or what is asked for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import WritePatchSet

from monai_histodiff.data.patch_files import PatchRecord, PatchSource, write_patches
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.sizes import (
    PretrainingPool,
    crop_size,
    open_part,
    open_pool,
    size_note,
)

Shape = tuple[int, int, str]  # height, width, um_per_px


@pytest.fixture
def of_shapes(tmp_path: Path) -> Callable[[Sequence[Shape]], PatchSet]:
    """Patches of these shapes, at 1 um per pixel."""

    def make(shapes: Sequence[Shape]) -> PatchSet:
        items = (
            (
                PatchRecord(f"{i}.png", "A", "", f"g{i}", {"um_per_px": scale}),
                np.zeros((height, width, 3), np.uint8),
            )
            for i, (height, width, scale) in enumerate(shapes)
        )
        return PatchSet.open(write_patches(tmp_path / str(len(shapes)), items)).at(1.0)

    return make


@pytest.mark.parametrize(
    ("shapes", "size", "note"),
    [
        ([(224, 224, "0.5")], 112, "Patches have 112 x 112 pixels at 1 um per pixel."),
        (
            [(120, 125, "")],
            120,
            "Patches have 120 to 125 pixels at 1 um per pixel: every stage "
            "crops them to 120 x 120, which all have.",
        ),
        ([(97, 97, "1")], 97, "Patches have 97 x 97 pixels at 1 um per pixel."),
        (
            [(768, 768, "1")],
            128,
            "Patches have 768 x 768 pixels at 1 um per pixel: every stage crops them to 128 x "
            "128. --patch_size 512 takes them larger, and more time.",
        ),
        (
            [(256, 256, "0.5"), (200, 150, "1"), (100, 101, "1")],
            100,
            "Patches have 100 to 200 pixels at 1 um per pixel: every stage crops them to 100 x "
            "100, which all have.",
        ),
    ],
)
def test_the_default_is_what_all_patches_have(
    shapes: list[Shape], size: int, note: str, of_shapes: Callable[[list[Shape]], PatchSet]
) -> None:
    patches = of_shapes(shapes)
    assert crop_size(patches) == size == crop_size(patches, size)
    assert size_note(patches, size) == note
    assert patches.images(size).shape == (len(shapes), 3, size, size)


def test_what_is_asked_for_is_taken(of_shapes: Callable[[list[Shape]], PatchSet]) -> None:
    patches = of_shapes([(300, 200, "1"), (300, 300, "1")])
    assert crop_size(patches, 128) == 128
    assert size_note(patches, 128).endswith(
        "200 to 300 pixels at 1 um per pixel: every stage crops them to 128 x 128. --patch_size "
        "200 takes them larger, and more time."
    )
    filed = patches.at(None)
    assert size_note(filed, 128).startswith("Patches have 200 to 300 pixels: every")


def test_patches_that_are_too_small_are_refused_with_the_remedy(
    of_shapes: Callable[[list[Shape]], PatchSet],
) -> None:
    patches = of_shapes([(190, 224, "0.5"), (224, 224, "1")])
    message = (
        "patches must be at least 96 x 96 at 1 um per pixel, got 1 of 2 that are smaller, the "
        r"smallest of 95, such as '0.png' \(95 x 112 of a file of 190 x 224\): "
        r"leave them out, cut larger ones \(at 0.5 um per pixel 192 pixels or more\), or give "
        "their um_per_px"
    )
    with pytest.raises(ValueError, match=message):
        crop_size(patches)
    with pytest.raises(ValueError, match="at least 256 x 256 .*: leave them out, cut larger"):
        crop_size(patches, 256)
    with pytest.raises(ValueError, match="got 1 of 1 .* of 224, such as .*: give patch_size 224,"):
        crop_size(patches[1:], 256)
    with pytest.raises(ValueError, match="must hold at least one patch, got none"):
        crop_size(patches[:0])


def test_a_pool_of_the_models_magnification_is_taken_as_its_files_are(
    of_shapes: Callable[[Sequence[Shape]], PatchSet], tmp_path: Path
) -> None:
    of_shapes([(128, 128, "0.72"), (140, 130, "1.7"), (150, 150, "")])
    pool = open_pool(tmp_path, ["3"], size=128)
    assert pool.um_per_px is None and pool.sizes() == [(128, 128), (140, 130), (150, 150)]
    with pytest.raises(ValueError, match="at least 129 x 129, got 1 of 3 that are smaller"):
        open_pool(tmp_path, ["3"], size=129)


@pytest.mark.parametrize("scale", ["0.5", "0.55", "1.81", "2"])
def test_a_pool_of_another_magnification_is_refused_or_resampled(
    scale: str, of_shapes: Callable[[Sequence[Shape]], PatchSet], tmp_path: Path
) -> None:
    of_shapes([(224, 224, scale), (128, 128, "1.0")])
    told = (
        rf"about 1 um per pixel \(0.56 to 1.8\), got 1 of 2 that are not, such as '0.png' at "
        rf"{scale}: give --read_at 1, and all are resampled to it"
    )
    with pytest.raises(ValueError, match=told):
        open_pool(tmp_path, ["2"])
    side = round(224 * float(scale))
    assert open_pool(tmp_path, ["2"], 1.0).sizes() == [(side, side), (128, 128)]


def test_a_pool_to_train_on_holds_groups_out_and_leaves_test_patches_alone(
    write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    for split, seed in (("train", 0), ("test", 1)):
        write_patch_set(tmp_path / split, split=split, seed=seed)
    pool = PretrainingPool.open(tmp_path, ["train", "test"], held_out=0.4)
    whole = open_pool(tmp_path, ["train", "test"]).select("train")
    for found, expected in zip(
        (pool.train, pool.held_out), whole.hold_out(0.4, seed=0), strict=True
    ):
        assert [r.path for r in found.records] == [r.path for r in expected.records]
    everything = PretrainingPool.open(tmp_path, ["train", "test"], held_out=0)
    assert everything.train.records == whole.records and not everything.held_out


def test_a_part_of_a_labelled_set_is_the_recorded_one_or_drawn(
    write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    write_patch_set(tmp_path / "none", per_class=8)
    drawn = [open_part(tmp_path, "none", split) for split in ("train", "test")]
    assert sorted(r.path for part in drawn for r in part.records) == sorted(
        r.path for r in open_pool(tmp_path, ["none"]).records
    )
    assert not {*drawn[0].groups} & {*drawn[1].groups} and len(drawn[1]) > 0
    with pytest.raises(ValueError, match="must be at least 33 x 33"):
        open_part(tmp_path, "none", "test", size=33)


def test_a_header_is_read_once_and_travels_to_no_other_process(
    of_shapes: Callable[[Sequence[Shape]], PatchSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = of_shapes([(100, 100, "1"), (224, 140, "0.5")])
    fresh = pickle.dumps(patches)
    read: list[str] = []
    own = PatchSource.read
    monkeypatch.setattr(PatchSource, "read", lambda s, n: (read.append(n), own(s, n))[1])
    assert patches.sizes() == patches.sizes() == [(100, 100), (112, 70)]
    assert read == ["0.png", "1.png"]
    assert pickle.dumps(patches) == fresh
