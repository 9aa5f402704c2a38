from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff.classifiers.probe import features_of_views
from monai_histodiff.selection import tissue_check
from monai_histodiff.selection.tissue_check import KnownFeatures, TissueCheck


def test_the_threshold_is_a_quantile_of_distances_between_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a line, each group two points side by side: the nearest point of another group counts."""
    real = torch.tensor([[0.0], [0.1], [1.0], [1.1], [3.0], [3.1]])
    groups = ["a", "a", "b", "b", "c", "c"]
    apart = torch.tensor([1.0, 0.9, 0.9, 1.0, 1.9, 2.0])
    for percentile in (1.0, 20.0, 50.0):
        monkeypatch.setattr(tissue_check, "PERCENTILE", percentile)
        check = TissueCheck(real, groups)
        wanted = 1.25 * float(torch.quantile(apart, 1 - percentile / 100))
        assert check.threshold == pytest.approx(wanted, rel=1e-5)
    monkeypatch.setattr(tissue_check, "PERCENTILE", 0.0)
    check = TissueCheck(real, groups)
    assert check.threshold == pytest.approx(2.5, rel=1e-5)
    assert check(torch.tensor([[5.5], [5.7], [-2.4], [-2.6]])).tolist() == [False, True] * 2


@pytest.mark.parametrize("count", [20, 4000])
def test_hardly_a_new_patch_is_unlike(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    real, new = (torch.randn(n, 64, generator=generator) for n in (count, 4000))
    check = TissueCheck(real, [str(i) for i in range(count)])
    assert float(check(new).double().mean()) < 0.01 and check(3 * new).all()


def test_parts_of_a_large_set_are_compared_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, groups = torch.randn(50, 8), [str(i // 3) for i in range(50)]
    new = 2 * torch.randn(31, 8)
    monkeypatch.setattr(tissue_check, "PERCENTILE", 20.0)
    whole = TissueCheck(real, groups)
    monkeypatch.setattr(tissue_check, "PAIRS", 350)  # 7 rows at a time
    parts = TissueCheck(real, groups)
    assert parts.threshold == pytest.approx(whole.threshold, rel=1e-5)
    assert torch.equal(parts(new), whole(new)) and 0 < int(whole(new).sum()) < 31


def test_of_one_group_nothing_is_unlike() -> None:
    check = TissueCheck(torch.randn(5, 2), ["a"] * 5)
    assert check.threshold == math.inf and not check(torch.full((3, 2), 1e6)).any()


@pytest.mark.parametrize(("count", "groups"), [(0, 0), (3, 2)])
def test_real_patches_and_their_groups_must_be_there(count: int, groups: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} patches and {groups} groups"):
        TissueCheck(torch.zeros(count, 2), ["a"] * groups)


def test_features_are_computed_once_for_each_patch() -> None:
    asked: list[int] = []

    def features(patches: Tensor) -> Tensor:
        asked.append(len(patches))
        return patches.float().mean((2, 3))

    known = KnownFeatures(features)
    patches = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    assert torch.equal(known(patches[:3]), features(patches[:3])) and asked == [3, 3]
    assert torch.equal(known(patches.flip(0)), features(patches.flip(0)))
    assert asked == [3, 3, 1, 4], "only the fourth was new"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda x: x.float().mean((2, 3)) * torch.nan, "finite, got NaN or infinity for 2 of 2"),
        (lambda x: x.float().mean((2, 3))[:1], r"here 2, got \(1, 3\): give"),
        (lambda x: x.float().mean((1, 2, 3)), r"tensor N x D for N patches, here 2, got \(2,\)"),
        (lambda x: x.numpy().mean((2, 3)), r"got \(2, 3\): give a function"),
        (lambda x: None, "got NoneType: give a function of one vector"),
    ],
)
def test_features_are_one_vector_for_each_patch(features: Any, message: str) -> None:
    patches = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    for given in (
        KnownFeatures(features),
        partial(features_of_views, features, dict, num_classes=1),
    ):
        with pytest.raises(ValueError, match=message):
            given(
                patches
                if isinstance(given, KnownFeatures)
                else [{"image": p, "label": 0} for p in patches]
            )
