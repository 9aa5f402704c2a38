"""Which folder is what, and what names must be: nothing recorded is lost without a word."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from making import HEADER, folder_of, zipped

from monai_histodiff import PatchSet, SyntheticBank

SIDES = ("train", "test")
GROUPS = "No group is recorded for"


def triples(patches: PatchSet) -> list[tuple[str, str, str]]:
    return [(r.label, r.split, r.group) for r in patches.records]


def zip_of(folder: Path, name: str, *names: str) -> Path:
    """``NAME.zip`` of these names, below a folder ``NAME``."""
    root = folder_of(folder / f"{name}-unpacked", None, *names)
    return zipped(root, folder / f"{name}.zip", f"{name}/")


# ------------------------------------------------------------------------------------- zips


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("Validation", "val")])
def test_a_zip_named_after_its_split_keeps_it(name: str, split: str, tmp_path: Path) -> None:
    test = zip_of(tmp_path, "test", "A/1.png", "B/2.png")
    other = zip_of(tmp_path, name, "A/1.png", "B/2.png")
    found = [t[:2] for t in triples(PatchSet.open([test, other]))]
    assert found == [("A", "test"), ("B", "test"), ("A", split), ("B", split)]


def test_zips_named_after_their_classes_are_told(tmp_path: Path) -> None:
    parts = [
        zip_of(tmp_path, "ADC", "p1/1.png", "p2/1.png"),
        zip_of(tmp_path, "NORM", "p3/1.png", "p4/1.png"),
    ]
    guessed = PatchSet.open(parts)
    assert guessed.classes == ("p1", "p2", "p3", "p4")
    for note, top, below in zip(guessed.notes, ("ADC", "NORM"), ("p1", "p3"), strict=False):
        assert (
            note.startswith(f"The folder '{top}' at the top of '") and f"such as '{below}'" in note
        )
    patches = PatchSet.open(parts, class_level=1, group_level=2)
    assert not [note for note in patches.notes if "at the top" in note]
    assert triples(patches) == [
        ("ADC", "", "p1"),
        ("ADC", "", "p2"),
        ("NORM", "", "p3"),
        ("NORM", "", "p4"),
    ]
    assert PatchSet.open(parts, class_level=2).classes == ("p1", "p2", "p3", "p4")


def test_zips_with_a_folder_of_their_name_that_share_classes(tmp_path: Path) -> None:
    parts = [zip_of(tmp_path, name, "A/1.png", "B/2.png") for name in ("here", "there")]
    assert PatchSet.open(parts).counts() == {"A": 2, "B": 2}
    assert PatchSet.open(parts[0]).classes == ("A", "B")


def test_levels_are_counted_from_the_top_of_a_zip(tmp_path: Path) -> None:
    path = zip_of(tmp_path, "set", "ADC/p1/1.png", "NORM/p2/2.png")
    with pytest.raises(ValueError, match="1 .1 name.: 'set'; .*--class_level N .*N is 2 or 3"):
        PatchSet.open(path)
    patches = PatchSet.open(path, class_level=2, group_level=3)
    assert triples(patches) == [("ADC", "", "p1"), ("NORM", "", "p2")]


# ------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("levels", [(None, None), (2, None)])
def test_a_level_of_splits_and_others_is_refused(
    levels: tuple[int | None, int | None], tmp_path: Path
) -> None:
    names = [f"{part}/{c}/{part}.png" for part in ("train", "test", "external") for c in "AB"]
    root = folder_of(tmp_path / "set", None, *names)
    message = (
        "or none, got 'test', 'train' beside others in .*'external', 'test', 'train'; .*: call"
    )
    with pytest.raises(ValueError, match=message):
        PatchSet.open(root, None, *levels)
    shutil.rmtree(root / "external")
    assert PatchSet.open(root, None, *levels).counts() == {"A": 2, "B": 2}


def test_a_split_deeper_down_is_not_lost(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/p1/1.png", "B/p2/test/2.png")
    with pytest.raises(ValueError, match="or none, got 'test' beside others"):
        PatchSet.open(root, class_level=1, group_level=2)
    both = folder_of(tmp_path / "both", None, "train/A/test/1.png", "test/A/train/1.png")
    with pytest.raises(ValueError, match="or none, got 'test', 'train' beside others"):
        PatchSet.open(both, class_level=2)


def test_a_class_may_be_called_test_where_that_is_said(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "ADC/1.png", "test/2.png")
    assert PatchSet.open(root, class_level=1).classes == ("ADC", "test")


@pytest.mark.parametrize("levels", [(1, 2), (1, None), (2, 1)])
def test_a_split_is_no_class_and_no_group(levels: tuple[int, int | None], tmp_path: Path) -> None:
    names = [f"{s}/{c}/{s}{c}/0.png" for s in ("train", "test") for c in "AB"]
    root = folder_of(tmp_path / "set", None, *names)
    with pytest.raises(
        ValueError, match="got 1, which names the split: choose another in '.*set'"
    ):
        PatchSet.open(root, None, *levels)


@pytest.mark.parametrize(
    "names",
    [
        ("train/A/p1/0.png", "train/B/p2/0.png", "test/A/p3/0.png", "test/B/p4/0.png"),
        ("A/p1/0.png", "B/p2/0.png"),
        ("mine/A/0.png", "mine/B/0.png"),
        ("A/train/p1/0.png", "B/test/p2/0.png"),
    ],
)
def test_the_advice_can_be_followed(names: tuple[str, ...], tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, *names)
    with pytest.raises(ValueError, match="--class_level") as refused:
        PatchSet.open(root)
    (said,) = re.findall(r"N is ([^)]*)", str(refused.value))
    level, *group = [int(n) for n in said.split(" or ")]
    patches = PatchSet.open(root, None, level, *group)
    assert patches.classes == ("A", "B") and len(group) == ("p1" in names[0])
    recorded = {"train", "test"} & set("/".join(names).split("/"))
    assert {r.split for r in patches.records} == (recorded or {""})


def test_levels_are_for_folders(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", f"{HEADER}\na.png,A,train,g\n", "a.png")
    with pytest.raises(ValueError, match="without a manifest.csv, got 1 and None for '.*set'"):
        PatchSet.open(root, class_level=1)
    other = folder_of(tmp_path / "other", None, "B/p/b.png")
    assert PatchSet.open([root, other], class_level=1).classes == ("A", "B")


def test_sources_called_by_a_split_are_told(tmp_path: Path) -> None:
    parts = [folder_of(tmp_path / n, None, "A/1.png", "B/2.png") for n in ("train", "test")]
    notes = PatchSet.open(parts).notes
    assert notes[0].startswith("That sources are called test and train is not read as a split")
    assert PatchSet.open(parts[0]).notes[0].startswith(GROUPS)


# ------------------------------------------------------------------------------------- names


ODD = ["A ", " A", "smooth\u00a0muscle", "ADC\u200b", "A\tB"]


@pytest.mark.parametrize("name", ODD)
def test_a_class_that_a_bank_refuses_is_refused_when_a_set_is_opened(
    name: str, tmp_path: Path
) -> None:
    root = folder_of(tmp_path / "set", None, f"{name}/1.png", "B/2.png")
    message = f"must be printable text, .*, got {re.escape(repr(name))}"
    with pytest.raises(ValueError, match=f"a label {message} .*1.png.*: rename it"):
        PatchSet.open(root)
    with pytest.raises(ValueError, match=f"a class name {message}"):
        SyntheticBank({0: torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, classes=(name,))


def test_names_in_manifests_are_told_with_their_line(tmp_path: Path) -> None:
    rows = "a.png,ADC,train,P1\nb.png,ADC\u200b,train,P2\n"
    root = folder_of(tmp_path / "set", f"{HEADER}\n{rows}", "a.png", "b.png")
    with pytest.raises(ValueError, match=r"a label .* got 'ADC\\u200b' \(line 3 of"):
        PatchSet.open(root)
    rows = "a.png,ADC,train,P1\nb.png,ADC,test,P1\u200b\n"
    root = folder_of(tmp_path / "two", f"{HEADER}\n{rows}", "a.png", "b.png")
    with pytest.raises(ValueError, match=r"a group .* got 'P1\\u200b' \(line 3 of"):
        PatchSet.open(root)


@pytest.mark.parametrize("name", ["1.23E+11", "1,23457E+11", "1e+16"])
def test_numbers_that_a_spreadsheet_rounded_are_no_names(name: str, tmp_path: Path) -> None:
    rows = f'a.png,ADC,,"{name}"\nb.png,LUSC,,P2\n'
    root = folder_of(tmp_path / "set", f"{HEADER}\n{rows}", "a.png", "b.png")
    message = f"a group must be a name in full, got {re.escape(repr(name))} .line 2 of .*as text"
    with pytest.raises(ValueError, match=message):
        PatchSet.open(root)


def test_names_that_only_look_like_rounded_numbers_stay(tmp_path: Path) -> None:
    rows = "a.png,CD3+,,TCGA-1E+2\nb.png,12E5,,123456789012\n"
    root = folder_of(tmp_path / "set", f"{HEADER}\n{rows}", "a.png", "b.png")
    assert [r.group for r in PatchSet.open(root).records] == ["TCGA-1E+2", "123456789012"]


@pytest.mark.parametrize("twins", [("1", "01"), ("1", "1.0"), ("07", "7.")])
def test_one_name_in_two_spellings_is_refused(twins: tuple[str, str], tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{name},\n" for i, name in enumerate(twins))
    root = folder_of(tmp_path / "set", f"path,label,split\n{rows}", "0.png", "1.png")
    with pytest.raises(ValueError, match="two labels must differ by more than .*line 2 .*line 3"):
        PatchSet.open(root)
    for names in (
        ("1.10", "10"),
        ("1.05", "1.5"),
        ("v1.1", "v1.10"),
        ("P10", "P100"),
        ("1 12", "11 2"),
        ("A2", "A\u00b2"),
    ):
        rows = "".join(f"{i}.png,{name}\n" for i, name in enumerate(names))
        (root / "manifest.csv").write_text(f"path,label\n{rows}")
        assert PatchSet.open(root).classes == names


def test_words_for_nothing_are_told(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", "path,label\na.png,nan\nb.png,A\n", "a.png", "b.png")
    assert (
        PatchSet.open(root)
        .notes[0]
        .startswith("Labels are taken for names of classes, also 'nan': leave")
    )
    rows = "path,label,group\na.png,A,NaN\nb.png,B,p\n"
    (note,) = PatchSet.open(folder_of(tmp_path / "groups", rows, "a.png", "b.png")).notes
    assert note.startswith("Groups are taken for names of patients, also 'NaN': if")


@pytest.mark.parametrize(
    "names", [("P1", "P01"), ("patient_7", "Patient_007"), ("1", "1.0"), ("a 2-3", "a02-03")]
)
def test_groups_that_differ_by_zeros_are_one_mistyped(
    names: tuple[str, str], tmp_path: Path
) -> None:
    rows = "".join(
        f"{i}.png,A,{s},{n}\n" for i, (s, n) in enumerate(zip(SIDES, names, strict=True))
    )
    root = folder_of(tmp_path / "set", f"path,label,split,group\n{rows}", "0.png", "1.png")
    with pytest.raises(ValueError, match="two groups must differ by more than .*line 2 .*line 3"):
        PatchSet.open(root)


def test_a_group_may_be_the_tenth_where_a_label_is_a_number(tmp_path: Path) -> None:
    rows = "path,label,group\n0.png,A,1.1\n1.png,A,1.10\n"
    assert PatchSet.open(folder_of(tmp_path / "set", rows, "0.png", "1.png")).groups[1] == "1.10"
    rows = "path,label\n0.png,1.5\n1.png,1.50\n"
    with pytest.raises(ValueError, match="two labels must differ by more than .* zeros"):
        PatchSet.open(folder_of(tmp_path / "labels", rows, "0.png", "1.png"))


# ------------------------------------------------------------------------------------- groups


def test_a_set_that_was_written_does_not_claim_groups(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "A/A.png", "B/b.png", "B/c.png")
    patches = PatchSet.open(root)
    assert patches.notes[0].startswith(f"{GROUPS} 4 of 4")
    copy = PatchSet.open(patches.with_split().write(tmp_path / "copy"))
    assert copy.notes == patches.notes and set(copy.groups) == set(patches.groups)
    again = PatchSet.open(copy.write(tmp_path / "again"))
    assert again.notes == patches.notes


def test_a_group_called_by_a_file_of_several_is_one(tmp_path: Path) -> None:
    rows = "x/t.png,A,,t.png\ny/t.png,A,,t.png\nz.png,B,,P\n"
    root = folder_of(tmp_path / "set", f"{HEADER}\n{rows}", "x/t.png", "y/t.png", "z.png")
    assert PatchSet.open(root).notes == ()


def test_sources_of_one_name_keep_their_patches_apart(tmp_path: Path) -> None:
    parts = [folder_of(tmp_path / n / "data", None, "A/1.png", "B/2.png") for n in ("x1", "x2")]
    patches = PatchSet.open(parts)
    assert len(set(patches.groups)) == 4 and "x1/data/A/1.png" in patches.groups
    copy = PatchSet.open(patches.write(tmp_path / "copy"))
    assert copy.groups == patches.groups and copy.notes == patches.notes


def test_no_patch_is_counted_twice(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/p/1.png", "B/p/2.png")
    (tmp_path / "link").symlink_to(root)
    within = root / "A" / ".." / "A"
    for other in (root, tmp_path / "other" / ".." / "set", tmp_path / "link", within):
        (tmp_path / "other").mkdir(exist_ok=True)
        for parts in ((root, other), (other, root)):
            with pytest.raises(ValueError, match="must differ, and none lie in another, got"):
                PatchSet.open(parts, class_level=1)


# ------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize(
    "form", ["{} [x=1024,y={},w=512,h=512]", "{}_x1024_y{}", "{}_x=5_y={}", "{}-x5-y{} (2)"]
)
def test_names_of_tiles_are_told_with_the_command_that_groups_them(
    form: str, tmp_path: Path
) -> None:
    names = [f"{c}/{form.format(f'p{c} {i % 2}', i)}.png" for c in "AB" for i in range(4)]
    root = folder_of(tmp_path / "my set", None, *names, "A/other.png")
    assert any(note.endswith("give groups.") for note in PatchSet.open(root).notes)
    (root / "A/other.png").rename(tmp_path / "other.png")
    told = PatchSet.open(root).notes
    (note,) = [note for note in told if note.startswith("Names look like tiles of 4 slides, such")]
    assert told[0].startswith(GROUPS) and told[1] == note and "such as 'pA 0': give groups" in note
    command = note.split(" by '")[1].split("', which makes")[0]
    program, path, option, pattern, *_ = shlex.split(command)
    assert (program, path, option) == ("histodiff-check", str(root), "--group_pattern")
    patches = PatchSet.open(root, group_pattern=pattern)
    assert sorted(set(patches.groups)) == ["pA 0", "pA 1", "pB 0", "pB 1"]
    assert patches.notes == () and len(patches) == 8
    (tmp_path / "other.png").rename(root / "A/other.png")
    with pytest.raises(ValueError, match="every patch's path, got none in 'A/other.png' for"):
        PatchSet.open(root, group_pattern=pattern)


def test_other_names_are_no_tiles(tmp_path: Path) -> None:
    names = ("A/1_x.png", "A/2 [x=1].png", "A/3_x1_y2.png", "B/a_1_2.png", "B/a_1_3.png")
    (note,) = PatchSet.open(folder_of(tmp_path / "set", None, *names)).notes
    assert note.startswith(GROUPS)


def test_a_pattern_of_groups_is_checked_as_groups_are(tmp_path: Path) -> None:
    names = ("train/A/p1_1.png", "test/A/p1_2.png", "train/B/P1_3.png", "test/B/p2_4.png")
    root = folder_of(tmp_path / "set", None, *names)
    with pytest.raises(ValueError, match="must be a regular expression, got '\\('"):
        PatchSet.open(root, group_pattern="(")
    with pytest.raises(ValueError, match="'P1'"):
        PatchSet.open(root, group_pattern=r"(?i)p\d")
    table = folder_of(
        tmp_path / "two", f"{HEADER}\na1.png,A,,x\nb2.png,B,,y\n", "a1.png", "b2.png"
    )
    with pytest.raises(ValueError, match="without a group, got .* and the group 'x' .*line 2"):
        PatchSet.open(table, group_pattern=r"(\d).png")
    (table / "manifest.csv").write_text("path,label\na1.png,A\nb2.png,B\n")
    assert PatchSet.open(table, group_pattern=r"(\d).png").groups == ["1", "2"]
    with pytest.raises(ValueError, match="group_level or from group_pattern, got 2 and '.'"):
        PatchSet.open(root, class_level=1, group_level=2, group_pattern=".")
