"""Logistic regression on features, as a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import WritePatchSet
from monai.transforms import Compose, RandAxisFlipd, ScaleIntensityRanged, ToTensord

from monai_histodiff import PatchCritic, PatchEncoder, PatchSet, fit_critic
from monai_histodiff.classifiers import ProbeTraining, linear_probe
from monai_histodiff.classifiers.classifier import predict


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
