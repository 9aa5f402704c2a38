"""Logistic regression on an encoder's features, as a recipe in place of a training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor, nn

from monai_histodiff.classifiers.encoder import PatchEncoder, linear_probe
from monai_histodiff.classifiers.encoder_names import NamedEncoder, features_of
from monai_histodiff.classifiers.first_batch import labelled_items
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.global_state import float32_default, kept_random_state

__all__ = ["ProbeTraining", "check_every_class", "features_of_views"]

AT_ONCE = 256  # views that are in memory


def features_of_views(
    features: Callable[[Tensor], Tensor],
    transform: Compose,
    items: Iterable[Mapping[str, Any]],
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Features ``N x D`` and labels ``N`` of a view of each item, or of several, by a transform
    that makes its image a patch in [0, 1] and may change its label; few views are kept at a time.

    Raises:
        ValueError: a view's label is not one of the classes.
    """
    left, found, labels = enumerate(items), [], []
    while part := list(islice(left, AT_ONCE)):
        made = [v for i, d in part for v in labelled_items(transform(dict(d)), num_classes, i)]
        views = torch.stack([torch.as_tensor(view["image"]) for view in made])
        found.append(features_of(features, views.float()))
        labels += [view["label"] for view in made]
    return torch.cat(found), torch.tensor(labels, dtype=torch.long, device="cpu")


@dataclass(frozen=True)
class ProbeTraining:
    """A recipe that fits logistic regression on the features of a patch encoder, which stays as it
    is: in the place of :class:`~monai_histodiff.ClassifierTraining` where labels are few.

    Attributes:
        encoder: the patch encoder, or one by :func:`~monai_histodiff.classifiers.named_encoder`.
        views: augmented views of each patch that the regression is fitted on.
        penalty: on its weights, see :func:`~monai_histodiff.classifiers.linear_probe`.
        device: where to compute features.

    Raises:
        ValueError: ``views`` is no whole number from 1 on.
    """

    encoder: PatchEncoder | NamedEncoder
    views: int = 8
    penalty: float = 0.1
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        check_from(1, views=self.views)

    @cached_property
    def _copy(self) -> PatchEncoder | NamedEncoder:
        """Of the encoder as it is at the first use: networks that are trained or moved leave the
        caller's alone.
        """
        return copy.deepcopy(self.encoder).to(self.device).eval()

    @float32_default()
    def network(self, num_classes: int) -> nn.Sequential:
        """A copy of the encoder, which all networks of this recipe share, with a last layer that
        is random.
        """
        last = nn.Linear(self._copy.num_features, num_classes)
        return nn.Sequential(self._copy, last.to(self.device))

    @kept_random_state()
    def __call__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        num_classes: int,
        seed: int,
        name: str = "fit",
    ) -> nn.Module:
        """Fit it.

        Args:
            data: items with ``"image"`` and ``"label"``.
            transform: makes an item's image a floating-point patch in [0, 1], and may change its
                label; each class must occur in what it makes. Its random state is set from
                ``seed``.
            num_classes: number of classes.
            seed: of the augmentation.
            name: not shown: a fit takes seconds.

        Returns:
            Encoder and last layer, in evaluation mode.

        Raises:
            ValueError: there is no item, a label is not one of the classes, or a class has no
                patch.
        """
        if not len(data):
            raise ValueError("a probe needs labelled patches, got none")
        transform.set_random_state(seed)
        every = (item for _ in range(self.views) for item in data)
        encode = self._copy.features
        features, labels = features_of_views(encode, transform, every, num_classes)
        check_every_class(labels, num_classes)
        network = self.network(num_classes)
        network[1] = self._layer(data, features, labels).to(self.device)
        return network.eval()

    def _layer(
        self, items: Sequence[Mapping[str, Any]], features: Tensor, labels: Tensor
    ) -> nn.Linear:
        """The last layer, fitted on the features and labels of all views of the items."""
        return linear_probe(features, labels, self.penalty, scaling="common")


def check_every_class(labels: Tensor, num_classes: int) -> None:
    """Refuse labels among which a class is missing.

    Raises:
        ValueError: one is.
    """
    if len(found := labels.unique()) < num_classes:
        got = f"{found.tolist()} of {num_classes}"
        raise ValueError(f"a probe needs patches of every class, got classes {got}")
