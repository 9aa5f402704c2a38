from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import ResNet
from torch.nn.functional import normalize

from monai_histodiff import PatchClassifier, PatchCritic, PatchSet
from monai_histodiff.selection.selector import CentroidSelector


@pytest.fixture(scope="module")
def labelled(
    write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> PatchSet:
    return PatchSet.open(
        write_patch_set(tmp_path_factory.mktemp("published") / "set", per_class=8, side=48)
    )


@pytest.fixture(scope="module")
def critic() -> PatchCritic:
    torch.manual_seed(0)
    return PatchCritic([PatchClassifier(3, width=8) for _ in range(2)], 3).eval()


def features_by_hand(critic: PatchCritic, images: torch.Tensor) -> torch.Tensor:
    """What enters the last layer of each member, on the centre 32 x 32."""
    x = images[:, :, 8:40, 8:40].float() / 255 * 4 - 2
    parts = []
    for member in critic.members:
        resnet = member.resnet
        assert isinstance(resnet, ResNet)
        h = resnet.act(resnet.bn1(resnet.conv1(x)))
        h = resnet.layer4(
            resnet.layer3(
                resnet.layer2(resnet.layer1(h if resnet.no_max_pool else resnet.maxpool(h)))
            )
        )
        parts.append(normalize(h.mean((2, 3))))
    return normalize(torch.cat(parts, 1))


def test_the_centre_is_that_of_the_generators_patches_by_default(critic: PatchCritic) -> None:
    images = torch.randint(0, 256, (3, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3)
    found = [
        CentroidSelector(critic, images.to(torch.uint8), labels, **size)(images.byte(), labels)
        for size in ({}, {"size": 128})
    ]
    assert torch.equal(*(each.confidence for each in found))


@torch.no_grad()
def test_the_nearest_centroid_decides(labelled: PatchSet, critic: PatchCritic) -> None:
    images, labels = labelled.images(), labelled.labels
    selector = CentroidSelector(critic, images, labels, size=32)
    features = features_by_hand(critic, images)
    centroids = torch.stack([normalize(features[labels == k].mean(0), dim=0) for k in range(3)])
    cosine = features @ centroids.T
    patches = images[:, :, 8:40, 8:40]
    for intended in range(3):
        found = selector(patches, torch.full_like(labels, intended))
        assert torch.equal(found.keep, cosine.argmax(1) == intended)
        assert torch.allclose(found.confidence, (1 + cosine[:, intended]) / 2, atol=1e-5)
        others = int((cosine.argmax(1) != intended).sum())
        assert found.reasons.count("another centroid is nearer") == others
    right = selector(patches, labels)
    assert right.keep.float().mean() > 0.9 and len(set(right.reasons)) <= 2, (
        "patches of plain colours lie near their own"
    )
    assert torch.equal(right.nearest, torch.arange(len(labels))) or right.distance.max() < 0.2


def test_selection_depends_on_the_patch_alone_and_leaves_the_critic_as_it_was(
    labelled: PatchSet, critic: PatchCritic
) -> None:
    images, labels = labelled.images(), labelled.labels
    selector = CentroidSelector(critic, images, labels, size=32)
    patches = images[:, :, :32, :32]
    whole = selector(patches, labels)
    single = [selector(patches[i : i + 1], labels[i : i + 1]) for i in range(len(patches))]
    assert torch.allclose(whole.confidence, torch.cat([s.confidence for s in single]), atol=1e-5)
    floats = selector(patches.float() / 255, labels)
    assert torch.allclose(whole.confidence, floats.confidence, atol=1e-6)
    assert not any(member.resnet.fc._forward_pre_hooks for member in critic.members)
    assert selector.settings == {"rule": "nearest centroid"}


def test_what_is_not_finite_is_not_accepted_and_labels_are_class_indices(
    labelled: PatchSet, critic: PatchCritic
) -> None:
    images, labels = labelled.images(32).float() / 255, labelled.labels
    selector = CentroidSelector(critic, images, labels, size=32)
    images[0, 0, 0, 0] = torch.nan
    found = selector(images[:2], labels[:2])
    assert found.reasons[0] == "not finite" and not found.keep[0]
    for wrong, message in (
        (labels[1:], r"labels must be 24 class indices, .* got shape \(23,\)"),
        (labels + 1, "labels must lie from 0 to 2, got 1 to 3"),
        (labels + 0.5, "whole numbers, one for each patch, got tensor"),
    ):
        for act in (selector, lambda x, y: CentroidSelector(critic, x.nan_to_num(), y, 32)):
            with pytest.raises(ValueError, match=message):
                act(images, wrong)


def test_a_class_without_patches_has_no_centroid(labelled: PatchSet, critic: PatchCritic) -> None:
    kept = labelled.labels != 1
    with pytest.raises(
        ValueError, match="a centroid needs at least one patch of its class, got none of class 1"
    ):
        CentroidSelector(critic, labelled.images()[kept], labelled.labels[kept], size=32)
