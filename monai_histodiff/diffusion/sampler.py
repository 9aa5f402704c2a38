"""``GuidedSampler``: labels and seeds to patches. Patch k depends on its label and seed alone, not
on its neighbours.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from monai_histodiff.diffusion.guidance import (
    Watched,
    autoguide,
    class_log_prob,
    guide,
    in_interval,
)
from monai_histodiff.diffusion.guide import LatentClassifier
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.schedules import NoiseSchedule, log_snr_grid, uniform_grid
from monai_histodiff.diffusion.settings import SOLVERS, check_guidance
from monai_histodiff.diffusion.solvers import Denoiser, ddim, dpmpp_2m

__all__ = ["GuidedSampler"]

CPU_BATCH, CUDA_BATCH = 32, 512  # patches at once beyond which nothing is gained
# bytes at work for each byte of a float32 patch: 30 measured, and halving corrects the rest
PATCH_MEMORY = 100
logger = logging.getLogger(__name__)


class GuidedSampler:
    """Samples patches from a latent diffusion model, guided toward a class by a latent classifier.

    Args:
        model: the latent diffusion model.
        guide: the noise-aware classifier, or ``None`` for unconditional samples.
        steps: solver steps, one evaluation of the UNet each (and, with autoguidance and in the
            interval, one of the weak one).
        scale: guidance scale.
        interval: log-SNR range in which the guide and the weak model act.
        cap: largest change of the predicted noise by the guide, as a fraction of its norm.
        temperature: divides the guide's logits.
        mode: ``"noisy"``, ``"x0"`` or ``"clean"``, see :mod:`monai_histodiff.diffusion.guidance`.
        solver: ``"dpmpp_2m"`` (times equally spaced in log-SNR) or ``"ddim"`` (equally spaced).
        eta: stochasticity of ``"ddim"``, in [0, 1]; ``"dpmpp_2m"`` is deterministic and has none.
        stop: log-SNR at which the solver stops and the model's estimate of the clean latent is
            taken, as the last of the ``steps``; ``None`` solves to the end. Beyond 4 or so a step
            changes little but noise that the decoder bears.
        strength: time in (0, 1] to start from: 1 is pure noise; less starts from one of the
            ``sources`` of the class, drawn by the seed and noised to that time, and makes a
            variation of it (SDEdit, Meng et al. 2022, arXiv:2108.01073).
        sources: for each class, in order, latents of real patches, ``N x C x h x w``; needed where
            ``strength`` is below 1.
        source_rows: for each class, which patch each of the sources was encoded from, int64,
            ``N``: what :meth:`origins` tells.
        weak: a worse model of the same latents, such as an earlier state of the same training: see
            :meth:`LatentDiffusion.weak_from_bundle`.
        autoguidance: weight of autoguidance by the weak model, see
            :func:`monai_histodiff.diffusion.guidance.autoguide`; 1 is none, more doubles the cost
            of a step in the interval.
        max_batch: patches sampled at once, chosen from the free memory by default, and halved for
            good when a device runs out of memory; changes speed and memory, not the patches.
        bfloat16: compute under bfloat16 autocast; by default on CUDA. On a CPU it about doubles
            the speed where the processor has AVX-512 BF16 or AMX, and a patch then depends on its
            batch by rounding.
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
        stop: float | None = None,
        strength: float = 1.0,
        sources: Sequence[Tensor] = (),
        source_rows: Sequence[Tensor] = (),
        weak: LatentDiffusion | None = None,
        autoguidance: float = 1.0,
        max_batch: int | None = None,
        bfloat16: bool | None = None,
        progress: bool = True,
    ) -> None:
        if steps < (1 if stop is None else 2):
            raise ValueError(f"steps must be at least 1, or 2 with a stop, got {steps}")
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {SOLVERS}, got '{solver}'")
        if not 0 <= eta <= 1 or (eta > 0 and solver != "ddim"):
            raise ValueError(
                f"eta must lie in [0, 1], and be 0 for a deterministic solver, got {eta} for '{solver}'"
            )
        if len(interval) != 2:
            raise ValueError(f"guidance interval must be two log-SNRs, got {tuple(interval)}")
        if not 0 < strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {strength}")
        if strength < 1 and (
            guide is None or len(sources) != guide.num_classes or any(len(v) == 0 for v in sources)
        ):
            raise ValueError(
                f"strength below 1 needs a guide and sources of each of its classes, got {[len(v) for v in sources]}"
            )
        if source_rows and [len(rows) for rows in source_rows] != [len(v) for v in sources]:
            counts = [len(rows) for rows in source_rows], [len(v) for v in sources]
            raise ValueError(
                f"source_rows must name one patch for each source, got {counts[0]} for {counts[1]} of the classes"
            )
        if bfloat16 not in (None, True, False):
            raise ValueError(f"bfloat16 must be True, False or None, got {bfloat16!r}")
        low, high = (float(v) for v in interval)
        check_guidance(scale, (low, high), cap, temperature, mode, autoguidance)
        if autoguidance > 1 and weak is None:
            raise ValueError(
                f"autoguidance needs a weak model, got weight {autoguidance} and none"
            )
        if weak is not None and not _same_latents(model, weak):
            raise ValueError(
                "the weak model must have the latents and the noise schedule of the model, got others"
            )
        if guide is not None and guide.in_channels != model.latent_shape[0]:
            raise ValueError(
                f"the guide must read {model.latent_shape[0]} latent channels, got one for {guide.in_channels}"
            )
        self.model, self.guide, self.weak = model, guide, weak
        self.steps, self.scale, self.interval, self.cap = steps, scale, (low, high), cap
        self.temperature, self.mode, self.solver, self.eta, self.stop = (
            temperature,
            mode,
            solver,
            eta,
            stop,
        )
        self.strength, self.autoguidance = strength, autoguidance
        self.sources, self.source_rows = tuple(sources), tuple(source_rows)
        self.bfloat16 = self.device.type == "cuda" if bfloat16 is None else bfloat16
        self.max_batch, self.progress = max_batch, progress
        self._grid(self._schedule())  # refuses a stop that the schedule or the start rules out

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the patches depend on."""
        names = "steps scale interval cap temperature mode solver eta stop strength autoguidance bfloat16"
        return {name: getattr(self, name) for name in names.split()}

    @property
    def network_evaluations(self) -> int:
        """Forward evaluations of a UNet for each patch: one in each step and, in each step in the
        interval, another one with autoguidance and another one with guidance through the UNet
        (``mode="x0"``).
        """
        schedule = self._schedule()
        times = self._grid(schedule)[: self.steps]
        inside = int(in_interval(schedule, times, self.interval).sum())
        through = self.guide is not None and self.mode == "x0" and self.scale > 0
        return self.steps + inside * (int(self.autoguidance > 1) + int(through))

    def replace(self, **settings: Any) -> GuidedSampler:
        """A sampler of the same networks in which some settings are others.

        Raises:
            ValueError: a setting is out of range.
        """
        names = "sources source_rows weak max_batch progress"
        others = {name: getattr(self, name) for name in names.split()}
        return GuidedSampler(self.model, self.guide, **{**self.settings, **others, **settings})

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
            float32 RGB patches in [0, 1] on the CPU, shape ``N x 3 x H x W``.

        Raises:
            ValueError: labels are given without a guide, or missing where ``strength`` is below 1,
                differ in number from the seeds, or are out of range.
            FloatingPointError: the network's output is not finite; the message names step, time
                and class.
            torch.OutOfMemoryError: not even one patch fits into the memory of the device.
        """
        return self._sample(labels, seeds, self.model.decode)

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
        """Which patch each variation starts from: its entry in ``source_rows``, int64, shape
        ``N``; ``None`` where ``strength`` is 1 or no ``source_rows`` were given.
        """
        if self.strength == 1 or not self.source_rows:
            return None
        drawn = []
        for k, seed in zip(torch.as_tensor(labels).tolist(), seeds, strict=True):
            generator = torch.Generator().manual_seed(int(seed))
            torch.randn(self.model.latent_shape, generator=generator)  # the noise is drawn first
            drawn.append(self.source_rows[k][self._draw_source(k, generator)])
        return torch.stack(drawn)

    def _draw_source(self, label: int, generator: torch.Generator) -> int:
        return int(torch.randint(len(self.sources[label]), (), generator=generator))

    def _sample(self, labels: Any, seeds: Any, finish: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            seeds = [int(s) for s in seeds]
            wanted = self._checked(labels, len(seeds))
            for network in (self.model, self.guide, self.weak):
                if network is not None:
                    network.eval()
            batch, start, parts = self.max_batch or self._batch_from_memory(), 0, []
            bar = tqdm(
                total=len(seeds), desc="sample", disable=not self.progress or len(seeds) <= batch
            )
            while start < len(seeds):
                rows = slice(start, min(start + batch, len(seeds)))
                try:
                    latents = self._solve(
                        None if wanted is None else wanted[rows].to(self.device), seeds[rows]
                    )
                    parts.append(finish(latents).float().cpu())
                except torch.OutOfMemoryError:
                    if rows.stop - start == 1:
                        raise
                    batch = self.max_batch = (rows.stop - start) // 2
                    logger.warning(
                        "the device ran out of memory: from now on %d patches are sampled at once",
                        batch,
                    )
                else:
                    bar.update(rows.stop - start)
                    start = rows.stop
            bar.close()
            return torch.cat(parts)

    def _checked(self, labels: Any, count: int) -> Tensor | None:
        if count == 0:
            raise ValueError("at least one seed is needed, got none")
        if labels is None:
            if self.strength < 1:
                raise ValueError(f"variations need labels, got none and strength {self.strength}")
            return None
        wanted = torch.as_tensor(
            labels, dtype=torch.long
        ).clone()  # an inference tensor could not be differentiated by
        if self.guide is None:
            raise ValueError("labels need a guide, got labels and guide=None")
        if wanted.shape != (count,):
            raise ValueError(
                f"each seed needs one label, got {count} seeds and labels of shape {tuple(wanted.shape)}"
            )
        if int(wanted.min()) < 0 or int(wanted.max()) >= self.guide.num_classes:
            classes = self.guide.num_classes
            raise ValueError(
                f"labels must lie from 0 to {classes - 1}, got {int(wanted.min())} to {int(wanted.max())}"
            )
        return wanted

    def _batch_from_memory(self) -> int:
        if self.device.type != "cuda":
            return CPU_BATCH
        free, _ = torch.cuda.mem_get_info(self.device)
        return min(CUDA_BATCH, max(1, free // (PATCH_MEMORY * 3 * self.model.patch_size**2 * 4)))

    def _solve(self, labels: Tensor | None, seeds: Sequence[int]) -> Tensor:
        generators = [
            torch.Generator().manual_seed(seed) for seed in seeds
        ]  # on the CPU: the same noise on every device
        schedule = self._schedule()

        def noise(_: int = 0) -> Tensor:
            drawn = torch.stack(
                [torch.randn(self.model.latent_shape, generator=g) for g in generators]
            )
            return drawn.to(self.device, non_blocking=True)

        def denoiser(model: LatentDiffusion) -> Denoiser:
            return lambda z, t: model.denoise(z, t.to(z.device, non_blocking=True)).float()

        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            denoise = guided = denoiser(self.model)
            if self.weak is not None:
                guided = autoguide(
                    denoise, denoiser(self.weak), self.autoguidance, schedule, self.interval
                )
            if labels is not None and self.guide is not None:
                log_prob = class_log_prob(self.guide, labels, self.mode, denoise, self.temperature)
                guided = guide(guided, log_prob, schedule, self.scale, self.interval, self.cap)
            watched, grid = Watched(guided), self._grid(schedule)
            latents = self._start(noise(), labels, generators, schedule)
            if self.solver == "ddim":
                latents = ddim(watched, latents, schedule, grid, self.eta, noise)
            else:
                latents = dpmpp_2m(watched, latents, schedule, grid)
            if self.stop is not None:
                latents = watched(latents, grid[-1].expand(len(latents)))
        watched.check(labels)
        return latents

    def _schedule(self) -> NoiseSchedule:
        return copy.deepcopy(
            self.model.schedule
        ).cpu()  # times and amplitudes are the host's: no step waits for the device

    def _grid(self, schedule: NoiseSchedule) -> Tensor:
        make, steps = (
            uniform_grid if self.solver == "ddim" else log_snr_grid,
            self.steps - (self.stop is not None),
        )
        return make(schedule, steps, self.strength, self.stop)

    def _start(
        self,
        noise: Tensor,
        labels: Tensor | None,
        generators: Sequence[torch.Generator],
        schedule: NoiseSchedule,
    ) -> Tensor:
        if labels is None or self.strength == 1:
            return noise * schedule.start_std
        alpha, sigma = schedule.alpha_sigma(torch.tensor(self.strength))
        pairs = zip(labels.tolist(), generators, strict=True)
        drawn = torch.stack(
            [self.sources[k][self._draw_source(k, generator)].float() for k, generator in pairs]
        )
        return alpha * drawn.to(noise) + sigma * noise


def _same_latents(model: LatentDiffusion, other: LatentDiffusion) -> bool:
    """All but the UNet and what it predicts."""
    ours, theirs = (
        {
            k: v
            for k, v in m.state_dict().items()
            if not k.startswith("unet.") and k != "prediction_code"
        }
        for m in (model, other)
    )
    same = ours.keys() == theirs.keys() and all(
        torch.equal(ours[k], theirs[k].to(ours[k].device)) for k in ours
    )
    return same and model.latent_shape == other.latent_shape
