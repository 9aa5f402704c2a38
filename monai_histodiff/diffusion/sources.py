"""``Sources``: real patches, by class, which variations start from and exemplars are of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.utils.weights import read_state, write_state

__all__ = ["Sources"]

KEYS, DESCRIPTOR = ("image", "label", "row"), "descriptor"


@dataclass(frozen=True)
class Sources:
    """Latents of real patches, by class, and their descriptors.

    Args:
        latents: for each class, in order, normalised latents ``N x C x h x w``.
        rows: for each class, which patch each latent was encoded from, int64, shape ``N``; empty
            where that is not known. A critic needs it to judge a patch by what has not seen its
            source.
        descriptors: for each class, descriptors ``N x D`` of the same patches, see
            :meth:`monai_histodiff.PatchEncoder.descriptors`; empty: no exemplars.

    Raises:
        ValueError: latents differ in number from rows or descriptors.
    """

    latents: tuple[Tensor, ...]
    rows: tuple[Tensor, ...] = ()
    descriptors: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        latents = [len(v) for v in self.latents]
        for name in ("rows", "descriptors"):
            counts = [len(v) for v in getattr(self, name)]
            if counts and counts != latents:
                rule = f"{name} must be one for each latent of each class"
                raise ValueError(f"{rule}, got {counts} for {latents}")

    def check(self, num_classes: int | None, latent_shape: tuple[int, ...] | None) -> None:
        """Refuse sources that do not serve a sampler.

        Args:
            num_classes: of the guide; ``None`` without one.
            latent_shape: of what variations start from; ``None`` where there are none.

        Raises:
            ValueError: a class has no source, there are other classes than the guide's, or a
                latent has another shape.
        """
        counts = [len(latents) for latents in self.latents]
        if not counts or 0 in counts or num_classes not in (None, len(counts)):
            rule = "strength below 1, and exemplars of classes, need sources of each class"
            given = "" if num_classes is None else f" of the guide's {num_classes}"
            raise ValueError(f"{rule}{given}, got {counts}")
        for latents in self.latents if latent_shape is not None else ():
            if tuple(latents.shape[1:]) != latent_shape:
                rule = f"sources must be latents of shape {latent_shape} for patches of this size"
                raise ValueError(f"{rule}, got {tuple(latents.shape[1:])}")

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
        rows = [(labels == k).nonzero()[:, 0].tolist() for k in range(num_classes)]

        def column(name: str) -> tuple[Tensor, ...]:
            values = [[torch.as_tensor(items[i][name]) for i in own] for own in rows]
            empty = torch.empty(0, dtype=torch.int64 if name == "row" else torch.float32)
            return tuple(torch.stack(own) if own else empty for own in values)

        described = column(DESCRIPTOR) if len(items) and DESCRIPTOR in items[0] else ()
        return cls(column("image"), column("row"), described)

    def draw(self, labels: Sequence[int], generators: Sequence[torch.Generator]) -> list[int]:
        """Draw one source of each label's class: its place among them."""
        pairs = zip(labels, generators, strict=True)
        return [int(torch.randint(len(self.latents[k]), (), generator=g)) for k, g in pairs]

    def exemplars(
        self,
        labels: Sequence[int],
        drawn: Sequence[int],
        generators: Sequence[torch.Generator],
        mix: float = 0.0,
    ) -> Tensor:
        """Descriptors ``N x D`` of drawn sources, each mixed with a share, uniform in
        ``[0, mix]``, of another one drawn from its class.
        """
        own = self._descriptors(labels, drawn)
        if not mix:
            return own
        others = self.draw(labels, generators)
        other = self._descriptors(labels, others)
        share = torch.stack([torch.rand(1, generator=g, dtype=torch.float32) for g in generators])
        return own + mix * share * (other - own)

    def _descriptors(self, labels: Sequence[int], drawn: Sequence[int]) -> Tensor:
        pairs = zip(labels, drawn, strict=True)
        return torch.stack([self.descriptors[k][i].float() for k, i in pairs])

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
        state: dict[str, Any] = {"image": images, "label": labels}
        state["row"] = torch.cat(self.rows).tolist()
        if self.descriptors:
            state[DESCRIPTOR] = torch.cat([v for v in self.descriptors if len(v)])
        write_state(path, state)

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
        names = [*KEYS, *([DESCRIPTOR] if DESCRIPTOR in state else [])]
        if len({len(state[name]) for name in names}) > 1:
            counts = [len(state[name]) for name in names]
            raise ValueError(
                f"a file of sources must hold as many of each, got {counts} in '{path}'"
            )
        columns = zip(*(state[name] for name in names), strict=True)
        return cls.of([dict(zip(names, row, strict=True)) for row in columns], num_classes)
