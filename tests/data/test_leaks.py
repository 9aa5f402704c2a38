"""Copies across the split are found, whatever their groups, names or formats; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from making import encoded

from monai_histodiff import PatchSet
from monai_histodiff.data import find_leaks
from monai_histodiff.data.patch_files import PatchRecord, write_patches

Pictures = list[np.ndarray | bytes]


@pytest.fixture
def across(tmp_path: Path) -> Callable[[Pictures, Pictures], tuple[PatchSet, PatchSet]]:
    """Both parts of a set, every patch in a group of its own."""

    def write(train: Pictures, test: Pictures) -> tuple[PatchSet, PatchSet]:
        items = [
            (PatchRecord(f"{split}{i}.png", "A", split, f"{split}{i}"), picture)
            for split, pictures in (("train", train), ("test", test))
            for i, picture in enumerate(pictures)
        ]
        patches = PatchSet.open(write_patches(tmp_path / "set", items))
        return patches.select("train"), patches.select("test")

    return write


def tissue(seed: int, side: int = 64) -> np.ndarray:
    """A smooth picture with structure, and some noise."""
    rng = np.random.default_rng(seed)
    blobs = rng.normal(0, 40, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    values = np.array([190, 120, 170]) + blobs + rng.normal(0, 5, (side, side, 3))
    return values.clip(0, 255).astype(np.uint8)


def test_byte_copies_under_other_groups_are_counted(across: Callable) -> None:
    train = [tissue(i) for i in range(6)]
    found = find_leaks(*across(train, [train[4], tissue(9), train[2]]))
    assert (found.patches, found.exact, found.blank, found.near) == (3, 2, 0, 0)
    assert found.pairs == (("test0.png", "train4.png"), ("test2.png", "train2.png"))
    ((word, sentence),) = found.warnings
    assert word == "Leak across the split." and sentence.startswith(
        "Of 3 test patches 2 are exact copies of training patches, such as 'test0.png' of "
        "'train4.png'."
    )


def test_the_same_pixels_in_another_format_are_an_exact_copy(across: Callable) -> None:
    found = find_leaks(
        *across([tissue(0)], [encoded(tissue(0), "TIFF"), encoded(tissue(0), "BMP")])
    )
    assert found.exact == 2


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_re_encoded_and_turned_copies_are_near(turns: int, flip: bool, across: Callable) -> None:
    train = [tissue(i) for i in range(5)]
    turned = np.ascontiguousarray(np.rot90(train[3][:, ::-1] if flip else train[3], turns))
    found = find_leaks(*across(train, [tissue(8), encoded(turned, "JPEG", quality=75)]))
    assert (found.exact, found.near) == (0, 1) and found.pairs == (("test1.png", "train3.png"),)
    assert (
        "1 are nearly copies (re-encoded, flipped or turned), such as 'test1.png'"
        in found.warnings[0][1]
    )


def test_patches_that_are_new_are_no_leak(across: Callable) -> None:
    found = find_leaks(*across([tissue(i) for i in range(30)], [tissue(i) for i in range(30, 60)]))
    assert found.exact == found.near == 0 and found.warnings == [] and found.pairs == ()


def test_blank_patches_are_alike_by_nature(across: Callable) -> None:
    glass = np.full((64, 64, 3), 240, np.uint8)
    noise = glass - np.random.default_rng(0).integers(0, 3, glass.shape).astype(np.uint8)
    found = find_leaks(*across([glass, tissue(0)], [glass, noise, tissue(1)]))
    assert (found.exact, found.blank, found.near) == (1, 1, 0)
    assert "Of 3 test patches 1 (1 of them blank) are exact copies" in found.warnings[0][1]


def test_an_empty_side_is_an_error_and_no_clean_split(across: Callable) -> None:
    train, test = across([tissue(0)], [tissue(0)])
    for side, parts in (("train", (train[:0], test)), ("test", (train, test[:0]))):
        with pytest.raises(ValueError, match=f"{side} must hold at least one patch, got none"):
            find_leaks(*parts)
