"""Sentences on classifiers that were trained too little to compare arms by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monai_histodiff.evaluation.verdict import CLAIM

__all__ = ["colour_note", "steps_note", "training_notes", "views_note"]

FEW_STEPS, ENOUGH_STEPS = 250, 1000  # after which arm C alone, and both, were trained to the end
VIEWS = 10  # of each synthetic patch, below which an arm has not learned what it was given


def colour_note(results: Mapping[str, Any]) -> str:
    """A plain sentence where arm C knows no more than colour alone does; otherwise empty.

    Args:
        results: with ``arms`` and ``floors``.
    """
    runs = results["arms"].get("C", {}).get(CLAIM, [])
    floors = {name: found[CLAIM] for name, found in results.get("floors", {}).items()}
    if not runs or not floors:
        return ""
    best, reached = max(floors, key=floors.__getitem__), sum(runs) / len(runs)
    if reached > floors[best]:
        return ""
    return (
        f"Arm C reaches {reached:.0%} of balanced accuracy, and the {best} alone "
        f"{floors[best]:.0%}: its classifier was trained too little (classifier_steps), or sees "
        "no more than the stain. What changes it says little of a classifier that works."
    )


def views_note(results: Mapping[str, Any]) -> str:
    """A plain sentence where the classifiers hardly saw the synthetic patches; otherwise empty.

    Args:
        results: with ``arms``, ``settings`` of the classifiers, ``selection``, and ``dataset``
            where the probability depends on the class.
    """
    accepted, shown = results["selection"]["accepted"], _shown(results)
    if "G" not in results["arms"] or not accepted or not shown:
        return ""
    views = results["settings"]["classifier_steps"] * shown / accepted
    if views >= VIEWS:
        return ""
    return (
        f"Arm G saw each synthetic patch {views:.1f} times in the mean, and arm C its few patches "
        "many times: with so few steps G has not learned yet what it was given, and more may turn "
        f"the answer (classifier_steps {_enough_views(results)} or more)."
    )


def _enough_views(results: Mapping[str, Any]) -> int:
    """Steps after which arm G has seen its synthetic patches often enough."""
    shown = _shown(results) if "G" in results["arms"] else 0.0
    return math.ceil(VIEWS * results["selection"]["accepted"] / shown) if shown else 0


def _shown(results: Mapping[str, Any]) -> float:
    """Synthetic patches that arm G sees in a step, in the mean: those of a class with few accepted
    ones take the places of real patches less often.
    """
    settings, per_class = results["settings"], results["selection"].get("per_class", {})
    labelled = results.get("dataset", {}).get("counts", {}).get("labelled", {})
    full, often = settings.get("full_probability_at", 1), 1.0
    if (total := sum(labelled.values())) and per_class:
        had = {k: min(1.0, per_class.get(k, {}).get("accepted", 0) / full) for k in labelled}
        often = sum(labelled[k] * had[k] for k in labelled) / total
    return float(settings["classifier_batch_size"] * settings["synthetic_probability"] * often)


def steps_note(results: Mapping[str, Any]) -> str:
    """A plain sentence where the classifiers took too few steps to compare arms by; otherwise
    empty.

    Args:
        results: with ``arms`` and ``settings`` of the classifiers.
    """
    steps = results["settings"]["classifier_steps"]
    if steps > FEW_STEPS or len(results["arms"]) < 2:
        return ""
    return (
        f"The classifiers of all arms, C too, took {steps} steps, which is a quick look: at "
        f"{FEW_STEPS} or fewer they are not trained to the end, those that see more pictures "
        "least of all, and more steps may turn the answer (classifier_steps "
        f"{max(ENOUGH_STEPS, _enough_views(results))} or more)."
    )


def training_notes(results: Mapping[str, Any]) -> list[str]:
    """Plain sentences on classifiers that were trained too little, each thing once.

    Args:
        results: as for the three notes.
    """
    few = steps_note(results) or views_note(results)
    return [note for note in (colour_note(results), few) if note]
