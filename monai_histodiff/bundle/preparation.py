"""The first step of every config: check all that can be checked, and say what will be done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_histodiff.bundle.checks import (
    check_arms,
    check_names,
    check_places,
    check_stage_names,
    check_writable,
    option_values,
    room_for,
    running_config,
)
from monai_histodiff.bundle.errors import show_errors
from monai_histodiff.bundle.plan import (
    RunPlan,
    Step,
    critic_step,
    evaluation_steps,
    measure_speed,
    training_steps,
)
from monai_histodiff.bundle.run_folder import RunFolder
from monai_histodiff.bundle.verdict import open_sets
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.critic import group_folds

__all__ = ["prepare"]

LEAST = 10  # labelled patches that a critic's threshold must rest on, see precision_threshold
STAGES = {"train": "train.yaml", "evaluate": "evaluate.yaml"}
logger = logging.getLogger(__name__)


def prepare(name: str) -> RunPlan:
    """Check the names and values of all options, the device, folders and files, the room on the
    disk, and the data, before any work; and plan the work.

    Called by an expression of a config; where none is running there is nothing to check.

    Args:
        name: the config's, in the table of options.

    Returns:
        The plan, of which the config's steps report.

    Raises:
        ValueError, OSError: with the rule, the value and the remedy.
    """
    show_errors()
    running = running_config()
    if running is None:
        return RunPlan([])
    config, home = running
    check_names(name, config)
    values = option_values(name, config)
    check_places(name, values, home)
    steps: list[Step] = []
    if name == "finetune":
        parser = ConfigParser(config)
        stages = {s: _stage(s, parser, values["guidance_dir"]) for s in STAGES}
        for stage, own in stages.items():
            check_places(stage, own, home)
        steps = _check_training(stages["train"])
        check_arms(stages["evaluate"])
        steps += evaluation_steps(stages["evaluate"])
    elif name == "train":
        steps = _check_training(values)
    elif name == "evaluate":
        folder = RunFolder(values["output_dir"])
        folder.check_settings(**{key: values[key] for key in ("labels_per_class", "draw")})
        check_arms(values)
        steps = evaluation_steps(values)
    elif name == "verdict":
        steps = _verdict_steps(values)
    return RunPlan(steps, *measure_speed(values["device"])) if steps else RunPlan([])


def _stage(stage: str, parser: ConfigParser, guidance_dir: str) -> dict[str, Any]:
    """Values of the options of a stage of ``finetune.json``."""
    path = Path(guidance_dir) / "configs" / STAGES[stage]
    config, overrides = ConfigParser(), parser.get_parsed_content(f"{stage}_options")
    config.read_config(str(path))
    check_stage_names(stage, overrides, config.get())
    config.update(overrides)
    check_names(stage, config.get())
    return option_values(stage, config.get())


def _verdict_steps(values: Mapping[str, Any]) -> list[Step]:
    """Check the patch set and the synthetic ones, and plan their verdict."""
    patches, labelled = _checked_patches(values)
    open_sets(values["synthetic_dir"], values["second_dir"], patches, values["patch_size"])
    rest = patches.select("train").without(labelled)
    for arm in ("E", "R"):
        if arm in values["arms"] and not len(rest):
            raise ValueError(
                f"arm {arm} needs training patches that are not labelled ones, got none: give "
                f"--labels_per_class a number, or leave {arm} out"
            )
    if "G2" in values["arms"] and not values["second_dir"]:
        raise ValueError("arm G2 needs a second set, got none: give --second_dir, or leave it out")
    check_writable(Path(values["output_dir"]))
    folds, fitting = values["critic_folds"], values["critic_steps"]
    arms = [*values["arms"], *(["G2"] if values["second_dir"] else [])]
    options = {**values, "arms": dict.fromkeys(arms), "further_steps": 0}
    return [critic_step(folds, fitting, values["batch_size"]), *evaluation_steps(options)]


def _checked_patches(values: Mapping[str, Any]) -> tuple[PatchSet, PatchSet]:
    """The patch set, split, and its labelled training patches."""
    patches = PatchSet.open(values["dataset_dir"])
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
    for part in (labelled, test):
        part[:1].images(values["patch_size"])
    return patches, labelled


def _check_training(values: Mapping[str, Any]) -> list[Step]:
    patches, labelled = _checked_patches(values)
    train = patches.select("train")
    check_writable(Path(values["output_dir"]), room_for(values, len(patches.classes)))
    known = labelled.extend(train, values["unlabelled_patches"], seed=values["draw"])
    return training_steps(values, len(patches.classes), len(labelled), len(known))
