"""Every option is checked within seconds of the start, before any work, and told in one line."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import WritePatchSet
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import nn
from warm import python_m

from monai_histodiff.bundle import checks, plan, speed
from monai_histodiff.bundle.errors import told
from monai_histodiff.bundle.inference import label_of
from monai_histodiff.bundle.plan import RunPlan, Step, evaluation_steps, training_steps
from monai_histodiff.bundle.results import run_and_report
from monai_histodiff.bundle.running import option_values
from monai_histodiff.classifiers.encoder_names import NamedEncoder
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.options.docs import config_files, options_page
from monai_histodiff.options.names import check_names, spelt
from monai_histodiff.options.table import OPTIONS, check_values, options_of
from monai_histodiff.selection.selector import CENTROIDS

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
LDM, GUIDANCE = BUNDLES / "histopathology_ldm", BUNDLES / "histopathology_guidance"


def config_of(name: str) -> list[str]:
    """The files of a config that the table of options names."""
    return config_files(BUNDLES, name)


CONFIGS = sorted({config for option in OPTIONS for config in option.configs})
FOREIGN = NamedEncoder(
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)},
)
OVERLAYS = ("published", "multi_gpu_train", "train_base", "metadata")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network may be loaded, and the speed of the machine is not measured."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network is loaded before the options are checked")

    monkeypatch.setattr(LatentDiffusion, "from_bundle", refuse)
    monkeypatch.setattr("monai_histodiff.bundle.preparation.measure_speed", lambda *_: (1.0, ""))
    monkeypatch.chdir(tmp_path)


def start(name: str, **overrides: Any) -> None:
    """What MONAI does with a config before it runs it."""
    root = (
        BUNDLES
        if name in ("finetune", "verdict")
        else LDM
        if name.startswith("ldm ")
        else GUIDANCE
    )
    overrides = {"bundle_root": str(root), "device": "cpu", **overrides}
    workflow = ConfigWorkflow(config_of(name), logging_file=False, **overrides)
    workflow.initialize()
    if name.endswith("inference"):  # which monai.bundle.load initialises, without its options
        workflow.run()


def refused(name: str, **overrides: Any) -> str:
    with pytest.raises(Exception) as caught:
        start(name, **overrides)
    line = told(caught.value)
    assert line is not None, caught.value
    return line


FINETUNE = [
    ({"lables_per_class": 5}, "got 'lables_per_class': did you mean 'labels_per_class'?"),
    (
        {"seeds": 5},
        "seeds must be a list of whole numbers, at least 0, at most 4294967295, got 5: write",
    ),
    ({"seeds": [1, 1]}, "seeds must name each once, got [1, 1]: leave out what comes twice"),
    ({"seeds": []}, "at least 0, at most 4294967295, got 0: give at least 1"),
    ({"seeds": [True]}, "seeds must be a list of whole numbers"),
    ({"arms": "C"}, "arms must be a list of texts, of A, B, C"),
    ({"arms": ["C", "X"]}, "S, P, I, K, M, J, R, got 'X': choose among them"),
    ({"arms": ["F", "G"]}, "arms must include 'C', what all are compared with, got ['F', 'G']"),
    ({"arms": ["C"]}, "arms must be two or more to compare, got ['C']: add 'G'"),
    ({"arms": ["C", "G0"]}, "arm G0 needs a run of published.yaml in published_dir, got none in"),
    ({"strength": 1.5}, "strength must be a number, above 0, at most 1, got 1.5: give 1 or less"),
    ({"strength": 0}, "strength must be a number, above 0, at most 1, got 0: give more than 0"),
    ({"strength": "0.5"}, "got '0.5': write it without quotes, such as --strength 0.5"),
    ({"strength": float("nan")}, "strength must be a number, above 0, at most 1, got nan"),
    ({"train#target_precision": 75}, "target_precision must be a number, above 0, at most 1, got"),
    ({"train#quota": 0}, "quota must be a whole number, at least 1, got 0: give 1 or more"),
    ({"patch_size": 64}, "patch_size must be a whole number, at least 96, at most 512, or None"),
    ({"train#patch_size": 513}, "at least 96, at most 512, or None, got 513: give 512 or less"),
    ({"train#patch_size": 100}, "patch_size must be the same in both stages, got 100 for train a"),
    ({"evaluate#draw": 3}, "draw must be the same in both stages, got 0 for train and 3 for eval"),
    (
        {"train#critic_encoder": FOREIGN},
        "critic_encoder must be named, for the evaluation to read",
    ),
    ({"patch_size": 129.0}, "patch_size must be a whole number, at least 96, at most 512, or"),
    ({"patch_size": 256}, "patches must be at least 256 x 256 at 1 um per pixel, got 480 of 480"),
    (
        {"um_per_px": 0},
        "um_per_px must be a number, at least 0.02, at most 16, or None, got 0: give 0.02",
    ),
    ({"um_per_px": "0.5"}, "got '0.5': write it without quotes, such as --um_per_px 0.5"),
    ({"um_per_px": 0.5}, "smaller, the smallest of 64, such as"),
    (
        {"train#nosuch": 1},
        "an option of the stage train must be one of its config's, got 'nosuch'",
    ),
    ({"evaluate#classifer_steps": 9}, "got 'classifer_steps': did you mean 'classifier_steps'?"),
    ({"evaluate#replace": "false"}, "'false': write --evaluate#replace True or --evalu"),
    ({"evaluate#generator_metrics": 1}, "generator_metrics must be True or False, got 1"),
    ({"train#bfloat16": "no"}, "bfloat16 must be True or False, or None, got 'no'"),
    ({"train#guidance_interval": [6.0, -6.0]}, "guidance_interval must rise, got [6.0, -6.0]"),
    ({"train#guidance_interval": [6.0]}, "a list of 2 numbers, got 1: give 2"),
    ({"train#guidance_mode": "loud"}, "of noisy, x0, clean, got 'loud': choose among them"),
    ({"train#solver_steps": 1}, "solver_steps must be at least 2 with a solver_stop, got 1"),
    (
        {"strength": 0.05},
        "5.04 at a strength of 0.05, got 4: raise solver_stop, or the strength t",
    ),
    ({"strength": 0.1, "train#solver_stop": 1.0}, "got 1: raise solver_stop, or the strength to"),
    (
        {"train#solver_stop": 100},
        "solver_stop must be below 12.00, the log-SNR at which the sched",
    ),
    (
        {"train#solver_steps": 1001},
        "solver_steps must be a whole number, at least 1, at most 1000",
    ),
    ({"evaluate#synthetic_probability": 0}, "above 0, at most 1, got 0: give more than 0"),
    (
        {"evaluate#synthetic_probability": 1, "arms": ["A", "C", "G"]},
        "one of the 80 classifier_steps, got 1: give less, or leave A out",
    ),
    ({"evaluate#synthetic_probability": 0.995, "arms": ["A", "C"]}, "must leave arm A, which sh"),
    (
        {"train#quota": 500, "train#max_candidates": 100},
        "max_candidates must be at least quota times surplus, 500, or it is never filled, got 100",
    ),
    ({"train#surplus": 50}, "at least quota times surplus, 10000, or it is never filled, got 400"),
    ({"train#surplus": 1e308}, "max_candidates must be at least quota times surplus, inf, or it"),
    (
        {"train#guidance_scale": 3.0, "train#guidance_scales": [1.0, 2.0]},
        "guidance_scales must be left out beside a guidance_scale, which is then not chosen among "
        "them, got [1.0, 2.0] and 3.0: leave one of the two out",
    ),
    ({"train#adaptation_learning_rate": 0}, "a number, above 0, got 0: give more than 0"),
    (
        {"train#guidance_interval": [50, 60]},
        "or the guide never acts, got [50, 60]: give one that does, or --train#guidance_scale 0",
    ),
    ({"train#exemplar_mix": 0.7, "train#exemplar_scale": 0}, "exemplar_mix must be 0 with an ex"),
    ({"train": 5}, "train must be options, got 5: write --train#OPTION VALUE"),
    ({"strenght": "$0.5"}, "got 'strenght': did you mean 'strength'?"),
    ({"train": {"critic_step": 5}}, "stage train must be one of its config's, got 'critic_step'"),
    ({"labels_per_class": "5"}, "got '5': write --labels_per_class 25, --labels_per_class 5%"),
    ({"labels_per_class": 0}, "labels_per_class must be 'all', a share such as '5%', or a whole"),
    ({"labels_per_class": "0%"}, "labels_per_class must be 'all', a share such as '5%', or a who"),
    ({"labels_per_class": 2}, "each class needs at least 3 patches for 3 folds, got 2"),
    (
        {"train#critic_folds": 40},
        "got 25 of class 'lung_aca': give a smaller --train#critic_folds, or more "
        "--labels_per_class",
    ),
    ({"train#quota": 1.5}, "write it without quotes or a point, such as --train#quota 5"),
    ({"evaluate#batch_size": 1.5}, "or a point, such as --evaluate#batch_size 5"),
    ({"train#test_fraction": "1"}, "without quotes, such as --train#test_fraction 0.5"),
    ({"labels_per_class": 81}, "labels_per_class is 81, but class 'lung_aca' has 80 patches"),
    ({"draw": -1}, "draw must be a whole number, at least 0, at most 4294967295, got -1"),
    ({"draw": 1.5}, "got 1.5: write it without quotes or a point, such as --draw 5"),
    ({"output_dir": "FILE"}, "output_dir must be a folder, got 'FILE', where '"),
    ({"output_dir": "FILE/x"}, "is a file: choose another"),
    ({"output_dir": 20260101}, "one that is a number as --output_dir ./20260101"),
    ({"output_dir": "~/x"}, "output_dir must be a path without '~', which only a shell understan"),
    ({"dataset_dir": ["a"]}, "dataset_dir must be a path, got ['a']: give one path"),
    ({"dataset_dir": "nowhere"}, "dataset_dir must exist, got 'nowhere': give the path of"),
    ({"bundle_root": "bundles"}, f": give --bundle_root {BUNDLES}"),
    ({"ldm_dir": "nowhere"}, "ldm_dir must be the folder of a bundle, got 'nowhere' in"),
    ({"device": "cuda:9"}, "device must be there, got 'cuda:9'"),
]


@pytest.mark.parametrize(("change", "message"), FINETUNE, ids=[str(c[0]) for c in FINETUNE])
def test_finetune_refuses_before_any_work(change: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").touch()
    line = refused("finetune", **{"output_dir": str(tmp_path / "out"), **change})
    assert message in line and "\n" not in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE"], "nothing was written"


OTHERS = [
    (
        "train",
        {"quotaa": 5},
        "an option must be one of train's, got 'quotaa': did you mean 'quota",
    ),
    ("train", {"train#critic_step": 5}, "got 'train#critic_step': did you mean 'critic'?"),
    ("train", {"train": {"critic_step": 5}}, "critic_step': did you mean 'critic'?"),
    ("train", {"critic_step": "$5"}, "got 'critic_step': did you mean 'critic'?"),
    ("train", {"critic#fold": 5}, "got 'critic#fold': did you mean 'folds'?"),
    ("evaluate", {"evaluation#recipe#probb": 1}, "'evaluation#recipe#probb': did you mean 'prob'"),
    ("train", {"bundle_root": "."}, f": give --bundle_root {GUIDANCE}"),
    ("evaluate", {"replace": "False"}, "replace must be True or False, got 'False'"),
    ("inference", {"patch_size": 1024}, "at most 512, or None, got 1024: give 512 or less"),
    ("inference", {"um_per_px": -1.0}, "um_per_px must be a number, above 0, or None, got -1.0"),
    ("ldm evaluate", {"patch_size": 64}, "patch_size must be a whole number, at least 96, at mos"),
    ("evaluate", {"output_dir": "new"}, "must have written 'outcome.json', got none in 'new'"),
    ("inference", {"class": 1}, "class must be text, or None, got 1: put it in two pairs of qu"),
    ("inference", {"class": "lung_sc"}, "got 'lung_sc': did you mean 'lung_scc'?"),
    ("inference", {"class": "nosuch"}, "lung_aca, lung_n, lung_scc, got 'nosuch': choose among"),
    ("inference", {"accepted_only": "true"}, "accepted_only must be True or False, got 'true'"),
    ("inference", {"eta": 2}, "eta must be a number, at least 0, at most 1, or None, got 2"),
    (
        "train",
        {"strength": 0.02},
        "solver_stop must lie beyond the log-SNR at which sampling star",
    ),
    ("inference", {"strength": 0.05}, "solver_stop must lie beyond the log-SNR at which sampling"),
    ("inference", {"solver_stop": 12.0}, "solver_stop must be below 12.00, the log-SNR at which"),
    (
        "inference",
        {"solver_steps": 1},
        "solver_steps must be at least 2 with a solver_stop, got 1",
    ),
    ("inference", {"eta": 0.5}, "eta must be 0 with the solver dpmpp_2m, which draws no noise"),
    (
        "train",
        {"guidance_scale": 3, "guidance_scales": [2]},
        "got [2] and 3: leave one of the two",
    ),
    ("train", {"exemplar_noise": 0.1, "exemplar_scale": 0}, "exemplar_noise must be 0 with an ex"),
    (
        "inference",
        {"exemplar_mix": 0.1, "exemplar_scale": 0},
        "exemplar_mix must be 0 with an exe",
    ),
    ("inference", {"guidance_interval": [-20, -10], "guidance_scale": 2}, "-9.00 to 4.00, or the"),
    (
        "ldm inference",
        {"seeds": 4},
        "seeds must be a list of whole numbers, at least 0, at most 42",
    ),
    ("ldm inference", {"batch": 4}, "got 'batch': did you mean 'batch_size'?"),
    ("inference", {"dataset_dir": "."}, "dataset_dir must be empty for inference, which reads no"),
    ("ldm train_diffusion", {"tensorboard": "no"}, "tensorboard must be True or False, got 'no'"),
    ("ldm train_autoencoder", {"step": 9}, "got 'step': did you mean 'steps'?"),
    ("ldm train_encoder", {"temperature": 0}, "temperature must be a number, above 0, got 0"),
    ("ldm inference", {"solver_steps": 14}, "got steps 14: set few_steps to False"),
    ("ldm evaluate", {"solver_steps": 14, "dataset_dir": str(LDM)}, "got steps 14: set few_steps"),
    (
        "ldm evaluate",
        {"exemplar_scale": 0, "few_steps": False, "exemplar_set": "a", "dataset_dir": str(LDM)},
        "exemplar_set needs an exemplar_scale above 0, got a and 0: leave one of them out",
    ),
    ("ldm evaluate", {"num_samples": 1.5}, "num_samples must be a whole number, at least 1, got"),
]


@pytest.mark.parametrize(("name", "change", "message"), OTHERS, ids=[str(c[:2]) for c in OTHERS])
def test_every_config_refuses_before_any_work(name: str, change: Any, message: str) -> None:
    assert message in refused(name, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"synthetic_dir": ""}, "synthetic_dir must exist, got ''"),
        ({"synthetic_dir": "DEMO"}, "synthetic_dir must be another set than dataset_dir, the rea"),
        (
            {"second_dir": "DEMO"},
            "second_dir must be another set than dataset_dir, the real patch",
        ),
        ({"synthetic_dir": "BROKEN"}, "a patch must be a readable picture, got '"),
        ({"second_dir": "nowhere"}, "second_dir must exist, got 'nowhere'"),
        ({"synthetc_dir": "x"}, "got 'synthetc_dir': did you mean 'synthetic_dir'?"),
        ({"arms": ["C", "G0"]}, "arms must be a list of texts, of A, B, C"),
        ({"arms": ["G"]}, "arms must include 'C'"),
        ({"arms": ["C"]}, "arms must be two or more to compare, got ['C']: add 'G'"),
        ({"arms": ["C", "E"]}, "arm E needs training patches that are not labelled ones"),
        ({"arms": ["C", "G2"]}, "arm G2 needs a second set, got none: give --second_dir"),
        ({"synthetic_probability": 0.0}, "above 0, at most 1, got 0.0: give more than 0"),
        ({"synthetic_probability": 1, "arms": ["A", "C"]}, "of the 1000 classifier_steps, got 1:"),
        ({"refuse_copies": "no"}, "refuse_copies must be True or False"),
        ({"ldm_dir": "."}, "ldm_dir must hold the patch encoder"),
        ({"encoder": "nowhere.pt"}, "where there is no file: give its path"),
    ],
)
def test_a_verdict_on_others_pictures_refuses_before_any_work(
    change: dict[str, Any], message: str, write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    demo, copy = GUIDANCE / "data" / "demo.zip", tmp_path / "copy.zip"
    shutil.copy(demo, copy)
    change = {key: str(demo) if value == "DEMO" else value for key, value in change.items()}
    if change.get("synthetic_dir") == "BROKEN":
        broken = write_patch_set(tmp_path / "set", 2, side=128, classes=("lung_n", "lung_scc"))
        file = next(iter(broken.rglob("*.png")))
        file.write_bytes(file.read_bytes()[:-40])
        change = {"synthetic_dir": str(broken)}
    given = {"dataset_dir": str(demo), "synthetic_dir": str(copy), "output_dir": "out", **change}
    assert message in refused("verdict", **given)
    assert not (tmp_path / "out").exists()


def test_what_is_read_beside_the_labelled_patches_must_be_there(
    write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    """Arm R and the further classifier read labels that nothing else does: they would fail after
    hours.
    """
    made = (write_patch_set(tmp_path / name, 24, 1, side=128, classes=("a", "b")) for name in "xy")
    folder, verdict = next(made), {"synthetic_dir": str(next(made))}
    rows = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
    given = {"dataset_dir": str(folder), "output_dir": "out", "labels_per_class": "all"}
    for number in (1, 2, 25, 26):
        rows[number] = rows[number].replace(",a,", ",,").replace(",b,", ",,")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    told = "arm R needs labels of training patches that are not labelled ones, got none on "
    for name, more in (("finetune", {}), ("verdict", verdict)):
        assert told in refused(name, **given, **more, arms=["C", "G", "R"])
    told = "needs training patches of every class beyond the labelled ones, got none of 'a': give "
    steps = {"evaluate#further_steps": 9}
    assert told in refused("finetune", **given, **steps)
    start("finetune", **{**given, "labels_per_class": 6}, **steps, arms=["C", "G", "R"])


def test_an_evaluation_alone_refuses_a_further_classifier_before_any_training(
    write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    patches = PatchSet.open(write_patch_set(tmp_path / "a", 6)).with_split()
    material = SimpleNamespace(labelled=patches.select("train"))
    evaluation: Any = SimpleNamespace(material=material)
    with pytest.raises(ValueError, match="a further classifier needs training patches of every"):
        run_and_report(evaluation, patches, "a", tmp_path / "none", further_steps=9)


def test_a_published_run_of_another_draw_is_told_before_any_work(tmp_path: Path) -> None:
    outcome: dict[str, Any] = dict.fromkeys(("run", "sampling", "options", "files"), {})
    outcome["selection"] = {"rule": CENTROIDS}
    (tmp_path / "outcome.json").write_text(json.dumps({**outcome, "settings": {"draw": 7}}))
    given = {"arms": ["C", "G0"], "evaluate#published_dir": str(tmp_path)}
    told = "draw must be what the candidates were made with, 7, got 0"
    assert told in refused("finetune", output_dir="out", **given)


def test_options_that_have_an_effect_are_taken_together() -> None:
    given = {"train#quota": 20, "train#surplus": 2.0, "train#max_candidates": 40}
    start("finetune", output_dir="out", **given, **{"train#guidance_scale": 3.0})


def test_all_real_patches_may_be_replaced_where_no_arm_is_shortened() -> None:
    own = {"synthetic_probability": 1, "classifier_steps": 80}
    check_values("evaluate", {**own, "arms": ["C", "F", "G"]})
    check_values("evaluate", {**own, "synthetic_probability": 0.99, "arms": ["A", "C"]})


def test_the_samples_of_an_earlier_inference_are_kept(tmp_path: Path) -> None:
    (tmp_path / "out" / "samples" / "0.png").mkdir(parents=True)
    for name in ("inference", "ldm inference"):
        assert "holds 'samples' already: choose" in refused(name, output_dir=str(tmp_path / "out"))


def test_data_is_checked_against_folds_and_threshold(
    write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    data = str(write_patch_set(tmp_path / "a", 12, 1, side=128, classes=("blue", "pink")))
    few = {"dataset_dir": data, "labels_per_class": 4, "output_dir": str(tmp_path / "out")}
    assert "must give at least 10 labelled patches in all" in refused("train", **few)
    small = str(write_patch_set(tmp_path / "c", 12, 1, side=92))
    line = refused("train", **{**few, "labels_per_class": 6, "dataset_dir": small})
    assert "patches must be at least 96 x 96 at 1 um per pixel, got 36 of 36 that are" in line


def test_a_full_or_closed_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = SimpleNamespace(free=50e6)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage)
    line = refused("finetune", output_dir="out")
    assert (
        "output_dir must be on a disk with" in line and "MB of room, got 50 MB for 'out'" in line
    )
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    line = refused("finetune", output_dir="out")
    assert (
        line
        == f"output_dir must be writable, got 'out', where '{tmp_path}' is not: choose another"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left", "x/a"),
            "the disk must have room, got none for 'x/",
        ),
        (OSError(errno.EROFS, "Read-only", "x/a"), "'x/a' must be writable, got 'Read-only'"),
        (ValueError("a must be b,\n got c"), "a must be b, got c"),
    ],
)
def test_errors_are_told_in_one_line(error: Exception, line: str) -> None:
    outer = RuntimeError("Failed to evaluate")
    outer.__cause__ = error
    assert (told(outer) or "").startswith(line) and told(RuntimeError("a fault of ours")) is None


def test_the_last_line_of_a_command_is_the_rule(tmp_path: Path) -> None:
    for name, options, line in (
        ("evaluate", ["--output_dir", "no"], "Error: the training stage must have written"),
        ("inference", ["--class", "nosuch"], "Error: class must be one of lung_aca, lung_n,"),
        ("finetune", ["--seeds", "5"], "Error: seeds must be a list of whole numbers"),
    ):
        root = BUNDLES if name == "finetune" else GUIDANCE
        given = ("--config_file", config_of(name)[0], "--bundle_root", str(root), *options)
        done = python_m("monai.bundle", "run", *given, "--device", "cpu", cwd=tmp_path)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode != 0 and last.startswith(line), done.stderr
        assert "Traceback" not in done.stderr


# -------------------------------------------------------------------------------------- the table


def raw(name: str) -> dict[str, Any]:
    return dict(ConfigParser.load_config_files(config_of(name)))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_knows_every_option_of_every_config(name: str) -> None:
    content, known = raw(name), options_of(name)
    plain = {k for k, v in content.items() if isinstance(v, (bool, int, float)) or v is None}
    assert set(known) <= set(content), "an option that its config does not have"
    assert plain - set(known) <= {"main_process"}, "a plain value that the table does not know"
    check_names(name, content, Path(config_of(name)[0]).parent)
    values = option_values(name, content)
    for option in known.values():
        if option.name in values:
            option.check(values[option.name])


def test_an_argument_that_a_class_takes_may_be_added(tmp_path: Path) -> None:
    own = {"thing": {"_target_": "torch.nn.Linear", "in_features": 1}, "run": "$@thing"}
    (tmp_path / "own.json").write_text(json.dumps(own))
    check_names(
        "train", {**own, "thing": {**own["thing"], "bias": False, "_mode_": "callable"}}, tmp_path
    )
    free = {"thing": {"_target_": "torch.nn.Linear", "in_features": {"any": {"thing": 1}}}}
    check_names("train", {**own, **free}, tmp_path)
    with pytest.raises(ValueError, match="got 'thing#out': did you mean|got 'thing#out': docs/op"):
        check_names("train", {**own, "thing": {**own["thing"], "out": 1}}, tmp_path)


def test_a_message_of_a_stage_names_options_as_the_main_job_takes_them() -> None:
    both = ("train", "evaluate")
    assert spelt("give a smaller --critic_folds", *both) == "give a smaller --train#critic_folds"
    assert spelt("add --replace True", *both) == "add --evaluate#replace True"
    assert spelt("--batch_size 4", "train") == "--train#batch_size 4"
    assert spelt("--batch_size 4", *both) == "--train#batch_size and --evaluate#batch_size 4"
    for text in ("--labels_per_class 5", "--train#quota 5", "--none 1", "a critic_folds"):
        assert spelt(text, *both) == text


def test_all_configs_are_in_the_table() -> None:
    found = {path.stem for path in BUNDLES.rglob("configs/*.[jy]*") if path.stem not in OVERLAYS}
    assert {name.removeprefix("ldm ") for name in CONFIGS} - {"finetune", "verdict"} == found


def test_label_of_a_class() -> None:
    assert [label_of(["0", "1"], name) for name in ("0", "1", None)] == [0, 1, 0]


# --------------------------------------------------------------------------------------- the plan


def test_the_plan_tells_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Step("a", "first", 15, seconds=30.0), Step("b", "second", 90)]
    made = RunPlan(steps, 2.0, "Hint: none.", ["Do."], ["2 are blank"])
    now = iter([100.0, 190.0])
    monkeypatch.setattr(plan.time, "perf_counter", lambda: next(now))
    made.announce()
    made.announce()
    made.begin("a")
    made.begin("b")
    made.begin("not planned")
    assert capsys.readouterr().out.splitlines() == [
        "Do.",
        "Look at this first: 2 are blank.",
        "Plan: first, second: about 4 minutes.",
        "Hint: none.",
        "[1/2] first: 0% done, about 4 minutes left",
        "[2/2] second: 25% done, about 4 minutes left",  # three times slower than was thought
    ]


def test_options_of_a_stage_leave_what_thorough_json_sets() -> None:
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / name) for name in ("finetune.json", "thorough.json")])
    parser.update({"train": {"quota": 9}, "evaluate": {"generator_metrics": False}})
    train, evaluate = (parser.get_parsed_content(f"{s}_options") for s in ("train", "evaluate"))
    assert (train["quota"], train["adaptation_steps"], train["max_candidates"]) == (9, 800, 800)
    assert (evaluate["classifier_steps"], evaluate["generator_metrics"]) == (1000, False)


def test_the_plan_names_arms_that_get_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    start("finetune", output_dir="out", arms=["C", "D"], seeds=[0])
    told = capsys.readouterr().out
    assert "No verdict on arms C and D, without arm G to compare with: add G.\n" in told


def test_the_plan_counts_what_the_options_ask_for() -> None:
    values = {**option_values("train", raw("train")), "bfloat16": False}
    steps = training_steps(values, 3, 75, 300)
    assert [step.name for step in steps] == ["adapt", "guide", "critic", "sample"]
    assert "up to 1200 candidates" in steps[3].text
    none = training_steps({**values, "adaptation_steps": 0, "guidance_scale": 3.0}, 3, 75, 300)
    assert [step.name for step in none] == ["guide", "critic", "sample"]
    assert none[2].cost < steps[3].cost, "a scale that is given is not tried"
    few = {**values, "quota": 100}
    more, twice = (training_steps({**few, "surplus": s}, 3, 75, 300)[3].cost for s in (1, 2))
    assert more < twice == pytest.approx(steps[3].cost), "a surplus is sampled too"
    own = training_steps({**values, "strength": 1.0, "exemplar_scale": 0.0}, 3, 75, 300)
    assert own[3].cost < steps[3].cost, "sources are decoded and judged"
    larger = training_steps(values, 3, 75, 300, 256)
    ratios = [b.cost / a.cost for a, b in zip(steps, larger, strict=True)]
    assert ratios[1:] == [4.0] * 3 and 3.5 < ratios[0] < 4, "the optimiser's steps do not grow"
    assert steps[0].seconds and not any(step.seconds for step in steps[1:])
    labelled = training_steps(values, 3, 75, 75)
    assert labelled[2].cost < steps[2].cost / 2, "without unlabelled patches it learns from none"
    verdict = {**option_values("evaluate", raw("evaluate")), "arms": ["C", "G", "J"]}
    (step,) = evaluation_steps(verdict)
    assert step.text == "train 6 classifiers (80 steps each)" and step.seconds
    (tested,) = evaluation_steps(verdict, 100)
    assert tested.cost - step.cost == pytest.approx(
        100 * (plan.READING + 30 * plan.PREDICTION + 5 * plan.FEATURES)
    )


def test_one_thread_is_recommended_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.__setitem__(0, n))
    monkeypatch.setattr(
        speed, "_seconds", lambda *_: (1.0,) * 2 if threads[0] == 1 else (3.0,) * 2
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unit, hint = speed.measure_speed("cpu")
    assert unit == 3.0 and threads == [4]
    assert "one thread is 3.0 times as fast as 4" in hint and "Put OMP_NUM_THREADS=1" in hint
    monkeypatch.setattr(speed, "_seconds", lambda *_: (1.0, 1.4))
    assert speed.measure_speed("cpu") == (1.0, "")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_busy_machine_is_told_and_does_not_lengthen_the_plan(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step computes 0.2 s on each thread, and waits as long again three times over."""
    clock = {"perf": 0.0, "process": 0.0}

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            clock["perf"] += 0.8
            clock["process"] += 0.2 * torch.get_num_threads()
            return images.new_ones(1, requires_grad=True)

    monkeypatch.setattr(speed, "PatchClassifier", lambda _: Network())
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock["perf"])
    monkeypatch.setattr(speed.time, "process_time", lambda: clock["process"])
    counts = [threads]
    monkeypatch.setattr(torch, "get_num_threads", lambda: counts[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: counts.__setitem__(0, n))
    unit, hint = speed.measure_speed("cpu")
    assert unit == pytest.approx(0.2) and counts == [threads]
    assert "other work slows" in hint and "takes 4.0 times as long as the plan says" in hint


def test_measuring_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    assert speed.measure_speed("cpu")[0] > 0 and torch.equal(torch.rand(2), expected)


def test_the_page_of_options_is_made_from_the_table() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options_page(BUNDLES), "make it anew, as its head says"
