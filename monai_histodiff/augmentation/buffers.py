"""``Buffers``: the patches of a live bank in shared memory, twice, so that readers in any process
see either the old ones or the new ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_histodiff.data.bank import BankPatch
from monai_histodiff.utils.shared_memory import SharedTensors

__all__ = ["Buffers"]

COLUMNS = ("images", "confidence", "seeds")


class Buffers:
    """Two buffers of patches by class, of which one is read and the other written, in turns.

    Args:
        num_classes: number of classes.
        capacity: patches of each class, at the most.
        size: height and width of the patches.
    """

    def __init__(self, num_classes: int, capacity: int, size: tuple[int, int]) -> None:
        self.num_classes, self.capacity, self.size = num_classes, capacity, size
        shape = (2, num_classes, capacity)
        self._memory = SharedTensors(
            {
                "images": ((*shape, 3, *size), torch.uint8),
                "confidence": (shape, torch.float32),
                "seeds": (shape, torch.int64),
                "count": (shape[:2], torch.int64),
                "version": ((1,), torch.int64),
            }
        )

    @property
    def version(self) -> int:
        """Times that patches were published."""
        return int(self._memory["version"])

    def counts(self) -> list[int]:
        """Number of patches of each class now."""
        return self._memory["count"][self.version % 2].tolist()

    def count(self, label: int) -> int:
        """Number of patches of a class now; 0 for a class that there is not."""
        known = 0 <= label < self.num_classes
        return int(self._memory["count"][self.version % 2, label]) if known else 0

    def draw(self, label: int, position: float) -> BankPatch | None:
        """A copy of the patch of a class at a position in [0, 1) of its list; ``None`` where there
        is none.
        """
        while True:
            version = self.version
            count = self.count(label)
            if not count:
                return None
            place = (version % 2, label, min(int(position * count), count - 1))
            image, confidence, seed = (self._memory[name][place].clone() for name in COLUMNS)
            if version == self.version:  # else the buffer may have been written to meanwhile
                return BankPatch(image, label, float(confidence), int(seed))

    def publish(self, patches: list[dict[str, Tensor]]) -> None:
        """Put new patches of each class before the old ones, of which the oldest leave, and show
        them to all readers at once.

        Args:
            patches: for each class its ``images``, ``confidence`` and ``seeds``.
        """
        memory, old, new = self._memory, self.version % 2, (self.version + 1) % 2
        for k, part in enumerate(patches):
            count = len(part["images"])
            total = min(self.capacity, count + int(memory["count"][old, k]))
            for name in COLUMNS:
                memory[name][new, k, :count] = part[name]
                memory[name][new, k, count:total] = memory[name][old, k, : total - count]
            memory["count"][new, k] = total
        memory["version"].add_(1)

    def content(self) -> dict[str, Any]:
        """``images``, ``confidence`` and ``seeds`` now, by class, as views."""
        now, counts = self.version % 2, self.counts()
        return {
            name: {k: self._memory[name][now, k, :n] for k, n in enumerate(counts)}
            for name in COLUMNS
        }
