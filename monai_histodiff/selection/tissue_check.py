"""Does a picture show tissue of the kind that the real patches show? Asked of pictures of any
origin, in the features of an encoder: noise, drawings and other organs lie far from all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from monai_histodiff.classifiers.encoder_names import features_of
from monai_histodiff.selection.copies import PERCENTILE, group_index

__all__ = ["KnownFeatures", "TissueCheck"]

PAIRS = 2**24  # of two patches that are compared at once, for the sake of memory
MARGIN = 1.25  # of the distance: imperfect pictures of tissue, and few real patches, are no matter


class KnownFeatures:
    """Features that are computed once for each patch.

    Args:
        features: patches ``N x 3 x H x W`` to features ``N x D``, on any device.
    """

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self.features = features
        self.known: dict[bytes, Tensor] = {}

    def __call__(self, patches: Tensor) -> Tensor:
        """Features ``N x D`` of patches ``N x 3 x H x W``, by their content."""
        keys = [hashlib.sha256(p.cpu().numpy().tobytes()).digest() for p in patches.contiguous()]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            found = features_of(self.features, patches[new]).cpu()
            self.known |= {keys[i]: row for i, row in zip(new, found, strict=True)}
        return torch.stack([self.known[key] for key in keys])


class TissueCheck:
    """Finds pictures that are unlike all real patches: in features they are farther from each of
    them, by a quarter and more, than all but a few of the real patches are from the nearest of
    another group. Of new real patches hardly any is.

    Args:
        real: features of real patches, ``N x D``, at least one row.
        groups: of each of them.

    Attributes:
        threshold: Euclidean distance from which on a picture is unlike the real patches; infinite
            where all are of one group, and nothing is then.

    Raises:
        ValueError: there is no patch, or the groups are other in number.
    """

    def __init__(self, real: Tensor, groups: Sequence[str]) -> None:
        if not len(real) or len(groups) != len(real):
            raise ValueError(
                "likeness needs at least one real patch and a group for each, got "
                f"{len(real)} patches and {len(groups)} groups"
            )
        self.real, self.threshold = real.float(), math.inf
        if len(set(groups)) > 1:
            usual = torch.quantile(
                self._nearest(self.real, group_index(groups)), 1 - PERCENTILE / 100
            )
            self.threshold = MARGIN * float(usual)

    def __call__(self, features: Tensor) -> Tensor:
        """Which pictures are unlike the real patches: bool, shape ``N``.

        Args:
            features: of the pictures, ``N x D``.
        """
        return self._nearest(features.float()) > self.threshold

    def _nearest(self, features: Tensor, own: Tensor | None = None) -> Tensor:
        """Distance to the nearest real patch; with ``own``, the groups of the real patches, which
        the features then are of, to the nearest of another.
        """
        found, size = [], max(1, PAIRS // len(self.real))
        for rows in torch.arange(len(features), device="cpu").split(size):
            apart = torch.cdist(features[rows], self.real)
            if own is not None:
                apart[own[rows, None] == own[None]] = math.inf
            found.append(apart.amin(1))
        return torch.cat(found)
