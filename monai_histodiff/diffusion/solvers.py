r"""Solvers: from noise to latents along an explicit grid of times.

A denoiser is any callable ``(z_t, t) -> z0`` with ``t`` of shape ``N``. A solver takes the
denoiser, the noise, the schedule and a falling grid of times, and steps from ``grid[i]`` to
``grid[i + 1]``; it never learns what the network predicts, nor of classifiers. Everything here is
a pure function of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_histodiff.diffusion.schedules import NoiseSchedule, log_snr_grid, uniform_grid

__all__ = ["SOLVERS", "Denoiser", "Solver", "ddim", "dpmpp_2m"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
SAME_TIME = 1e-4  # apart at the most, by rounding


def _checked(grid: Tensor) -> Tensor:
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() < 0).all()):
        raise ValueError(f"a grid must be at least 2 strictly falling times, got {grid.tolist()}")
    return grid


def ddim(
    denoise: Denoiser,
    z: Tensor,
    schedule: NoiseSchedule,
    grid: Tensor,
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    r"""DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12), first order, for any :math:`(\alpha,
    \sigma)`.

    Args:
        denoise: estimate of ``z0`` from ``(z_t, t)``.
        z: latent at ``grid[0]``, shape ``N x ...``.
        schedule: gives the amplitudes.
        grid: strictly falling times in [0, 1].
        eta: 0 is deterministic, 1 is ancestral sampling (DDPM).
        noise: fresh standard normal noise of the shape of ``z`` for step ``i``; needed when
            ``eta`` is positive.

    Returns:
        The latent at ``grid[-1]``.

    Raises:
        ValueError: the grid does not fall, ``eta`` is not in [0, 1], or it is positive and there
            is no ``noise``.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if eta > 0 and noise is None:
        raise ValueError(f"a stochastic solver needs noise, got eta = {eta} and none")
    alphas, sigmas = schedule.alpha_sigma(_checked(grid))
    ratios = schedule.log_snr(grid)
    for i in range(len(grid) - 1):
        z0 = denoise(z, grid[i].expand(len(z)))
        eps = (z - alphas[i] * z0) / sigmas[i]
        fresh = eta * sigmas[i + 1] * torch.sqrt(-torch.expm1(ratios[i] - ratios[i + 1]))
        z = alphas[i + 1] * z0 + torch.sqrt((sigmas[i + 1] ** 2 - fresh**2).clamp(min=0)) * eps
        if noise is not None and eta > 0:
            z = z + fresh * noise(i)
    return z


def dpmpp_2m(denoise: Denoiser, z: Tensor, schedule: NoiseSchedule, grid: Tensor) -> Tensor:
    r"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Alg. 2): second order at one evaluation
    a step.

    Args:
        denoise: estimate of ``z0`` from ``(z_t, t)``.
        z: latent at ``grid[0]``, shape ``N x ...``.
        schedule: gives the amplitudes.
        grid: strictly falling times in [0, 1];
            :func:`monai_histodiff.diffusion.schedules.log_snr_grid` suits it.

    Returns:
        The latent at ``grid[-1]``.

    Raises:
        ValueError: the grid does not fall.
    """
    alphas, sigmas = schedule.alpha_sigma(_checked(grid))
    half = schedule.log_snr(grid) / 2  # log(alpha / sigma), the variable of the paper
    before: Tensor | None = None
    for i in range(len(grid) - 1):
        z0 = denoise(z, grid[i].expand(len(z)))
        h = half[i + 1] - half[i]
        if before is None:
            data = z0
        else:
            ratio = (half[i] - half[i - 1]) / h
            data = z0 + (z0 - before) / (2 * ratio)
        z = sigmas[i + 1] / sigmas[i] * z - alphas[i + 1] * torch.expm1(-h) * data
        before = z0
    return z


@dataclass(frozen=True)
class Solver:
    """A solver and the grid that suits it: all that a new one must bring is one such record.

    Args:
        spacing: makes the grid: ``(schedule, steps, start, stop) -> times``.
        step: the solver itself, a function such as :func:`dpmpp_2m`, or :func:`ddim`, which also
            takes ``eta`` and ``noise``.
        stochastic: whether it does.
    """

    spacing: Callable[[NoiseSchedule, int, float, float | None], Tensor]
    step: Callable[..., Tensor]
    stochastic: bool = False

    def grid(
        self, schedule: NoiseSchedule, steps: int, start: float = 1.0, stop: float | None = None
    ) -> Tensor:
        """Times from ``start`` to 0, or to the time of the log-SNR ``stop``: ``steps + 1`` from 1
        on, and from later on as many as are left there.

        Raises:
            ValueError: ``steps`` is below 1, or ``stop`` does not lie beyond the start.
        """
        if start < 1:
            whole = self.spacing(schedule, steps, 1.0, stop)
            steps = max(1, int((whole < start - SAME_TIME).sum()))
        return self.spacing(schedule, steps, start, stop)

    def __call__(
        self,
        denoise: Denoiser,
        z: Tensor,
        schedule: NoiseSchedule,
        grid: Tensor,
        eta: float = 0.0,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """The latent at ``grid[-1]`` from that at ``grid[0]``; see :func:`ddim` for the arguments.

        Raises:
            ValueError: the grid does not fall, or ``eta`` is positive and this is deterministic.
        """
        if self.stochastic:
            return self.step(denoise, z, schedule, grid, eta, noise)
        if eta:
            raise ValueError(f"eta must be 0 for a deterministic solver, got {eta}")
        return self.step(denoise, z, schedule, grid)


SOLVERS: Mapping[str, Solver] = {
    "dpmpp_2m": Solver(log_snr_grid, dpmpp_2m),
    "ddim": Solver(uniform_grid, ddim, stochastic=True),
}
