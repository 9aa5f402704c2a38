"""The verdict's experiment: the same classifier, trained for the same steps, on arms that differ only in their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop, Compose
from torch import Tensor
from tqdm import tqdm

from monai_histodiff.bank import SyntheticBank
from monai_histodiff.candidates import Candidates
from monai_histodiff.classifiers import ClassifierTraining, predict
from monai_histodiff.comparisons import paired_difference, verdict
from monai_histodiff.metrics import METRICS, class_recall, classification_metrics
from monai_histodiff.patchsets import PatchSet
from monai_histodiff.transforms import SyntheticAugmentd

__all__ = ["ARMS", "Evaluation", "arm_bank", "colour_floors", "five_crops"]

ARMS = {
    "A": "real patches, no augmentation",
    "C": "real + strong classical augmentation",
    "F": "C + random synthetic patches",
    "G": "C + selected synthetic patches",
    "H": "C + lowest-scored synthetic patches",
    "S": "C + selected synthetic patches, labels shuffled",
    "I": "selected synthetic patches only, with C's augmentation",
}


def arm_bank(arm: str, candidates: Candidates, classes: Sequence[str], seed: int = 0) -> SyntheticBank | None:
    """The synthetic patches of an arm; every synthetic arm has as many of each class as were accepted.

    Args:
        arm: a key of :data:`ARMS`.
        candidates: all candidates with their outcome.
        classes: class names.
        seed: of the random draw (F) and of the shuffle (S).

    Raises:
        ValueError: there is no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {sorted(ARMS)}, got '{arm}'")
    if arm in ("A", "C"):
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = candidates.accepted.nonzero()[:, 0]
    if arm == "S":
        labels = candidates.labels.clone()
        labels[chosen] = labels[chosen[torch.randperm(len(chosen), generator=generator)]]
        shuffled = Candidates(**{**candidates.__dict__, "labels": labels})
        return shuffled.bank(chosen, classes)
    if arm in ("F", "H"):
        parts = []
        for k in range(len(classes)):
            rows = (candidates.labels == k).nonzero()[:, 0]
            order = torch.randperm(len(rows), generator=generator) if arm == "F" else candidates.confidence[rows].argsort()
            parts.append(rows[order[: int(candidates.accepted[rows].sum())]])
        chosen = torch.cat(parts)
    return candidates.bank(chosen, classes)


def five_crops(images: Tensor, size: int) -> Tensor:
    """Centre and corner crops ``5 x N x 3 x size x size``; the images themselves, ``1 x N x ...``, if they have that size."""
    h, w = images.shape[2:]
    if (h, w) == (size, size):
        return images[None]
    corners = [images[..., i : i + size, j : j + size] for i in (0, h - size) for j in (0, w - size)]
    middle = images[..., (h - size) // 2 : (h - size) // 2 + size, (w - size) // 2 : (w - size) // 2 + size]
    return torch.stack([middle, *corners])


def colour_floors(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int, ridge: float = 1e-2
) -> dict[str, dict[str, float]]:
    """What colour alone achieves: ridge regression on the mean colour, and on 16-bin histograms of each channel.

    Args:
        train: uint8 patches ``N x 3 x H x W``.
        train_labels: shape ``N``.
        test: uint8 patches ``M x 3 x H x W``.
        test_labels: shape ``M``.
        num_classes: number of classes.
        ridge: regularisation, as a fraction of ``N``.

    Returns:
        Metrics for ``"mean colour"`` and ``"colour histogram"``.
    """

    def mean(x: Tensor) -> Tensor:
        return x.float().mean((2, 3)) / 255

    def histogram(x: Tensor) -> Tensor:
        bins = (x // 16).long().flatten(2)
        return torch.zeros(*bins.shape[:2], 16).scatter_add_(2, bins, torch.ones(bins.shape)).flatten(1) / bins.shape[2]

    floors = {}
    for name, features in (("mean colour", mean), ("colour histogram", histogram)):
        a, b = features(train), features(test)
        centre, spread = a.mean(0), a.std(0).clamp(min=1e-6)
        a, b = ((torch.nn.functional.pad((v - centre) / spread, (0, 1), value=1.0)).double() for v in (a, b))
        target = torch.nn.functional.one_hot(train_labels, num_classes).double()
        weights = torch.linalg.solve(a.T @ a + ridge * len(a) * torch.eye(a.shape[1]), a.T @ target)
        floors[name] = classification_metrics(torch.softmax(b @ weights * 5, 1).numpy(), test_labels.numpy())
    return floors


class Evaluation:
    """Trains every arm with every seed and compares them.

    Args:
        labelled: the real labelled training patches.
        test: test patches, of other groups.
        candidates: synthetic candidates with their outcome.
        training: the recipe, the same for every arm.
        crop: brings real training patches to ``size`` (it may be random).
        classical: the strong classical augmentation, ending in floating-point patches in [0, 1].
        plain: brings a patch to floating point in [0, 1] and nothing else (arm A).
        arms: keys of :data:`ARMS`; ``"C"`` must be among them.
        seeds: one training of each arm for each.
        prob: probability of a synthetic patch in the synthetic arms.
        size: height and width that the classifier sees.

    Raises:
        ValueError: an arm is unknown, C is missing, no seed is given, or training and test groups overlap.
    """

    def __init__(
        self,
        labelled: PatchSet,
        test: PatchSet,
        candidates: Candidates,
        training: ClassifierTraining,
        crop: Any,
        classical: Any,
        plain: Any,
        arms: Sequence[str] = ("C", "F", "G"),
        seeds: Sequence[int] = (0, 1, 2),
        prob: float = 0.5,
        size: int = 128,
    ) -> None:
        if any(a not in ARMS for a in arms) or "C" not in arms:
            raise ValueError(f"arms must be among {sorted(ARMS)} and include 'C', got {list(arms)}")
        if not seeds:
            raise ValueError("at least one seed is needed, got none")
        shared = sorted(set(labelled.groups) & set(test.groups))
        if shared:
            raise ValueError(f"training and test groups must be disjoint, got {len(shared)} in both, such as '{shared[0]}'")
        self.labelled, self.test, self.candidates, self.training = labelled, test, candidates, training
        self.crop, self.classical, self.plain, self.prob, self.size = crop, classical, plain, prob, size
        self.arms, self.seeds = tuple(arms), tuple(int(s) for s in seeds)
        self.probabilities: dict[str, list[np.ndarray]] = {}

    def run(self) -> dict[str, list[np.ndarray]]:
        """Train all arms and return their test probabilities, one array for each seed; also in :attr:`probabilities`."""
        real = [self.labelled[i] for i in range(len(self.labelled))]
        items = [{"image": d["image"], "label": d["label"]} for d in real]
        test = five_crops(self.test.images(), self.size)
        classes = self.labelled.classes
        self.probabilities = {}
        for seed in self.seeds:
            for arm in self.arms:
                bank = arm_bank(arm, self.candidates, classes, seed)
                mix = [] if bank is None else [SyntheticAugmentd("image", bank, prob=1.0 if arm == "I" else self.prob)]
                keep = _KeepPair()
                transform = Compose([self.crop, *mix, keep, self.plain if arm == "A" else self.classical])
                network = self.training(items, transform, len(classes), seed, f"arm {arm}, seed {seed}")
                views = torch.stack([torch.softmax(predict(network, view), 1) for view in test])
                self.probabilities.setdefault(arm, []).append(views.mean(0).double().numpy())
        return self.probabilities

    def results(self, comparisons: Sequence[str] = ("G-C", "G-F", "G-S", "G-A"), draws: int = 1000) -> dict[str, Any]:
        """Metrics of every arm and seed, differences with intervals, recall, floors and the verdict, as plain values."""
        labels, classes = self.test.labels.numpy(), self.labelled.classes
        arms: dict[str, dict[str, list[float]]] = {}
        recall: dict[str, dict[str, list[float]]] = {}
        for arm, runs in self.probabilities.items():
            each = [classification_metrics(p, labels) for p in runs]
            arms[arm] = {m: [e[m] for e in each] for m in METRICS}
            per_class = [class_recall(p, labels) for p in runs]
            recall[arm] = {name: [float(r[k]) for r in per_class] for k, name in enumerate(classes)}
        differences = {}
        for name in tqdm(comparisons, desc="bootstrap"):
            a, b = name.split("-")
            if a in self.probabilities and b in self.probabilities:
                differences[name] = paired_difference(self.probabilities[a], self.probabilities[b], labels, self.test.groups, draws)
        crop = CenterSpatialCrop(self.size)
        train, test = (torch.stack([torch.as_tensor(crop(x)) for x in p.images()]) for p in (self.labelled, self.test))
        accepted = int(self.candidates.accepted.sum())
        outcome, sentence = "soft", "Not tested: arm G was not run."
        if accepted == 0:
            sentence = "Not tested: no synthetic patch was accepted, so arm G is arm C."
        elif "G-C" in differences:
            outcome, sentence = verdict(differences["G-C"]["balanced_accuracy"], len(self.seeds))
        return {
            "arms": arms,
            "arm_names": {a: ARMS[a] for a in arms},
            "differences": differences,
            "recall": recall,
            "floors": colour_floors(train, self.labelled.labels, test, self.test.labels, len(classes)),
            "seeds": list(self.seeds),
            "outcome": outcome,
            "verdict": sentence,
        }


class _KeepPair:
    """Drops all but image and label, so that every arm collates the same items."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": data["image"], "label": data["label"]}
