"""Labels of few patches, spread over many that lie near them in an encoder's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_histodiff.classifiers.probe import ProbeTraining
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop

__all__ = ["PropagatedProbe", "propagated_labels"]

SHARPNESS = 10.0  # of the edges: exp(SHARPNESS * cosine)


def propagated_labels(
    features: Tensor, labels: Tensor, unlabelled: Tensor, neighbours: int = 10, reach: float = 0.95
) -> Tensor:
    """Learning with local and global consistency (Zhou et al. 2004, NeurIPS 16), equation 3.

    Patches are the nodes of a graph; each is joined to its ``neighbours`` nearest by the cosine of
    their features, standardised over all of them, and symmetrically normalised edges ``S`` carry
    the labels ``Y``: ``F = (1 - reach S)^-1 Y``. Each class is given the same mass of labels (Zhu
    et al. 2003, class mass normalisation).

    Args:
        features: of the labelled patches, ``N x D``.
        labels: class indices from 0, each up to the largest present, shape ``N``.
        unlabelled: features ``U x D``.
        neighbours: of each patch, at most all others.
        reach: how far labels spread, in (0, 1).

    Returns:
        Probabilities of the unlabelled patches, float32, ``U x K``; rows add up to 1.

    Raises:
        ValueError: ``neighbours`` or ``reach`` is out of range, or a class has no patch.
    """
    if neighbours < 1 or not 0 < reach < 1:
        raise ValueError(
            "neighbours must be at least 1, and reach lie between 0 and 1, got "
            f"{neighbours} and {reach:g}"
        )
    counts = torch.bincount(labels)
    if not len(counts) or int(counts.min()) == 0:
        raise ValueError(f"each class needs a labelled patch, got {counts.tolist()} by class")
    x = torch.cat([features, unlabelled]).double()
    x = F.normalize((x - x.mean(0)) / x.std(0).clamp(min=1e-6), dim=1)
    cosine = (x @ x.T).fill_diagonal_(-2.0)
    near = cosine.topk(min(neighbours, len(x) - 1), 1)
    edges = torch.zeros_like(cosine).scatter_(1, near.indices, (near.values * SHARPNESS).exp())
    edges = edges + edges.T
    scale = edges.sum(1).rsqrt()
    spread = torch.eye(len(x), dtype=x.dtype) - reach * scale[:, None] * edges * scale
    given = F.one_hot(labels, len(counts)).to(x)
    padded = torch.cat([given, given.new_zeros(len(unlabelled), len(counts))])
    found = torch.linalg.solve(spread, padded)[len(labels) :].clamp(min=0) + 1e-12
    found = found / found.sum(0)
    return (found / found.sum(1, keepdim=True)).float()


@dataclass(frozen=True)
class PropagatedProbe(ProbeTraining):
    """A recipe as :class:`~monai_histodiff.classifiers.ProbeTraining` that learns from unlabelled
    patches as well: from those whose propagated label is the surest of its class.

    Attributes:
        unlabelled: patches of the target whose labels are not read, or their features ``U x D``;
            ``None``: as ``ProbeTraining``.
        size: height and width of the centre crops that these are of, and that the labelled
            patches join them by.
        share: of the patches that propagation gives a class, so many are learned from.
    """

    unlabelled: PatchSet | Tensor | None = None
    size: int = 128
    share: float = 0.8

    @cached_property
    def _features(self) -> Tensor:
        """Of the unlabelled patches, ``U x D``, computed once."""
        given = self.unlabelled
        if isinstance(given, PatchSet):
            return self.encoder.features(given.images(self.size))
        return torch.empty(0, dtype=torch.float32) if given is None else given

    def _layer(
        self, items: Sequence[Mapping[str, Any]], features: Tensor, labels: Tensor
    ) -> nn.Linear:
        if self.unlabelled is None or not len(self.unlabelled):
            return super()._layer(items, features, labels)
        middles = [centre_crop(torch.as_tensor(item["image"]), self.size) for item in items]
        own = self.encoder.features(torch.stack(middles))
        given = torch.tensor([int(item["label"]) for item in items])
        surest = _surest(propagated_labels(own, given, self._features), self.share)
        rows = (surest >= 0).nonzero()[:, 0]
        joined = torch.cat([features, self._features[rows]])
        return super()._layer(items, joined, torch.cat([labels, surest[rows]]))


def _surest(probabilities: Tensor, share: float) -> Tensor:
    """The most probable class of each row, and -1 for all but the surest ``share`` of a class."""
    confidence, found = probabilities.max(1)
    kept = torch.full_like(found, -1)
    for k in found.unique().tolist():
        rows = (found == k).nonzero()[:, 0]
        count = max(1, round(share * len(rows)))
        kept[rows[confidence[rows].topk(count).indices]] = k
    return kept
