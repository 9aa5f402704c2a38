"""Training the patch encoder without labels, from pairs of views (Chen et al. 2020,
arXiv:2002.05709).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_histodiff.data.pixels import to_unit
from monai_histodiff.data.stain import shift_stains

__all__ = ["PairLoss", "PatchViews", "ViewPairPrepareBatch", "projection_head"]

QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float32)
FLIP = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], dtype=torch.float32)
DIHEDRAL = torch.stack(
    [
        flip @ torch.linalg.matrix_power(QUARTER_TURN, k)
        for flip in (torch.eye(2, dtype=torch.float32), FLIP)
        for k in range(4)
    ]
)


def projection_head(features: int, hidden: int = 256, out: int = 128) -> nn.Sequential:
    """The network between features and loss, used in training alone: what the loss makes invariant
    is lost in it, not before.
    """
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


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
                f"patches must be at least {self.size / low:.0f} x {self.size / low:.0f} for "
                f"these views, got {side}"
            )
        extent = (
            self.size
            / side
            / (low * (high / low) ** torch.rand(n, 1, 1, dtype=torch.float32, device=device))
        )  # as a part of the patch
        turn = DIHEDRAL.to(device)[torch.randint(len(DIHEDRAL), (n,), device=device)]
        shift = (2 * torch.rand(n, 2, 1, dtype=torch.float32, device=device) - 1) * (1 - extent)
        grid = F.affine_grid(
            torch.cat([extent * turn, shift], 2), [n, 3, self.size, self.size], align_corners=False
        )
        views = F.grid_sample(
            patches, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        gain, offset = (2 * torch.rand(2, n, 3, dtype=torch.float32, device=device) - 1).unbind()
        return torch.vmap(shift_stains)(views, 1 + self.gain * gain, self.offset * offset)


class ViewPairPrepareBatch:
    """``prepare_batch`` that makes two views of each patch: one batch ``2N x 3 x size x size``,
    first views first.

    Args:
        views: draws a view of each patch.
    """

    def __init__(self, views: PatchViews) -> None:
        self.views = views

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: Any = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        image = to_unit(
            torch.as_tensor(batchdata[CommonKeys.IMAGE]).to(
                device=device, non_blocking=non_blocking
            )
        )
        pair = torch.cat([self.views(image), self.views(image)])
        return pair, pair


class PairLoss(nn.Module):
    """A loss between the two halves of a batch, such as MONAI's ``ContrastiveLoss`` or
    ``BarlowTwinsLoss``.

    Args:
        loss: ``(N x D, N x D) -> scalar``.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of projections ``2N x D``; the target is not used: the halves are each
        other's.
        """
        first, second = output.float().chunk(2)
        return self.loss(first, second)
