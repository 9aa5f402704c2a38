"""The patches of a task, as every stage takes them, and what is told of them before any work."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from monai_histodiff.bundle.labels_needed import check_classes, check_critic, least_labels
from monai_histodiff.bundle.metadata import scale_of
from monai_histodiff.data.check import FOLDS, check
from monai_histodiff.data.draws import TOO_MUCH
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.sizes import MODEL, crop_size, size_note
from monai_histodiff.evaluation.power import foresee
from monai_histodiff.evaluation.verdict import shortfalls
from monai_histodiff.options.config_names import TRAIN
from monai_histodiff.options.names import spelt
from monai_histodiff.selection.folds import torn_classes

__all__ = ["Task", "check_task", "look", "refusal"]

TRAINED, SLOW = 128, 1.5  # pixels, and a multiple of them that is told of
LOOKED_AT = 3000  # patches, at the most, that the look before work reads


@dataclass(frozen=True)
class Task:
    """The patches of a run, at the model's scale.

    Attributes:
        patches: all of them, with their split.
        labelled: those whose labels are read.
        known: those and the unlabelled ones that the generator is adapted to.
        size: height and width to which every stage crops.
        asked: the options by which they were chosen, see :meth:`settings`.
        drawn: the fraction that was to be held out for testing; 0 where a split is recorded.
    """

    patches: PatchSet
    labelled: PatchSet
    known: PatchSet
    size: int
    asked: Mapping[str, Any]
    drawn: float = 0.0

    @classmethod
    def open(
        cls,
        dataset_dir: str | os.PathLike[str],
        ldm_dir: str | os.PathLike[str],
        um_per_px: float | None = None,
        **asked: Any,
    ) -> Task:
        """Open a patch set as every stage of a run takes it; the pictures are not read yet.

        Args:
            dataset_dir: a folder or a zip, see :meth:`PatchSet.open`.
            ldm_dir: the bundle of the generator, which tells the scale to read patches at.
            um_per_px: micrometres per pixel of patches whose manifest tells none; ``None``: the
                model's.
            asked: further arguments of :meth:`of`.

        Raises:
            ValueError, OSError: with the rule, the value and the remedy.
        """
        scale = scale_of(ldm_dir)
        patches = PatchSet.open(dataset_dir, um_per_px=um_per_px)
        return cls.of(patches, scale, um_per_px=um_per_px, **asked)

    @classmethod
    def of(
        cls,
        patches: PatchSet,
        scale: float,
        labels_per_class: int | str,
        draw: int = 0,
        unlabelled_patches: int = 0,
        test_fraction: float = 0.3,
        um_per_px: float | None = None,
        patch_size: int | None = None,
        critic_folds: int | None = None,
    ) -> Task:
        """What a run takes of a set that is open.

        Args:
            patches: the set, as its files are.
            scale: micrometres per pixel to read it at.
            labels_per_class: labelled training patches of each class, see :meth:`PatchSet.few`.
            draw: seed of which patches are labelled, and held out for testing.
            unlabelled_patches: further training patches, at the most.
            test_fraction: of the groups, held out where no split is recorded.
            um_per_px: that the set was opened with.
            patch_size: pixels at the model's scale; ``None``: what all patches have there.
            critic_folds: members of the critic that is to be fitted, for which every class must
                have enough patches; ``None``: none is.

        Raises:
            ValueError: with the rule, the value and the remedy.
        """
        _check_scales(patches)
        patches = patches.at(scale)
        if critic_folds:
            check_classes(patches, critic_folds)
        recorded, patches = patches, patches.with_split(test_fraction, seed=draw)
        drawn = 0.0 if patches is recorded else test_fraction
        train = patches.select("train")
        if critic_folds:
            check_classes(patches, critic_folds, train, drawn=bool(drawn))
        labelled = train.few(labels_per_class, seed=draw)
        known = labelled.extend(train, unlabelled_patches, seed=draw)
        asked = {"labels_per_class": labels_per_class, "draw": draw, "um_per_px": um_per_px}
        return cls(patches, labelled, known, crop_size(patches, patch_size), asked, drawn)

    @property
    def train(self) -> PatchSet:
        """All training patches."""
        return self.patches.select("train")

    @property
    def test(self) -> PatchSet:
        """Labelled patches of other groups."""
        return self.patches.select("test").with_labels()

    @property
    def unlabelled(self) -> PatchSet:
        """The known patches whose labels are not read."""
        return self.known[len(self.labelled) :]

    @property
    def pool(self) -> PatchSet:
        """All training patches but the labelled ones."""
        return self.train.without(self.labelled)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.patches.classes)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which patches these are, and how they are read, as plain values."""
        return {
            **self.asked,
            "model_um_per_px": self.patches.um_per_px,
            "patch_size": self.size,
        }

    def read(self) -> None:
        """Read every picture once, before any work.

        Raises:
            ValueError, OSError: one cannot be read; the message names it.
        """
        self.known.images(self.size)
        self.test.images(self.size)

    def notes(self, seeds: int = 0, folds: int = 3, claims: int = 1) -> tuple[str, ...]:
        """Plain sentences: size and scale, what is assumed, and what the verdict will be able to
        see with so many seeds: 0 where there will be none.

        Args:
            seeds: of the evaluation.
            folds: members of the critic.
            claims: comparisons of the evaluation.
        """
        found = [size_note(self.patches, self.size), *self.patches.notes]
        if self.drawn:
            count = len(set(self.test.groups))
            found.append(
                f"No split is recorded: the test part that is drawn holds {len(self.test)} of "
                f"{len(self.patches.with_labels())} labelled patches, of {count} "
                f"group{'s' * (count != 1)}."
            )
        if self.size >= SLOW * TRAINED:
            found.append(
                f"Every step takes {(self.size / TRAINED) ** 2:.1f} times as long as with patches "
                f"of {TRAINED} pixels, which the generator was trained on: --patch_size {TRAINED} "
                "crops to them."
            )
        if torn := torn_note(self.labelled, folds):
            found.append(torn)
        labels, groups = self.test.labels.numpy(), self.test.groups
        unmet = shortfalls(labels, groups, self.test.classes, seeds) if seeds else []
        found += [f"Nothing will be claimed: {rule}" for rule in unmet]
        if seeds > 1:
            found.append(foresee(labels, groups, seeds, claims=claims).sentence)
        return tuple(found)

    def problems(self) -> tuple[str, ...]:
        """What would spoil a result, see :func:`look`."""
        told = look(self.labelled, self.known, self.test, self.patches.notes)
        if not self.drawn:
            return told
        large = []
        for name in self.patches.classes:
            test, every = self.test.select(label=name), self.patches.select(label=name)
            if len(test) > max(TOO_MUCH * self.drawn, 0.5) * len(every):
                (group, count), *_ = Counter(test.groups).most_common(1)
                large.append(
                    f"the test part that is drawn holds {len(test)} of {len(every)} patches of "
                    f"'{name}', where {self.drawn:.0%} are asked for, {count} of them of the group"
                    f" '{group}': give another --draw, or record a split"
                )
        return *large, *told


def look(
    labelled: PatchSet, known: PatchSet, test: PatchSet, notes: Sequence[str]
) -> tuple[str, ...]:
    """What would spoil a result, as the look before work finds it in the patches that a run uses,
    but for what a note of the set says already.

    Args:
        labelled: whose labels are read.
        known: these, and those that the generator is adapted to.
        test: what the arms are tested on.
        notes: of the set.
    """
    used = known.extend(test, len(test))
    seen = labelled[:LOOKED_AT].extend(used, LOOKED_AT - len(labelled))
    problems = check(seen, progress=True).problems
    if len(seen) < len(used):
        part = f"(of the {len(seen)} patches that were looked at, of {len(used)})"
        problems = tuple(f"{problem} {part}" for problem in problems)
    if any(note.startswith("No group is recorded") for note in notes):
        return tuple(p for p in problems if not p.startswith("every patch is its own group"))
    return problems


def _check_scales(patches: PatchSet) -> None:
    """Refuse a set of which some patches tell their magnification and others do not: taken to be
    at the model's, those would be of another one than the rest.
    """
    blind = [r for r in patches.records if r.um_per_px is None]
    if blind and len(blind) < len(patches):
        other = next(r for r in patches.records if r.um_per_px is not None)
        raise ValueError(
            f"um_per_px must be recorded for every patch or for none, got {len(blind)} of "
            f"{len(patches)} without, such as '{blind[0].path}', and {other.um_per_px:g} for "
            f"'{other.path}': complete it, or give --um_per_px, which is for those without"
        )


def check_task(values: Mapping[str, Any]) -> Task:
    """Open the patches of a training stage, and check that they suffice.

    Args:
        values: of its options, ``critic_folds`` among them.

    Raises:
        ValueError, OSError: with the rule, the value and the remedy.
    """
    names = {*signature(Task.open).parameters, *signature(Task.of).parameters}
    task = Task.open(**{name: values[name] for name in names if name in values})
    check_critic(task.labelled, task.test, values["critic_folds"])
    return task


def refusal(patches: PatchSet, test_fraction: float = 0.3, draw: int = 0) -> str:
    """Why the main job refuses a set, with as few labels as it takes and its own other options, in
    words; empty where it takes it.

    Args:
        patches: the set, as its files are.
        test_fraction: held out where no split is recorded.
        draw: seed of that, and of the labels.
    """
    why = ""
    for labels in (least_labels(len(patches.classes), FOLDS), "all"):
        try:
            task = Task.of(patches, MODEL, labels, draw, 0, test_fraction, critic_folds=FOLDS)
            check_critic(task.labelled, task.test, FOLDS)
        except ValueError as error:
            why = why or spelt(str(error), TRAIN)
        else:
            return ""
    return why


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
