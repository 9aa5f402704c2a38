"""Which patches a member of the critic does not see: whole groups, of every class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.utils.counts import check_from

__all__ = ["group_folds", "torn_classes"]

ATTEMPTS = 100  # orders of the groups that are tried until every member sees every class


def torn_classes(labels: Sequence[int], groups: Sequence[str], folds: int) -> list[int]:
    """The classes with fewer groups than folds, whose groups :func:`group_folds` tears."""
    members: dict[int, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        members.setdefault(label, set()).add(group)
    return sorted(label for label, own in members.items() if len(own) < folds)


def group_folds(
    labels: Sequence[int],
    groups: Sequence[str],
    folds: int,
    seed: int = 0,
    classes: Sequence[str] = (),
) -> Tensor:
    """Assign patches to folds so that no group is torn and each class is spread as evenly as its
    groups allow.

    Of a class with fewer groups than folds each patch counts as its own group: every member must
    see the class. Its held-out patches then have kin among those that the member saw, and the
    precision that is measured on them is too hopeful.

    Args:
        labels: class indices.
        groups: of each patch.
        folds: how many, at least 2.
        seed: of the order in which groups are put.
        classes: names, for the messages.

    Returns:
        The fold of each patch, int64.

    Raises:
        ValueError: ``folds`` is below 2 or not whole, a label is not the index of a class, or a
            class has fewer patches than folds, or lies in one fold alone however the groups are
            put.
    """
    check_from(2, folds=folds)
    labels = [*labels]
    if len(labels) != len(groups):
        raise ValueError(f"each label needs a group, got {len(labels)} and {len(groups)}")
    if odd := [y for y in labels if float(y) % 1 != 0]:  # NaN is one of them
        raise ValueError(f"labels must be whole numbers, got {odd[0]}")
    if not labels:
        raise ValueError("folds need labelled patches of each class, got no patch")
    known, top = Counter(labels), len(classes) if classes else math.inf
    if odd := [y for y in labels if not 0 <= y < top]:
        raise ValueError(
            f"labels must be the index of a class, from 0 on, got {odd[0]} of {known[odd[0]]} "
            f"patches and {len(classes)} classes: leave those without a label out "
            "(PatchSet.with_labels())"
        )
    for label in range(len(classes)) if classes else sorted(known):
        if (count := known[label]) < folds:
            raise ValueError(
                f"each class needs at least {folds} patches for {folds} folds, got {count} of "
                f"class {_named(label, classes)}"
            )
    torn = torn_classes(labels, groups, folds)
    groups = [
        f"{group}\0{i}" if label in torn else group
        for i, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    content: dict[str, Counter[int]] = {}
    for label, group in zip(labels, groups, strict=True):
        content.setdefault(group, Counter())[label] += 1
    rng, rarity = np.random.default_rng(seed), Counter(labels)
    names: list[str] = rng.permutation(sorted(content)).tolist()
    order = sorted(
        names, key=lambda g: (min(rarity[y] for y in content[g]), -sum(content[g].values()))
    )  # the hard ones first
    for _ in range(ATTEMPTS):
        place = _fill_folds(content, order, rarity, folds)
        found = torch.tensor([place[g] for g in groups], dtype=torch.long)
        narrow = [
            y for y in sorted(set(labels)) if len({place[g] for g in content if content[g][y]}) < 2
        ]
        if not narrow:
            return found
        order = rng.permutation(names).tolist()
    raise ValueError(
        f"each class must lie in at least 2 of {folds} folds, or a member would not know it, "
        f"got 1 for class {_named(narrow[0], classes)}"
    )


def _named(label: int, classes: Sequence[str]) -> str:
    return f"'{classes[int(label)]}'" if classes else str(label)


def _fill_folds(
    content: Mapping[str, Counter[int]],
    order: Sequence[str],
    rarity: Mapping[int, int],
    folds: int,
) -> dict[str, int]:
    """The fold of each group: in turn, the one that has least of its classes."""
    filled = [Counter[int]() for _ in range(folds)]
    place: dict[str, int] = {}
    for group in order:
        load = [
            (sum(f[y] * n / rarity[y] for y, n in content[group].items()), sum(f.values()))
            for f in filled
        ]
        best = min(range(folds), key=lambda i: load[i])
        filled[best].update(content[group])
        place[group] = best
    return place
