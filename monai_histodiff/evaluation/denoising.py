"""How well a model denoises, beside the best linear denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.evaluation.generator import images_of
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.global_state import kept_random_state
from monai_histodiff.utils.modes import evaluating

__all__ = ["denoising_error"]


@torch.no_grad()
@kept_random_state()  # a loader draws from it
def denoising_error(
    model: LatentDiffusion,
    patches: Dataset,
    log_snr: Sequence[float] = (-4.0, -2.0, 0.0, 2.0, 4.0),
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """How well the model denoises patches, whatever it predicts: its error beside that of the best
    linear denoiser.

    The mean squared error of the estimated ``z0`` at a log signal-to-noise ratio is, up to a known
    factor, what the likelihood bound integrates (Kingma et al. 2021, arXiv:2107.00630, eq. 14), so
    models of the same latents can be compared by it. It is divided by the error of the Wiener
    filter, the best linear denoiser that treats all places alike, given the spectrum of these very
    latents.

    Args:
        model: the model.
        patches: held-out patches, or others; items hold ``"image"``, RGB in [0, 1].
        log_snr: the ratios, within the schedule's.
        batch_size: patches at once.
        seed: of the noise.

    The model is left in the mode that it was in.

    Returns:
        ``log_snr``; ``relative_error`` at each, 1 for a model that does no better than the linear
        denoiser; their ``mean``.

    Raises:
        ValueError: there is no patch or ratio, or a ratio is not within the schedule's.
    """
    check_from(1, patches=len(patches), batch_size=batch_size)  # type: ignore[arg-type]
    table, device = model.schedule.log_snr_table, model.latent_mean.device
    low, high = float(table.min()), float(table.max())
    if not log_snr or not all(low <= value <= high for value in log_snr):
        raise ValueError(
            f"log_snr must be ratios within the schedule's, from {low:g} to {high:g}, got "
            f"{[*log_snr]}"
        )
    with evaluating(model):
        z = torch.cat(
            [
                model.encode(model.padded(batch.to(device))).cpu()
                for batch in images_of(patches, batch_size, "latents")
            ]
        )
    spectrum = torch.fft.fft2(z, norm="ortho").abs().square().mean(0)
    generator, errors = torch.Generator().manual_seed(seed), []
    for value in tqdm(log_snr, desc="denoising error"):
        t = model.schedule.time(torch.tensor([value], dtype=torch.float32, device=device))
        alpha, sigma = (v.cpu() for v in model.schedule.alpha_sigma(t))
        noisy = alpha * z + sigma * torch.randn(z.shape, generator=generator, dtype=torch.float32)
        with evaluating(model):
            own = torch.cat(
                [
                    model.denoise(part.to(device), t.expand(len(part))).float().cpu()
                    for part in noisy.split(batch_size)
                ]
            )
        gain = alpha * spectrum / (alpha**2 * spectrum + sigma**2)
        linear = torch.fft.ifft2(torch.fft.fft2(noisy) * gain).real
        errors.append(float((own - z).square().mean() / (linear - z).square().mean()))
    return {"log_snr": list(log_snr), "relative_error": errors, "mean": sum(errors) / len(errors)}
