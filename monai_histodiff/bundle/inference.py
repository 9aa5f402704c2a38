"""The seams between our sampler and MONAI's stock ``SupervisedEvaluator``: seeds in, patches out
and onto disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer
from monai.utils import CommonKeys
from PIL import Image
from torch import Tensor, nn

from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import patch_grid, to_bytes
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.selection.critic import PatchCritic

__all__ = [
    "PatchWriter",
    "ReconstructionInferer",
    "SamplingInferer",
    "SeedPrepareBatch",
    "seed_items",
]


def seed_items(seeds: Sequence[int], label: int | None = None) -> list[dict[str, Any]]:
    """Dataset items for :class:`SamplingInferer`: one seed each, of one class (``None``:
    unconditional).
    """
    return [{"image": int(s), "label": -1 if label is None else int(label)} for s in seeds]


class SeedPrepareBatch:
    """``prepare_batch`` that passes seeds as inputs and labels beside them; there is no target."""

    def __call__(
        self, batchdata: Mapping[str, Any], *_: Any, **__: Any
    ) -> tuple[Tensor, None, tuple[Tensor], dict[str, Any]]:
        return (
            torch.as_tensor(batchdata[CommonKeys.IMAGE]),
            None,
            (torch.as_tensor(batchdata[CommonKeys.LABEL]),),
            {},
        )


class SamplingInferer(Inferer):
    """MONAI ``Inferer`` around a :class:`~monai_histodiff.GuidedSampler`.

    Args:
        sampler: makes the patches. The network that the engine passes is the sampler's own and is
            not used again.
    """

    def __init__(self, sampler: GuidedSampler) -> None:
        super().__init__()
        self.sampler = sampler

    def __call__(
        self,
        inputs: Tensor,
        network: nn.Module,
        labels: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Patches ``N x 3 x H x W`` in [0, 1] from seeds of shape ``N``; labels below 0 mean
        unconditional.
        """
        wanted = None if labels is None or int(labels.max()) < 0 else labels
        return self.sampler(wanted, inputs)


class ReconstructionInferer(Inferer):
    """MONAI ``Inferer`` that encodes and decodes patches with a
    :class:`~monai_histodiff.LatentDiffusion`.
    """

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Reconstructions of patches ``N x 3 x H x W`` in [0, 1]."""
        model: Any = network
        return model.decode(model.encode(inputs))


class PatchWriter:
    """Ignite handler that writes an evaluator's patches (``decollate=False``) as a patch set, with
    a sample grid beside it.

    Args:
        output_dir: receives ``samples/`` (PNG and manifest) and ``samples.png``.
        classes: class names, by label.
        critic: where given, judges each patch.
        accepted_only: leave out patches below the critic's threshold.
        sampler: what made the patches; variations of sources whose rows it knows are judged by
            what has not seen them.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        classes: Sequence[str] = (),
        critic: PatchCritic | None = None,
        accepted_only: bool = False,
        sampler: GuidedSampler | None = None,
    ) -> None:
        self.root, self.classes, self.critic, self.accepted_only = (
            Path(output_dir),
            tuple(classes),
            critic,
            accepted_only,
        )
        self.sampler = sampler
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Gather after every iteration, write at completion."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.gather)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def gather(self, engine: Engine) -> None:
        """Keep one batch: patches, seeds and labels."""
        output, batch = engine.state.output, engine.state.batch
        self._parts.append(
            (
                output[CommonKeys.PRED].cpu(),
                torch.as_tensor(batch[CommonKeys.IMAGE]),
                torch.as_tensor(batch[CommonKeys.LABEL]),
            )
        )

    def write(self) -> Path:
        """Write what was gathered.

        Raises:
            FileExistsError: the folder ``samples`` exists and is not empty.
        """
        patches, seeds, labels = (torch.cat(v) for v in zip(*self._parts, strict=True))
        self._parts.clear()
        scores = torch.full((len(patches),), float("nan"), dtype=torch.float32)
        if self.critic is not None:
            origins = None if self.sampler is None else self.sampler.origins(labels, seeds)
            scores = self.critic.probabilities(patches, origins).gather(1, labels[:, None])[:, 0]
            if self.accepted_only:
                keep = scores >= float(self.critic.threshold)
                patches, seeds, labels, scores = (
                    patches[keep],
                    seeds[keep],
                    labels[keep],
                    scores[keep],
                )
        names = [self.classes[y] if y >= 0 and self.classes else "" for y in labels.tolist()]
        pictures = to_bytes(patches).permute(0, 2, 3, 1).numpy()
        rows = zip(names, seeds.tolist(), scores.tolist(), pictures, strict=True)
        items = (
            (
                PatchRecord(
                    f"{i:06d}.png",
                    name,
                    "",
                    f"synthetic/{seed}",
                    {"seed": str(seed), "confidence": repr(score)},
                ),
                picture,
            )
            for i, (name, seed, score, picture) in enumerate(rows)
        )
        target = write_patches(self.root / "samples", items)
        if len(patches):
            Image.fromarray(patch_grid(patches)).save(self.root / "samples.png")
        return target
