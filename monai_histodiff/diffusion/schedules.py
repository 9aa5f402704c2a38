r"""Noise schedules and time grids.

A noisy latent at time :math:`t \in [0, 1]` is :math:`z_t = \alpha_t z_0 + \sigma_t \epsilon`, and
:math:`\lambda_t = \log(\alpha_t^2 / \sigma_t^2)` is its log signal-to-noise ratio, falling in
:math:`t` (Kingma et al. 2021, arXiv:2107.00630). A schedule is a table of :math:`\lambda` at equal
steps of :math:`t`, interpolated linearly, together with its normalisation: variance preserving
(:math:`\alpha^2 + \sigma^2 = 1`) or straight-line flow (:math:`\alpha + \sigma = 1`). A table
holds cosine, flow and any list of betas alike, and it travels inside the checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["NoiseSchedule", "log_snr_grid", "uniform_grid"]

TABLE_SIZE = 1024


class NoiseSchedule(nn.Module):
    """A table of log signal-to-noise ratios.

    Args:
        log_snr: 1-D tensor, strictly falling: the ratio at equally spaced times from ``t = 0`` to
            ``t = 1``.
        flow: ``alpha + sigma = 1`` (rectified flow) instead of ``alpha**2 + sigma**2 = 1``.

    Raises:
        ValueError: the table is not one-dimensional, not finite or not strictly falling.
    """

    log_snr_table: Tensor
    is_flow: Tensor

    def __init__(self, log_snr: Tensor, flow: bool = False) -> None:
        super().__init__()
        if log_snr.ndim != 1 or len(log_snr) < 2:
            raise ValueError(
                f"log_snr must be a table of at least 2 values, got shape {tuple(log_snr.shape)}"
            )
        table = log_snr.detach().to(torch.float32).clone()
        if not bool(torch.isfinite(table).all()) or not bool((table.diff() < 0).all()):
            raise ValueError("log_snr must be finite and strictly falling in t")
        self.register_buffer("log_snr_table", table)
        self.register_buffer("is_flow", torch.tensor(bool(flow), dtype=torch.bool))

    @classmethod
    def named(
        cls, name: str, log_snr_max: float = 12.0, log_snr_min: float = -9.0
    ) -> NoiseSchedule:
        r"""``"cosine"`` (Nichol & Dhariwal 2021, :math:`\lambda = -2 \log\tan(\pi t / 2)`) or
        ``"flow"`` (Liu et al. 2022, :math:`\lambda = 2 \log((1 - t) / t)`), both cut to
        ``[log_snr_min, log_snr_max]`` by rescaling time.
        """
        lam = torch.linspace(0, 1, TABLE_SIZE, dtype=torch.float64)
        if name == "cosine":
            low, high = (
                2 / math.pi * math.atan(math.exp(-v / 2)) for v in (log_snr_max, log_snr_min)
            )
            table = -2 * torch.log(torch.tan(math.pi / 2 * (low + (high - low) * lam)))
        elif name == "flow":
            low, high = (1 / (1 + math.exp(v / 2)) for v in (log_snr_max, log_snr_min))
            t = low + (high - low) * lam
            table = 2 * torch.log((1 - t) / t)
        else:
            raise ValueError(f"schedule must be 'cosine' or 'flow', got '{name}'")
        return cls(table, flow=name == "flow")

    @classmethod
    def from_betas(cls, betas: Tensor) -> NoiseSchedule:
        """The schedule of a discrete DDPM with the given ``betas``: index ``i`` is
        ``t = i / (T - 1)``.

        A last beta of 1 (no signal at all; Lin et al. 2024, arXiv:2305.08891) has a log-SNR of
        minus infinity: in its place the table goes on as from the two before it.

        Raises:
            ValueError: a beta is not between 0 and 1, or there are fewer than three.
        """
        whole = betas.double()
        if len(whole) < 3 or not bool(((whole > 0) & (whole <= 1)).all() & (whole[:-1] < 1).all()):
            raise ValueError(
                "betas must be at least 3 numbers between 0 and 1, got "
                f"{len(whole)} from {whole.min().item()} to {whole.max().item()}"
            )
        table = torch.logit(torch.cumprod(1 - whole, 0))
        if whole[-1] == 1:
            table[-1] = 2 * table[-2] - table[-3]
        return cls(table)

    def log_snr(self, t: Tensor) -> Tensor:
        """Log signal-to-noise ratio at times ``t`` in [0, 1], any shape."""
        last = len(self.log_snr_table) - 1
        place = t.clamp(0, 1) * last
        left = place.floor().clamp(max=last - 1).long()
        low, high = self.log_snr_table[left], self.log_snr_table[left + 1]
        return low + (place - left) * (high - low)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`; values beyond the table are cut to [0, 1]."""
        rising = self.log_snr_table.flip(0).contiguous()
        last = len(rising) - 1
        right = torch.searchsorted(rising, log_snr.contiguous()).clamp(1, last)
        low, high = rising[right - 1], rising[right]
        return (1 - (right - 1 + (log_snr - low) / (high - low)) / last).clamp(0, 1)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise amplitudes at times ``t``, of the shape of ``t``."""
        lam = self.log_snr(t)
        alpha, sigma = (
            torch.where(self.is_flow, torch.sigmoid(v / 2), torch.sigmoid(v).sqrt())
            for v in (lam, -lam)
        )
        return alpha, sigma

    @property
    def start_std(self) -> Tensor:
        r"""Standard deviation of :math:`z_1`, :math:`\sqrt{\alpha_1^2 + \sigma_1^2}`, for data of
        unit variance, such as
        normalised latents: what unit noise must be multiplied by to start from. It is 1 where the
        variance is preserved.
        """
        alpha, sigma = self.alpha_sigma(torch.ones_like(self.log_snr_table[0]))
        return torch.sqrt(alpha**2 + sigma**2)


def _checked(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return steps


def _end(schedule: NoiseSchedule, start: float, stop: float | None) -> float:
    if stop is None:
        return 0.0
    table = schedule.log_snr_table
    end = float(schedule.time(table.new_tensor(float(stop))))
    if not 0 < end < start:
        first = float(schedule.log_snr(table.new_tensor(float(start))))
        raise ValueError(
            f"stop must lie between the log-SNR of the start, {first:.2f}, and "
            f"{float(table[0]):.2f}, got {stop}"
        )
    return end


def uniform_grid(
    schedule: NoiseSchedule, steps: int, start: float = 1.0, stop: float | None = None
) -> Tensor:
    """``steps + 1`` times from ``start`` to 0, or to the time of the log-SNR ``stop``, equally
    spaced. Solver step ``i`` goes from ``grid[i]`` to ``grid[i + 1]``.

    Raises:
        ValueError: ``steps`` is below 1, or ``stop`` does not lie beyond the start and within the
            schedule.
    """
    end, table = _end(schedule, start, stop), schedule.log_snr_table
    return torch.linspace(start, end, _checked(steps) + 1, dtype=table.dtype, device=table.device)


def log_snr_grid(
    schedule: NoiseSchedule, steps: int, start: float = 1.0, stop: float | None = None
) -> Tensor:
    """As :func:`uniform_grid`, but equally spaced in log-SNR (Lu et al. 2022,
    arXiv:2211.01095).
    """
    end, table = _end(schedule, start, stop), schedule.log_snr_table
    first, last = schedule.log_snr(table.new_tensor([start, end]))
    place = torch.linspace(0, 1, _checked(steps) + 1, dtype=table.dtype, device=table.device)
    grid = schedule.time(first + place * (last - first))
    grid[0], grid[-1] = start, end
    return grid
