"""What may be compared: test probabilities of several arms, with labels and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monai_histodiff.evaluation.metrics import Array, Labels, check_probabilities

__all__ = ["checked_answers"]


def checked_answers(
    probabilities: Mapping[str, Sequence[Array]],
    labels: Labels,
    groups: Sequence[str],
    classes: Sequence[str],
    comparisons: Sequence[str],
) -> tuple[dict[str, list[Array]], Labels]:
    """The probabilities and labels as arrays, once they and the rest are what
    :func:`~monai_histodiff.evaluation.verdict.compare_arms` takes.

    Raises:
        ValueError: as there.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be N whole numbers, got {labels.dtype} of shape {labels.shape}"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes must have different names, got {list(classes)}: rename one")
    if odd := [name for name in comparisons if name.count("-") != 1]:
        raise ValueError(f"a comparison must be of two arms, such as 'G-C', got '{odd[0]}'")
    if len(groups) != len(labels):
        raise ValueError(
            f"each test patch needs its group, got {len(groups)} groups for {len(labels)} patches"
        )
    if nameless := sum(not isinstance(group, str) or not group for group in groups):
        raise ValueError(
            "a group must be the name of a patient or slide, got "
            f"{nameless} of {len(groups)} that are no text, or empty: str() makes one of a number"
        )
    found = {arm: [np.asarray(p, np.float64) for p in runs] for arm, runs in probabilities.items()}
    seeds = len(next(iter(found.values()), ()))
    for arm, runs in found.items():
        if len(runs) != seeds or not runs:
            raise ValueError(
                f"all arms need the same seeds, at least one, got {len(runs)} in arm {arm}"
            )
        for seed, run in enumerate(runs):
            check_probabilities(run, (len(labels), len(classes)), f"arm {arm}, run {seed}")
    return found, labels
