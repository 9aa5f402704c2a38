"""A damaged picture is an error wherever its format has a check sum, and never one of our bugs."""

from __future__ import annotations

import gzip
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import encoded, gradient, nifti, zipped
from PIL import Image, ImageFile

from monai_histodiff import PatchSet
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pictures import decode_patch
from monai_histodiff.data.zip_entries import zip_entries
from monai_histodiff.utils.pillow_globals import whole_pictures

TRUTH = np.tile(gradient(8, 8), (2, 2, 1))


def outcome(content: bytes, name: str) -> np.ndarray | None:
    """What is read, or ``None`` for an error of ours."""
    try:
        return decode_patch(content, name)
    except ValueError:
        return None


def packed(folder: Path) -> bytes:
    return gzip.compress(nifti(TRUTH.swapaxes(0, 1), "a.nii", folder), mtime=0)


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz"])
def test_no_flipped_bit_passes_a_check_sum(name: str, tmp_path: Path) -> None:
    content = encoded(TRUTH, "PNG") if name == "a.png" else packed(tmp_path)
    assert (decode_patch(content, name) == TRUTH).all()
    for i in range(len(content)):
        flipped = bytearray(content)
        flipped[i] ^= 1 << i % 8
        found = outcome(bytes(flipped), name)
        assert found is None or (found == TRUTH).all(), f"byte {i}"
    assert all(outcome(content[:n], name) is None for n in range(len(content)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pillow, on what it cannot make out
@pytest.mark.parametrize("name", ["a.jp2", "a.j2k", "a.jpg", "a.tif", "a.bmp", "a.webp"])
def test_a_picture_that_was_cut_is_no_picture(name: str) -> None:
    forms = {"jpg": "JPEG", "tif": "TIFF", "bmp": "BMP", "webp": "WEBP"}
    options = {"no_jp2": True} if name == "a.j2k" else {}
    content = encoded(TRUTH, forms.get(name[2:], "JPEG2000"), **options)
    assert decode_patch(content, name).shape == TRUTH.shape
    assert all(outcome(content[:n], name) is None for n in range(len(content)))


def test_damage_to_the_directory_of_a_zip_loses_no_file(tmp_path: Path) -> None:
    """It has no check sum: a flipped length makes Python's reader pass over the files behind."""
    items = [(PatchRecord(f"{k}.png", k, s, k), TRUTH) for k, s in (("A", "train"), ("B", "test"))]
    path = zipped(write_patches(tmp_path / "set", items), tmp_path / "set.zip")
    whole, content = PatchSet.open(path).records, path.read_bytes()
    start = content.index(b"PK\x01\x02")
    for i in range(start, len(content)):
        flipped = bytearray(content)
        flipped[i] ^= 1 << i % 8
        path.write_bytes(flipped)
        try:
            found = PatchSet.open(path)
            pictures = [item["image"].permute(1, 2, 0).numpy() for item in found]
            assert found.records == whole and all((p == TRUTH).all() for p in pictures), i
        except (ValueError, OSError):
            continue


def test_a_zip_of_very_many_files_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(65537):
            archive.writestr(f"{i}", b"")
    assert len(zip_entries(path)[0]) == 65537


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 90, "progressive": True}])
def test_a_jpeg_whose_end_was_never_written_is_refused(options: dict[str, Any]) -> None:
    """As of an interrupted copy into space that was reserved; its thumbnail has an end, too."""
    picture = Image.fromarray(np.repeat(TRUTH, 8, 0))
    small = encoded(TRUTH, "JPEG")
    whole = encoded(picture, "JPEG", exif=b"Exif\0\0" + small, **options)
    assert whole.count(b"\xff\xd9") > 1 and decode_patch(whole, "a.jpg").shape[0] > 8
    assert decode_patch(whole + b"\0" * 99, "a.jpg").shape[0] > 8, (
        "after the end may stand anything"
    )
    for kept in (2, 9, 40):
        cut = whole[:-kept] + b"\0" * kept
        with pytest.raises(ValueError, match="readable picture, got 'a.jpg' .*its end is missing"):
            decode_patch(cut, "a.jpg")


def test_a_cut_picture_is_refused_whatever_pillow_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    picture = Image.fromarray(np.repeat(TRUTH, 8, 0))
    for form in ("BMP", "TIFF"):
        content = encoded(picture, form)
        assert decode_patch(content, "a").shape[0] > 8
        with pytest.raises(ValueError, match="readable picture"):
            decode_patch(content[: len(content) * 2 // 3], "a")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True, "the caller's own"
    with whole_pictures(), ThreadPoolExecutor(1) as other:
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False
        assert other.submit(lambda: decode_patch(encoded(picture, "BMP"), "a")).result().any()
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False, "another thread gave nothing back"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_message_names_the_damage(tmp_path: Path) -> None:
    png, jp2 = bytearray(encoded(TRUTH, "PNG")), encoded(TRUTH, "JPEG2000")
    png[-20] ^= 1
    for name, content, message in (
        ("a.png", bytes(png), "the check sum of its chunk b'IDAT' is wrong: copy it again"),
        ("a.jp2", jp2[:-1], "its end is missing: copy it again"),
        ("a.nii", nifti(TRUTH, "a.nii", tmp_path) + b"x", "tells of 1,120 bytes, and it has oth"),
    ):
        with pytest.raises(ValueError, match=f"readable picture, got '{name}' .*{message}"):
            decode_patch(content, name)
