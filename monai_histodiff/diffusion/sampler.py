"""``GuidedSampler``: labels and seeds to patches, each of which depends on its own alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.diffusion.batches import batch_from_memory, in_batches
from monai_histodiff.diffusion.guidance import (
    Watched,
    class_log_prob,
    condition_guide,
    guide,
    in_interval,
)
from monai_histodiff.diffusion.guide import LatentClassifier
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.diffusion.sharing import check_exemplars, check_parts
from monai_histodiff.diffusion.solvers import SOLVERS, Denoiser
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.diffusion.wanted import Wanted
from monai_histodiff.utils.bfloat16 import chosen_bfloat16
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.modes import evaluating

__all__ = ["GuidedSampler"]


class GuidedSampler:
    """Samples patches from a latent diffusion model, guided toward a class by a latent classifier,
    toward exemplars, or by both.

    The same labels, seeds and batches give the same bits on one machine. In another batch a patch
    is the same but for rounding: on a CPU in float32 to 1e-5, which is at most one of 256 levels.

    Args:
        model: the latent diffusion model.
        guide: the noise-aware classifier, or ``None`` for unconditional samples.
        sources: real patches of each class: what variations start from where ``strength`` is below
            1, and, if they have descriptors, the exemplars of their class; of any class for
            samples of none. See :meth:`~monai_histodiff.diffusion.Sources.from_bundle`.
        max_batch: patches at once, by default from the free memory, and halved for good when a
            device runs out of it; changes speed and memory, not the patches.
        progress: show a progress bar.
        settings: all that a patch depends on besides; ``changes`` are some of them, by name.

    Attributes:
        settings: a :class:`~monai_histodiff.diffusion.SamplingSettings`, in which ``size`` and
            ``bfloat16`` are what they are for this model and its device.
        size: height and width of its patches.

    Raises:
        TypeError: there is no setting of that name.
        ValueError: a setting is out of range, or not as the model was taught it, or the networks
            do not fit one another.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        guide: LatentClassifier | None = None,
        *,
        sources: Sources | None = None,
        max_batch: int | None = None,
        progress: bool = True,
        settings: SamplingSettings | None = None,
        **changes: Any,
    ) -> None:
        chosen = dataclasses.replace(settings or SamplingSettings(), **changes)
        check_from(1, max_batch=1 if max_batch is None else max_batch)
        check_parts(model, guide, chosen)
        self.model, self.guide, self.sources = model, guide, sources
        self.max_batch, self.progress = max_batch, progress
        self.size = size = model.patch_size if chosen.size is None else chosen.size
        bfloat16 = chosen_bfloat16(self.device, chosen.bfloat16)
        self.settings = dataclasses.replace(chosen, size=size, bfloat16=bfloat16)
        self.latent_shape = model.latent_shape_of(size)
        if chosen.strength < 1 or sources is not None:
            classes = self._classes if guide or model.num_classes else None
            shape = self.latent_shape if chosen.strength < 1 else None
            (sources or Sources()).check(classes, shape)
            if sources is not None and self._draws_exemplars:
                check_exemplars(model, chosen, torch.cat(sources.descriptors))
        self._grid(self._schedule())  # refuses a stop that the schedule or the start rules out

    @property
    def _draws_exemplars(self) -> bool:
        """Whether a patch is made after an exemplar that its seed draws."""
        return bool(self.sources and self.sources.descriptors and self.settings.exemplar_scale)

    @property
    def _from_sources(self) -> bool:
        """Whether a patch is made from, or after, a source that its seed draws."""
        return self.settings.strength < 1 or self._draws_exemplars

    @property
    def network_evaluations(self) -> int:
        """Forward evaluations of a UNet for each patch of a class: one a step and, in the interval
        one more each for ``mode="x0"`` and a condition at a scale other than 1. Exemplars
        that the sources have are counted; those that are given to a call alone take as many.
        """
        schedule, s = self._schedule(), self.settings
        times = self._grid(schedule)[: -1 if s.stop is None else None]
        inside = int(in_interval(schedule, times, s.interval).sum())
        through = self.guide is not None and s.mode == "x0" and s.scale > 0
        known = self.model.num_classes or self._draws_exemplars
        twice = known and self._condition_scale not in (0, 1)
        return len(times) + inside * (int(through) + int(twice))

    @property
    def _condition_scale(self) -> float:
        """Of the classes of a model that draws classes by itself, or else of exemplars."""
        s = self.settings
        return s.class_scale if self.model.num_classes else s.exemplar_scale

    def replace(self, **changes: Any) -> GuidedSampler:
        """A sampler of the same model and guide in which some settings or arguments are others.

        Raises:
            TypeError, ValueError: as for a new one.
        """
        own = {k: vars(self)[k] for k in ("sources", "max_batch", "progress", "settings")}
        return GuidedSampler(self.model, self.guide, **{**own, **changes})

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.latent_mean.device

    def __call__(
        self,
        labels: Sequence[int] | Tensor | None,
        seeds: Sequence[int] | Tensor,
        exemplars: Tensor | None = None,
    ) -> Tensor:
        """Sample one patch for each seed.

        Args:
            labels: class index of each patch, or ``None`` for samples of no class.
            seeds: whole number of each patch.
            exemplars: descriptors ``N x D``, see :meth:`monai_histodiff.PatchEncoder.descriptors`,
                taken as they are; by default those that the seeds draw among the sources of the
                class, or of all where there are no labels.

        Returns:
            float32 RGB patches in [0, 1] on the CPU, shape ``N x 3 x size x size``.

        Raises:
            ValueError: labels are given where no guide, class of the model or source answers to
                them, are missing where they are needed, differ in number from the seeds, or are
                out of range; exemplars differ in number, are not finite, or are not taken by the
                model, or at an ``exemplar_scale`` of 0.
            FloatingPointError: the network's output is not finite; the message names step, time
                and class. Or what the autoencoder decodes is not.
            torch.OutOfMemoryError: not even one patch fits into the memory of the device.
        """
        return self._sample(
            labels, seeds, exemplars, lambda z: centre_crop(self.model.decode(z), self.size)
        )

    def latents(
        self,
        labels: Sequence[int] | Tensor | None,
        seeds: Sequence[int] | Tensor,
        exemplars: Tensor | None = None,
    ) -> Tensor:
        """As calling it, but normalised latents, float32 on the CPU, ``N x C x h x w``."""
        return self._sample(labels, seeds, exemplars, lambda z: z)

    def origins(
        self, labels: Sequence[int] | Tensor | None, seeds: Sequence[int] | Tensor
    ) -> Tensor | None:
        """Which source each patch is made from, or after: its entry in the rows of the sources,
        int64, shape ``N``; ``None`` where there is none, or its row is not known.
        """
        if not self._from_sources or self.sources is None or not self.sources.rows:
            return None
        wanted = Wanted.checked(labels, seeds, None, self._classes)
        generators = wanted.generators()
        for generator in generators:
            self._noise(generator)  # is drawn first
        classes = None if wanted.labels is None else wanted.labels.tolist()
        drawn = self.sources.draw(classes, generators)
        return torch.stack([self.sources.rows[k][i] for k, i in drawn])

    @property
    def _classes(self) -> int:
        if self.guide is not None:
            return int(self.guide.num_classes)
        if self.model.num_classes:
            return self.model.num_classes
        return len(self.sources.counts) if self.sources and self._from_sources else 0

    def _sample(
        self, labels: Any, seeds: Any, exemplars: Any, finish: Callable[[Tensor], Tensor]
    ) -> Tensor:
        networks = evaluating(self.model, self.guide)
        with torch.inference_mode(False), torch.no_grad(), networks:
            wanted = Wanted.checked(labels, seeds, exemplars, self._classes)
            if exemplars is not None:
                check_exemplars(self.model, self.settings, exemplars)
            side = self.latent_shape[1] * self.model.autoencoder.factor
            batch = self.max_batch or batch_from_memory(self.device, side)
            made, reached = in_batches(
                lambda rows: finish(self._solve(wanted[rows])), len(wanted), batch, self.progress
            )
            self.max_batch = reached if reached < batch else self.max_batch  # for good
            return made

    def _solve(self, wanted: Wanted) -> Tensor:
        generators = wanted.generators()
        labels = None if wanted.labels is None else wanted.labels.to(self.device)
        schedule, s = self._schedule(), self.settings

        def noise(_: int = 0) -> Tensor:
            drawn = torch.stack([self._noise(generator) for generator in generators])
            return drawn.to(self.device, non_blocking=True)

        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bool(s.bfloat16)):
            latents, like = self._start(noise(), labels, generators, schedule)
            if wanted.exemplars is not None:
                like = wanted.exemplars
            if like is not None and self.model.exemplar is not None:
                own = like.float().to(self.device)
                like = self.model.exemplar.perturbed(own, s.exemplar_noise, generators)
            if self.model.num_classes:
                like = labels if s.class_scale else None
            guided, grid = Watched(self._denoiser(labels, like, schedule)), self._grid(schedule)
            latents = SOLVERS[s.solver](guided, latents, schedule, grid, s.eta, noise)
            if s.stop is not None:
                latents = guided(latents, grid[-1].expand(len(latents)))
        guided.check(labels)
        return latents

    def _noise(self, generator: torch.Generator) -> Tensor:
        return torch.randn(
            self.latent_shape, generator=generator, dtype=torch.float32, device="cpu"
        )

    def _denoiser(
        self, labels: Tensor | None, condition: Tensor | None, schedule: NoiseSchedule
    ) -> Denoiser:
        """The model's denoiser, wrapped by its condition and the guide."""
        s = self.settings

        def denoiser(*given: Tensor) -> Denoiser:
            return lambda z, t: self.model.denoise(
                z, t.to(z.device, non_blocking=True), *given
            ).float()

        given = () if condition is None else (condition,)
        denoise = guided = denoiser(*given)
        if given:
            scale = self._condition_scale
            guided = condition_guide(denoise, denoiser(), scale, schedule, s.interval)
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
    ) -> tuple[Tensor, Tensor | None]:
        """Noisy latents to start from, and the exemplars that the sources give."""
        s, sources, latents = self.settings, self.sources, noise * schedule.start_std
        if sources is None or not self._from_sources:
            return latents, None
        drawn = sources.draw(None if labels is None else labels.tolist(), generators)
        if s.strength < 1:
            alpha, sigma = schedule.alpha_sigma(
                torch.tensor(s.strength, dtype=torch.float32, device="cpu")
            )
            own = [sources.latents[k][i].float() for k, i in drawn]
            latents = alpha * torch.stack(own).to(noise) + sigma * noise
        if not self._draws_exemplars:
            return latents, None
        return latents, sources.exemplars(drawn, generators, s.exemplar_mix)
