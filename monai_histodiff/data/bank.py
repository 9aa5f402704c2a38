"""``SyntheticBank``: accepted patches of each class in shared memory, filled by the sampler, read
by any worker.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.utils.shared_memory import SharedTensors

__all__ = ["Bank", "BankPatch", "SyntheticBank"]

PROVENANCE = "bank.json"


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
        """Names, by class index."""

    @property
    def num_classes(self) -> int:
        """Class indices lie below this number."""

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
        confidence: class index to float tensor, shape ``N``; ones by default.
        seeds: class index to int64 tensor, shape ``N``; -1 by default.
        classes: names, by class index; optional.
        provenance: plain values that say where the patches come from.

    Raises:
        ValueError: there is no class, or shapes, dtypes or sizes disagree.
    """

    def __init__(
        self,
        images: Mapping[int, Tensor],
        confidence: Mapping[int, Tensor] | None = None,
        seeds: Mapping[int, Tensor] | None = None,
        classes: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        if not images:
            raise ValueError("a bank needs at least one class, got none")
        for label, stack in images.items():
            if stack.dtype != torch.uint8 or stack.ndim != 4 or stack.shape[1] != 3:
                raise ValueError(
                    f"a bank holds uint8 patches N x 3 x H x W, got {stack.dtype} {tuple(stack.shape)} for class {label}"
                )
        if classes and max(images) >= len(classes):
            raise ValueError(
                f"each class of a bank needs its name, got {len(classes)} names and class {max(images)}"
            )
        sizes = {tuple(stack.shape[2:]) for stack in images.values() if len(stack)}
        if len(sizes) > 1:
            raise ValueError(f"all patches of a bank must have one size, got {sorted(sizes)}")
        columns = {
            "images": {int(k): v for k, v in images.items()},
            "confidence": _column(confidence, images, 1.0, torch.float32),
            "seeds": _column(seeds, images, -1, torch.int64),
        }
        content = {(name, k): v for name, column in columns.items() for k, v in column.items()}
        memory = SharedTensors({key: (v.shape, v.dtype) for key, v in content.items()})
        for key, value in content.items():
            memory[key].copy_(value)
        self.__setstate__(
            {"memory": memory, "classes": tuple(classes), "provenance": dict(provenance or {})}
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"memory": self._memory, "classes": self.classes, "provenance": self.provenance}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._memory, self.classes, self.provenance = (
            state["memory"],
            state["classes"],
            state["provenance"],
        )
        self.images, self.confidence, self.seeds = (
            {k: v for (column, k), v in self._memory.items() if column == name}
            for name in ("images", "confidence", "seeds")
        )

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[int, np.ndarray], classes: Sequence[str] = ()
    ) -> SyntheticBank:
        """A bank of uint8 arrays ``{class_index: N x H x W x 3}``.

        Raises:
            ValueError: an array has another dtype or shape.
        """
        for label, array in arrays.items():
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
                raise ValueError(
                    f"a bank is made of uint8 arrays N x H x W x 3, got {array.dtype} {array.shape} for class {label}"
                )
        return cls(
            {k: torch.from_numpy(v).permute(0, 3, 1, 2) for k, v in arrays.items()},
            classes=classes,
        )

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
        """Write the bank as a patch set of PNG files, with its provenance; the folder appears
        complete or not at all.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """

        def items() -> Any:
            for label, stack in sorted(self.images.items()):
                name = self.classes[label] if self.classes else str(label)
                for i, patch in enumerate(stack):
                    seed, score = int(self.seeds[label][i]), float(self.confidence[label][i])
                    extra = {"index": str(label), "seed": str(seed), "confidence": repr(score)}
                    record = PatchRecord(
                        f"{label}/{i:06d}.png", name, "", f"synthetic/{label}/{i}", extra
                    )
                    yield record, patch.permute(1, 2, 0).numpy()

        about = {
            "classes": list(self.classes),
            "indices": sorted(self.images),
            "provenance": self.provenance,
        }
        return write_patches(folder, items(), {PROVENANCE: json.dumps(about, indent=1)})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> SyntheticBank:
        """Read a bank written by :meth:`save`.

        Raises:
            FileNotFoundError: the folder, or its ``bank.json``, does not exist.
        """
        about_file = Path(folder) / PROVENANCE
        if not about_file.is_file():
            raise FileNotFoundError(f"a bank must hold '{PROVENANCE}', got none in '{folder}'")
        about = json.loads(about_file.read_text())
        if not any(Path(folder).glob("*/*.png")):
            empty = torch.empty(0, 3, 0, 0, dtype=torch.uint8)
            return cls(
                {i: empty for i in about["indices"]},
                classes=about["classes"],
                provenance=about["provenance"],
            )
        patches = PatchSet.open(folder)
        images, indices = (
            patches.images(),
            torch.tensor([int(r.extra["index"]) for r in patches.records]),
        )
        score = torch.tensor(
            [float(r.extra["confidence"]) for r in patches.records], dtype=torch.float32
        )
        seeds = torch.tensor([int(r.extra["seed"]) for r in patches.records])
        parts = [{i: v[indices == i] for i in about["indices"]} for v in (images, score, seeds)]
        return cls(parts[0], parts[1], parts[2], about["classes"], about["provenance"])


def _column(
    values: Mapping[int, Tensor] | None,
    images: Mapping[int, Tensor],
    default: float,
    dtype: torch.dtype,
) -> dict[int, Tensor]:
    out = {}
    for label, stack in images.items():
        if values is not None and label not in values:
            raise ValueError(f"each patch needs one value, got none for class {label}")
        column = (
            torch.full((len(stack),), default, dtype=dtype)
            if values is None
            else torch.as_tensor(values[label]).to(dtype)
        )
        if column.shape != (len(stack),):
            raise ValueError(
                f"each patch needs one value, got {tuple(column.shape)} for {len(stack)} patches of class {label}"
            )
        out[int(label)] = column
    return out
