"""A generator's samples, and its autoencoder's reconstructions, beside real patches of others."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data import DataLoader
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from monai_histodiff.classifiers.classifier import ClassifierTraining
from monai_histodiff.classifiers.encoder import PatchEncoder, linear_probe
from monai_histodiff.data.pixels import (
    appearance,
    centre_crop,
    patch_grid,
    thumbnails,
    to_bytes,
    to_unit,
)
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.evaluation.feature_metrics import (
    NEIGHBOURS,
    compare_features,
    frechet_distance,
    nearest_distances,
)
from monai_histodiff.evaluation.metrics import classification_metrics
from monai_histodiff.evaluation.two_sample import FEWEST, two_sample_test
from monai_histodiff.selection.copies import FLOOR, PERCENTILE, copy_distances, flag_copies
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.files import write_json
from monai_histodiff.utils.global_state import kept_random_state
from monai_histodiff.utils.modes import evaluating

__all__ = [
    "Described",
    "compared",
    "describe",
    "evaluate_generator",
    "images_of",
    "probe_reconstructions",
    "reconstruct",
    "write_evaluation",
]


class Described(NamedTuple):
    """Of patches, row by row: features, 16 x 16 thumbnails, colour and contrast."""

    features: Tensor
    thumbnails: Tensor
    appearance: Tensor


def describe(encoder: PatchEncoder, batches: Iterable[Tensor]) -> Described:
    """What is told of batches of patches in [0, 1], all on the CPU."""
    parts = [
        (encoder.features(batch), thumbnails(batch).cpu(), appearance(batch).cpu())
        for batch in batches
    ]
    return Described(*(torch.cat(part) for part in zip(*parts, strict=True)))


def compared(real: Described, samples: Described) -> dict[str, float]:
    """The figures of the features, and ``appearance``: Frechet distance of colour and contrast, in
    the real patches' deviations.
    """
    found = compare_features(real.features, samples.features)  # refuses what is too few
    scale = real.appearance.std(0).clamp(min=1 / 255)
    distance = frechet_distance(real.appearance / scale, samples.appearance / scale)
    return {**found, "appearance": distance}


def images_of(
    dataset: Dataset, batch_size: int, name: str, kept: list[Tensor] | None = None
) -> Iterable[Tensor]:
    """Batches of the dataset; as bytes they are put into ``kept``."""
    for batch in tqdm(DataLoader(dataset, batch_size=batch_size), desc=name):
        images = torch.as_tensor(batch["image"])
        if kept is not None:
            kept.append(to_bytes(images))
        yield images


@torch.no_grad()
def reconstruct(model: LatentDiffusion, patches: Tensor) -> Tensor:
    """Patches ``N x 3 x H x W`` in [0, 1], of any size, through the autoencoder, in evaluation
    mode.
    """
    with evaluating(model):
        decoded = model.decode(model.encode(model.padded(patches.to(model.latent_mean.device))))
    return centre_crop(decoded, (patches.shape[2], patches.shape[3]))


def _rebuilt(model: LatentDiffusion, batch: Tensor) -> Tensor:
    """In 8 bits, as the real patches are."""
    return to_unit(to_bytes(reconstruct(model, batch)).cpu())


def _check(
    train: Dataset, held_out: Dataset, weights: Tensor, num_samples: int, batch_size: int
) -> None:
    """Refuse at once what the figures would refuse when all samples are made."""
    check_from(FEWEST, num_samples=num_samples)
    check_from(1, batch_size=batch_size)
    count, unseen = len(train), len(held_out)  # type: ignore[arg-type]
    if min(count, unseen) <= NEIGHBOURS:
        raise ValueError(
            f"train and held_out must hold more than {NEIGHBOURS} patches each, got {count} and "
            f"{unseen}: the figures need neighbours"
        )
    shapes = [tuple(torch.as_tensor(part[0]["image"]).shape) for part in (train, held_out)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"train and held_out must be patches of one size, got {shapes[0]} and {shapes[1]}: "
            "crop them"
        )
    above = int((weights > 0).sum())
    sound = weights.shape == (count,) and bool((weights.isfinite() & (weights >= 0)).all())
    if not sound or above <= NEIGHBOURS:
        raise ValueError(
            f"weights must be {count} finite numbers, one from 0 on for each training patch, more "
            f"than {NEIGHBOURS} above 0, got shape {tuple(weights.shape)}, {above} above 0"
        )


@kept_random_state()  # a loader draws from it
def evaluate_generator(
    sampler: GuidedSampler,
    encoder: PatchEncoder,
    train: Dataset,
    held_out: Dataset,
    weights: Tensor,
    output_dir: str | os.PathLike[str],
    num_samples: int = 2000,
    batch_size: int = 64,
    training: ClassifierTraining | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare samples of no class with real patches of groups that the generator never saw.

    The same figures are taken of training patches (the floor, which a perfect generator would
    reach), and of their reconstructions, which is what the autoencoder alone costs; all three of
    as many patches, on whose number figures depend.
    Copies are looked for in the features and in thumbnails (see
    :func:`~monai_histodiff.selection.copies.copy_distances`): samples nearer to the training set
    than nearly all held-out patches are. Writes ``samples.png``, a grid of 64.

    Args:
        sampler: makes the samples, of seeds 0, 1, ...; after exemplars where it has sources.
        encoder: gives the features.
        train: the generator's training patches; items hold ``"image"``, RGB in [0, 1].
        held_out: patches of other groups, likewise.
        weights: of each training patch in the generator's training, by which the floor's patches
            are drawn.
        output_dir: receives the grid.
        num_samples: number of samples, and of patches of the floor, at most as many as there are
            training patches.
        batch_size: patches at once.
        training: recipe of the two-sample test.
        seed: draws the floor's patches.

    Returns:
        ``two_sample``: of :func:`~monai_histodiff.evaluation.two_sample.two_sample_test`;
        ``samples``, ``reconstructions`` and ``floor``: each with the figures of
        :func:`~monai_histodiff.evaluation.feature_metrics.compare_features` and ``appearance``,
        the Frechet distance of :func:`~monai_histodiff.data.pixels.appearance` in units of the
        held-out patches' standard deviations; ``copies``: counts among the samples, and among the
        held-out patches, by features and by thumbnails; ``numbers`` of patches.

    Raises:
        ValueError: there are too few samples or patches for the figures, these differ in size, or
            ``weights`` are not one for each training patch, from 0 on; all told before sampling.
    """
    _check(train, held_out, weights, num_samples, batch_size)
    n = min(num_samples, int((weights > 0).sum()))
    drawn = torch.multinomial(weights, n, generator=torch.Generator().manual_seed(seed))
    batches = range(0, num_samples, batch_size)
    generated = torch.cat(
        [
            to_bytes(sampler(None, range(i, min(i + batch_size, num_samples)))).cpu()
            for i in tqdm(batches, desc="sample")
        ]
    )
    samples = describe(encoder, (to_unit(part) for part in generated.split(batch_size)))
    learnt, unseen = list[Tensor](), list[Tensor]()
    real = describe(encoder, images_of(held_out, batch_size, "held-out patches", unseen))
    known = describe(encoder, images_of(train, batch_size, "training patches"))
    floor = Subset(train, drawn.tolist())
    rebuilt = describe(
        encoder,
        (
            _rebuilt(sampler.model, x)
            for x in images_of(floor, batch_size, "reconstructions", learnt)
        ),
    )
    target = Path(output_dir)
    target.mkdir(parents=True, exist_ok=True)
    Image.fromarray(patch_grid(to_unit(generated[:64]))).save(target / "samples.png")
    copies: dict[str, Any] = {"percentile": PERCENTILE}
    measures: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], float]] = {
        "features": (nearest_distances, 0.0),
        "thumbnails": (copy_distances, FLOOR),
    }
    for name, (nearest, least) in measures.items():
        references = getattr(known, name)
        near, usual = (nearest(getattr(v, name), references)[0] for v in (samples, real))
        copies[name] = {
            "samples": int(flag_copies(near, usual, least).sum()),
            "held_out": int(flag_copies(usual, usual, least).sum()),
        }
    return {
        "two_sample": two_sample_test(
            generated, torch.cat(learnt), torch.cat(unseen), training, seed
        ),
        "samples": compared(real, Described(*(part[:n] for part in samples))),
        "reconstructions": compared(real, rebuilt),
        "floor": compared(real, Described(*(part[drawn] for part in known))),
        "copies": copies,
        "numbers": {
            "samples": num_samples,
            "floor": n,
            "held_out": len(real.features),
            "train": len(known.features),
        },
    }


@kept_random_state()
def probe_reconstructions(
    model: LatentDiffusion,
    encoder: PatchEncoder,
    train: Dataset,
    test: Dataset,
    batch_size: int = 64,
) -> dict[str, float]:
    """What a classifier of real patches loses on reconstructions: a linear probe on the encoder's
    features.

    Args:
        model: its autoencoder reconstructs.
        encoder: gives the features.
        train: real labelled patches; items hold ``"image"``, RGB in [0, 1], and ``"label"``.
        test: patches of other groups, likewise.
        batch_size: patches at once.

    Returns:
        ``accuracy`` and ``balanced_accuracy`` on the real test patches, the same with
        ``_reconstructed``, and the difference of each with ``_lost``.
    """

    def read(dataset: Dataset, rebuild: bool) -> tuple[Tensor, Tensor]:
        parts = []
        for batch in tqdm(
            DataLoader(dataset, batch_size=batch_size),
            desc="reconstructions" if rebuild else "labelled patches",
        ):
            image = torch.as_tensor(batch["image"])
            parts.append(
                (
                    encoder.features(_rebuilt(model, image) if rebuild else image),
                    torch.as_tensor(batch["label"]),
                )
            )
        features, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return features, labels

    probe = linear_probe(*read(train, False))
    results = {}
    for suffix in ("", "_reconstructed"):
        features, labels = read(test, bool(suffix))
        found = classification_metrics(probe(features).softmax(1).double().numpy(), labels.numpy())
        results.update({name + suffix: found[name] for name in ("accuracy", "balanced_accuracy")})
    lost = {
        f"{name}_lost": results[name] - results[f"{name}_reconstructed"]
        for name in ("accuracy", "balanced_accuracy")
    }
    return {**results, **lost}


def write_evaluation(output_dir: str | os.PathLike[str], **parts: Any) -> Path:
    """Write the parts as ``evaluation.json``, and log them.

    Args:
        output_dir: the folder, made if missing.
        parts: what JSON can hold, and 0-dimensional tensors, by name.
    """
    text = json.dumps(parts, indent=2, default=float)
    logging.getLogger(__name__).info(text)
    return write_json(Path(output_dir) / "evaluation.json", json.loads(text))
