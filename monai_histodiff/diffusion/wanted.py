"""``Wanted``: which patches a sampler is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.utils.seeds import checked_seeds

__all__ = ["Wanted"]


@dataclass(frozen=True)
class Wanted:
    """Patches that a sampler is asked for, one for each seed.

    Args:
        seeds: whole numbers from 0 to 2^32 - 1, which is what a generator tells apart.
        labels: class indices, int64, shape ``N``; ``None``: of no class.
        exemplars: descriptors ``N x D``; ``None``: those that the sources draw, if any.
    """

    seeds: list[int]
    labels: Tensor | None = None
    exemplars: Tensor | None = None

    @classmethod
    def checked(
        cls, labels: Any, seeds: Sequence[int] | Tensor, exemplars: Tensor | None, classes: int
    ) -> Wanted:
        """What :class:`~monai_histodiff.GuidedSampler` is called with.

        Args:
            labels: as in ``Wanted``, or a sequence.
            seeds: as in ``Wanted``.
            exemplars: as in ``Wanted``.
            classes: how many classes the sampler knows.

        Raises:
            ValueError: there is no seed, a seed or a label is no whole number or out of range,
                labels are names, or labels or exemplars differ in number from the seeds.
        """
        own = checked_seeds(seeds.tolist() if isinstance(seeds, Tensor) else seeds)
        if isinstance(exemplars, Tensor) and len(exemplars) != len(own):
            got = f"{len(own)} seeds and {len(exemplars)} exemplars"
            raise ValueError(f"each seed needs one exemplar, got {got}")
        if labels is None:
            return cls(own, None, exemplars)
        if not isinstance(labels, Tensor) and (odd := [k for k in labels if isinstance(k, str)]):
            raise ValueError(
                f"labels must be class indices, whole numbers, got {odd[0]!r}: give its place "
                "among the class names, as by patches.classes.index(...)"
            )
        # A copy: an inference tensor could not be differentiated by.
        given_labels = torch.as_tensor(
            labels, device=None if isinstance(labels, Tensor) else "cpu"
        )
        wanted = given_labels.to(torch.long, copy=True)
        if not torch.equal(wanted.double(), given_labels.double()):
            raise ValueError(f"labels must be class indices, whole numbers, got {labels}")
        if not classes:
            raise ValueError(
                "labels need a guide, a model of classes, or sources with descriptors, got none"
            )
        if wanted.shape != (len(own),):
            got = f"{len(own)} seeds and labels of shape {tuple(wanted.shape)}"
            raise ValueError(f"each seed needs one label, got {got}")
        span = (int(wanted.min()), int(wanted.max()))
        if span[0] < 0 or span[1] >= classes:
            rule = f"labels must lie from 0 to {classes - 1}"
            raise ValueError(f"{rule}, got {span[0]} to {span[1]}")
        return cls(own, wanted, exemplars)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, rows: slice) -> Wanted:
        labels, exemplars = (None if v is None else v[rows] for v in (self.labels, self.exemplars))
        return Wanted(self.seeds[rows], labels, exemplars)

    def generators(self) -> list[torch.Generator]:
        """A generator of random numbers for each patch. They are drawn on the CPU: the same noise
        on every device.
        """
        return [torch.Generator("cpu").manual_seed(seed) for seed in self.seeds]
