"""A whole slide as DICOM (VL Whole Slide Microscopy Image), written byte by byte: explicit VR,
little endian, uncompressed, tiled full.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from slides_painted import Picture, shrunk

SLIDE, EXPLICIT = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.2.1"
ROOT = "1.2.826.0.1.3680043.8.498"  # of identifiers
LONG = ("OB", "OW", "SQ", "UN")


def element(tag: int, kind: str, value: bytes | str | int | list[bytes]) -> bytes:
    """One element; a sequence is a list of items."""
    if isinstance(value, int):
        value = struct.pack({"US": "<H", "UL": "<I"}[kind], value)
    elif isinstance(value, str):
        value = value.encode()
        value += (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    elif isinstance(value, list):
        items = (struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in value)
        value = b"".join(items)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    size = (
        (b"\0\0" + struct.pack("<I", len(value)))
        if kind in LONG
        else struct.pack("<H", len(value))
    )
    return head + size + value


def write_dicom(
    folder: Path, picture: Picture, um: float | None = 0.5, factors: tuple[int, ...] = (1, 4)
) -> Path:
    """One file for each level, all of one series, in a new folder."""
    folder.mkdir()
    for i, factor in enumerate(factors):
        level = shrunk(picture, factor)
        (folder / f"level{i}.dcm").write_bytes(_instance(level, um and um * factor, i))
    return folder


def _instance(level: Picture, um: float | None, number: int, side: int = 128) -> bytes:
    height, width = level.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    padded = np.full((rows * side, columns * side, 3), 255, np.uint8)
    padded[:height, :width] = level
    frames = padded.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    own = f"{ROOT}.3.{number + 1}"
    meta = b"".join(
        [
            element(0x00020001, "OB", b"\0\1"),
            element(0x00020002, "UI", SLIDE),
            element(0x00020003, "UI", own),
            element(0x00020010, "UI", EXPLICIT),
            element(0x00020012, "UI", f"{ROOT}.1"),
        ]
    )
    spacing = "" if um is None else f"{um / 1000:.8g}\\{um / 1000:.8g}"
    measures = element(0x00280030, "DS", spacing) if spacing else b""
    shared = element(0x00289110, "SQ", [element(0x00180050, "DS", "0.003") + measures])
    kind = "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED" if number else "ORIGINAL\\PRIMARY\\VOLUME\\NONE"
    data = [
        element(0x00080008, "CS", kind),
        element(0x00080016, "UI", SLIDE),
        element(0x00080018, "UI", own),
        element(0x00080060, "CS", "SM"),
        element(0x0020000D, "UI", f"{ROOT}.2"),
        element(0x0020000E, "UI", f"{ROOT}.2.1"),
        element(0x00200013, "IS", str(number + 1)),
        element(0x00209311, "CS", "TILED_FULL"),
        element(0x00280002, "US", 3),
        element(0x00280004, "CS", "RGB"),
        element(0x00280006, "US", 0),
        element(0x00280008, "IS", str(rows * columns)),
        element(0x00280010, "US", side),
        element(0x00280011, "US", side),
        element(0x00280100, "US", 8),
        element(0x00280101, "US", 8),
        element(0x00280102, "US", 7),
        element(0x00280103, "US", 0),
        element(0x00480006, "UL", width),
        element(0x00480007, "UL", height),
        element(0x00480303, "UL", 1),
        element(0x52009229, "SQ", [shared]),
        element(0x7FE00010, "OB", np.ascontiguousarray(frames).tobytes()),
    ]
    return b"\0" * 128 + b"DICM" + element(0x00020000, "UL", len(meta)) + meta + b"".join(data)
