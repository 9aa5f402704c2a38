"""Every format decodes to the same picture by a stated rule, or is refused with the remedy;
nothing is decoded before its header has been weighed.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL
import pytest
from making import deep_png, encoded, gradient, nifti
from PIL import EpsImagePlugin, Image

from monai_histodiff.data.pictures import Limits, decode_patch, picture_size

TRUTH = gradient()
XY = TRUTH.swapaxes(0, 1)
GREY = Image.fromarray(TRUTH[..., 0])
COLOUR = Image.fromarray(TRUTH)
FLOAT = np.full((5, 4, 3), 0.5, np.float32)


def rgb24(folder: Path, name: str, colours: str = "RGB") -> bytes:
    """A NIfTI file whose voxels are records of bytes."""
    kind = np.dtype([(c, "u1") for c in colours])
    values = np.full((*XY.shape[:2], len(colours)), 255, np.uint8)
    values[..., :3] = XY
    return nifti(values.copy().view(kind), name, folder)


def tiff(bits: int, planar: bool, kind: int = 1, values: np.ndarray | None = None) -> bytes:
    """An uncompressed RGB TIFF of any depth, in one strip or in one for each colour."""
    values = TRUTH if values is None else values
    type_ = {8: "u1", 16: "<u2", 32: "<u4"}[bits] if kind == 1 else "<f4"
    planes = values.transpose(2, 0, 1) if planar else values[None]
    strips = [np.ascontiguousarray(p).astype(type_).tobytes() for p in planes]
    height, width = values.shape[:2]
    starts = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    after = 8 + sum(map(len, strips))
    extra = struct.pack("<3H", bits, bits, bits) + struct.pack("<3H", kind, kind, kind)
    lists = struct.pack(f"<{len(strips)}I", *starts) + struct.pack(
        f"<{len(strips)}I", *map(len, strips)
    )
    at = after + len(extra)
    one = len(strips) == 1
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, after),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, len(strips), starts[0] if one else at),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, len(strips), len(strips[0]) if one else at + 4 * len(strips)),
        (284, 3, 1, 2 if planar else 1),
        (339, 3, 3, after + 6),
    ]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    head = struct.pack("<2sHI", b"II", 42, at + len(lists))
    return head + b"".join(strips) + extra + lists + table + b"\0" * 4


READ: dict[str, Callable[[Path], bytes]] = {
    "a.png": lambda _: encoded(TRUTH, "PNG"),
    "A.PNG": lambda _: encoded(TRUTH, "PNG"),
    "a.tif": lambda _: encoded(TRUTH, "TIFF"),
    "lzw.tiff": lambda _: encoded(TRUTH, "TIFF", compression="tiff_lzw"),
    "chunky.tif": lambda _: tiff(8, planar=False),
    "planar.tif": lambda _: tiff(8, planar=True),
    "a.jpg": lambda _: encoded(TRUTH, "JPEG", quality=98, subsampling=0),
    "a.jpeg": lambda _: encoded(TRUTH, "JPEG", quality=98, subsampling=0, progressive=True),
    "a.bmp": lambda _: encoded(TRUTH, "BMP"),
    "a.webp": lambda _: encoded(TRUTH, "WEBP", lossless=True),
    "a.jp2": lambda _: encoded(TRUTH, "JPEG2000"),
    "a.j2k": lambda _: encoded(TRUTH, "JPEG2000", no_jp2=True),
    "a.nii": lambda p: nifti(XY, "a.nii", p),
    "a.nii.gz": lambda p: nifti(XY, "a.nii.gz", p),
    "b.nii": lambda p: nifti(XY[:, :, None], "b.nii", p),
    "c.nii": lambda p: nifti(XY[:, :, None].astype(np.float32), "c.nii", p),
    "rgb24.nii": lambda p: rgb24(p, "rgb24.nii"),
    "rgb24.nii.gz": lambda p: rgb24(p, "rgb24.nii.gz"),
    "rgba32.nii": lambda p: rgb24(p, "rgba32.nii", "RGBA"),
    "a jpeg named.png": lambda _: encoded(TRUTH, "JPEG", quality=98, subsampling=0),
    "opaque.png": lambda _: encoded(COLOUR.convert("RGBA"), "PNG"),
    "packed ycbcr.tif": lambda _: encoded(
        COLOUR.convert("YCbCr"), "TIFF", compression="tiff_adobe_deflate"
    ),
    "ycbcr.tif": lambda _: encoded(COLOUR.convert("YCbCr"), "TIFF"),
}
if int(PIL.__version__.partition(".")[0]) < 13:  # which cannot read what it writes there
    del READ["ycbcr.tif"]


@pytest.mark.parametrize("name", READ)
def test_every_format_decodes_to_the_same_picture(name: str, tmp_path: Path) -> None:
    content = READ[name](tmp_path)
    found = decode_patch(content, name)
    assert found.dtype == np.uint8 and found.shape == (24, 40, 3) and found.flags.owndata
    lossy = "jp" in name.replace("jp2", "") or "ycbcr" in name
    assert np.abs(found.astype(int) - TRUTH).max() <= (4 if lossy else 0)
    assert picture_size(content, name) == (24, 40)


def test_nifti_2_and_scaled_values_are_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(XY, np.eye(4)), tmp_path / "two.nii")
    assert (decode_patch((tmp_path / "two.nii").read_bytes(), "two.nii") == TRUTH).all()
    image = nibabel.Nifti1Image((XY // 5).astype(np.uint8), np.eye(4))
    image.header.set_slope_inter(5, 0)
    nibabel.save(image, tmp_path / "x.nii")
    assert (decode_patch((tmp_path / "x.nii").read_bytes(), "x.nii") == TRUTH // 5 * 5).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP"])
def test_grey_is_three_equal_channels(form: str) -> None:
    found = decode_patch(encoded(GREY, form), f"x.{form.lower()}")
    assert (found == found[..., :1]).all()
    assert np.abs(found[..., 0].astype(int) - TRUTH[..., 0]).max() <= (4 if form == "JPEG" else 0)


def test_a_palette_has_the_colours_of_its_entries() -> None:
    palette = COLOUR.quantize(16)
    truth = np.array(palette.getpalette()[:48], np.uint8).reshape(16, 3)[np.array(palette)]
    assert (decode_patch(encoded(palette, "PNG"), "x.png") == truth).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_over_white(form: str) -> None:
    rgba = np.dstack([TRUTH, np.tile(np.arange(0, 240, 6, dtype=np.uint8), (24, 1))])
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    found = decode_patch(encoded(rgba, form, **options), f"x.{form.lower()}")
    alpha = rgba[..., 3:] / 255
    assert (found == np.round(TRUTH * alpha + 255 * (1 - alpha))).all()


def test_a_transparent_colour_and_grey_with_alpha_lie_over_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert (decode_patch(encoded(image, "PNG", transparency=1), "x.png") == 255).all()
    assert (decode_patch(encoded(image, "PNG", transparency=0), "x.png") == [40, 50, 60]).all()
    assert (decode_patch(encoded(Image.new("LA", (4, 4), (0, 0)), "PNG"), "x.png") == 255).all()


def pages(form: str) -> bytes:
    return encoded(COLOUR, form, save_all=True, append_images=[GREY.convert("RGB")])


BAD: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "cmyk": (
        "x.jpg",
        lambda _: encoded(COLOUR.convert("CMYK"), "JPEG"),
        "RGB, grey or a palette, got CMYK in 'x.jpg': convert it to RGB by its colour profile",
    ),
    "lab": ("x.tif", lambda _: encoded(COLOUR.convert("LAB"), "TIFF"), "got LAB"),
    "grey 16-bit": (
        "x.png",
        lambda _: encoded(np.full((8, 8), 900, np.uint16), "PNG"),
        "must have 8 bits per channel, got 16-bit .* in 'x.png': scale it to 8 bits",
    ),
    "rgb 16-bit": ("x.png", lambda _: deep_png(np.full((8, 8, 3), 900)), "got 16-bit RGB"),
    "tiff 16-bit": ("x.tif", lambda _: tiff(16, planar=False), "got 16-bit RGB"),
    "tiff 16-bit planar": ("x.tif", lambda _: tiff(16, planar=True), "got 16-bit RGB"),
    "tiff float": (
        "x.tif",
        lambda _: encoded(Image.fromarray(FLOAT[..., 0]), "TIFF"),
        "got 32-bit signed or floating-point F",
    ),
    "jpeg 2000 16-bit": (
        "x.jp2",
        lambda _: encoded(Image.fromarray(np.full((8, 8), 900, np.uint16)), "JPEG2000"),
        "got 16-bit",
    ),
    "pages": (
        "x.tif",
        lambda _: pages("TIFF"),
        "one picture, got 2 pages or frames in 'x.tif': s",
    ),
    "animation": ("x.webp", lambda _: pages("WEBP"), "got 2 pages or frames"),
    "animated png": ("x.png", lambda _: pages("PNG"), "got 2 pages or frames"),
    "nifti beyond 8 bits": (
        "x.nii",
        lambda p: nifti(np.full((5, 4, 3), 300, np.int16), "x.nii", p),
        "whole numbers from 0 to 255, got 300 to 300 in 'x.nii'",
    ),
    "nifti negative": (
        "x.nii",
        lambda p: nifti(np.full((5, 4, 3), -1, np.int16), "x.nii", p),
        "from 0 to 255, got -1",
    ),
    "nifti fraction": ("x.nii", lambda p: nifti(FLOAT, "x.nii", p), "numbers .*, got 0.5 to 0.5"),
    "nifti nan": ("x.nii", lambda p: nifti(FLOAT * np.nan, "x.nii", p), "got nan"),
    "nifti grey": (
        "x.nii",
        lambda p: nifti(FLOAT[..., 0], "x.nii", p),
        r"of shape x, y, rgb, got NIfTI of shape \(5, 4\)",
    ),
    "nifti volume": (
        "x.nii",
        lambda p: nifti(np.zeros((5, 4, 6, 3), np.uint8), "x.nii", p),
        "must be RGB",
    ),
    "cut png": ("x.png", lambda _: encoded(COLOUR, "PNG")[:-200], "readable picture, got 'x.png'"),
    "cut jpeg": ("x.jpg", lambda _: encoded(COLOUR, "JPEG")[:-200], "readable picture, got"),
    "cut webp": ("x.webp", lambda _: encoded(COLOUR, "WEBP")[:-40], "readable picture, got"),
    "cut nifti": (
        "x.nii.gz",
        lambda p: nifti(np.zeros((5, 4, 3), np.uint8), "x.nii.gz", p)[:40],
        "must be a readable picture",
    ),
    "nifti without pixels": (
        "x.nii",
        lambda p: nifti(np.zeros((5, 4, 3), np.uint8), "x.nii", p)[:380],
        "must be a readable picture",
    ),
    "text": (
        "x.png",
        lambda _: b"no picture",
        r"must be a readable picture, got 'x.png' \(it is no PNG, JPEG, TIFF, BMP, WEBP or "
        r"JPEG2000, whatever it is called\): copy or convert it again, or leave it out$",
    ),
    "text as nifti": ("x.nii", lambda _: b"no picture", "must be a readable picture, got 'x.nii'"),
    "empty": ("x.jpg", lambda _: b"", "must be a readable picture, got 'x.jpg'"),
    "gif": ("x.png", lambda _: encoded(GREY, "GIF"), "must be a readable picture"),
}


@pytest.mark.parametrize("case", BAD)
def test_picture_that_is_no_patch_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        decode_patch(content(tmp_path), name)


def test_no_other_opener_is_ever_given_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    content = encoded(COLOUR, "EPS")
    assert Image.open(io.BytesIO(content)).format == "EPS", "pillow would open it"
    for name in ("x.png", "x.tif", "x.jpg"):
        with pytest.raises(ValueError, match="must be a readable picture"):
            decode_patch(content, name)


def claims(width: int, height: int) -> bytes:
    """A PNG file that is nothing but its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (header, data, b"IEND")
    )


def hollow(shape: tuple[int, ...]) -> bytes:
    """A NIfTI file that is nothing but its header, packed to less than a hundred bytes or so."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return gzip.compress(header.binaryblock + b"\0" * 4)


def test_limits_of_ours_go_beyond_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    content = encoded(Image.new("RGB", (8, 8)), "PNG")
    with pytest.raises(ValueError, match="at most 16 pixels, got"):
        decode_patch(content, "x.png", Limits(pixels=16))
    assert decode_patch(content, "x.png", Limits(pixels=64)).shape == (8, 8, 3)
    assert picture_size(content, "x.png", Limits(pixels=64)) == (8, 8)
    assert Image.MAX_IMAGE_PIXELS == 16, "the caller's own"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_size_is_weighed_before_anything_is_decoded() -> None:
    with pytest.raises(
        ValueError, match="at most 33,554,432 pixels, got 13000 x 13000 in 'x.png'"
    ):
        decode_patch(claims(13_000, 13_000), "x.png")
    with pytest.raises(ValueError, match="33,554,432 pixels, got .*400000000 pixels.* in 'x.png'"):
        decode_patch(claims(20_000, 20_000), "x.png")
    with pytest.raises(ValueError, match=r"pixels, got shape \(30000, 30000, 3\) in 'x.nii.gz'"):
        decode_patch(hollow((30_000, 30_000, 3)), "x.nii.gz")
    with pytest.raises(ValueError, match=r"pixels, got shape \(4, 4, 32767, 32767\)"):
        decode_patch(hollow((4, 4, 32_767, 32_767)), "x.nii.gz")
    with pytest.raises(ValueError, match="at most 33,554,432 pixels, got 13000 x 13000"):
        picture_size(claims(13_000, 13_000), "x.png")
    far = bytearray(gzip.decompress(hollow((8, 8, 3))))
    far[108:112] = struct.pack("<f", 3e9)  # where its pixels begin
    with pytest.raises(ValueError, match="at most 268,435,456 bytes, got 3,000,000,192"):
        decode_patch(gzip.compress(bytes(far)), "x.nii.gz")


def test_the_limit_is_the_user_s_to_set() -> None:
    content = encoded(TRUTH, "PNG")
    assert (decode_patch(content, "x.png", Limits(pixels=24 * 40)) == TRUTH).all()
    message = r"at most 959 pixels, got 40 x 24 in 'x.png': cut it into tiles, or raise the limit"
    with pytest.raises(ValueError, match=message):
        decode_patch(content, "x.png", Limits(pixels=24 * 40 - 1))
    with pytest.raises(ValueError, match="limits must be at least 1"):
        Limits(pixels=0)


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied_to_no_format(turn: int) -> None:
    wide = np.ascontiguousarray(gradient()[:3])
    exif = Image.Exif()
    exif[274] = turn
    files = {
        name: encoded(wide, kind, **options)
        for name, kind, options in (
            ("x.tif", "TIFF", {"tiffinfo": {274: turn}}),
            ("packed.tif", "TIFF", {"tiffinfo": {274: turn}, "compression": "tiff_lzw"}),
            ("x.png", "PNG", {"exif": exif}),
        )
    }
    for name, content in files.items():
        assert np.array_equal(decode_patch(content, name), wide)
        assert picture_size(content, name) == wide.shape[:2]


def test_a_tiff_that_pillow_cannot_open_is_told_for_what_it_is() -> None:
    scaled = tiff(32, planar=False, kind=3, values=TRUTH / 255)
    told = "got 32-bit signed or floating-point in 3 channels in 'x.tif': scale it to 8 bits"
    with pytest.raises(ValueError, match=told):
        decode_patch(scaled, "x.tif")
    colours = struct.pack("<HHIH", 262, 3, 1, 2)  # tag, type, count, value: RGB
    plain = tiff(8, planar=False)
    assert plain.count(colours) == 1
    grey = plain.replace(colours, struct.pack("<HHIH", 262, 3, 1, 1))
    with pytest.raises(ValueError, match=r"got 3 channels that the TIFF calls grey.*as RGB"):
        decode_patch(grey, "x.tif")
    with pytest.raises(ValueError, match="must be a readable picture"):
        decode_patch(grey[:60], "x.tif")
