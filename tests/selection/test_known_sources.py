"""The sources of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff import PatchSet
from monai_histodiff.selection import known_sources

SIZE = 32


def critic_of(recipe: int) -> Any:
    """Sure that every second patch is of class 1, and sure of no other."""

    def probabilities(images: Tensor) -> Tensor:
        found = torch.full((len(images), 3), 1 / 3)
        found[::2] = torch.tensor([0.05, 0.9, 0.05])
        return found

    threshold = torch.tensor(0.8)
    return SimpleNamespace(
        recipe=recipe, num_classes=3, threshold=threshold, probabilities=probabilities
    )


@pytest.mark.parametrize(
    ("recipe", "asked", "trusted"),
    [(0, None, False), (1, None, True), (0, True, True), (1, False, False)],
)
def test_unlabelled_patches_are_sources_where_the_critic_is_trusted(
    recipe: int, asked: bool | None, trusted: bool, patch_set: PatchSet
) -> None:
    labelled = patch_set.few(2, seed=0)
    known = labelled.extend(patch_set, 5, seed=0)
    latents = [
        {"image": torch.full((4, 2, 2), float(row)), "label": -1, "row": row}
        for row in [*range(len(known))] * 2
    ]
    found = known_sources(latents, known, labelled, critic_of(recipe), SIZE, asked)
    rows = [sorted(set(own.tolist())) for own in found.rows]
    given = [(labelled.labels == k).nonzero()[:, 0].tolist() for k in range(3)]
    sure = [6, 8, 10] if trusted else []  # of 6 to 10
    assert rows == [given[0], [*given[1], *sure], given[2]]
    assert found.counts == [2 * len(own) for own in rows], "each is encoded twice"
