"""What a classifier could read in place of tissue is told, and what is no H&E."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_histodiff import PatchSet
from monai_histodiff.data.check import check
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import thumbnails
from monai_histodiff.data.shortcuts import foreign_colours, shortcuts

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
SETS = (
    *("multiorgan_128", "lung_lc25000_128", "breast_her2st_128", "slide_cmu1_128"),
    *("colorectal_ebhi_192", "crc9_nct_224", "crc5_adenoma_224"),
)


def of(label: str, ending: str, um: str = "") -> list[PatchRecord]:
    extra = {"um_per_px": um} if um else {}
    return [PatchRecord(f"{label}/{i}{ending}", label, "", f"{label}{i}", extra) for i in range(2)]


@pytest.mark.parametrize(
    ("records", "sizes", "told"),
    [
        ([*of("A", ".png"), *of("B", ".JPG")], [(9, 9)] * 4, ["the file format"]),
        ([*of("A", ".jpg"), *of("B", ".jpeg")], [(9, 9)] * 4, []),
        ([*of("A", ".png"), *of("B", ".png")], [(9, 9)] * 2 + [(9, 8)] * 2, ["the size"]),
        ([*of("A", ".png"), *of("B", ".png")], [(9, 9), (9, 8), (7, 7), (7, 8)], []),
        ([*of("A", ".png", "0.5"), *of("B", ".png", "1")], [(9, 9)] * 4, ["the resampling"]),
        ([*of("A", ".png", "0.5"), *of("B", ".png")], [(9, 9)] * 4, ["the resampling"]),
        ([*of("A", ".png"), of("B", ".jpg")[0]], [(9, 9)] * 3, []),
        ([*of("A", ".png"), *of("", ".jpg")], [(9, 9)] * 4, []),
        ([*of("A", ".png"), *of("A", ".jpg"), *of("B", ".png")], [(9, 9)] * 6, []),
    ],
)
def test_classes_that_their_files_tell_apart(
    records: list[PatchRecord], sizes: list[tuple[int, int]], told: list[str]
) -> None:
    found = shortcuts(records, sizes)
    assert len(found) == len(told)
    for line, what in zip(found, told, strict=True):
        assert line.endswith(f"a classifier can read the class from {what}; make them alike")


def test_the_classes_are_named_with_what_they_have() -> None:
    (line,) = shortcuts([*of("B", ".tif"), *of("A", ".png")], [(9, 9)] * 4)
    assert line.startswith("class 'A' has only files of format PNG, and 'B' only TIFF: a classif")


def test_both_are_among_the_problems_of_a_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = [
        (r, rng.integers(0, 256, (96 + 8 * k, 96, 3), np.uint8))
        for k, label in enumerate("AB")
        for r in of(label, ".png", "1.0")
    ]
    problems = check(PatchSet.open(write_patches(tmp_path / "set", items))).problems
    assert any("the class from the size" in p for p in problems)
    assert any(p.startswith("4 of 4 patches are as green as they are red") for p in problems)
    for path in (tmp_path / "set").rglob("*.png"):
        Image.new("RGB", (96, 96), (240, 240, 240)).save(path)
    problems = check(PatchSet.open(tmp_path / "set")).problems
    assert not any("as green as" in p for p in problems), "glass is no other stain"


def test_half_of_the_patches_may_be_of_other_colours() -> None:
    pink, green = (torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, 4, 4) for c in (PINK, GREEN))
    assert foreign_colours(torch.cat([pink, green])) == []
    assert len(foreign_colours(torch.cat([pink, green, green]))) == 1
    assert foreign_colours(pink[:0]) == []


PINK, GREEN = (0.8, 0.6, 0.7), (0.6, 0.8, 0.7)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("name", SETS)
def test_haematoxylin_and_eosin_is_known_from_what_it_is_not(name: str) -> None:
    patches = PatchSet.open(REAL / f"{name}.zip")
    rows = np.random.default_rng(1).permutation(len(patches))[:40]
    small = torch.cat([thumbnails(patches[int(i)]["image"][None]) for i in rows])
    assert foreign_colours(small) == []
    others = (1 - small, small[:, [1, 2, 0]], small.mean(1, keepdim=True).expand_as(small))
    assert all(len(foreign_colours(other)) == 1 for other in others)
