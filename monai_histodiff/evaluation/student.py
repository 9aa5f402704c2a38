"""Student's t distribution for degrees of freedom that need not be whole. Numpy only."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["t_quantile", "t_tail"]

Array = NDArray[np.float64]
MOST = 20_000.0  # degrees of freedom beyond which t is normal to four digits
lgamma = np.vectorize(math.lgamma, otypes=[float])


def t_tail(t: float | Array, freedom: float | Array) -> Array:
    """``P(T > t)`` for ``t >= 0``: the incomplete beta function by its continued fraction.

    Abramowitz and Stegun, 26.5.8 and 26.7.1.
    """
    t, freedom = np.broadcast_arrays(
        np.asarray(t, float), np.clip(np.asarray(freedom, float), None, MOST)
    )
    x = freedom / (freedom + t * t)
    swap = x > (freedom / 2 + 1) / (freedom / 2 + 2.5)  # there the fraction converges slowly
    a, b = np.where(swap, 0.5, freedom / 2), np.where(swap, freedom / 2, 0.5)
    x = np.where(swap, 1 - x, x)
    value = np.ones_like(x)
    terms = 30 + 2 * math.isqrt(int(freedom.max(initial=1)))  # enough for 12 digits
    for m in range(terms, -1, -1):
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = 1 + odd / value
        if m:
            value = 1 + m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)) / value
    with np.errstate(divide="ignore"):
        power = a * np.log(x) + b * np.log1p(-x)
    share = np.exp(lgamma(a + b) - lgamma(a) - lgamma(b) + power) / a / value
    return np.asarray(np.where(swap, 1 - share, share) / 2)


def t_quantile(upper: float, freedom: float | Array) -> Array:
    """The ``t >= 0`` with ``P(T > t) = upper``, for ``upper`` in (0, 0.5].

    Newton's method from the normal quantile, which is below: as the tail is convex for positive t,
    its steps never overshoot.

    Raises:
        ValueError: ``upper`` is outside (0, 0.5].
    """
    if not 0 < upper <= 0.5:
        raise ValueError(f"the upper tail must lie in (0, 0.5], got {upper}")
    freedom = np.clip(np.asarray(freedom, float), None, MOST)
    scale = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - 0.5 * np.log(freedom * math.pi)
    t = np.full_like(freedom, NormalDist().inv_cdf(1 - upper))
    for _ in range(60):
        density = np.exp(scale - (freedom + 1) / 2 * np.log1p(t * t / freedom))
        step = (t_tail(t, freedom) - upper) / density
        t = t + step
        if np.all(np.abs(step) <= 1e-10 * (1 + t)):
            break
    return t
