"""Patches that are larger than what a network sees: their crops, judged one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_histodiff.data.patch_set import PatchSet

__all__ = ["over_crops"]

BYTES = 2**28  # of crops that are held at once


def over_crops(judge: Callable[[Tensor], Tensor], patches: PatchSet, size: int) -> Tensor:
    """What a function gives the centre and the corner crops of each patch.

    Args:
        judge: crops, uint8 ``M x 3 x size x size``, to ``M x D``.
        patches: at least one, each at least ``size x size``; a part of them is held at once.
        size: height and width of a crop.

    Returns:
        ``N x 5 x D``, the centre first; ``N x 1 x D`` where all patches have that size.

    Raises:
        ValueError: the set is empty, or patches are smaller than ``size``.
    """
    patches.check_size(size)
    count = patches.crop_count(size)
    part = max(1, BYTES // (count * 3 * size * size))
    found = []
    for start in range(0, max(1, len(patches)), part):
        crops = patches[start : start + part].five_crops(size)
        one = judge(crops.flatten(0, 1)).unflatten(0, tuple(crops.shape[:2])).transpose(0, 1)
        found.append(one.expand(-1, count, -1))
    return torch.cat(found)
