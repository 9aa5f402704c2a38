"""Whether samples show what their exemplars show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from PIL import Image

from monai_histodiff.classifiers.classifier import ClassifierTraining, predict
from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import patch_grid, to_bytes, to_unit
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.utils.counts import check_from

__all__ = ["exemplar_fidelity"]

SHOWN, EACH = 16, 4  # exemplars on the picture, and samples beside each


def exemplar_fidelity(
    sampler: GuidedSampler,
    encoder: PatchEncoder,
    train: PatchSet,
    test: PatchSet,
    transform: Compose,
    output_dir: str | os.PathLike[str],
    per_class: int = 50,
    training: ClassifierTraining | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """How often a classifier of real patches gives a sample the class of its exemplar, beside how
    often it gives the exemplar itself its class. Writes ``exemplars.png``: exemplars, each with
    four samples to its right.

    Args:
        sampler: of a model that takes exemplars; no class is given.
        encoder: describes the exemplars.
        train: labelled patches that the classifier is fitted on.
        test: labelled patches of other groups: the exemplars are drawn from them.
        transform: the classifier's, from whole uint8 patches to floating-point ones of the
            sampler's size.
        output_dir: receives the picture.
        per_class: exemplars of each class, at the most.
        training: the classifier's recipe; by default 300 steps.
        seed: draws the exemplars, and is the first of the samples' seeds.

    Returns:
        ``samples`` and ``exemplars``: the share of each that is given its class, the mean over the
        classes; ``per_class``, the same for each; ``number`` of exemplars.

    Raises:
        ValueError: a class has no training or no test patch, a training patch has no label, a test
            patch has another label, ``per_class`` is below 1, or the sampler takes no exemplars.
    """
    check_from(1, per_class=per_class)
    classes, generator = train.classes, torch.Generator().manual_seed(seed)
    test = test.with_classes(classes)
    if bad := len(train) - len(train.with_labels()):
        raise ValueError(f"train must be labelled, got {bad} without: give train.with_labels()")
    rows = []
    for k, name in enumerate(classes):
        own = (test.labels == k).nonzero()[:, 0]
        if not len(own) or not bool((train.labels == k).any()):
            raise ValueError(
                f"each class needs training and test patches, got too few of '{name}'"
            )
        rows.append(own[torch.randperm(len(own), generator=generator)[:per_class]])
    chosen = torch.cat(rows)
    images, labels = test.images(sampler.size)[chosen], test.labels[chosen]
    described = encoder.descriptors(images)
    made = to_bytes(sampler(None, range(seed, seed + len(chosen)), described))
    items = [{"image": train[i]["image"], "label": train[i]["label"]} for i in range(len(train))]
    recipe = training or ClassifierTraining(steps=300)
    network = recipe(items, transform, len(classes), seed, "classifier of exemplars")
    right = {
        name: predict(network, shown).argmax(1) == labels
        for name, shown in (("samples", made), ("exemplars", images))
    }
    found = {
        name: {side: float(hits[labels == k].double().mean()) for side, hits in right.items()}
        for k, name in enumerate(classes)
    }
    _draw(sampler, images, described, Path(output_dir) / "exemplars.png", seed)
    means = {side: sum(shares[side] for shares in found.values()) / len(classes) for side in right}
    return {**means, "per_class": found, "number": len(chosen)}


def _draw(
    sampler: GuidedSampler,
    images: torch.Tensor,
    described: torch.Tensor,
    path: Path,
    seed: int,
) -> None:
    chosen = torch.arange(0, len(images), max(1, len(images) // SHOWN))[:SHOWN]
    columns = [to_unit(images[chosen])]
    for k in range(EACH):
        seeds = [seed + 10_000 * (k + 1) + int(i) for i in chosen]
        columns.append(sampler(None, seeds, described[chosen]))
    grid = patch_grid(torch.stack(columns, 1).flatten(0, 1), columns=2 * (EACH + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).save(path)
