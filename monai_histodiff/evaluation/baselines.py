"""The baselines that need no network: what colour alone achieves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from monai_histodiff.data.pixels import in_parts
from monai_histodiff.evaluation.metrics import classification_metrics

__all__ = ["colour_floors"]


def colour_floors(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    num_classes: int,
    ridge: float = 1e-2,
) -> dict[str, dict[str, float]]:
    """What colour alone achieves: ridge regression on the mean colour, and on 16-bin histograms of
    each channel.

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
    floors = {}
    for name, colour in (("mean colour", _mean), ("colour histogram", _histogram)):
        a, b = (
            functional.pad(v, (0, 1), value=1.0)
            for v in _standardised(in_parts(colour, train), in_parts(colour, test))
        )
        target = functional.one_hot(train_labels, num_classes).double()
        weights = torch.linalg.solve(
            a.T @ a + ridge * len(a) * torch.eye(a.shape[1], dtype=a.dtype), a.T @ target
        )
        floors[name] = classification_metrics(
            torch.softmax(b @ weights * 5, 1).numpy(), test_labels.numpy()
        )
    return floors


def _mean(x: Tensor) -> Tensor:
    return x.float().mean((2, 3)) / 255


def _histogram(x: Tensor) -> Tensor:
    bins = (x // 16).long().flatten(2)
    return (
        torch.zeros(*bins.shape[:2], 16, dtype=torch.float32)
        .scatter_add_(2, bins, torch.ones(bins.shape, dtype=torch.float32))
        .flatten(1)
        / bins.shape[2]
    )


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    centre, spread = train.double().mean(0), train.double().std(0, correction=0).clamp(min=1e-6)
    return (train.double() - centre) / spread, (test.double() - centre) / spread
