"""Are the labels of selected patches right? A further classifier, fitted on real patches that nothing else saw, is asked."""

from __future__ import annotations

from typing import Any

import torch
from monai.transforms import CenterSpatialCrop, Compose
from torch import Tensor

from monai_histodiff.candidates import Candidates
from monai_histodiff.classifiers import ClassifierTraining, predict
from monai_histodiff.patchsets import PatchSet

__all__ = ["label_agreement"]


def label_agreement(
    candidates: Candidates,
    others: PatchSet,
    labelled: PatchSet,
    test: PatchSet,
    training: ClassifierTraining,
    transform: Compose,
    size: int,
) -> dict[str, Any]:
    """How often a further classifier gives a candidate its intended class.

    It reads the labels of patches that the method treats as unlabelled: a measurement for data whose labels are known, not
    a part of the method. It is shown every class equally often: a class of which there are few other patches would else never
    be its answer. Read the figures beside one another: what the classifier does with real patches bounds what it can say of
    synthetic ones.

    Args:
        candidates: with their outcome.
        others: real training patches that neither guide nor critic was fitted on: it is fitted on those that have a label.
        labelled: the patches that guide and critic were fitted on.
        test: real patches of other groups.
        training: its recipe.
        transform: its random transform, from whole uint8 patches to floating-point ones of ``size``.
        size: height and width that it sees; larger patches are judged by their centre.

    Returns:
        ``patches`` (that it was fitted on) and the shares, in [0, 1], to which it gives their class: of the ``accepted``
        candidates (``None`` if there are none), of all ``candidates``, of the ``labelled`` and of the ``test`` patches.

    Raises:
        ValueError: there are no other patches, or a class of the candidates has none among them.
    """
    classes = labelled.classes
    counts = torch.bincount(others.labels[others.labels >= 0], minlength=len(classes))
    if bool((counts == 0).any()):
        name = classes[int(counts.argmin())]
        raise ValueError(f"a further classifier needs training patches of every class beyond the labelled ones, got none of '{name}'")
    most, each = int(counts.max()), [others[i] for i in range(len(others))]
    rows = [(others.labels == k).nonzero()[:, 0].repeat(-(-most // int(counts[k])))[:most] for k in range(len(classes))]
    items = [{"image": each[i]["image"], "label": each[i]["label"]} for i in torch.cat(rows).tolist()]
    network = training(items, transform, len(classes), 0, "further classifier")
    crop = CenterSpatialCrop(size)

    def share(images: Tensor, labels: Tensor) -> float | None:
        if len(images) == 0:
            return None
        views = torch.stack([torch.as_tensor(crop(image)) for image in images])
        return float((predict(network, views).argmax(1) == labels).double().mean())

    kept = candidates.accepted
    return {
        "patches": int(counts.sum()),
        "accepted": share(candidates.images[kept], candidates.labels[kept]),
        "candidates": share(candidates.images, candidates.labels),
        "labelled": share(labelled.images(), labelled.labels),
        "test": share(test.images(), test.labels),
    }
