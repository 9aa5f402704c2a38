"""Which items a training draws: so many batches, with replacement, whatever the set's size."""

from __future__ import annotations

from collections.abc import Sized

from torch.utils.data import RandomSampler, WeightedRandomSampler

from monai_histodiff.data.patch_set import PatchSet

__all__ = ["GroupBatches", "RandomBatches"]


class RandomBatches(RandomSampler):
    """The ``sampler`` of a ``DataLoader`` that draws the items of so many batches, each alike.

    Args:
        data_source: the items.
        steps: number of batches. Of 0, which no loader takes, one is made.
        batch_size: that of the loader.
    """

    def __init__(self, data_source: Sized, steps: int, batch_size: int) -> None:
        count = max(1, steps) * batch_size
        super().__init__(data_source, replacement=True, num_samples=count)


class GroupBatches(WeightedRandomSampler):
    """The same by weights ``n_group ** -power``, see :meth:`PatchSet.weights`: large groups do not
    drown the others.

    Args:
        patches: what the items are made from.
        steps: number of batches.
        batch_size: that of the loader.
        power: 0 draws each patch alike, 1 each group.
        repeats: items of each patch, the whole set once and again.
    """

    def __init__(
        self,
        patches: PatchSet,
        steps: int,
        batch_size: int,
        power: float = 0.5,
        repeats: int = 1,
    ) -> None:
        weights = patches.weights(power).repeat(repeats).tolist()
        super().__init__(weights, steps * batch_size)
