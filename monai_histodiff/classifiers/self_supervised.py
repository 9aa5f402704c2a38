"""Training the patch encoder without labels: views of one patch are drawn together (Khosla et al.
2020, arXiv:2004.11362, with each patch a class), and a discriminant of patches ends it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.data.stain import shift_stains
from monai_histodiff.training.checkpoints import EMAHandler
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.weights import save_weights

__all__ = [
    "EncoderSaver",
    "PatchViews",
    "ViewContrast",
    "ViewProjection",
    "ViewsPrepareBatch",
    "discriminant",
    "fit_discriminant",
]

QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float32)
FLIP = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], dtype=torch.float32)
DIHEDRAL = torch.stack(
    [
        flip @ torch.linalg.matrix_power(QUARTER_TURN, k)
        for flip in (torch.eye(2, dtype=torch.float32), FLIP)
        for k in range(4)
    ]
)


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


class PatchViews:
    """Random views of a batch of patches: crop, zoom, flip, right-angle turn and stain jitter,
    each patch its own.

    Randomness is torch's global generator, on the device of the patches.

    Args:
        size: height and width of a view, in pixels.
        zoom: smallest and largest magnification relative to the patch; drawn log-uniformly.
        gain: half-width of the factor of each stain, see :class:`~monai_histodiff.RandHEJitter`.
        offset: half-width of the offset of each stain, in optical density.
    """

    def __init__(
        self,
        size: int = 64,
        zoom: tuple[float, float] = (0.75, 1.5),
        gain: float = 0.3,
        offset: float = 0.1,
    ) -> None:
        if not 0 < zoom[0] <= zoom[1]:
            raise ValueError(f"zoom must be a range above 0, got {tuple(zoom)}")
        self.size, self.zoom, self.gain, self.offset = size, zoom, gain, offset

    def __call__(self, patches: Tensor) -> Tensor:
        """Views ``N x 3 x size x size`` in [0, 1] of patches ``N x 3 x H x H`` in [0, 1].

        Raises:
            ValueError: a view at the smallest zoom would reach beyond the patch.
        """
        n, side, device = len(patches), min(patches.shape[2:]), patches.device
        low, high = self.zoom
        if self.size > side * low:
            raise ValueError(
                f"patches must be at least {self.size / low:.0f} x {self.size / low:.0f} "
                f"for these views, got {side}"
            )
        draw = partial(torch.rand, dtype=torch.float32, device=device)
        extent = self.size / side / (low * (high / low) ** draw(n, 1, 1))  # as a part of the patch
        turn = DIHEDRAL.to(device)[torch.randint(len(DIHEDRAL), (n,), device=device)]
        shift = (2 * draw(n, 2, 1) - 1) * (1 - extent)
        grid = F.affine_grid(
            torch.cat([extent * turn, shift], 2), [n, 3, self.size, self.size], align_corners=False
        )
        views = F.grid_sample(
            patches, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        gain, offset = (2 * draw(2, n, 3) - 1).unbind()
        return torch.vmap(shift_stains)(views, 1 + self.gain * gain, self.offset * offset)


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


def discriminant(first: Tensor, second: Tensor, features: int, ridge: float = 0.01) -> nn.Linear:
    """Fisher's linear discriminant with each patch a class, from two views of each patch.

    With the statistics standardised (by 0.001 where they spread less), ``W`` the covariance
    between views of one patch plus ``ridge`` times the identity, and ``B`` the covariance of the
    patches' means, its directions solve ``B t = lambda W t``, ``t' W t = 1``; those with the
    largest ``lambda`` come first.

    Args:
        first: statistics ``N x R`` of a view of each patch.
        second: the same of another view.
        features: the number of directions, at most ``R``.
        ridge: keeps directions out in which the patches hardly differ.

    Returns:
        The layer from statistics to ``features`` values of mean 0 over these views.

    Raises:
        ValueError: ``features`` is larger than ``R`` or below 1, ``ridge`` is not above 0, or
            there are fewer than two patches.
    """
    n, r = first.shape
    if not 1 <= features <= r:
        raise ValueError(f"features must lie between 1 and the {r} statistics, got {features}")
    if ridge <= 0 or n < 2:
        raise ValueError(f"ridge must be above 0 and patches at least 2, got {ridge} and {n}")
    both = torch.stack([first, second]).double()
    mean = both.mean((0, 1))
    spread = both.flatten(0, 1).std(0, correction=0).clamp(min=1e-3)
    a, b = ((both - mean) / spread).unbind()
    within = (a - b).T @ (a - b) / (2 * n) + ridge * torch.eye(r, dtype=a.dtype, device=a.device)
    centre = (a + b) / 2
    root = torch.linalg.inv(torch.linalg.cholesky(within))
    directions = torch.linalg.eigh(root @ (centre.T @ centre / n) @ root.T).eigenvectors
    weight = directions.flip(1)[:, :features].T @ root / spread
    layer = nn.Linear(r, features, dtype=torch.float32, device=first.device).requires_grad_(False)
    layer.weight.copy_(weight)
    layer.bias.copy_(-weight @ mean)
    return layer


@torch.no_grad()
def fit_discriminant(
    encoder: PatchEncoder,
    batches: Iterable[Mapping[str, Any]],
    views: PatchViews,
    ridge: float = 0.01,
) -> None:
    """Set the last layer of an encoder to the :func:`discriminant` of its statistics.

    Args:
        encoder: the encoder; it computes in evaluation mode.
        batches: batches with ``"image"``, patches of one size; at least as many patches as the
            encoder has statistics are advisable.
        views: draws two views of each patch.
        ridge: of the discriminant.
    """
    training, device = encoder.training, encoder.discriminant.weight.device
    encoder.eval()
    pairs = []
    for batch in batches:
        image = to_unit(torch.as_tensor(batch[CommonKeys.IMAGE]).to(device))
        pairs.append(torch.stack([encoder.statistics(views(image)) for _ in range(2)]))
    first, second = torch.cat(pairs, 1)
    layer = discriminant(first, second, encoder.num_features, ridge)
    encoder.discriminant.load_state_dict(layer.state_dict())
    encoder.train(training)


class EncoderSaver:
    """Ignite handler that writes the averaged encoder with its discriminant, every few epochs and
    at the end; in one process of a distributed training. The encoder in training stays as it is.

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
        self.encoder, self.ema, self.batches, self.views = encoder, ema, batches, views
        self.path, self.interval = Path(save_dir) / filename, interval

    def attach(self, engine: Engine) -> None:
        """Save at the end of every ``interval``-th epoch and at completion."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        with self.ema.applied():
            fit_discriminant(self.encoder, self.batches, self.views)
            save_weights(self.path, self.encoder.state_dict())
