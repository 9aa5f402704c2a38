"""The accepted patches of each class: how close they are to real ones, and whether their labels
are right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor

from monai_histodiff.classifiers.classifier import ClassifierTraining, predict
from monai_histodiff.classifiers.encoder_names import features_of
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop, recompressed
from monai_histodiff.evaluation.feature_metrics import NEIGHBOURS, compare_features
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.selection.copies import FLOOR, copy_distances, flag_copies

__all__ = ["class_fidelity", "further_counts", "label_agreement", "overall_fidelity"]

MOST = 1000  # pictures of a side that are looked at together


def class_fidelity(
    candidates: Candidates,
    train: PatchSet,
    labelled: PatchSet,
    test: PatchSet,
    features: Callable[[Tensor], Tensor],
    size: int,
) -> dict[str, Any]:
    """Figures of the accepted patches of each class, and of as many real training patches of it:
    the floor.

    Both are compared with the real test patches of the class, which no model has seen. The figures
    depend on the number of patches, which is the same on both sides. All patches are cropped to
    ``size`` and pass through JPEG.

    Args:
        candidates: all candidates with their outcome.
        train: all real training patches, for the floor; their labels are used here, and nowhere
            else.
        labelled: those that generator, guide and critic were fitted on, and that could have been
            copied.
        test: patches of other groups.
        features: uint8 patches ``N x 3 x size x size`` to features ``N x D``.
        size: height and width of the patches.

    Returns:
        For each class: ``samples`` and ``floor``, each the figures of
        :func:`~monai_histodiff.evaluation.feature_metrics.compare_features`, or ``None`` where a
        side has too few patches; ``copies``, counts by
        :func:`~monai_histodiff.selection.copies.flag_copies` among ``samples`` and ``held_out``;
        ``numbers`` of ``real``, ``compared`` and ``accepted``.

    Raises:
        ValueError: the sets are not of the same classes.
    """
    candidates.check_classes(labelled.classes)
    test, generator = test.with_classes(labelled.classes), torch.Generator().manual_seed(0)
    features = partial(features_of, features)

    def load(patches: PatchSet) -> Tensor:
        return recompressed(patches.images(size))

    known, unseen = load(labelled), load(test)
    usual, real = copy_distances(unseen, known)[0], features(unseen)
    twins = flag_copies(usual, usual, FLOOR)
    found: dict[str, Any] = {}
    for k, name in enumerate(labelled.classes):
        own, accepted = (
            real[test.labels == k],
            recompressed(candidates.images[candidates.accepted & (candidates.labels == k)]),
        )
        others = train.select(label=name)
        n = min(len(accepted), len(others))
        enough = min(n, len(own)) > NEIGHBOURS
        sides = (
            {"samples": accepted, "floor": load(others)}
            if enough
            else {"samples": None, "floor": None}
        )
        copies = (
            flag_copies(copy_distances(accepted, known)[0], usual, FLOOR)
            if len(accepted)
            else torch.zeros(0, dtype=torch.bool)
        )
        found[name] = {
            **{
                side: None
                if x is None
                else compare_features(own, features(_some(x, n, generator)))
                for side, x in sides.items()
            },
            "copies": {
                "samples": int(copies.sum()),
                "held_out": int(twins[test.labels == k].sum()),
            },
            "numbers": {
                "real": len(own),
                "compared": n if enough else 0,
                "accepted": len(accepted),
            },
        }
    return found


def overall_fidelity(
    candidates: Candidates,
    train: PatchSet,
    test: PatchSet,
    features: Callable[[Tensor], Tensor],
    size: int,
) -> dict[str, Any]:
    """Figures of all candidates together, whatever is their label: do they look like the real
    test patches? Beside them, the floor: as many real training patches of the same labels.

    Args:
        candidates: the pictures.
        train: real training patches.
        test: patches of other groups, of which a thousand at the most are looked at.
        features: as for :func:`class_fidelity`.
        size: height and width of the patches.

    Returns:
        ``samples`` and ``floor``, as those of a class, and ``compared``, the number of either.
    """
    candidates.check_classes(train.classes)
    generator = torch.Generator().manual_seed(0)
    features = partial(features_of, features)
    made, real = [], []
    for k in range(len(train.classes)):
        own, others = ((side.labels == k).nonzero()[:, 0] for side in (candidates, train))
        count = min(len(own), len(others), MOST // len(train.classes))
        made.append(_some(own, count, generator))
        real.append(_some(others, count, generator))
    rows, drawn = torch.cat(made), torch.cat(real)
    tested = _some(torch.arange(len(test)), MOST, generator)
    if min(len(rows), len(tested)) <= NEIGHBOURS:
        return {"samples": None, "floor": None, "compared": 0}
    unseen = features(recompressed(test.take(tested.tolist()).images(size)))
    sides = (candidates.images[rows], train.take(drawn.tolist()).images(size))
    samples, floor = (compare_features(unseen, features(recompressed(side))) for side in sides)
    return {"samples": samples, "floor": floor, "compared": len(rows)}


def _some(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many rows at random, or all."""
    return x[torch.randperm(len(x), generator=generator)[:count]]


def further_counts(others: PatchSet) -> Tensor:
    """Labelled patches of each class that a further classifier can be fitted on, shape ``K``.

    Args:
        others: real training patches but the labelled ones.

    Raises:
        ValueError: a class has none.
    """
    counts = torch.bincount(others.labels[others.labels >= 0], minlength=len(others.classes))
    if bool((counts == 0).any()):
        name = others.classes[int(counts.argmin())]
        raise ValueError(
            "a further classifier needs training patches of every class beyond the labelled "
            f"ones, got none of '{name}': give --labels_per_class a smaller number, or leave "
            "further_steps at 0"
        )
    return counts


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

    It reads the labels of patches that the method treats as unlabelled: a measurement for data
    whose labels are known, not a part of the method. It is shown every class equally often: a
    class of which there are few other patches would else never be its answer. Read the figures
    beside one another: what the classifier does with real patches bounds what it can say of
    synthetic ones.

    Args:
        candidates: with their outcome.
        others: real training patches that neither guide nor critic was fitted on: it is fitted on
            those that have a label.
        labelled: the patches that guide and critic were fitted on.
        test: real patches of other groups.
        training: its recipe.
        transform: its random transform, from whole uint8 patches to floating-point ones of
            ``size``.
        size: height and width that it sees; larger patches are judged by their centre.

    Returns:
        ``patches`` (that it was fitted on) and the shares, in [0, 1], to which it gives their
        class: of the ``accepted`` candidates (``None`` if there are none), of all ``candidates``,
        of the ``labelled`` and of the ``test`` patches.

    Raises:
        ValueError: as :func:`further_counts`, or the sets are not of the same classes.
    """
    candidates.check_classes(classes := labelled.classes)
    others, test = others.with_classes(classes), test.with_classes(classes)
    counts = further_counts(others)
    most, each = int(counts.max()), [others[i] for i in range(len(others))]
    rows = [
        (others.labels == k).nonzero()[:, 0].repeat(-(-most // int(counts[k])))[:most]
        for k in range(len(classes))
    ]
    items = [
        {"image": each[i]["image"], "label": each[i]["label"]} for i in torch.cat(rows).tolist()
    ]
    network = training(items, transform, len(classes), 0, "further classifier")

    def share(images: Tensor, labels: Tensor) -> float | None:
        if len(images) == 0:
            return None
        views = centre_crop(images, size)
        return float((predict(network, views).argmax(1) == labels).double().mean())

    kept = candidates.accepted
    return {
        "patches": int(counts.sum()),
        "accepted": share(candidates.images[kept], candidates.labels[kept]),
        "candidates": share(candidates.images, candidates.labels),
        "labelled": share(labelled.images(size), labelled.labels),
        "test": share(test.images(size), test.labels),
    }
