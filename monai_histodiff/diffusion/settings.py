"""The settings of a sampler and the rules that they obey."""

from __future__ import annotations

import math

__all__ = ["check_guidance"]

MODES = ("noisy", "x0", "clean")
SOLVERS = ("dpmpp_2m", "ddim")


def check_guidance(
    scale: float = 1.0,
    interval: tuple[float, float] = (-math.inf, math.inf),
    cap: float = math.inf,
    temperature: float = 1.0,
    mode: str = "noisy",
    autoguidance: float = 1.0,
) -> None:
    """Check the settings of :func:`guide`, :func:`class_log_prob` and :func:`autoguide`.

    Raises:
        ValueError: the scale is negative or not finite, the cap is not positive, the interval is
            empty, the temperature is not positive and finite, the mode is unknown, or the weight
            of autoguidance is below 1 or not finite. NaN is never in range.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"guidance scale must be at least 0 and finite, got {scale}")
    if not cap > 0:
        raise ValueError(f"guidance cap must be positive, got {cap}")
    if not interval[0] <= interval[1]:
        raise ValueError(f"guidance interval must rise, got {tuple(interval)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got '{mode}'")
    if not 1 <= autoguidance < math.inf:
        raise ValueError(f"autoguidance weight must be at least 1 and finite, got {autoguidance}")
