"""The files of a bank: written, read and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.names import check_name, check_ordered
from monai_histodiff.data.patch_files import SCALE, PatchRecord
from monai_histodiff.data.scale import check_scale
from monai_histodiff.data.sealed import COLUMNS, INDEX, read_sealed, write_sealed
from monai_histodiff.data.strict_table import REMEDY

__all__ = ["check_classes", "check_provenance", "read_bank", "write_bank"]

ABOUT = "bank.json"


class Content(Protocol):
    """What a bank is made of; see :class:`~monai_histodiff.SyntheticBank`."""

    images: dict[int, Tensor]
    confidence: dict[int, Tensor]
    seeds: dict[int, Tensor]
    classes: tuple[str, ...]
    provenance: dict[str, Any]
    um_per_px: float | None


def write_bank(folder: str | os.PathLike[str], bank: Content) -> Path:
    """Write a bank; see :meth:`monai_histodiff.SyntheticBank.save`."""

    def items() -> Iterator[tuple[PatchRecord, np.ndarray]]:
        for label, stack in sorted(bank.images.items()):
            for i, patch in enumerate(stack):
                seed, score = int(bank.seeds[label][i]), float(bank.confidence[label][i])
                extra = {INDEX: str(label), "seed": str(seed), "confidence": repr(score)}
                if bank.um_per_px is not None:
                    extra[SCALE] = f"{bank.um_per_px:g}"
                record = PatchRecord(
                    f"{label}/{i:06d}.png",
                    _name(bank.classes, label),
                    "",
                    f"synthetic/{label}/{i}",
                    extra,
                )
                yield record, patch.permute(1, 2, 0).numpy()

    about = {
        "classes": list(bank.classes),
        "indices": sorted(bank.images),
        "um_per_px": bank.um_per_px,
        "provenance": bank.provenance,
    }
    return write_sealed(folder, ABOUT, about, items())


def read_bank(folder: str | os.PathLike[str], max_bytes: int) -> dict[str, Any]:
    """The arguments of :class:`~monai_histodiff.SyntheticBank` that were written; see its
    ``load``.
    """
    about_file = Path(folder).expanduser() / ABOUT
    if not about_file.is_file():
        raise FileNotFoundError(
            f"a bank must hold '{ABOUT}', got none in '{folder}': give the folder that "
            "SyntheticBank.save wrote, such as 'bank' in the output of a run; a zip unpacked"
        )
    needs = ("classes", "indices", "provenance")
    found = read_sealed(folder, ABOUT, needs, COLUMNS, max_bytes)
    classes, indices = found.about["classes"], found.about["indices"]
    scale, provenance = found.about.get("um_per_px"), found.about["provenance"]
    try:
        if not isinstance(classes, list) or not isinstance(provenance, dict):
            raise ValueError("classes must be a list, and provenance a mapping")
        check_classes(classes)
        check_scale(scale)
        last = len(classes) - 1 if classes else 2**31
        if not isinstance(indices, list) or not indices or len(set(indices)) < len(indices):
            raise ValueError(f"indices must be a list of distinct classes, got {indices!r}")
        if not all(type(k) is int and 0 <= k <= last for k in indices):
            raise ValueError(f"indices must be whole numbers up to {last}, got {indices!r}")
    except ValueError as error:
        raise ValueError(f"in '{about_file}', {error}: {REMEDY}") from error
    for row in found.rows:
        label = row.whole(INDEX, 0, last)
        if label not in indices:
            raise row.fail(f"index must be one of the 'indices' {indices} in {ABOUT}", label)
        if row.record.label != _name(classes, label):
            rule = f"label must be {_name(classes, label)!r}, the name of index {label}"
            raise row.fail(rule, row.record.label)
        shown = row.record.um_per_px
        if shown is not None and (scale is None or f"{scale:g}" != f"{shown:g}"):
            raise row.fail(f"um_per_px must be that in {ABOUT}, {scale!r}", f"{shown:g}")
    where = torch.tensor([row.whole(INDEX) for row in found.rows], dtype=torch.int64, device="cpu")
    score, seeds = (
        torch.tensor([read(row) for row in found.rows], dtype=dtype, device="cpu")
        for read, dtype in (
            (lambda row: row.real("confidence", 0, 1), torch.float32),
            (lambda row: row.whole("seed"), torch.int64),
        )
    )
    images, confidence, numbers = (
        {k: v[where == k] for k in sorted(indices)} for v in (found.images, score, seeds)
    )
    return {
        "images": images,
        "confidence": confidence,
        "seeds": numbers,
        "classes": classes,
        "provenance": provenance,
        "um_per_px": scale,
    }


def check_classes(classes: Sequence[str]) -> None:
    """Refuse class names by which classes cannot be told apart, or which cannot be printed.

    Raises:
        ValueError: they are in no order (a set, a mapping of names to indices) or one text; a name
            is no text, is empty or not printable, has blanks around it, or occurs twice.
    """
    check_ordered(classes)
    for name in classes:
        check_name("class name", name)
    if twice := sorted({name for name in classes if list(classes).count(name) > 1}):
        raise ValueError(f"class names must be distinct, got {twice[0]!r} more than once")


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Refuse a provenance that cannot be saved.

    Raises:
        ValueError: a value is not plain.
    """
    try:
        json.dumps(provenance)
    except TypeError as error:
        raise ValueError(
            "provenance must be of plain values (text, numbers, lists and mappings of them), got"
            f" one that is none ({error}): turn it into text"
        ) from None


def _name(classes: Sequence[str], label: int) -> str:
    return classes[label] if classes else str(label)
