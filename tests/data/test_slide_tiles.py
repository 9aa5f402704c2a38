"""Many slides become one patch set: each once, complete or not at all; every failure is told."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import draft_of
from PIL import Image
from slides_painted import disc, write_slide

from monai_histodiff import PatchSet
from monai_histodiff.commands.tiles import main
from monai_histodiff.data import slide_tiles
from monai_histodiff.data.slide_files import find_slides, slide_sha256
from monai_histodiff.data.slide_folder import SlideReport
from monai_histodiff.data.slide_groups import SlideRow, read_slide_table, slide_rows
from monai_histodiff.data.slide_reader import open_slide
from monai_histodiff.data.slide_tiles import TileSettings, cut_slides
from monai_histodiff.data.slides import View

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")
SMALL = TileSettings(size=32, per_slide=6)


@pytest.fixture
def slides(tmp_path: Path) -> dict[str, Path]:
    """Three slides of 600 x 480 um: two patients."""
    (tmp_path / "in").mkdir()
    for name, radius in (("P1-a", 300), ("P1-b", 350), ("P2-a", 400)):
        write_slide(tmp_path / "in" / f"{name}.svs", disc(1200, 960, radius)[0])
    return find_slides([tmp_path / "in"])


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_slides_become_a_patch_set_whose_rows_tell_where_each_tile_is(
    slides: dict[str, Path], tmp_path: Path
) -> None:
    reports = cut_slides(slides, tmp_path / "out", SMALL, progress=False)
    assert [(r.slide, r.kept, r.error) for r in reports] == [
        ("P1-a", 6, ""),
        ("P1-b", 6, ""),
        ("P2-a", 6, ""),
    ]
    assert all(r.found == 18 * 15 == r.kept + r.background + r.beyond for r in reports)
    patches = PatchSet.open(tmp_path / "out")
    assert not [note for note in patches.notes if "manifest" in note], "overviews are no patches"
    assert (
        len(patches) == 18
        and sorted(set(patches.groups)) == ["P1-a", "P1-b", "P2-a"]
        and patches.classes == ()
    )
    for i, record in enumerate(patches.records):
        assert record.extra["um_per_px"] == "1.0" and (record.label, record.split) == ("", "")
        x, y = (
            int(record.extra["x"]) // 2,
            int(record.extra["y"]) // 2,
        )  # a pixel of 1 um is two of the slide
        slide = open_slide(slides[record.extra["slide"]])
        assert np.array_equal(
            patches[i]["image"].permute(1, 2, 0).numpy(), View(slide, 1.0).read(x, y, 32, 32)
        )
    for name in slides:
        with Image.open(tmp_path / "out" / "tiles" / name / "overview.jpg") as picture:
            assert picture.size == (75, 60)
    assert [row["kept"] for row in table(tmp_path / "out" / "slides.csv")] == ["6", "6", "6"]


def test_processes_cut_the_same_tiles(slides: dict[str, Path], tmp_path: Path) -> None:
    one = cut_slides(slides, tmp_path / "one", SMALL, progress=False)
    two = cut_slides(slides, tmp_path / "two", SMALL, workers=2, progress=False)
    assert one == two
    assert PatchSet.open(tmp_path / "one").digest() == PatchSet.open(tmp_path / "two").digest()


def test_a_slide_that_is_done_is_not_cut_again(slides: dict[str, Path], tmp_path: Path) -> None:
    first = cut_slides({"P1-a": slides["P1-a"]}, tmp_path / "out", SMALL, progress=False)
    slides["P1-a"].unlink()  # whoever opened it now would fail
    later = cut_slides(slides, tmp_path / "out", SMALL, progress=False)
    assert later[0] == first[0] and [r.error for r in later] == ["", "", ""]
    assert len(PatchSet.open(tmp_path / "out")) == 18
    again = cut_slides(
        {"P2-a": slides["P2-a"]},
        tmp_path / "out",
        SMALL,
        {"P2-a": SlideRow("p2", "tumour")},
        progress=False,
    )
    assert again == later[2:]
    patches = PatchSet.open(tmp_path / "out")  # slides that this call did not name keep their rows
    assert {(r.group, r.label, r.split) for r in patches.records} == {
        ("P1-a", "", ""),
        ("P1-b", "", ""),
        ("p2", "tumour", ""),
    }
    assert [row["slide"] for row in table(tmp_path / "out" / "slides.csv")] == [
        "P1-a",
        "P1-b",
        "P2-a",
    ]


def test_what_was_written_into_the_manifest_is_not_lost(
    slides: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that says nothing of labels and splits wiped those of all tiles."""
    root, groups = tmp_path / "out", {name: SlideRow(name[:2]) for name in slides}
    known = {name: replace(row, label="tumour", split="train") for name, row in groups.items()}
    cut_slides(slides, root, SMALL, known, progress=False)
    before = (root / "manifest.csv").read_bytes()
    cut_slides(slides, root, SMALL, groups, progress=False)
    assert (root / "manifest.csv").read_bytes() == before
    own = before.replace(b"tumour", b"stroma", 1)
    (root / "manifest.csv").write_bytes(own)
    with pytest.raises(
        ValueError, match="tiles of one slide must have one group, label and split"
    ):
        cut_slides(slides, root, SMALL, groups, progress=False)
    assert (root / "manifest.csv").read_bytes() == own
    path = tmp_path / "table.csv"
    path.write_text("slide,group,class,site\nP1-a,P1,tumour,x\n", encoding="utf-8")
    assert read_slide_table(path) == {"P1-a": SlideRow("P1")}
    assert [record.getMessage().split(" is not")[1] for record in caplog.records[-2:]] == [
        " read: call it 'label' if it is that.",
        " read.",
    ]
    with pytest.raises(ValueError, match=r"group_pattern must be a regular expression, got '\('"):
        slide_rows(slides, group_pattern="(")


def test_a_grey_slide_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    grey = np.repeat(disc(1200, 960, 300)[0][..., :1], 3, 2)
    write_slide(tmp_path / "in" / "grey.svs", grey)
    found = find_slides([tmp_path / "in"])
    (report,) = cut_slides(found, tmp_path / "out", SMALL, progress=False)
    assert report.error.endswith("tissue is what has colour: give --tissue 0 for a grey slide")
    (report,) = cut_slides(found, tmp_path / "all", replace(SMALL, tissue=0.0), progress=False)
    assert report.kept == 6 and not report.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interrupted_slide_leaves_nothing(
    error: Any, slides: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the middle of the second slide: the first is there, nothing of the second, and
    the next call finishes.
    """
    whole = slide_tiles.cut

    def broken(slide: Any, *rest: Any) -> Iterator[Any]:
        for i, item in enumerate(whole(slide, *rest)):
            if i == 3 and slide.path.name == "P1-b.svs":
                raise error
            yield item

    monkeypatch.setattr(slide_tiles, "cut", broken)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            cut_slides(slides, tmp_path / "out", SMALL, progress=False)
        assert sorted(p.name for p in (tmp_path / "out" / "tiles").iterdir()) == ["P1-a"]
        with pytest.raises(ValueError, match="at least one patch"):
            PatchSet.open(tmp_path / "out")
    else:
        told = [r.error for r in cut_slides(slides, tmp_path / "out", SMALL, progress=False)]
        assert told[0] == told[2] == "" and "OSError: no space left on device in" in told[1]
        assert sorted(p.name for p in (tmp_path / "out" / "tiles").iterdir()) == ["P1-a", "P2-a"]
    monkeypatch.undo()
    for name in ("P1-b", "P1"):  # what kills leave
        draft = tmp_path / "out" / "tiles" / draft_of(name)
        draft.mkdir()
        (draft / "half.png").touch()
    cut_slides(slides, tmp_path / "out", SMALL, progress=False)
    assert sorted(p.name for p in (tmp_path / "out" / "tiles").iterdir()) == [
        draft_of("P1"),  # of no slide that was cut: another process may be at it
        "P1-a",
        "P1-b",
        "P2-a",
    ]
    assert len(PatchSet.open(tmp_path / "out")) == 18


def test_slides_that_fail_are_named_and_the_others_go_on(
    slides: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    (folder / "P3-cut.svs").write_bytes(slides["P1-a"].read_bytes()[:20000])
    write_slide(folder / "P4-bare.tif", disc(1200, 960, 300)[0], um=None)
    write_slide(folder / "P5-glass.svs", np.full((960, 1200, 3), 240, np.uint8))
    write_slide(folder / "P6-coarse.svs", disc(1200, 960, 300)[0], um=2.0)
    arguments = [str(folder), str(tmp_path / "out"), "--size", "32", "--per_slide", "6"]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "P1-a: 6 tiles kept of 270 found (201 background, 63 beyond per_slide)"
    assert lines[3].startswith("P3-cut: FAILED: a slide must be ")
    assert (
        lines[4].startswith("P4-bare: FAILED: a slide must state its micrometres per pixel")
        and "--slide_um_per_px" in lines[4]
    )
    assert lines[5] == "P5-glass: FAILED: no tissue in any of 270 places"
    assert lines[6].startswith(
        "P6-coarse: FAILED: um_per_px must be at least the slide's own, 2, got 1"
    )
    assert lines[7] == f"18 tiles of 3 slides in '{tmp_path / 'out'}'; 4 slides failed"
    assert len(PatchSet.open(tmp_path / "out")) == 18
    with pytest.raises(SystemExit):  # the spacing may be given later
        main([*arguments, "--slide_um_per_px", "0.5"])
    assert "24 tiles of 4 slides" in capsys.readouterr().out
    for name in ("P3-cut.svs", "P5-glass.svs", "P6-coarse.svs"):
        (folder / name).unlink()
    main(
        [*arguments, "--slide_um_per_px", "0.5", "--group_pattern", "^(P.)"]
    )  # all is well: no exit
    assert sorted(set(PatchSet.open(tmp_path / "out").groups)) == ["P1", "P2", "P4"]


def test_the_command_passes_on_what_is_wrong_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "none.svs"), str(tmp_path / "out")])
    assert (
        stopped.value.code == 1
        and capsys.readouterr().err == f"a slide must exist, got '{tmp_path / 'none.svs'}'\n"
    )


def test_a_forgotten_folder_of_the_tiles_is_told(
    slides: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(slides["P1-a"]), str(slides["P1-a"])])
    told = capsys.readouterr().err
    assert told.startswith("OUT, the last argument, must be a folder, got the file '")


def test_tiles_of_one_folder_are_cut_alike(slides: dict[str, Path], tmp_path: Path) -> None:
    cut_slides({"P1-a": slides["P1-a"]}, tmp_path / "out", SMALL, progress=False)
    with pytest.raises(
        ValueError,
        match=(
            r"must be cut alike, got size 32 and not 64, um_per_px 1.0 and not 2.0 in '.*out': "
            r"give a new"
        ),
    ):
        cut_slides(
            slides,
            tmp_path / "out",
            TileSettings(um_per_px=2.0, size=64, per_slide=6),
            progress=False,
        )
    with pytest.raises(
        ValueError, match="must go into a new folder, or one of theirs, got '.*in'"
    ):
        cut_slides(slides, tmp_path / "in", SMALL, progress=False)
    (tmp_path / "in" / "other").mkdir()
    other = write_slide(tmp_path / "in" / "other" / "P1-a.tif", disc(1200, 960, 300)[0])
    with pytest.raises(
        ValueError,
        match=(
            r"a slide's name must mean one file, got '.*P1-a.tif' where .* has tiles of "
            r"'.*P1-a.svs'"
        ),
    ):
        cut_slides({"P1-a": other}, tmp_path / "out", SMALL, progress=False)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        cut_slides(slides, tmp_path / "out", SMALL, workers=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"um_per_px": 0}, "um_per_px must be a number of micrometres per pixel, from 0.02 to 16"),
        ({"um_per_px": 20}, "from 0.02 to 16, got 20"),
        ({"slide_um_per_px": -1.0}, "slide_um_per_px must be above 0, got -1.0"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"tissue": 50}, r"tissue must lie in \[0, 1\], got 50"),
        ({"per_slide": 0}, "per_slide must be at least 1, got 0"),
        ({"format": "bmp"}, "format must be one of png, jpg, got bmp"),
    ],
)
def test_settings_are_checked_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TileSettings(**options)


def test_jpeg_tiles_are_nearly_the_png_ones(slides: dict[str, Path], tmp_path: Path) -> None:
    for form in ("png", "jpg"):
        cut_slides(
            {"P1-a": slides["P1-a"]},
            tmp_path / form,
            TileSettings(size=32, format=form, per_slide=6),
            progress=False,
        )
    png, jpg = (PatchSet.open(tmp_path / form) for form in ("png", "jpg"))
    assert (
        jpg.records[0].path.endswith(".jpg")
        and (png.images().float() - jpg.images().float()).abs().mean() < 6
    )


# ------------------------------------------------------------------------------------------ groups


def test_groups_come_from_a_table_a_pattern_or_the_slide(tmp_path: Path) -> None:
    slides = {"P1-a": tmp_path / "P1-a.svs", "P2-a": tmp_path / "P2-a.svs"}
    assert slide_rows(slides) == {"P1-a": SlideRow("P1-a"), "P2-a": SlideRow("P2-a")}
    assert slide_rows(slides, group_pattern=r"^(P\d)-") == {
        "P1-a": SlideRow("P1"),
        "P2-a": SlideRow("P2"),
    }
    assert slide_rows(slides, group_pattern=r"\d")["P2-a"].group == "2"
    path = tmp_path / "table.csv"
    path.write_text(
        "﻿slide,group,label,split\nP1-a, anna ,tumour,train\nP2-a.svs,bert,,test\nP9,x,,\n",
        encoding="utf-8",
    )
    rows = slide_rows(slides, read_slide_table(path))
    assert rows == {
        "P1-a": SlideRow("anna", "tumour", "train"),
        "P2-a": SlideRow("bert", "", "test"),
    }


TABLES = {
    "columns": (
        "slide,patient\nA,x\n",
        r"must have the columns .* none named \['group'\] .*: rename 'patient' to 'group'$",
    ),
    "empty": (
        "slide,group\nA,x\nB,\n",
        "a row must name slide and group, got 'B' and '' in line 3",
    ),
    "twice": ("slide,group\nA,x\nA,y\n", "list each slide once, got 'A' again in line 3 of"),
    "long row": (
        "slide,group,label\nA,x,ADC,train\n",
        r"more cells than the header, got \['train'",
    ),
    "short row": (
        "slide,group,split,label\nA,x,train\n",
        "4 cells of the header, got 3 at line 2",
    ),
    "split": (
        "slide,group,split\nA,x,fold1\n",
        "split must be 'train', .* got 'fold1' for 'A' \\(line 2",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_is_checked_line_by_line(case: str, tmp_path: Path) -> None:
    text, message = TABLES[case]
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_slide_table(tmp_path / "table.csv")


def test_a_table_is_read_as_a_manifest_is(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("Slide;GROUP;Label;Split\nA;x;ADC;Training\n", encoding="utf-8")
    assert read_slide_table(path) == {"A": SlideRow("x", "ADC", "train")}
    path.write_bytes("slide,group\nA,Dr\u00fcse\n".encode("latin-1"))
    with pytest.raises(ValueError, match="a table must be UTF-8 text, .*: save it as 'CSV UTF-8'"):
        read_slide_table(path)


def test_groups_are_checked_before_any_slide_is_opened(tmp_path: Path) -> None:
    slides = {"A": tmp_path / "A.svs", "B": tmp_path / "B.svs"}
    with pytest.raises(
        ValueError, match="the table must list every slide, got none named 'B': add a row"
    ):
        slide_rows(slides, {"A": SlideRow("x")})
    with pytest.raises(
        ValueError, match="group_pattern must match every slide's name, got none in 'B' for 'A'"
    ):
        slide_rows(slides, group_pattern="A")
    with pytest.raises(ValueError, match="got both: leave one out"):
        slide_rows(slides, {}, "A")
    with pytest.raises(
        ValueError,
        match="a group must lie in one split only, .* such as 'x' in 'test' and 'train'",
    ):
        slide_rows(slides, {"A": SlideRow("x", split="train"), "B": SlideRow("x", split="test")})


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            SlideRow("x", "ADC"),
            SlideRow("y", "adc"),
            "two labels must .* 'ADC' .slide 'A'.* 'adc'",
        ),
        (SlideRow("P1"), SlideRow("p1"), "two groups must .* 'P1' .slide 'A'.* and 'p1'"),
        (SlideRow("x"), SlideRow("y", "B\u200b"), r"a label must be .*200b' \(slide 'B'"),
        (SlideRow("x "), SlideRow("y"), r"a group must be .* got 'x ' \(slide 'A'"),
    ],
)
def test_names_are_checked_before_any_slide_is_opened(
    a: SlideRow, b: SlideRow, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        slide_rows({"A": tmp_path / "A.svs", "B": tmp_path / "B.svs"}, {"A": a, "B": b})
    with pytest.raises(ValueError, match="a slide must be printable text, .* got 'A.nB'"):
        slide_rows({"A\nB": tmp_path / "A\nB.svs"}, group_pattern="A")


def test_a_slide_has_one_row_and_all_have_a_split_or_none(tmp_path: Path) -> None:
    slides = {"A": tmp_path / "A.svs", "B": tmp_path / "B.svs"}
    twice = {"A": SlideRow("x"), "A.svs": SlideRow("y"), "B": SlideRow("z")}
    with pytest.raises(ValueError, match="each slide once, got 'A' and 'A.svs', which are one"):
        slide_rows(slides, twice)
    half = {"A": SlideRow("x", split="train"), "B": SlideRow("y")}
    with pytest.raises(ValueError, match="every slide or for none, got 1 of 2 without, .* 'B'"):
        slide_rows(slides, half)


def test_a_report_tells_itself() -> None:
    assert str(SlideReport("s", "s.svs", error="gone")) == "s: FAILED: gone"


def test_tiles_of_a_slide_that_has_changed_are_not_taken_for_its_own(tmp_path: Path) -> None:
    file = write_slide(tmp_path / "P1.tif", disc(1200, 960, 300)[0])
    settings = TileSettings(um_per_px=2.0, size=64)
    (report,) = cut_slides({"P1": file}, tmp_path / "out", settings, progress=False)
    assert report.bytes == file.stat().st_size > 0 and not report.error
    assert cut_slides({"P1": file}, tmp_path / "out", settings, progress=False) == [report]
    write_slide(file, disc(1200, 960, 200)[0])
    with pytest.raises(
        ValueError, match="must be what its tiles are cut from, got .* and tiles of another"
    ):
        cut_slides({"P1": file}, tmp_path / "out", settings, progress=False)
    shutil.rmtree(tmp_path / "out/tiles/P1")
    (again,) = cut_slides({"P1": file}, tmp_path / "out", settings, progress=False)
    assert again.kept < report.kept


def rows_of(folder: Path) -> set[SlideRow]:
    return {SlideRow(r.group, r.label, r.split) for r in PatchSet.open(folder).records}


def test_options_that_are_forgotten_wipe_nothing(
    slides: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", "slide,group,label,split\nP1-a,P1,T,train\nP1-b,P1,T,train\n"
    (tmp_path / "table.csv").write_text(whole + "P2-a,P2,N,test\n", encoding="utf-8")
    (tmp_path / "better.csv").write_text(whole.replace(",T,", ",X,"), encoding="utf-8")
    arguments = [str(tmp_path / "in"), str(out), "--size", "32", "--per_slide", "6"]
    main([*arguments, "--table", str(tmp_path / "table.csv")])
    found = rows_of(out)
    assert found == {SlideRow("P1", "T", "train"), SlideRow("P2", "N", "test")}
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.endswith(
        f"a table or a pattern where they did before, got none, and --table in '{out}': give it"
        " again, or a new folder\n"
    )
    assert rows_of(out) == found
    main([*arguments, "--group_pattern", r"(P\d)"])  # says nothing of labels and split: they stay
    assert rows_of(out) == found
    one = [str(slides["P1-a"]), *arguments[1:]]  # a table holds for slides that are not given, too
    main([*one, "--table", str(tmp_path / "better.csv")])
    assert rows_of(out) == {SlideRow("P1", "X", "train"), SlideRow("P2", "N", "test")}


def test_a_folder_of_an_earlier_version_keeps_its_rows_too(
    slides: dict[str, Path], tmp_path: Path
) -> None:
    out, first = tmp_path / "out", {"P1-a": slides["P1-a"]}
    cut_slides(first, out, SMALL, group_pattern=r"P\d", progress=False)
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("groups") == r"--group_pattern 'P\d'"
    (out / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(
        ValueError, match="not get lost, .* group 'P1', label '' and split '' recorded for 'P1-a'"
    ):
        cut_slides(slides, out, SMALL, progress=False)


def test_one_patient_has_one_group_and_all_slides_a_split(
    slides: dict[str, Path], tmp_path: Path
) -> None:
    out, first = tmp_path / "out", {"P1-a": slides["P1-a"]}
    cut_slides(first, out, SMALL, progress=False)
    cut_slides({"P1-b": slides["P1-b"]}, out, SMALL, None, r"P\d", progress=False)
    assert rows_of(out) == {SlideRow("P1")}
    last = {"P2-a": slides["P2-a"]}
    with pytest.raises(ValueError, match="for every slide or for none, got 2 of 3 without"):
        cut_slides(last, out, SMALL, {"P2-a": SlideRow("P2", "", "test")}, progress=False)
    with pytest.raises(ValueError, match="two groups must .* 'P1' .* and 'p1'"):
        cut_slides(last, out, SMALL, {"P2-a": SlideRow("p1")}, progress=False)


def test_what_a_killed_call_has_cut_is_in_the_set_of_the_next(
    slides: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cut_slides({"P1-a": slides["P1-a"]}, out, SMALL, progress=False)
    (out / "manifest.csv").unlink()  # written last
    cut_slides({"P2-a": slides["P2-a"]}, out, SMALL, progress=False)
    assert rows_of(out) == {SlideRow("P1-a"), SlideRow("P2-a")}


def test_tables_of_tiles_hold_no_formulas_and_read_back(tmp_path: Path) -> None:
    file = write_slide(tmp_path / "=1+1.svs", disc(1200, 960, 300)[0])
    known = {"=1+1": SlideRow("@SUM(A1)", "-HER2")}
    for _ in range(2):  # the second reads what the first wrote
        cut_slides({"=1+1": file}, tmp_path / "out", SMALL, known, progress=False)
        assert rows_of(tmp_path / "out") == set(known.values())
        for name in ("manifest.csv", "slides.csv", "tiles/=1+1/tiles.csv"):
            cells = [c for row in table(tmp_path / "out" / name) for c in row.values()]
            assert any(c.startswith("'=") for c in cells), name
            assert not any(c.startswith(("=", "@", "-")) for c in cells), name


def test_a_slide_of_as_many_bytes_is_another(tmp_path: Path) -> None:
    picture, file = disc(1200, 960, 300)[0], tmp_path / "P1.tif"
    write_slide(file, picture, compression=None)
    (report,) = cut_slides({"P1": file}, tmp_path / "out", SMALL, progress=False)
    write_slide(file, picture[:, ::-1].copy(), compression=None)
    assert file.stat().st_size == report.bytes
    with pytest.raises(ValueError, match="must be what its tiles are cut from, .* remove '.*P1'"):
        cut_slides({"P1": file}, tmp_path / "out", SMALL, progress=False)
    told = tmp_path / "out/tiles/P1/report.json"  # an earlier version knew the size alone
    told.write_text(json.dumps({k: v for k, v in vars(report).items() if k != "sha256"}))
    (old,) = cut_slides({"P1": file}, tmp_path / "out", SMALL, progress=False)
    assert old.bytes == report.bytes and not old.sha256
    for text, message in (
        ("{", "must be whole JSON"),
        ('{"slide": 1, "file": "f"}', "got slide 1"),
    ):
        told.write_text(text)
        with pytest.raises(
            ValueError, match=f"{message}.*: delete its folder, and cut that slide"
        ):
            cut_slides({"P1": file}, tmp_path / "out", SMALL, progress=False)


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (("s/a.dcm", "s/b.dcm"), "s/notes.txt"),
        (("a.mrxs", "a/Data0.dat"), "b/Data0.dat"),
        (("a.vms", "a-1.jpg"), "b-1.jpg"),
    ],
)
def test_a_slide_is_known_by_all_its_files(
    names: tuple[str, str], other: str, tmp_path: Path
) -> None:
    for name in (*names, other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ImageFile=a-1.jpg")
    file, second = (tmp_path / name for name in names)
    first = slide_sha256(file)
    (tmp_path / other).write_text("no part of it")
    assert slide_sha256(file) == first
    second.write_text("another")
    assert slide_sha256(file) != first and slide_sha256(tmp_path / "gone.svs") == ""


def test_of_a_large_file_the_ends_and_blocks_between_are_looked_at(tmp_path: Path) -> None:
    file, size = tmp_path / "a.svs", 2**22
    found = set()
    for place in (None, 0, size // 31 * 7, size - 1):
        with open(file, "wb") as stream:
            stream.truncate(size)
            if place is not None:
                stream.seek(place)
                stream.write(b"x")
        found.add(slide_sha256(file))
    assert len(found) == 4


def test_rows_of_a_table_without_a_slide_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"A.svs": SlideRow("x"), "B": SlideRow("y"), "C": SlideRow("z")}
    slide_rows({"A": tmp_path / "A.svs"}, rows)
    assert "2 of 3 rows of the table name a slide that is not there, such as 'B'" in caplog.text
