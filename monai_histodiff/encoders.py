"""The patch encoder: features of H&E patches, learned without labels from pairs of views (Chen et al. 2020, arXiv:2002.05709)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets import ResNet
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_histodiff.distances import to_unit
from monai_histodiff.stain import shift_stains
from monai_histodiff.weights import checked_device, load_weights

__all__ = ["PairLoss", "PatchEncoder", "PatchViews", "ViewPairPrepareBatch", "linear_probe", "projection_head"]

QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
FLIP = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
DIHEDRAL = torch.stack([flip @ torch.linalg.matrix_power(QUARTER_TURN, k) for flip in (torch.eye(2), FLIP) for k in range(4)])


class PatchEncoder(nn.Module):
    """MONAI's ``ResNet`` without its last layer: RGB patches in [0, 1], ``N x 3 x H x W`` of any size, to features ``N x D``.

    With the default arguments it is the backbone of :class:`~monai_histodiff.PatchClassifier`, which can start from it.

    Args:
        width: channels of the first level; doubled at each of the four levels, so that ``D = 8 * width``.
        blocks: basic residual blocks of each level.
    """

    def __init__(self, width: int = 32, blocks: Sequence[int] = (1, 1, 1, 1)) -> None:
        super().__init__()
        self.num_features = 8 * width
        planes = [width * 2**i for i in range(4)]
        self.resnet = ResNet("basic", list(blocks), planes, spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False)

    @classmethod
    def from_bundle(cls, bundle_dir: str | os.PathLike[str], device: str | torch.device = "cpu") -> PatchEncoder:
        """The encoder of a bundle, ``models/encoder.pt``, in evaluation mode.

        Raises:
            FileNotFoundError: the bundle has none.
            ValueError: the weights cannot be read or do not fit, or there is no such device.
        """
        return load_weights(cls(), Path(bundle_dir) / "models" / "encoder.pt").to(checked_device(device)).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet(x * 4 - 2)

    @torch.no_grad()
    def features(self, patches: Tensor, batch_size: int = 64) -> Tensor:
        """Features of any number of patches, on the CPU, in evaluation mode.

        Args:
            patches: ``N x 3 x H x W``, uint8 or floating point in [0, 1], N at least 1.
            batch_size: patches encoded at once.

        Returns:
            float32 tensor ``N x D``.
        """
        device = next(self.parameters()).device
        training = self.training
        self.eval()
        parts = [self(to_unit(part.to(device))).float().cpu() for part in patches.split(batch_size)]
        self.train(training)
        return torch.cat(parts)


def projection_head(features: int, hidden: int = 256, out: int = 128) -> nn.Sequential:
    """The network between features and loss, used in training alone: what the loss makes invariant is lost in it, not before."""
    return nn.Sequential(nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


class PatchViews:
    """Random views of a batch of patches: crop, zoom, flip, right-angle turn and stain jitter, each patch its own.

    Randomness is torch's global generator, on the device of the patches.

    Args:
        size: height and width of a view, in pixels.
        zoom: smallest and largest magnification relative to the patch; drawn log-uniformly.
        gain: half-width of the factor of each stain, see :class:`~monai_histodiff.RandHEJitter`.
        offset: half-width of the offset of each stain, in optical density.
    """

    def __init__(self, size: int = 64, zoom: tuple[float, float] = (0.75, 1.5), gain: float = 0.3, offset: float = 0.1) -> None:
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
            raise ValueError(f"patches must be at least {self.size / low:.0f} x {self.size / low:.0f} for these views, got {side}")
        extent = self.size / side / (low * (high / low) ** torch.rand(n, 1, 1, device=device))  # as a part of the patch
        turn = DIHEDRAL.to(device)[torch.randint(len(DIHEDRAL), (n,), device=device)]
        shift = (2 * torch.rand(n, 2, 1, device=device) - 1) * (1 - extent)
        grid = F.affine_grid(torch.cat([extent * turn, shift], 2), [n, 3, self.size, self.size], align_corners=False)
        views = F.grid_sample(patches, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        gain, offset = (2 * torch.rand(2, n, 3, device=device) - 1).unbind()
        return torch.vmap(shift_stains)(views, 1 + self.gain * gain, self.offset * offset)


class ViewPairPrepareBatch:
    """``prepare_batch`` that makes two views of each patch: one batch ``2N x 3 x size x size``, first views first.

    Args:
        views: draws a view of each patch.
    """

    def __init__(self, views: PatchViews) -> None:
        self.views = views

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor]:
        image = to_unit(torch.as_tensor(batchdata[CommonKeys.IMAGE]).to(device=device, non_blocking=non_blocking))
        pair = torch.cat([self.views(image), self.views(image)])
        return pair, pair


class PairLoss(nn.Module):
    """A loss between the two halves of a batch, such as MONAI's ``ContrastiveLoss`` or ``BarlowTwinsLoss``.

    Args:
        loss: ``(N x D, N x D) -> scalar``.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of projections ``2N x D``; the target is not used: the halves are each other's."""
        first, second = output.float().chunk(2)
        return self.loss(first, second)


def linear_probe(features: Tensor, labels: Tensor, penalty: float = 1e-2, steps: int = 200) -> nn.Linear:
    """Multinomial logistic regression on standardised features: the minimum of mean cross-entropy + ``penalty / 2 |W|^2``.

    Args:
        features: ``N x D``.
        labels: class indices, shape ``N``; each class up to the largest must occur.
        penalty: on the weights for standardised features.
        steps: at most so many iterations of L-BFGS.

    Returns:
        The layer that takes features as they are to logits ``N x K``.

    Raises:
        ValueError: fewer than two classes, a class without features, or a negative label.
    """
    counts = torch.bincount(labels.clamp(min=0))
    if int(labels.min()) < 0 or len(counts) < 2 or int(counts.min()) == 0:
        raise ValueError(f"labels must be 0 to K - 1 with K at least 2, each present, got {sorted(set(labels.tolist()))}")
    x, mean = features.double(), features.double().mean(0)
    std = x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / std
    weight = torch.zeros(len(counts), x.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(len(counts), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    layer = nn.Linear(x.shape[1], len(counts)).requires_grad_(False)
    layer.weight.copy_(weight.detach() / std)
    layer.bias.copy_(bias.detach() - (weight.detach() / std) @ mean)
    return layer
