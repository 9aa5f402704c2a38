from __future__ import annotations

import math

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor

from monai_histodiff.diffusion.schedules import (
    TABLE_SIZE,
    NoiseSchedule,
    log_snr_grid,
    uniform_grid,
)

HIGH, LOW = 12.0, -9.0
LINEAR_BETAS = torch.linspace(1e-4, 2e-2, 1000)


def cosine(t: Tensor) -> Tensor:
    return -2 * torch.log(torch.tan(math.pi * t / 2))


def flow(t: Tensor) -> Tensor:
    return 2 * torch.log((1 - t) / t)


CLOSED_FORMS = {
    "cosine": (cosine, lambda v: 2 / math.pi * math.atan(math.exp(-v / 2))),
    "flow": (flow, lambda v: 1 / (1 + math.exp(v / 2))),
}
SCHEDULES = {
    "cosine": lambda: NoiseSchedule.named("cosine"),
    "flow": lambda: NoiseSchedule.named("flow"),
    "betas": lambda: NoiseSchedule.from_betas(LINEAR_BETAS),
}


@pytest.fixture(params=sorted(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return SCHEDULES[request.param]()


def cut(name: str, t: Tensor, high: float = HIGH, low: float = LOW) -> Tensor:
    """The closed form, with time rescaled so that t = 0 and t = 1 have the log-SNR of the two
    cuts.
    """
    formula, inverse = CLOSED_FORMS[name]
    return formula(inverse(high) + (inverse(low) - inverse(high)) * t)


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_named_schedule_is_the_closed_form_at_the_table_s_own_times(name: str) -> None:
    t = torch.linspace(0, 1, TABLE_SIZE, dtype=torch.float64)
    torch.testing.assert_close(
        NoiseSchedule.named(name).log_snr(t), cut(name, t), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_interpolation_between_the_table_s_times_is_accurate(name: str) -> None:
    t = torch.linspace(0, 1, 20011, dtype=torch.float64)
    error = (NoiseSchedule.named(name).log_snr(t) - cut(name, t)).abs()
    assert error[(t > 0.02) & (t < 0.98)].max() < 1e-3
    assert error.max() < 0.1  # next to the cuts, where the closed form bends hardest
    assert error.median() < 1e-5


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_cuts_are_the_log_snr_at_both_ends(name: str) -> None:
    ends = NoiseSchedule.named(name, log_snr_max=7.0, log_snr_min=-5.0).log_snr(
        torch.tensor([0.0, 1.0])
    )
    torch.testing.assert_close(ends, torch.tensor([7.0, -5.0]), rtol=0, atol=1e-5)


def test_cosine_amplitudes_are_cosine_and_sine() -> None:
    t = torch.linspace(0.05, 0.95, 91)
    low, high = (CLOSED_FORMS["cosine"][1](v) for v in (HIGH, LOW))
    alpha, sigma = NoiseSchedule.named("cosine").alpha_sigma(t)
    angle = math.pi / 2 * (low + (high - low) * t)
    torch.testing.assert_close(alpha, torch.cos(angle), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sigma, torch.sin(angle), rtol=1e-4, atol=1e-4)


def test_flow_amplitudes_are_straight_lines() -> None:
    t = torch.linspace(0.05, 0.95, 91)
    low, high = (CLOSED_FORMS["flow"][1](v) for v in (HIGH, LOW))
    alpha, sigma = NoiseSchedule.named("flow").alpha_sigma(t)
    line = low + (high - low) * t
    torch.testing.assert_close(alpha, 1 - line, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sigma, line, rtol=1e-4, atol=1e-4)


def test_normalisation_and_ratio_of_the_amplitudes(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 3001)
    alpha, sigma = schedule.alpha_sigma(t)
    total = alpha + sigma if bool(schedule.is_flow) else alpha**2 + sigma**2
    torch.testing.assert_close(total, torch.ones_like(t), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        2 * torch.log(alpha / sigma), schedule.log_snr(t), rtol=1e-5, atol=1e-5
    )
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_start_std_is_that_of_the_noisiest_latents(name: str) -> None:
    """alpha_1^2 + sigma_1^2 at log-SNR -3: 1 if variance preserving; alpha = 1 / (1 + e^1.5) and
    sigma = 1 - alpha if flow.
    """
    schedule = NoiseSchedule.named(name, log_snr_min=-3.0)
    alpha = 1 / (1 + math.exp(1.5))
    expected = {"cosine": 1.0, "flow": math.sqrt(alpha**2 + (1 - alpha) ** 2)}[name]
    assert float(schedule.start_std) == pytest.approx(expected, rel=1e-5)
    z1, noise = (
        schedule.alpha_sigma(torch.ones(1)),
        torch.randn(2, 200000, generator=torch.Generator().manual_seed(0)),
    )
    assert float((z1[0] * noise[0] + z1[1] * noise[1]).std()) == pytest.approx(
        float(schedule.start_std), rel=0.01
    )


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (4, 1, 1, 1)])
def test_amplitudes_have_the_shape_of_the_times(
    schedule: NoiseSchedule, shape: tuple[int, ...]
) -> None:
    t = torch.full(shape, 0.37)
    assert schedule.log_snr(t).shape == shape
    assert [v.shape for v in schedule.alpha_sigma(t)] == [shape, shape]


def test_times_beyond_the_range_are_cut(schedule: NoiseSchedule) -> None:
    beyond, ends = torch.tensor([-0.5, 1.5]), torch.tensor([0.0, 1.0])
    assert torch.equal(schedule.log_snr(beyond), schedule.log_snr(ends))
    assert torch.equal(schedule.log_snr(ends), schedule.log_snr_table[[0, -1]])


def test_time_inverts_log_snr(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 1777)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-5)


def test_log_snr_inverts_time(schedule: NoiseSchedule) -> None:
    high, low = schedule.log_snr_table[[0, -1]].tolist()
    ratio = torch.linspace(low, high, 1777).view(1777, 1)
    torch.testing.assert_close(schedule.log_snr(schedule.time(ratio)), ratio, rtol=0, atol=1e-3)


def test_ratios_beyond_the_table_have_the_end_times(schedule: NoiseSchedule) -> None:
    assert schedule.time(torch.tensor([-50.0, 50.0])).tolist() == [1.0, 0.0]


def test_two_entries_are_enough() -> None:
    schedule = NoiseSchedule(torch.tensor([4.0, -4.0]))
    torch.testing.assert_close(
        schedule.log_snr(torch.tensor([0.0, 0.25, 1.0])), torch.tensor([4.0, 2.0, -4.0])
    )
    torch.testing.assert_close(
        schedule.time(torch.tensor([4.0, 2.0, -4.0])), torch.tensor([0.0, 0.25, 1.0])
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("linear_beta", {}),
        ("scaled_linear_beta", {"beta_start": 0.0015, "beta_end": 0.0195}),
        ("cosine", {}),
    ],
)
def test_from_betas_reproduces_monai_s_scheduler(name: str, arguments: dict[str, float]) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule=name, **arguments)
    schedule = NoiseSchedule.from_betas(scheduler.betas)
    alpha, sigma = schedule.alpha_sigma(torch.arange(1000) / 999)
    exact = torch.cumprod(1 - scheduler.betas.double(), 0)
    torch.testing.assert_close(alpha.double() ** 2, exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sigma.double() ** 2, 1 - exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(alpha**2, scheduler.alphas_cumprod, rtol=1e-3, atol=1e-5)


def test_from_betas_noises_latents_as_monai_does() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    z0, noise = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    steps = torch.tensor([0, 1, 250, 700, 999])
    alpha, sigma = (
        v.view(-1, 1, 1, 1)
        for v in NoiseSchedule.from_betas(scheduler.betas).alpha_sigma(steps / 999)
    )
    torch.testing.assert_close(
        alpha * z0 + sigma * noise, scheduler.add_noise(z0, noise, steps), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 300, 999])
@pytest.mark.parametrize("grid", [uniform_grid, log_snr_grid])
def test_grids_fall_strictly_from_one_to_zero(grid, schedule: NoiseSchedule, steps: int) -> None:
    times = grid(schedule, steps)
    assert times.shape == (steps + 1,)
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("steps", [2, 7, 300])
def test_uniform_grid_is_equally_spaced_in_time(schedule: NoiseSchedule, steps: int) -> None:
    torch.testing.assert_close(
        uniform_grid(schedule, steps), 1 - torch.arange(steps + 1) / steps, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("steps", [2, 7, 20, 300])
def test_log_snr_grid_is_equally_spaced_in_log_snr(schedule: NoiseSchedule, steps: int) -> None:
    ratio = schedule.log_snr(log_snr_grid(schedule, steps))
    high, low = schedule.log_snr_table[[0, -1]].tolist()
    torch.testing.assert_close(ratio, torch.linspace(low, high, steps + 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("grid", [uniform_grid, log_snr_grid])
@pytest.mark.parametrize("steps", [0, -3])
def test_grids_need_a_step(grid, steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        grid(NoiseSchedule.named("cosine"), steps)


@pytest.mark.parametrize("stop", [-2.0, 3.5])
def test_grids_end_at_the_log_snr_of_the_stop(schedule: NoiseSchedule, stop: float) -> None:
    for grid in (uniform_grid, log_snr_grid):
        times = grid(schedule, 6, 0.95, stop)
        assert (
            times.shape == (7,)
            and float(times[0]) == pytest.approx(0.95)
            and (times.diff() < 0).all()
        )
        assert float(schedule.log_snr(times[-1])) == pytest.approx(stop, abs=2e-3)
    torch.testing.assert_close(
        uniform_grid(schedule, 6, 0.95, stop).diff(2), torch.zeros(5), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        schedule.log_snr(log_snr_grid(schedule, 6, 0.95, stop)).diff(2),
        torch.zeros(5),
        rtol=0,
        atol=1e-2,
    )


@pytest.mark.parametrize("grid", [uniform_grid, log_snr_grid])
@pytest.mark.parametrize("stop", [-1.0, 12.0, 13.0, float("nan"), float("inf"), -float("inf")])
def test_a_stop_lies_beyond_the_start_and_within_the_schedule(grid, stop: float) -> None:
    with pytest.raises(
        ValueError,
        match=f"stop must lie between the log-SNR of the start, 0.0., and 12.00, got {stop}",
    ):
        grid(NoiseSchedule.named("cosine"), 3, 0.4995, stop)


def test_a_checkpoint_carries_the_schedule(schedule: NoiseSchedule) -> None:
    loaded = NoiseSchedule(
        torch.linspace(1, -1, len(schedule.log_snr_table)), flow=not bool(schedule.is_flow)
    )
    loaded.load_state_dict(schedule.state_dict(), strict=True)
    t = torch.linspace(0, 1, 101)
    for ours, theirs in zip(loaded.alpha_sigma(t), schedule.alpha_sigma(t), strict=True):
        assert torch.equal(ours, theirs)


def test_the_table_is_a_copy_without_gradient() -> None:
    table = torch.linspace(3, -3, 5, requires_grad=True)
    schedule = NoiseSchedule(table)
    with torch.no_grad():
        table += 100
    assert not schedule.log_snr_table.requires_grad
    assert schedule.log_snr_table.tolist() == [3.0, 1.5, 0.0, -1.5, -3.0]
    assert not list(schedule.parameters())


@pytest.mark.parametrize("table", [torch.zeros(2, 2), torch.zeros(1), torch.tensor(0.0)])
def test_a_table_is_one_dimensional(table: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"log_snr must be a table of at least 2 values, got shape \("
    ):
        NoiseSchedule(table)


@pytest.mark.parametrize(
    "table",
    [
        torch.tensor([1.0, 1.0]),
        torch.tensor([-1.0, 1.0]),
        torch.tensor([2.0, 3.0, -1.0]),
        torch.tensor([torch.inf, 0.0]),
        torch.tensor([1.0, torch.nan, -1.0]),
        torch.tensor([9.0, 9.0 - 1e-9, -9.0], dtype=torch.float64),  # equal once stored in float32
    ],
)
def test_a_table_is_finite_and_falls(table: Tensor) -> None:
    with pytest.raises(ValueError, match="log_snr must be finite and strictly falling in t"):
        NoiseSchedule(table)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="schedule must be 'cosine' or 'flow', got 'sigmoid'"):
        NoiseSchedule.named("sigmoid")


def test_cuts_must_fall() -> None:
    with pytest.raises(ValueError, match="strictly falling"):
        NoiseSchedule.named("cosine", log_snr_max=-9.0, log_snr_min=12.0)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_betas_lie_between_zero_and_one(bad: float) -> None:
    rule = "betas must be at least 3 numbers between 0 and 1, got 3 from "
    with pytest.raises(ValueError, match=rule):
        NoiseSchedule.from_betas(torch.tensor([0.1, bad, 0.2]))
    if bad != 1:
        with pytest.raises(ValueError, match=rule):
            NoiseSchedule.from_betas(torch.tensor([0.1, 0.2, bad]))
    with pytest.raises(ValueError, match="got 2 from 0.1"):
        NoiseSchedule.from_betas(torch.tensor([0.1, 0.2]))


def test_a_last_beta_of_one_goes_on_from_the_two_before() -> None:
    whole = NoiseSchedule.from_betas(torch.tensor([0.1, 0.2, 0.4, 0.5]))
    ended = NoiseSchedule.from_betas(torch.tensor([0.1, 0.2, 0.4, 1.0]))
    assert torch.equal(ended.log_snr_table[:3], whole.log_snr_table[:3])
    steps = ended.log_snr_table.diff()
    torch.testing.assert_close(steps[2], steps[1])
