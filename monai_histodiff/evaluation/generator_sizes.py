"""How good a generator's samples are at other sizes than the one that it was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import five_crops, patch_grid, to_bytes, to_unit
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.evaluation.generator import Described, compared, describe

__all__ = ["evaluate_sizes"]


def evaluate_sizes(
    sampler: GuidedSampler,
    encoder: PatchEncoder,
    train: PatchSet,
    held_out: PatchSet,
    sizes: Sequence[int],
    output_dir: str | os.PathLike[str],
    num_samples: int = 2000,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare samples of several sizes with real patches that the generator never saw.

    Real patches can be smaller than samples. Both are then cropped to what the real ones have: the
    samples in their middle and in their corners by turns, so that borders count. Figures depend
    on the size of the crops: compare each with the floor of its size, which training patches
    reach. A grid of samples of each size is written to ``samples-SIZE.png``.

    Args:
        sampler: makes the samples, of seeds 0, 1, ...
        encoder: gives the features.
        train: the generator's training patches, from which the floor's are drawn by the weights of
            its training.
        held_out: patches of other groups.
        sizes: heights and widths of the samples.
        output_dir: receives the grids.
        num_samples: samples of each size, and patches of the floor, at most as many as there are;
            as many samples are compared.
        batch_size: patches at once.
        seed: draws the floor's patches.

    Returns:
        By size, as text: ``samples`` and ``floor``, each as of
        :func:`~monai_histodiff.evaluation.generator.compared`, and ``crop``, the size that was
        compared.

    Raises:
        ValueError: there are too few samples or patches for the figures.
    """
    target, found = Path(output_dir), {}
    target.mkdir(parents=True, exist_ok=True)
    rng = torch.Generator().manual_seed(seed)
    count = min(num_samples, len(train))
    rows = torch.multinomial(train.weights(0.5), count, generator=rng).tolist()
    floor = [train[i : i + 1] for i in rows]
    have = min(min(size) for part in (train, held_out) for size in part.sizes())
    for size in sizes:
        crop = min(size, have)
        sized = sampler.replace(size=size)
        starts = tqdm(range(0, num_samples, batch_size), desc=f"samples of {size}")
        parts = [sized(None, range(i, min(i + batch_size, num_samples))) for i in starts]
        made = to_bytes(torch.cat(parts)).cpu()
        Image.fromarray(patch_grid(to_unit(made[:16]), 4)).save(target / f"samples-{size}.png")
        real = _described(encoder, held_out.images(crop), batch_size)
        known = torch.cat([patch.images(crop) for patch in floor])
        found[str(size)] = {
            "samples": compared(
                real, _described(encoder, _windows(made[:count], crop), batch_size)
            ),
            "floor": compared(real, _described(encoder, known, batch_size)),
            "crop": crop,
        }
    return found


def _windows(images: Tensor, size: int) -> Tensor:
    """One crop of each image: of the middle, and of the four corners, by turns."""
    crops = five_crops(images, size)
    rows = torch.arange(len(images))
    return crops[rows % len(crops), rows]


def _described(encoder: PatchEncoder, images: Tensor, batch_size: int) -> Described:
    def batches() -> Iterator[Tensor]:
        yield from map(to_unit, images.split(batch_size))

    return describe(encoder, batches())
