"""Sources give the bytes that they list, and damaged, locked or oversized ones are refused;
written sets are complete or not there.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from making import HEADER, encoded, folder_of, gradient, zipped

from monai_histodiff import PatchSet
from monai_histodiff.data import Limits
from monai_histodiff.data.patch_files import PatchRecord, PatchSource, write_patches


def paths(patches: PatchSet) -> list[str]:
    return [r.path for r in patches.records]


def test_zip_made_on_a_mac(tmp_path: Path) -> None:
    path = zipped(
        folder_of(tmp_path / "set", None, "A/a.png", "B/b.png"), tmp_path / "set.zip", "set/"
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/set/A/._a.png", b"a resource fork")
    patches = PatchSet.open(path)
    assert paths(patches) == ["set/A/a.png", "set/B/b.png"] and patches.classes == ("A", "B")


@pytest.mark.parametrize("name", ["../evil.png", "A/../../evil.png", "A\\..\\..\\evil.png"])
def test_names_that_lead_out_of_a_zip_are_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, encoded(gradient(), "PNG"))
        archive.writestr("manifest.csv", f"{HEADER}\n{name},A,train,g\n")
    with pytest.raises(ValueError, match="must not lead out of it, got '.*evil.png' in '.*: pack"):
        PatchSet.open(tmp_path / "evil.zip")


def test_dots_and_slashes_before_a_name_in_a_zip_hide_nothing(tmp_path: Path) -> None:
    names = ["./A/1.png", "/B/2.png", "A//3.png", ".//./B/4.png"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, encoded(np.full((8, 8, 3), i, np.uint8), "PNG"))
    patches = PatchSet.open(tmp_path / "set.zip")
    assert paths(patches) == ["A/1.png", "A/3.png", "B/2.png", "B/4.png"]
    assert [int(patches[i]["image"].max()) for i in range(4)] == [0, 2, 1, 3]
    with zipfile.ZipFile(tmp_path / "set.zip", "a") as archive:
        archive.writestr("A/1.png", encoded(gradient(), "PNG"))
    with pytest.raises(ValueError, match="'A/1.png' twice .* as './A/1.png' and 'A/1.png'"):
        PatchSet.open(tmp_path / "set.zip")


class Unmarked(zipfile.ZipInfo):
    """An entry whose name is not marked as UTF-8, in an encoding of its own."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_names_in_a_zip_that_are_not_marked_as_utf8(encoding: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, name in enumerate(("Dr\u00fcse/1.png", "B/2.png")):
            entry = Unmarked(name)
            entry.encoding = encoding
            archive.writestr(entry, encoded(np.full((8, 8, 3), i, np.uint8), "PNG"))
    patches = PatchSet.open(tmp_path / "set.zip")
    assert patches.classes == ("B", "Dr\u00fcse")
    assert [int(patches[i]["image"].max()) for i in range(2)] == [1, 0]


def test_an_empty_class_folder_does_not_vanish_from_a_zip(tmp_path: Path) -> None:
    path = zipped(folder_of(tmp_path / "set", None, "A/a.png"), tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("B/", b"")
    with pytest.raises(ValueError, match="got 0 other files and no picture in '.*B'"):
        PatchSet.open(path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png")
    try:
        os.mkdir(os.fsencode(root) + b"/Dr\xfcse")
    except OSError:
        pytest.skip("this disk takes UTF-8 names only")
    with pytest.raises(ValueError, match=r"must be UTF-8 text, got b'Dr\\xfcse' in .*: rename it"):
        PatchSet.open(root)


def test_a_folder_is_reached_once(tmp_path: Path) -> None:
    """Twelve folders, each with two links to the next, would be thousands."""
    for i in range(12):
        folder_of(tmp_path / f"{i}", None, "a.png")
    for i in range(11):
        for name in "xy":
            (tmp_path / f"{i}" / name).symlink_to(tmp_path / f"{i + 1}")
    with pytest.raises(ValueError, match="that the set has already, got '.*y' and '.*x', which"):
        PatchSet.open(tmp_path / "0")


@pytest.mark.parametrize("name", [" x/A/1.png", "x/A/1\n.png"])
def test_paths_that_a_table_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, name, "y/B/2.png")
    with pytest.raises(
        ValueError, match="a path must be without blanks around it, and .*: rename"
    ):
        PatchSet.open(root, class_level=2)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    """Reading takes blanks around cells off: hence they cannot be written."""
    for record in (PatchRecord(" a.png", "A", "", "g"), PatchRecord("a.png", "A", "", "g ")):
        with pytest.raises(ValueError, match="must be without blanks around it, got"):
            write_patches(tmp_path / "copy", [(record, gradient())])
    assert not list(tmp_path.iterdir())
    root = folder_of(tmp_path / "set", None, "x/A/=1.png", "y/B/'2.png", "y/B/Mu\u0308 1.png")
    patches = PatchSet.open(root, class_level=2)
    copy = PatchSet.open(patches.write(tmp_path / "copy"))
    assert copy.notes == patches.notes
    assert [r.group for r in copy.records] == [r.group for r in patches.records]
    assert [(r.path, r.label) for r in copy.records] == [
        (r.path, r.label) for r in patches.records
    ]


def test_write_copies_byte_for_byte(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "set",
        f'{HEADER},note\na.png,A,train,g1,\nsub/b.png,,test,g2,"x, ""y"""\n',
        "a.png",
        "sub/b.png",
    )
    (root / "a.png").write_bytes(b"these bytes are not even a picture")
    patches = PatchSet.open(zipped(root, tmp_path / "set.zip"))
    copy = patches.write(tmp_path / "new" / "copy")
    assert PatchSet.open(copy).records == patches.records
    for name in ("a.png", "sub/b.png"):
        assert (copy / name).read_bytes() == (root / name).read_bytes()
    part = PatchSet.open(patches.select("test").write(tmp_path / "part"))
    assert paths(part) == ["sub/b.png"] and not (tmp_path / "part" / "a.png").exists()


def test_write_keeps_patches_of_several_sources_apart(tmp_path: Path) -> None:
    roots = [
        folder_of(tmp_path / name, f"{HEADER}\na.png,{name},train,{name}\n", "a.png")
        for name in ("A", "B")
    ]
    (roots[1] / "a.png").write_bytes(encoded(np.full((8, 8, 3), 7, np.uint8), "PNG"))
    copy = PatchSet.open(PatchSet.open(roots).write(tmp_path / "copy"))
    assert [(r.label, r.group) for r in copy.records] == [("A", "A"), ("B", "B")]
    assert [int(copy[i]["image"].max()) for i in range(2)] == [0, 7]


def test_failing_write_leaves_nothing(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    patches = PatchSet.open(root)
    (root / "B" / "b.png").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError):
        patches.write(tmp_path / "out" / "copy")
    assert not list((tmp_path / "out").iterdir())
    twice = [(PatchRecord("a.png", "A", "", g), gradient()) for g in "12"]
    with pytest.raises(ValueError, match="its own path, got 'a.png' twice"):
        write_patches(tmp_path / "out" / "copy", twice)
    assert not list((tmp_path / "out").iterdir())


def test_write_needs_a_new_or_empty_folder(tmp_path: Path) -> None:
    patches = PatchSet.open(folder_of(tmp_path / "set", None, "A/a.png"))
    (tmp_path / "empty").mkdir()
    patches.write(tmp_path / "empty")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == ["A", "manifest.csv"]
    before = (tmp_path / "empty" / "manifest.csv").read_bytes()
    with pytest.raises(
        FileExistsError,
        match="a new folder is needed, got '.*empty', which is not empty",
    ):
        patches.write(tmp_path / "empty")
    assert (tmp_path / "empty" / "manifest.csv").read_bytes() == before


def test_source_reads_what_it_lists(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png")
    for source in (PatchSource(root), PatchSource(zipped(root, tmp_path / "set.zip"))):
        assert (
            source.names == ["A/a.png"]
            and source.read("A/a.png") == (root / "A" / "a.png").read_bytes()
        )


# ----------------------------------------------------------------------------------------- zips

METHOD, FLAGS = 10, 8  # offsets in an entry of the central directory


def spoilt(path: Path, offset: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + offset] = value
    path.write_bytes(bytes(content))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(bytes(content))


ZIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "encrypted": (
        lambda p: spoilt(p, FLAGS, 1),
        "must not be encrypted, got 1 files that are in '.*set.zip', such as 'B/b.png': unpack it",
    ),
    "deflate64": (
        lambda p: spoilt(p, METHOD, 9),
        r"got method 9 .9 is Deflate64. for 'B/b.png' in .*: unpack it and give the folder",
    ),
    "cut": (
        lambda p: p.write_bytes(p.read_bytes()[:-40]),
        "a zip or a table .*, got .*: if it is meant to be a zip, it is damaged or cut",
    ),
    "damaged list": (
        lambda p: spoilt(p, 1, 0),
        "a zip must be whole, got '.*set.zip' .BadZipFile.*: copy it again",
    ),
}


@pytest.mark.parametrize("case", ZIPS)
def test_a_zip_that_cannot_be_read_is_named_when_it_is_opened(case: str, tmp_path: Path) -> None:
    spoil, message = ZIPS[case]
    path = zipped(folder_of(tmp_path / "set", None, "A/a.png", "B/b.png"), tmp_path / "set.zip")
    spoil(path)
    with pytest.raises(ValueError, match=message):
        PatchSet.open(path)


def test_a_damaged_file_in_a_zip_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = zipped(folder_of(tmp_path / "set", None, "A/a.png", "B/b.png"), tmp_path / "set.zip")
    flipped(path)
    patches = PatchSet.open(path)
    with pytest.raises(ValueError, match="must be whole, got 'A/a.png' damaged in '.*set.zip'"):
        patches[0]
    assert patches[1]["label"] == 1


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for _ in range(2):
            archive.writestr("A/a.png", encoded(gradient(), "PNG"))
    with pytest.raises(ValueError, match="must hold each name once, got 'A/a.png' twice"):
        PatchSet.open(tmp_path / "set.zip")


def test_a_zip_made_on_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("A\\a.png", encoded(gradient(), "PNG"))
        archive.writestr(".\\B\\b.png", encoded(gradient(), "PNG"))
    patches = PatchSet.open(tmp_path / "set.zip")
    assert paths(patches) == ["A/a.png", "B/b.png"] and patches[1]["image"].shape == (3, 24, 40)


def test_a_class_folder_without_pictures_does_not_vanish_from_a_zip(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png")
    (root / "B").mkdir()
    (root / "B" / "b.gif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"got 1 other file \(.gif 1\) and no picture in .*B'"):
        PatchSet.open(zipped(root, tmp_path / "set.zip"))


# --------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("as_zip", [False, True])
def test_bytes_are_weighed_before_they_are_read(as_zip: bool, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    (root / "B" / "b.png").write_bytes(b"\0" * 5000)
    source = zipped(root, tmp_path / "set.zip") if as_zip else root
    patches = PatchSet.open(source, limits=Limits(bytes=4999))
    assert patches[0]["image"].shape == (3, 8, 8)
    with pytest.raises(ValueError, match="at most 4,999 bytes, got 5,000 in 'B/b.png': raise the"):
        patches[1]
    with pytest.raises(ValueError, match="must be a readable picture"):
        PatchSet.open(source, limits=Limits(bytes=5000))[1]


def test_a_manifest_is_weighed_too(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", f"{HEADER}\n" + "\n" * 3000, "a.png")
    path = zipped(root, tmp_path / "set.zip")
    assert path.stat().st_size < 1000, "a small file that unpacks to a large one"
    with pytest.raises(ValueError, match="at most 999 bytes, got 3,023 in 'manifest.csv'"):
        PatchSet.open(path, limits=Limits(bytes=999))


def test_pixels_are_limited_by_the_same_argument(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    with pytest.raises(ValueError, match="at most 63 pixels, got 8 x 8 in '.*A/a.png'"):
        PatchSet.open(root, limits=Limits(pixels=63))[0]
    with pytest.raises(ValueError, match="at most 63 pixels"):
        PatchSet.open(root, limits=Limits(pixels=63)).sizes()


def test_what_is_no_path_is_told_how_to_become_a_set(tmp_path: Path) -> None:
    remedy = "write a MONAI datalist as a patch set, by write_patches"
    with pytest.raises(TypeError, match=f"dataset_dir must be a path, got a dict: {remedy}"):
        PatchSet.open([{"image": "a.png", "label": 0}])  # type: ignore[list-item]
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(ValueError, match=f"must be a folder, a zip or .*list.json': {remedy}"):
        PatchSet.open(tmp_path / "list.json")


def test_a_path_that_leads_out_of_the_manifests_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "set" / "manifest.csv").write_text("path,label\n../a.png,A\n")
    with pytest.raises(ValueError, match=r"must not lead out of .*, got '../a.png' at line 2"):
        PatchSet.open(tmp_path / "set")
