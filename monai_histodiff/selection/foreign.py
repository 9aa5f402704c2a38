"""Synthetic pictures of any origin, judged as our own candidates are. No generator is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.duplicates import PLAIN, contrasts
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import recompressed, sharpness, thumbnails
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.selection.copies import FLOOR
from monai_histodiff.selection.copy_check import Copies, CopyCheck, repeated_rows
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.selection.fitting import check_fitted
from monai_histodiff.selection.reasons import Reason
from monai_histodiff.selection.selector import select
from monai_histodiff.selection.tissue_check import KnownFeatures, TissueCheck

__all__ = ["Judge", "Judged"]

REFERENCE = 4000  # training patches that likeness is measured to, at the most, drawn at random
SOFTEST = 0.01  # share of the real training patches that are softer than what is called soft


@dataclass(frozen=True)
class Judged:
    """A synthetic set and what became of each of its pictures.

    Attributes:
        name: of its folder or zip.
        pictures: the set.
        train: the real training patches that copies were looked for in.
        candidates: the same as candidates, in the same order.
        known: the copies of real training patches among them, whatever else they are.
        tested: the copies of test patches, which are nearer to them than to any training patch.
        twins: how many pictures another one of the set repeats, which the critic likes as much or
            better.
        unlike: how many pictures are unlike all real training patches.
        taught: share, in [0, 1], of the pictures whose label is the critic's first choice.
        labelled: how many labelled real patches there are of each class, ``K``.
        right: how many of these are of their class to the member that has not seen them, ``K``.
        usual: share of the held-out real patches that count as copies by the same rule.
        usual_unlike: share of them that count as unlike.
        called: the critic's first choice for each picture, ``N``.
        soft: how many pictures are softer than 99 in 100 of the real training patches.
        usual_soft: share of the held-out real patches that are.
    """

    name: str
    pictures: PatchSet
    train: PatchSet
    candidates: Candidates
    known: Copies
    tested: Copies
    twins: int
    unlike: int
    taught: float
    labelled: Tensor
    right: Tensor
    usual: float
    usual_unlike: float
    called: Tensor
    soft: int
    usual_soft: float

    @property
    def expected(self) -> float:
        """:attr:`taught` of labelled real patches, in the set's own shares of the classes."""
        shares, own = self.right / self.labelled, self.candidates.labels
        return float(shares.double()[own].mean())

    @property
    def exact(self) -> Tensor:
        """Which pictures are test patches themselves, but for compression, and no training
        patches, nor plain, as background of any slide is: bool, ``N``.
        """
        plain = contrasts(thumbnails(self.candidates.images)) < PLAIN
        same = self.tested.copy & (self.tested.distance <= FLOOR)
        return same & (self.known.distance > FLOOR) & ~plain

    def nearest_names(self) -> list[str]:
        """The real training patch nearest to each picture, by the name that tells it from those of
        other sources: :meth:`~monai_histodiff.PatchSet.names`.
        """
        names = self.train.names()
        return [names[int(i)] for i in self.known.nearest]

    def pictures_by_class(self) -> dict[str, int]:
        """How many pictures the set has of each class of the real one."""
        labels = self.candidates.labels
        return {n: int((labels == k).sum()) for k, n in enumerate(self.candidates.classes)}

    def by_class(self) -> dict[str, dict[str, Any]]:
        """Of the pictures of each class of the real set, how many there are (``pictures``), are
        kept (``accepted``) and are of which class to the critic (``called``); and how many real
        patches are ``labelled``, and told ``right`` by the member that has not seen them.
        """
        found, names = self.candidates, self.candidates.classes
        return {
            name: {
                "pictures": int(own.sum()),
                "accepted": int((own & found.accepted).sum()),
                "called": {n: int((own & (self.called == i)).sum()) for i, n in enumerate(names)},
                "labelled": int(self.labelled[k]),
                "right": int(self.right[k]),
            }
            for k, name in enumerate(names)
            for own in (found.labels == k,)
        }

    def counts(self) -> dict[str, Any]:
        """``pictures``, ``accepted``, ``copies``, ``refused_copies`` (0 where copies are not
        refused), ``test_copies``, ``exact_test_copies`` among them, ``twins``, ``soft``; the
        shares; and by ``generator``, where the manifest names some, ``pictures``, ``accepted`` and
        ``copies``; and ``classes``, see :meth:`by_class`.
        """
        kept, copied = self.candidates.accepted.tolist(), self.known.copy.tolist()
        names = [r.extra.get("generator", "") for r in self.pictures.records]
        made = {
            name or "not named": {
                "pictures": names.count(name),
                "accepted": sum(k for k, n in zip(kept, names, strict=True) if n == name),
                "copies": sum(c for c, n in zip(copied, names, strict=True) if n == name),
            }
            for name in dict.fromkeys(names)
        }
        return {
            "name": self.name,
            "pictures": len(self.pictures),
            "accepted": sum(kept),
            "copies": sum(copied),
            "refused_copies": self.candidates.reasons.count(Reason.near_copy),
            "test_copies": int(self.tested.copy.sum()),
            "exact_test_copies": int(self.exact.sum()),
            "twins": self.twins,
            "unlike": self.unlike,
            "taught": self.taught,
            "expected": self.expected,
            "usual": self.usual,
            "usual_unlike": self.usual_unlike,
            "soft": self.soft,
            "usual_soft": self.usual_soft,
            "generators": made if any(names) else {},
            "classes": self.by_class(),
        }


class Judge:
    """Judges synthetic sets: their labels by the critic, copies by a :class:`CopyCheck`, pictures
    that show no such tissue by a :class:`TissueCheck`, and pictures that a set holds twice.

    Args:
        critic: judges the labels.
        labelled: real patches, in the order in which the critic was fitted on them.
        train: all real training patches: what must not be copied.
        test: real test patches; a copy of one is a leak.
        size: height and width of the centre crops that are judged and used.
        features: patches ``N x 3 x size x size``, uint8 or in [0, 1], to features ``N x D``, in
            which likeness is measured.
        refuse_copies: refuse what copies a training patch. Copies of test patches, what is unlike
            all training patches, and what another picture repeats, are always refused.

    Raises:
        ValueError: the critic was fitted on other classes or patches than the labelled ones, by
            their numbers.

    Attributes:
        features: the same, computed once for each patch.
        unseen: bool: which of the test patches count as copies of training patches.
        softest: sharpness below which a picture is soft.
    """

    def __init__(
        self,
        critic: PatchCritic,
        labelled: PatchSet,
        train: PatchSet,
        test: PatchSet,
        size: int,
        features: Callable[[Tensor], Tensor],
        refuse_copies: bool = True,
    ) -> None:
        check_fitted(critic, labelled)
        self.critic, self.labelled, self.train, self.test = critic, labelled, train, test
        self.features = KnownFeatures(features)
        self.size, self.refuse_copies = size, refuse_copies
        self.threshold = float(critic.threshold)
        self.known, self.tested = CopyCheck(train, size), CopyCheck(test, size)
        self.unseen = self.known(test).copy
        self.usual = float(self.unseen.double().mean())
        drawn = np.random.default_rng(0).permutation(len(train))[:REFERENCE]
        known = train.take(sorted(drawn.tolist()))
        images, unseen = known.images(size), test.images(size)
        self.tissue = TissueCheck(self.features(images), known.groups)
        odd = self.tissue(self.features(unseen))
        self.usual_unlike = float(odd.double().mean())
        self.softest = float(torch.quantile(sharpness(recompressed(images)), SOFTEST))
        self.usual_soft = float(self.soft(unseen).double().mean())
        own = torch.arange(len(labelled))
        first = critic.probabilities(labelled.images(size), own).argmax(1)
        self.right = torch.bincount(
            labelled.labels[first == labelled.labels], minlength=len(labelled.classes)
        )

    def soft(self, images: Tensor) -> Tensor:
        """Which patches, uint8 ``N x 3 x H x W``, are softer than 99 in 100 of the real training
        patches, once all have passed through JPEG: bool, shape ``N``.
        """
        return sharpness(recompressed(images)) < self.softest

    def __call__(self, pictures: PatchSet, name: str) -> Judged:
        """Judge a set that :func:`open_synthetic` opened; its pictures are read once more."""
        images = pictures.images(self.size)
        classes = {label: k for k, label in enumerate(self.labelled.classes)}
        labels = torch.tensor([classes[r.label] for r in pictures.records], dtype=torch.long)
        known, tested = self.known(pictures), self.tested(pictures)
        # what is nearer to a training patch tells of that, however like a test patch it is
        tested = replace(tested, copy=tested.copy & (tested.likeness > known.likeness))
        unlike = self.tissue(self.features(images))
        probabilities = self.probabilities(images, pictures, known)
        chosen = select(probabilities, labels, known.distance, known.nearest, self.threshold, 0.0)
        reasons = [
            Reason.near_copy
            if copy and self.refuse_copies
            else Reason.test_copy
            if leak
            else Reason.unlike
            if odd
            else reason
            for leak, copy, odd, reason in zip(
                *(part.tolist() for part in (tested.copy, known.copy, unlike)),
                chosen.reasons,
                strict=True,
            )
        ]
        repeated = repeated_rows(images, chosen.confidence)
        reasons = [
            Reason.duplicate if i in repeated and reason is Reason.accepted else reason
            for i, reason in enumerate(reasons)
        ]
        seeds = [r.extra.get("seed") or i for i, r in enumerate(pictures.records)]
        candidates = Candidates(
            images,
            labels,
            torch.tensor([int(seed) for seed in seeds], dtype=torch.long),
            chosen.confidence,
            chosen.distance,
            chosen.nearest,
            reasons,
            classes=self.labelled.classes,
        )
        called = probabilities.argmax(1)
        taught = float((called == labels).double().mean())
        return Judged(
            name,
            pictures,
            self.train,
            candidates,
            known,
            tested,
            len(repeated),
            int(unlike.sum()),
            taught,
            torch.bincount(self.labelled.labels, minlength=len(classes)),
            self.right,
            self.usual,
            self.usual_unlike,
            called,
            int(self.soft(images).sum()),
            self.usual_soft,
        )

    def probabilities(self, images: Tensor, pictures: PatchSet, known: Copies) -> Tensor:
        """The critic's, ``N x K``. What is made from a labelled patch, by its ``origin`` or as its
        copy, is judged by the member that has not seen that patch.
        """
        rows = {r.path: i for i, r in enumerate(self.labelled.records)}
        places = {(r.source, r.path): i for i, r in enumerate(self.labelled.records)}
        nearest = [self.train.records[i] for i in known.nearest.tolist()]
        copied = [
            places.get((r.source, r.path), -1) if copy else -1
            for r, copy in zip(nearest, known.copy.tolist(), strict=True)
        ]
        origins = [
            rows.get(told, -1) if (told := r.extra.get("origin")) else row
            for r, row in zip(pictures.records, copied, strict=True)
        ]
        origin = torch.tensor(origins, dtype=torch.long)
        found = self.critic.probabilities(images)
        if bool((origin >= 0).any()):
            own = origin >= 0
            found[own] = self.critic.probabilities(images[own], origin[own])
        return found
