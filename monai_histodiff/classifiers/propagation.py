"""Labels of few patches, spread over many that lie near them in an encoder's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_histodiff.classifiers.crops import over_crops
from monai_histodiff.classifiers.encoder import linear_probe
from monai_histodiff.classifiers.first_batch import check_finite, check_rows, labelled_items
from monai_histodiff.classifiers.probe import ProbeTraining, check_every_class
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import five_crops
from monai_histodiff.utils.counts import check_from

__all__ = ["PropagatedProbe", "propagated_labels"]

SHARPNESS = 10.0  # of the edges: exp(SHARPNESS * cosine)
ROWS = 1024  # of the graph at a time
ACCURACY = 1e-14  # of the solution: residual over right-hand side
LEAST = 1e-4  # of a probability that is multiplied


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
        ValueError: ``neighbours`` or ``reach`` is out of range, features are not finite or of
            another kind, a label is no class, or a class has no patch.
    """
    check_from(1, neighbours=neighbours)
    if not 0 < reach < 1:
        raise ValueError(f"reach must lie between 0 and 1, got {reach:g}")
    check_rows(features, labels)
    if unlabelled.ndim != 2 or unlabelled.shape[1] != features.shape[1]:
        got = f"{tuple(features.shape)} and {tuple(unlabelled.shape)} of the unlabelled"
        raise ValueError(f"features must be N x D of one encoder, got {got}")
    check_finite(unlabelled)
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be class indices from 0, got {int(labels.min())}")
    labels = labels.long()
    counts = torch.bincount(labels)
    if int(counts.min()) == 0:
        raise ValueError(f"each class needs a labelled patch, got {counts.tolist()} by class")
    x = torch.cat([features, unlabelled]).double()
    x = F.normalize((x - x.mean(0)) / x.std(0).clamp(min=1e-6), dim=1)
    edges = _edges(x, min(neighbours, len(x) - 1))
    given = F.one_hot(labels, len(counts)).to(x)
    padded = torch.cat([given, given.new_zeros(len(unlabelled), len(counts))])
    found = _spread(edges, padded, reach)[len(labels) :].clamp(min=0) + 1e-12
    found = found / found.sum(0)
    return (found / found.sum(1, keepdim=True)).float()


def _edges(x: Tensor, neighbours: int) -> Tensor:
    """The normalised edges ``S`` of the nearest neighbours of unit rows ``N x D``: sparse."""
    ends, weights = [], []
    for rows in torch.arange(len(x), device=x.device).split(ROWS):
        cosine = x[rows] @ x.T
        cosine.scatter_(1, rows[:, None], -2.0)
        near = cosine.topk(neighbours, 1)
        ends.append(torch.stack([rows[:, None].expand_as(near.indices), near.indices]).flatten(1))
        weights.append((near.values * SHARPNESS).exp().flatten())
    (i, j), weight = torch.cat(ends, 1), torch.cat(weights)
    both, twice = torch.stack([torch.cat([i, j]), torch.cat([j, i])]), weight.repeat(2)
    scale = (
        torch.zeros(len(x), dtype=x.dtype, device=x.device).index_add_(0, both[0], twice).rsqrt()
    )
    values = twice * scale[both[0]] * scale[both[1]]
    known: dict[str, Any] = {
        "size": (len(x), len(x)),
        "device": x.device,
        "check_invariants": False,
    }
    return torch.sparse_coo_tensor(both, values, **known).coalesce()


def _spread(edges: Tensor, given: Tensor, reach: float) -> Tensor:
    """``(1 - reach S)^-1 Y`` by conjugate gradients, each column of ``Y`` for itself."""
    found, residual = torch.zeros_like(given), given.clone()
    direction, left = residual, residual.square().sum(0)
    enough = left * ACCURACY**2
    for _ in range(len(given)):
        if bool((left <= enough).all()):
            break
        ahead = direction - reach * torch.sparse.mm(edges, direction)
        step = torch.where(left > enough, left / (direction * ahead).sum(0), 0.0)
        found, residual = found + step * direction, residual - step * ahead
        before, left = left, residual.square().sum(0)
        direction = residual + torch.where(before > 0, left / before, 0.0) * direction
    return found


@dataclass(frozen=True)
class PropagatedProbe(ProbeTraining):
    """A recipe as :class:`~monai_histodiff.classifiers.ProbeTraining` that learns from unlabelled
    patches as well, wherever in a patch its class shows.

    Labels spread over the unlabelled patches by nearness of their features, the mean over five
    crops (:func:`propagated_labels`); a probe of the labelled ones judges the same crops. The
    geometric mean of the two gives each unlabelled patch a class, and the surest of each class
    join the labelled patches, with all their crops; then each class counts the same, however
    rare it is among them.

    Attributes:
        penalty: on the weights of both fits, lower than ``ProbeTraining`` 's, for there is more to
            learn from; where there is nothing unlabelled, its own is taken.
        unlabelled: patches of the target whose labels are not read; ``None``, or a set of none: it
            is a ``ProbeTraining``.
        size: height and width of the crops.
        share: of the patches that are given a class, so many are learned from; in (0, 1].

    Raises:
        ValueError: a number is out of range.
    """

    penalty: float = 0.02
    unlabelled: PatchSet | None = None
    size: int = 128
    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_from(1, size=self.size)
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 1:
            raise ValueError(f"share must lie above 0 and be 1 at the most, got {self.share!r}")

    @cached_property
    def _crops(self) -> Tensor:
        """Features of the unlabelled patches' crops, ``U x C x D``, computed once."""
        if not self.unlabelled:
            return torch.empty(0, 1, self.encoder.num_features, dtype=torch.float32)
        return over_crops(self._copy.features, self.unlabelled, self.size)

    def _layer(
        self, items: Sequence[Mapping[str, Any]], features: Tensor, labels: Tensor
    ) -> nn.Linear:
        if not self.unlabelled:
            return linear_probe(features, labels, ProbeTraining.penalty, scaling="common")
        num_classes = int(labels.max()) + 1
        whole = [labelled_items(dict(d), num_classes, i)[0] for i, d in enumerate(items)]
        given = torch.tensor([d["label"] for d in whole], dtype=torch.long, device="cpu")
        check_every_class(given, num_classes)
        crops = self._crops
        own = super()._layer(items, features, labels)
        shown = [five_crops(torch.as_tensor(d["image"])[None], self.size)[:, 0] for d in items]
        parts = self._copy.features(torch.cat(shown)).split([len(part) for part in shown])
        middle = torch.stack([part.mean(0) for part in parts])
        spread = propagated_labels(middle, given, crops.mean(1))
        judged = own(crops).softmax(-1).mean(1)
        both = (spread.clamp(min=LEAST) * judged.clamp(min=LEAST)).sqrt()
        surest = _surest(both / both.sum(1, keepdim=True), self.share)
        rows = (surest >= 0).nonzero()[:, 0]
        joined = torch.cat([features, crops[rows].flatten(0, 1)])
        theirs = torch.cat([labels, surest[rows].repeat_interleave(crops.shape[1])])
        return linear_probe(joined, theirs, self.penalty, scaling="common", balanced=True)


def _surest(probabilities: Tensor, share: float) -> Tensor:
    """The most probable class of each row, and -1 for all but the surest ``share`` of a class."""
    confidence, found = probabilities.max(1)
    kept = torch.full_like(found, -1)
    for k in found.unique().tolist():
        rows = (found == k).nonzero()[:, 0]
        count = max(1, round(share * len(rows)))
        kept[rows[confidence[rows].topk(count).indices]] = k
    return kept
