"""Denoisers that are known exactly."""

from __future__ import annotations

from torch import Tensor

from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.solvers import Denoiser


def amplitudes(schedule: NoiseSchedule, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitudes at times ``t``, shaped to multiply ``z``."""
    alpha, sigma = schedule.alpha_sigma(t)
    shape = [-1, *[1] * (z.ndim - 1)]
    return alpha.view(shape), sigma.view(shape)


def gaussian_denoiser(
    schedule: NoiseSchedule, mean: float | Tensor, std: float | Tensor
) -> Denoiser:
    """The exact denoiser of data ``N(mean, std^2)``."""

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = amplitudes(schedule, z, t)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (z - alpha * mean)

    return denoise
