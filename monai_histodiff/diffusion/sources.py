"""``Sources``: latents of real patches, by class, which variations start from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.utils.weights import read_state, write_state

__all__ = ["Sources"]

KEYS = ("image", "label", "row")


@dataclass(frozen=True)
class Sources:
    """Latents of real patches, by class.

    Args:
        latents: for each class, in order, normalised latents ``N x C x h x w``.
        rows: for each class, which patch each latent was encoded from, int64, shape ``N``; empty
            where that is not known. A critic needs it to judge a variation by what has not seen
            its source.

    Raises:
        ValueError: latents and rows differ in number.
    """

    latents: tuple[Tensor, ...]
    rows: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        counts = [len(v) for v in self.latents], [len(v) for v in self.rows]
        if self.rows and counts[0] != counts[1]:
            rule = "rows must name one patch for each latent of each class"
            raise ValueError(f"{rule}, got {counts[1]} for {counts[0]}")

    @classmethod
    def of(cls, items: Sequence[Mapping[str, Any]], num_classes: int) -> Sources:
        """Sort the items of :func:`monai_histodiff.diffusion.encode_latents` by class.

        Raises:
            ValueError: a label is not one of the classes.
        """
        labels = torch.tensor([int(item["label"]) for item in items], dtype=torch.long)
        if len(items) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            span = f"{int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"labels of sources must lie from 0 to {num_classes - 1}, got {span}")
        found: list[tuple[Tensor, Tensor]] = []
        for k in range(num_classes):
            own = [items[i] for i in (labels == k).nonzero()[:, 0].tolist()]
            latents = [torch.as_tensor(item["image"]) for item in own]
            rows = torch.tensor([int(item["row"]) for item in own], dtype=torch.long)
            found.append(
                (torch.stack(latents) if own else torch.empty(0, dtype=torch.float32), rows)
            )
        return cls(tuple(z for z, _ in found), tuple(rows for _, rows in found))

    def draw(self, label: int, generator: torch.Generator) -> int:
        """Draw one of the latents of a class: its index."""
        return int(torch.randint(len(self.latents[label]), (), generator=generator))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one file. Whoever has it and the autoencoder can see the patches.

        Raises:
            ValueError: the rows are not known.
            OSError: the file cannot be written; the previous one is kept.
        """
        if not self.rows:
            raise ValueError("sources must know the rows of their patches to be saved, got none")
        labels = [k for k, latents in enumerate(self.latents) for _ in latents]
        images = torch.cat([latents for latents in self.latents if len(latents)])
        write_state(path, {"image": images, "label": labels, "row": torch.cat(self.rows).tolist()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], num_classes: int) -> Sources:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be read, holds something else, or its classes are others.
        """
        state = read_state(path)
        if missing := [name for name in KEYS if name not in state]:
            rule = "a file of sources must hold image, label and row"
            raise ValueError(f"{rule}, got no {missing[0]} in '{path}'")
        if len({len(state[name]) for name in KEYS}) > 1:
            counts = [len(state[name]) for name in KEYS]
            raise ValueError(
                f"a file of sources must hold as many of each, got {counts} in '{path}'"
            )
        columns = zip(*(state[name] for name in KEYS), strict=True)
        return cls.of([dict(zip(KEYS, row, strict=True)) for row in columns], num_classes)
