"""Tiles that overlap are found across splits and groups; nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from making import encoded
from slides_painted import tissue

from monai_histodiff import PatchSet
from monai_histodiff.data import find_leaks, overlaps
from monai_histodiff.data.check import check
from monai_histodiff.data.looking import looked
from monai_histodiff.data.overlaps import joined, marks, overlapping
from monai_histodiff.data.patch_files import PatchRecord, write_patches

SIDE = 128


@pytest.fixture(scope="module")
def fields() -> np.ndarray:
    """Eight large fields of painted tissue, ``8 x 256 x 256 x 3``."""
    return tissue(8, 2 * SIDE).permute(0, 2, 3, 1).numpy()


def cut(field: np.ndarray, down: int = 0, right: int = 0) -> np.ndarray:
    return np.ascontiguousarray(field[down : down + SIDE, right : right + SIDE])


def shared(first: list[np.ndarray], second: list[np.ndarray]) -> set[tuple[int, int]]:
    sides = (
        joined([marks(torch.from_numpy(p).permute(2, 0, 1), i) for i, p in enumerate(side)])
        for side in (first, second)
    )
    return set(overlapping(*sides))


@pytest.mark.parametrize("down,right", [(0, 0), (2, 2), (5, 0), (31, 17), (48, 0)])
def test_a_shifted_crop_is_found_and_no_other(fields: np.ndarray, down: int, right: int) -> None:
    first, second = [cut(f) for f in fields], [cut(f, down, right) for f in fields]
    assert shared(first, second) == {(i, i) for i in range(len(fields))}


def test_brightness_and_contrast_do_not_hide_it(fields: np.ndarray) -> None:
    darker = [(cut(f, 10, 10) * 0.8 + 10).astype(np.uint8) for f in fields]
    assert shared([cut(f) for f in fields], darker) == {(i, i) for i in range(len(fields))}


def test_parts_of_a_large_set_are_compared_one_after_another(
    fields: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = [cut(f) for f in fields] + [cut(f, 31, 17) for f in fields]
    every = joined([marks(torch.from_numpy(p).permute(2, 0, 1), i) for i, p in enumerate(crops)])
    first, second = (every.of(torch.arange(16) % 16 // 8 == side) for side in (0, 1))
    whole = overlapping(first, second), overlapping(every, every)
    monkeypatch.setattr(overlaps, "ROWS", 16)
    monkeypatch.setattr(overlaps, "COLUMNS", 24)
    assert (overlapping(first, second), overlapping(every, every)) == whole
    assert set(whole[0]) == set(whole[1]) == {(i, i + 8) for i in range(8)}


def test_every_pair_of_like_marks_is_met_once(fields: np.ndarray) -> None:
    crops = [cut(f, k * 7, k * 3) for f in fields for k in range(4)]
    every = joined([marks(torch.from_numpy(p).permute(2, 0, 1), i) for i, p in enumerate(crops)])
    like = every.look @ every.look.T >= overlaps.ALIKE
    both = like & (every.picture[:, None] < every.picture)
    met = torch.cat([torch.stack(part, 1) for part in overlaps._alike(every, every)])
    assert sorted(met.tolist()) == both.nonzero().tolist() and len(met) > 100
    first, second = (every.of(torch.arange(32) % 4 // 2 == side) for side in (0, 1))
    met = torch.cat([torch.stack(part, 1) for part in overlaps._alike(first, second)])
    alike = (first.look @ second.look.T >= overlaps.ALIKE).nonzero()
    assert sorted(met.tolist()) == alike.tolist() and len(met) > 100


def test_several_threads_tell_the_same_in_order(fields: np.ndarray, tmp_path: Path) -> None:
    patches = written(tmp_path / "set", {"train": [cut(f) for f in fields]})
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        seen = looked(patches, lambda image, i: (i, image, torch.get_num_threads()), "look")
        assert torch.get_num_threads() == 3
        (tmp_path / "set" / "train3.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match="train3.png"):
            looked(patches, lambda image, i: i, "look")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert [i for i, _, _ in seen] == list(range(8)) and {n for _, _, n in seen} == {1}
    assert all(
        np.array_equal(p.permute(1, 2, 0), cut(f))
        for (_, p, _), f in zip(seen, fields, strict=True)
    )


def test_apart_is_apart(fields: np.ndarray) -> None:
    assert shared([cut(f) for f in fields], [cut(f, SIDE, SIDE) for f in fields]) == set()


def test_the_black_around_turned_pictures_is_nothing_in_common(fields: np.ndarray) -> None:
    framed = [cut(f) for f in fields]
    for picture in framed:
        picture[:40] = picture[:, :40] = 0
    assert shared(framed[:4], framed[4:]) == set()


def test_flat_and_small_pictures_have_no_marks() -> None:
    flat = torch.full((3, 64, 64), 200, dtype=torch.uint8)
    small = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert len(marks(flat).look) == len(marks(small).look) == 0
    assert overlapping(joined([]), marks(flat)) == {}


def written(folder: Path, parts: dict[str, list[np.ndarray | bytes]]) -> PatchSet:
    items = [
        (PatchRecord(f"{split}{i}.png", "A", split, f"{split}{i}"), picture)
        for split, pictures in parts.items()
        for i, picture in enumerate(pictures)
    ]
    return PatchSet.open(write_patches(folder, items))


def test_overlapping_tiles_across_the_split_are_a_leak(fields: np.ndarray, tmp_path: Path) -> None:
    train = [cut(f) for f in fields[:5]]
    test = [cut(fields[5]), encoded(cut(fields[3], 9, 20), "PNG"), train[2]]
    patches = written(tmp_path / "set", {"train": train, "test": test})
    found = find_leaks(patches.select("train"), patches.select("test"))
    assert (found.exact, found.near, found.overlap) == (1, 0, 1)
    assert found.pairs == (("test2.png", "train2.png"), ("test1.png", "train3.png"))
    assert "and 1 show some of the same tissue, shifted" in found.warnings[0][1]


def test_the_look_before_work_tells_of_them(fields: np.ndarray, tmp_path: Path) -> None:
    train = [cut(f) for f in fields[:4]]
    patches = written(tmp_path / "set", {"train": train, "test": [cut(fields[1], 12, 3)]})
    found = check(patches)
    assert [(t.first, t.second, t.across) for t in found.overlaps] == [
        ("train1.png", "test0.png", "splits")
    ]
    assert found.twins == () and any(
        problem.startswith("1 pair of different splits show some of the same tissue, shifted")
        for problem in found.problems
    )
