"""The look before work in words and as a page, and what colour alone achieves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_histodiff import PatchSet
from monai_histodiff.commands.check import colour_alone, main, page_of, power_of
from monai_histodiff.data.check import check
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.evaluation.power import Foresight
from monai_histodiff.report.html import picture


@pytest.fixture
def dataset(draw_patches: Callable[..., np.ndarray], tmp_path: Path) -> Path:
    """Three classes of twelve patches, four to a group, one group for testing; and a copy."""
    items = []
    for label, name in enumerate(("blue", "pink", "violet")):
        for i, patch in enumerate(draw_patches(label, 12, 96)):
            split = "test" if i < 4 else "train"
            items.append((PatchRecord(f"{name}/{i}.png", name, split, f"{name}{i // 4}"), patch))
    items.append((PatchRecord("pink/copy.png", "pink", "test", "pink0"), items[20][1]))
    return write_patches(tmp_path / "mine", items)


def test_the_page_shows_the_patch_of_the_source_that_is_told(
    draw_patches: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        pictures = draw_patches(name == "two", 4)
        if name == "one":
            pictures[0] = 200
        items = [
            (PatchRecord(f"{i}.png", "ab"[i % 2], "", f"{name}{i}"), picture)
            for i, picture in enumerate(pictures)
        ]
        write_patches(tmp_path / name, items)
    patches = PatchSet.open([tmp_path / "one", tmp_path / "two"])
    found = check(patches)
    assert found.blank == (str(tmp_path / "one" / "0.png"),)
    sections = {s.title: s.blocks for s in page_of("both", patches, found, {}).sections}
    (blank,), (gallery,) = sections["Blank"][0].tiles, sections["a"]
    grey = picture(np.full_like(pictures[0], 200), "").source
    assert [view.source for view in blank.pictures] == [grey]
    shown = [view.source for tile in gallery.tiles for view in tile.pictures]
    assert len({*shown}) == len(shown) == 4, "each patch of both sources, none twice"


def test_colour_alone_tells_classes_that_differ_in_colour_and_no_others(
    dataset: Path, draw_patches: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    floors = colour_alone(PatchSet.open(dataset), 16)
    assert floors == {"mean colour": 1.0, "colour histogram": 1.0}
    same = draw_patches(1, 200)
    items = [
        (PatchRecord(f"{i}.png", "ab"[i % 2], ("train", "test")[i % 3 == 0], f"g{i}"), patch)
        for i, patch in enumerate(same)
    ]
    floors = colour_alone(PatchSet.open(write_patches(tmp_path / "same", items)), 32)
    assert all(abs(value - 0.5) < 0.17 for value in floors.values())


def test_there_is_no_floor_without_two_classes_on_both_sides(dataset: Path) -> None:
    patches = PatchSet.open(dataset)
    assert colour_alone(patches.select(label="pink"), 16) == {}
    assert colour_alone(patches.select("test"), 16) == {}  # one group each: nothing to hold out


def test_the_command_prints_and_writes_what_was_found(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main([str(dataset)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "class   train  test",
        "blue    8 (2)  4 (1)",
        "pink    8 (2)  5 (1)",
        "violet  8 (2)  4 (1)",
        "(patches, and their groups in brackets)",
    ]
    assert "copies, in pairs: 1" in lines
    assert "labels_per_class: 4 to 8" in lines, "a run needs ten in all"
    assert "mean colour alone: 100 %" in lines and lines[-1] == "page: mine-check.html"
    assert (
        "- 1 pair of different splits are copies: the test is not of new patches, such as "
        "'pink/8.png' and 'pink/copy.png'"
    ) in lines
    power = next(i for i, line in enumerate(lines) if line == "what a verdict could see:")
    foreseen = "With 3 test groups (13 patches), 3 seeds and 1 draw of"
    rule = "Nothing will be claimed: A claim needs at least 10 test groups (patients), got 3"
    assert lines[power + 1].startswith(rule) and foreseen in lines[power + 1]
    assert lines[power + 1] == power_of(PatchSet.open(dataset))
    page = (tmp_path / "mine-check.html").read_text(encoding="utf-8")
    assert "What a verdict could see" in page and "With 3 test groups (13 patches)" in page
    assert "Look first" in page and "pink/copy.png" in page and page.count("<img") >= 3 * 8 + 2


def test_the_page_shows_a_class_by_one_patch_of_each_group_first(dataset: Path) -> None:
    patches = PatchSet.open(dataset)
    page = page_of("mine", patches, check(patches), {})
    (gallery,) = next(s.blocks for s in page.sections if s.title == "pink")
    assert [tile.notes[0].text for tile in gallery.tiles[:4]] == [
        "pink, pink0",
        "pink, pink1",
        "pink, pink2",
        "pink, pink0",
    ]
    (view,) = gallery.tiles[0].pictures
    assert (view.width, view.height) == (96, 96)
    assert page.verdict and page.verdict.tone == "hurts"
    assert page.sections[0].title == "To look at" and page.sections[0].blocks


def test_the_power_and_the_scale_are_those_that_are_asked_for(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main([str(dataset), "--seeds", "9", "--um_per_px", "3.5"])
    out = capsys.readouterr().out
    assert "(13 patches), 9 seeds and 1 draw" in out and "um per px: 3.5" in out
    assert "no um_per_px is recorded" not in out and "the shipped generator needs" not in out
    assert power_of(PatchSet.open(dataset).select("train")) == "", "there is no test part"
    with pytest.raises(SystemExit):
        main([str(dataset), "--seeds", "1"])
    assert "seeds must be a number of them, from 2 to 1000, got 1" in capsys.readouterr().err


def test_the_power_is_that_of_the_usual_arms(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: Any, claims: int) -> Foresight:
        return Foresight(0.1, {}, {}, f"Of {claims}.")

    monkeypatch.setattr("monai_histodiff.commands.check.foresee", told)
    assert power_of(PatchSet.open(dataset)).endswith(" Of 2.")


def test_folders_of_patients_become_a_set(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for record in PatchSet.open(dataset).records:
        target = tmp_path / "deep" / record.label / record.group / Path(record.path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((dataset / record.path).read_bytes())
    (tmp_path / "deep" / "notes.txt").write_text("-")
    with pytest.raises(SystemExit):
        main(["deep"])
    told = capsys.readouterr().err
    assert "--class_level N --group_level N" in told and "N is 1 or 2" in told, "the remedy"
    levels = ["--class_level", "1", "--group_level", "2"]
    main(["deep", *levels, "--um_per_px", "1.02", "--write", "new"])
    out = capsys.readouterr().out
    assert "set: new" in out and "left out or assumed:\n- 1 file of 'deep' (.txt 1) is no" in out
    made = PatchSet.open("new")
    assert len(made) == 37 and set(made.groups) == set(PatchSet.open(dataset).groups)
    assert {r.um_per_px for r in made.records} == {1.02}


def test_a_pattern_of_groups_makes_a_set_with_them(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = dataset / "manifest.csv"
    rows = [line.split(",")[:2] for line in table.read_text().splitlines()]
    table.write_text("\n".join(map(",".join, rows)))
    main([str(dataset), "--group_pattern", r"(.)\.png", "--write", str(tmp_path / "new")])
    assert set(PatchSet.open(tmp_path / "new").groups) == {*"0123456789y"}


def test_too_few_of_a_class_are_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    patches = PatchSet.open(dataset)
    trained = [i for i, r in enumerate(patches.records) if (r.label, r.split) == ("blue", "train")]
    patches.take(sorted(set(range(len(patches))) - set(trained[1:]))).write("rare")
    with pytest.raises(SystemExit) as stopped:
        main(["rare", "--write", "new"])
    told = "labels_per_class: none: 'blue' has 1 to train on, and a run needs 4 of each class"
    found = capsys.readouterr()
    assert told in found.out and stopped.value.code == 1
    why = (
        "the main job refuses this set: each class must have at least 3 labelled patches to train "
        "on, got 1 in 1 group of 'blue': label more of 'blue', of further groups, or leave it out"
    )
    assert found.err == f"{why}\n" and f"to look at:\n- {why}\n" in found.out
    assert why in Path("rare-check.html").read_text().replace("&#39;", "'")
    assert len(PatchSet.open("new")) == 30, "it is written all the same"


def test_what_the_main_job_refuses_is_told_once(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    PatchSet.open(dataset).select(label="pink").write("one")
    for arguments, rule in (
        (["one"], "at least 2 classes are needed, got 1: ['pink']: add labelled patches of anoth"),
        ([str(dataset), "--um_per_px", "0.5"], "patches must be at least 96 x 96 at 1 um per px"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        found = capsys.readouterr()
        assert stopped.value.code == 1
        assert found.err.startswith(f"the main job refuses this set: {rule[:-3]}")
        assert found.out.count(rule[:18]) == 1
        if arguments == ["one"]:
            assert "labels_per_class: none\n" in found.out


def test_what_cannot_be_opened_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "none")])
    assert stopped.value.code == 1 and "must exist, got" in capsys.readouterr().err
