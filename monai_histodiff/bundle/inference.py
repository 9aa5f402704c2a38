"""The seams between our sampler and MONAI's stock ``SupervisedEvaluator``: seeds in, patches out
and onto disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer
from monai.utils import CommonKeys
from PIL import Image
from torch import Tensor, nn

from monai_histodiff.bundle.lock import FolderLock
from monai_histodiff.data.patch_files import SCALE, PatchRecord, write_patches
from monai_histodiff.data.pixels import patch_grid, resampled, to_bytes
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.evaluation.generator import reconstruct
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.selection.selector import select

__all__ = [
    "PatchWriter",
    "ReconstructionInferer",
    "SamplingInferer",
    "SeedPrepareBatch",
    "label_of",
    "seed_items",
]

SIDES = (8, 4096)  # pixels of the pictures that are written
logger = logging.getLogger(__name__)


def label_of(classes: Sequence[str], name: str | None = None) -> int:
    """The index of a class; ``None``: of the first.

    Raises:
        ValueError: there is no class of that name.
    """
    if name is None:
        return 0
    if name not in classes:
        near = get_close_matches(str(name), classes, 1)
        hint = f"did you mean '{near[0]}'?" if near else "choose among them"
        raise ValueError(f"class must be one of {', '.join(classes)}, got {name!r}: {hint}")
    return list(classes).index(name)


def seed_items(
    seeds: Sequence[int], classes: Sequence[str] = (), name: str | None = None
) -> list[dict[str, Any]]:
    """Dataset items for :class:`SamplingInferer`: one seed each, all of one class.

    Args:
        seeds: whole numbers.
        classes: names; none: samples of no class.
        name: of the class; ``None``: the first.

    Raises:
        ValueError: there is no class of that name.
    """
    label = label_of(classes, name) if classes else -1
    return [{"image": int(seed), "label": label} for seed in seeds]


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
        exemplars: Tensor | None = None,
    ) -> Tensor:
        """Patches ``N x 3 x H x W`` in [0, 1] from seeds of shape ``N``; labels below 0 mean
        unconditional. ``exemplars`` are descriptors, as for the sampler.
        """
        wanted = None if labels is None or int(labels.max()) < 0 else labels
        return self.sampler(wanted, inputs, exemplars)


class ReconstructionInferer(Inferer):
    """MONAI ``Inferer`` that encodes and decodes patches with a
    :class:`~monai_histodiff.LatentDiffusion`.
    """

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Reconstructions of patches ``N x 3 x H x W`` in [0, 1]."""
        model: Any = network
        return reconstruct(model, inputs)


class PatchWriter:
    """Ignite handler that writes an evaluator's patches (``decollate=False``) as a patch set, with
    a sample grid beside it.

    Args:
        output_dir: receives ``samples/`` (PNG and manifest), ``samples.png``, and
            ``samples_run.json``, which tells who writes there.
        classes: class names, by label.
        critic: where given, judges each patch.
        accepted_only: leave out patches that the critic does not accept, see
            :class:`~monai_histodiff.Selector`.
        sampler: what made the patches; variations of sources whose rows it knows are judged by
            what has not seen them.
        um_per_px: micrometres per pixel of the pictures that are written: they are resampled once
            they are judged. ``None``: as they were made.
        model_um_per_px: micrometres per pixel of the patches as they are made, where that is
            known: the manifest tells it.

    Raises:
        ValueError: ``um_per_px`` is given without ``model_um_per_px``, or pictures of the sampler
            would have fewer than 8 or more than 4096 pixels a side at it.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        classes: Sequence[str] = (),
        critic: PatchCritic | None = None,
        accepted_only: bool = False,
        sampler: GuidedSampler | None = None,
        um_per_px: float | None = None,
        model_um_per_px: float | None = None,
    ) -> None:
        if um_per_px is not None and model_um_per_px is None:
            raise ValueError(
                f"um_per_px needs model_um_per_px, that of the sampler's patches, got {um_per_px} "
                "and none: give both"
            )
        self.root, self.classes = Path(output_dir), tuple(classes)
        self.critic, self.accepted_only = critic, accepted_only
        self.sampler, self.made_at = sampler, model_um_per_px
        self.um_per_px = model_um_per_px if um_per_px is None else um_per_px
        self._lock = FolderLock(self.root / "samples_run.json")
        if sampler is not None and um_per_px is not None:
            self._side(sampler.size)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Check at the start, gather after every iteration, write at completion."""
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.gather)
        engine.add_event_handler(Events.COMPLETED, self.write)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def check(self) -> None:
        """Refuse a folder that holds samples already, and lock it until they are written.

        Raises:
            FileExistsError: the folder ``samples`` exists and is not empty, or another process
                samples into it.
        """
        target = self.root / "samples"
        if target.exists() and any(target.iterdir()):
            raise FileExistsError(
                f"output_dir must be new, got '{self.root}', which holds 'samples' already: "
                "choose another"
            )
        self._lock.take({"stage": "inference"})

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Let others have the folder, and let the error go on.

        Raises:
            BaseException: the engine's error.
        """
        self._lock.release()
        raise error

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
        """Write what was gathered, which is kept where that fails.

        Raises:
            FileExistsError: the folder ``samples`` exists and is not empty.
            ValueError: a picture would have too few or too many pixels.
        """
        patches, seeds, labels = (torch.cat(v) for v in zip(*self._parts, strict=True))
        scores = torch.full((len(patches),), float("nan"), dtype=torch.float32)
        if self.critic is not None:
            origins = None if self.sampler is None else self.sampler.origins(labels, seeds)
            judged = self.critic.probabilities(patches, origins)
            varied = self.sampler is not None and self.sampler.settings.strength < 1
            threshold = 0.0 if varied else float(self.critic.threshold)
            far = torch.zeros_like(judged[:, 0])
            chosen = select(judged, labels, far, far, threshold)
            scores, keep = chosen.confidence, chosen.keep
            self._tell(int(keep.sum()), scores, threshold)
            if self.accepted_only:
                found = (patches, seeds, labels, scores)
                patches, seeds, labels, scores = (part[keep] for part in found)
        names = [self.classes[y] if y >= 0 and self.classes else "" for y in labels.tolist()]
        pictures = self._scaled(to_bytes(patches)).permute(0, 2, 3, 1).numpy()
        scale = {} if self.um_per_px is None else {SCALE: f"{self.um_per_px:g}"}
        rows = zip(names, seeds.tolist(), scores.tolist(), pictures, strict=True)
        items = (
            (
                PatchRecord(
                    f"{i:06d}.png",
                    name,
                    "",
                    f"synthetic/{seed}",
                    {"seed": str(seed), "confidence": repr(score), **scale},
                ),
                picture,
            )
            for i, (name, seed, score, picture) in enumerate(rows)
        )
        target = write_patches(self.root / "samples", items)
        if len(patches):
            Image.fromarray(patch_grid(patches)).save(self.root / "samples.png")
        self._parts.clear()
        self._lock.release()
        return target

    def _scaled(self, patches: Tensor) -> Tensor:
        """Patches at the magnification that is to be written."""
        if self.um_per_px is None or self.made_at is None:
            return patches
        height, width = (self._side(side) for side in patches.shape[-2:])
        return resampled(patches, (height, width))

    def _side(self, side: int) -> int:
        """Pixels that so many of a patch become."""
        made, wanted, (low, high) = float(self.made_at or 1), float(self.um_per_px or 1), SIDES
        if not low <= (found := round(side * made / wanted)) <= high:
            span = side * made
            raise ValueError(
                f"pictures must have {low} to {high} pixels a side, got {found}, for patches of "
                f"{side} at {made:g} um per pixel and um_per_px {wanted:g}: give one from "
                f"{span / high:.6g} to {span / low:.6g}"
            )
        return found

    def _tell(self, kept: int, scores: Tensor, threshold: float) -> None:
        """Print how many patches the critic accepts; where it is none, warn and say why.

        Args:
            kept: how many.
            scores: of each patch.
            threshold: 0 of variations.
        """
        sure = f"confidence of at least {threshold:.2f}, and " if threshold else ""
        print(
            f"Accepted {kept} of {len(scores)}: {sure}no other class is more probable.", flush=True
        )
        if kept == 0:
            scale = "" if self.sampler is None else f", now {self.sampler.settings.scale:g}"
            least = f", with a confidence of at least {threshold:.2f}" if threshold else ""
            logger.warning(
                "to the critic no patch had its class as the most probable%s: the surest had "
                "%.2f. More --seeds or another --guidance_scale%s may help; --accepted_only False "
                "keeps all",
                least,
                float(scores.max()),
                scale,
            )
