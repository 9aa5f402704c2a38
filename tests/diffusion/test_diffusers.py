"""Our solvers against those of diffusers, step for step, on one exact denoiser; where their
formulas agree, so do the latents.

They differ only where diffusers leaves the table of betas (``set_alpha_to_one``,
``final_sigmas_type="zero"``) or lowers the order of the last steps of a short trajectory; these
options are off here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.solvers import ddim, dpmpp_2m

diffusers = pytest.importorskip("diffusers", reason="diffusers is in the test extra")

BETAS = {
    "linear": torch.linspace(1e-4, 2e-2, 1000),
    "scaled_linear": torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2,
}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def mixture(schedule: NoiseSchedule, z: Tensor, t: Tensor) -> Tensor:
    """The exact denoiser of two Gaussians in the plane, of standard deviations 0.3 and 0.5."""
    means, stds = torch.tensor([[-1.0, 0.2], [0.8, -0.4]]).to(z), torch.tensor([0.3, 0.5]).to(z)
    alpha, sigma = (v[:, None] for v in schedule.alpha_sigma(t))
    variance = alpha**2 * stds**2 + sigma**2
    away = z[:, None] - alpha[:, :, None] * means
    weights = torch.softmax(-variance.log() - away.square().sum(2) / (2 * variance), 1)
    return (weights[:, :, None] * (means + (alpha * stds**2 / variance)[:, :, None] * away)).sum(1)


def start() -> Tensor:
    return torch.randn(8, 2, generator=torch.Generator().manual_seed(0))


def as_prediction(kind: str, z0: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    eps = (z - alpha * z0) / sigma
    return {
        "epsilon": eps,
        "sample": z0,
        "v_prediction": alpha * eps - sigma * z0,
        "flow_prediction": eps - z0,
    }[kind]


def trajectory(
    scheduler: Any, schedule: NoiseSchedule, times: Tensor, kind: str, **options: Any
) -> Tensor:
    """The latent after all of a scheduler's steps, its model outputs taken at our times."""
    z = start()
    for i, (timestep, t) in enumerate(zip(scheduler.timesteps, times, strict=True)):
        z0 = mixture(schedule, z, t.expand(len(z)))
        output = as_prediction(kind, z0, z, *schedule.alpha_sigma(t))
        z = scheduler.step(
            output, timestep, z, **{name: value(i) for name, value in options.items()}
        ).prev_sample
    return z


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(
    ("betas", "spacing", "steps"),
    [
        ("linear", "trailing", 1),
        (
            "linear",
            "trailing",
            20,
        ),  # where the steps do not divide 1000, each of theirs ends beside the next one's start
        ("linear", "trailing", 250),
        ("scaled_linear", "leading", 7),
        ("scaled_linear", "leading", 20),
        ("scaled_linear", "leading", 300),
    ],
)
def test_ddim_is_theirs(betas: str, spacing: str, steps: int, kind: str) -> None:
    scheduler = diffusers.DDIMScheduler(
        trained_betas=BETAS[betas].tolist(),
        prediction_type=kind,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule.from_betas(BETAS[betas])
    times = scheduler.timesteps / 999
    theirs = trajectory(scheduler, schedule, times, kind)
    grid = times if scheduler.timesteps[-1] == 0 else torch.cat([times, torch.zeros(1)])
    ours = ddim(lambda z, t: mixture(schedule, z, t), start(), schedule, grid)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_stochastic_ddim_is_theirs(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(
        trained_betas=BETAS["linear"].tolist(),
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(25)
    schedule = NoiseSchedule.from_betas(BETAS["linear"])
    noise = torch.randn(25, 8, 2, generator=torch.Generator().manual_seed(1))
    times = scheduler.timesteps / 999
    theirs = trajectory(
        scheduler, schedule, times, "epsilon", eta=lambda _: eta, variance_noise=lambda i: noise[i]
    )
    grid = torch.cat([times, torch.zeros(1)])
    ours = ddim(
        lambda z, t: mixture(schedule, z, t), start(), schedule, grid, eta, lambda i: noise[i]
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 20, 300])
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("betas", sorted(BETAS))
def test_dpmpp_2m_is_theirs(betas: str, kind: str, steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=BETAS[betas].tolist(),
        prediction_type=kind,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule.from_betas(BETAS[betas])
    times = scheduler.timesteps / 999
    theirs = trajectory(scheduler, schedule, times, kind)
    ours = dpmpp_2m(
        lambda z, t: mixture(schedule, z, t), start(), schedule, torch.cat([times, torch.zeros(1)])
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [7, 20])
def test_dpmpp_2m_of_a_flow_is_theirs(steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule.named("flow", log_snr_max=14.0, log_snr_min=-14.0).double()
    sigma = scheduler.sigmas.double()
    grid = schedule.time(2 * torch.log((1 - sigma) / sigma))
    theirs = trajectory(scheduler, schedule, grid[:-1], "flow_prediction")
    ours = dpmpp_2m(lambda z, t: mixture(schedule, z, t), start().double(), schedule, grid)
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-4, atol=1e-4)
