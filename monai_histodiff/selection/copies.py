"""Near copies of real patches: the memorisation check."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_histodiff.data.pixels import thumbnails

__all__ = ["copy_distances", "copy_threshold", "flag_copies"]

BATCH = 256  # patches compared at once, for the sake of memory


def _orientations(x: Tensor) -> list[Tensor]:
    return [torch.rot90(v, k, (2, 3)) for v in (x, x.flip(3)) for k in range(4)]


def _nearest(
    patches: Tensor, references: Tensor, excluded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    targets = thumbnails(references).flatten(1)
    parts = []
    for rows in torch.arange(len(patches)).split(BATCH):
        turned = torch.stack([v.flatten(1) for v in _orientations(thumbnails(patches[rows]))])
        rough = torch.cdist(turned, targets).amin(
            0
        )  # by matrix product: fast, but not exactly 0 for a copy
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
        Root-mean-square difference of 16 x 16 thumbnails (in units of the intensity range), and
        the index of that reference; both of shape ``N``.

    Raises:
        ValueError: there is no reference.
    """
    if len(references) == 0:
        raise ValueError("copy distances need at least one reference, got none")
    return _nearest(patches, references)


def copy_threshold(references: Tensor, groups: Sequence[str], percentile: float = 1.0) -> float:
    """The distance below which a patch counts as a copy: a low percentile of real-to-real
    distances between groups.

    Args:
        references: real patches, ``M x 3 x H x W``.
        groups: the group of each; only distances to other groups count. With a single group there
            is no such distance, and the threshold is 0: nothing is called a copy.
        percentile: of the distances from each real patch to its nearest real patch of another
            group.
    """
    names = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    own = torch.tensor([names[g] for g in groups])
    if len(names) < 2:
        return 0.0
    distance, _ = _nearest(references, references, excluded=own[:, None] == own[None, :])
    return float(torch.quantile(distance, percentile / 100))


def flag_copies(to_train: Tensor, held_out_to_train: Tensor, percentile: float = 1.0) -> Tensor:
    """Which samples lie nearer to the training set than nearly all patches that were kept out of
    it.

    Args:
        to_train: distance of each sample to its nearest training patch, shape ``N``.
        held_out_to_train: the same for real patches of groups kept out of training.
        percentile: of the latter, below which a sample counts as a copy; so many per cent of new
            real patches would.

    Returns:
        Boolean tensor of shape ``N``.

    Raises:
        ValueError: there is no held-out distance, or ``percentile`` does not lie in [0, 100].
    """
    if held_out_to_train.numel() == 0:
        raise ValueError("copies need at least one held-out distance, got none")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must lie in [0, 100], got {percentile}")
    return to_train < torch.quantile(held_out_to_train.to(to_train), percentile / 100)
