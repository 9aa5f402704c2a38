"""Is a picture a copy of a real patch? Asked of pictures of any origin: other colours, a flip or a
turn do not hide it, nor that it is the middle or a corner of the patch. A crop from elsewhere, a
zoom or a warp does.

Two distances are asked for: of the thumbnails, as for candidates of our own
(:mod:`~monai_histodiff.selection.copies`), and of their *structure*: the brightness of a thumbnail
less its mean, over its standard deviation, which a change of stain leaves nearly as it is. Of two
structures with correlation ``r`` the root-mean-square difference is ``sqrt(2 (1 - r))``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.duplicates import near_pairs
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop, five_crops, thumbnails
from monai_histodiff.selection.copies import FLOOR, PERCENTILE, group_index, nearest_views
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.progress import patient

__all__ = ["Copies", "CopyCheck", "repeated_rows", "structure"]

CALIBRATED = 400  # real patches that the thresholds rest on, at the most
# Correlation of two structures, from which on they are one, and below which they never are: smooth
# pictures are alike without being copies.
ALIKE, APART = 0.95, 0.8


@dataclass(frozen=True)
class Copies:
    """What was found of each picture.

    Attributes:
        copy: bool, shape ``N``: it is a copy of a real patch.
        distance: of its thumbnail to the nearest real one, shape ``N``.
        likeness: largest correlation of its structure with a real one, in [-1, 1], shape ``N``.
        nearest: row of the real patch that it copies, or else of the nearest one, shape ``N``.
    """

    copy: Tensor
    distance: Tensor
    likeness: Tensor
    nearest: Tensor


class CopyCheck:
    """Finds copies of real patches: of the whole of each, its middle and its corners.

    Both thresholds are calibrated on the real patches: a copy is what lies nearer to a patch than
    all but a few of them do to patches of other groups. So about two per cent of new
    real patches count as copies too.

    Args:
        real: what must not be copied, at least one patch.
        size: height and width of the pictures as they are used.

    Attributes:
        threshold: distance of thumbnails below which a picture is a copy.
        likeness: correlation of structures above which it is.

    Raises:
        ValueError: there is no patch, or one is smaller than ``size``, which is at least 1.
    """

    def __init__(self, real: PatchSet, size: int) -> None:
        check_from(1, size=size)
        if not len(real):
            raise ValueError("copies need at least one real patch, got none")
        self.size, views, asked = size, [], []
        chosen = set(np.random.default_rng(0).permutation(len(real))[:CALIBRATED].tolist())
        for i in patient(range(len(real)), "look for copies"):
            image = real[i]["image"]
            views.append(_crops(image, size))
            if i in chosen:
                asked.append(_views(image, size))
        self.views = torch.cat(views)
        self.owner = torch.arange(len(real)).repeat_interleave(
            torch.tensor([*map(len, views)], dtype=torch.long)
        )
        group = group_index(real.groups)
        own = group[sorted(chosen)].repeat_interleave(
            torch.tensor([*map(len, asked)], dtype=torch.long)
        )
        sides = (own, group[self.owner])
        rows = [len(part) for part in asked]
        self.threshold, least, most = FLOOR, _difference(ALIKE), _difference(APART)
        gate = least
        if len(set(real.groups)) > 1:
            small = torch.cat(asked)
            plain = _by_picture(nearest_views(small, self.views, sides, FLOOR)[0], rows)[0]
            shape = nearest_views(structure(small), structure(self.views), sides, FLOOR)[0]
            self.threshold = max(FLOOR, _quantile(plain, FLOOR))
            gate = _quantile(_by_picture(shape, rows)[0], least)
            gate = min(max(gate, least), most)
        self.likeness = 1 - gate**2 / 2

    def __call__(self, pictures: PatchSet) -> Copies:
        """Look for copies among pictures.

        Raises:
            ValueError: there is no picture, or one is smaller than ``size``.
        """
        if not len(pictures):
            raise ValueError("copies are looked for among at least one picture, got none")
        every = patient(range(len(pictures)), "look for copies")
        parts = [_views(pictures[i]["image"], self.size) for i in every]
        small, rows = torch.cat(parts), [len(part) for part in parts]
        found = nearest_views(small, self.views)
        distance, place = _by_picture(found[0], rows)
        difference, index, _ = nearest_views(structure(small), structure(self.views))
        difference, shape = _by_picture(difference, rows)
        likeness = 1 - difference.square() / 2
        plain, alike = distance < self.threshold, likeness > self.likeness
        nearest = torch.where(alike & ~plain, index[shape], found[1][place])
        return Copies(plain | alike, distance, likeness, self.owner[nearest])


def structure(small: Tensor) -> Tensor:
    """Brightness of thumbnails ``N x 3 x H x W``, less its mean and over its standard deviation:
    ``N x 1 x H x W``.
    """
    x = thumbnails(small).mean(1, keepdim=True)
    x = x - x.mean((2, 3), keepdim=True)
    return x / x.square().mean((2, 3), keepdim=True).sqrt().clamp(min=FLOOR)


def repeated_rows(images: Tensor, confidence: Tensor) -> set[int]:
    """Rows that nearly are a picture of higher confidence (of equal confidence, an earlier one)
    that is not itself among them.
    """
    pairs = near_pairs(images)
    rank = torch.empty(len(images), dtype=torch.long)
    rank[confidence.nan_to_num(-1).argsort(descending=True, stable=True)] = torch.arange(
        len(images)
    )
    both = torch.stack([pairs.first, pairs.second])
    better, worse = torch.where(rank[both[0]] < rank[both[1]], both, both.flip(0))
    out: set[int] = set()
    for p in rank[better].argsort(stable=True).tolist():
        if int(better[p]) not in out:
            out.add(int(worse[p]))
    return out


def _difference(correlation: float) -> float:
    return float(2 * (1 - correlation)) ** 0.5


def _quantile(distances: Tensor, otherwise: float) -> float:
    known = distances[distances.isfinite()]
    return float(torch.quantile(known, PERCENTILE / 100)) if len(known) else otherwise


def _by_picture(distances: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
    """The least distance of the views of each picture, and the row of that view."""
    least, start = [], 0
    for count in rows:
        least.append(start + int(distances[start : start + count].argmin()))
        start += count
    place = torch.tensor(least, dtype=torch.long)
    return distances[place], place


def _views(image: Tensor, size: int) -> Tensor:
    """Thumbnails of an image ``3 x H x W``: whole, and its middle where it is larger."""
    whole = thumbnails(image[None])
    if tuple(image.shape[1:]) == (size, size):
        return whole
    return torch.cat([whole, thumbnails(centre_crop(image, size)[None])])


def _crops(image: Tensor, size: int) -> Tensor:
    """Thumbnails of an image ``3 x H x W``: whole, its middle and its corners."""
    if tuple(image.shape[1:]) == (size, size):
        return _views(image, size)
    crops = five_crops(image[None], size)[:, 0]
    return torch.cat([thumbnails(image[None]), thumbnails(crops)])
