"""How many labelled patches a run needs of each class, told before any work."""

from __future__ import annotations

from collections import Counter

from monai_histodiff.data.check import FOLDS
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.calibration import FEWEST
from monai_histodiff.selection.folds import group_folds

__all__ = ["check_classes", "check_critic", "least_labels"]


def least_labels(classes: int, folds: int) -> int:
    """Labelled training patches that a run needs of each class: one for each member of the critic,
    and some in all.
    """
    return max(folds, -(-FEWEST // max(1, classes)))


def check_classes(
    patches: PatchSet, folds: int, train: PatchSet | None = None, drawn: bool = False
) -> None:
    """Refuse, all at once, the classes with too few labelled patches for a run, before a draw for
    testing (of a set without a split), or among those to train on, ``train``, which a draw may
    have left.

    Raises:
        ValueError: there are such; the message names them, and what is needed.
    """
    tested = train is None
    labelled = (patches if train is None else train).with_labels()
    if tested and any(r.split for r in patches.records):
        return
    groups = Counter(label for label, _ in {(r.label, r.group) for r in labelled.records})
    short = {
        name: count
        for name, count in labelled.counts().items()
        if count < folds + tested or groups[name] < 1 + tested
    }
    if short and len(patches.classes) > 1:
        further = " and some of another group (patient) to test on" if tested else ""
        found = ", ".join(
            f"{count} in {groups[name]} group{'s' * (groups[name] != 1)} of '{name}'"
            for name, count in short.items()
        )
        fewer = f", or give --critic_folds {FOLDS}" if folds > FOLDS else ""
        names = ", ".join(f"'{name}'" for name in short)
        remedy = f"label more of {names}, of further groups, or leave "
        remedy += ("it" if len(short) == 1 else "them") + f" out{fewer}"
        if drawn:
            rare = next(iter(short))
            (group, most), *_ = Counter(patches.select("test", rare).groups).most_common(1)
            found += f", and {most} of '{rare}' in the group '{group}' drawn for testing"
            remedy = f"give another --draw, or record a split, or {remedy}"
        raise ValueError(
            f"each class must have at least {folds} labelled patches to train on{further}, got "
            f"{found}: {remedy}"
        )


def check_critic(labelled: PatchSet, test: PatchSet, folds: int) -> None:
    """Check that labelled patches suffice for a critic of so many members, and that there are
    others to test on.

    Raises:
        ValueError: with the rule, the value and the remedy.
    """
    own = (labelled.labels.tolist(), labelled.groups, folds)
    try:
        group_folds(*own, classes=labelled.classes)
    except ValueError as error:
        fewer = "a smaller --critic_folds, or " * (min(labelled.counts().values()) > 1)
        remedy = f"give {fewer}more --labels_per_class"
        raise ValueError(f"{error}: {remedy}") from error
    if len(labelled) < FEWEST:
        raise ValueError(
            f"labels_per_class must give at least {FEWEST} labelled patches in all, which the "
            f"critic's threshold rests on, got {len(labelled)}: give "
            f"--labels_per_class all, or {least_labels(len(labelled.classes), 1)} or more, where "
            "each class has as many"
        )
    if not len(test):
        raise ValueError(
            "dataset_dir must hold labelled test patches, got none: give some groups the split "
            "'test', or record no split, and some are drawn"
        )
