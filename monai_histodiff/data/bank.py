"""``SyntheticBank``: accepted patches of each class in shared memory, filled by the sampler, read
by any worker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.bank_files import (
    check_classes,
    check_provenance,
    read_bank,
    write_bank,
)
from monai_histodiff.data.scale import check_scale
from monai_histodiff.data.sealed import MAX_BYTES
from monai_histodiff.utils.counts import is_whole
from monai_histodiff.utils.shared_memory import SharedTensors

__all__ = ["Bank", "BankPatch", "SyntheticBank"]


class BankPatch(NamedTuple):
    """One patch drawn from a bank, in memory of its own.

    Attributes:
        image: uint8, ``3 x H x W``.
        label: its class index.
        confidence: the critic's probability of the class.
        seed: the seed that reproduces it; -1 if unknown.
    """

    image: Tensor
    label: int
    confidence: float
    seed: int


class Bank(Protocol):
    """Synthetic patches by class, which a :class:`~monai_histodiff.SyntheticAugment` draws
    from.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Names, by class index; empty where they are not known."""

    @property
    def num_classes(self) -> int:
        """Class indices lie below this number."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the patches; ``None`` where there is none."""

    @property
    def um_per_px(self) -> float | None:
        """Micrometres that a pixel shows; ``None`` where that is not known."""

    def count(self, label: int) -> int:
        """Number of patches of a class; 0 for a class that the bank does not know."""

    def draw(self, label: int, position: float) -> BankPatch | None:
        """The patch of a class at a position in [0, 1) of its list; ``None`` where the class has
        no patch.
        """


class SyntheticBank:
    """Synthetic patches by class, as uint8 tensors in shared memory.

    Workers, forked or spawned, read the same memory; no model is needed to read. Each patch has a
    confidence and the seed that reproduces it. The bank holds a copy of what it is made of.

    Args:
        images: class index to uint8 tensor ``N x 3 x H x W``; an empty class is allowed and says
            so when drawn from.
        confidence: class index to float tensor, shape ``N``, in [0, 1]; ones by default.
        seeds: class index to int64 tensor, shape ``N``; -1 by default.
        classes: names, by class index; optional.
        provenance: plain values that say where the patches come from.
        um_per_px: micrometres that a pixel shows; ``None``: not known.

    Raises:
        ValueError: there is no class, shapes, dtypes or sizes disagree, a confidence is no
            probability, names are not distinct, or the scale is none (0.02 to 16).
    """

    def __init__(
        self,
        images: Mapping[int, Tensor],
        confidence: Mapping[int, Tensor] | None = None,
        seeds: Mapping[int, Tensor] | None = None,
        classes: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
        um_per_px: float | None = None,
    ) -> None:
        if not isinstance(images, Mapping):
            raise TypeError(
                f"a bank takes patches by class index, got {type(images).__name__}: give "
                "{0: patches, 1: patches}, or use SyntheticBank.from_arrays"
            )
        if not images:
            raise ValueError("a bank needs at least one class, got none")
        if odd := [k for k in images if not is_whole(k)]:
            raise ValueError(f"class indices of a bank must be whole numbers, got {odd[0]!r}")
        for label, stack in images.items():
            if not isinstance(stack, Tensor):
                raise TypeError(
                    f"a bank holds tensors, got {type(stack).__name__} for class {label}: give "
                    "torch.as_tensor of it"
                )
            if stack.dtype != torch.uint8 or stack.ndim != 4 or stack.shape[1] != 3:
                raise ValueError(
                    "a bank holds uint8 patches N x 3 x H x W, got "
                    f"{stack.dtype} {tuple(stack.shape)} for class {label}"
                )
        if min(images) < 0:
            raise ValueError(f"class indices of a bank start at 0, got {min(images)}")
        check_classes(classes)
        check_scale(um_per_px)
        check_provenance(dict(provenance or {}))
        if classes and max(images) >= len(classes):
            raise ValueError(
                f"each class of a bank needs its name, got {len(classes)} names and class "
                f"{max(images)}"
            )
        sizes = {tuple(stack.shape[2:]) for stack in images.values() if len(stack)}
        if len(sizes) > 1:
            raise ValueError(f"all patches of a bank must have one size, got {sorted(sizes)}")
        columns = {
            "images": {int(k): v for k, v in images.items()},
            "confidence": _column(confidence, images, 1.0, torch.float32),
            "seeds": _column(seeds, images, -1, torch.int64),
        }
        for label, values in columns["confidence"].items():
            if not bool(((values >= 0) & (values <= 1)).all()):
                wrong = next(float(v) for v in values if not 0 <= float(v) <= 1)
                raise ValueError(
                    f"a confidence is a probability, in [0, 1], got {wrong:g} for class {label}"
                )
        content = {(name, k): v for name, column in columns.items() for k, v in column.items()}
        memory = SharedTensors({key: (v.shape, v.dtype) for key, v in content.items()})
        for key, value in content.items():
            memory[key].copy_(value)
        self.__setstate__(
            {
                "memory": memory,
                "classes": tuple(classes),
                "provenance": dict(provenance or {}),
                "um_per_px": um_per_px,
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("classes", "provenance", "um_per_px")
        return {"memory": self._memory, **{name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._memory: SharedTensors = state["memory"]
        self.classes: tuple[str, ...] = state["classes"]
        self.provenance: dict[str, Any] = state["provenance"]
        self.um_per_px: float | None = state["um_per_px"]
        self.images, self.confidence, self.seeds = (
            {k: v for (column, k), v in self._memory.items() if column == name}
            for name in ("images", "confidence", "seeds")
        )

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[int, np.ndarray],
        classes: Sequence[str] = (),
        um_per_px: float | None = None,
    ) -> SyntheticBank:
        """A bank of uint8 arrays ``{class_index: N x H x W x 3}``.

        Raises:
            ValueError: an array has another dtype or shape.
        """
        for label, array in arrays.items():
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
                raise ValueError(
                    "a bank is made of uint8 arrays N x H x W x 3, got "
                    f"{array.dtype} {array.shape} for class {label}"
                )
        stacks = {k: torch.from_numpy(v).permute(0, 3, 1, 2) for k, v in arrays.items()}
        return cls(stacks, classes=classes, um_per_px=um_per_px)

    def __len__(self) -> int:
        return sum(len(v) for v in self.images.values())

    def count(self, label: int) -> int:
        """Number of patches of a class; 0 for a class that the bank does not know."""
        return len(self.images[label]) if label in self.images else 0

    @property
    def num_classes(self) -> int:
        """Class indices of the bank lie below this number."""
        return len(self.classes) or max(self.images) + 1

    def draw(self, label: int, position: float) -> BankPatch | None:
        """The patch of a class at a position in [0, 1) of its list; ``None`` where the class has
        no patch.
        """
        count = self.count(label)
        if not count:
            return None
        i = min(int(position * count), count - 1)
        return BankPatch(
            self.images[label][i].clone(),
            label,
            float(self.confidence[label][i]),
            int(self.seeds[label][i]),
        )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the patches; ``None`` when the bank is empty."""
        return next(((v.shape[2], v.shape[3]) for v in self.images.values() if len(v)), None)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the bank as a patch set of PNG files with ``bank.json``: class names, scale,
        provenance, and number, size and SHA-256 of the patches. The folder appears complete or not
        at all.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """
        return write_bank(folder, self)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> SyntheticBank:
        """Read a bank written by :meth:`save`, and check that it is whole: number, names, ranges,
        sizes and hashes.

        Args:
            folder: the folder.
            max_bytes: what the patches may take in memory.

        Raises:
            FileNotFoundError: the folder, its ``bank.json``, manifest or a picture is missing.
            ValueError: something is cut, changed, out of range or too large; the message names the
                file and the remedy.
        """
        return cls(**read_bank(folder, max_bytes))


def _column(
    values: Mapping[int, Tensor] | None,
    images: Mapping[int, Tensor],
    default: float,
    dtype: torch.dtype,
) -> dict[int, Tensor]:
    out = {}
    if unknown := sorted(set(values or ()) - set(images)):
        raise ValueError(f"each value needs its patch, got values of class {unknown[0]}, no patch")
    for label, stack in images.items():
        if values is not None and label not in values:
            raise ValueError(f"each patch needs one value, got none for class {label}")
        if values is not None and dtype == torch.int64:
            given = torch.as_tensor(values[label], device="cpu")
            if given.is_floating_point():
                raise ValueError(
                    f"seeds must be whole numbers, got {given.dtype} for class {label}"
                )
        column = (
            torch.full((len(stack),), default, dtype=dtype, device="cpu")
            if values is None
            else torch.as_tensor(values[label], dtype=dtype, device="cpu")
        )
        if column.shape != (len(stack),):
            raise ValueError(
                f"each patch needs one value, got {tuple(column.shape)} for {len(stack)} patches "
                f"of class {label}"
            )
        out[int(label)] = column
    return out
