"""Logistic regression on an encoder's features, as a recipe in place of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor, nn

from monai_histodiff.classifiers.encoder import PatchEncoder, linear_probe
from monai_histodiff.classifiers.encoder_names import NamedEncoder, features_of
from monai_histodiff.utils.global_state import float32_default, kept_random_state

__all__ = ["ProbeTraining", "features_of_views"]

AT_ONCE = 256  # views that are in memory


def features_of_views(
    features: Callable[[Tensor], Tensor], transform: Compose, items: Iterable[Mapping[str, Any]]
) -> Tensor:
    """Features ``N x D`` of a view of each item, by a transform that makes its image a patch in
    [0, 1]; few views are kept at a time.
    """
    left, found = iter(items), []
    while part := list(islice(left, AT_ONCE)):
        views = [torch.as_tensor(transform(dict(item))["image"]) for item in part]
        found.append(features_of(features, torch.stack(views).float()))
    return torch.cat(found)


@dataclass(frozen=True)
class ProbeTraining:
    """A recipe that fits logistic regression on the features of a patch encoder, which stays as it
    is: in the place of :class:`~monai_histodiff.ClassifierTraining` where labels are few.

    Attributes:
        encoder: the patch encoder, or one by :func:`~monai_histodiff.classifiers.named_encoder`.
        views: augmented views of each patch that the regression is fitted on.
        penalty: on its weights, see :func:`~monai_histodiff.classifiers.linear_probe`.
        device: where to compute features.
    """

    encoder: PatchEncoder | NamedEncoder
    views: int = 8
    penalty: float = 0.1
    device: str | torch.device = "cpu"

    @float32_default()
    def network(self, num_classes: int) -> nn.Sequential:
        """The encoder, which all networks of this recipe share, with a last layer that is
        random.
        """
        return nn.Sequential(self.encoder, nn.Linear(self.encoder.num_features, num_classes))

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
            data: items with ``"image"`` and ``"label"``; each class must occur.
            transform: makes an item's image a floating-point patch in [0, 1]; its random state is
                set from ``seed``.
            num_classes: number of classes.
            seed: of the augmentation.
            name: not shown: a fit takes seconds.

        Returns:
            Encoder and last layer, in evaluation mode.

        Raises:
            ValueError: a class has no patch.
        """
        transform.set_random_state(seed)
        given = [int(item["label"]) for item in data]
        labels = torch.tensor(given, dtype=torch.long, device="cpu").repeat(self.views)
        if len(found := labels.unique()) < num_classes:
            got = f"{found.tolist()} of {num_classes}"
            raise ValueError(f"a probe needs patches of every class, got classes {got}")
        network = self.network(num_classes).to(self.device)
        every = (item for _ in range(self.views) for item in data)
        features = features_of_views(self.encoder.features, transform, every)
        network[1] = self._layer(data, features, labels).to(self.device)
        return network.eval()

    def _layer(
        self, items: Sequence[Mapping[str, Any]], features: Tensor, labels: Tensor
    ) -> nn.Linear:
        """The last layer, fitted on the features and labels of all views of the items."""
        return linear_probe(features, labels, self.penalty, scaling="common")
