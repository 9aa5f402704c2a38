"""Training the patch encoder without labels: views of one patch are drawn together (Khosla et al.
2020, arXiv:2004.11362, with each patch a class), and a discriminant of patches ends it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_histodiff.classifiers.discriminant import SCATTER, Scatter, view_scatter
from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.classifiers.views import PatchViews
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.training.checkpoints import EMAHandler, WeightsSaver
from monai_histodiff.utils.global_state import float32_default

__all__ = [
    "EncoderSaver",
    "ViewContrast",
    "ViewProjection",
    "ViewsPrepareBatch",
    "fit_discriminant",
]


class ViewProjection(nn.Module):
    """The encoder and, in training alone, a network between it and the loss: what the loss makes
    invariant is lost there, not before.

    The second part computes in float32 even under autocast.

    Args:
        encoder: gives ``summary``, ``N x 2C``.
        hidden: width of the second part's two hidden layers.
        out: ``D``.
    """

    @float32_default()
    def __init__(self, encoder: PatchEncoder, hidden: int = 512, out: int = 128) -> None:
        super().__init__()
        self.encoder = encoder
        layers: list[nn.Module] = [nn.BatchNorm1d(encoder.num_summary, affine=False)]
        for width in (encoder.num_summary, hidden):
            layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(hidden, out))

    def forward(self, x: Tensor) -> Tensor:
        """Projections ``N x D`` of patches in [0, 1]."""
        summary = self.encoder.summary(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(summary)


class ViewsPrepareBatch:
    """``prepare_batch`` that makes several views of each patch, and the number of its patch the
    target of each view.

    Args:
        views: draws a view of each patch.
        count: views of each patch.

    Raises:
        ValueError: there is one view or none.
    """

    def __init__(self, views: PatchViews, count: int = 4) -> None:
        if count < 2:
            raise ValueError(f"a patch must have at least 2 views, got count {count}")
        self.views, self.count = views, count

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: Any = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        image = torch.as_tensor(batchdata[CommonKeys.IMAGE])
        image = to_unit(image.to(device=device, non_blocking=non_blocking))
        views = torch.cat([self.views(image) for _ in range(self.count)])
        return views, torch.arange(len(image), device=image.device).repeat(self.count)


class ViewContrast(nn.Module):
    """Cross-entropy of finding the other views of a patch among all other views of the batch, by
    cosine similarity (the supervised contrastive loss, Khosla et al. 2020, eq. 2).

    With two views of each patch it is SimCLR's, MONAI's ``ContrastiveLoss``.

    Args:
        temperature: the similarities are divided by it.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of projections ``N x D`` of views of the patches ``target``, shape ``N``.

        Raises:
            ValueError: a patch has one view.
        """
        own = torch.eye(len(target), dtype=torch.bool, device=target.device)
        same = (target[:, None] == target) & ~own
        if not bool(same.any(1).all()):
            raise ValueError("each patch must have at least 2 views, got one with 1")
        z = F.normalize(output.float(), dim=1)
        scores = (z @ z.T / self.temperature).masked_fill(own, -torch.inf).log_softmax(1)
        return -(scores.masked_fill(~same, 0).sum(1) / same.sum(1)).mean()


def fit_discriminant(
    encoder: PatchEncoder, batches: Iterable[Mapping[str, Any]], views: PatchViews
) -> Scatter:
    """Set the last layer of an encoder to the discriminant of its statistics.

    Args:
        encoder: the encoder; it computes in evaluation mode.
        batches: batches with ``"image"``, patches of one size; at least as many patches as the
            encoder has statistics are advisable.
        views: draws two views of each patch.

    Returns:
        What it was made from.
    """
    images = (torch.as_tensor(batch[CommonKeys.IMAGE]) for batch in batches)
    found = view_scatter(encoder, images, views)
    layer = found.discriminant(encoder.num_features)
    encoder.discriminant.load_state_dict(layer.state_dict())
    return found


class EncoderSaver(WeightsSaver):
    """Ignite handler that writes the averaged encoder with its discriminant, and beside it
    ``scatter.pt``, from which :func:`adapted_encoder` fits another, every few epochs and at the
    end; in one process of a distributed training. The encoder in training stays as it is.

    Args:
        encoder: the encoder in training, the network of ``ema``.
        ema: its averaged weights.
        batches: for :func:`fit_discriminant`.
        views: for :func:`fit_discriminant`.
        save_dir: the folder.
        filename: of the file in it.
        interval: epochs between files.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        ema: EMAHandler,
        batches: Iterable[Mapping[str, Any]],
        views: PatchViews,
        save_dir: str | os.PathLike[str],
        filename: str = "encoder.pt",
        interval: int = 20,
    ) -> None:
        super().__init__(encoder, save_dir, filename, interval, ema)
        self.encoder, self.batches, self.views = encoder, batches, views

    def save(self) -> None:
        """Fit the discriminant, and write the encoder and what it was fitted from."""
        scatter = fit_discriminant(self.encoder, self.batches, self.views)
        super().save()
        scatter.save(self.path.with_name(SCATTER))
