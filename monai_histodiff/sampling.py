"""``GuidedSampler``: labels and seeds to patches. Patch k depends on its label and seed alone, not on its neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monai_histodiff.guidance import MODES, class_log_prob, guide
from monai_histodiff.networks import LatentClassifier, LatentDiffusion
from monai_histodiff.schedules import log_snr_grid, uniform_grid
from monai_histodiff.solvers import Denoiser, ddim, dpmpp_2m

__all__ = ["GuidedSampler", "candidate_seed"]

SOLVERS = ("dpmpp_2m", "ddim")


def candidate_seed(*identity: int) -> int:
    """A well-mixed seed from whole numbers, such as ``(run seed, refresh, class, candidate)``."""
    return int(np.random.SeedSequence(identity).generate_state(1, np.uint32)[0])


class GuidedSampler:
    """Samples patches from a latent diffusion model, guided toward a class by a latent classifier.

    Args:
        model: the latent diffusion model.
        guide: the noise-aware classifier, or ``None`` for unconditional samples.
        steps: solver steps, one evaluation of the UNet each.
        scale: guidance scale.
        interval: log-SNR range in which the guide acts.
        cap: largest change of the predicted noise by the guide, as a fraction of its norm.
        temperature: divides the guide's logits.
        mode: ``"noisy"``, ``"x0"`` or ``"clean"``, see :mod:`monai_histodiff.guidance`.
        solver: ``"dpmpp_2m"`` (times equally spaced in log-SNR) or ``"ddim"`` (equally spaced).
        eta: stochasticity of ``"ddim"``.
        max_batch: patches sampled at once; changes speed and memory, not the patches.
        progress: show a progress bar.

    Raises:
        ValueError: an argument is out of range, or the guide reads latents of another shape.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        guide: LatentClassifier | None = None,
        steps: int = 20,
        scale: float = 3.0,
        interval: Sequence[float] = (-6.0, 6.0),
        cap: float = 0.5,
        temperature: float = 1.0,
        mode: str = "noisy",
        solver: str = "dpmpp_2m",
        eta: float = 0.0,
        max_batch: int = 64,
        progress: bool = True,
    ) -> None:
        if steps < 1 or max_batch < 1:
            raise ValueError(f"steps and max_batch must be at least 1, got {steps} and {max_batch}")
        if solver not in SOLVERS or mode not in MODES:
            raise ValueError(f"solver must be one of {SOLVERS} and mode one of {MODES}, got '{solver}' and '{mode}'")
        if guide is not None and guide.in_channels != model.latent_shape[0]:
            raise ValueError(f"the guide must read {model.latent_shape[0]} latent channels, got one for {guide.in_channels}")
        self.model, self.guide = model, guide
        self.steps, self.scale, self.interval, self.cap = steps, scale, (float(interval[0]), float(interval[1])), cap
        self.temperature, self.mode, self.solver, self.eta = temperature, mode, solver, eta
        self.max_batch, self.progress = max_batch, progress

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the patches depend on."""
        names = ("steps", "scale", "interval", "cap", "temperature", "mode", "solver", "eta")
        return {name: getattr(self, name) for name in names}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.latent_mean.device

    def __call__(self, labels: Sequence[int] | Tensor | None, seeds: Sequence[int] | Tensor) -> Tensor:
        """Sample one patch for each seed.

        Args:
            labels: class index of each patch, or ``None`` for unconditional samples.
            seeds: whole number of each patch.

        Returns:
            float32 RGB patches in [0, 1] on the CPU, shape ``N x 3 x H x W``.

        Raises:
            ValueError: labels are given without a guide, differ in number from the seeds, or are out of range.
            FloatingPointError: the network's output is not finite; the message names time and class.
        """
        with torch.inference_mode(False), torch.no_grad():
            return torch.cat([self.model.decode(z).float().cpu() for z in self._latents(labels, seeds)])

    def latents(self, labels: Sequence[int] | Tensor | None, seeds: Sequence[int] | Tensor) -> Tensor:
        """As calling the sampler, but the whitened latents, float32 on the CPU, shape ``N x C x h x w``."""
        with torch.inference_mode(False), torch.no_grad():
            return torch.cat([z.float().cpu() for z in self._latents(labels, seeds)])

    def _latents(self, labels: Any, seeds: Any) -> Any:
        self.model.eval()
        if self.guide is not None:
            self.guide.eval()
        seeds = [int(s) for s in seeds]
        wanted = None if labels is None else torch.as_tensor(labels, dtype=torch.long)
        if not seeds:
            raise ValueError("at least one seed is needed, got none")
        if wanted is not None:
            if self.guide is None:
                raise ValueError("labels need a guide, got labels and guide=None")
            if wanted.shape != (len(seeds),):
                raise ValueError(f"each seed needs one label, got {len(seeds)} seeds and labels of shape {tuple(wanted.shape)}")
            if int(wanted.min()) < 0 or int(wanted.max()) >= self.guide.num_classes:
                classes = self.guide.num_classes
                raise ValueError(f"labels must lie from 0 to {classes - 1}, got {int(wanted.min())} to {int(wanted.max())}")
        starts = range(0, len(seeds), self.max_batch)
        for start in tqdm(starts, desc="sample", disable=not self.progress or len(starts) < 2):
            part = slice(start, start + self.max_batch)
            yield self._solve(None if wanted is None else wanted[part].to(self.device), seeds[part])

    def _solve(self, labels: Tensor | None, seeds: Sequence[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: the same noise on every device

        def noise(_: int = 0) -> Tensor:
            return torch.stack([torch.randn(self.model.latent_shape, generator=g) for g in generators]).to(self.device)

        schedule = self.model.schedule
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            denoise = _finite(self._denoise, labels)
            if labels is not None and self.guide is not None:
                log_prob = class_log_prob(self.guide, labels, self.mode, self._denoise, self.temperature)
                denoise = _finite(guide(denoise, log_prob, schedule, self.scale, self.interval, self.cap), labels)
            if self.solver == "ddim":
                return ddim(denoise, noise(), schedule, uniform_grid(schedule, self.steps), self.eta, noise)
            return dpmpp_2m(denoise, noise(), schedule, log_snr_grid(schedule, self.steps))

    def _denoise(self, z: Tensor, t: Tensor) -> Tensor:
        return self.model.denoise(z, t).float()


def _finite(denoise: Denoiser, labels: Tensor | None) -> Denoiser:
    def checked(z: Tensor, t: Tensor) -> Tensor:
        z0 = denoise(z, t)
        if not math.isfinite(float(z0.sum())):
            bad = int((~torch.isfinite(z0.flatten(1)).all(1)).nonzero()[0])
            what = "unconditional" if labels is None else f"class {int(labels[bad])}"
            raise FloatingPointError(f"the denoised latent must be finite, got a value that is not at t = {float(t[0]):.4f}, {what}")
        return z0

    return checked
