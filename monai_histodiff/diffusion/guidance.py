r"""Guidance: a denoiser around a denoiser.

Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233) samples from :math:`p(z) p(y | z)^s`
by

.. math:: \hat\epsilon = \epsilon - s\, \sigma_t \nabla_{z_t} \log p(y | z_t, t)
   \quad\Longleftrightarrow\quad \hat z_0 = z_0 + s\, \frac{\sigma_t^2}{\alpha_t} \nabla_{z_t} \log
   p(y | z_t, t).

The three modes differ only in the log-probability: at the noisy latent (``noisy``), at the
predicted clean latent (``x0``), or by a classifier that never saw noise (``clean``, as in
HistoDiffusion, arXiv:2308.04020).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.settings import check_guidance
from monai_histodiff.diffusion.solvers import Denoiser

__all__ = ["Watched", "class_log_prob", "condition_guide", "guide", "in_interval"]

LogProb = Callable[[Tensor, Tensor], Tensor]


def class_log_prob(
    classifier: nn.Module,
    labels: Tensor,
    mode: str = "noisy",
    denoise: Denoiser | None = None,
    temperature: float = 1.0,
) -> LogProb:
    """The log-probability ``(z_t, t) -> log p(y | z_t, t)``, shape ``N``, of each sample's own
    label.

    Args:
        classifier: ``(z_t, t) -> logits``.
        labels: class indices, shape ``N``.
        mode: ``"noisy"``, ``"x0"`` (needs ``denoise``; the gradient passes through it) or
            ``"clean"``.
        denoise: the unguided denoiser, for ``"x0"``.
        temperature: divides the logits.

    Raises:
        ValueError: the mode is unknown, ``"x0"`` has no denoiser, or the temperature is not
            positive and finite.
    """
    check_guidance(temperature=temperature, mode=mode)
    if mode == "x0" and denoise is None:
        raise ValueError("mode 'x0' needs the unguided denoiser, got none")

    def log_prob(z: Tensor, t: Tensor) -> Tensor:
        if mode == "x0" and denoise is not None:
            z = denoise(z, t)
        t = t.to(z.device, non_blocking=True)
        logits = classifier(z, t if mode == "noisy" else torch.zeros_like(t)).float() / temperature
        return torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]

    return log_prob


def condition_guide(
    denoise: Denoiser,
    plain: Denoiser,
    scale: float,
    schedule: NoiseSchedule,
    interval: tuple[float, float] = (-math.inf, math.inf),
) -> Denoiser:
    r"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) between one network with
    its condition, exemplars or classes, and without.

    .. math:: \hat z_0 = z_0^{plain} + w\, (z_0^{condition} - z_0^{plain})

    Args:
        denoise: the denoiser with the condition.
        plain: the same without.
        scale: :math:`w`; 1 takes the condition at its word, at the cost of one evaluation, and
            more exaggerates what distinguishes it.
        schedule: gives the log-SNR.
        interval: log-SNR range, both ends included, outside which the scale is 1.

    Raises:
        ValueError: the scale is negative or not finite, or the interval is empty.
    """
    check_guidance(interval=interval, exemplar_scale=scale)
    if scale == 1:
        return denoise

    def extrapolated(z: Tensor, t: Tensor) -> Tensor:
        z0, active = denoise(z, t), in_interval(schedule, t, interval)
        if not bool(active.any()):
            return z0
        inside = active.to(z.device, non_blocking=True).view(-1, *[1] * (z.ndim - 1))
        return z0 + inside * (scale - 1) * (z0 - plain(z, t))

    return extrapolated


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
        cap: the largest change of each sample's predicted noise, as a fraction of that noise's
            norm.

    Returns:
        The guided denoiser. The gradient is taken in float32, also under autocast. Where schedule
        and times are on the CPU and the latents are not, as in
        :class:`~monai_histodiff.GuidedSampler`, no step waits for the device.

    Raises:
        ValueError: a setting is out of range, see :func:`check_guidance`.
    """
    check_guidance(scale, interval, cap)
    if scale == 0:
        return denoise

    def guided(z: Tensor, t: Tensor) -> Tensor:
        z0, active = denoise(z, t), in_interval(schedule, t, interval)
        if not bool(active.any()):
            return z0
        with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            leaf = z.detach().float().requires_grad_()
            gradient = torch.autograd.grad(log_prob(leaf, t).sum(), leaf)[0]
        shape = (-1, *[1] * (z.ndim - 1))
        alpha, sigma, inside = (
            v.to(z.device, non_blocking=True).view(shape)
            for v in (*schedule.alpha_sigma(t), active)
        )
        change = scale * sigma * gradient
        if math.isfinite(cap):
            eps = (z - alpha * z0) / sigma
            change = change * (cap * _norm(eps) / _norm(change).clamp(min=1e-12)).clamp(max=1)
        return z0 + inside * (sigma / alpha) * change

    return guided


def in_interval(schedule: NoiseSchedule, t: Tensor, interval: tuple[float, float]) -> Tensor:
    """Whether the log-SNR at times ``t`` lies in an interval, both ends included: bool, of the
    shape of ``t``.
    """
    ratio = schedule.log_snr(t)
    return (ratio >= interval[0]) & (ratio <= interval[1])


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))


class Watched:
    """A denoiser that notes for each step which samples are finite, without waiting for the device
    to tell.
    """

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise
        self.times: list[Tensor] = []
        self.finite: list[Tensor] = []

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        z0 = self.denoise(z, t)
        self.times.append(t[0])
        self.finite.append(torch.isfinite(z0.flatten(1).sum(1)))
        return z0

    def check(self, labels: Tensor | None) -> None:
        """Refuse a trajectory of samples of the classes ``labels`` (shape ``N``, or ``None``) in
        which a value was not finite.

        Raises:
            FloatingPointError: it names the first such step, its time and the class.
        """
        wrong = ~torch.stack(self.finite).cpu()
        if bool(wrong.any()):
            step, row = wrong.nonzero()[0].tolist()
            where = f"step {step + 1} of {len(wrong)}, t = {float(self.times[step]):.4f}"
            what = "unconditional" if labels is None else f"class {int(labels[row])}"
            raise FloatingPointError(
                f"the denoised latent must be finite, got a value that is not at {where}, {what}"
            )
