"""The look before work finds what was put there, and nothing in a set that is sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from slides_painted import tissue

from monai_histodiff import PatchSet
from monai_histodiff.data.check import Findings, check
from monai_histodiff.data.patch_files import PatchRecord, write_patches

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
Row = tuple[str, str, str, str, np.ndarray]  # path, label, split, group, picture


def rows(side: int = 128, groups: int = 4) -> list[Row]:
    """Two classes of eight patches, by default in four groups each, one of them for testing."""
    pictures = tissue(16, side).permute(0, 2, 3, 1).numpy()
    rng = np.random.default_rng(0)
    sharp = (pictures + rng.normal(0, 4, pictures.shape)).clip(0, 255).astype(np.uint8)
    found = []
    for i, picture in enumerate(sharp):
        label, k = "ab"[i % 2], i // 2
        split = "test" if k % groups == 0 else "train"
        found.append((f"{label}/{k}.png", label, split, f"{label}{k % groups}", picture))
    return found


def written(folder: Path, content: Sequence[Row], um: str = "1.0") -> PatchSet:
    extra = {"um_per_px": um} if um else {}
    items = [(PatchRecord(*row[:4], extra), np.ascontiguousarray(row[4])) for row in content]
    return PatchSet.open(write_patches(folder, items))


def test_a_sound_set_has_no_problems(tmp_path: Path) -> None:
    found = check(written(tmp_path / "set", rows()))
    assert isinstance(found, Findings) and found.problems == ()
    assert found.patches == 16 and found.unlabelled == 0 and found.all_groups == 8
    assert found.classes == {"a": {"test": 2, "train": 6}, "b": {"test": 2, "train": 6}}
    assert found.groups == {"a": {"test": 1, "train": 3}, "b": {"test": 1, "train": 3}}
    assert found.sizes == {(128, 128): 16} and found.spacings == {"1.0": 16}
    assert found.twins == found.blank == found.blurred == ()
    assert found.most_labels == 6


def test_what_blank_patches_have_in_common_is_told(tmp_path: Path) -> None:
    content = rows()
    glass = np.full((128, 128, 3), 240, np.uint8)
    content = [(*row[:4], glass) if row[1] == "b" else row for row in content]
    patches = written(tmp_path / "set", content)
    told = f"8 patches are blank, such as '{content[1][0]}'; all of class 'b', which has 8"
    assert told in check(patches).problems
    for path, label, *_, picture in content:
        alpha = np.full((128, 128, 1), 0 if label == "b" else 255, np.uint8)
        Image.fromarray(np.concatenate((picture, alpha), 2)).save(tmp_path / "set" / path)
    assert patches.transparent() == [r.label == "b" for r in patches.records]
    clear = "; they are transparent, which is read over white: save them without an alpha channel;"
    assert told.replace(";", clear) in check(patches).problems
    Image.fromarray(glass).save(tmp_path / "set" / content[1][0])
    assert told.replace(";", clear.replace("they", "7 of them")) in check(patches).problems


def test_sources_that_share_file_names_are_not_mixed_up(tmp_path: Path) -> None:
    """A copy in one hospital hides no overlap between files of the same names in another."""
    pictures = tissue(5, 160).permute(0, 2, 3, 1).numpy()
    a, b, c, d, _ = (np.ascontiguousarray(p) for p in pictures)
    sides = {
        "one": [a[:96, :96], a[:96, :96], c[:96, :96]],
        "two": [b[:96, :96], b[24:120, 16:112], d[:96, :96]],
    }
    for name, parts in sides.items():
        items = [
            (PatchRecord(f"{i}.png", "NT"[i == 2], "", f"{name}{i}"), np.ascontiguousarray(part))
            for i, part in enumerate(parts)
        ]
        write_patches(tmp_path / name, items)
    patches = PatchSet.open([tmp_path / "one", tmp_path / "two"])
    found = check(patches)
    one, two = ([str(tmp_path / n / f"{i}.png") for i in range(2)] for n in ("one", "two"))
    assert [[t.first, t.second] for t in found.twins] == [one]
    assert [[t.first, t.second] for t in found.overlaps] == [two]
    assert any(f"'{one[0]}' and '{one[1]}'" in problem for problem in found.problems)
    assert patches.names()[:2] == one and PatchSet.open(tmp_path / "one").names()[0] == "0.png"


def test_copies_are_told_by_how_far_they_reach(tmp_path: Path) -> None:
    content = rows()
    picture = {path: picture for path, *_, picture in content}
    content += [
        ("a/exact.png", "a", "test", "a0", picture["a/1.png"]),  # of training, in the test part
        ("a/turned.png", "a", "train", "a2", np.rot90(picture["a/1.png"])),  # in another group
        ("b/again.png", "b", "train", "b1", picture["b/1.png"]),  # in the same group
    ]
    found = check(written(tmp_path / "set", content))
    twins = [(t.first, t.second, t.across, t.distance == 0) for t in found.twins]
    assert twins == [
        ("a/1.png", "a/exact.png", "splits", True),
        ("a/1.png", "a/turned.png", "groups", False),
        ("b/1.png", "b/again.png", "one group", True),
    ]
    assert found.twins[1].distance < 1e-4
    assert found.problems[0] == (
        "1 pair of different splits are copies: the test is not of new patches, such as 'a/1.png' "
        "and 'a/exact.png'"
    )
    assert found.problems[1].startswith("1 pair of different groups are copies")


def test_blank_and_blurred_patches_are_told(tmp_path: Path) -> None:
    content = rows()
    rng = np.random.default_rng(1)
    glass = (240 + rng.normal(0, 2, (128, 128, 3))).clip(0, 255).astype(np.uint8)
    for i, radius in ((0, 2), (5, 2.5)):
        path, label, split, group, picture = content[i]
        soft = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius))
        content[i] = (path, label, split, group, np.asarray(soft))
    for i in (8, 9):  # the same glass on both sides of the split: alike by nature, no copy
        content[i] = (*content[i][:4], glass)
    found = check(written(tmp_path / "set", content))
    assert found.blank == (content[8][0], content[9][0]) and not found.twins
    assert found.blurred == (content[0][0], content[5][0])
    assert found.problems == (
        f"2 patches are blank, such as '{content[8][0]}'",
        f"2 patches are blurred, such as '{content[0][0]}'",
    )


def test_softness_that_the_scale_of_the_model_does_not_see_is_none(tmp_path: Path) -> None:
    """Patches saved at twice the pixels that their scanner had are sharp at 1 um."""
    content = rows()
    for i, row in enumerate(content):
        large = Image.fromarray(row[4]).resize((256, 256), Image.Resampling.BICUBIC)
        content[i] = (*row[:4], np.asarray(large))
    assert len(check(written(tmp_path / "coarse", content)).blurred) > len(content) // 2
    fine = written(tmp_path / "fine", content, um="0.5")
    assert check(fine).blurred == check(fine.at(1.0)).blurred == ()


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (40, 90, 170)])
def test_masks_are_told_and_glass_is_none(values: tuple[int, ...], tmp_path: Path) -> None:
    content = rows()
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array(values, np.uint8), (128, 128, 1)).repeat(3, 2)
    glass = rng.integers(240, 243, (128, 128, 1), np.uint8).repeat(3, 2)
    for i, picture in ((2, mask), (3, mask), (4, glass)):
        content[i] = (*content[i][:4], picture)
    found = check(written(tmp_path / "set", content))
    assert found.masks == (content[2][0], content[3][0]) and found.blank == (content[4][0],)
    told = f"2 patches are of at most 8 colours (masks?), such as '{content[2][0]}'"
    assert told in found.problems


def test_of_large_pictures_the_middle_is_looked_at(tmp_path: Path) -> None:
    path, label, split, group, picture = rows()[0]
    soft = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2.5))
    glass = np.full((128, 1200, 3), 240, np.uint8)
    wide = np.concatenate([glass, np.tile(np.asarray(soft), (1, 10, 1)), glass], 1)
    content = [(path, label, split, group, wide), *rows()[1:3]]
    assert check(written(tmp_path / "set", content)).blurred == (path,)


def test_the_rarest_class_is_named(tmp_path: Path) -> None:
    found = check(written(tmp_path / "set", [row for row in rows() if row[0] != "b/1.png"]))
    assert (found.most_labels, found.rarest) == (5, "b")


def test_what_a_set_lacks_is_told(tmp_path: Path) -> None:
    content = [(*row[:3], row[0], row[4]) for row in rows(64)]  # each its own group
    content = [row for row in content if row[1] == "a" or row[2] == "train"]
    content[0] = (*content[0][:4], content[0][4][:48])
    found = check(written(tmp_path / "set", content, um=""))
    assert found.sizes == {(64, 64): 13, (64, 48): 1} and found.spacings == {"": 14}
    assert found.problems == (
        "class 'b' has no patch in test",
        "every patch is its own group: right only if no two are of one patient; otherwise every "
        "accuracy is too high and every interval too narrow",
        "patches differ in size, from 64 x 48 to 64 x 64",
        "patches are as small as 48 px at 1 um per pixel, and the shipped generator needs 96",
        "no um_per_px is recorded: see that the patches are at about 1 um per pixel",
    )


def test_few_groups_and_few_classes_are_told(tmp_path: Path) -> None:
    two = [(path, label, "", group, picture) for path, label, _, group, picture in rows(groups=2)]
    found = check(written(tmp_path / "two", two))
    assert found.problems == (
        "class 'a' has 2 groups: the critic, which needs 3, will be too sure of it",
        "class 'b' has 2 groups: the critic, which needs 3, will be too sure of it",
    )
    assert found.most_labels == 4  # half of each class is held out, group by group
    one = [(*row[:3], "one", row[4]) for row in two if row[1] == "a"]
    found = check(written(tmp_path / "one", one))
    assert found.most_labels == 0
    assert found.problems[0].startswith("no test part can be drawn: a class must have at least 2")
    assert (
        found.problems[1]
        == "at least 2 classes are needed, got 1: add labelled patches of another"
    )


def test_unlabelled_patches_and_mixed_scales_are_counted(tmp_path: Path) -> None:
    content = rows()
    items = []
    for i, (path, label, split, group, picture) in enumerate(content):
        extra = {"um_per_px": ("1.0", "0.5")[i // 2 % 2]}
        items.append((PatchRecord(path, label if i > 3 else "", split, group, extra), picture))
    found = check(PatchSet.open(write_patches(tmp_path / "set", items)))
    assert found.unlabelled == 4 and found.spacings == {"1.0": 8, "0.5": 8}
    assert found.problems == (
        "patches are as small as 64 px at 1 um per pixel, and the shipped generator needs 96",
        "patches differ in um_per_px: 0.5, 1.0",
    )
    scaled = check(PatchSet.open(tmp_path / "set").at(0.5))
    assert scaled.problems == () and scaled.sizes == found.sizes, "the notes of the set tell it"


def test_an_empty_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold at least one patch, got none"):
        check(written(tmp_path / "set", rows()).select("validation"))


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not there")
def test_real_sets_hold_few_blank_and_blurred_patches() -> None:
    """And a real copy: one picture of the lung set is in two groups."""
    found = check(PatchSet.open(REAL / "lung_lc25000_128.zip"))
    assert len(found.blank) + len(found.blurred) < 0.01 * found.patches
    assert [t for t in found.twins if t.across != "one group"]


def test_copies_with_two_labels_are_told(tmp_path: Path) -> None:
    content = rows()
    picture = {path: picture for path, *_, picture in content}
    content.append(("b/again.png", "b", "train", "b1", picture["a/1.png"]))
    found = check(written(tmp_path / "set", content))
    (twin,) = found.twins
    assert twin.labels == ("a", "b")
    told = "1 pair of copies have two labels, such as 'a/1.png' and 'b/again.png': one of them is"
    assert f"{told} wrong" in found.problems
