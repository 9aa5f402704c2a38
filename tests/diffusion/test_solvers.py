"""Solvers against distributions whose exact denoiser, and so the exact answer, is known in closed
form.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from oracles import gaussian_denoiser
from torch import Tensor

from monai_histodiff.diffusion.schedules import NoiseSchedule, log_snr_grid, uniform_grid
from monai_histodiff.diffusion.solvers import SOLVERS as RECORDS
from monai_histodiff.diffusion.solvers import ddim, dpmpp_2m

SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}
GRIDS = {"ddim": uniform_grid, "dpmpp_2m": log_snr_grid}
MEAN, STD = 0.7, 0.5


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact_schedule(name: str) -> NoiseSchedule:
    """In double precision, so that what is left is the error of the solver."""
    if name == "betas":
        return NoiseSchedule.from_betas(torch.linspace(1e-4, 2e-2, 1000)).double()
    return NoiseSchedule.named(name).double()


def gaussian_solution(schedule: NoiseSchedule, z: Tensor, grid: Tensor) -> Tensor:
    """The probability-flow ODE keeps the standardised latent constant."""
    alpha, sigma = schedule.alpha_sigma(grid[[0, -1]])
    total = torch.sqrt(alpha**2 * STD**2 + sigma**2)
    return alpha[1] * MEAN + total[1] / total[0] * (z - alpha[0] * MEAN)


class Mixture:
    """A mixture of isotropic Gaussians in D dimensions, with its exact denoiser."""

    def __init__(
        self, schedule: NoiseSchedule, weights: Tensor, means: Tensor, stds: Tensor
    ) -> None:
        self.schedule, self.weights, self.means, self.stds = schedule, weights, means, stds

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v[:, None] for v in self.schedule.alpha_sigma(t))
        variance = alpha**2 * self.stds**2 + sigma**2  # N x K
        away = z[:, None] - alpha[:, :, None] * self.means  # N x K x D
        logits = (
            self.weights.log()
            - z.shape[1] / 2 * variance.log()
            - away.square().sum(2) / (2 * variance)
        )
        means = self.means + (alpha * self.stds**2 / variance)[:, :, None] * away
        return (torch.softmax(logits, 1)[:, :, None] * means).sum(1)

    def cdf(self, z: Tensor, t: Tensor) -> Tensor:
        """Of a one-dimensional mixture, noised to time ``t``."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return (
            self.weights
            * torch.special.ndtr(
                (z - alpha * self.means[:, 0]) / (alpha**2 * self.stds**2 + sigma**2).sqrt()
            )
        ).sum(1)


def mixture_1d(schedule: NoiseSchedule) -> Mixture:
    return Mixture(
        schedule,
        double([0.5, 0.3, 0.2]),
        double([-1.2, 0.4, 1.5])[:, None],
        double([0.2, 0.15, 0.3]),
    )


def order(error: Callable[[int], float], steps: tuple[int, ...]) -> float:
    return float(-np.polyfit(np.log(steps), np.log([error(n) for n in steps]), 1)[0])


# --- the exact solution ---


@pytest.mark.parametrize("name", ["cosine", "flow", "betas"])
@pytest.mark.parametrize(
    ("solver", "grid", "expected"),
    [(ddim, uniform_grid, 1), (ddim, log_snr_grid, 1), (dpmpp_2m, log_snr_grid, 2)],
)
def test_order_of_convergence_for_gaussian_data(name: str, solver, grid, expected: int) -> None:
    schedule = exact_schedule(name)
    z = double([[-1.5], [0.3], [1.0]])

    def error(steps: int) -> float:
        times = grid(schedule, steps)
        out = solver(gaussian_denoiser(schedule, MEAN, STD), z, schedule, times)
        return float((out - gaussian_solution(schedule, z, times)).abs().max())

    assert order(error, (16, 32, 64, 128)) == pytest.approx(expected, abs=0.15)
    assert error(128) < {1: 0.02, 2: 5e-4}[expected]


def test_second_order_holds_where_long_and_short_steps_alternate() -> None:
    schedule = exact_schedule("cosine")
    z = double([[-1.5], [0.3], [1.0]])
    low, high = schedule.log_snr_table[[-1, 0]]

    def error(steps: int) -> float:
        place = torch.cat([torch.zeros(1), torch.arange(steps) % 2 + 1]).double().cumsum(0)
        times = schedule.time(low + (high - low) * place / place[-1])
        out = dpmpp_2m(gaussian_denoiser(schedule, MEAN, STD), z, schedule, times)
        return float((out - gaussian_solution(schedule, z, times)).abs().max())

    assert order(error, (64, 128, 256)) == pytest.approx(2, abs=0.2)


def test_the_second_order_step_extrapolates_to_the_middle_of_the_step() -> None:
    """A prediction that is linear in log(alpha / sigma) is extrapolated exactly, also between
    steps of unequal length.
    """
    schedule = exact_schedule("cosine")
    times = schedule.time(double([-6.0, -1.0, 0.0, 4.0]))
    half = schedule.log_snr(times) / 2
    alpha, sigma = schedule.alpha_sigma(times)
    z = expected = double([[0.4]])
    for i, place in enumerate(
        (half[0], (half[1] + half[2]) / 2, (half[2] + half[3]) / 2)
    ):  # the first step is of first order
        expected = sigma[i + 1] / sigma[i] * expected + alpha[i + 1] * (
            1 - torch.exp(half[i] - half[i + 1])
        ) * (0.7 + 0.3 * place)
    out = dpmpp_2m(
        lambda z, t: (0.7 + 0.3 * schedule.log_snr(t) / 2)[:, None].expand_as(z),
        z,
        schedule,
        times,
    )
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "flow"])
@pytest.mark.parametrize(("solver", "expected"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_convergence_for_a_mixture(name: str, solver: str, expected: int) -> None:
    """In one dimension the ODE keeps every quantile: the fraction of the distribution below a
    point is constant.
    """
    schedule = exact_schedule(name)
    z = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    data = mixture_1d(schedule)

    def error(steps: int) -> float:
        times = GRIDS[solver](schedule, steps)
        out = SOLVERS[solver](data, z, schedule, times)
        return float((data.cdf(out, times[-1]) - data.cdf(z, times[0])).abs().max())

    assert order(error, (32, 64, 128)) == pytest.approx(expected, abs=0.15)
    assert error(128) < {1: 8e-3, 2: 6e-4}[expected]


@pytest.mark.parametrize("name", ["cosine", "flow", "betas"])
@pytest.mark.parametrize(
    ("solver", "steps", "distance"),
    [
        ("ddim", 10, 0.1),
        ("ddim", 20, 0.05),
        ("ddim", 50, 0.02),
        ("dpmpp_2m", 10, 0.09),
        ("dpmpp_2m", 20, 0.016),
        ("dpmpp_2m", 50, 0.003),
    ],
)
def test_distribution_of_a_mixture_after_few_steps(
    name: str, solver: str, steps: int, distance: float
) -> None:
    """The Kolmogorov distance to the exact distribution: the largest shift of any quantile's
    probability.
    """
    schedule = exact_schedule(name)
    z = (
        schedule.start_std
        * torch.special.ndtri(torch.linspace(0.002, 0.998, 499, dtype=torch.float64))[:, None]
    )
    data, times = mixture_1d(schedule), GRIDS[solver](schedule, steps)
    out = SOLVERS[solver](data, z, schedule, times)
    assert float((data.cdf(out, times[-1]) - data.cdf(z, times[0])).abs().max()) < distance


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_part_of_the_way_is_solved_too(solver: str) -> None:
    schedule = exact_schedule("cosine")
    z, grid = double([[-1.0], [2.0]]), torch.linspace(0.8, 0.3, 257, dtype=torch.float64)
    out = SOLVERS[solver](gaussian_denoiser(schedule, MEAN, STD), z, schedule, grid)
    torch.testing.assert_close(
        out,
        gaussian_solution(schedule, z, grid),
        rtol=0,
        atol={"ddim": 3e-3, "dpmpp_2m": 2e-5}[solver],
    )


def gaussian_std(solver: Callable[..., Tensor], schedule: NoiseSchedule, grid: Tensor) -> float:
    """The standard deviation of the samples: the solver is linear for centred Gaussian data, so
    one latent tells it.
    """
    return float(
        solver(
            gaussian_denoiser(schedule, 0.0, STD),
            torch.ones(1, 1, dtype=torch.float64),
            schedule,
            grid,
        )
    )


@pytest.mark.parametrize("name", ["cosine", "flow", "betas"])
@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"),
    [
        ("ddim", 10, 0.14),
        ("ddim", 20, 0.075),
        ("ddim", 50, 0.035),
        ("ddim", 300, 0.008),
        ("ddim", 600, 0.006),
        ("dpmpp_2m", 10, 0.03),
        ("dpmpp_2m", 20, 0.015),
        ("dpmpp_2m", 50, 0.008),
        ("dpmpp_2m", 300, 0.006),
        ("dpmpp_2m", 600, 0.006),
    ],
)
def test_std_of_the_samples_at_any_number_of_steps(
    name: str, solver: str, steps: int, tolerance: float
) -> None:
    """Also where the steps do not divide 1000; there respaced schedulers have drifted by 30 %
    (data of std 0.5).
    """
    schedule = exact_schedule(name)
    assert gaussian_std(
        SOLVERS[solver], schedule, GRIDS[solver](schedule, steps)
    ) == pytest.approx(STD, abs=tolerance)


@pytest.mark.parametrize("name", ["cosine", "flow", "betas"])
def test_second_order_beats_first_order(name: str) -> None:
    schedule, z = exact_schedule(name), double([[1.0]])
    for steps in (10, 20, 50):
        error = {}
        for solver, grid in GRIDS.items():
            times = grid(schedule, steps)
            out = SOLVERS[solver](gaussian_denoiser(schedule, MEAN, STD), z, schedule, times)
            error[solver] = float((out - gaussian_solution(schedule, z, times)).abs())
        assert error["dpmpp_2m"] < 0.4 * error["ddim"]


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_a_certain_denoiser_is_followed_exactly(name: str, solver: str, steps: int) -> None:
    """If the data are one point, the ODE is a straight line in the noise, which any number of
    steps solves exactly.
    """
    schedule = exact_schedule(name)
    z, point = double([[-1.0, 2.0]]), double([[3.0, -4.0]])
    grid = GRIDS[solver](schedule, steps)
    alpha, sigma = schedule.alpha_sigma(grid[[0, -1]])
    exact = alpha[1] * point + sigma[1] * (z - alpha[0] * point) / sigma[0]
    torch.testing.assert_close(
        SOLVERS[solver](lambda z, t: point.expand_as(z), z, schedule, grid),
        exact,
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", ["cosine", "flow", "betas"])
def test_one_step_of_both_solvers_is_the_same(name: str) -> None:
    schedule = exact_schedule(name)
    z, grid = double([[-1.5], [0.3]]), torch.tensor([0.7, 0.4])
    first = ddim(gaussian_denoiser(schedule, MEAN, STD), z, schedule, grid)
    torch.testing.assert_close(
        dpmpp_2m(gaussian_denoiser(schedule, MEAN, STD), z, schedule, grid),
        first,
        rtol=1e-10,
        atol=1e-10,
    )


def test_class_proportions_of_a_mixture_in_the_plane() -> None:
    schedule = NoiseSchedule.named("cosine")
    weights, means = (
        torch.tensor([0.6, 0.3, 0.1]),
        torch.tensor([[0.0, 1.2], [-1.2, -0.8], [1.2, -0.8]]),
    )
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    out = dpmpp_2m(
        Mixture(schedule, weights, means, torch.tensor([0.1, 0.2, 0.3])),
        z,
        schedule,
        log_snr_grid(schedule, 40),
    )
    nearest = torch.cdist(out, means).argmin(1)
    torch.testing.assert_close(
        torch.bincount(nearest, minlength=3) / len(out), weights, rtol=0, atol=0.02
    )
    for k, std in enumerate((0.1, 0.2, 0.3)):
        torch.testing.assert_close(out[nearest == k].mean(0), means[k], rtol=0, atol=0.05)
        torch.testing.assert_close(
            out[nearest == k].std(0), torch.full((2,), std), rtol=0.12, atol=0
        )


# --- stochastic sampling ---


@pytest.mark.parametrize("name", ["cosine", "flow", "betas"])
@pytest.mark.parametrize(("steps", "tolerance"), [(30, 0.09), (100, 0.035), (300, 0.015)])
def test_std_of_ancestral_samples(name: str, steps: int, tolerance: float) -> None:
    """Unit noise in one place at a time gives the weight of each noise; the variance is the sum of
    their squares.
    """
    schedule = exact_schedule(name)
    unit = torch.eye(steps + 1, dtype=torch.float64)
    grid = uniform_grid(schedule, steps)
    out = ddim(
        gaussian_denoiser(schedule, 0.0, STD),
        unit[:, :1],
        schedule,
        grid,
        eta=1.0,
        noise=lambda i: unit[:, i + 1 : i + 2],
    )
    assert float(out.square().sum().sqrt()) == pytest.approx(STD, abs=tolerance)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_any_eta_has_the_right_std(eta: float) -> None:
    schedule = NoiseSchedule.named("cosine")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 1, generator=generator)
    grid = uniform_grid(schedule, 100)
    out = ddim(
        gaussian_denoiser(schedule, MEAN, STD),
        z,
        schedule,
        grid,
        eta,
        lambda i: torch.randn(z.shape, generator=generator),
    )
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(out.std()) == pytest.approx(STD, abs=0.03)


def test_ancestral_step_is_monai_s_ddpm_step() -> None:
    scheduler = DDPMScheduler(
        num_train_timesteps=50,
        schedule="linear_beta",
        beta_start=1e-3,
        beta_end=0.2,
        clip_sample=False,
    )
    schedule = NoiseSchedule.from_betas(scheduler.betas).double()
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    for i in (49, 25, 2):
        theirs, _ = scheduler.step(eps, i, z, generator=torch.Generator().manual_seed(2))
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
        alpha = scheduler.alphas_cumprod[i] ** 0.5
        z0 = (z - (1 - alpha**2) ** 0.5 * eps) / alpha
        grid = torch.tensor([i / 49, (i - 1) / 49], dtype=torch.float64)
        ours = ddim(lambda z, t, z0=z0: z0, z.double(), schedule, grid, 1.0, lambda _, n=noise: n)
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-4)


def test_noise_is_asked_for_once_a_step_in_order() -> None:
    schedule = NoiseSchedule.named("flow")
    asked: list[int] = []

    def noise(i: int) -> Tensor:
        asked.append(i)
        return torch.zeros(1, 1)

    ddim(
        gaussian_denoiser(schedule, MEAN, STD),
        torch.ones(1, 1),
        schedule,
        uniform_grid(schedule, 5),
        0.5,
        noise,
    )
    assert asked == [0, 1, 2, 3, 4]
    ddim(
        gaussian_denoiser(schedule, MEAN, STD),
        torch.ones(1, 1),
        schedule,
        uniform_grid(schedule, 5),
        0.0,
        noise,
    )
    assert asked == [0, 1, 2, 3, 4]


# --- against others' code ---


def test_all_steps_are_monai_s_ddim() -> None:
    """MONAI's own DDIM goes from index to index only when it takes every training step."""
    count = 60
    scheduler = DDIMScheduler(
        num_train_timesteps=count,
        schedule="linear_beta",
        beta_start=1e-3,
        beta_end=0.2,
        clip_sample=False,
    )
    scheduler.set_timesteps(count)
    schedule = NoiseSchedule.from_betas(scheduler.betas)
    start = torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
    data = Mixture(
        schedule, torch.tensor([0.6, 0.4]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.3, 0.4])
    )

    theirs = start
    for i in scheduler.timesteps[:-1]:  # the last leaves the schedule, for pure signal
        z0 = data(theirs, (i / (count - 1)).expand(len(theirs)))
        product = scheduler.alphas_cumprod[i]
        theirs, _ = scheduler.step(
            (theirs - product**0.5 * z0) / (1 - product) ** 0.5, int(i), theirs
        )
    ours = ddim(data, start, schedule, uniform_grid(schedule, count - 1))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [7, 20, 300])
def test_respaced_steps_are_textbook_ddim(steps: int) -> None:
    """Song et al. 2021, eq. 12, on the discrete products themselves, with any indices."""
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    schedule = NoiseSchedule.from_betas(betas).double()
    products = torch.cumprod(1 - betas, 0)
    indices = torch.linspace(999, 0, steps + 1).round().long()
    data = mixture_1d(schedule)
    start = torch.randn(16, 1, generator=torch.Generator().manual_seed(0)).double()

    textbook = start
    for now, after in zip(indices[:-1], indices[1:], strict=True):
        z0 = data(textbook, (now.double() / 999).expand(16))
        eps = (textbook - products[now].sqrt() * z0) / (1 - products[now]).sqrt()
        textbook = products[after].sqrt() * z0 + (1 - products[after]).sqrt() * eps
    torch.testing.assert_close(
        ddim(data, start, schedule, indices.double() / 999), textbook, rtol=1e-4, atol=1e-4
    )


# --- contracts ---


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_the_denoiser_sees_every_time_but_the_last_and_the_whole_batch(solver: str) -> None:
    schedule = NoiseSchedule.named("cosine")
    grid, seen = GRIDS[solver](schedule, 4), []

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (3,)
        seen.append(float(t[0]))
        return torch.zeros_like(z)

    start = torch.ones(3, 2, 4, 4)
    out = SOLVERS[solver](denoise, start, schedule, grid)
    assert seen == grid[:-1].tolist()
    assert out.shape == start.shape
    assert torch.equal(start, torch.ones(3, 2, 4, 4))


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_samples_do_not_depend_on_their_neighbours(solver: str) -> None:
    schedule = NoiseSchedule.named("cosine")
    data = Mixture(
        schedule,
        torch.tensor([0.6, 0.4]),
        torch.tensor([[-1.0, 0.0], [1.0, 0.5]]),
        torch.tensor([0.3, 0.4]),
    )
    z, grid = (
        torch.randn(5, 2, generator=torch.Generator().manual_seed(0)),
        GRIDS[solver](schedule, 10),
    )
    alone = torch.cat([SOLVERS[solver](data, z[i : i + 1], schedule, grid) for i in range(5)])
    torch.testing.assert_close(
        SOLVERS[solver](data, z, schedule, grid), alone, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize(
    "grid", [[1.0], [], [0.0, 1.0], [1.0, 0.5, 0.5, 0.0], [1.0, float("nan")], [[1.0, 0.0]]]
)
def test_a_grid_falls(solver: str, grid: list) -> None:
    schedule = NoiseSchedule.named("cosine")
    with pytest.raises(ValueError, match="a grid must be at least 2 strictly falling times, got "):
        SOLVERS[solver](
            gaussian_denoiser(schedule, MEAN, STD), torch.ones(1, 1), schedule, torch.tensor(grid)
        )


def test_stochastic_sampling_needs_noise() -> None:
    schedule = NoiseSchedule.named("cosine")
    with pytest.raises(
        ValueError, match="a stochastic solver needs noise, got eta = 0.5 and none"
    ):
        ddim(
            gaussian_denoiser(schedule, MEAN, STD),
            torch.ones(1, 1),
            schedule,
            uniform_grid(schedule, 2),
            eta=0.5,
        )


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_lies_between_zero_and_one(eta: float) -> None:
    schedule = NoiseSchedule.named("cosine")
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\], got "):
        ddim(
            gaussian_denoiser(schedule, MEAN, STD),
            torch.ones(1, 1),
            schedule,
            uniform_grid(schedule, 2),
            eta,
            lambda _: torch.ones(1, 1),
        )


@pytest.mark.parametrize(("solver", "start", "left"), [
    ("ddim", 1.0, 8), ("ddim", 0.75, 6), ("ddim", 0.5, 4), ("ddim", 0.51, 5), ("ddim", 1e-6, 1),
    ("dpmpp_2m", 1.0, 8), ("dpmpp_2m", 0.5, 5), ("dpmpp_2m", 0.2, 4),
])  # fmt: skip
def test_a_later_start_has_the_steps_that_are_left(solver: str, start: float, left: int) -> None:
    """Of eight from pure noise; in log-SNR these lie 2.6 apart, from -9 to 12. They are spaced
    anew, as the solver wants it.
    """
    schedule = exact_schedule("cosine")
    grid = RECORDS[solver].grid(schedule, 8, start)
    assert len(grid) == left + 1 and float(grid[0]) == start and float(grid[-1]) == 0
    torch.testing.assert_close(grid, GRIDS[solver](schedule, left, start))
    inner = RECORDS[solver].grid(schedule, 8, start, stop=5.0) if start > 0.2 else None
    if inner is not None:
        assert float(schedule.log_snr(inner[-1])) == pytest.approx(5.0, abs=1e-3)
