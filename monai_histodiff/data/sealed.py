"""Patch sets of our own that are checked when they are read back: beside the manifest lies a JSON
file with their number, size and SHA-256.

The manifest holds the SHA-256 of each picture, the JSON file that of all rows, and of its own
values but ``um_per_px``, which may be written by hand: a picture, row or value that was changed,
cut or lost since is an error that names the file. This guards against accidents, not against
someone who writes new hashes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from monai_histodiff.data.patch_files import MANIFEST, SCALE, PatchRecord, write_patches
from monai_histodiff.data.strict_table import REMEDY, SealedRow, check_length, read_rows
from monai_histodiff.utils.counts import is_whole
from monai_histodiff.utils.files import read_json, stays_inside

__all__ = ["COLUMNS", "HASH", "INDEX", "MAX_BYTES", "Sealed", "read_sealed", "write_sealed"]

INDEX, HASH = "index", "sha256"  # columns: of the class, and of the picture
COLUMNS = (INDEX, "seed", "confidence")  # of banks and candidates alike
MAX_BYTES = 2**32  # of all pictures in memory
OVERHEAD = 2**16  # bytes that a PNG file may be larger than twice its pixels


@dataclass(frozen=True)
class Sealed:
    """A patch set that was read and found whole.

    Attributes:
        about: the plain values of the JSON file.
        rows: one for each patch.
        images: uint8, ``N x 3 x H x W``; ``0 x 3 x 0 x 0`` where there are none.
    """

    about: dict[str, Any]
    rows: list[SealedRow]
    images: Tensor


def write_sealed(
    folder: str | os.PathLike[str],
    name: str,
    about: Mapping[str, Any],
    items: Iterable[tuple[PatchRecord, np.ndarray]],
) -> Path:
    """Write PNG patches with their manifest and ``name``, a JSON file that seals them; the folder
    appears complete or not at all.

    Args:
        folder: a new folder.
        name: of the JSON file.
        about: plain values for it.
        items: each record with its uint8 ``H x W x 3`` array; all of one size.

    Raises:
        FileExistsError: the folder exists and is not empty.
    """
    written: list[tuple[PatchRecord, bytes | np.ndarray]] = []
    size: tuple[int, ...] | None = None
    for record, array in items:
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "PNG")
        content, size = stream.getvalue(), array.shape[:2]
        found = hashlib.sha256(content).hexdigest()
        written.append((replace(record, extra={**record.extra, HASH: found}), content))
    seal = {
        "patches": len(written),
        "size": None if size is None else list(size),
        "sha256": _digest([record for record, _ in written]),
        "values": _digest_values(about),
    }
    text = json.dumps({**about, "seal": seal}, indent=1)
    return write_patches(folder, written, {name: text})


def read_sealed(
    folder: str | os.PathLike[str],
    name: str,
    needs: Sequence[str],
    columns: Sequence[str],
    max_bytes: int = MAX_BYTES,
) -> Sealed:
    """Read what :func:`write_sealed` wrote, and check it.

    Args:
        folder: the folder; ``~`` is the user's home.
        name: of the JSON file.
        needs: entries that the JSON file must have beside the seal.
        columns: columns that the manifest must have beyond ``path,label,split,group``.
        max_bytes: what the pictures may take in memory.

    Raises:
        FileNotFoundError: the folder, the manifest, its seal or a picture is missing.
        ValueError: something is cut, changed, of another size, too large, or lies outside of the
            folder; the message names the file and the remedy.
    """
    root = Path(folder).expanduser()
    if not (root / name).is_file():
        raise FileNotFoundError(
            f"'{root / name}' must hold the seal of the patches beside it, got none: {REMEDY}"
        )
    check_length(root / name)
    about = read_json(root / name, (*needs, "seal"), REMEDY)
    rows = read_rows(root / MANIFEST, [*columns, HASH])
    seal = _checked_seal(about["seal"], root / name)
    if len(rows) != seal["patches"]:
        raise ValueError(
            f"'{root / MANIFEST}' must list the {seal['patches']} patches that '{name}' "
            f"counts, got {len(rows)}: {REMEDY}"
        )
    if _digest([row.record for row in rows]) != seal["sha256"]:
        raise ValueError(
            f"'{root / MANIFEST}' must be as it was written, got rows that differ from the "
            f"SHA-256 in '{name}': {REMEDY}"
        )
    if seal.get("values", known := _digest_values(about)) != known:
        raise ValueError(
            f"'{root / name}' must be as it was written, but for {SCALE}, got values of"
            f" another SHA-256: {REMEDY}"
        )
    size = seal["size"] and tuple(seal["size"])
    pictures: list[np.ndarray] = []
    for row in rows:
        picture = _read_picture(root, row, size, max_bytes)
        size = picture.shape[:2]
        if len(rows) * picture.size > max_bytes:
            raise ValueError(
                f"the pictures of '{root}' must fit into {max_bytes} bytes, got {len(rows)} of "
                f"{size[0]} x {size[1]}: pass a larger max_bytes if this is meant"
            )
        pictures.append(picture)
    if not pictures:
        return Sealed(about, rows, torch.empty(0, 3, 0, 0, dtype=torch.uint8, device="cpu"))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Sealed(about, rows, images)


def _digest(records: Sequence[PatchRecord]) -> str:
    found = hashlib.sha256()
    for r in records:
        row = [r.path, r.label, r.split, r.group, sorted(r.extra.items())]
        found.update(json.dumps(row).encode() + b"\n")
    return found.hexdigest()


def _digest_values(about: Mapping[str, Any]) -> str:
    """Of the values as JSON gives them back; versions before 0.21 sealed none."""
    values = json.loads(json.dumps({k: v for k, v in about.items() if k not in ("seal", SCALE)}))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _checked_seal(seal: Any, path: Path) -> dict[str, Any]:
    parts = seal if isinstance(seal, dict) else {}
    size, count = parts.get("size", 0), parts.get("patches", -1)
    right = size is None or (
        isinstance(size, list) and len(size) == 2 and all(is_whole(n) and n > 0 for n in size)
    )
    right = right and is_whole(count) and count >= 0
    if not (right and isinstance(parts.get("sha256"), str)):
        raise ValueError(
            f"the seal in '{path}' must tell patches, size and sha256, got {seal!r}: {REMEDY}"
        )
    return parts


def _read_picture(
    root: Path, row: SealedRow, size: tuple[int, ...] | None, max_bytes: int
) -> np.ndarray:
    name = row.record.path
    path = root / name
    if not (stays_inside(name) and path.resolve().is_relative_to(root.resolve())):
        raise row.fail("a path must stay within the folder", name)
    if not path.is_file():
        raise FileNotFoundError(f"'{row.file}' names '{name}', which is not there: {REMEDY}")
    most = max_bytes if size is None else 6 * math.prod(size) + OVERHEAD
    if path.stat().st_size > most:
        raise ValueError(
            f"'{path}' must not exceed {most} bytes, got {path.stat().st_size}: {REMEDY}"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != row.record.extra[HASH]:
        raise ValueError(
            f"'{path}' must be as it was written, got bytes of another SHA-256: {REMEDY}"
        )
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            found = (picture.height, picture.width)
            if picture.mode != "RGB" or (size is not None and found != tuple(size)):
                wanted = "any size" if size is None else f"{size[0]} x {size[1]}"
                raise ValueError(
                    f"'{path}' must be RGB of {wanted}, got {picture.mode} of "
                    f"{found[0]} x {found[1]}: {REMEDY}"
                )
            if 3 * math.prod(found) > max_bytes:
                raise ValueError(
                    f"'{path}' must fit into {max_bytes} bytes, got {found[0]} x {found[1]} "
                    "pixels: pass a larger max_bytes if this is meant"
                )
            return np.array(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"'{path}' must be a whole PNG picture, got {error}: {REMEDY}") from error
