"""Random views of patches, which an encoder is to tell the same of."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_histodiff.data.stain import shift_stains

__all__ = ["PatchViews"]

QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float32)
FLIP = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], dtype=torch.float32)
DIHEDRAL = torch.stack(
    [
        flip @ torch.linalg.matrix_power(QUARTER_TURN, k)
        for flip in (torch.eye(2, dtype=torch.float32), FLIP)
        for k in range(4)
    ]
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
