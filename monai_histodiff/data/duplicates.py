"""Pictures that a set holds twice: exactly, or nearly so, in any of the eight flips and turns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_histodiff.data.pixels import octaves, thumbnails, turns

__all__ = ["NEAR", "NearPairs", "contrasts", "near_pairs"]

# Of the contrast. In five sets of H&E patches (12,479) the nearest two of different groups that
# are no copies lie at 0.40; of copies through JPEG of quality 75, halved, flipped or turned, 99 in
# 100 lie below 0.21.
NEAR = 0.3
PLAIN = 0.02  # contrast of a thumbnail below which pictures look alike without being copies
ROWS, PAIRS = 512, 65536  # compared at once, for the sake of memory


@dataclass(frozen=True)
class NearPairs:
    """Near duplicates: int64 indices ``first < second`` and their distances, of shape ``P``."""

    first: Tensor
    second: Tensor
    distance: Tensor


def near_pairs(patches: Tensor) -> NearPairs:
    """All pairs of patches whose thumbnails differ by less than a part of their contrast.

    The distance of two patches is the root-mean-square difference of their 16 x 16 thumbnails,
    over the best of the eight flips and turns, divided by the smaller of their contrasts (the
    root-mean-square deviation of a thumbnail from its mean colour). Plain pictures, of a contrast
    below 0.02, are in no pair.

    Every pair is found, though few are compared: a flip or turn changes neither the mean of the
    eight turns of a thumbnail nor the energy of each octave of its detail, and these differ by no
    more than the thumbnails do.

    Args:
        patches: ``N x 3 x H x W``, uint8 or in [0, 1]; thumbnails will do.
    """
    small = thumbnails(patches)
    coarse, (fine, contrast) = _energies(small), _invariants(small)
    reach = torch.where(contrast < PLAIN, torch.full_like(contrast, -1.0), NEAR * contrast)
    found = [
        (torch.zeros(0, dtype=torch.long, device="cpu"),) * 2
        + (torch.zeros(0, dtype=torch.float32, device="cpu"),)
    ]
    for start in range(0, len(small), ROWS):
        # not by matrix product, which is inexact: the distance of copies is 0
        mode = "donot_use_mm_for_euclid_dist"
        rough = torch.cdist(coarse[start : start + ROWS], coarse[start:], compute_mode=mode)
        close = rough <= torch.minimum(reach[start : start + ROWS, None], reach[None, start:])
        for pairs in close.triu(1).nonzero().split(PAIRS):
            i, j = (pairs + start).unbind(1)
            near = (fine[i] - fine[j]).norm(dim=1) <= torch.minimum(reach[i], reach[j]) + 1e-6
            i, j = i[near], j[near]
            turned = turns(small[i])
            exact = torch.stack([(v - small[j]).square().mean((1, 2, 3)) for v in turned])
            distance = exact.amin(0).sqrt() / torch.minimum(contrast[i], contrast[j])
            keep = distance <= NEAR
            found.append((i[keep], j[keep], distance[keep]))
    first, second, distance = (torch.cat(part) for part in zip(*found, strict=True))
    return NearPairs(first, second, distance)


def _energies(small: Tensor) -> Tensor:
    """Energy of each octave of detail in each channel, and the mean colour: ``N x 15``, in the
    scale of a root-mean-square difference.
    """
    parts = octaves(small, small.shape[-1]).flatten(1), small.mean((2, 3))
    return torch.cat(parts, 1) / 3**0.5  # a mean over the three channels too


def _invariants(small: Tensor) -> tuple[Tensor, Tensor]:
    """What no flip or turn changes, ``N x 207``: the mean of the eight, of which one quadrant
    tells all, and the energies of what it leaves; and the contrast of the thumbnails, ``N``.
    """
    symmetric = torch.stack(turns(small)).mean(0)
    half = small.shape[-1] // 2
    quadrant = symmetric[:, :, :half, :half].flatten(1)
    rest = _energies(small - symmetric)
    return torch.cat([quadrant / quadrant.shape[1] ** 0.5, rest], 1), contrasts(small)


def contrasts(small: Tensor) -> Tensor:
    """Root-mean-square deviation of each picture, ``N x 3 x H x W``, from its mean colour."""
    return (small - small.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt()
