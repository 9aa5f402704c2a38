"""Manifests and folders say what they mean: classes, splits, groups; what is left out is told, and
what is doubtful is refused with its place.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from making import HEADER, folder_of, gradient, zipped
from PIL import Image

from monai_histodiff import PatchSet
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pictures import SUFFIXES
from monai_histodiff.data.strict_table import read_rows
from monai_histodiff.data.tables import number, read_table, write_table


def paths(patches: PatchSet) -> list[str]:
    return [r.path for r in patches.records]


def pairs(patches: PatchSet) -> list[tuple[str, str, str]]:
    return [(r.label, r.split, r.group) for r in patches.records]


# ------------------------------------------------------------------------------------- folders


def test_class_folders(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "lung", None, "acc/1.png", "acc/2.TIF", "norm/3.png", "stray.png")
    (root / "norm" / "notes.txt").write_text("not a picture")
    (root / "norm" / ".hidden.png").write_bytes(b"left by a file browser")
    patches = PatchSet.open(root)
    assert patches.classes == ("acc", "norm")
    assert paths(patches) == ["acc/1.png", "acc/2.TIF", "norm/3.png"]
    assert patches.labels.tolist() == [0, 0, 1] and patches.counts() == {"acc": 2, "norm": 1}
    assert len(set(patches.groups)) == 3, "each file is its own group"
    assert {r.split for r in patches.records} == {""}
    assert [note.split(":")[0] for note in patches.notes] == [
        f"2 files of '{root}' (.txt 1, .png 1) are no pictures in class folders",
        "No group is recorded for 3 of 3 patches",
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Training", "train"), ("validation", "val"), ("TEST", "test")],
)
def test_split_folders_are_the_split(name: str, split: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, f"{name}/ADC/1.png", f"{name}/NORM/2.png")
    assert [p[:2] for p in pairs(PatchSet.open(root))] == [("ADC", split), ("NORM", split)]


def test_split_folders_may_lie_above_or_below_the_classes(tmp_path: Path) -> None:
    above = ("train/ADC/1.png", "train/NORM/2.png", "val/ADC/5.png", "test/ADC/3.png")
    below = ("ADC/train/1.png", "NORM/train/2.png", "ADC/val/5.png", "ADC/test/3.png")
    found = []
    for i, names in enumerate((above, below)):
        patches = PatchSet.open(folder_of(tmp_path / str(i), None, *names))
        assert patches.classes == ("ADC", "NORM")
        found.append(
            {
                (p.rsplit("/", 1)[1], *q[:2])
                for p, q in zip(names, pairs_in(patches, names), strict=True)
            }
        )
        assert "1 patch of the split 'val' is kept apart" in patches.notes[-1]
        assert patches.with_split() is patches
    assert (
        found[0]
        == found[1]
        == {
            ("1.png", "ADC", "train"),
            ("2.png", "NORM", "train"),
            ("5.png", "ADC", "val"),
            ("3.png", "ADC", "test"),
        }
    )


def pairs_in(patches: PatchSet, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    return [pairs(patches)[paths(patches).index(name)] for name in names]


DEEP = ("ADC/patient3/x.png", "ADC/patient4/x.png", "NORM/patient5/x.png")


def test_deeper_folders_must_be_told_what_they_are(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, *DEEP)
    message = (
        r"one folder, which names its class, .* 1 .2 names.: 'ADC', 'NORM'; level 2 .3 names.:"
        r" 'patient3', 'patient4', 'patient5'.*: say which level names the class, .* by"
        r" 'histodiff-check .*set --class_level N --group_level N --write NEW' .N is 1 or 2."
    )
    with pytest.raises(ValueError, match=message):
        PatchSet.open(root)
    patches = PatchSet.open(root, class_level=1, group_level=2)
    assert pairs(patches) == [
        ("ADC", "", "patient3"),
        ("ADC", "", "patient4"),
        ("NORM", "", "patient5"),
    ]
    assert patches.notes == ()
    assert PatchSet.open(root, group_level=2).records == patches.records, "the rest is the class"
    turned = PatchSet.open(root, class_level=2, group_level=1)
    assert turned.classes == ("patient3", "patient4", "patient5")
    alone = PatchSet.open(root, class_level=1)
    assert alone.classes == ("ADC", "NORM") and "No group is recorded" in alone.notes[0]


def test_levels_below_a_split(tmp_path: Path) -> None:
    names = [f"{split}/{name}" for split in ("train", "test") for name in ("ADC/p/x.png",)]
    root = folder_of(tmp_path / "set", None, *names)
    with pytest.raises(ValueError, match="1 .2 names.: 'test', 'train'; level 2 .1 name.: 'ADC'"):
        PatchSet.open(root)
    with pytest.raises(ValueError, match="one split only, got 1 that straddle, such as 'p'"):
        PatchSet.open(root, class_level=2, group_level=3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ADC/1.png", "train/ADC/2.png"), "or none, got 'train' beside others .*'ADC', 'train'"),
        (("ADC/1.png", "train/2.png"), "1 .2 names.: 'ADC', 'train': call the others so, too"),
        (("a/1.png", "deeper/a/2.png"), "'a', 'deeper'; some lie deeper: say"),
        (("ADC/image/1.png", "ADC/label/1.png"), "2 .2 names.: 'image', 'label'"),
        (("train/1.png", "test/2.png"), "1 .2 names.: 'test', 'train'"),
    ],
)
def test_a_class_is_never_guessed(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PatchSet.open(folder_of(tmp_path / "set", None, *names))


@pytest.mark.parametrize("levels", [(3, None), (0, None), (1, 1), (None, 5), (-1, 2)])
def test_levels_that_are_not_there(levels: tuple[int | None, int | None], tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, *DEEP)
    with pytest.raises(ValueError, match="must be two of the levels 1 to 2 that each picture has"):
        PatchSet.open(root, class_level=levels[0], group_level=levels[1])


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    folder_of(tmp_path / "elsewhere", None, "1.png", "2.png")
    root = folder_of(tmp_path / "set", None, "A/a.png")
    (root / "B").symlink_to(tmp_path / "elsewhere")
    assert PatchSet.open(root).counts() == {"A": 1, "B": 2}
    (root / "A" / "loop").symlink_to(root)
    with pytest.raises(ValueError, match="the set has already, got '.*loop' and '.*set', which"):
        PatchSet.open(root)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    (root / "B" / "c.png").symlink_to(tmp_path / "unmounted" / "c.png")
    with pytest.raises(
        FileNotFoundError, match="got 1 links that lead to none, such as '.*c.png'"
    ):
        PatchSet.open(root)


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    scan, access = os.scandir, os.access

    def locked(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "B":
            raise PermissionError(path)
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", locked)
        with pytest.raises(PermissionError, match="got 1 that may not be read, such as '.*/B'"):
            PatchSet.open(root)
    monkeypatch.setattr(os, "access", lambda p, mode: "b.png" not in str(p) and access(p, mode))
    with pytest.raises(PermissionError, match="got 1 that may not be read, such as '.*b.png'"):
        PatchSet.open(root)


@pytest.mark.parametrize("files", [["1.gif", "2.gif", "notes.txt"], []])
def test_a_class_folder_without_pictures_does_not_vanish(files: list[str], tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png")
    (root / "B").mkdir()
    for name in files:
        (root / "B" / name).write_bytes(b"")
    kinds = r" \(.gif 2, .txt 1\)" if files else ""
    message = f"got {len(files)} other files{kinds} and no picture in '.*/B': convert"
    with pytest.raises(ValueError, match=message):
        PatchSet.open(root)


def test_every_documented_ending_is_listed(tmp_path: Path) -> None:
    names = [f"A/{i}{ending}" for i, ending in enumerate(SUFFIXES)]
    assert len(PatchSet.open(folder_of(tmp_path / "set", None, *names))) == len(SUFFIXES)


def test_classes_that_differ_by_case_or_blanks_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "ADC/1.png", "adc/2.png")
    message = r"two labels must differ by more than case, .* got 'ADC' .*1.png'. and 'adc'"
    with pytest.raises(ValueError, match=message):
        PatchSet.open(root)
    parts = [folder_of(tmp_path / n, None, f"{n}/1.png") for n in ("low grade", "Lowgrade")]
    with pytest.raises(ValueError, match="got 'low grade' .* and 'Lowgrade'"):
        PatchSet.open(parts)


def test_the_user_s_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    patches = PatchSet.open("~/set")
    assert patches.write("~/copy") == tmp_path / "copy" and len(PatchSet.open("~/copy")) == 2


# ----------------------------------------------------------------------------------- manifests


@pytest.mark.parametrize("as_zip", [False, True])
def test_manifest_in_folder_and_zip(as_zip: bool, tmp_path: Path) -> None:
    rows = ["a.png,B,train,p1,x", "sub/b.png,A,test,p2,", 'c.png,,,"p, 3",y']
    root = folder_of(
        tmp_path / "set",
        "\ufeff" + "\n".join([HEADER + ",stain", *rows]) + "\n",
        "a.png",
        "sub/b.png",
        "c.png",
        "not-listed.png",
    )
    source = zipped(root, tmp_path / "set.zip") if as_zip else root
    patches = PatchSet.open(str(source))
    assert [(r.path, r.label, r.split, r.group, dict(r.extra)) for r in patches.records] == [
        ("a.png", "B", "train", "p1", {"stain": "x"}),
        ("sub/b.png", "A", "test", "p2", {"stain": ""}),
        ("c.png", "", "", "p, 3", {"stain": "y"}),
    ]
    assert patches.classes == ("A", "B") and patches.labels.tolist() == [1, 0, -1]
    item = patches[1]
    assert (
        item["image"].dtype == torch.uint8
        and item["image"].shape == (3, 8, 8)
        and bool((item["image"] == 1).all())
    )
    assert {k: v for k, v in item.items() if k != "image"} == {
        "label": 0,
        "label_name": "A",
        "group": "p2",
        "path": "sub/b.png",
    }
    assert patches[-1]["label"] == -1


def test_image_is_channel_first_and_upright(tmp_path: Path) -> None:
    write_patches(tmp_path / "set", [(PatchRecord("a.png", "A", "", "g"), gradient())])
    image = PatchSet.open(tmp_path / "set")[0]["image"]
    assert torch.equal(image, torch.from_numpy(gradient()).permute(2, 0, 1))
    image += 1  # the tensor is the caller's own


def test_several_sources_are_one_set(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "one", f"{HEADER}\na.png,B,train,g1\n", "a.png")
    second = zipped(
        folder_of(tmp_path / "two", f"{HEADER}\na.png,A,test,g2\n", "b.png", "a.png"),
        tmp_path / "two.zip",
    )
    patches = PatchSet.open([first, second])
    assert patches.classes == ("A", "B") and patches.labels.tolist() == [1, 0]
    assert [int(patches[i]["image"].max()) for i in range(2)] == [0, 1], (
        "each patch comes from its own source"
    )
    part = patches.select("test")
    assert (
        len(part) == 1
        and part.classes == ("A", "B")
        and int(part[0]["image"].max()) == 1
        and part[0]["label"] == 0
    )


MANIFEST_FAULTS: dict[str, tuple[str | bytes, type[Exception], str]] = {
    "columns": ("path,split\na.png,test\n", ValueError, r"columns .* got none named \['label'\]"),
    "no header": ("", ValueError, "must have the columns"),
    "no rows": (f"{HEADER}\n", ValueError, "must list at least one patch"),
    "column twice": (f"{HEADER},Label\n", ValueError, "must be there once, got 'label' twice"),
    "missing file": (
        f"{HEADER}\n\na.png,A,train,g\nz.png,A,train,g\n",
        FileNotFoundError,
        "line 4 of '.*manifest.csv' names 'z.png', which is not there: paths are relative",
    ),
    "missing by case": (
        f"{HEADER}\nA.png,A,train,g\n",
        FileNotFoundError,
        "names 'A.png', which is not there: there is 'a.png'",
    ),
    "cut in half": (f"{HEADER}\na.png,A,train,g\nb.p", ValueError, "got 1 at .* file cut"),
    "absolute": (
        f"{HEADER}\n/elsewhere/a.png,A,train,g\n",
        ValueError,
        "must be relative to the manifest, got '/elsewhere/a.png' at line 2 of .*: put the "
        "pictures, or a link to their folder, beside the manifest, .* such as 'FOLDER/a.png'",
    ),
    "absolute on Windows": (
        f"{HEADER}\nC:\\set\\a.png,A,train,g\n",
        ValueError,
        "must be relative to the manifest, got 'C:",
    ),
    "outside": (
        f"{HEADER}\n../set/a.png,A,train,g\n",
        ValueError,
        "must not lead out of the manifest",
    ),
    "duplicate": (
        f"{HEADER}\na.png,A,train,g\n./a.png,A,train,g\n",
        ValueError,
        "list each path once, got 'a.png' twice, at line 2 and line 3 of",
    ),
    "split": (
        f"{HEADER}\na.png,A,dev,g\n",
        ValueError,
        r"split must be 'train', 'val', 'test' or empty, got 'dev' for 'a.png' \(line 2",
    ),
    "straddling": (
        f"{HEADER}\na.png,A,train,g7\nb.png,A,test,g7\n",
        ValueError,
        "one split only, got 1 that straddle, such as 'g7'",
    ),
    "half straddling": (
        f"{HEADER}\na.png,A,train,g7\nb.png,A,,g7\n",
        ValueError,
        "straddle, such as 'g7'",
    ),
    "no group": (
        f"{HEADER}\na.png,A,train,\n",
        ValueError,
        r"must name its group, got none for 'a.png' \(line 2 of",
    ),
    "short row": (
        f"{HEADER}\na.png,A\n",
        ValueError,
        "4 cells of the header, got 2 at line 2",
    ),
    "long row": (
        f"{HEADER}\na.png,A,train,g,H&E\n",
        ValueError,
        r"not have more cells than the header, got \['H&E'\] beyond it at line 2 of",
    ),
    "encoding": (
        "path,label,split,group\na.png,\xe9,train,g\n".encode("latin-1"),
        ValueError,
        "a table must be UTF-8 text, .*: save it as 'CSV UTF-8'",
    ),
    "unicode text of a spreadsheet": (HEADER.encode("utf-16"), ValueError, "must be UTF-8"),
    "no end of a quote": (
        f'{HEADER}\na.png,"A,train,g\nb.png,A,train,g\n',
        ValueError,
        "got 'unexpected end of data' at line 3 of .*: is a quote not closed",
    ),
    "quote closed by another": (
        f'{HEADER}\na.png,"A,train,g\nb.png,A",train,g\n',
        ValueError,
        "must not hold a line break, got .* up to line 3 of .*: is a quote not closed",
    ),
    "labels that differ by case": (
        f"{HEADER}\na.png,ADC,train,g\nb.png,adc,train,g\n",
        ValueError,
        r"two labels must .*, got 'ADC' \(line 2 of .*\) and 'adc' \(line 3 of .*\): write",
    ),
    "groups that differ by a blank": (
        f"{HEADER}\na.png,A,train,P 1\nb.png,A,test,P1\n",
        ValueError,
        r"two groups must .*, got 'P 1' \(line 2 of .*\) and 'P1' \(line 3",
    ),
    "scale": (
        f"{HEADER},um_per_px\na.png,A,train,g,\nb.png,A,train,g,0;5\n",
        ValueError,
        r"or empty, got '0;5' for 'b.png' \(line 3",
    ),
    "a scale with an underscore": (
        f"{HEADER},um_per_px\na.png,A,train,g,1_0\n",
        ValueError,
        "or empty, got '1_0'",
    ),
    "a blank before a quote": (
        f'{HEADER}\na.png, "A",train,g\n',
        ValueError,
        "must follow its separator at once, got ' \"A\"' at line 2 of .*: take the blank away",
    ),
    "a blank before a quote in the header": (
        'path,label, "group"\na.png,A,g\n',
        ValueError,
        "at once, got ' \"group\"' at the header of",
    ),
    "a line for spreadsheets": (
        "sep=;\npath;label\na.png;A\n",
        ValueError,
        "must begin with the names of its columns, got 'sep=', .*: remove this line",
    ),
    "two columns without a name": (
        "path,label,,\na.png,A,x,y\n",
        ValueError,
        "must have a name where there is another without, got 'y' at line 2 of .*: name it",
    ),
    "no scale": (f"{HEADER},um_per_px\na.png,A,train,g,0\n", ValueError, "or empty, got '0'"),
}


@pytest.mark.parametrize("case", MANIFEST_FAULTS)
def test_broken_manifest_is_named(case: str, tmp_path: Path) -> None:
    manifest, kind, message = MANIFEST_FAULTS[case]
    root = folder_of(tmp_path / "set", manifest, "a.png", "b.png")
    for source in (root, zipped(root, tmp_path / "set.zip")):
        with pytest.raises(kind, match=message):
            PatchSet.open(source)


TABLE = [("a.png", "A", "train", "P1"), ("sub/b.png", "B", "test", "P2")]
KIND = {
    "plain": f"{HEADER}\na.png,A,train,P1\nsub/b.png,B,test,P2\n",
    "a mark at its start": f"\ufeff{HEADER}\na.png,A,train,P1\nsub/b.png,B,test,P2",
    "semicolons": "path;label;split;group\na.png;A;train;P1\nsub/b.png;B;test;P2\n",
    "tabs": "path\tlabel\tsplit\tgroup\na.png\tA\ttrain\tP1\nsub/b.png\tB\ttest\tP2\n",
    "capitals": "Path,LABEL,Split,Group\na.png,A,Train,P1\nsub/b.png,B,TEST,P2\n",
    "blanks": " path ,label, split,group\n a.png,A ,train ,P1 \nsub/b.png ,B,test,\u00a0P2\n",
    "dots": f"{HEADER}\n./a.png,A,train,P1\n./sub/b.png,B,test,P2\n",
    "backslashes": f"{HEADER}\n.\\a.png,A,train,P1\nsub\\b.png,B,test,P2\n",
    "old line ends": f"{HEADER}\r\na.png,A,train,P1\r\nsub/b.png,B,test,P2\r\n",
    "empty lines": f"\n{HEADER}\n\na.png,A,train,P1\n,,,\nsub/b.png,B,test,P2,,\n",
    "another order": "group,path,split,label\nP1,a.png,train,A\nP2,sub/b.png,test,B\n",
    "other words": f"{HEADER}\na.png,A,training,P1\nsub/b.png,B,testing,P2\n",
}


@pytest.mark.parametrize("case", KIND)
def test_tables_as_people_write_them(case: str, tmp_path: Path) -> None:
    patches = PatchSet.open(folder_of(tmp_path / "set", KIND[case], "a.png", "sub/b.png"))
    assert [(r.path, r.label, r.split, r.group) for r in patches.records] == TABLE
    assert not patches.notes and all(not r.extra for r in patches.records)


def test_the_manifest_may_be_capital_and_names_composed(tmp_path: Path) -> None:
    composed, apart = "M\u00fcller.png", "Mu\u0308ller.png"
    root = folder_of(tmp_path / "set", None, apart)
    rows = f"{HEADER}\n{composed},\u00e4,train,g\n"
    (root / "Manifest.CSV").write_text(rows, encoding="utf-8")
    patches = PatchSet.open(root)
    assert paths(patches) == [apart] and patches[0]["image"].shape == (3, 8, 8)
    (root / "Manifest.CSV").write_text(rows.replace("\u00e4", "a\u0308"), encoding="utf-8")
    assert PatchSet.open(root).classes == ("\u00e4",), "labels are composed too"


def test_group_and_split_are_optional(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", "label,path\nA,a.png\n,b.png\n", "a.png", "b.png", "c.png")
    patches = PatchSet.open(root)
    assert pairs(patches) == [("A", "", "set/a.png"), ("", "", "set/b.png")]
    assert patches.labels.tolist() == [0, -1]
    assert [note.split(":")[0] for note in patches.notes] == [
        f"1 picture of '{root}' is not in its manifest",
        "No group is recorded for 2 of 2 patches",
    ]


def test_val_is_a_part_of_its_own(tmp_path: Path) -> None:
    rows = "a.png,A,train,g1\nb.png,A,valid,g2\nc.png,A,test,g3\n"
    root = folder_of(tmp_path / "set", f"{HEADER}\n{rows}", "a.png", "b.png", "c.png")
    patches = PatchSet.open(root)
    assert paths(patches.select("val")) == ["b.png"] and patches.with_split() is patches
    assert patches.notes == (
        "1 patch of the split 'val' is kept apart: neither trained nor tested on.",
    )


@pytest.mark.parametrize(
    "rows", ["g1,a.png,train\ng2,b.png,train,A\n", "g1,a.png,train,A\ng2,b.png,train"]
)
def test_a_row_without_its_last_cells_is_taken_for_a_cut_file(rows: str, tmp_path: Path) -> None:
    table = f"group,path,split,label\n{rows}"
    root = folder_of(tmp_path / "set", table, "a.png", "b.png")
    with pytest.raises(
        ValueError,
        match=r"must have the 4 cells of the header, got 3 at line [23] of .*: is the file cut",
    ):
        PatchSet.open(root)
    whole = "\n".join(row + "," * (3 - row.count(",")) for row in table.split("\n") if row)
    (root / "manifest.csv").write_text(whole)
    assert -1 in PatchSet.open(root).labels.tolist()


CELLS = ["=1+1", "-", "+", "@x", "-1", "+0.5", "-1e-3", "-inf", "'=x", "''-", "'x", "a=b", "\t=x"]


def test_no_written_cell_is_a_formula_and_all_are_read_back(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", ["path", "label"], [[f"{i}", c] for i, c in enumerate(CELLS)])
    content = (tmp_path / "x.csv").read_bytes()
    found = read_table(content, "'x.csv'", ["path"])
    assert [row.cells["label"] for row in found] == CELLS
    assert [row.line for row in found] == list(range(2, len(CELLS) + 2))
    for line, cell in zip(content.decode().split("\r\n")[1:], CELLS, strict=False):
        first = line.split(",", 1)[1].strip('"')[0]
        assert first not in "=@\t" and (first not in "+-" or float(cell) is not None)


def test_formulas_in_manifests_survive_as_text(tmp_path: Path) -> None:
    record = PatchRecord("a.png", "=HYPERLINK(1)", "train", "-", {"note": "@sum", "seed": "-1"})
    root = write_patches(tmp_path / "set", [(record, gradient())])
    text = (root / "manifest.csv").read_text()
    assert text.split()[1] == "a.png,'=HYPERLINK(1),train,'-,'@sum,-1"
    assert PatchSet.open(root).records == (record,)


def test_one_column_without_a_name_is_kept(tmp_path: Path) -> None:
    """As pandas writes its index; and a spreadsheet, empty columns."""
    root = folder_of(tmp_path / "set", ",path,label,,\n7,a.png,A,,\n", "a.png")
    (record,) = PatchSet.open(root).records
    assert record.extra == {"": "7"}
    assert PatchSet.open(PatchSet.open(root).write(tmp_path / "copy")).records[0].extra == {
        "": "7"
    }


def test_a_line_break_cannot_be_written(tmp_path: Path) -> None:
    record = PatchRecord("a.png", "A\nB", "", "g")
    with pytest.raises(ValueError, match="a cell must not hold a line break, got 'A.nB'"):
        write_patches(tmp_path / "set", [(record, gradient())])
    assert not list(tmp_path.iterdir())


def test_group_must_not_straddle_sources(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "one", f"{HEADER}\na.png,A,train,patient 7\n", "a.png")
    second = folder_of(tmp_path / "two", f"{HEADER}\na.png,A,test,patient 7\n", "a.png")
    with pytest.raises(ValueError, match="straddle, such as 'patient 7'"):
        PatchSet.open([first, second])


def test_a_whole_path_to_a_file_of_the_set_is_told_as_it_should_be(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png")
    (root / "manifest.csv").write_text(f"path,label\n{root / 'A' / 'a.png'},A\n")
    with pytest.raises(ValueError, match="write it relative to the manifest, as 'A/a.png'$"):
        PatchSet.open(root)


def test_a_table_of_any_name_is_the_manifest_of_its_folder(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "A/b.png", "B/b.png")
    (root / "manifest.csv").write_text("path,label\nA/a.png,other\n")
    (root / "train.csv").write_text("image,label,group\nA/a.png,x,p1\nB/b.png,y,p2\n")
    (root / "test.TSV").write_text("path\tlabel\tgroup\nA/b.png\tx\tp3\n")
    found = PatchSet.open(root / "train.csv")
    assert [(r.path, r.label, r.group) for r in found.records] == [
        ("A/a.png", "x", "p1"),
        ("B/b.png", "y", "p2"),
    ]
    assert any(
        note.startswith("The column 'image' of") and "train.csv" in note for note in found.notes
    )
    assert "1 picture of" in " ".join(found.notes) and found[1]["image"].shape[0] == 3
    assert len(PatchSet.open(str(root / "test.TSV"))) == 1
    with pytest.raises(ValueError, match="tables of one folder must be one, got 'train.csv' and"):
        PatchSet.open([root / "train.csv", root / "test.TSV"])
    with pytest.raises(ValueError, match="none lie in another"):
        PatchSet.open([root / "train.csv", root])


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset_dir must exist, got '.*none'"):
        PatchSet.open(tmp_path / "none")
    (tmp_path / "file.txt").write_text("no zip")
    with pytest.raises(ValueError, match=r"a zip or a table \(.csv, .tsv\), got '.*file.txt'"):
        PatchSet.open(tmp_path / "file.txt")
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match="got the picture '.*one.png': give the folder that holds"
    ):
        PatchSet.open(tmp_path / "one.png")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((), "with 0 other files: put"),
        (("a.png", "b.png"), "with 2 pictures that lie in no folder: put pictures into folders"),
        (("A/a.npy", "B/b.npy"), r"with 2 other files \(.npy 2\): save each picture of these"),
        (("A/a.gif", "B/b.gif"), r"with 2 other files \(.gif 2\): convert them to PNG"),
        (("A.zip",), r"with 1 other file \(.zip 1\): unpack the archives"),
        (("a.svs",), r"with 1 other file \(.svs 1\): cut these slides .* by 'histodiff-tiles"),
        (("camelyonpatch_x.h5",), r"file \(.h5 1\): 'histodiff-fetch pcam NEW --archives FOLDER'"),
        (("notes.txt",), r"with 1 other file \(.txt 1\): put pictures into folders"),
        (
            ("a.png", "labels.csv"),
            "in no folder and 1 other .* give '.*labels.csv' if it",
        ),
        (("img/a.png", "labels.csv"), "one folder, 'img' and 1 other .* give '.*labels.csv' i"),
    ],
)
def test_a_set_without_classes_is_told_what_it_holds(
    names: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    root = folder_of(tmp_path / "set", None, *names)
    with pytest.raises(ValueError, match=rf"class folders with pictures \(.png.*{told}"):
        PatchSet.open(root)


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled"])
def test_a_folder_of_unlabelled_pictures_is_no_class(tmp_path: Path, name: str) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png", f"{name}/c.png")
    patches = PatchSet.open(root)
    assert patches.classes == ("A", "B") and [r.label for r in patches.records].count("") == 1
    assert f"1 pictures in '{name}' of '{root}' have no label." in patches.notes
    parts = ("train/A/a.png", "train/B/b.png", "test/A/a.png", "test/B/b.png")
    root = folder_of(tmp_path / "two", None, *parts, f"train/{name}/c.png")
    patches = PatchSet.open(root)
    assert [(r.label, r.split) for r in patches.records if not r.label] == [("", "train")]
    root = folder_of(tmp_path / "three", None, *parts, f"{name}/x/c.png")
    with pytest.raises(ValueError, match=f"'train/{name}' is for the unlabelled; call the others"):
        PatchSet.open(root)


@pytest.mark.parametrize("label", ["-1", "unknown", "?", "NA"])
def test_labels_that_may_stand_for_none_are_told(tmp_path: Path, label: str) -> None:
    table = f"path,label\na.png,A\nb.png,{label}\n"
    patches = PatchSet.open(folder_of(tmp_path / "set", table, "a.png", "b.png"))
    assert label in patches.classes and any(
        note.startswith(f"Labels are taken for names of classes, also '{label}': leave them empty")
        for note in patches.notes
    )


def test_columns_that_others_call_otherwise_are_told(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "one", "Filename,image,tumor\na.png,b.png,A\n", "a.png")
    message = (
        r"got none named \['path'\] among \['Filename', 'image', 'tumor'\] in .*: rename "
        "'Filename' to 'path' or rename 'image' to 'path'"
    )
    with pytest.raises(ValueError, match=message):
        PatchSet.open(root)
    table = "path,label,Patient ID,mpp,stain\na.png,A,7,0.5,x\n"
    notes = PatchSet.open(folder_of(tmp_path / "two", table, "a.png")).notes
    assert [note.split(" of ")[0] for note in notes[:2]] == [
        "The column 'Patient ID'",
        "The column 'mpp'",
    ]
    assert notes[1].endswith("is not read: call it 'um_per_px' if it is that.")
    table = "path,label,Objective Power,mm_per_px,pixel-size (um)\na.png,A,20,0.0005,0.5\n"
    notes = PatchSet.open(folder_of(tmp_path / "four", table, "a.png")).notes
    about = {note.split("'")[1]: note for note in notes if note.startswith("The column")}
    rule = "is not read: um_per_px is {}; write that in a column of its own."
    assert about["Objective Power"].endswith(rule.format("about 10 divided by it"))
    assert about["mm_per_px"].endswith(rule.format("1000 times it"))
    assert about["pixel-size (um)"].endswith("call it 'um_per_px' if it is that.")
    table = "path,label,group,slide,um_per_px,spacing,magnification\na.png,A,7,3,0.5,x,20\n"
    assert PatchSet.open(folder_of(tmp_path / "three", table, "a.png")).notes == ()


def test_the_one_column_with_a_usual_name_is_taken_and_told(tmp_path: Path) -> None:
    """As MHIST has them; and pictures in a folder beside the table."""
    table = "Image Name,Majority Vote Label,Votes,Partition\na.png,HP,1,train\nb.png,SSA,6,test\n"
    root = folder_of(tmp_path / "set", table, "images/a.png", "images/b.png")
    patches = PatchSet.open(root)
    assert paths(patches) == ["images/a.png", "images/b.png"]
    assert [p[:2] for p in pairs(patches)] == [("HP", "train"), ("SSA", "test")]
    assert patches.records[1].extra == {"Votes": "6"}
    of = f"of '{root / 'manifest.csv'}'"
    assert patches.notes[:4] == (
        f"The column 'Image Name' {of} is taken for 'path'.",
        f"The column 'Majority Vote Label' {of} is taken for 'label'.",
        f"The column 'Partition' {of} is taken for 'split'.",
        f"The paths {of} are taken to begin at 'images'.",
    )
    assert PatchSet.open(patches.write(tmp_path / "copy")).records == patches.records
    (root / "manifest.csv").write_text(table.replace(",test", ",2"))
    patches = PatchSet.open(root)
    assert {r.split for r in patches.records} == {""} and patches.records[0].extra["Partition"]
    assert any("'Partition' of" in n and "call it 'split' if" in n for n in patches.notes)


def test_pictures_are_looked_for_in_one_folder_only(tmp_path: Path) -> None:
    names = ("images/a.png", "other/b.png")
    root = folder_of(tmp_path / "set", "path,label\na.png,A\nb.png,B\n", *names)
    with pytest.raises(FileNotFoundError, match="line 3 .* names 'b.png', which is not there"):
        PatchSet.open(root)
    twice = ("images/a.png", "masks/a.png")
    root = folder_of(tmp_path / "two", "path,label\na.png,A\n", *twice)
    with pytest.raises(FileNotFoundError, match="line 2 .* names 'a.png', which is not there"):
        PatchSet.open(root)


def test_paths_that_are_in_two_folders_begin_at_neither(tmp_path: Path) -> None:
    """The first is in one alone, as of two slides of which one has more tiles."""
    table = "path,label\n3.png,A\n1.png,A\n2.png,B\n"
    names = ("a/slideA/1.png", "a/slideA/2.png", "a/slideA/3.png", "slideB/1.png", "slideB/2.png")
    root = folder_of(tmp_path / "set", table, *names)
    with pytest.raises(ValueError, match="'1.png', which is 'a/slideA/1.png' and 'slideB/1.png'"):
        PatchSet.open(root)
    (root / "manifest.csv").write_text("path,label\n3.png,A\n")
    assert paths(PatchSet.open(root)) == ["a/slideA/3.png"]
    (root / "a" / "slideA" / "tiles").mkdir()
    (root / "a" / "slideA" / "tiles" / "1.png").write_bytes((root / names[0]).read_bytes())
    (root / "slideB" / "1.png").unlink()
    (root / "manifest.csv").write_text(table)
    with pytest.raises(
        ValueError, match="and 'a/slideA/tiles/1.png' in .*: write the folder into"
    ):
        PatchSet.open(root)


def test_one_column_of_several_that_say_yes_or_no_is_no_label(tmp_path: Path) -> None:
    table = "path,tumor,stroma\na.png,1,0\nb.png,0,1\n"
    root = folder_of(tmp_path / "set", table, "a.png", "b.png")
    with pytest.raises(
        ValueError, match="one column, got 'tumor' and 'stroma' of 0 and 1 in .*'l"
    ):
        PatchSet.open(root)
    for other in (
        table.replace("tumor", "label"),
        table.replace("0,1", "0,2"),
        table.replace("0,1", "0,0"),  # of no class: another yes or no
        "path,class,um_per_px\na.png,1,1\nb.png,0,1\n",
        "path,class,centre\na.png,1,1\nb.png,0,1\n",
    ):
        (root / "manifest.csv").write_text(other)
        assert [r.label for r in PatchSet.open(root).records] == ["1", "0"]


def test_unlabelled_rows_have_no_label_as_a_folder_of_that_name(tmp_path: Path) -> None:
    table = "path,label,group\na.png,Unlabelled,1\nb.png,A,#N/A\nc.png,#n/a,x\n"
    patches = PatchSet.open(folder_of(tmp_path / "set", table, "a.png", "b.png", "c.png"))
    assert [r.label for r in patches.records] == ["", "A", "#n/a"]
    assert patches.notes == (
        f"1 row of '{tmp_path / 'set' / 'manifest.csv'}' with the label 'Unlabelled' has no "
        "label.",
        "Labels are taken for names of classes, also '#n/a': leave them empty where there is "
        "none.",
        "Groups are taken for names of patients, also '#N/A': if that stands for none, name the "
        "patient of each patch.",
    )


@pytest.mark.parametrize(
    ("column", "told"),
    [
        *((name, "'group' if") for name in ("PatientNr", "patient_no", "pat_id", "case number")),
        *((name, "'group' if") for name in ("TCGA_barcode", "donor", "WSI name")),
        *((name, "'um_per_px' if") for name in ("mpp (µm/px)", "MPP (um/px)", "mpp_um", "µm/px")),
        *((name, "about 10") for name in ("Magnification (x)", "magnification_x", "scan_mag")),
        *((name, "") for name in ("pattern", "image_size", "showcase", "magenta", "pixels")),
    ],
)
def test_a_column_that_hints_at_one_of_ours_is_asked_about(
    column: str, told: str, tmp_path: Path
) -> None:
    root = folder_of(tmp_path / "set", f"path,label,{column}\na.png,A,1\n", "a.png")
    notes = [n for n in PatchSet.open(root).notes if n.startswith("The column")]
    assert len(notes) == bool(told) and all(told in note for note in notes)


def test_a_usual_name_is_asked_about_before_a_hint(tmp_path: Path) -> None:
    table = "path,label,patient_id,patient_age,px_per_micron\na.png,A,1,50,2\n"
    notes = PatchSet.open(folder_of(tmp_path / "set", table, "a.png")).notes
    assert [note.split("'")[1] for note in notes[:2]] == ["patient_id", "px_per_micron"]


def test_a_file_whose_name_begins_with_an_apostrophe_is_found(tmp_path: Path) -> None:
    table = "path,label\n'-1.png,A\n''-2.png,A\n'=3.png,B\n"
    root = folder_of(tmp_path / "set", table, "'-1.png", "'-2.png", "'=3.png", "=3.png")
    assert paths(PatchSet.open(root)) == ["'-1.png", "'-2.png", "=3.png"]


@pytest.mark.parametrize(("file", "told"), [("labels.csv", "call"), ("manifest.xlsx", "save")])
def test_a_table_beside_class_folders_is_told(file: str, told: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    (root / file).write_text("x")
    note = f"The table '{file}' beside the class folders is not read: if it names the class, "
    note += f"patient or split of each picture, {told} it "
    assert PatchSet.open(root).notes[1].startswith(note)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0,5", "decimal point, 0.5"),
        ("20x", "about 0.5 at 20x"),
        ("-1", "correct it, or"),
    ],
)
def test_a_scale_that_is_none_has_its_remedy(text: str, told: str, tmp_path: Path) -> None:
    table = f"path;label;um_per_px\na.png;A;{text}\n"
    with pytest.raises(ValueError, match=f"got '{text}' for 'a.png' .*: .*{told}"):
        PatchSet.open(folder_of(tmp_path / "set", table, "a.png"))


def test_a_group_level_alone_must_leave_one_level_for_the_class(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "x/A/p1/a.png", "x/B/p2/b.png")
    told = "class_level must be given .* got group_level 3, and levels 1, 2 left, .*: give class_l"
    with pytest.raises(ValueError, match=told):
        PatchSet.open(root, group_level=3)
    assert PatchSet.open(root, class_level=2, group_level=3).classes == ("A", "B")


def test_manifest_below_the_top_is_not_overlooked(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", f"{HEADER}\nimages/a.png,A,train,g\n", "images/a.png")
    told = (
        "manifest.csv must lie at the top of '.*', got 'set/manifest.csv': point at, or pack, the"
    )
    with pytest.raises(ValueError, match=told):
        PatchSet.open(tmp_path)
    with zipfile.ZipFile(zipped(root, tmp_path / "set.zip", "set/"), "a") as file:
        file.writestr("other/b.png", "")
    with pytest.raises(ValueError, match=told):
        PatchSet.open(tmp_path / "set.zip")


@pytest.mark.parametrize("name", ["set", "set (1)", "set - Copy", "new", "sets", "s"])
def test_a_folder_that_was_packed_whole_is_read(name: str, tmp_path: Path) -> None:
    """As 'Compress' does, and a browser that loads it twice."""
    root = folder_of(tmp_path / "set", f"{HEADER}\nimages/a.png,A,train,g\n", "images/a.png")
    path = zipped(root, tmp_path / f"{name}.zip", "set/")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("__MACOSX/set/._manifest.csv", "x")
    patches = PatchSet.open(path)
    assert patches.records == PatchSet.open(root).records and patches.notes == ()
    assert len(patches.images()) == 1
    folder = folder_of(tmp_path / "other", None, "A/a.png", "B/b.png")
    zipped(folder, path, "set/")
    if name in (
        "new",
        "sets",
        "s",
    ):  # 'set' may be the only class, and the folders below its patients
        with pytest.raises(ValueError, match=r"level 1 \(1 name\): 'set'; level 2 \(2 names\)"):
            PatchSet.open(path)
        return
    patches = PatchSet.open(path)
    assert patches.classes == ("A", "B") and paths(patches)[0] == "set/A/a.png"
    note = f"The folder 'set', alone at the top of '{path}', is taken for no class."
    assert (note in patches.notes) is (name != "set")


def test_a_command_in_a_remedy_can_be_typed(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my set", None, "x/A/a.png", "y/B/b.png")
    with pytest.raises(ValueError, match=f"histodiff-check '{root}' --class_level N"):
        PatchSet.open(root)


def test_two_manifests_are_refused(tmp_path: Path) -> None:
    """On a disk that tells capitals apart, and in a zip, both can be there."""
    root = folder_of(tmp_path / "set", f"{HEADER}\na.png,A,train,g\n", "a.png")
    with zipfile.ZipFile(zipped(root, tmp_path / "set.zip"), "a") as file:
        file.writestr("Manifest.csv", f"{HEADER}\na.png,B,train,g\n")
    with pytest.raises(ValueError, match="must have one manifest.csv, got Manifest.csv and man"):
        PatchSet.open(tmp_path / "set.zip")


def test_one_folder_around_the_classes_is_named_with_its_remedy(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "mine/A/1.png", "mine/B/1.png")
    with pytest.raises(
        ValueError, match="point at, or pack, 'mine' itself, say which level names"
    ):
        PatchSet.open(root)
    assert PatchSet.open(root / "mine").classes == ("A", "B")


@pytest.mark.parametrize("text", ["1_0", "\u0661", " 1", "0x10", "", "one"])
def test_numbers_are_of_plain_digits(text: str) -> None:
    with pytest.raises(ValueError, match="a number must be of plain digits"):
        number(text)
    assert [number(t) for t in ("-1", "0.5", ".5", "1e-3", "inf")] == [
        -1,
        0.5,
        0.5,
        1e-3,
        math.inf,
    ]


def test_numbers_of_our_own_tables_too(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{HEADER},seed\na.png,A,,g,1_0\n")
    (row,) = read_rows(tmp_path / "x.csv", ["seed"])
    for read in (row.whole, lambda name: row.real(name, 0, 99)):
        with pytest.raises(ValueError, match="seed must be a .*number, got '1_0' in line 2"):
            read("seed")


def test_groups_of_one_name_in_two_sources_are_told(tmp_path: Path) -> None:
    for source, parts in (("a", ("", "train")), ("b", ("", "test")), ("c", ("", "train"))):
        for kind, split in zip(("plain", "split"), parts, strict=True):
            groups = ("3", "4") if source == "c" else ("1", "2")
            rows = "".join(f"{g}.png,A,{g},{split}\n" for g in groups)
            folder = tmp_path / kind / source
            folder.mkdir(parents=True)
            (folder / "manifest.csv").write_text(f"path,label,group,split\n{rows}")
            for group in groups:
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{group}.png")
    plain, torn = ([tmp_path / kind / source for source in "abc"] for kind in ("plain", "split"))
    told = f"'{plain[0]}' and '{plain[1]}' have 2 groups of one name, such as '1': each is taken"
    assert [note for note in PatchSet.open(plain).notes if note.startswith(told)]
    assert not [note for note in PatchSet.open(plain[1:]).notes if "one name" in note]
    with pytest.raises(
        ValueError,
        match=r"'1' in 'test' and 'train': '.*a' and '.*b' have this name: if it is one patient,"
        " record one for it; if not, rename it in one",
    ):
        PatchSet.open(torn)
