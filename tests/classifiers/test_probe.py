"""Logistic regression on features, as a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WritePatchSet
from monai.transforms import (
    Compose,
    RandAxisFlipd,
    RandSpatialCropSamplesd,
    ScaleIntensityRanged,
    ToTensord,
)

from monai_histodiff import PatchCritic, PatchEncoder, PatchSet, fit_critic
from monai_histodiff.classifiers import ProbeTraining, linear_probe
from monai_histodiff.classifiers.classifier import predict
from monai_histodiff.classifiers.probe import features_of_views


def transform() -> Compose:
    return Compose(
        [
            RandAxisFlipd("image", prob=0.5),
            ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
            ToTensord("image", track_meta=False),
        ]
    )


@pytest.fixture
def recipe() -> ProbeTraining:
    torch.manual_seed(0)
    return ProbeTraining(PatchEncoder(widths=(4, 4, 8, 8, 8), features=16).eval(), views=3)


@pytest.fixture
def labelled(write_patch_set: WritePatchSet, tmp_path: Path) -> PatchSet:
    return PatchSet.open(write_patch_set(tmp_path / "set", per_class=12))


def test_it_is_the_probe_of_the_augmented_views(recipe: ProbeTraining, labelled: PatchSet) -> None:
    items = [{"image": labelled[i]["image"], "label": labelled[i]["label"]} for i in range(12, 36)]
    items += [{"image": labelled[i]["image"], "label": labelled[i]["label"]} for i in range(12)]
    before = {k: v.clone() for k, v in recipe.encoder.state_dict().items()}
    network = recipe(items, transform(), 3, seed=4)
    same = transform()
    same.set_random_state(4)
    views = torch.stack([same(dict(item))["image"] for _ in range(3) for item in items])
    labels = torch.tensor([int(item["label"]) for item in items]).repeat(3)
    features = recipe.encoder.features(views)
    layer = linear_probe(features, labels, penalty=0.1, scaling="common")
    images = labelled.images()
    torch.testing.assert_close(predict(network, images), layer(recipe.encoder.features(images)))
    assert all(torch.equal(v, before[k]) for k, v in recipe.encoder.state_dict().items())


def test_every_class_is_needed(recipe: ProbeTraining, labelled: PatchSet) -> None:
    items = [
        {"image": labelled[0]["image"], "label": 0},
        {"image": labelled[1]["image"], "label": 2},
    ]
    with pytest.raises(ValueError, match=r"patches of every class, got classes \[0, 2\] of 3"):
        recipe(items, transform(), 3, seed=0)


def test_a_critic_of_probes_survives_saving_and_stores_its_encoder_once(
    recipe: ProbeTraining, labelled: PatchSet, tmp_path: Path
) -> None:
    critic = fit_critic(labelled, recipe, transform(), size=32, folds=3, target_precision=0.8)
    probabilities = critic.probabilities(labelled.images())
    assert float((probabilities.argmax(1) == labelled.labels).float().mean()) > 0.9
    critic.save(tmp_path / "critic.pt")
    encoder = sum(v.numel() * v.element_size() for v in recipe.encoder.state_dict().values())
    single = PatchCritic([critic.members[0]], 3)
    single.save(tmp_path / "single.pt")
    more = (tmp_path / "critic.pt").stat().st_size - (tmp_path / "single.pt").stat().st_size
    assert more < encoder  # names take room, two further encoders in float16 would take as much
    twin = PatchCritic.load(tmp_path / "critic.pt", recipe.network, 3)
    torch.testing.assert_close(
        twin.probabilities(labelled.images()), probabilities, rtol=0.02, atol=0.02
    )


def relabelled(data: dict[str, Any]) -> dict[str, Any]:
    """The opposite shade, with its label, as a synthetic patch in an item's place."""
    return {"image": 255 - data["image"], "label": 1 - data["label"]}


def shades() -> list[dict[str, Any]]:
    g = torch.Generator().manual_seed(0)
    levels = (torch.tensor([40, 215])[i % 2] for i in range(12))
    noise = (torch.randint(-30, 30, (3, 32, 32), generator=g) for _ in range(12))
    return [
        {"image": (level + n).byte(), "label": i % 2}
        for i, (level, n) in enumerate(zip(levels, noise, strict=True))
    ]


@pytest.mark.parametrize("several", [False, True])
def test_it_learns_the_labels_that_the_transform_gives(
    several: bool, recipe: ProbeTraining
) -> None:
    """As a classifier does: also of a transform that makes several items of one."""
    crops = [RandSpatialCropSamplesd("image", (24, 24), 2, random_size=False)] * several
    made = Compose([relabelled, *crops, *transform().transforms[1:]])
    images = torch.stack([item["image"] for item in shades()])
    network = recipe(shades(), made, 2, seed=0)
    assert predict(network, images).argmax(1).tolist() == [0, 1] * 6
    found, labels = features_of_views(recipe.encoder.features, made, shades(), 2)
    assert labels.tolist() == [1 - i % 2 for i in range(12) for _ in range(1 + several)]
    assert len(found) == len(labels)


@pytest.mark.parametrize("label", [-100, -1, 2, 0.9, "1", None, [1]])
def test_a_label_that_is_no_class_is_refused(label: Any, recipe: ProbeTraining) -> None:
    items = [*shades(), {"image": torch.zeros(3, 32, 32), "label": label}]
    message = r"a label must be a whole number from 0 to 1, got .* of item 12: give the place"
    with pytest.raises(ValueError, match=message):
        recipe(items, transform(), 2, seed=0)


def test_there_must_be_an_item(recipe: ProbeTraining) -> None:
    with pytest.raises(ValueError, match="a probe needs labelled patches, got none"):
        recipe([], transform(), 2, seed=0)


def test_the_caller_s_encoder_is_left_alone(recipe: ProbeTraining) -> None:
    encoder = recipe.encoder.train()
    network = dataclasses.replace(recipe, device="cpu")(shades(), transform(), 2, seed=0)
    assert encoder.training and not network.training
    torch.nn.init.zeros_(next(network.parameters()))
    assert bool(next(encoder.parameters()).any()), "what is returned may be trained on"
    moved = dataclasses.replace(recipe, device="meta").network(2)
    assert {p.device.type for p in moved.parameters()} == {"meta"}
    assert {p.device.type for p in encoder.parameters()} == {"cpu"}
    again = recipe.network(2), recipe.network(2)
    assert again[0][0] is again[1][0], "a file of several holds the encoder once"


@pytest.mark.parametrize("views", [0, 1.5, True])
def test_views_are_a_whole_number(views: Any, recipe: ProbeTraining) -> None:
    with pytest.raises(ValueError, match="views must be a whole number from 1 on, got"):
        dataclasses.replace(recipe, views=views)
