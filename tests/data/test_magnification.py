"""Patches are read at one magnification: what the new grid cannot hold turns grey, colours stay,
and what needs no change keeps its bytes.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import folder_of, gradient
from PIL import Image

from monai_histodiff import PatchSet
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import resampled
from monai_histodiff.data.reading import patch_hash


def one(folder: Path, picture: np.ndarray, scale: str | None) -> PatchSet:
    extra = {} if scale is None else {"um_per_px": scale}
    return PatchSet.open(
        write_patches(folder, [(PatchRecord("a.png", "A", "", "g", extra), picture)])
    )


def stripes(period: int, side: int = 120) -> np.ndarray:
    wave = np.where(np.arange(side) % period < period / 2, 255, 0).astype(np.uint8)
    return np.broadcast_to(wave[None, :, None], (side, side, 3)).copy()


@pytest.mark.parametrize("period", [2, 3])
def test_a_grating_beyond_the_new_grid_becomes_grey(period: int, tmp_path: Path) -> None:
    """At half the size a period of 3 pixels is 1.5 new ones: above the Nyquist frequency."""
    picture = stripes(period)
    image = one(tmp_path / "set", picture, "0.5").at(1.0)[0]["image"].float()
    assert image.shape == (3, 60, 60)
    inside = image[:, 5:-5, 5:-5]
    assert float((inside - picture.mean()).abs().max()) < 0.12 * 255
    naive = torch.from_numpy(picture[::2, ::2]).float() - picture.mean()
    assert float(naive.abs().max()) > 80, "every second pixel alone would be an alias"


def test_a_grating_that_the_grid_holds_stays(tmp_path: Path) -> None:
    image = one(tmp_path / "set", stripes(12), "0.5").at(1.0)[0]["image"].float()
    truth = torch.from_numpy(stripes(6, 60)).permute(2, 0, 1).float()
    assert float((image - truth).abs().mean()) < 20


def test_colours_are_kept(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    picture[..., 1] //= 3
    for scale in (0.4, 0.77, 1.3):
        patches = one(tmp_path / str(scale), picture, str(scale))
        found = patches.at(1.0)[0]["image"].float().mean((1, 2))
        assert torch.allclose(found, torch.tensor(picture.mean((0, 1))).float(), atol=1.5)
    flat = np.full((64, 64, 3), (200, 130, 180), np.uint8)
    image = one(tmp_path / "flat", flat, "0.7").at(1.0)[0]["image"]
    assert image.flatten(1).unique(dim=1).tolist() == [[200], [130], [180]]


def test_a_ramp_stays_a_ramp(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(20, 148, dtype=np.uint8)[None, :, None], (128, 128, 3))
    image = one(tmp_path / "set", np.ascontiguousarray(ramp), "0.5").at(1.0)[0]["image"].float()
    truth = 20.5 + 2 * torch.arange(64).float()  # the middle of two pixels
    assert float((image[0, 30, 3:-3] - truth[3:-3]).abs().max()) <= 1


@pytest.mark.parametrize("scale", ["1.0", "1", "1.05", "0.95", None])
def test_resampling_by_one_is_the_identity_to_the_byte(scale: str | None, tmp_path: Path) -> None:
    picture = gradient(24, 40)
    patches = one(tmp_path / "set", picture, scale)
    for found in (patches[0], patches.at(1.0)[0]):
        assert torch.equal(found["image"], torch.from_numpy(picture).permute(2, 0, 1))
    image = torch.rand(3, 8, 8)
    assert resampled(image, (8, 8)) is image


def test_the_resampler_takes_bytes_and_floats_alike() -> None:
    patches = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
    whole, unit = resampled(patches, (10, 12)), resampled(patches.float() / 255, (10, 12))
    assert whole.dtype == torch.uint8 and unit.dtype == torch.float32
    assert whole.shape == unit.shape == (2, 3, 10, 12)
    assert float((whole.float() / 255 - unit).abs().max()) <= 0.5 / 255 + 1e-6
    assert torch.equal(resampled(patches[0], (10, 12)), whole[0])
    assert 0 <= float(unit.min()) and float(unit.max()) <= 1, "no overshoot leaves the range"


@pytest.mark.parametrize(
    ("scale", "side"),
    [("0.5", 112), ("0.25", 56), ("2", 448), ("1.4", 314), ("0.94", 211), ("0.96", 224)],
)
def test_sizes_follow_the_scale(scale: str, side: int, tmp_path: Path) -> None:
    patches = one(tmp_path / "set", np.zeros((224, 224, 3), np.uint8), scale).at(1.0)
    assert patches.sizes() == [(side, side)] and patches[0]["image"].shape == (3, side, side)
    assert patches.images(48).shape == (1, 3, 48, 48)


def test_mixed_scales_come_out_alike(tmp_path: Path) -> None:
    items = [
        (
            PatchRecord(f"{scale}.png", "A", "", scale, {"um_per_px": scale}),
            stripes(int(24 / float(scale)), int(96 / float(scale))),
        )
        for scale in ("0.5", "1", "2")
    ]
    images = PatchSet.open(write_patches(tmp_path / "set", items)).at(1.0).images()
    assert images.shape == (3, 3, 96, 96)
    for other in images[1:]:
        assert float((images[0].float() - other.float()).abs().mean()) < 16


def test_patches_too_small_at_the_scale_are_refused_with_the_remedy(tmp_path: Path) -> None:
    patches = one(tmp_path / "set", np.zeros((224, 224, 3), np.uint8), "0.5")
    assert patches.images(128).shape == (1, 3, 128, 128)
    message = (
        r"at least 128 x 128 at 1 um per pixel, got 1 of 1 that are smaller, such as 'a.png' "
        r"\(112 x 112 of a file of 224 x 224\): set size to at most 112"
    )
    with pytest.raises(ValueError, match=message):
        patches.at(1.0).images(128)


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    rows = "a.png,A,,g1,0.5\nb.png,A,,g2,\nc.png,A,,g3,1.5\n"
    root = folder_of(
        tmp_path / "set", f"path,label,split,group,um_per_px\n{rows}", "a.png", "b.png", "c.png"
    )
    patches = PatchSet.open(root)
    assert patches.notes == () and patches.um_per_px is None
    assert [r.um_per_px for r in patches.records] == [0.5, None, 1.5]
    assert patches.at(1.0).notes == (
        "1 of 3 patches record no um_per_px: taken to be at 1 um per pixel, as the model is.",
        "1 of 3 patches are coarser than 1 um per pixel: enlarged, without the detail that the"
        " model knows.",
    )
    assert (
        patches.at(1.0)[:1].notes == patches.at(1.0).notes and patches.at(1.0)[1:].um_per_px == 1
    )
    assert patches.at(1.0).sizes() == [(4, 4), (8, 8), (12, 12)]
    told = PatchSet.open(root, um_per_px=2.0)
    assert [r.um_per_px for r in told.records] == [0.5, 2.0, 1.5], "what is recorded stays"
    assert told.at(2.0).sizes() == [(2, 2), (8, 8), (6, 6)]
    kept = "um_per_px 2 is for patches that record none: 0.5, 1.5, as others record it, stays."
    assert told.notes == told.at(2.0).notes == (kept,)
    assert told.at(2.0).at(None).sizes() == [(8, 8)] * 3, "as the files are"


@pytest.mark.parametrize(
    ("scale", "remedy"),
    [
        (0, "correct it, or leave it out"),
        (-1.0, "correct it, or leave it out"),
        (float("nan"), "correct it, or leave it out"),
        (float("inf"), "correct it, or leave it out"),
        (20, "if that is a magnification, write micrometres per pixel, about 0.5 at 20x"),
        (40.0, "about 0.25 at 40x"),
        (250, "if that is in nanometres, write 0.25"),
        (0.0005, "if that is in millimetres, write 0.5"),
    ],
)
def test_a_scale_that_is_none(scale: float, remedy: str, tmp_path: Path) -> None:
    patches = one(tmp_path / "set", gradient(), None)
    rule = "um_per_px must be a number of micrometres per pixel, from 0.02 to 16, "
    for ask in (patches.at, lambda s: PatchSet.open(tmp_path / "set", um_per_px=s)):
        with pytest.raises(ValueError, match=re.escape(f"{rule}got {scale!r}: ") + f".*{remedy}"):
            ask(scale)
    with pytest.raises(ValueError, match=re.escape(f"{rule}or empty, got '{scale}' ") + ".*"):
        one(tmp_path / "written", gradient(), str(scale))


def header(**settings: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(gradient()).save(stream, **settings)
    return stream.getvalue()


def described(text: str, **settings: Any) -> bytes:
    return header(format="TIFF", tiffinfo={270: text}, **settings)


def ome(size: str, unit: str = "") -> bytes:
    told = f' PhysicalSizeXUnit="{unit}"' if unit else ""
    return described(f'<OME><Pixels ID="0" SizeX="8" PhysicalSizeX="{size}"{told}/></OME>')


IMAGEJ = "ImageJ=1.54\nimages=1\nunit=micron\n"


@pytest.mark.parametrize(
    ("content", "own"),
    [
        (header(format="TIFF", resolution=20000.0, resolution_unit=3), "0.5"),
        (header(format="PNG", dpi=(25400 / 0.25, 25400 / 0.25)), "0.25"),
        (ome("0.5"), "0.5"),
        (ome("0.5", "Âµm"), "0.5"),
        (ome("250.0", "nm"), "0.25"),
        (described(IMAGEJ, resolution=4.0, resolution_unit=1), "0.25"),
        (ome("1.03"), ""),  # as it is read
        (header(format="TIFF", dpi=(300, 300)), ""),  # of a printer
        (header(format="JPEG", dpi=(96, 96)), ""),
        (header(format="PNG"), ""),
        (b"broken", ""),
    ],
)
def test_the_scale_in_a_file_s_own_header_is_told_of(
    content: bytes, own: str, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(content)
    notes = [n for n in PatchSet.open(tmp_path).at(1.0).notes if "own header" in n]
    told = f"'a/1.png' tells {own} um per pixel in its own header, which is not read: if it is "
    told += "right, record it, or give it as um_per_px."
    assert notes == ([told] if own else [])


def test_cache_keys_know_the_scale(tmp_path: Path) -> None:
    patches = one(tmp_path / "set", gradient(), "0.5")
    other = one(tmp_path / "other", gradient(), "0.8")
    told = PatchSet.open(one(tmp_path / "blank", gradient(), None).write(tmp_path / "x"), 0.5)
    keys = [p.digest() for p in (patches, patches.at(1.0), patches.at(2.0), other.at(1.0))]
    assert len(set(keys)) == 4 and patches.digest() == other.digest(), "unscaled, they are alike"
    assert told.at(1.0).digest() == patches.at(1.0).digest()
    hashes = {patch_hash(p[0]) for p in (patches, patches.at(1.0), patches.at(2.0))}
    assert len(hashes) == 3


def test_writing_keeps_bytes_and_scale(tmp_path: Path) -> None:
    patches = PatchSet.open(one(tmp_path / "set", gradient(), None).write(tmp_path / "x"), 0.5)
    copy = PatchSet.open(patches.at(1.0).write(tmp_path / "copy"))
    assert (tmp_path / "copy" / "a.png").read_bytes() == (tmp_path / "set" / "a.png").read_bytes()
    assert copy.records[0].extra == {"um_per_px": "0.5"} and copy.um_per_px is None
    assert torch.equal(copy.at(1.0)[0]["image"], patches.at(1.0)[0]["image"])


def test_a_scale_that_would_make_a_picture_too_large_is_refused(tmp_path: Path) -> None:
    """Such as a magnification: 10 in place of 1."""
    items = [
        (PatchRecord("a.png", "A", "", "g", {"um_per_px": "10"}), np.zeros((640, 640, 3), "u1"))
    ]
    patches = PatchSet.open(write_patches(tmp_path / "set", items))
    told = (
        "at most 33554432 pixels at 1 um per pixel, got 6400 x 6400 of 'a.png', recorded at 10: "
        "is that a magnification"
    )
    for look in (lambda p: p.sizes(), lambda p: p[0], lambda p: p.images(8)):
        with pytest.raises(ValueError, match=told):
            look(patches.at(1.0))
    assert patches.at(10.0).sizes() == [(640, 640)]
