"""From an evaluation to ``results.json`` and ``report.html``."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose

from monai_histodiff._version import __version__
from monai_histodiff.bundle.classifier_check import told_backbone
from monai_histodiff.bundle.notes import (
    critic_note,
    data_notes,
    forecast_note,
    left_out_note,
    look_warning,
    precision_warning,
    result_notes,
)
from monai_histodiff.bundle.pictures import answers, by_kind, gallery
from monai_histodiff.bundle.predictions import write_predictions
from monai_histodiff.bundle.provenance import describe_files
from monai_histodiff.bundle.results_folder import ResultsFolder
from monai_histodiff.bundle.run_folder import RunFolder
from monai_histodiff.bundle.running import method_of
from monai_histodiff.bundle.short_trainings import training_notes
from monai_histodiff.bundle.split_file import changed_warning
from monai_histodiff.bundle.task import look, torn_note
from monai_histodiff.classifiers.classifier import ClassifierTraining
from monai_histodiff.data.leaks import find_leaks
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.sizes import size_note
from monai_histodiff.evaluation.comparisons import compared
from monai_histodiff.evaluation.experiment import Evaluation, Recipe
from monai_histodiff.evaluation.power import foresee
from monai_histodiff.evaluation.synthetic import class_fidelity, further_counts, label_agreement
from monai_histodiff.report.gallery import Tile
from monai_histodiff.report.page import write_report
from monai_histodiff.utils.files import write_json

__all__ = ["describe_dataset", "describe_versions", "measured", "run_and_report", "write_results"]


def run_and_report(
    evaluation: Evaluation,
    patches: PatchSet,
    dataset_dir: str,
    output_dir: str | os.PathLike[str],
    generator_metrics: bool = False,
    further_steps: int = 0,
    published: RunFolder | None = None,
) -> Path:
    """Run an evaluation and write ``predictions.npz``, ``results.json`` and ``report.html`` into
    the folder of its candidates.

    Args:
        evaluation: what to run.
        patches: the whole real patch set, for its counts.
        dataset_dir: where it came from; only its name is kept.
        output_dir: holds ``outcome.json`` of the selection.
        generator_metrics: figures of the generator class by class, by the features of the
            evaluation's material, see
            :func:`~monai_histodiff.evaluation.synthetic.class_fidelity`.
        further_steps: of a further classifier, by the recipe of the others, for
            :func:`~monai_histodiff.evaluation.synthetic.label_agreement`; 0: none.
        published: the run whose candidates arm G0 shows, if there is that arm: its options are
            told beside those of this one.

    Returns:
        The path of the report.

    Raises:
        ValueError: as :func:`~monai_histodiff.evaluation.synthetic.label_agreement`, before any
            training.
    """
    if further_steps:
        further_counts(patches.select("train").without(evaluation.material.labelled))
    folder = RunFolder(output_dir)
    outcome = folder.read_outcome()
    known = folder.split.known(patches.select("train"))
    candidates, labelled = evaluation.material.candidates, len(evaluation.material.labelled)
    outcome["selection"] = by_kind(outcome["selection"], candidates, labelled)
    seeds, forecast = len(evaluation.seeds), ""
    if seeds > 1:
        test = evaluation.test
        forecast = foresee(
            test.labels.numpy(), test.groups, seeds, claims=len(compared(evaluation.arms))
        ).sentence
        print(forecast)
    evaluation.run()
    found = outcome.get("found", ())
    if changed := folder.split.changed(evaluation.test):
        found = look(evaluation.material.labelled, known, evaluation.test, patches.notes)
    outcome["seconds"] = {"sampling": outcome["sampling"].pop("seconds")}
    own = {key: outcome[key] for key in ("run", "selection", "sampling", "settings", "seconds")}
    results = measured(evaluation, patches, dataset_dir, own, found)
    results["warnings"] = [*changed_warning(changed), *results["warnings"]]
    results["options"] = {**outcome["options"], **method_of("evaluate")}
    shown = []
    if published is not None:
        other = published.read_outcome()
        counts = [other["selection"][name] for name in ("accepted", "candidates")]
        shown = ["Arm G0 shows {} of {} candidates of the published method.".format(*counts)]
        results["options"] |= {f"published {k}": value for k, value in other["options"].items()}
    if further_steps:
        further = replace(evaluation.recipe.training, steps=further_steps)
        results["agreement"] = _agreement(evaluation, patches.select("train"), further)
    results["notes"] = [
        *results["shortfalls"],
        size_note(patches, evaluation.material.size),
        *filter(
            None,
            [torn_note(evaluation.material.labelled, outcome["settings"].get("critic_folds", 0))],
        ),
        *([forecast_note(forecast, results["claims"])] if forecast else []),
        *left_out_note(evaluation.left_out),
        *shown,
        *training_notes(results),
        *filter(None, [critic_note(results)]),
        *data_notes(patches, dataset_dir),
        *result_notes(outcome, evaluation, results["differences"], results.get("agreement")),
    ]
    features = evaluation.material.features
    if generator_metrics and features is not None:
        train, size = patches.select("train"), evaluation.material.size
        results["generator"] = class_fidelity(
            evaluation.material.candidates, train, known, evaluation.test, features, size
        )
    tiles = gallery(candidates, known, evaluation.material.size, labelled=labelled)
    return write_results(folder, evaluation, results, tiles)


def measured(
    evaluation: Evaluation,
    patches: PatchSet,
    dataset_dir: str | os.PathLike[str],
    own: Mapping[str, Any],
    found: Sequence[str],
) -> dict[str, Any]:
    """The results of an evaluation that was run, with the warnings that hold for any, beside the
    ``own`` ones of its candidates: ``selection``, and ``settings`` and ``seconds``, which are
    added to. ``found``: what would spoil a result.
    """
    fitted = sum(map(sum, evaluation.seconds.values()))  # of cached runs, the time they once took
    precision = [own["selection"][key] for key in ("reached_precision", "target_precision")]
    return {
        **evaluation.results(),
        **own,
        "dataset": describe_dataset(dataset_dir, patches, evaluation.material.labelled),
        "settings": {**own["settings"], **_describe_recipe(evaluation.recipe)},
        "seconds": {**own["seconds"], "classifiers of all arms": fitted},
        "versions": describe_versions(evaluation.recipe.training.device),
        "warnings": [
            *look_warning(found),
            *find_leaks(patches.select("train"), evaluation.test).warnings,
            *precision_warning(*precision),
        ],
    }


def write_results(
    folder: ResultsFolder,
    evaluation: Evaluation,
    results: dict[str, Any],
    tiles: Sequence[Tile],
    further: Mapping[str, Sequence[Tile]] | None = None,
) -> Path:
    """Write ``predictions.npz``, ``results.json`` and ``report.html``, whose path is returned, and
    release the folder.
    """
    write_predictions(folder.predictions, evaluation)
    results["files"] = describe_files(folder.root, [folder.predictions.name])
    write_json(folder.results, results)
    shown = answers(evaluation)
    report = write_report(folder.report, results, tiles, further=further, answers=shown)
    folder.release()
    print(f"{results['verdict']}\nReport: {report}")
    return report


def _describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """How the classifiers of all arms were trained, as plain values."""
    training = recipe.training
    return {
        "classifier_steps": training.steps,
        "classifier_batch_size": training.batch_size,
        "classifier_bfloat16": training.bfloat16,
        "synthetic_probability": recipe.prob,
        "full_probability_at": recipe.full_prob_at,
        "backbone": told_backbone(training.network),
    }


def describe_dataset(
    path: str | os.PathLike[str], patches: PatchSet, labelled: PatchSet
) -> dict[str, Any]:
    """Name and counts of the real patches, for the report."""
    parts = {
        "train": patches.select("train"),
        "labelled": labelled,
        "test": patches.select("test"),
    }
    places = [(r.source, r.path) for r in patches.records]
    order = sorted(range(len(places)), key=places.__getitem__)  # a draw changes it, not the set
    return {
        "path": Path(os.path.abspath(path)).name,
        "sha256": patches.take(order).digest(),
        "pictures": _same_in_any_folder(patches),
        "classes": list(patches.classes),
        "demo": all(r.extra.get("synthetic") == "true" for r in patches.records),
        "counts": {name: part.counts() for name, part in parts.items()},
        "unlabelled": {n: len(part) - sum(part.counts().values()) for n, part in parts.items()},
        "groups": {name: len(set(part.groups)) for name, part in parts.items()},
    }


def _same_in_any_folder(patches: PatchSet) -> str:
    """SHA-256 of the files alone: that of a zip, and of the folder that it was."""
    return hashlib.sha256(" ".join(sorted(patches.file_hashes())).encode()).hexdigest()


def describe_versions(device: str | torch.device = "cpu") -> dict[str, str]:
    """Versions of the packages, and the machine that computed on ``device``, for the report."""
    found = {
        "monai-histodiff": __version__,  # what is installed may be of an earlier checkout
        **{n: metadata.version(n) for n in ("monai", "torch", "numpy", "pytorch-ignite")},
    }
    cuda = torch.device(device).type == "cuda"
    used = torch.cuda.get_device_name(device) if cuda else f"{os.cpu_count()} CPU cores, no GPU"
    return {
        **found,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {used}",
    }


def _agreement(
    evaluation: Evaluation, train: PatchSet, further: ClassifierTraining
) -> dict[str, Any]:
    transform, labelled = (
        Compose([evaluation.recipe.crop, evaluation.recipe.classical]),
        evaluation.material.labelled,
    )
    return label_agreement(
        evaluation.material.candidates,
        train.without(labelled),
        labelled,
        evaluation.test,
        further,
        transform,
        evaluation.material.size,
    )
