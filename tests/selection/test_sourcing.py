"""The sources of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_histodiff import PatchSet
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.selection import known_sources

SIZE = 32


class Judge:
    """Sure that a bright patch is of class 1; of dark ones it is not sure."""

    num_classes = 3
    threshold = torch.tensor(0.8)

    def probabilities(self, images: Tensor) -> Tensor:
        bright = to_unit(images).mean((1, 2, 3)) > 0.5
        return torch.where(bright[:, None], torch.tensor([0.05, 0.9, 0.05]), 1 / 3)

    def of_patches(self, patches: PatchSet, size: int) -> Tensor:
        return self.probabilities(patches.images(size))


class Model:
    """Latents are patches at an eighth of their size, shown with a border."""

    latent_mean = torch.zeros(())

    def decode(self, z: Tensor) -> Tensor:
        return pad(z.repeat_interleave(8, 2).repeat_interleave(8, 3), [4] * 4, value=1.0)


@pytest.fixture
def patches(tmp_path: Path) -> PatchSet:
    """Patches of three classes, of which every second is bright."""
    items = [
        (
            PatchRecord(f"{i}.png", "abc"[i % 3], "", group=str(i)),
            np.full((SIZE, SIZE, 3), 255 * (i % 2), dtype=np.uint8),
        )
        for i in range(30)
    ]
    return PatchSet.open(write_patches(tmp_path / "set", items))


def latents_of(known: PatchSet, brightness: Sequence[float]) -> list[dict[str, Any]]:
    """Two encodings of each patch; the brightness of the second is given."""
    first = [float(x.float().mean() / 255) for x in known.images(SIZE)]
    return [
        {"image": torch.full((3, 4, 4), v).half(), "label": -1, "row": row}
        for shown in (first, brightness)
        for row, v in enumerate(shown)
    ]


@pytest.mark.parametrize("trusted", [True, False])
def test_unlabelled_patches_are_sources_where_the_critic_is_trusted(
    trusted: bool, patches: PatchSet
) -> None:
    labelled = patches.few(2, seed=0)
    known = labelled.extend(patches, 8, seed=0)
    bright = [float(x.float().mean() / 255) for x in known.images(SIZE)]
    latents = latents_of(known, bright)
    found = known_sources(Model(), latents, known, labelled, Judge(), SIZE, trusted)  # type: ignore[arg-type]
    rows = [sorted(set(own.tolist())) for own in found.rows]
    given = [(labelled.labels == k).nonzero()[:, 0].tolist() for k in range(3)]
    sure = [i for i in range(6, 14) if bright[i] == 1]
    assert 0 < len(sure) < 8
    assert rows == [given[0], [*given[1], *(sure if trusted else [])], given[2]]
    assert found.counts == [2 * len(own) for own in rows], "each is encoded twice"


def test_an_encoding_that_shows_something_else_is_no_source(patches: PatchSet) -> None:
    """The second encodings are dark: those of unlabelled patches are left out, those of labelled
    ones stay, whatever they show.
    """
    labelled = patches.few(2, seed=0)
    known = labelled.extend(patches, 8, seed=0)
    latents = latents_of(known, [0.0] * len(known))
    found = known_sources(Model(), latents, known, labelled, Judge(), SIZE)  # type: ignore[arg-type]
    for k, (rows, z) in enumerate(zip(found.rows, found.latents, strict=True)):
        given = (labelled.labels == k).nonzero()[:, 0].tolist()
        assert sorted(rows[rows < 6].tolist()) == sorted(given * 2)
        assert bool((z[rows >= 6] == 1).all())
    assert int((found.rows[1] >= 6).sum()) == sum(bool(x.any()) for x in known[6:].images(SIZE))


def test_sources_beyond_the_number_wanted_are_of_as_many_patches_as_can_be(
    patches: PatchSet,
) -> None:
    labelled = patches.few(2, seed=0)
    known = labelled.extend(patches, 12, seed=0)
    latents = latents_of(known, [1.0] * len(known))
    wanted = {
        seed: known_sources(
            Model(),  # type: ignore[arg-type]
            latents,
            known,
            labelled,
            Judge(),  # type: ignore[arg-type]
            SIZE,
            max_sources=5,
            seed=seed,
        )
        for seed in (0, 0, 1)
    }
    one = known_sources(Model(), latents, known, labelled, Judge(), SIZE, max_sources=1)  # type: ignore[arg-type]
    assert one.counts == [1, 1, 1] and one.rows[1][0] in (labelled.labels == 1).nonzero()
    given = (labelled.labels == 1).nonzero()[:, 0].tolist()
    for found in wanted.values():
        rows = found.rows[1].tolist()
        assert rows[:2] == given or rows[:2] == given[::-1], "labelled ones are never left out"
        assert len(set(rows)) == len(rows) == 5
        assert found.counts == [4, 5, 4]
    assert wanted[0].rows[1].tolist() != wanted[1].rows[1].tolist()


def test_a_class_needs_a_source(patches: PatchSet) -> None:
    labelled = patches.few(2, seed=0)
    with pytest.raises(ValueError, match="max_sources must be at least 1, got 0"):
        known_sources(Model(), [], labelled, labelled, Judge(), SIZE, max_sources=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_classes", 2, "classes must be as many as the critic's, 2, got 3"),
        ("folds", torch.zeros(7), "labelled must be the 7 patches that the critic was fitted on"),
    ],
)
def test_the_critic_must_be_fitted_on_the_labelled_patches(
    name: str, value: Any, message: str, patches: PatchSet
) -> None:
    labelled, critic = patches.few(2, seed=0), Judge()
    setattr(critic, name, value)
    with pytest.raises(ValueError, match=message):
        known_sources(Model(), [], labelled, labelled, critic, SIZE)  # type: ignore[arg-type]
