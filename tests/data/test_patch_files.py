"""Sources give the bytes that they list, and damaged, locked or oversized ones are refused;
written sets are complete or not there.
"""

from __future__ import annotations

import os
import zipfile
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


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "A/../../evil.png"])
def test_names_that_lead_out_of_a_zip_are_not_followed(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, encoded(gradient(), "PNG"))
        archive.writestr("manifest.csv", f"{HEADER}\n{name},A,train,g\n")
    with pytest.raises(FileNotFoundError, match="which is not there"):
        PatchSet.open(tmp_path / "evil.zip")


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
        match="must be written into a new folder, got '.*empty', which is not empty",
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
