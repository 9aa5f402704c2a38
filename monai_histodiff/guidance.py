r"""Guidance: a denoiser around a denoiser.

Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233) samples from :math:`p(z) p(y | z)^s` by

.. math:: \hat\epsilon = \epsilon - s\, \sigma_t \nabla_{z_t} \log p(y | z_t, t)
   \quad\Longleftrightarrow\quad \hat z_0 = z_0 + s\, \frac{\sigma_t^2}{\alpha_t} \nabla_{z_t} \log p(y | z_t, t).

The three modes differ only in the log-probability: at the noisy latent (``noisy``), at the predicted clean latent
(``x0``), or by a classifier that never saw noise (``clean``, as in HistoDiffusion, arXiv:2308.04020).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_histodiff.schedules import NoiseSchedule
from monai_histodiff.solvers import Denoiser

__all__ = ["class_log_prob", "guide"]

LogProb = Callable[[Tensor, Tensor], Tensor]
MODES = ("noisy", "x0", "clean")


def class_log_prob(
    classifier: nn.Module, labels: Tensor, mode: str = "noisy", denoise: Denoiser | None = None, temperature: float = 1.0
) -> LogProb:
    """The log-probability ``(z_t, t) -> log p(y | z_t, t)``, shape ``N``, of each sample's own label.

    Args:
        classifier: ``(z_t, t) -> logits``.
        labels: class indices, shape ``N``.
        mode: ``"noisy"``, ``"x0"`` (needs ``denoise``; the gradient passes through it) or ``"clean"``.
        denoise: the unguided denoiser, for ``"x0"``.
        temperature: divides the logits.

    Raises:
        ValueError: the mode is unknown, ``"x0"`` has no denoiser, or the temperature is not positive.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got '{mode}'")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if mode == "x0" and denoise is None:
        raise ValueError("mode 'x0' needs the unguided denoiser, got none")

    def log_prob(z: Tensor, t: Tensor) -> Tensor:
        if mode == "x0" and denoise is not None:
            z = denoise(z, t)
        logits = classifier(z, t if mode == "noisy" else torch.zeros_like(t)).float() / temperature
        return torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]

    return log_prob


def guide(
    denoise: Denoiser,
    log_prob: LogProb,
    schedule: NoiseSchedule,
    scale: float = 1.0,
    interval: tuple[float, float] = (-math.inf, math.inf),
    cap: float = math.inf,
) -> Denoiser:
    r"""Wrap a denoiser so that it follows the gradient of a log-probability.

    Args:
        denoise: the unguided denoiser.
        log_prob: ``(z_t, t) -> log p``, shape ``N``, differentiable in ``z_t``.
        schedule: gives the amplitudes.
        scale: the exponent :math:`s`; 0 changes nothing.
        interval: log-SNR range, both ends included, outside which the guide is not evaluated
            (Kynkäänniemi et al. 2024, arXiv:2404.07724).
        cap: the largest change of each sample's predicted noise, as a fraction of that noise's norm.

    Returns:
        The guided denoiser. The gradient is taken in float32, also under autocast.

    Raises:
        ValueError: ``scale`` is negative, ``cap`` is not positive, or the interval is empty.
    """
    if scale < 0 or cap <= 0 or interval[0] > interval[1]:
        raise ValueError(f"scale must be >= 0, cap > 0 and interval rising, got {scale}, {cap} and {tuple(interval)}")
    if scale == 0:
        return denoise

    def guided(z: Tensor, t: Tensor) -> Tensor:
        z0 = denoise(z, t)
        ratio = schedule.log_snr(t)
        active = (ratio >= interval[0]) & (ratio <= interval[1])
        if not bool(active.any()):
            return z0
        with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            leaf = z.detach().float().requires_grad_()
            gradient = torch.autograd.grad(log_prob(leaf, t).sum(), leaf)[0]
        alpha, sigma = (v.view(-1, *[1] * (z.ndim - 1)) for v in schedule.alpha_sigma(t))
        change = scale * sigma * gradient
        if math.isfinite(cap):
            eps = (z - alpha * z0) / sigma
            change = change * (cap * _norm(eps) / _norm(change).clamp(min=1e-12)).clamp(max=1)
        return z0 + active.view(-1, *[1] * (z.ndim - 1)) * (sigma / alpha) * change

    return guided


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
