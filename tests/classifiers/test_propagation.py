"""Labels spread as the equation says, along clusters; a probe learns from what they reach."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Compose, ScaleIntensityRanged, ToTensord
from torch import Tensor

from monai_histodiff import PatchEncoder, PatchSet
from monai_histodiff.classifiers import (
    ProbeTraining,
    PropagatedProbe,
    linear_probe,
    propagated_labels,
    propagation,
)
from monai_histodiff.classifiers.propagation import LEAST, SHARPNESS
from monai_histodiff.data.patch_files import PatchRecord, write_patches


def clusters(n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two long, thin clusters side by side, and the cluster of each point."""
    g = torch.Generator().manual_seed(seed)
    along = torch.rand(2 * n, generator=g) * 10
    side = torch.arange(2 * n) % 2
    x = torch.stack([along, side * 2.0 + 0.1 * torch.randn(2 * n, generator=g)], 1)
    lifted = torch.cat([torch.cos(x), torch.sin(x)], 1)  # on circles, for the cosine
    return lifted, side


def test_it_is_the_fixed_point_of_spreading() -> None:
    """Zhou et al. 2004, equation 1: F <- a S F + (1 - a) Y converges to it."""
    x, side = clusters()
    labelled = torch.tensor([0, 1])
    found = propagated_labels(x[labelled], side[labelled], x[2:], neighbours=5, reach=0.9)
    z = x.double()
    z = F.normalize((z - z.mean(0)) / z.std(0), dim=1)
    cosine = (z @ z.T).fill_diagonal_(-2)
    edges = torch.zeros_like(cosine)
    for i in range(len(z)):
        for j in cosine[i].argsort(descending=True)[:5].tolist():
            edges[i, j] += torch.exp(SHARPNESS * cosine[i, j])
            edges[j, i] += torch.exp(SHARPNESS * cosine[i, j])
    root = edges.sum(1).sqrt()
    spread = edges / root[:, None] / root[None]
    given = torch.zeros(len(x), 2, dtype=torch.double)
    given[0, 0] = given[1, 1] = 1
    state = given.clone()
    for _ in range(600):
        state = 0.9 * spread @ state + 0.1 * given
    state = state[2:] / state[2:].sum(0)
    expected = state / state.sum(1, keepdim=True)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_a_large_graph_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, side = clusters()
    whole = propagated_labels(x[:6], side[:6], x[6:])
    monkeypatch.setattr(propagation, "ROWS", 7)
    with torch.device("meta"):  # a default of the caller's is not taken
        parts = propagated_labels(x[:6], side[:6], x[6:])
    torch.testing.assert_close(parts, whole)


def test_labels_follow_the_clusters_where_the_nearest_label_misleads() -> None:
    x, side = clusters()
    first, last = int(x[side == 0][:, 0].argmax()), int(x[side == 1][:, 0].argmin())
    labelled = torch.tensor([int((side == 0).nonzero()[first]), int((side == 1).nonzero()[last])])
    rest = torch.ones(len(x), dtype=torch.bool).index_fill(0, labelled, False)
    found = propagated_labels(x[labelled], side[labelled], x[rest], neighbours=6, reach=0.99)
    nearest = (torch.cdist(x[rest], x[labelled])).argmin(1)
    truth = side[rest]
    assert (found.argmax(1) == truth).float().mean() > 0.95
    assert (nearest == truth).float().mean() < 0.8


def test_order_and_units_of_the_features_do_not_count() -> None:
    x, side = clusters()
    found = propagated_labels(x[:6], side[:6], x[6:])
    order = torch.randperm(len(x) - 6, generator=torch.Generator().manual_seed(1))
    units = torch.tensor([1.0, 100.0, 0.01, 7.0])
    again = propagated_labels(x[:6] * units + 3, side[:6], x[6:][order] * units + 3)
    torch.testing.assert_close(again, found[order], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neighbours": 0}, "neighbours must be a whole number from 1 on, got 0"),
        ({"neighbours": 2.5}, "neighbours must be a whole number from 1 on, got 2.5"),
        ({"reach": 1.0}, "reach must lie between 0 and 1, got 1"),
        ({"unlabelled": torch.ones(3, 4).log() / 0}, "features must be finite, got 3 of 3 rows"),
        ({"features": torch.full((2, 4), math.inf)}, "features must be finite, got 2 of 2 rows"),
        ({"unlabelled": torch.ones(3, 5)}, r"got \(2, 4\) and \(3, 5\) of the unlabelled"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels must be whole numbers, got torch.float32"),
        ({"labels": torch.tensor([0, -1])}, "labels must be class indices from 0, got -1"),
        ({"labels": torch.tensor([0, 2])}, r"each class needs a labelled patch, got \[1, 0, 1\]"),
    ],
)
def test_what_cannot_spread_is_refused(options: dict[str, Any], words: str) -> None:
    x, side = clusters()
    values: dict[str, Any] = {"features": x[:2], "labels": side[:2], "unlabelled": x[2:]}
    with pytest.raises(ValueError, match=words):
        propagated_labels(**{**values, **options})


def test_labels_may_be_of_any_whole_kind() -> None:
    x, side = clusters()
    found = propagated_labels(x[:6], side[:6].int(), x[6:])
    assert torch.equal(found, propagated_labels(x[:6], side[:6], x[6:]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 1.5}, "share must lie above 0 and be 1 at the most, got 1.5"),
        ({"share": 0}, "share must lie above 0 and be 1 at the most, got 0"),
        ({"share": "all"}, "share must lie above 0 and be 1 at the most, got 'all'"),
        ({"size": 31.5}, "size must be a whole number from 1 on, got 31.5"),
        ({"views": 1.5}, "views must be a whole number from 1 on, got 1.5"),
    ],
)
def test_numbers_of_the_recipe_are_checked_when_it_is_made(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        PropagatedProbe(PatchEncoder((4, 8), 16, 2), **options)


def shades(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Patches of two classes that differ in their red, and their class."""
    g = torch.Generator().manual_seed(seed)
    side = torch.arange(n) % 2
    level = torch.tensor([90.0, 60.0, 150.0]).view(1, 3, 1, 1).repeat(n, 1, 1, 1)
    level[:, 0] += 90.0 * side.view(-1, 1, 1)
    level[:, 2] += 60 * torch.rand(n, 1, 1, generator=g)
    noise = 12 * torch.randn(n, 3, 32, 32, generator=g)
    return (level + noise).clamp(0, 255).round().byte(), side


def written(folder: Path, patches: Tensor) -> PatchSet:
    """A set of them, without labels."""
    pictures = (x.permute(1, 2, 0).numpy() for x in patches)
    items = [(PatchRecord(f"{i}.png", "", "", group=str(i)), x) for i, x in enumerate(pictures)]
    return PatchSet.open(write_patches(folder, items))


def test_the_probe_learns_from_the_surest_of_the_unlabelled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder((4, 8, 8), 16, 2).eval()
    unit = Compose(
        [
            ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
            ToTensord("image", track_meta=False),
        ]
    )
    patches, side = shades(80, 0)
    items = [{"image": patches[i], "label": int(side[i])} for i in range(4)]
    pool = written(tmp_path / "pool", patches[4:])
    plain = ProbeTraining(encoder, views=2)(items, unit, 2, 0)
    none = PropagatedProbe(encoder, views=2)(items, unit, 2, 0)
    empty = PropagatedProbe(encoder, views=2, unlabelled=pool[:0], size=32)(items, unit, 2, 0)
    more = PropagatedProbe(encoder, views=2, unlabelled=pool, size=32)(items, unit, 2, 0)
    x = patches.float() / 255
    with torch.no_grad():
        assert torch.equal(plain(x), none(x)), "without unlabelled patches it is the same recipe"
        assert torch.equal(plain(x), empty(x))
        assert not torch.equal(plain(x), more(x))
        new, truth = shades(60, 1)
        assert (more(new.float() / 255).argmax(1) == truth).float().mean() > 0.95


def test_the_labels_of_the_items_themselves_are_spread(tmp_path: Path) -> None:
    """Those that the transform changes are learned from, and do not spread from other pictures."""
    unit = Compose(
        [ScaleIntensityRanged("image", 0, 255, 0.0, 1.0), ToTensord("image", track_meta=False)]
    )
    patches, side = shades(40, 0)
    pool = written(tmp_path / "pool", patches[4:])
    encoder = PatchEncoder((4, 8, 8), 16, 2).eval()
    recipe = PropagatedProbe(encoder, views=1, unlabelled=pool, size=32)
    items = [{"image": x, "label": k} for x, k in zip(patches[:4], (0, 1, 0, 1), strict=True)]
    named = Compose(
        [
            lambda d: {**d, "label": d["label"] == "b"},
            lambda d: {**d, "label": int(d["label"])},
            unit,
        ]
    )
    with pytest.raises(ValueError, match="a label must be a whole number from 0 to 1, got 'a'"):
        recipe([{**d, "label": "ab"[d["label"]]} for d in items], named, 2, 0)
    one = [{**d, "label": 0, "made": d["label"]} for d in items]
    mixed = Compose([lambda d: {**d, "label": d["made"]}, unit])
    with pytest.raises(ValueError, match=r"patches of every class, got classes \[0\] of 2"):
        recipe(one, mixed, 2, 0)


def test_both_spreading_and_the_probe_s_own_judgement_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The labels that are learned from are those of the product of both."""
    encoder = PatchEncoder((4, 8, 8), 16, 2).eval()
    patches, side = shades(40, 0)
    items = [{"image": patches[i], "label": int(side[i])} for i in range(4)]
    pool = written(tmp_path / "pool", patches[4:].repeat(1, 1, 2, 2))  # in five crops of 32
    learned: list[Tensor] = []
    spread, spreading = torch.full((36, 2), 0.5), []

    def propagated(*given: Tensor) -> Tensor:
        spreading.append(given)
        return spread

    def surest(found: Tensor, share: float) -> Tensor:
        learned.append(found)
        return torch.where(torch.arange(36) % 3 > 0, found.argmax(1), -1)

    monkeypatch.setattr(propagation, "propagated_labels", propagated)
    monkeypatch.setattr(propagation, "_surest", surest)
    recipe = PropagatedProbe(encoder, views=1, unlabelled=pool, size=32)
    assert recipe._crops.shape == (36, 5, 16)
    features, labels = encoder.features(patches[:4]), side[:4]
    layer = recipe._layer(items, features, labels)
    own = ProbeTraining(encoder, penalty=0.02)._layer(items, features, labels)
    judged = own(recipe._crops).softmax(-1).mean(1)
    root = judged.clamp(min=LEAST).sqrt()
    expected = root / root.sum(1, keepdim=True)
    torch.testing.assert_close(learned[0], expected, msg="the geometric mean with an even spread")
    torch.testing.assert_close(spreading[0][0], encoder.features(patches[:4]))
    assert torch.equal(spreading[0][1], labels)
    torch.testing.assert_close(spreading[0][2], recipe._crops.mean(1))
    rows = (torch.arange(36) % 3).nonzero()[:, 0]
    joined = torch.cat([features, recipe._crops[rows].flatten(0, 1)])
    theirs = torch.cat([labels, expected.argmax(1)[rows].repeat_interleave(5)])
    again = linear_probe(joined, theirs, 0.02, scaling="common", balanced=True)
    torch.testing.assert_close(layer.weight, again.weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(layer.bias, again.bias, rtol=1e-3, atol=1e-5)
    spread[:, 0], spread[:, 1] = 1.0, 0.0
    recipe._layer(items, features, labels)
    sure = judged.clamp(min=LEAST) * torch.tensor([1.0, LEAST])
    expected = sure.sqrt() / sure.sqrt().sum(1, keepdim=True)
    torch.testing.assert_close(learned[1], expected)
