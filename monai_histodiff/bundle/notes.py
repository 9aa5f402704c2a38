"""Sentences that stand beside results: what was left out, assumed, short or off."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff._version import __version__
from monai_histodiff.bundle.plan import LOOK
from monai_histodiff.data.patch_files import TABLES
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.evaluation.comparisons import COMPARISONS, compared
from monai_histodiff.evaluation.experiment import Evaluation
from monai_histodiff.evaluation.verdict import CLAIM
from monai_histodiff.report.summary import difference_words

__all__ = [
    "critic_note",
    "data_notes",
    "forecast_note",
    "left_out_note",
    "look_warning",
    "precision_note",
    "precision_warning",
    "result_notes",
    "uncompared_note",
]

WIDE = 0.1  # by so much less a precision is a warning at the top


def data_notes(patches: PatchSet, dataset_dir: str) -> list[str]:
    """What was left out or assumed when a patch set was read, without the user's path.

    Args:
        patches: the whole set.
        dataset_dir: where it came from.
    """
    root = Path(dataset_dir).expanduser()
    root = root.parent if root.name.lower().endswith(TABLES) else root
    named, name = re.compile(f"'{re.escape(str(root))}(?=['/])"), Path(os.path.abspath(root)).name
    notes = [named.sub(lambda _: f"'{name}", note) for note in patches.notes]
    grouped = not any(note.startswith("No group is recorded") for note in notes)
    if grouped and len(set(patches.groups)) == len(patches):
        notes.append(
            "Each patch is its own group: if several come from one patient or slide, the "
            "intervals are too narrow."
        )
    return notes


def look_warning(found: Sequence[str]) -> list[tuple[str, str]]:
    """A warning, a word and a sentence, of what the look before work found; none without any.

    Args:
        found: in words, see :meth:`monai_histodiff.bundle.task.Task.problems`.
    """
    return [(LOOK, f"{'; '.join(found)}.")] if found else []


def critic_note(results: Mapping[str, Any]) -> str:
    """A plain sentence where the critic itself does as well as arm G, and better than colour
    alone; otherwise empty.

    Args:
        results: with ``arms`` and ``floors``, and ``critic`` where there is one.
    """
    runs = results["arms"].get("G", {}).get(CLAIM, [])
    alone = results.get("critic", {}).get(CLAIM)
    floors = [found[CLAIM] for found in results.get("floors", {}).values()]
    if not runs or alone is None or alone < (reached := sum(runs) / len(runs)):
        return ""
    if alone <= max(floors, default=0.0):
        return ""
    return (
        f"The critic itself reaches {alone:.1%} of balanced accuracy on the test patches, and arm "
        f"G, which learns from what it selected, {reached:.1%}: in this run the critic "
        "did as well without synthetic patches (no interval is known of that)."
    )


def forecast_note(sentence: str, claims: Mapping[str, Any]) -> str:
    """The sentence of a forecast, told apart from what a run has measured of the same.

    Args:
        sentence: of :func:`~monai_histodiff.evaluation.power.foresee`.
        claims: of the run, whose ``detectable`` is what it measured, if it did.
    """
    measured = any(math.isfinite(row.get("detectable", math.nan)) for row in claims.values())
    rest = " What this run measured afterwards stands at the top." if measured else ""
    return f"Foreseen before any training, from the test groups alone: {sentence}{rest}"


def left_out_note(left_out: Mapping[str, str]) -> list[str]:
    """Plain sentences on arms that were asked for and would have repeated arm G.

    Args:
        left_out: arms and why, of an :class:`~monai_histodiff.evaluation.Evaluation`.
    """
    return [f"Arm {arm} was not trained: {why}." for arm, why in left_out.items()]


def uncompared_note(arms: Sequence[str]) -> list[str]:
    """Plain sentences on arms that are in no comparison, and so get no verdict.

    Args:
        arms: that are asked for.
    """
    judged = {arm for pair in compared(arms) for arm in pair.split("-")}
    alone = [arm for arm in arms if arm not in judged]
    by_g = [arm for arm in alone if {f"{arm}-G", f"G-{arm}"} & {*COMPARISONS}]
    never = [arm for arm in alone if arm not in by_g]
    found = []
    if by_g:
        found.append(f"No verdict on {_joined(by_g)}, without arm G to compare with: add G.")
    if never:
        found.append(f"No verdict on {_joined(never)}, in no comparison: scores alone.")
    return found


def _joined(arms: Sequence[str]) -> str:
    """``arm C``, ``arms C and D``, ``arms C, D and E``."""
    *rest, last = arms
    return f"arms {', '.join(rest)} and {last}" if rest else f"arm {last}"


def result_notes(
    outcome: Mapping[str, Any],
    evaluation: Evaluation,
    differences: Mapping[str, Any],
    agreement: Mapping[str, Any] | None,
) -> list[str]:
    """What a reader of the results must know beside them.

    Args:
        outcome: of the selection.
        evaluation: that was run.
        differences: of its arms.
        agreement: of a further classifier, if one was asked.
    """
    selection, quota = outcome["selection"], outcome["settings"].get("quota", 0)
    notes = [
        "The intervals are for new test groups and new trainings, with this one draw of the "
        "labelled patches: they cannot tell what another draw would give. Run several draws and "
        "combine them (histodiff-summary).",
        "The threshold is calibrated on held-out real patches; " + _carried_over(agreement),
    ]
    if (ceiling := differences.get("R-C")) is not None and evaluation.material.pool is not None:
        left = int((evaluation.material.pool.labels >= 0).sum())
        notes.append(
            f"The ceiling: the {left} training patches that were not drawn as labelled, with "
            "their true labels, change balanced accuracy by "
            f"{difference_words(ceiling[CLAIM])} points (95 % interval). Synthetic patches can "
            "hardly bring more."
        )
    if (made_by := outcome.get("version", __version__)) != __version__:
        notes.append(
            f"The candidates were made with version {made_by}, and judged with {__version__}."
        )
    strength = outcome["sampling"].get("strength", 1.0)
    if strength < 1:
        notes.append(
            f"Candidates are variations of their sources (strength {strength:g}), near "
            "them by design: the check for copies was off. They are a learned augmentation, not "
            "new tissue."
        )
    if (sources := selection.get("sources")) is not None:
        guessed = outcome["settings"].get("pseudo_labelled", 0)
        told = f"{sources['labelled']} of the {len(evaluation.material.labelled)} labelled"
        if guessed:
            told += f" and {sources['unlabelled']} of the {guessed} pseudo-labelled"
        notes.append(f"The accepted patches are made from, or after, {told} patches.")
        if guessed:
            notes.append(
                "The classes of the pseudo-labelled ones are the critic's: what they bring is "
                "what it knows. Compare with arm E."
            )
    precision = selection["reached_precision"], selection["target_precision"]
    if not precision_warning(*precision):
        notes += precision_note(*precision)
    for name, row in selection["per_class"].items():
        if row["accepted"] < quota:
            found = f"{row['accepted']} of {quota} accepted, from {row['candidates']} candidates"
            notes.append(f"Class {name} is short of its quota: {found}.")
    return notes


def precision_warning(reached: float, target: float) -> list[tuple[str, str]]:
    """A warning, a word and a sentence, where a critic's threshold misses its target widely."""
    if reached >= target - WIDE:
        return []
    return [("Labels are less sure than was asked for.", precision_note(reached, target)[0])]


def precision_note(reached: float, target: float) -> list[str]:
    """A plain sentence where a critic's threshold does not reach its target."""
    if reached >= target:
        return []
    return [
        f"At its threshold the critic has a precision of {reached:.2f} on held-out real patches, "
        f"below the target of {target:.2f}: no threshold reaches it, or it was lowered to trust "
        "more of the unlabelled patches (trusted_share). Accepted labels are wrong more often "
        "than was asked for."
    ]


def _carried_over(agreement: Mapping[str, Any] | None) -> str:
    if agreement is None:
        return "how well it carries over to synthetic ones is not measured here."
    shares = {
        name: "-" if value is None else f"{value:.0%}"
        for name, value in agreement.items()
        if name != "patches"
    }
    return (
        f"a further classifier, fitted on {agreement['patches']} other real training patches, "
        f"gives their class to {shares['accepted']} of the accepted candidates and "
        f"{shares['candidates']} of all, to {shares['labelled']} of the labelled real patches and "
        f"to {shares['test']} of the test patches."
    )
