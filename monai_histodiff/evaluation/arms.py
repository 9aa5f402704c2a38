"""The arms of the experiment: what each one trains on. A new arm is one record of :data:`ARMS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from monai_histodiff.data.bank import SyntheticBank
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.evaluation.real_banks import (
    pseudo_labels,
    real_bank,
    true_labels,
    whole_patches,
)
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.selection.fitting import check_critic_classes
from monai_histodiff.selection.reasons import Reason

__all__ = ["ARMS", "Arm", "Material", "repeats_selected"]


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that arms can train on.

    Args:
        labelled: the real labelled training patches.
        candidates: synthetic candidates with their outcome.
        size: height and width that the classifier sees.
        pool: training patches that were not drawn as labelled (arms E, M, P and R). Only R reads
            their labels: it is the ceiling, not a method.
        critic: pseudo-labels the pool, at its threshold (arm E); its own answers to the test
            patches stand beside the arms.
        published: candidates of the published method, with their outcome (arm G0).
        second: candidates of a second generator, with their outcome (arm G2).
        features: patches ``N x 3 x size x size``, uint8 or in [0, 1], to features ``N x D``
            (arm J).

    Raises:
        ValueError: a labelled patch has no label, or candidates or critic are of other classes.
    """

    labelled: PatchSet
    candidates: Candidates
    size: int = 128
    pool: PatchSet | None = None
    critic: PatchCritic | None = None
    published: Candidates | None = None
    second: Candidates | None = None
    features: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if blind := int((self.labelled.labels < 0).sum()):
            got = f"got {blind} of {len(self.labelled)} without"
            raise ValueError(f"every labelled patch must have a label, {got}")
        for made in (self.candidates, self.published, self.second):
            if made is not None:
                made.check_classes(self.classes)
        check_critic_classes(self.critic, len(self.classes))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by index."""
        return self.labelled.classes

    @property
    def labels_of_pool(self) -> PatchSet | None:
        """The patches of the pool that have a label."""
        return None if self.pool is None else self.pool.with_labels().with_classes(self.classes)

    def lacks(self, part: str) -> bool:
        """Whether a part is not given, or is a set without patches."""
        found = getattr(self, part)
        return found is None or (isinstance(found, PatchSet) and not len(found))

    @cached_property
    def unlabelled(self) -> Tensor:
        """The patches of the pool, uint8, ``N x 3 x H x W``.

        Raises:
            ValueError: there is no pool, or it is empty.
        """
        if self.pool is None or self.lacks("pool"):
            raise ValueError("unlabelled patches need a pool, got none")
        return whole_patches(self.pool)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm: what it trains on, and in what its training differs from that of arm C.

    Args:
        words: says it to a reader.
        bank: ``(material, seed) -> bank``: what patches are replaced by; ``None``: none are.
        drawn: whether the bank depends on the seed.
        needs: parts of the :class:`Material` that must be there.
        shows: the part whose synthetic patches it shows; empty: none.
        augmented: the classical augmentation is applied.
        mixing: share of the batches that are mixed (mixup, CutMix).
        shortened: it stops once it has shown as many real patches as arm G does.
        synthetic_only: nothing real is shown, where the bank has a patch of the class.
        uncropped: the bank holds whole real patches, which are cropped as the labelled ones are.
        unlabelled: the classifier learns from the pool besides, by FixMatch.
        probe: a linear probe on features takes the place of the classifier.
    """

    words: str
    bank: Callable[[Material, int], SyntheticBank] | None = None
    drawn: bool = False
    needs: tuple[str, ...] = ()
    shows: str = ""
    augmented: bool = True
    mixing: float = 0.0
    shortened: bool = False
    synthetic_only: bool = False
    uncropped: bool = False
    unlabelled: bool = False
    probe: bool = False


def _accepted(material: Material, seed: int, part: str = "candidates") -> SyntheticBank:
    candidates = getattr(material, part)
    return candidates.bank(candidates.accepted, material.classes)


def _seen(candidates: Candidates) -> Tensor:
    """Which candidates an arm may see: no copy of a test patch."""
    seen = [reason is not Reason.test_copy for reason in candidates.reasons]
    return torch.tensor(seen, dtype=torch.bool, device="cpu")


def _as_many(material: Material, order: Callable[[Tensor], Tensor]) -> SyntheticBank:
    """Of each class as many candidates as were accepted, the first by some order of its rows."""
    candidates, parts = material.candidates, []
    for k in range(len(material.classes)):
        rows = (_seen(candidates) & (candidates.labels == k)).nonzero()[:, 0]
        parts.append(rows[order(rows)[: int(candidates.accepted[rows].sum())]])
    return candidates.bank(torch.cat(parts), material.classes)


def _random(material: Material, seed: int) -> SyntheticBank:
    generator = torch.Generator().manual_seed(seed)
    return _as_many(
        material, lambda rows: torch.randperm(len(rows), generator=generator, device="cpu")
    )


def _lowest(material: Material, seed: int) -> SyntheticBank:
    return _as_many(material, lambda rows: material.candidates.confidence[rows].argsort())


def _shuffled(material: Material, seed: int) -> SyntheticBank:
    candidates, generator = material.candidates, torch.Generator().manual_seed(seed)
    chosen, labels = candidates.accepted.nonzero()[:, 0], candidates.labels.clone()
    labels[chosen] = labels[chosen[torch.randperm(len(chosen), generator=generator)]]
    return replace(candidates, labels=labels).bank(chosen, material.classes)


def _pseudo_labelled(material: Material, seed: int) -> SyntheticBank:
    pool, critic = material.pool, material.critic
    if pool is None or critic is None:
        raise ValueError("pseudo-labels need a pool and a critic, got none")
    threshold = float(critic.threshold)
    judge, beside = critic.probabilities, material.labelled
    return pseudo_labels(pool, judge, threshold, material.classes, material.size, beside)


def _both(material: Material, seed: int) -> SyntheticBank:
    """Synthetic patches beside pseudo-labelled ones, cropped to the size of the former."""
    made, real = _accepted(material, seed), _pseudo_labelled(material, seed)
    side = material.size
    images, sure, seeds = (
        {k: torch.cat([a[k], b[k]]) for k in a}
        for a, b in (
            (made.images, {k: centre_crop(v, side) for k, v in real.images.items()}),
            (made.confidence, real.confidence),
            (made.seeds, real.seeds),
        )
    )
    return SyntheticBank(images, sure, seeds, material.classes)


def _truly_labelled(material: Material, seed: int) -> SyntheticBank:
    if material.pool is None:
        raise ValueError("true labels need a pool, got none")
    return true_labels(material.pool, material.classes, material.labelled)


def _duplicated(material: Material, seed: int) -> SyntheticBank:
    """Of each class as many labelled real patches as synthetic ones were accepted: each once, then
    once more, in an order that the seed draws.
    """
    labelled, candidates = material.labelled, material.candidates
    generator, rows = torch.Generator().manual_seed(seed), []
    for k in range(len(material.classes)):
        own = (labelled.labels == k).nonzero()[:, 0]
        wanted = int(candidates.accepted[candidates.labels == k].sum())
        order = own[torch.randperm(len(own), generator=generator)]
        rows.append(order.repeat(-(-wanted // max(1, len(own))))[:wanted])
    chosen, whole = torch.cat(rows), whole_patches(labelled)
    sure = torch.ones(len(chosen), dtype=torch.float32)
    return real_bank(whole[chosen], labelled.labels[chosen], sure, material.classes)


def repeats_selected(arms: Sequence[str], candidates: Candidates) -> dict[str, str]:
    """Those of the arms that would show what arm G shows, and why, in words: ``S`` where the
    accepted patches are of fewer than two classes, so that no label changes, ``F`` and ``H`` where
    no candidate of these classes was rejected.

    Args:
        arms: that are asked for; without ``G`` among them ``F`` and ``H`` repeat none.
        candidates: with their outcome.
    """
    kept = candidates.labels[candidates.accepted].unique()
    found = {}
    if "S" in arms and len(kept) < 2:
        number = "one class" if len(kept) else "no class"
        found["S"] = (
            f"the accepted patches are of {number}: labels shuffled among them are the same labels"
        )
    rivals = torch.isin(candidates.labels, kept) & _seen(candidates)
    every = bool(candidates.accepted[rivals].all())
    if "G" in arms and len(kept) and every:
        why = "no candidate of the accepted classes was rejected: these are the same patches"
        found |= {arm: why for arm in ("F", "H") if arm in arms}
    return found


ARMS: Mapping[str, Arm] = {
    "A": Arm(
        words="real patches, no augmentation, as often as G shows them (fewer steps)",
        augmented=False,
        shortened=True,
    ),
    "B": Arm(words="real patches repeated, no augmentation", augmented=False),
    "C": Arm(words="real + strong classical augmentation"),
    "D": Arm(words="C + mixup and cutmix", mixing=1.0),
    "E": Arm(
        words="C + pseudo-labelled real patches",
        bank=_pseudo_labelled,
        needs=("pool", "critic"),
        uncropped=True,
    ),
    "F": Arm(words="C + random synthetic patches", bank=_random, shows="candidates", drawn=True),
    "G": Arm(words="C + selected synthetic patches", bank=_accepted, shows="candidates"),
    "G0": Arm(
        words="C + synthetic patches of the published method",
        bank=partial(_accepted, part="published"),
        needs=("published",),
        shows="published",
    ),
    "G2": Arm(
        words="C + selected synthetic patches of the second set",
        bank=partial(_accepted, part="second"),
        needs=("second",),
        shows="second",
    ),
    "H": Arm(words="C + lowest-scored synthetic patches", bank=_lowest, shows="candidates"),
    "S": Arm(
        words="C + selected synthetic patches, labels shuffled",
        bank=_shuffled,
        shows="candidates",
        drawn=True,
    ),
    "P": Arm(
        words="C + selected synthetic and pseudo-labelled real patches",
        bank=_both,
        needs=("pool", "critic"),
        shows="candidates",
    ),
    "I": Arm(
        words="selected synthetic patches only, with C's augmentation",
        bank=_accepted,
        shows="candidates",
        synthetic_only=True,
    ),
    "K": Arm(
        words="C + the labelled real patches themselves, as many as G's synthetic ones",
        bank=_duplicated,
        needs=("candidates",),
        drawn=True,
        uncropped=True,
    ),
    "M": Arm(words="C + unlabelled real patches by FixMatch", needs=("pool",), unlabelled=True),
    "J": Arm(words="linear probe on self-supervised features", needs=("features",), probe=True),
    "R": Arm(
        words="C + all further real patches with their true labels: the ceiling",
        bank=_truly_labelled,
        needs=("pool", "labels_of_pool"),
        uncropped=True,
    ),
}
