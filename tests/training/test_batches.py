"""Which items a training draws."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils.data import RandomSampler

from monai_histodiff import PatchSet
from monai_histodiff.training import GroupBatches, RandomBatches


def test_items_are_drawn_as_torch_draws_them() -> None:
    items = list("abcdef")
    torch.manual_seed(3)
    expected = list(RandomSampler(items, replacement=True, num_samples=4 * 5))
    torch.manual_seed(3)
    assert list(RandomBatches(items, steps=4, batch_size=5)) == expected
    assert len(list(RandomBatches(items, steps=0, batch_size=5))) == 5, "a loader can be made"


def test_large_groups_do_not_drown_the_others(patch_set: PatchSet) -> None:
    """A patch that is alone in its group is drawn more often, by the square root of 2."""
    lone = patch_set.take([0, 2, 3])  # two to a group
    weights = lone.weights(0.5).tolist()
    draws = GroupBatches(lone, steps=300, batch_size=10, repeats=2)
    torch.manual_seed(0)
    found = Counter(draws)
    assert sum(found.values()) == 3000 and set(found) == set(range(6)), "the set twice"
    shares = [(found[i] + found[i + 3]) / 3000 for i in range(3)]
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - weight / sum(weights)) < 0.04
    even = GroupBatches(lone, steps=1, batch_size=1, power=0.0)
    assert even.weights.tolist() == [1.0, 1.0, 1.0]
