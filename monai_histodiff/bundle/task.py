"""The patches of a task, as every stage takes them, and what is told of them before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai_histodiff.bundle.metadata import scale_of
from monai_histodiff.data.check import check
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.sizes import crop_size, size_note
from monai_histodiff.evaluation.power import foresee
from monai_histodiff.evaluation.verdict import shortfalls
from monai_histodiff.selection.folds import group_folds, torn_classes

__all__ = ["Task", "check_task"]

LEAST = 10  # labelled patches that a critic's threshold must rest on, see precision_threshold
TRAINED, SLOW = 128, 1.5  # pixels, and a multiple of them that is told of
LOOKED_AT = 3000  # patches, at the most, that the look before work reads


@dataclass(frozen=True)
class Task:
    """The patches of a run, at the model's scale.

    Attributes:
        patches: all of them, with their split.
        labelled: those whose labels are read.
        known: those and the unlabelled ones that the generator is adapted to.
        test: labelled patches of other groups.
        size: height and width to which every stage crops.
        folds: members of the critic.
    """

    patches: PatchSet
    labelled: PatchSet
    known: PatchSet
    test: PatchSet
    size: int
    folds: int

    def notes(self, seeds: int = 0) -> tuple[str, ...]:
        """Plain sentences: size and scale, what is assumed, what would spoil a result, and what
        the verdict will be able to see with so many seeds: 0 where there will be none.
        """
        found = [size_note(self.patches, self.size), *self.patches.notes]
        if self.size >= SLOW * TRAINED:
            found.append(
                f"Every step takes {(self.size / TRAINED) ** 2:.1f} times as long as with patches "
                f"of {TRAINED} pixels, which the generator was trained on: --patch_size {TRAINED} "
                "crops to them."
            )
        if torn := torn_note(self.labelled, self.folds):
            found.append(torn)
        found += [f"Look at this first: {problem}." for problem in self._problems()]
        labels, groups = self.test.labels.numpy(), self.test.groups
        unmet = shortfalls(labels, groups, self.test.classes, seeds) if seeds else []
        found += [f"Nothing will be claimed: {rule}" for rule in unmet]
        if seeds > 1:
            found.append(foresee(labels, groups, seeds).sentence)
        return tuple(found)

    def _problems(self) -> tuple[str, ...]:
        """What the look before work finds in the patches that the run uses, but for what a note
        of the set says already.
        """
        used = self.known.extend(self.test, len(self.test))
        problems = check(used[:0].extend(used, LOOKED_AT)).problems
        if any(note.startswith("No group is recorded") for note in self.patches.notes):
            return tuple(p for p in problems if not p.startswith("every patch is its own group"))
        return problems


def check_task(values: Mapping[str, Any]) -> Task:
    """Open the patches of a training stage, and check that they suffice.

    Args:
        values: of its options.

    Raises:
        ValueError, OSError: with the rule, the value and the remedy.
    """
    scale = scale_of(values["ldm_dir"])
    patches = PatchSet.open(values["dataset_dir"], um_per_px=values["um_per_px"]).at(scale)
    patches = patches.with_split(values["test_fraction"], seed=values["draw"])
    train, test = patches.select("train"), patches.select("test").with_labels()
    labelled = train.few(values["labels_per_class"], seed=values["draw"])
    group_folds(labelled.labels.tolist(), labelled.groups, values["critic_folds"])
    if len(labelled) < LEAST:
        raise ValueError(
            f"labels_per_class must give at least {LEAST} labelled patches in all, which the "
            f"critic's threshold rests on, got {len(labelled)}: give more"
        )
    if not len(test):
        raise ValueError(
            "dataset_dir must hold labelled test patches, got none: give some groups the split "
            "'test', or record no split, and some are drawn"
        )
    size = crop_size(patches, values["patch_size"])
    known = labelled.extend(train, values["unlabelled_patches"], seed=values["draw"])
    return Task(patches, labelled, known, test, size, values["critic_folds"])


def torn_note(labelled: PatchSet, folds: int) -> str:
    """A plain sentence on classes whose groups the critic's folds tear; empty without any."""
    torn = torn_classes(labelled.labels.tolist(), labelled.groups, folds)
    if not torn:
        return ""
    names = ", ".join(labelled.classes[k] for k in torn)
    return (
        f"Labelled patches of fewer than {folds} groups: {names}. The critic is fitted and "
        "calibrated on patches of the same groups there, and is surer of them than it should be."
    )
