"""Candidates: every synthetic patch of a run, accepted or not, with its score and the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.bank import SyntheticBank
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.selector import ACCEPTED

__all__ = ["Candidates"]


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
        reasons: ``"accepted"`` or why not.
        seconds: time that sampling and judging took.
        origin: of variations, the labelled patch that each was made from; ``None`` for patches
            made from noise.
    """

    images: Tensor
    labels: Tensor
    seed: Tensor
    confidence: Tensor
    distance: Tensor
    nearest: Tensor
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0
    origin: Tensor | None = None

    @property
    def accepted(self) -> Tensor:
        """Bool, shape ``N``."""
        return torch.tensor([r == ACCEPTED for r in self.reasons], dtype=torch.bool)

    def counts(self, rows: Tensor) -> dict[str, int]:
        """``candidates`` and ``accepted`` among the rows (bool mask); of variations also the
        ``sources`` of the accepted ones: from how many labelled patches they come.
        """
        kept = self.accepted & rows
        found = {"candidates": int(rows.sum()), "accepted": int(kept.sum())}
        return (
            found if self.origin is None else {**found, "sources": len(self.origin[kept].unique())}
        )

    def save(self, folder: str | os.PathLike[str], classes: Sequence[str]) -> Path:
        """Write all candidates as a patch set of PNG files whose manifest tells what became of
        each.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """

        def items() -> Iterator[tuple[PatchRecord, np.ndarray]]:
            columns = ["seed", "confidence", "distance", "nearest"] + ["origin"] * (
                self.origin is not None
            )
            for i, label in enumerate(self.labels.tolist()):
                row = {name: repr(getattr(self, name)[i].item()) for name in columns}
                extra = {"index": str(label), **row, "reason": self.reasons[i]}
                record = PatchRecord(
                    f"{label}/{i:06d}.png", classes[label], "", f"candidate/{i}", extra
                )
                yield record, self.images[i].permute(1, 2, 0).numpy()

        return write_patches(folder, items())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Candidates:
        """Read candidates written by :meth:`save`.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        patches = PatchSet.open(folder)
        rows = [r.extra for r in patches.records]
        labels, seed, nearest = (
            torch.tensor([int(r[name]) for r in rows]) for name in ("index", "seed", "nearest")
        )
        confidence, distance = (
            torch.tensor([float(r[name]) for r in rows], dtype=torch.float32)
            for name in ("confidence", "distance")
        )
        origin = (
            torch.tensor([int(r["origin"]) for r in rows])
            if rows and "origin" in rows[0]
            else None
        )
        return cls(
            patches.images(),
            labels,
            seed,
            confidence,
            distance,
            nearest,
            [r["reason"] for r in rows],
            origin=origin,
        )

    def bank(
        self, chosen: Tensor, classes: Sequence[str], provenance: Mapping[str, Any] | None = None
    ) -> SyntheticBank:
        """The bank of the chosen candidates (bool mask or indices)."""
        index = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        rows = {k: index[self.labels[index] == k] for k in range(len(classes))}
        images, score, seeds = (
            {k: v[i] for k, i in rows.items()} for v in (self.images, self.confidence, self.seed)
        )
        return SyntheticBank(images, score, seeds, classes, provenance)
