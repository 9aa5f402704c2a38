"""FixMatch: a classifier that learns from unlabelled patches beside the labelled ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.engines import default_prepare_batch
from monai.transforms import Compose, Randomizable, Transform
from torch import Tensor, nn
from torch.nn import functional

from monai_histodiff.classifiers.classifier import ClassifierTraining
from monai_histodiff.training.steps import AutocastInferer

__all__ = ["BesideUnlabelled", "FixMatchPrepareBatch", "FixMatchTraining"]


class BesideUnlabelled(Randomizable, Transform):
    """Adds two views of an unlabelled patch, drawn at random, to an item: ``"weak"`` and
    ``"strong"``.

    Args:
        images: the unlabelled patches, ``N x 3 x H x W``.
        weak: ``{"image": patch}`` to a slightly augmented one, floating point in [0, 1].
        strong: likewise, strongly augmented.

    Raises:
        ValueError: there are no unlabelled patches.
    """

    def __init__(self, images: Tensor, weak: Compose, strong: Compose) -> None:
        if not len(images):
            raise ValueError("FixMatch needs unlabelled patches, got none")
        self.images, self.weak, self.strong = images, weak, strong

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> BesideUnlabelled:
        super().set_random_state(seed, state)
        for view in (self.weak, self.strong):
            view.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = self.images[int(self.R.randint(len(self.images)))]
        views = {"weak": self.weak, "strong": self.strong}
        return {**data, **{k: view({"image": image})["image"] for k, view in views.items()}}


class FixMatchPrepareBatch:
    """``prepare_batch`` of FixMatch (Sohn et al. 2020, arXiv:2001.07685, algorithm 1).

    What the network finds in the weak view of an unlabelled patch is the target of its strong
    view, where its probability is at least the threshold. The others have a target of zeros, which
    the cross-entropy of probabilities passes over.

    Args:
        network: patches to logits ``N x num_classes``.
        num_classes: number of classes.
        threshold: lowest probability of a target.
        inferer: calls the network.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        threshold: float,
        inferer: Callable[..., Any],
    ) -> None:
        self.network, self.num_classes = network, num_classes
        self.threshold, self.inferer = threshold, inferer

    def __call__(
        self, batchdata: Any, device: Any = None, non_blocking: bool = False, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Labelled patches and strong views, ``2N x 3 x H x W``, and their targets,
        ``2N x num_classes``.
        """
        image, label = default_prepare_batch(batchdata, device, non_blocking, **options)
        weak, strong = (batchdata[k].to(image) for k in ("weak", "strong"))
        with torch.no_grad():
            found = self.inferer(weak, self.network).softmax(1)
        confidence, assumed = found.max(1)
        target = functional.one_hot(torch.cat([label, assumed]), self.num_classes).float()
        target[len(label) :] *= (confidence >= self.threshold).float()[:, None]
        return torch.cat([image, strong]), target


@dataclass(frozen=True)
class FixMatchTraining(ClassifierTraining):
    """A recipe as :class:`ClassifierTraining` whose items hold an unlabelled patch besides, see
    :class:`BesideUnlabelled`. Labels are not smoothed: no probability would reach the threshold.

    Attributes:
        threshold: lowest probability at which the network's answer becomes a target.
    """

    threshold: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threshold, (int, float)) or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold!r}")

    def _objective(
        self, network: nn.Module, num_classes: int, seed: int
    ) -> tuple[Callable[..., Any], nn.Module]:
        inferer = AutocastInferer(self.bfloat16)
        prepare = FixMatchPrepareBatch(network, num_classes, self.threshold, inferer)
        return prepare, nn.CrossEntropyLoss()
