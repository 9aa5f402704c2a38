"""The first step of every config: check all that can be checked, and say what will be done."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_histodiff._version import __version__
from monai_histodiff.bundle.checks import (
    check_arms,
    check_places,
    check_pool,
    check_writable,
    room_for,
)
from monai_histodiff.bundle.classifier_check import checked_classifier
from monai_histodiff.bundle.errors import by_command, show_errors
from monai_histodiff.bundle.notes import uncompared_note
from monai_histodiff.bundle.plan import (
    STAGE,
    RunPlan,
    Step,
    critic_step,
    evaluation_steps,
    training_steps,
)
from monai_histodiff.bundle.pretraining import check_steps
from monai_histodiff.bundle.run_folder import RunFolder
from monai_histodiff.bundle.running import method, option_values, running_config
from monai_histodiff.bundle.sampling_checks import check_sampling, schedule_of
from monai_histodiff.bundle.speed import PROBE_SIZE, measure_speed, relative_cost
from monai_histodiff.bundle.task import Task, check_task
from monai_histodiff.bundle.verdict import open_sets
from monai_histodiff.classifiers.encoder_names import NamedEncoder
from monai_histodiff.diffusion.parts import check_student
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.evaluation.comparisons import compared
from monai_histodiff.options.config_names import LDM_TRAIN
from monai_histodiff.options.names import as_of_main_job, check_names, check_stage_names
from monai_histodiff.options.typed import check_typed
from monai_histodiff.selection.foreign_set import check_pictures
from monai_histodiff.utils.bfloat16 import warn_of_emulation

__all__ = ["prepare"]

SAME = ("labels_per_class", "draw", "um_per_px")  # in the run and in its evaluation
STAGES = {"train": "train.yaml", "evaluate": "evaluate.yaml"}
ALONE = ("device", "bfloat16", "num_workers", "batch_size")  # of stages, each its own
logger = logging.getLogger(__name__)


def prepare(name: str) -> RunPlan:
    """Check the names and values of all options, the device, folders and files, the room on the
    disk, and the data, before any work; and say what will be done.

    Called by a config; where none is running there is nothing to check.

    Args:
        name: the config's, in the table of options.

    Returns:
        The plan, of which the config's steps report.

    Raises:
        ValueError, OSError: with the rule, the value and the remedy.
    """
    show_errors()
    if by_command():
        check_typed(sys.argv[1:])
    running = running_config()
    if running is None:
        return RunPlan([])
    if name != "finetune":
        return _prepared(name, *running)
    with as_of_main_job():
        return _prepared(name, *running)


def _prepared(name: str, config: Mapping[str, Any], home: Path) -> RunPlan:
    """:func:`prepare` of a running config, whose file lies in ``home``."""
    check_names(name, config, home)
    values = option_values(name, config)
    check_places(name, values, home)
    steps: list[Step] = []
    task: Task | None = None
    if "bfloat16" in values:
        warn_of_emulation(values["device"], values["bfloat16"])
    kept = False  # the candidates of a run whose evaluation was stopped
    if name == "finetune":
        parser = ConfigParser(config)
        configs = {s: _stage(s, parser, values["guidance_dir"]) for s in STAGES}
        stages = {stage: option_values(stage, own) for stage, own in configs.items()}
        folder, judged = RunFolder(stages["train"]["output_dir"]), stages["evaluate"]
        whole = folder.results.exists() and folder.report.exists()
        kept = folder.outcome.is_file() and (judged["replace"] or not whole)
        for stage, own in stages.items():
            with as_of_main_job(stage):
                check_places(stage, own, home, kept and stage == "train")
            warn_of_emulation(own["device"], own["bfloat16"])
        _check_alike(stages)
        _check_named(configs["train"].get("critic_encoder"))
        check_sampling(stages["train"], schedule_of(stages["train"]["ldm_dir"]))
        _check_scales(stages["train"], Path(values["guidance_dir"]) / "configs")
        task = check_task(stages["train"])
        check_arms(judged)
        check_pool(judged["arms"], task.pool, judged["further_steps"])
        relative = _relative(configs["evaluate"], judged, len(task.labelled.classes), task.size)
        if "G0" in judged["arms"]:
            RunFolder(judged["published_dir"]).check(task)
        if kept:  # its files are checked by the evaluation, which comes next
            folder.check_settings(**task.settings)
            _check_same(folder, method("train", configs["train"]))
        else:
            steps = _training(stages["train"], task)
        steps += evaluation_steps(judged, len(task.test), task.size, relative)
    elif name == "train":
        check_sampling(values, schedule_of(values["ldm_dir"]))
        _check_scales(values, home)
        task = check_task(values)
        steps = _training(values, task)
    elif name == "evaluate":
        folder = RunFolder(values["output_dir"])
        folder.check_settings(**{key: values[key] for key in SAME})
        check_arms(values)
        outcome = folder.read_outcome()
        size = outcome["sampling"].get("size") or PROBE_SIZE
        classes = len(outcome["selection"]["per_class"])
        relative = _relative(config, values, classes, size)
        steps = evaluation_steps(values, folder.split.count(), size, relative)
    elif name == "verdict":
        task = check_task(values)
        relative = _relative(config, values, len(task.labelled.classes), task.size)
        steps = _verdict_steps(values, task, relative)
    elif name == "inference":
        made = ConfigParser(config).get_parsed_content("made")
        check_sampling(values, schedule_of(values["ldm_dir"]), made)
    elif name in LDM_TRAIN:
        check_steps(values)
    elif name in ("ldm inference", "ldm evaluate"):
        own = {"steps": values["solver_steps"], "exemplar_scale": values["exemplar_scale"]}
        SamplingSettings.pretrained(values["few_steps"], **own)  # refuses what it was not taught
        if values["few_steps"] and values.get("weights"):
            raise ValueError(
                f"few_steps must be False for weights that are given, got '{values['weights']}': "
                "the student is of the bundle's own; leave one of the two out"
            )
        if values["few_steps"]:
            check_student(values["bundle_root"])
        if values.get("exemplar_set") and values["exemplar_scale"] == 0:
            raise ValueError(
                f"exemplar_set needs an exemplar_scale above 0, got {values['exemplar_set']} and "
                "0: leave one of them out"
            )
    if not steps:
        return RunPlan([])
    first, last = (stages[s] if name == "finetune" else values for s in STAGES)
    seeds, arms = len(last.get("seeds", ())), _arms(last)
    claims = len(compared(arms))
    notes = () if task is None else task.notes(seeds, first["critic_folds"], claims)
    notes += tuple(uncompared_note(arms))
    if kept:
        notes += (f"The candidates in '{folder.root}' are of this command: kept, and judged.",)
    speed = measure_speed(values["device"], bool(first["bfloat16"]))
    plan = RunPlan(steps, *speed, notes, () if task is None else task.problems())
    plan.announce()
    return plan


def _check_alike(stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse an evaluation of another run, or of other patches than those that candidates are made
    with.

    Raises:
        ValueError: an option that both stages have differs, and is not of each alone.
    """
    first, last = (stages[stage] for stage in STAGES)
    for key in (key for key in first if key in last and key not in ALONE):
        made, judged = first[key], last[key]
        if made != judged:
            raise ValueError(
                f"{key} must be the same in both stages, got {made} for train and {judged} for "
                f"evaluate: give --train#{key} and --evaluate#{key} one value"
            )


def _check_named(encoder: Any) -> None:
    """Refuse an encoder of another make that an evaluation could not find again.

    Raises:
        ValueError: it has no name.
    """
    if isinstance(encoder, NamedEncoder) and not encoder.name:
        raise ValueError(
            "critic_encoder must be named, for the evaluation to read the critic, got one that "
            "has no name: give named_encoder('timm:NAME', @device)"
        )


def _check_same(folder: RunFolder, wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with candidates that this command would not have made.

    Raises:
        FileExistsError: they are of another version, another option or other weights.
    """
    outcome = folder.read_outcome()
    made = {"version": outcome.get("version"), **outcome.get("options", {})}
    for key, value in {"version": __version__, **wanted}.items():
        if made.get(key) != value:
            raise FileExistsError(
                f"output_dir must be new, or hold what the same command made, got "
                f"'{folder.root}' of {key} {made.get(key)}, and now {value}: choose another, or "
                "run evaluate on it"
            )


def _check_scales(values: Mapping[str, Any], home: Path) -> None:
    """Refuse scales to try, other than those of the config's own file, beside one that is fixed.

    Raises:
        ValueError: both are given.
    """
    path = home / STAGES["train"]
    own = ConfigParser.load_config_file(path) if path.is_file() else {}
    fixed, tried = values.get("guidance_scale"), values["guidance_scales"]
    if fixed is not None and tried != own.get("guidance_scales", tried):
        raise ValueError(
            f"guidance_scales must be left out beside a guidance_scale, which is then not chosen "
            f"among them, got {tried} and {fixed}: leave one of the two out"
        )


def _stage(stage: str, parser: ConfigParser, guidance_dir: str) -> dict[str, Any]:
    """The config of a stage of ``finetune.json``, with what that overrides."""
    path = Path(guidance_dir) / "configs" / STAGES[stage]
    config, overrides = ConfigParser(), parser.get_parsed_content(f"{stage}_options")
    config.read_config(str(path))
    check_stage_names(stage, overrides, config.get())
    config.update(overrides)
    check_names(stage, config.get(), path.parent)
    config.resolve_macro_and_relative_ids()  # as in a config that runs
    return config.get()


def _training(values: Mapping[str, Any], task: Task) -> list[Step]:
    """The steps of a training stage, for which the disk has room."""
    classes = len(task.labelled.classes)
    check_writable(Path(values["output_dir"]), room_for(values, classes, task.size))
    counts = (classes, len(task.labelled), len(task.known))
    return training_steps(values, *counts, task.size, task.unlabelled.crop_count(task.size))


def _relative(
    config: Mapping[str, Any], values: Mapping[str, Any], classes: int, size: int
) -> float:
    """What a config's classifier, which is tried, costs beside the usual one."""
    device = values["device"]
    network = checked_classifier(config, classes, size, device)
    return relative_cost(network, size, device, bool(values["bfloat16"]))


def _verdict_steps(values: Mapping[str, Any], task: Task, relative: float) -> list[Step]:
    """The steps of a verdict on synthetic sets, which are opened, and for which the disk has
    room.
    """
    scale = values["synthetic_um_per_px"]
    sets = open_sets(values["synthetic_dir"], values["second_dir"], task.patches, task.size, scale)
    for pictures in sets.values():
        check_pictures(pictures)
    check_pool(values["arms"], task.pool)
    if "G2" in values["arms"] and not values["second_dir"]:
        raise ValueError("arm G2 needs a second set, got none: give --second_dir, or leave it out")
    check_writable(Path(values["output_dir"]))
    options = {**values, "arms": _arms(values), "further_steps": 0}
    counts = (len(task.labelled), len(task.unlabelled), sum(map(len, sets.values())))
    crops = task.unlabelled.crop_count(task.size)
    critic = replace(critic_step(values, *counts, task.size, crops), seconds=STAGE)
    return [critic, *evaluation_steps(options, len(task.test), task.size, relative)]


def _arms(values: Mapping[str, Any]) -> list[str]:
    """The arms that will be trained: none in a training stage, and of a second set its own."""
    second = ["G2"] if values.get("second_dir") else []
    return list(dict.fromkeys([*values.get("arms", ()), *second]))
