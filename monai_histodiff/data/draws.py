"""Draws from records: group-disjoint splits and few-label sets, reproducible by seed."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from monai_histodiff.data.patch_files import PatchRecord
from monai_histodiff.utils.counts import is_whole
from monai_histodiff.utils.seeds import checked_seeds

__all__ = ["TOO_MUCH", "draw_few", "draw_groups", "draw_split"]

TOO_MUCH = 1.5  # times the fraction: a test part that is told of


def draw_groups(records: Sequence[PatchRecord], fraction: float, seed: int) -> set[str]:
    """Groups that hold about ``fraction`` of the patches of each class; every class keeps a group
    on both sides. A group that brings a class beyond :data:`TOO_MUCH` times that waits as long as
    others suffice.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1, or a class has fewer than two groups,
            or shares them all with classes that would be left with none.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    rng = np.random.default_rng(checked_seeds([seed]))
    content: defaultdict[str, Counter[str]] = defaultdict(Counter)  # of each group, by class
    for r in records:
        content[r.group][r.label] += 1
    left = Counter(label for own in content.values() for label in own)  # groups
    wanted = {k: fraction * n for k, n in Counter(r.label for r in records).items()}
    have: Counter[str] = Counter()
    taken: set[str] = set()

    def allowed(group: str) -> bool:
        return all(left[k] > 1 for k in content[group])

    def too_much(group: str) -> bool:
        return any(have[k] + n > TOO_MUCH * wanted[k] for k, n in content[group].items())

    for label in sorted(wanted):
        own = {group: found[label] for group, found in content.items() if found[label]}
        if len(own) < 2:
            raise ValueError(
                f"a class must have at least 2 groups (patients) to be split, got {len(own)} in"
                f" '{label}': record the group of each patch, add patches of another, leave the"
                " class out, or record a split"
            )
        free = rng.permutation([g for g in sorted(own) if g not in taken]).tolist()
        for i, group in enumerate(free):  # which grows by those that wait
            if have[label] >= wanted[label]:
                break
            if not allowed(group):
                continue
            if too_much(group):
                others = (own[g] for g in free[i + 1 :] if allowed(g) and not too_much(g))
                if have[label] + sum(others) >= wanted[label]:
                    free.append(group)
                    continue
            taken.add(group)
            have.update(content[group])
            left.subtract(content[group].keys())
        if not have[label]:
            raise ValueError(
                "a class must have a group to hold out that leaves some of every class, got none"
                f" in '{label}', whose groups (patients) are those of other classes too: record a"
                " split, or add groups"
            )
    return taken


def draw_split(
    records: Sequence[PatchRecord], fraction: float, seed: int
) -> Sequence[PatchRecord]:
    """The records as they are where a split is recorded; otherwise all ``train`` ones and then all
    ``test`` ones; see :meth:`~monai_histodiff.PatchSet.with_split`.

    Raises:
        ValueError: see there.
    """
    recorded = Counter(r.split for r in records)
    if recorded.keys() <= {""}:
        held = draw_groups([r for r in records if r.label] or records, fraction, seed)
        sides = (("train", False), ("test", True))
        return [
            replace(r, split=name) for name, t in sides for r in records if (r.group in held) == t
        ]
    if recorded[""] or not recorded["test"] or not recorded["train"]:
        parts = {name or "none": count for name, count in sorted(recorded.items())}
        remedy = "complete it, or leave it empty everywhere to have test groups drawn"
        if recorded.keys() == {"train", "val"}:
            remedy = (
                "rename 'val' to 'test' if it is what results are to be measured on ('val' is kept"
                " apart), or record no split, in folders or a manifest, to have test groups drawn"
            )
        raise ValueError(
            f"a split must name 'train' and 'test' and every patch's part, got {parts}: {remedy}"
        )
    return records


def draw_few(
    records: Sequence[PatchRecord],
    classes: Sequence[str],
    labels_per_class: int | str,
    seed: int,
) -> list[int]:
    """Indices of ``labels_per_class`` records of each class, spread over as many groups as
    possible; see :meth:`~monai_histodiff.PatchSet.few`.

    Raises:
        ValueError: see there.
    """
    counts = Counter(r.label for r in records)
    present = [c for c in classes if counts[c]]
    if len(present) < 2:
        raise ValueError(
            f"at least 2 classes are needed, got {len(present)}: {present}: add labelled patches"
            " of another class"
        )
    share = Fraction(1) if labels_per_class == "all" else _share(labels_per_class)
    rng = np.random.default_rng(checked_seeds([seed]))
    chosen: list[int] = []
    number = 1 if share else int(labels_per_class)
    if counts[rarest := min(classes, key=lambda label: counts[label])] < number:
        most = f"ask for at most {counts[rarest]}" if counts[rarest] else "label some"
        raise ValueError(
            f"labels_per_class is {labels_per_class}, but class '{rarest}' has {counts[rarest]}"
            f" patches to train on: {most}, or leave the class out"
        )
    for label in classes if labels_per_class != "all" else ():
        wanted = math.ceil(share * counts[label]) if share else number
        queues = defaultdict(list)
        for i in rng.permutation([i for i, r in enumerate(records) if r.label == label]).tolist():
            queues[records[i].group].append(i)
        rounds = sorted(
            ((turn, k, i) for k, q in enumerate(queues.values()) for turn, i in enumerate(q))
        )
        chosen += [i for _, _, i in rounds[:wanted]]
    if labels_per_class == "all":
        return [i for i, r in enumerate(records) if r.label]
    return sorted(chosen)


def _share(labels_per_class: int | str) -> Fraction:
    """The share of each class that is asked for, or 0 where it is a number of patches; exact,
    since it will be rounded up.
    """
    text = str(labels_per_class)
    share = Fraction(text[:-1]) / 100 if re.fullmatch(r"\d+(\.\d+)?%", text) else Fraction(0)
    if not 0 < share <= 1 and not (is_whole(labels_per_class) and int(labels_per_class) >= 1):
        raise ValueError(
            "labels_per_class must be 'all', a share such as '5%', or at least 1, got"
            f" {labels_per_class!r}"
        )
    return share
