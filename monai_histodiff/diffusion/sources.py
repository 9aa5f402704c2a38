"""``Sources``: real patches, by class, which variations start from and exemplars are of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.utils.weights import read_state, write_state

__all__ = ["Sources"]

IMAGE, LABEL, ROW, DESCRIPTOR = "image", "label", "row", "descriptor"
COLUMNS = (IMAGE, ROW, DESCRIPTOR)
Place = tuple[int, int]  # a class, and which of its sources


@dataclass(frozen=True)
class Sources:
    """Real patches, by class: their latents, their descriptors, or both.

    Args:
        latents: for each class, in order, normalised latents ``N x C x h x w``; empty: no patch
            can start from them.
        rows: for each class, which patch each source is, int64, shape ``N``; empty where that is
            not known. A critic needs it to judge a patch by what has not seen its source.
        descriptors: for each class, descriptors ``N x D``, see
            :meth:`monai_histodiff.PatchEncoder.descriptors`; empty: no exemplars.

    Raises:
        ValueError: the three differ in number, or one in shape from class to class.
    """

    latents: tuple[Tensor, ...] = ()
    rows: tuple[Tensor, ...] = ()
    descriptors: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        for name in ("latents", "rows", "descriptors"):
            counts = [len(v) for v in getattr(self, name)]
            if counts and counts != self.counts:
                rule = f"{name} must be one for each source of each class"
                raise ValueError(f"{rule}, got {counts} for {self.counts}")
            shapes = sorted({tuple(v.shape[1:]) for v in getattr(self, name) if len(v)})
            if len(shapes) > 1:
                raise ValueError(f"{name} must be of one shape for all classes, got {shapes}")

    @property
    def counts(self) -> list[int]:
        """How many sources each class has."""
        return [len(own) for own in self.latents or self.descriptors]

    def check(self, num_classes: int | None, latent_shape: tuple[int, ...] | None) -> None:
        """Refuse sources that do not serve a sampler.

        Args:
            num_classes: of the guide; ``None`` without one.
            latent_shape: of what variations start from; ``None`` where there are none.

        Raises:
            ValueError: a class has no source, there are other classes than the guide's, or a
                latent has another shape.
        """
        counts = self.counts
        if not counts or 0 in counts or num_classes not in (None, len(counts)):
            rule = "strength below 1, and exemplars of classes, need sources of each class"
            given = "" if num_classes is None else f" of the guide's {num_classes}"
            raise ValueError(f"{rule}{given}, got {counts}")
        if latent_shape is not None and not self.latents:
            raise ValueError(
                "strength below 1 needs latents of the sources, got descriptors alone"
            )
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
        labels = torch.tensor([int(item[LABEL]) for item in items], dtype=torch.long, device="cpu")
        if len(items) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            span = f"{int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"labels of sources must lie from 0 to {num_classes - 1}, got {span}")
        own = [(labels == k).nonzero()[:, 0].tolist() for k in range(num_classes)]

        def column(name: str) -> tuple[Tensor, ...]:
            if len(items) and name not in items[0]:
                return ()
            values = [[torch.as_tensor(items[i][name]) for i in rows] for rows in own]
            empty = torch.empty(
                0, dtype=torch.int64 if name == ROW else torch.float32, device="cpu"
            )
            return tuple(torch.stack(rows) if rows else empty for rows in values)

        return cls(*(column(name) for name in COLUMNS if len(items) or name != DESCRIPTOR))

    @classmethod
    def from_bundle(cls, bundle_dir: str | os.PathLike[str]) -> Sources:
        """Descriptors of patches that the generator of a bundle was trained on,
        ``models/exemplars.pt``, as those of one class. Samples of no class are made after them,
        which draws the distribution of the training patches more faithfully than the learned null
        does (instance conditioning: Casanova et al. 2021, arXiv:2109.05070; Li, Katabi & He 2024,
        arXiv:2312.03701).

        Raises:
            FileNotFoundError: the bundle has none.
            ValueError: the file cannot be read.
        """
        return cls.load(Path(bundle_dir) / "models" / "exemplars.pt", 1)

    def draw(
        self, labels: Sequence[int] | None, generators: Sequence[torch.Generator]
    ) -> list[Place]:
        """Draw one source for each generator, uniformly from its label's class, or, without
        labels, from all: its class, and its place among those of the class.
        """

        def below(count: int, generator: torch.Generator) -> int:
            return int(torch.randint(count, (), generator=generator, device="cpu"))

        if labels is not None:
            pairs = zip(labels, generators, strict=True)
            return [(k, below(self.counts[k], g)) for k, g in pairs]
        places = [(k, i) for k, count in enumerate(self.counts) for i in range(count)]
        return [places[below(len(places), g)] for g in generators]

    def exemplars(
        self,
        drawn: Sequence[Place],
        generators: Sequence[torch.Generator],
        mix: float = 0.0,
    ) -> Tensor:
        """Descriptors ``N x D`` of drawn sources, each mixed with a share, uniform in
        ``[0, mix]``, of another one drawn from its class.
        """
        own = self._descriptors(drawn)
        if not mix:
            return own
        other = self._descriptors(self.draw([k for k, _ in drawn], generators))
        share = torch.stack(
            [torch.rand(1, generator=g, dtype=torch.float32, device="cpu") for g in generators]
        )
        return own + mix * share * (other - own)

    def _descriptors(self, drawn: Sequence[Place]) -> Tensor:
        return torch.stack([self.descriptors[k][i].float() for k, i in drawn])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one file. Whoever has it and the autoencoder can see patches whose latents it
        holds.

        Raises:
            OSError: the file cannot be written; the previous one is kept.
        """
        labels = [k for k, count in enumerate(self.counts) for _ in range(count)]
        state: dict[str, Any] = {LABEL: labels}
        for name, parts in zip(COLUMNS, (self.latents, self.rows, self.descriptors), strict=True):
            if parts:
                state[name] = torch.cat([own for own in parts if len(own)])
        write_state(path, state)

    @classmethod
    def load(cls, path: str | os.PathLike[str], num_classes: int) -> Sources:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be read, holds something else, or its classes are others.
        """
        state = read_state(path)
        if LABEL not in state or not {IMAGE, DESCRIPTOR} & set(state):
            rule = f"a file of sources must hold {LABEL}, and {IMAGE} or {DESCRIPTOR}"
            raise ValueError(f"{rule}, got {sorted(map(str, state))} in '{path}'")
        names = [name for name in (LABEL, *COLUMNS) if name in state]
        if len({len(state[name]) for name in names}) > 1:
            counts = [len(state[name]) for name in names]
            raise ValueError(
                f"a file of sources must hold as many of each, got {counts} in '{path}'"
            )
        columns = zip(*(state[name] for name in names), strict=True)
        made = cls.of([dict(zip(names, row, strict=True)) for row in columns], num_classes)
        if 0 in made.counts:
            rule = f"a file of sources must hold some of each of {num_classes} classes"
            raise ValueError(f"{rule}, got {made.counts} in '{path}': take that of these classes")
        return made
