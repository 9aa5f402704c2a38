"""A distilled student goes in few steps where its teacher goes in many, on data that are known
exactly.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from oracles import gaussian_denoiser
from torch import Tensor, nn

from monai_histodiff import LatentDiffusion, PatchAutoencoder
from monai_histodiff.diffusion.schedules import NoiseSchedule, uniform_grid
from monai_histodiff.diffusion.solvers import ddim
from monai_histodiff.training.distillation import DistillationPrepareBatch
from monai_histodiff.training.steps import AutocastInferer

SHAPE, STD, COSINE = (4, 2, 2), 0.5, NoiseSchedule.named("cosine")


class GaussianUNet(nn.Module):
    """The velocity of data ``N(m, STD^2)``, where ``m`` is the first number of the descriptor, or
    0 without one.
    """

    def forward(self, z: Tensor, timesteps: Tensor, descriptors: Tensor | None = None) -> Tensor:
        t = timesteps / 1000
        mean = 0.0 if descriptors is None else descriptors[:, :1, None, None]
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in COSINE.alpha_sigma(t))
        return (alpha * z - gaussian_denoiser(COSINE, mean, STD)(z, t)) / sigma


class AffineUNet(nn.Module):
    """A velocity that is affine in the latent and the descriptor, at each of a few times."""

    def __init__(self, times: Tensor) -> None:
        super().__init__()
        self.times, self.weights = times, nn.Parameter(torch.zeros(len(times), 3))

    def forward(self, z: Tensor, timesteps: Tensor, descriptors: Tensor | None = None) -> Tensor:
        own = self.weights[(self.times - timesteps[:, None] / 1000).abs().argmin(1)]
        a, b, c = own.T[..., None, None, None]
        given = 0.0 if descriptors is None else descriptors[:, :1, None, None]
        return a * z + b * given + c


def model(unet: nn.Module) -> LatentDiffusion:
    coder = PatchAutoencoder(channels=[8, 8], num_res_blocks=[1, 1], latent_channels=SHAPE[0])
    return LatentDiffusion(coder, unet, "cosine", "velocity")  # type: ignore[arg-type]


def batch(mean: float = 1.0, count: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = mean + STD * torch.randn(count, *SHAPE, generator=generator)
    return {"image": latents, "descriptor": torch.full((count, 3), mean)}


def exact(z: Tensor, t: Tensor, s: Tensor, mean: float) -> Tensor:
    """The probability-flow ODE keeps the standardised latent constant."""
    alpha, sigma = COSINE.alpha_sigma(torch.stack([t, s]))
    total = torch.sqrt(alpha**2 * STD**2 + sigma**2)
    return alpha[1] * mean + total[1] / total[0] * (z - alpha[0] * mean)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_one_step_to_the_target_is_the_solution_of_the_guided_teacher(scale: float) -> None:
    """Guidance between Gaussians of one deviation moves the mean to ``w m``, in its interval."""
    student = model(GaussianUNet())
    interval = (-9.0, 12.0)
    prepare = DistillationPrepareBatch(
        student, model(GaussianUNet()), 4, scale, 0.05, 8.0, interval, null_share=0.0
    )
    torch.manual_seed(0)
    seen = set()
    for _ in range(12):
        noisy, target, (timesteps, descriptors), _ = prepare(batch())
        t = timesteps[0] / 1000
        s = t - 0.25
        alpha, sigma = COSINE.alpha_sigma(t)
        clean = alpha * noisy - sigma * target
        step = ddim(lambda z, t, own=clean: own, noisy, COSINE, torch.stack([t, s]))
        if float(s) == 0:  # beyond the stop the teacher takes its estimate
            step, s = clean, torch.tensor(0.0)
        assert torch.allclose(step, exact(noisy, t, s, scale * 1.0), atol=0.02)
        assert torch.equal(descriptors, batch()["descriptor"])
        seen.add(round(float(t), 2))
    assert seen == {1.0, 0.75, 0.5, 0.25}


def test_the_student_needs_four_steps_where_its_teacher_needs_many() -> None:
    grid = uniform_grid(COSINE, 4)
    student, teacher = model(AffineUNet(grid[:-1])), model(GaussianUNet())
    prepare = DistillationPrepareBatch(student, teacher, 4, 1.0, 0.2, 6.0)
    items = [
        {"image": z, "descriptor": d}
        for mean in (-1.0, 0.0, 1.0)
        for z, d in zip(*batch(mean, 64).values(), strict=True)
    ]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=60,
        train_data_loader=DataLoader(Dataset(items), batch_size=32, shuffle=True),
        network=student.unet,
        optimizer=torch.optim.Adam(student.unet.parameters(), 0.02),
        loss_function=nn.MSELoss(),
        prepare_batch=prepare,
        inferer=AutocastInferer(False),
    )
    torch.manual_seed(0)
    trainer.run()
    start = torch.randn(4000, *SHAPE, generator=torch.Generator().manual_seed(1))
    given = torch.full((4000, 3), 1.0)

    def moments(network: LatentDiffusion, *condition: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            made = ddim(lambda z, t: network.denoise(z, t, *condition), start, COSINE, grid)
        return float(made.mean()), float(made.std())

    for condition, mean in (((given,), 1.0), ((), 0.0)):
        own, its = moments(student, *condition), moments(teacher, *condition)
        assert own == pytest.approx((mean, STD), abs=0.03)
        assert abs(its[1] - STD) > 2 * abs(own[1] - STD) + 0.05
    assert all(not p.requires_grad for p in teacher.parameters()) and not teacher.training


def test_some_batches_have_no_exemplars() -> None:
    prepare = DistillationPrepareBatch(
        model(GaussianUNet()), model(GaussianUNet()), spacing=3.0, null_share=0.3
    )
    torch.manual_seed(0)
    given = [len(prepare(batch(count=2))[2]) == 2 for _ in range(300)]
    assert sum(given) == pytest.approx(210, abs=30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 on, got 0"),
        ({"steps": 2.5}, "steps must be a whole number from 1 on, got 2.5"),
        ({"scale": -1.0}, "exemplar_scale must be at least 0 and finite, got -1.0"),
        ({"spacing": 0.0}, "spacing must be positive and finite, got 0.0"),
        ({"null_share": 1.0}, "null_share must lie in [0, 1), got 1.0"),
        ({"interval": (1.0, 0.0)}, "guidance interval must rise, got (1.0, 0.0)"),
        ({"stop": 1.0}, "stop must lie beyond the 1.77 where the last step begins, got 1.0"),
        ({"steps": 2, "stop": 12.5}, "stop must lie between"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        DistillationPrepareBatch(model(GaussianUNet()), model(GaussianUNet()), **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["schedule.log_snr_table", "latent_mean", "latent_std"])
def test_the_teacher_has_the_latents_and_the_schedule_of_the_student(name: str) -> None:
    student, teacher = model(GaussianUNet()), model(GaussianUNet())
    teacher.load_state_dict({**teacher.state_dict(), name: teacher.state_dict()[name] + 0.5})
    with pytest.raises(ValueError, match=f"student's latents and schedule, got another {name}"):
        DistillationPrepareBatch(student, teacher)
    flow = LatentDiffusion(student.autoencoder, GaussianUNet(), COSINE)  # type: ignore[arg-type]
    flow.schedule = NoiseSchedule(COSINE.log_snr_table, flow=True)
    with pytest.raises(ValueError, match="got another schedule.is_flow: make both of one model"):
        DistillationPrepareBatch(student, flow)


def test_the_teacher_is_not_the_student() -> None:
    student = model(AffineUNet(uniform_grid(COSINE, 4)[:-1]))
    for teacher in (student, model(student.unet)):
        with pytest.raises(ValueError, match="must have a UNet of its own, .* leave it out"):
            DistillationPrepareBatch(student, teacher)
    assert student.unet.weights.requires_grad and student.training


def test_without_a_teacher_the_student_learns_from_what_it_was() -> None:
    student = model(AffineUNet(uniform_grid(COSINE, 4)[:-1]))
    prepare = DistillationPrepareBatch(student)
    with torch.no_grad():
        student.unet.weights.fill_(5.0)
    assert student.unet.weights.requires_grad and student.training
    assert not prepare.teacher.training and not prepare.teacher.unet.weights.requires_grad
    assert float(prepare.teacher.unet.weights.abs().max()) == 0


def test_latents_without_descriptors_are_refused() -> None:
    prepare = DistillationPrepareBatch(model(GaussianUNet()), model(GaussianUNet()))
    with pytest.raises(ValueError, match="a student of exemplars is trained on latents with desc"):
        prepare({"image": batch()["image"]})
