"""A verdict on synthetic pictures of any origin: ``bundles/verdict.json``. No generator runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.bundle.notes import critic_note, left_out_note
from monai_histodiff.bundle.pictures import gallery
from monai_histodiff.bundle.results import measured, write_results
from monai_histodiff.bundle.running import method_of
from monai_histodiff.bundle.short_trainings import training_notes
from monai_histodiff.bundle.verdict_folder import VerdictFolder
from monai_histodiff.bundle.verdict_words import headline, notes, warnings, withheld
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.evaluation.arms import ARMS, Material
from monai_histodiff.evaluation.experiment import Evaluation, Recipe
from monai_histodiff.evaluation.synthetic import class_fidelity, overall_fidelity
from monai_histodiff.report.gallery import Tile
from monai_histodiff.selection.foreign import Judge, Judged
from monai_histodiff.selection.foreign_set import open_synthetic
from monai_histodiff.selection.reasons import Reason

__all__ = ["judge_and_report", "open_sets", "possible_arms"]


def open_sets(
    synthetic_dir: str,
    second_dir: str,
    real: PatchSet,
    size: int,
    um_per_px: float | None = None,
) -> dict[str, PatchSet]:
    """The synthetic sets, by path: one, or two where ``second_dir`` is not empty.

    Args:
        synthetic_dir: the first.
        second_dir: the second, or empty.
        real: the whole real set.
        size: height and width that a picture must have.
        um_per_px: micrometres per pixel of pictures whose manifest tells none.

    Raises:
        OSError, ValueError: as :func:`~monai_histodiff.selection.open_synthetic`, or both are one.
    """
    sets = {str(synthetic_dir): open_synthetic(synthetic_dir, real, size, um_per_px=um_per_px)}
    if second_dir:
        if Path(second_dir).resolve() == Path(synthetic_dir).resolve():
            raise ValueError(
                f"second_dir must be another set, got '{second_dir}' twice: leave it out"
            )
        second = open_synthetic(second_dir, real, size, "second_dir", um_per_px)
        first = sets[str(synthetic_dir)]
        if sorted(first.file_hashes()) == sorted(second.file_hashes()):
            raise ValueError(
                f"second_dir must hold other pictures than synthetic_dir, got the very same in "
                f"'{second_dir}' and '{synthetic_dir}': leave it out"
            )
        sets[str(second_dir)] = second
    return sets


def possible_arms(arms: Sequence[str], judged: Sequence[Judged]) -> list[str]:
    """The arms that can differ from arm C: without accepted pictures, those that show some, or as
    many others, are left out. ``G2`` is the second set's.
    """
    parts = zip(("candidates", "second"), judged, strict=False)
    none = {part for part, found in parts if not found.candidates.accepted.any()}
    wanted = dict.fromkeys([*arms, *(["G2"] if len(judged) > 1 else [])])
    return [arm for arm in wanted if not none & {ARMS[arm].shows, *ARMS[arm].needs}]


def judge_and_report(
    folder: VerdictFolder,
    judge: Judge,
    sets: Mapping[str, PatchSet],
    recipe: Recipe,
    patches: PatchSet,
    dataset_dir: str | os.PathLike[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    found: Sequence[str] = (),
) -> Path:
    """Judge the sets, train the arms, and write ``accepted.csv``, ``accepted/``, ``judged.csv``,
    ``predictions.npz``, ``results.json`` and ``report.html``.

    Args:
        folder: claimed.
        judge: of the pictures; its features are those of the fidelity of each class and of arm J.
        sets: from :func:`open_sets`.
        recipe: of every arm.
        patches: the whole real patch set.
        dataset_dir: where it came from; only its name is kept.
        arms: what to train; C is among them.
        seeds: one training of each arm for each.
        settings: further plain values, for the report.
        found: what would spoil a result, see :meth:`monai_histodiff.bundle.task.Task.problems`.

    Returns:
        The path of the report.
    """
    features, size, judged = judge.features, judge.size, []
    for place, (path, pictures) in enumerate(sets.items()):
        judged.append(judge(pictures, Path(os.path.abspath(path)).name))
        folder.keep(judged[-1], path, second=place == 1)
    first, labelled = judged[0], judge.labelled
    trained = possible_arms(arms, judged)
    pool = judge.train.without(labelled)
    evaluation = Evaluation(
        Material(
            labelled=labelled,
            candidates=first.candidates,
            size=size,
            pool=pool if len(pool) else None,
            critic=judge.critic,
            second=judged[1].candidates if len(judged) > 1 else None,
            features=features,
        ),
        judge.test,
        recipe,
        trained,
        seeds,
        folder.cache,
    )
    evaluation.run()
    own = {**_described(judge, first), "settings": settings or {}, "seconds": {}}
    results = measured(evaluation, patches, dataset_dir, own, found)
    results["options"] = method_of("verdict")
    results["foreign"] = {"sets": [_fidelity(part, judge, features) for part in judged]}
    results["generator"] = results["foreign"]["sets"][0].pop("kept")
    results["title"] = "Are these synthetic pictures worth keeping?"
    named, figures = len(judged) > 1, results["foreign"]["sets"]
    results |= headline(figures[0], results["verdict"])
    results["claims"] = withheld(results["claims"], figures)
    results["warnings"] += [w for part in figures for w in warnings(part, named)]
    told = notes(results, arms, trained, judge, judged)
    told += [*left_out_note(evaluation.left_out), *training_notes(results)]
    results["notes"] = [*told, *filter(None, [critic_note(results)])]
    further = {part.name: _tiles(part, size) for part in judged[1:]}
    return write_results(folder, evaluation, results, _tiles(first, size), further)


def _tiles(judged: Judged, size: int) -> list[Tile]:
    names = [record.path for record in judged.pictures.records]
    return gallery(judged.candidates, judged.train, size, names=names)


def _described(judge: Judge, judged: Judged) -> dict[str, Any]:
    """``selection``, as of our own candidates, and an empty ``sampling``."""
    found, critic = judged.candidates, judge.critic
    classes = enumerate(judge.labelled.classes)
    return {
        "sampling": {},
        "selection": {
            **found.counts(torch.ones_like(found.accepted)),
            "per_class": {name: found.counts(found.labels == k) for k, name in classes},
            "target_precision": float(critic.target_precision),
            "reached_precision": float(critic.precision),
            "threshold": judge.threshold,
            "copy_threshold": judge.known.threshold,
            "copy_likeness": judge.known.likeness,
            "reasons": found.rejections(),
        },
    }


def _fidelity(
    judged: Judged, judge: Judge, features: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """What is told of a set: its counts, and the figures of each class, of the ``whole`` set and
    of what is ``kept`` of it; and those of all pictures ``overall``.
    """
    found = judged.candidates
    every = replace(found, reasons=[Reason.accepted] * len(found.labels))
    figures = {
        name: class_fidelity(part, judge.train, judge.train, judge.test, features, judge.size)
        for name, part in (("whole", every), ("kept", found))
    }
    for name, part in (("whole", every), ("kept", found)):  # copies by one rule all over the page
        for k, of in enumerate(judge.labelled.classes):
            figures[name][of]["copies"] = {
                "samples": int((part.accepted & (part.labels == k) & judged.known.copy).sum()),
                "held_out": int(judge.unseen[judge.test.labels == k].sum()),
            }
    overall = overall_fidelity(every, judge.train, judge.test, features, judge.size)
    told = {**judged.counts(), "sha256": judged.pictures.digest(), "overall": overall}
    return {**told, **figures}
