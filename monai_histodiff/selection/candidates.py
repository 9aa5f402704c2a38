"""Candidates: every synthetic patch of a run, accepted or not, with its score and the reason."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.bank import SyntheticBank
from monai_histodiff.data.choosing import chosen_rows
from monai_histodiff.data.patch_files import SCALE, PatchRecord
from monai_histodiff.data.sealed import COLUMNS, INDEX, MAX_BYTES, read_sealed, write_sealed
from monai_histodiff.data.strict_table import SealedRow
from monai_histodiff.selection.fitting import checked_labels
from monai_histodiff.selection.reasons import Reason

__all__ = ["Candidates"]

ABOUT = "candidates.json"
OWN = (*COLUMNS, "distance", "nearest", "reason")


@dataclass
class Candidates:
    """All candidates of a run, row by row, with what became of them.

    Attributes:
        images: uint8, ``N x 3 x H x W``.
        labels: intended classes, int64.
        seed: int64.
        confidence: critic's probability of the intended class.
        distance: distance to the nearest real training patch.
        nearest: index of that patch.
        reasons: what became of each; text is taken for the :class:`Reason` that it names.
        seconds: time that sampling and judging took.
        origin: of variations, the labelled patch that each was made from; ``None`` for patches
            made from noise.
        classes: names, by label; empty where they are not known.

    Raises:
        ValueError: a reason is none of :class:`Reason`, or parts differ in length.
    """

    images: Tensor
    labels: Tensor
    seed: Tensor
    confidence: Tensor
    distance: Tensor
    nearest: Tensor
    reasons: list[Reason]
    seconds: float = 0.0
    origin: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.reasons = [Reason(r) for r in self.reasons]
        rows = ("images", "labels", "seed", "confidence", "distance", "nearest", "reasons")
        found = {name: len(getattr(self, name)) for name in rows}
        found |= {} if self.origin is None else {"origin": len(self.origin)}
        if len(set(found.values())) > 1:
            raise ValueError(f"each candidate needs one row of each part, got {found}")

    @property
    def accepted(self) -> Tensor:
        """Bool, shape ``N``: which ones the bank takes."""
        kept = [r == Reason.accepted for r in self.reasons]
        return torch.tensor(kept, dtype=torch.bool, device="cpu")

    def counts(self, rows: Tensor) -> dict[str, int]:
        """``candidates``, ``accepted`` and ``over_quota`` (passed every check, but not needed)
        among the rows (bool mask); of variations also the ``sources`` of the accepted ones: from
        how many labelled patches they come.
        """
        kept = self.accepted & rows
        chosen = [self.reasons[i] for i in rows.nonzero()[:, 0].tolist()]
        found = {
            "candidates": len(chosen),
            "accepted": int(kept.sum()),
            "over_quota": chosen.count(Reason.over_quota),
        }
        return (
            found if self.origin is None else {**found, "sources": len(self.origin[kept].unique())}
        )

    def rejections(self) -> dict[str, int]:
        """Number of candidates that were rejected for each reason, in the order of
        :class:`Reason`.
        """
        found = {reason: self.reasons.count(reason) for reason in Reason if not reason.passed}
        return {reason.value: count for reason, count in found.items() if count}

    def save(
        self,
        folder: str | os.PathLike[str],
        classes: Sequence[str],
        um_per_px: float | None = None,
    ) -> Path:
        """Write all candidates as a patch set of PNG files whose manifest tells what became of
        each, with ``candidates.json``: class names, and number, size and SHA-256 of the patches.

        Args:
            folder: a new folder.
            classes: class names.
            um_per_px: micrometres per pixel of the patches, for the manifest; ``None``: not known.

        Raises:
            FileExistsError: the folder exists and is not empty.
            ValueError: classes are others than those of the candidates, or the images not uint8.
        """
        self.check_classes(classes)
        if self.images.dtype != torch.uint8:
            got = f"got {self.images.dtype}: bring them to bytes, as by pixels.to_bytes"
            raise ValueError(f"images of candidates must be uint8, {got}")

        def items() -> Iterator[tuple[PatchRecord, np.ndarray]]:
            columns = ["seed", "confidence", "distance", "nearest"] + ["origin"] * (
                self.origin is not None
            )
            scale = {} if um_per_px is None else {SCALE: f"{um_per_px:g}"}
            for i, label in enumerate(self.labels.tolist()):
                row = {name: repr(getattr(self, name)[i].item()) for name in columns}
                extra = {INDEX: str(label), **row, "reason": self.reasons[i].value, **scale}
                record = PatchRecord(
                    f"{label}/{i:06d}.png", classes[label], "", f"candidate/{i}", extra
                )
                yield record, self.images[i].permute(1, 2, 0).numpy()

        about = {"classes": list(classes), "seconds": self.seconds}
        return write_sealed(folder, ABOUT, about, items())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Candidates:
        """Read candidates written by :meth:`save`, and check that they are whole: number, names,
        ranges, sizes and hashes.

        Args:
            folder: the folder.
            max_bytes: what the patches may take in memory.

        Raises:
            FileNotFoundError: the folder, a file of it or a picture is missing.
            ValueError: something is cut, changed, out of range or too large; the message names the
                file and the remedy.
        """
        if not Path(folder).expanduser().is_dir():
            raise FileNotFoundError(
                f"candidates must lie in a folder, got none at '{folder}': give the folder that "
                "Candidates.save wrote, such as 'candidates' in the output of a run"
            )
        found = read_sealed(folder, ABOUT, ("classes", "seconds"), OWN, max_bytes)
        for row in found.rows:
            _check(row, found.about["classes"])

        def column(name: str, dtype: torch.dtype) -> Tensor:
            read = float if dtype == torch.float32 else int
            values = [read(row.record.extra[name]) for row in found.rows]
            return torch.tensor(values, dtype=dtype, device="cpu")

        varied = bool(found.rows) and "origin" in found.rows[0].record.extra
        return cls(
            found.images,
            column(INDEX, torch.int64),
            column("seed", torch.int64),
            column("confidence", torch.float32),
            column("distance", torch.float32),
            column("nearest", torch.int64),
            [Reason(row.record.extra["reason"]) for row in found.rows],
            float(found.about["seconds"]),
            column("origin", torch.int64) if varied else None,
            tuple(found.about["classes"]),
        )

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse class names by which labels would mean other classes than they were made for.

        Raises:
            ValueError: these candidates know their classes, and they are others; or labels are
                none of them.
        """
        if self.classes and self.classes != tuple(classes):
            raise ValueError(
                f"classes must be those of the candidates, in their order, {list(self.classes)}, "
                f"got {list(classes)}: give the data that they were made for"
            )
        checked_labels(self.labels, len(self.images), len(classes))

    def bank(
        self,
        chosen: Tensor,
        classes: Sequence[str],
        provenance: Mapping[str, Any] | None = None,
        um_per_px: float | None = None,
    ) -> SyntheticBank:
        """The bank of the chosen candidates (bool mask or indices). A confidence that is not
        finite counts as 0.

        Raises:
            ValueError: the mask is not as long as the candidates are many, or classes are others
                than those of the candidates.
        """
        self.check_classes(classes)
        rows = chosen_rows(chosen, len(self.labels))
        index = torch.tensor(rows, dtype=torch.int64, device=self.labels.device)
        by_class = {k: index[self.labels[index] == k] for k in range(len(classes))}
        confidence = self.confidence.nan_to_num(0, 0, 0)
        images, score, seeds = (
            {k: v[i] for k, i in by_class.items()} for v in (self.images, confidence, self.seed)
        )
        return SyntheticBank(images, score, seeds, classes, provenance, um_per_px)


def _check(row: SealedRow, classes: Sequence[str] | None) -> None:
    """Refuse a row that :meth:`Candidates.save` would not have written.

    Raises:
        ValueError: its message names file and line.
    """
    texts = row.record.extra
    names = [reason.value for reason in Reason]
    if texts["reason"] not in names:
        raise row.fail(f"reason must be one of {names}", texts["reason"])
    finite = texts["reason"] != Reason.not_finite.value
    label = row.whole(INDEX, 0, len(classes) - 1 if classes else 2**31)
    if classes and row.record.label != classes[label]:
        rule = f"label must be {classes[label]!r}, the name of index {label}"
        raise row.fail(rule, row.record.label)
    row.whole("seed")
    row.real("confidence", 0, 1, finite)
    row.real("distance", 0, math.inf, finite)
    row.whole("nearest", 0)
    if "origin" in texts:
        row.whole("origin", 0)
