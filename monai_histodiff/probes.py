"""What the patch encoder gives a classifier, features or a start; and the floors: what colour alone achieves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from monai_histodiff.classifiers import PatchClassifier
from monai_histodiff.distances import to_unit
from monai_histodiff.encoders import PatchEncoder
from monai_histodiff.metrics import classification_metrics
from monai_histodiff.networks import LatentDiffusion

__all__ = ["EncoderStart", "bundle_features", "colour_floors"]

Features = Callable[[Tensor], Tensor]


class EncoderStart:
    """Makes classifiers whose backbone starts from the patch encoder of a bundle, and whose last layer is random.

    For :attr:`monai_histodiff.ClassifierTraining.network`, in place of ``PatchClassifier``, which starts from scratch.

    Args:
        ldm_dir: a bundle with ``models/encoder.pt``.

    Raises:
        FileNotFoundError: the bundle has none.
        ValueError: the weights do not fit.
    """

    backbone = "patch encoder"

    def __init__(self, ldm_dir: str | os.PathLike[str]) -> None:
        self.encoder = PatchEncoder.from_bundle(ldm_dir)

    def __call__(self, num_classes: int) -> PatchClassifier:
        network = PatchClassifier(num_classes)
        network.resnet.load_state_dict({**network.resnet.state_dict(), **self.encoder.resnet.state_dict()})
        return network


def bundle_features(ldm_dir: str | os.PathLike[str], device: str | torch.device = "cpu") -> Features:
    """Features of the patch encoder of a bundle, or, where it has none, the pooled latents of its autoencoder.

    Args:
        ldm_dir: a bundle with ``models/encoder.pt``, or else ``models/model.pt``.
        device: where to compute.

    Returns:
        Patches ``N x 3 x H x W``, uint8 or in [0, 1], to float32 features ``N x D`` on the CPU. Pooled latents are the mean and
        the standard deviation of each channel over the patch.

    Raises:
        FileNotFoundError: the bundle has neither.
        ValueError: the weights do not fit.
    """
    if (Path(ldm_dir) / "models" / "encoder.pt").is_file():
        return PatchEncoder.from_bundle(ldm_dir, device).features
    model = LatentDiffusion.from_bundle(ldm_dir, device)

    @torch.no_grad()
    def pooled(patches: Tensor) -> Tensor:
        latents = (model.encode(to_unit(part.to(device))).flatten(2) for part in patches.split(64))
        return torch.cat([torch.cat([z.mean(2), z.std(2)], 1).float().cpu() for z in latents])

    return pooled


def colour_floors(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int, ridge: float = 1e-2
) -> dict[str, dict[str, float]]:
    """What colour alone achieves: ridge regression on the mean colour, and on 16-bin histograms of each channel.

    Args:
        train: uint8 patches ``N x 3 x H x W``.
        train_labels: shape ``N``.
        test: uint8 patches ``M x 3 x H x W``.
        test_labels: shape ``M``.
        num_classes: number of classes.
        ridge: regularisation, as a fraction of ``N``.

    Returns:
        Metrics for ``"mean colour"`` and ``"colour histogram"``.
    """

    def mean(x: Tensor) -> Tensor:
        return x.float().mean((2, 3)) / 255

    def histogram(x: Tensor) -> Tensor:
        bins = (x // 16).long().flatten(2)
        return torch.zeros(*bins.shape[:2], 16).scatter_add_(2, bins, torch.ones(bins.shape)).flatten(1) / bins.shape[2]

    floors = {}
    for name, features in (("mean colour", mean), ("colour histogram", histogram)):
        a, b = (functional.pad(v, (0, 1), value=1.0) for v in _standardised(features(train), features(test)))
        target = functional.one_hot(train_labels, num_classes).double()
        weights = torch.linalg.solve(a.T @ a + ridge * len(a) * torch.eye(a.shape[1]), a.T @ target)
        floors[name] = classification_metrics(torch.softmax(b @ weights * 5, 1).numpy(), test_labels.numpy())
    return floors


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    centre, spread = train.double().mean(0), train.double().std(0, correction=0).clamp(min=1e-6)
    return (train.double() - centre) / spread, (test.double() - centre) / spread
