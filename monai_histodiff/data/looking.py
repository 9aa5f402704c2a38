"""Every picture of a patch set read once, several at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from monai_histodiff.data.overlaps import Marks, marks
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import thumbnails
from monai_histodiff.utils.progress import patient

__all__ = ["likeness", "looked"]

T = TypeVar("T")
AT_ONCE = 2**26  # pixels of the pictures that are in memory together


def looked(
    patches: PatchSet, look: Callable[[Tensor, int], T], name: str, progress: bool = True
) -> list[T]:
    """What is told of each picture, in order, by as many threads as torch computes with: the
    operations on one patch are too small to be shared.

    Args:
        patches: the set.
        look: takes a picture, uint8 ``3 x H x W``, and its number.
        name: what is done, for the bar.
        progress: show a bar.

    Raises:
        ValueError: a picture cannot be read: the first such one.
    """

    def one(index: int) -> T:
        return look(patches[index]["image"], index)

    computing = torch.get_num_threads()
    largest = max((height * width for height, width in patches.sizes()), default=1)
    pool = ThreadPoolExecutor(max(1, min(computing, AT_ONCE // largest)))
    torch.set_num_threads(1)
    try:
        found = pool.map(one, range(len(patches)))
        return [next(found) for _ in patient(range(len(patches)), name, progress)]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(computing)


def likeness(image: Tensor, index: int) -> tuple[bytes, Tensor, Marks]:
    """By what copies of a picture are found: SHA-256 of its pixels, a thumbnail of 16 x 16 as a
    batch of one, and marks.
    """
    content = repr(tuple(image.shape)).encode() + image.numpy().tobytes()
    return hashlib.sha256(content).digest(), thumbnails(image[None]), marks(image, index)
