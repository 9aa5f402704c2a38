"""``GuidedSampler``: labels and seeds to patches, each of which depends on its own alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.diffusion.guidance import (
    Watched,
    autoguide,
    class_log_prob,
    guide,
    in_interval,
)
from monai_histodiff.diffusion.guide import LatentClassifier
from monai_histodiff.diffusion.model import LatentDiffusion, same_latents
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.diffusion.solvers import SOLVERS, Denoiser
from monai_histodiff.diffusion.sources import Sources

__all__ = ["GuidedSampler"]

CPU_BATCH, CUDA_BATCH = 32, 512  # patches at once beyond which nothing is gained
# Bytes at work for each byte of a float32 patch: 30 measured, and halving corrects the rest.
PATCH_MEMORY = 100
logger = logging.getLogger(__name__)


class GuidedSampler:
    """Samples patches from a latent diffusion model, guided toward a class by a latent classifier.

    The same labels, seeds and batches give the same bits on one machine. In another batch a patch
    is the same but for rounding: on a CPU in float32 to 1e-5, which is at most one of 256 levels.

    Args:
        model: the latent diffusion model.
        guide: the noise-aware classifier, or ``None`` for unconditional samples.
        weak: a worse model of the same latents, for autoguidance, such as an earlier state of the
            same training: see :meth:`LatentDiffusion.weak_from_bundle`.
        sources: what variations start from; needed where ``strength`` is below 1.
        max_batch: patches sampled at once, chosen from the free memory by default, and halved for
            good when a device runs out of memory; changes speed and memory, not the patches.
        progress: show a progress bar.
        settings: those of :class:`~monai_histodiff.diffusion.SamplingSettings`, by name.

    Attributes:
        settings: a :class:`~monai_histodiff.diffusion.SamplingSettings`, in which ``size`` and
            ``bfloat16`` are what they are for this model and its device.
        size: height and width of its patches.

    Raises:
        TypeError: there is no setting of that name.
        ValueError: a setting is out of range, or the networks do not fit one another.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        guide: LatentClassifier | None = None,
        *,
        weak: LatentDiffusion | None = None,
        sources: Sources | None = None,
        max_batch: int | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> None:
        chosen = SamplingSettings(**settings)
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        if chosen.autoguidance > 1 and weak is None:
            weight = chosen.autoguidance
            raise ValueError(f"autoguidance needs a weak model, got weight {weight} and none")
        if weak is not None and not same_latents(model, weak):
            rule = "the weak model must have the latents and the noise schedule of the model"
            raise ValueError(f"{rule}, got others")
        channels = model.latent_shape[0]
        if guide is not None and guide.in_channels != channels:
            got = f"got one for {guide.in_channels}"
            raise ValueError(f"the guide must read {channels} latent channels, {got}")
        self.model, self.guide, self.weak, self.sources = model, guide, weak, sources
        self.max_batch, self.progress = max_batch, progress
        self.size = size = model.patch_size if chosen.size is None else chosen.size
        bfloat16 = self.device.type == "cuda" if chosen.bfloat16 is None else chosen.bfloat16
        self.settings = replace(chosen, size=size, bfloat16=bfloat16)
        self.latent_shape = model.latent_shape_of(size)
        if chosen.strength < 1:
            self._check_sources()
        self._grid(self._schedule())  # refuses a stop that the schedule or the start rules out

    def _check_sources(self) -> None:
        sources = () if self.sources is None else self.sources.latents
        counts = [len(latents) for latents in sources]
        if self.guide is None or len(sources) != self.guide.num_classes or 0 in counts:
            rule = "strength below 1 needs a guide and sources of each of its classes"
            raise ValueError(f"{rule}, got {counts}")
        for latents in sources:
            if tuple(latents.shape[1:]) != self.latent_shape:
                rule = f"sources must be latents of shape {self.latent_shape}"
                size = f"size {self.settings.size}"
                raise ValueError(f"{rule} for {size}, got {tuple(latents.shape[1:])}")

    @property
    def network_evaluations(self) -> int:
        """Forward evaluations of a UNet for each patch: one in each step and, in each step in the
        interval, another one with autoguidance and another one with guidance through the UNet
        (``mode="x0"``).
        """
        schedule, s = self._schedule(), self.settings
        times = self._grid(schedule)[: s.steps]
        inside = int(in_interval(schedule, times, s.interval).sum())
        through = self.guide is not None and s.mode == "x0" and s.scale > 0
        return s.steps + inside * (int(s.autoguidance > 1) + int(through))

    def replace(self, **changes: Any) -> GuidedSampler:
        """A sampler of the same model and guide in which some settings or arguments are others.

        Raises:
            TypeError: there is no setting of that name.
            ValueError: a setting is out of range.
        """
        own = {name: getattr(self, name) for name in ("weak", "sources", "max_batch", "progress")}
        return GuidedSampler(self.model, self.guide, **{**vars(self.settings), **own, **changes})

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.latent_mean.device

    def __call__(
        self, labels: Sequence[int] | Tensor | None, seeds: Sequence[int] | Tensor
    ) -> Tensor:
        """Sample one patch for each seed.

        Args:
            labels: class index of each patch, or ``None`` for unconditional samples.
            seeds: whole number of each patch.

        Returns:
            float32 RGB patches in [0, 1] on the CPU, shape ``N x 3 x size x size``.

        Raises:
            ValueError: labels are given without a guide, or missing where ``strength`` is below 1,
                differ in number from the seeds, or are out of range.
            FloatingPointError: the network's output is not finite; the message names step, time
                and class.
            torch.OutOfMemoryError: not even one patch fits into the memory of the device.
        """
        return self._sample(labels, seeds, lambda z: centre_crop(self.model.decode(z), self.size))

    def latents(
        self, labels: Sequence[int] | Tensor | None, seeds: Sequence[int] | Tensor
    ) -> Tensor:
        """As calling the sampler, but the normalised latents, float32 on the CPU, shape
        ``N x C x h x w``.
        """
        return self._sample(labels, seeds, lambda z: z)

    def origins(
        self, labels: Sequence[int] | Tensor, seeds: Sequence[int] | Tensor
    ) -> Tensor | None:
        """Which patch each variation starts from: its entry in the rows of the sources, int64,
        shape ``N``; ``None`` where ``strength`` is 1 or the rows are not known.
        """
        if self.settings.strength == 1 or self.sources is None or not self.sources.rows:
            return None
        drawn = []
        for k, seed in zip(torch.as_tensor(labels).tolist(), seeds, strict=True):
            generator = torch.Generator().manual_seed(int(seed))
            self._noise(generator)  # is drawn first
            drawn.append(self.sources.rows[k][self.sources.draw(k, generator)])
        return torch.stack(drawn)

    def _sample(self, labels: Any, seeds: Any, finish: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            seeds = [int(s) for s in seeds]
            wanted = self._checked(labels, len(seeds))
            for network in (self.model, self.guide, self.weak):
                if network is not None:
                    network.eval()
            batch, start, parts = self.max_batch or self._batch_from_memory(), 0, []
            quiet = not self.progress or len(seeds) <= batch
            bar = tqdm(total=len(seeds), desc="sample", disable=quiet)
            while start < len(seeds):
                rows = slice(start, min(start + batch, len(seeds)))
                own = None if wanted is None else wanted[rows].to(self.device)
                try:
                    parts.append(finish(self._solve(own, seeds[rows])).float().cpu())
                except torch.OutOfMemoryError:
                    if rows.stop - start == 1:
                        raise
                    batch = self.max_batch = (rows.stop - start) // 2
                    told = (
                        "the device ran out of memory: from now on %d patches are sampled at once"
                    )
                    logger.warning(told, batch)
                else:
                    bar.update(rows.stop - start)
                    start = rows.stop
            bar.close()
            return torch.cat(parts)

    def _checked(self, labels: Any, count: int) -> Tensor | None:
        if count == 0:
            raise ValueError("at least one seed is needed, got none")
        strength = self.settings.strength
        if labels is None:
            if strength < 1:
                raise ValueError(f"variations need labels, got none and strength {strength}")
            return None
        # A copy: an inference tensor could not be differentiated by.
        wanted = torch.as_tensor(labels, dtype=torch.long).clone()
        if self.guide is None:
            raise ValueError("labels need a guide, got labels and guide=None")
        if wanted.shape != (count,):
            got = f"{count} seeds and labels of shape {tuple(wanted.shape)}"
            raise ValueError(f"each seed needs one label, got {got}")
        last, span = self.guide.num_classes - 1, (int(wanted.min()), int(wanted.max()))
        if span[0] < 0 or span[1] > last:
            raise ValueError(f"labels must lie from 0 to {last}, got {span[0]} to {span[1]}")
        return wanted

    def _batch_from_memory(self) -> int:
        if self.device.type != "cuda":
            return CPU_BATCH
        free, _ = torch.cuda.mem_get_info(self.device)
        side = self.latent_shape[1] * self.model.autoencoder.factor
        return min(CUDA_BATCH, max(1, free // (PATCH_MEMORY * 3 * side**2 * 4)))

    def _solve(self, labels: Tensor | None, seeds: Sequence[int]) -> Tensor:
        # Random numbers are drawn on the CPU: the same noise on every device.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        schedule, s = self._schedule(), self.settings

        def noise(_: int = 0) -> Tensor:
            drawn = torch.stack([self._noise(generator) for generator in generators])
            return drawn.to(self.device, non_blocking=True)

        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bool(s.bfloat16)):
            guided, grid = Watched(self._denoiser(labels, schedule)), self._grid(schedule)
            latents = self._start(noise(), labels, generators, schedule)
            latents = SOLVERS[s.solver](guided, latents, schedule, grid, s.eta, noise)
            if s.stop is not None:
                latents = guided(latents, grid[-1].expand(len(latents)))
        guided.check(labels)
        return latents

    def _noise(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.latent_shape, generator=generator, dtype=torch.float32)

    def _denoiser(self, labels: Tensor | None, schedule: NoiseSchedule) -> Denoiser:
        """The model's denoiser, wrapped by the weak model's and by the guide."""
        s = self.settings

        def plain(model: LatentDiffusion) -> Denoiser:
            return lambda z, t: model.denoise(z, t.to(z.device, non_blocking=True)).float()

        denoise = guided = plain(self.model)
        if self.weak is not None:
            guided = autoguide(denoise, plain(self.weak), s.autoguidance, schedule, s.interval)
        if labels is not None and self.guide is not None:
            log_prob = class_log_prob(self.guide, labels, s.mode, denoise, s.temperature)
            guided = guide(guided, log_prob, schedule, s.scale, s.interval, s.cap)
        return guided

    def _schedule(self) -> NoiseSchedule:
        """On the CPU: times and amplitudes are the host's, no step waits for the device."""
        return copy.deepcopy(self.model.schedule).cpu()

    def _grid(self, schedule: NoiseSchedule) -> Tensor:
        s = self.settings
        steps = s.steps - (s.stop is not None)
        return SOLVERS[s.solver].grid(schedule, steps, s.strength, s.stop)

    def _start(
        self,
        noise: Tensor,
        labels: Tensor | None,
        generators: Sequence[torch.Generator],
        schedule: NoiseSchedule,
    ) -> Tensor:
        if labels is None or self.settings.strength == 1 or self.sources is None:
            return noise * schedule.start_std
        alpha, sigma = schedule.alpha_sigma(
            torch.tensor(self.settings.strength, dtype=torch.float32)
        )
        sources, pairs = self.sources, zip(labels.tolist(), generators, strict=True)
        drawn = [sources.latents[k][sources.draw(k, generator)] for k, generator in pairs]
        return alpha * torch.stack(drawn).to(noise) + sigma * noise
