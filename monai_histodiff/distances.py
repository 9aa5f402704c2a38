"""What patches look like without a network: distances for the copy gate and the report, and statistics of colour and contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["appearance", "copy_distances", "copy_threshold", "thumbnails", "to_unit"]

THUMBNAIL = 16
BATCH = 256  # patches compared at once, for the sake of memory
OCTAVES = 5


def to_unit(patches: Tensor) -> Tensor:
    """uint8 patches to float32 in [0, 1]; floating-point patches are taken to be in [0, 1] already."""
    return patches.float() / 255 if patches.dtype == torch.uint8 else patches.float()


def thumbnails(patches: Tensor) -> Tensor:
    """16 x 16 thumbnails of patches, uint8 or in [0, 1]: float32 ``N x 3 x 16 x 16``. Those of thumbnails are the thumbnails."""
    return F.adaptive_avg_pool2d(to_unit(patches), THUMBNAIL)


def appearance(patches: Tensor) -> Tensor:
    """Colour and contrast of patches, which features that were trained on jittered stains leave out.

    Args:
        patches: ``N x 3 x H x W``, uint8 or in [0, 1].

    Returns:
        ``N x 11``: mean and standard deviation of each colour, and the standard deviation of the brightness in each of five
        octaves of spatial frequency, from the finest (details of 1 pixel, absent at 2) to the coarsest (16, absent at 32);
        fewer octaves, where height or width cannot be halved so often.
    """
    x = to_unit(patches)
    level = x.mean(1, keepdim=True)
    bands: list[Tensor] = []
    while len(bands) < OCTAVES and not any(side % 2 for side in level.shape[2:]):
        coarse = F.avg_pool2d(level, 2)
        bands.append((level - F.interpolate(coarse, scale_factor=2)).square().mean((1, 2, 3)).sqrt())
        level = coarse
    return torch.cat([x.mean((2, 3)), x.std((2, 3)), *(band[:, None] for band in bands)], 1)


def _orientations(x: Tensor) -> list[Tensor]:
    return [torch.rot90(v, k, (2, 3)) for v in (x, x.flip(3)) for k in range(4)]


def _nearest(patches: Tensor, references: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    targets = thumbnails(references).flatten(1)
    parts = []
    for rows in torch.arange(len(patches)).split(BATCH):
        turned = torch.stack([v.flatten(1) for v in _orientations(thumbnails(patches[rows]))])
        rough = torch.cdist(turned, targets).amin(0)  # by matrix product: fast, but not exactly 0 for a copy
        if excluded is not None:
            rough[excluded[rows]] = float("inf")
        index = rough.argmin(1)
        parts.append(((turned - targets[index]).square().mean(2).sqrt().amin(0), index))
    distance, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return distance, index


def copy_distances(patches: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each patch to its nearest reference, over the eight flips and right-angle turns.

    Args:
        patches: ``N x 3 x H x W``, uint8 or floating point in [0, 1].
        references: ``M x 3 x H' x W'``, likewise.

    Returns:
        Root-mean-square difference of 16 x 16 thumbnails (in units of the intensity range), and the index of that
        reference; both of shape ``N``.

    Raises:
        ValueError: there is no reference.
    """
    if len(references) == 0:
        raise ValueError("copy distances need at least one reference, got none")
    return _nearest(patches, references)


def copy_threshold(references: Tensor, groups: Sequence[str], percentile: float = 1.0) -> float:
    """The distance below which a patch counts as a copy: a low percentile of real-to-real distances between groups.

    Args:
        references: real patches, ``M x 3 x H x W``.
        groups: the group of each; only distances to other groups count. With a single group there is no such
            distance, and the threshold is 0: nothing is called a copy.
        percentile: of the distances from each real patch to its nearest real patch of another group.
    """
    names = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    own = torch.tensor([names[g] for g in groups])
    if len(names) < 2:
        return 0.0
    distance, _ = _nearest(references, references, excluded=own[:, None] == own[None, :])
    return float(torch.quantile(distance, percentile / 100))
