"""Pictures: bytes of a file to uint8 RGB, by stated rules, never by a guess.

=====================  ==========================================================================
read                   PNG, JPEG, TIFF, BMP, WebP, JPEG 2000; NIfTI (``x, y, [1,] rgb``, RGB24 or
                       RGBA32), which no other opener is ever given
colours                RGB as it is; palettes and YCbCr by their definition; grey as three equal
                       channels; a transparent picture over white
refused, with remedy   more than 8 bits per channel (by the file's own tags), CMYK and other
                       colours, several pages or frames, more pixels or bytes than :class:`Limits`
=====================  ==========================================================================

Colour profiles and orientation tags are not applied. Check sums that a format has (PNG, gzip) are
compared, which its decoder may leave out.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from monai_histodiff.utils.pillow_globals import large_pictures, whole_pictures

__all__ = ["LIMITS", "Limits", "decode_patch", "picture_size"]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "JPEG2000")
NIFTI = (".nii", ".nii.gz")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".j2k"),
    *NIFTI,
)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how they begin; the last two are large ones
WIDTH, LENGTH, BITS_PER_SAMPLE, PHOTOMETRIC, CHANNELS, SAMPLE_FORMAT = 256, 257, 258, 262, 277, 339
GREY, UNSIGNED = (0, 1), (1, 4)  # of PHOTOMETRIC, and of SAMPLE_FORMAT, where 4 is undefined
# markers that no coefficients hold: JPEG 2000's start and sizes, JPEG's scan, the end of both
CODESTREAM, SCAN, IMAGE_END = b"\xff\x4f\xff\x51", b"\xff\xda", b"\xff\xd9"


@dataclass(frozen=True)
class Limits:
    """What a file may hold, checked from its header before anything is decoded: a few hundred
    bytes can ask for gigabytes.

    Attributes:
        pixels: of one picture; 2**25 is 5,792 x 5,792.
        bytes: of one file, in a zip its size unpacked; also of a manifest.
    """

    pixels: int = 2**25
    bytes: int = 2**28

    def __post_init__(self) -> None:
        if min(self.pixels, self.bytes) < 1:
            raise ValueError(f"limits must be at least 1, got {self}")


LIMITS = Limits()


def decode_patch(content: bytes, name: str, limits: Limits = LIMITS) -> NDArray[np.uint8]:
    """Decode one picture.

    Args:
        content: the bytes of the file.
        name: its name, which tells NIfTI from the rest, and which every error repeats.
        limits: of pixels and bytes.

    Returns:
        uint8 RGB array of shape ``H x W x 3``, values 0 to 255, in memory of its own.

    Raises:
        ValueError: the picture cannot be read, or a rule of the module does not cover it.
    """
    if name.lower().endswith(NIFTI):
        return _nifti(content, name, limits)
    with _open(content, name, limits) as picture:
        with _readable(name):
            pages = getattr(picture, "n_frames", 1)
        if pages > 1:
            raise ValueError(
                f"a patch must be one picture, got {pages} pages or frames in '{name}':"
                " save the one that is meant as a file of its own"
            )
        with _readable(name):
            _check_whole(picture.format, content)
            depth = _depth(picture, content)
        if depth != "8-bit":
            _refuse_depth(f"{depth} {picture.mode}", name)
        if picture.mode not in MODES:
            raise ValueError(
                f"a patch must be RGB, grey or a palette, got {picture.mode} in '{name}': convert"
                " it to RGB by its colour profile"
            )
        with _readable(name), whole_pictures():
            picture.load()
            if "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA"):
                return _over_white(np.array(picture.convert("RGBA")))
            return np.array(picture.convert("RGB"))


def picture_size(content: bytes, name: str, limits: Limits = LIMITS) -> tuple[int, int]:
    """Height and width of a picture in pixels, from its header.

    Raises:
        ValueError: the header cannot be read, or is beyond the limits.
    """
    if name.lower().endswith(NIFTI):
        with _readable(name):
            header = _header(_unpacked(content).read(540))
        _check(header, name, limits)
        return int(header.get_data_shape()[1]), int(header.get_data_shape()[0])
    with _open(content, name, limits) as picture:
        if picture.format == "TIFF":  # whose width and height Pillow may have turned
            return int(picture.tag_v2[LENGTH]), int(picture.tag_v2[WIDTH])
        return picture.height, picture.width


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):  # whose text is an address in memory
            why = f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, whatever it is called"
        raise ValueError(
            f"a patch must be a readable picture, got '{name}' ({why}): copy or convert it again, "
            "or leave it out"
        ) from error


def _open(content: bytes, name: str, limits: Limits) -> Any:
    """The picture, its header read. Orientation is not applied, as Pillow would to a TIFF."""
    more = large_pictures if limits.pixels > (Image.MAX_IMAGE_PIXELS or math.inf) else nullcontext
    try:
        with _readable(name), more():
            picture: Any = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.format == "TIFF":
            picture.load_end = lambda: None
    except ValueError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            _refuse(f"{limits.pixels:,} pixels", str(error.__cause__), name)
        if content[:4] in TIFFS:
            _refuse_tiff(content, name)
        raise
    if picture.width * picture.height > limits.pixels:
        _refuse(f"{limits.pixels:,} pixels", f"{picture.width} x {picture.height}", name)
    return picture


def _refuse_tiff(content: bytes, name: str) -> None:
    """Say what a TIFF is that Pillow has no mode for, where its tags tell."""
    try:
        tags = ImageFileDirectory_v2(content[: 16 if b"+" in content[:4] else 8])
        stream = io.BytesIO(content)
        stream.seek(tags.next)
        tags.load(stream)
        depth, channels = _tiff_depth(tags), int(tags.get(CHANNELS, 1))
        colours = tags.get(PHOTOMETRIC)
    except Exception:  # damaged: told as any other
        return
    if depth != "8-bit":
        _refuse_depth(f"{depth} in {channels} channels", name)
    if colours in GREY and channels > 2:
        raise ValueError(
            f"a patch must be RGB, grey or a palette, got {channels} channels that the TIFF calls"
            f" grey (minisblack) in '{name}': save them as RGB, photometric='rgb'"
        )


def _refuse_depth(found: str, name: str) -> None:
    raise ValueError(
        f"a patch must have 8 bits per channel, got {found} in '{name}': scale it to 8 bits by a"
        " rule that suits the scanner"
    )


def _check_whole(kind: str | None, content: bytes) -> None:
    """Refuse what decoders pass over: a chunk of a PNG whose check sum (CRC-32) is wrong, and a
    JPEG or JPEG 2000 without its end, which a decoder makes up.
    """
    if kind == "PNG":
        at, chunk = 8, b""
        while chunk != b"IEND":
            end = at + 12 + int.from_bytes(content[at : at + 4], "big")
            chunk, told = content[at + 4 : at + 8], content[end - 4 : end]
            if len(told) < 4 or zlib.crc32(content[at + 4 : end - 4]).to_bytes(4, "big") != told:
                raise ValueError(f"the check sum of its chunk {chunk!r} is wrong: copy it again")
            at = end
    start = {"JPEG2000": content.find(CODESTREAM), "JPEG": content.rfind(SCAN)}.get(kind or "")
    if start is not None and IMAGE_END not in content[max(0, start) :]:
        raise ValueError("its end is missing: copy it again")


def _refuse(limit: str, found: str, name: str) -> None:
    raise ValueError(
        f"a picture must have at most {limit}, got {found} in '{name}': cut it into tiles, or"
        " raise the limit by PatchSet.open(..., limits=Limits(pixels=..., bytes=...))"
    )


def _depth(picture: Any, content: bytes) -> str:
    """Bits of a channel, from the file's own tags: decoders cut to 8 in silence."""
    bits = 8
    if picture.format == "TIFF":
        return _tiff_depth(picture.tag_v2)
    if picture.format == "PNG":
        bits = max(content[24], 8)
    elif picture.format == "JPEG2000":
        sizes = content[content.find(CODESTREAM) + 40 :]
        channels = int.from_bytes(sizes[:2], "big")
        bits = max([8, *((depth & 0x7F) + 1 for depth in sizes[2 : 2 + 3 * channels : 3])])
    return f"{bits}-bit"


def _tiff_depth(tags: Any) -> str:
    odd = _largest(tags.get(SAMPLE_FORMAT, 1)) not in UNSIGNED
    bits = max(_largest(tags.get(BITS_PER_SAMPLE, 1)), 8)
    return f"{bits}-bit{' signed or floating-point' if odd else ''}"


def _largest(tag: int | tuple[int, ...]) -> int:
    return tag if isinstance(tag, int) else max(tag)


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``H x W x 4`` over white, rounded; an opaque picture keeps its bytes."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    mixed = colour * alpha + 255 * (255 - alpha)  # at most 255 * 255
    return ((mixed + 127) // 255).astype(np.uint8)


def _unpacked(content: bytes) -> Any:
    packed = content[:2] == b"\x1f\x8b"
    return gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content)


def _header(head: bytes) -> Any:
    two = 540 in [int.from_bytes(head[:4], order) for order in ("little", "big")]
    kind, size = (nibabel.Nifti2Header, 540) if two else (nibabel.Nifti1Header, 348)
    return kind(binaryblock=head[:size])


def _check(header: Any, name: str, limits: Limits) -> int:
    """The bytes of the unpacked file, once they are known to be within the limits."""
    shape = tuple(int(n) for n in header.get_data_shape())
    values, width = math.prod(shape), header.get_data_dtype().itemsize
    if math.prod(shape[:2]) > limits.pixels or values > 4 * limits.pixels:
        _refuse(f"{limits.pixels:,} pixels", f"shape {shape}", name)
    total = int(header.get_data_offset()) + values * width
    if total > limits.bytes:
        _refuse(f"{limits.bytes:,} bytes", f"{total:,}", name)
    return total


def _nifti(content: bytes, name: str, limits: Limits) -> NDArray[np.uint8]:
    with _readable(name):
        stream = _unpacked(content)
        head = stream.read(540)
        header = _header(head)
    total = _check(header, name, limits)
    with _readable(name):
        data = head + stream.read(max(0, total - len(head)))
        if len(data) != total or stream.read(1):  # the end, where gzip has its check sum
            raise ValueError(f"its header tells of {total:,} bytes, and it has others")
        shape, kind = header.get_data_shape(), header.get_data_dtype()
        flat = np.frombuffer(data, kind, math.prod(shape), int(header.get_data_offset()))
        array = np.squeeze(flat.reshape(shape, order="F"))
        if kind.names:  # RGB24 and RGBA32 are records of three or four bytes
            array = np.stack([array[c] for c in kind.names], -1)
        slope, inter = header.get_slope_inter()
        if slope is not None and (slope, inter) != (1, 0):
            array = array * slope + inter
    if array.ndim != 3 or array.shape[-1] not in (3, 4):
        raise ValueError(
            f"a patch must be RGB, of shape x, y, rgb, got NIfTI of shape {array.shape}"
            f" in '{name}'"
        )
    if array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255 or not np.array_equal(array, np.round(array)):
            raise ValueError(
                "a patch must hold whole numbers from 0 to 255, got"
                f" {array.min():g} to {array.max():g} in '{name}'"
            )
        array = array.astype(np.uint8)
    array = array.swapaxes(0, 1)
    return _over_white(array) if array.shape[-1] == 4 else np.array(array, order="C")
