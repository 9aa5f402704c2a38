"""What is computed of a set in parts is what it is of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff.classifiers import probe
from monai_histodiff.data import pixels
from monai_histodiff.evaluation import baselines, feature_metrics


@pytest.fixture
def patches() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (11, 3, 32, 32), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("measure", [pixels.thumbnails, pixels.sharpness])
def test_pictures_are_measured_in_parts(
    measure: Any, patches: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(patches)
    monkeypatch.setattr(pixels, "BATCH", 3)
    assert torch.equal(measure(patches), whole)
    assert len(measure(patches[:0])) == 0


def test_colour_is_measured_in_parts(patches: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(11) % 3
    given = (patches, labels, patches[:6], labels[:6], 3)
    whole = baselines.colour_floors(*given)
    monkeypatch.setattr(pixels, "BATCH", 2)
    assert baselines.colour_floors(*given) == whole


def test_views_are_encoded_in_parts(patches: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def features(views: Tensor) -> Tensor:
        seen.append(len(views))
        return views.flatten(1)

    def doubled(item: dict[str, Any]) -> dict[str, Any]:
        item["image"] = item["image"] * 2
        return item

    monkeypatch.setattr(probe, "AT_ONCE", 4)
    items = [{"image": patch / 510, "label": i % 3} for i, patch in enumerate(patches)]
    views = (features, doubled, iter(items), 3)
    found, labels = probe.features_of_views(*views)  # type: ignore[arg-type]
    assert labels.tolist() == [i % 3 for i in range(11)]
    torch.testing.assert_close(found, patches.flatten(1) / 255)
    assert seen == [4, 4, 3], "few at a time, in order"
    assert torch.equal(items[0]["image"], patches[0] / 510), "items stay as they are"


def test_neighbours_are_looked_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = torch.randn(2, 60, 8, generator=generator)
    whole = feature_metrics.precision_recall_density_coverage(real, made)
    monkeypatch.setattr(feature_metrics, "ROWS", 7)
    assert feature_metrics.precision_recall_density_coverage(real, made) == whole
