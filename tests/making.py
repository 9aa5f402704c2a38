"""Patch files made for tests: pictures of known pixels in any format, folders, manifests, zips."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

HEADER = "path,label,split,group"


def draft_of(name: str) -> str:
    """What a killed writer of a file or folder leaves: the name of its draft."""
    return f".{name[:40]}.{hashlib.sha256(name.encode()).hexdigest()[:8]}{'0' * 24}.part"


# of train.yaml: the smallest run
SMALL_TRAIN = {
    "guide_steps": 4,
    "critic_views": 2,
    "encodings": 1,
    "solver_steps": 2,
    "scale_trials": 1,
    "quota": 3,
    "max_candidates": 6,
}
# of evaluate.yaml, and with a narrow classifier
SMALL_EVALUATE = {"classifier_steps": 3, "batch_size": 4}
NARROW_EVALUATE = {**SMALL_EVALUATE, "classifier#width": 8}


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    """A smooth picture that equals none of its flips and turns."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 5 * x, 30 + 8 * y, 200 - 3 * x - y], 2).clip(0, 255).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, form, **options)
    return stream.getvalue()


def nifti(array: np.ndarray, name: str, folder: Path) -> bytes:
    """The file of an array whose axes are ``x, y, ...``, as every NIfTI file has them."""
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 1, 1])), folder / name)
    return (folder / name).read_bytes()


def deep_png(array: np.ndarray) -> bytes:
    """A PNG file of 16 bits per channel, which pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def folder_of(root: Path, manifest: str | bytes | None, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(np.full((8, 8, 3), i, np.uint8), "PNG"))
    root.mkdir(exist_ok=True)
    if manifest is not None:
        (root / "manifest.csv").write_bytes(
            manifest.encode() if isinstance(manifest, str) else manifest
        )
    return root


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path
