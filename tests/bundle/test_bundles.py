"""Every shipped config is really run, on small sets and few steps, with the shipped weights."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import NARROW_EVALUATE, SMALL_EVALUATE, SMALL_TRAIN
from monai.bundle import ConfigParser, ConfigWorkflow, load, run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from warm import python_m

from monai_histodiff import (
    Candidates,
    GuidedSampler,
    LatentDiffusion,
    PatchClassifier,
    PatchCritic,
    PatchEncoder,
    PatchSet,
    SyntheticBank,
)
from monai_histodiff.bundle.provenance import describe_files
from monai_histodiff.bundle.run_folder import MADE, RunFolder
from monai_histodiff.bundle.running import run_stage
from monai_histodiff.commands.zoo import package_bundle
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import appearance, centre_crop
from monai_histodiff.diffusion.model import PREDICTIONS
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.evaluation.denoising import denoising_error
from monai_histodiff.evaluation.feature_metrics import compare_features, frechet_distance
from monai_histodiff.report.summary import difference_words
from monai_histodiff.utils.files import write_json
from monai_histodiff.utils.weights import load_weights, save_weights

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
LDM, GUIDANCE = BUNDLES / "histopathology_ldm", BUNDLES / "histopathology_guidance"
REAL = ROOT.parent / "shared" / "data"


def write_stripes(
    folder: Path,
    per_class: int = 6,
    size: int = 128,
    splits: tuple[str, ...] = ("train", "test"),
    um: str = "",
) -> Path:
    rng = np.random.default_rng(0)
    extra = {"um_per_px": um} if um else {}

    def items():
        for k, name in enumerate(("pink", "violet")):
            for split in splits:
                for i in range(per_class):
                    base = np.array([[230, 150, 190], [120, 80, 170]][k])
                    noise = rng.integers(-40, 40, (size, size, 1))
                    picture = (base + noise).clip(0, 255).astype(np.uint8)
                    yield (
                        PatchRecord(
                            f"{name}/{split}{i}.png", name, split, f"{name}_{split}_{i}", extra
                        ),
                        picture,
                    )

    return write_patches(folder, items())


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run of bundles/finetune.json, on which several tests look."""
    base = tmp_path_factory.mktemp("finetune")
    run(**finetune_options(write_stripes(base / "data", per_class=8), base / "out"))
    return base / "out"


def finetune_options(data: Path, out: Path) -> dict[str, Any]:
    return {
        "config_file": str(BUNDLES / "finetune.json"),
        "bundle_root": str(BUNDLES),
        "dataset_dir": str(data),
        "output_dir": str(out),
        "labels_per_class": 6,
        "device": "cpu",
        "seeds": [0, 1],
        "arms": ["A", "B", "C", "D", "E", "F", "G", "H", "S", "I", "J", "R"],
        "strength": 1.0,
        "train": {**SMALL_TRAIN, "adaptation_steps": 2, "target_precision": 0.5, "batch_size": 8},
        "evaluate": NARROW_EVALUATE,
    }


def test_the_same_command_goes_on_where_its_evaluation_was_stopped(
    finetuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(finetuned, tmp_path / "out"))
    options = finetune_options(finetuned.parent / "data", out)
    whole = json.loads((out / "results.json").read_text())
    candidates, cached = (out / "outcome.json").read_bytes(), sorted((out / "cache").iterdir())
    with pytest.raises(SystemExit, match="must be new, got .*, which holds 'candidates' already"):
        run_stage(**options)
    (out / "report.html").unlink()
    with pytest.raises(SystemExit, match="results.json alone, of an evaluation that was stopped"):
        run_stage(**options)
    for name in ("results.json", "predictions.npz"):
        (out / name).unlink()
    for change, message in (
        ({"strength": 0.5}, "of train#strength 1.0, and now 0.5: choose another, or run evaluate"),
        ({"draw": 1}, "draw must be what the candidates were made with, 0, got 1: give --draw 0"),
        ({"train": {**options["train"], "flip#prob": 0.4}}, r"of train#parts \w+, and now \w+"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_stage(**options | change)
    cached[0].unlink()  # the training at which it was stopped
    run_stage(**options)
    told = capsys.readouterr().out
    assert "are of this command: kept, and judged" in told and "sample and judge" not in told
    assert (out / "outcome.json").read_bytes() == candidates
    assert sorted((out / "cache").iterdir()) == cached
    again = json.loads((out / "results.json").read_text())
    assert again["arms"] == whole["arms"] and again["options"] == whole["options"]


def test_an_evaluation_is_extended_without_training_again(finetuned: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finetuned, tmp_path / "out"))
    before, kept = json.loads((out / "results.json").read_text()), set((out / "cache").iterdir())
    settings: dict[str, Any] = {
        "config_file": str(GUIDANCE / "configs/evaluate.yaml"),
        "bundle_root": str(GUIDANCE),
        "dataset_dir": str(finetuned.parent / "data"),
        "output_dir": str(out),
        "labels_per_class": 6,
        "device": "cpu",
        "seeds": [0, 1],
        "arms": ["C", "G", "G0"],
        **NARROW_EVALUATE,
    }
    common = {
        name: settings[name]
        for name in ("bundle_root", "dataset_dir", "labels_per_class", "device")
    }
    paper = {
        **SMALL_TRAIN,
        "batch_size": 8,
        "solver_steps": 3,
        "output_dir": str(out / "published"),
        "critic_training#steps": 2,
    }
    configs = [str(GUIDANCE / "configs" / name) for name in ("train.yaml", "published.yaml")]
    run(config_file=configs, **common, **paper)
    about = json.loads((out / "published/outcome.json").read_text())
    sampling, made = about["sampling"], about["settings"]
    told = [sampling[name] for name in ("mode", "solver", "eta", "scale", "stop")]
    assert told == ["clean", "ddim", 1.0, 10.0, None]
    assert (
        about["selection"]["rule"] == "nearest centroid"
        and "threshold" not in about["selection"]
        and made["adaptation_steps"] == 0
    )
    assert set(about["selection"]["reasons"]) <= {"another centroid is nearer", "over quota"}
    with pytest.raises(SystemExit, match="output_dir must be new"):
        run_stage(**settings)
    with pytest.raises(
        SystemExit, match="labels_per_class must be what the candidates were made with, 6, got 5"
    ):
        run_stage(**{**settings, "labels_per_class": 5}, replace=True)
    with pytest.raises(
        SystemExit, match=r"must be one of evaluate's, got 'classifier_step': did you mean"
    ):
        run_stage(**settings, classifier_step=3)
    other = write_stripes(tmp_path / "other", per_class=8, splits=("test", "train"))
    rows = (
        (other / "manifest.csv")
        .read_text()
        .replace("pink_train_1\n", "pink_test_9\n")
        .replace("pink_test_1\n", "pink_train_1\n")
    )
    (other / "manifest.csv").write_text(rows)
    with pytest.raises(
        SystemExit,
        match="must be new to the candidates, got 1 they were made with, such as 'pink_train_1'",
    ):
        run_stage(**{**settings, "dataset_dir": str(other), "arms": ["C", "G"]}, replace=True)
    run_stage(**settings, replace=True, generator_metrics=True, further_steps=3)
    after = json.loads((out / "results.json").read_text())
    new = {path.name[:5] for path in set((out / "cache").iterdir()) - kept}
    assert new == {"G0-0-", "G0-1-"} and list(after["arms"]) == ["C", "G", "G0"]
    assert {arm: after["arms"][arm] for arm in "CG"} == {arm: before["arms"][arm] for arm in "CG"}
    assert set(after["generator"]) == {"pink", "violet"} and "G-G0" in after["claims"]
    shown = "Arm G0 shows {accepted} of {candidates} candidates".format(**about["selection"])
    assert any(note.startswith(shown) for note in after["notes"])
    options = after["options"]
    modes = [options[f"{whose}train#guidance_mode"] for whose in ("", "published ")]
    assert modes == ["noisy", "clean"] and "critic" in after
    with pytest.raises(SystemExit, match="published.yaml in published_dir, got one of another"):
        run_stage(**settings, replace=True, published_dir=str(out))
    own = RunFolder(out / "published")
    critic = PatchCritic.load_probes(own.critic, LDM, 2)
    assert len(critic.members) == 3 and isinstance(critic.members[0], PatchClassifier)
    start = "$monai_histodiff.classifiers.EncoderStart(@ldm_dir)"
    del settings["classifier#width"]
    run_stage(**{**settings, "arms": ["C", "B"]}, replace=True, classifier=start)
    started = json.loads((out / "results.json").read_text())
    assert (after["settings"]["backbone"], started["settings"]["backbone"]) == (
        "from scratch",
        "patch encoder",
    )
    assert started["arms"]["C"] != after["arms"]["C"], (
        "another start is another training, not a cached one"
    )
    assert after["agreement"][
        "patches"
    ] == 4 and "further classifier, fitted on 4 other" in " ".join(after["notes"])


def test_finetune_writes_everything_it_promises(finetuned: Path) -> None:
    results = json.loads((finetuned / "results.json").read_text())
    required = {
        "dataset",
        "arms",
        "differences",
        "selection",
        "sampling",
        "seeds",
        "versions",
        "verdict",
    }
    assert required <= set(results)
    asked = ["A", "B", "C", "D", "E", "F", "G", "H", "S", "I", "J", "R"]
    dropped = [note.split()[1] for note in results["notes"] if "was not trained: " in note]
    assert set(dropped) <= {"F", "H", "S"}, "of so few candidates any number may be accepted"
    assert list(results["arms"]) == [arm for arm in asked if arm not in dropped]
    assert all(len(v) == 2 for metrics in results["arms"].values() for v in metrics.values())
    assert set(results["arms"]["G"]) == {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "auc",
        "ece",
        "worst_recall",
    }
    assert set(results["differences"]["G-C"]["balanced_accuracy"]) == {"mean", "low", "high"}
    paired = np.mean(
        np.subtract(results["arms"]["G"]["accuracy"], results["arms"]["C"]["accuracy"])
    )
    assert results["differences"]["G-C"]["accuracy"]["mean"] == pytest.approx(paired)
    room = results["differences"]["R-C"]["balanced_accuracy"]
    left = sum(results["dataset"]["counts"]["train"].values()) - 12
    notes = [
        note
        for note in results["notes"]
        if note.startswith(f"The ceiling: the {left} training patches")
    ]
    assert (
        len(notes) == 1
        and f"change balanced accuracy by {difference_words(room)} points" in notes[0]
    )
    assert results["dataset"]["counts"]["labelled"] == {"pink": 6, "violet": 6}
    assert results["dataset"]["demo"] is False
    selection = results["selection"]
    assert selection["candidates"] == sum(
        [selection["accepted"], selection["over_quota"], *selection["reasons"].values()]
    )
    assert results["sampling"]["steps"] == 2 and results["sampling"]["scale"] in (
        0.0,
        1.5,
        3.0,
        6.0,
    )
    told = results["verdict"]
    assert "at least 3 seeds, got 2" in told or "no synthetic patch" in told
    page = (finetuned / "report.html").read_text()
    assert "data:image/jpeg;base64," in page and "pink" in page


def test_thorough_settings_are_laid_over_the_entry_for_patches_of_another_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = [str(BUNDLES / name) for name in ("finetune.json", "thorough.json")]
    small = {
        "train": {**SMALL_TRAIN, "adaptation_steps": 2, "batch_size": 8},
        "evaluate": SMALL_EVALUATE,
    }
    less = {
        f"{stage}#{name}": value
        for stage, settings in small.items()
        for name, value in settings.items()
    }
    data = write_stripes(tmp_path / "data", per_class=8, size=201, um="0.5")
    out = tmp_path / "out"
    places = {"bundle_root": str(BUNDLES), "dataset_dir": str(data), "output_dir": str(out)}
    start = "$monai_histodiff.classifiers.EncoderStart(@ldm_dir)"
    less |= {
        "train#strength": 0.5,
        "evaluate#classifier": start,
    }  # what the entry sets itself, and an expression
    run(config_file=entry, **places, labels_per_class=6, device="cpu", arms=["C", "G"], **less)
    told = capsys.readouterr().out
    assert told.count("Patches have 100 x 100 pixels at 1 um per pixel.") == 1
    results = json.loads((out / "results.json").read_text())
    made = results["settings"]
    assert (made["um_per_px"], made["model_um_per_px"], made["patch_size"]) == (None, 1.0, 100)
    assert results["sampling"]["size"] == 100, "201 pixels of 0.5 um"
    assert "Patches have 100 x 100 pixels at 1 um per pixel." in results["notes"]
    found = json.loads((out / "outcome.json").read_text())["found"]
    assert found and results["warnings"][0] == ["Look at this first:", f"{'; '.join(found)}."]
    assert told.count(f"Look at this first: {found[0]}.") == 1
    candidates, bank = Candidates.load(out / "candidates"), SyntheticBank.load(out / "bank")
    assert candidates.images.shape[1:] == (3, 100, 100) and bank.um_per_px == 1.0
    shown = tmp_path / "shown"
    options = {"weights_dir": str(out / "models"), "output_dir": str(shown), "solver_steps": 2}
    run(
        config_file=str(GUIDANCE / "configs" / "inference.json"),
        bundle_root=str(GUIDANCE),
        ldm_dir=str(LDM),
        seeds=[0, 1],
        accepted_only=False,
        um_per_px=0.5,
        device="cpu",
        **options,
    )
    samples = PatchSet.open(shown / "samples")
    assert samples.sizes() == [(200, 200)] * 2 and samples.records[0].um_per_px == 0.5
    assert results["seeds"] == [0, 1, 2, 3, 4] and results["selection"]["target_precision"] == 0.75
    assert results["settings"]["classifier_steps"] == 3 and set(results["generator"]) == {
        "pink",
        "violet",
    }
    assert (
        results["sampling"]["strength"] == 0.5
        and results["settings"]["backbone"] == "patch encoder"
    )
    for stage, settings in json.loads((BUNDLES / "thorough.json").read_text())["overlay"].items():
        assert set(settings) <= set(
            ConfigParser.load_config_file(str(GUIDANCE / "configs" / f"{stage}.yaml"))
        )


def test_bank_holds_the_accepted_candidates_and_reloads(finetuned: Path) -> None:
    bank, candidates = (
        SyntheticBank.load(finetuned / "bank"),
        Candidates.load(finetuned / "candidates"),
    )
    for k in range(2):
        rows = candidates.accepted & (candidates.labels == k)
        assert bank.count(k) == int(rows.sum())
        if bank.count(k):
            torch.testing.assert_close(bank.images[k], candidates.images[rows])
            assert bank.seeds[k].tolist() == candidates.seed[rows].tolist()
    assert bank.provenance["settings"]["labels_per_class"] == 6


def test_guidance_inference_reproduces_a_candidate_from_its_seed(
    finetuned: Path, tmp_path: Path
) -> None:
    candidates = Candidates.load(finetuned / "candidates")
    wanted = int((candidates.labels == 1).nonzero()[0])
    run(
        config_file=str(GUIDANCE / "configs" / "inference.json"),
        bundle_root=str(GUIDANCE),
        ldm_dir=str(LDM),
        weights_dir=str(finetuned / "models"),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        seeds=[int(candidates.seed[wanted])],
        accepted_only=False,
        solver_steps=2,
        **{"class": "violet"},
    )
    sampled = PatchSet.open(tmp_path / "out" / "samples")
    assert sampled.records[0].label == "violet"
    difference = (sampled.images()[0].int() - candidates.images[wanted].int()).abs()
    assert int(difference.max()) <= 3  # the saved weights are float16
    assert float(sampled.records[0].extra["confidence"]) == pytest.approx(
        float(candidates.confidence[wanted]), abs=0.02
    )


def test_guidance_inference_makes_the_variations_of_its_run(
    finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed, the same source, judged by the same member; and more of them, at the settings
    of the run.
    """
    common = {"bundle_root": str(GUIDANCE), "device": "cpu"}
    settings = {
        **SMALL_TRAIN,
        "adaptation_steps": 0,
        "target_precision": 0.5,
        "guidance_scales": [3.0],
        "labels_per_class": 6,
        "critic_views": 2,
    }
    data, run_dir = str(finetuned.parent / "data"), tmp_path / "run"
    train = str(GUIDANCE / "configs" / "train.yaml")
    run_stage(
        train,
        ldm_dir=str(LDM),
        dataset_dir=data,
        output_dir=str(run_dir),
        strength=0.6,
        **common,
        **settings,
    )
    candidates = Candidates.load(run_dir / "candidates")
    wanted = (candidates.labels == 1).nonzero()[:, 0]
    assert candidates.origin is not None and len(wanted) >= 3
    told, kept = (
        json.loads((run_dir / "outcome.json").read_text())["selection"],
        candidates.accepted,
    )
    assert (
        told["sources"]
        == len(set(candidates.origin[kept].tolist()))
        == sum(c["sources"] for c in told["per_class"].values())
    )
    critic = PatchCritic.load_probes(run_dir / "models" / "critic.pt", LDM, 2)
    critic.temperature.fill_(20.0)  # less sure: the members agree on stripes
    critic.save(run_dir / "models" / "critic.pt")
    folder = RunFolder(run_dir)
    told_of = {"files": describe_files(run_dir, MADE)}
    write_json(folder.outcome, {**folder.read_outcome(), **told_of})
    inference: dict[str, Any] = {
        **{
            "config_file": str(GUIDANCE / "configs" / "inference.json"),
            "ldm_dir": str(LDM),
            **common,
        },
        **{"weights_dir": str(run_dir / "models"), "class": "violet"},
        **{"seeds": candidates.seed[wanted].tolist(), "accepted_only": False},
    }
    run(output_dir=str(tmp_path / "out"), **inference)
    sampled = PatchSet.open(tmp_path / "out" / "samples")
    difference = (sampled.images().int() - candidates.images[wanted].int()).abs()
    assert int(difference.max()) <= 3  # the saved weights are float16
    scores = torch.tensor([float(record.extra["confidence"]) for record in sampled.records])
    unseen, everyone = (
        critic.probabilities(sampled.images(), o)[:, 1] for o in (candidates.origin[wanted], None)
    )
    assert float((scores - unseen).abs().max()) < 0.2 * float((scores - everyone).abs().max())
    run(output_dir=str(tmp_path / "noise"), strength=1.0, **inference)
    other = (
        PatchSet.open(tmp_path / "noise" / "samples").images().int()
        - candidates.images[wanted].int()
    ).abs()
    assert float(other.float().mean()) > 4 * float(difference.float().mean())

    for name, target in (("bundles", BUNDLES), ("out", run_dir), ("my_patches.zip", Path(data))):
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / "here" / name).symlink_to(target)
    monkeypatch.chdir(tmp_path / "here")
    code = re.findall(
        r"```python\n(.*?)```",
        (ROOT / "docs" / "transform.md").read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    names: dict[str, Any] = {}
    exec(
        compile(next(block for block in code if "ConfigParser" in block), "transform.md", "exec"),
        names,
    )
    bank = names["bank"]
    bank.options |= {"quota": 2, "max_candidates": 2}
    names["selector"].threshold = 0.0
    assert bank.refresh() and len(bank) == 4 and names["sampler"].settings.strength == 0.6
    bank.close()


def test_a_second_run_refuses_to_overwrite(finetuned: Path, tmp_path: Path) -> None:
    before = (finetuned / "outcome.json").stat().st_mtime_ns
    with pytest.raises(
        SystemExit, match="output_dir must be new, got .* which holds 'candidates' already"
    ):
        run_stage(
            GUIDANCE / "configs" / "train.yaml",
            bundle_root=str(GUIDANCE),
            dataset_dir="nowhere",
            output_dir=str(finetuned),
        )
    assert (finetuned / "outcome.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_dir": "nowhere"}, "dataset_dir must exist, got 'nowhere'"),
        ({"dataset_dir": "EMPTY"}, "must hold a manifest.csv or class folders"),
        ({"labels_per_class": 7}, "labels_per_class is 7, but class 'pink' has 6 patches"),
        (
            {"critic_folds": 7},
            "each class must have at least 7 labelled patches to train on, got 6 in 6",
        ),
        ({"device": "cuda:9"}, "device must be there, got 'cuda:9'"),
        ({"patch_size": 256}, "patches must be at least 256 x 256 at 1 um per pixel"),
        ({"um_per_px": 0.5}, "patches must be at least 96 x 96 at 1 um per pixel"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, change: dict, message: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    data = write_stripes(tmp_path / "data")
    options = {"dataset_dir": str(data), "labels_per_class": 6, "device": "cpu", **change}
    if options["dataset_dir"] == "EMPTY":
        options["dataset_dir"] = str(tmp_path / "EMPTY")
    with pytest.raises(SystemExit, match=message) as caught:
        run_stage(
            GUIDANCE / "configs" / "train.yaml",
            bundle_root=str(GUIDANCE),
            ldm_dir=str(LDM),
            output_dir=str(tmp_path / "out"),
            **options,
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_finetune_from_the_command_line_reports_bad_input(tmp_path: Path) -> None:
    options = [
        "--config_file",
        str(BUNDLES / "finetune.json"),
        "--bundle_root",
        str(BUNDLES),
        "--dataset_dir",
        "nowhere",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    done = python_m("monai.bundle", "run", *options, cwd=tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: dataset_dir must exist, got 'nowhere': give")


def ldm_training(*names: str) -> list[str]:
    """The config files of a training."""
    return [str(LDM / "configs" / f"{stem}.yaml") for stem in ("train_base", *names)]


def pretraining_sets(folder: Path) -> list[str]:
    for name in ("a", "b"):
        write_stripes(folder / name, per_class=12, splits=("train",))
        rows = (
            (folder / name / "manifest.csv")
            .read_text()
            .replace("pink_", f"{name}_pink_")
            .replace("violet_", f"{name}_violet_")
        )
        (folder / name / "manifest.csv").write_text(rows)
    return ["a", "b"]


def test_ldm_training_configs_chain_into_a_usable_model(tmp_path: Path) -> None:
    sources = pretraining_sets(tmp_path / "data")
    common = {
        "dataset_dir": str(tmp_path / "data"),
        "sources": sources,
        "device": "$torch.device('cpu')",
        "held_out": 0.25,
    }
    small = {"steps": 2, "batch_size": 4, "epoch_length": 2}
    encoder = {"encoder_dir": str(LDM)}  # its own is the last of the trainings
    autoencoder, diffusion = tmp_path / "autoencoder", tmp_path / "diffusion"
    run(
        config_file=ldm_training("train_autoencoder"),
        output_dir=str(autoencoder),
        **common,
        **small,
    )
    run(
        config_file=ldm_training("train_diffusion"),
        output_dir=str(diffusion),
        autoencoder_weights=str(autoencoder / "model.pt"),
        **common,
        **small,
        encodings=1,
        **encoder,
    )
    first, second = (
        torch.load(f / "model.pt", weights_only=True) for f in (autoencoder, diffusion)
    )
    assert all(torch.equal(first[k], second[k]) for k in first if k.startswith("autoencoder."))
    assert any(not torch.equal(first[k], second[k]) for k in first if k.startswith("unet."))
    assert not torch.equal(first["latent_std"], second["latent_std"])
    kept = torch.load(diffusion / "latents.pt", weights_only=True)
    assert len(kept["columns"]["image"]) == 36  # three quarters of 48, encoded once
    other = {
        "network_def#prediction": "flow",
        "network_def#schedule": "flow",
        "autoencoder_weights": str(diffusion / "model.pt"),
    }
    again = {
        "config_file": ldm_training("train_diffusion"),
        **common,
        **small,
        "encodings": 1,
        **encoder,
    }
    run(output_dir=str(tmp_path / "flow"), **again, **other)
    run(
        output_dir=str(tmp_path / "on"),
        **again,
        initial_weights=str(diffusion / "model.pt"),
        learning_rate=0.0,
        adamw_learning_rate=0.0,
    )
    third, fourth = (
        torch.load(tmp_path / f / "model.pt", weights_only=True) for f in ("flow", "on")
    )
    assert (
        int(third["prediction_code"])
        == PREDICTIONS.index("flow")
        != int(second["prediction_code"])
    )
    assert bool(third["schedule.is_flow"]) and not bool(second["schedule.is_flow"])
    assert all(torch.equal(second[k], third[k]) for k in second if k.startswith("autoencoder."))
    assert any(not torch.equal(second[k], third[k]) for k in second if k.startswith("unet."))
    assert [k for k in second if not torch.equal(second[k], fourth[k])] == [], (
        "a whole model keeps its latent statistics"
    )
    students = {**again, "config_file": ldm_training("train_diffusion", "train_few_steps")}
    run(output_dir=str(tmp_path / "few"), **students, initial_weights=str(diffusion / "model.pt"))
    student = torch.load(tmp_path / "few" / "few_steps.pt", weights_only=True)
    moved = {k.split(".")[0] for k in second if not torch.equal(second[k], student[k])}
    assert moved == {"unet"}, "a student is its teacher with another UNet"


def test_training_resumes_and_draws_its_curves(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    options = {
        "dataset_dir": str(tmp_path / "data"),
        "sources": pretraining_sets(tmp_path / "data"),
        "held_out": 0.25,
    }
    options |= {
        "device": "$torch.device('cpu')",
        "batch_size": 2,
        "epoch_length": 1,
        "output_dir": str(tmp_path / "out"),
    }
    options["log_every"] = 1
    run(config_file=ldm_training("train_autoencoder"), steps=3, **options)
    assert not (tmp_path / "out" / "tensorboard").exists()
    run(
        config_file=ldm_training("train_autoencoder"),
        steps=5,
        tensorboard=True,
        accumulation_steps=2,
        **options,
    )
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "gradient_norm"}
    assert [e.step for e in events.Scalars("loss")] == [4, 5]  # what was left
    assert not [w for w in recwarn if "non-scalar" in str(w.message)]  # StatsHandler logs the loss
    assert all(0 < e.value < 100 for e in events.Scalars("gradient_norm"))
    grid = Image.open(io.BytesIO(events.Images("patches")[0].encoded_image_string))
    assert grid.size == (
        8 * 130 + 2,
        2 * 130 + 2,
    )  # eight held-out patches above their reconstructions


def test_mlflow_tracking_reaches_the_trainer(tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=ldm_training("train_autoencoder"),
        workflow_type="train",
        logging_file=False,
        tracking="mlflow",
        bundle_root=str(tmp_path),
    )
    assert workflow.parser["train#handlers"][-1]["_target_"] == "MLFlowHandler"
    handlers = workflow.parser["train#trainer#train_handlers"]
    assert handlers.startswith("$@train::handlers + ["), "as MONAI writes it"


def test_decoder_training_changes_the_decoder_alone_and_resumes_to_the_bit(tmp_path: Path) -> None:
    options = {
        "dataset_dir": str(tmp_path / "data"),
        "sources": pretraining_sets(tmp_path / "data"),
        "held_out": 0.25,
        "device": "$torch.device('cpu')",
        "initial_weights": str(LDM / "models" / "model.pt"),
        "encoder_dir": str(LDM),
        "batch_size": 4,
        "epoch_length": 1,
        "discriminator_def#channels": 8,
    }
    config = ldm_training("train_decoder")
    run(config_file=config, output_dir=str(tmp_path / "whole"), steps=2, **options)
    for steps in (1, 2):
        run(config_file=config, output_dir=str(tmp_path / "parts"), steps=steps, **options)
    old = torch.load(LDM / "models" / "model.pt", weights_only=True)
    whole, parts = (
        torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    changed = {key.rsplit(".", 2)[0] for key in old if not torch.equal(old[key], whole[key])}
    assert changed
    assert all(key.startswith("autoencoder.decoder") for key in changed)


def test_encoder_training_config_writes_an_encoder(tmp_path: Path) -> None:
    options = {
        "output_dir": str(tmp_path / "out"),
        "dataset_dir": str(tmp_path / "data"),
        "sources": pretraining_sets(tmp_path / "data"),
        "device": "$torch.device('cpu')",
        "view_size": 32,
        "zoom": [0.75, 1.5],
        "steps": 3,
        "batch_size": 4,
        "epoch_length": 3,
    }
    run(config_file=ldm_training("train_encoder"), **options)
    trained = load_weights(PatchEncoder(), tmp_path / "out" / "encoder.pt")
    assert all(bool(v.isfinite().all()) for v in trained.state_dict().values())
    assert int(trained.state_dict()["levels.0.1.num_batches_tracked"]) == 3
    run(config_file=ldm_training("train_encoder"), **{**options, "steps": 6, "log_every": 1})
    trained = load_weights(PatchEncoder(), tmp_path / "out" / "encoder.pt")
    assert int(trained.state_dict()["levels.0.1.num_batches_tracked"]) == 6, "it went on"
    for change, told in (
        ({"learning_rate": 0.1}, "learning_rate is 0.1, and was 0.002"),
        ({"sources": options["sources"][:1]}, "sources is .*, and was"),
        ({"steps": 7}, "steps must be a multiple of epoch_length, 3, .*, or --epoch_length 1"),
        ({"steps": 8}, "got 8: give --steps 9, or --epoch_length 2$"),
    ):
        with pytest.raises(Exception) as caught:
            run(config_file=ldm_training("train_encoder"), **{**options, **change})
        error: BaseException | None = caught.value
        while error is not None and not re.search(told, str(error)):
            error = error.__cause__
        assert error is not None, (change, caught.value)


def test_the_encoder_never_sees_test_patches(tmp_path: Path) -> None:
    write_stripes(tmp_path / "data")  # with both splits
    parser = ConfigParser()
    parser.read_config(ldm_training("train_encoder"))
    parser["dataset_dir"], parser["sources"] = str(tmp_path), ["data"]
    pool = parser.get_parsed_content("pool")
    assert {record.split for record in pool.train.records} == {"train"} and not pool.held_out
    assert len(pool.train) < len(PatchSet.open(tmp_path / "data"))


def test_pretraining_reads_patches_at_the_scale_that_is_asked_for(tmp_path: Path) -> None:
    write_stripes(tmp_path / "a", size=224, um="0.5", splits=("train",))
    options = {
        "output_dir": str(tmp_path / "out"),
        "dataset_dir": str(tmp_path),
        "sources": ["a"],
        "device": "$torch.device('cpu')",
        "held_out": 0.25,
        "steps": 1,
        "batch_size": 2,
        "epoch_length": 1,
    }
    config = ldm_training("train_autoencoder")
    run(config_file=config, **options, read_at=1.0, patch_size=112)
    assert (tmp_path / "out" / "model.pt").is_file()
    parser = ConfigParser()
    parser.read_config(config)
    for key, value in {**options, "read_at": 1.0, "patch_size": 112}.items():
        parser[key] = value
    images = parser.get_parsed_content("train#dataset")
    assert {tuple(images[i]["image"].shape) for i in range(len(images))} == {(3, 112, 112)}


def ldm_sampler(model: LatentDiffusion, steps: int) -> GuidedSampler:
    """As the configs of the generator's bundle sample: after stored exemplars."""
    sources = Sources.load(LDM / "models" / "exemplars.pt", 1)
    settings = SamplingSettings.pretrained(False, steps=steps)
    return GuidedSampler(model, sources=sources, settings=settings)


def ldm_student() -> GuidedSampler:
    """As they sample unless they are told otherwise."""
    student = LatentDiffusion.few_steps_from_bundle(LDM)
    sources = Sources.load(LDM / "models" / "exemplars.pt", 1)
    return GuidedSampler(student, sources=sources, settings=SamplingSettings.pretrained())


@pytest.mark.parametrize("few_steps", [True, False])
def test_ldm_inference_writes_the_patches_of_the_sampler(tmp_path: Path, few_steps: bool) -> None:
    run(
        config_file=str(LDM / "configs/inference.json"),
        bundle_root=str(LDM),
        output_dir=str(tmp_path / "out"),
        seeds=[3, 5],
        device="cpu",
        **({} if few_steps else {"few_steps": False, "solver_steps": 3}),
    )
    sampled = PatchSet.open(tmp_path / "out" / "samples")
    with open(tmp_path / "out" / "samples" / "manifest.csv") as stream:
        assert [row["seed"] for row in csv.DictReader(stream)] == ["3", "5"]
    sampler = ldm_student() if few_steps else ldm_sampler(LatentDiffusion.from_bundle(LDM), 3)
    expected = sampler(None, [3, 5])
    assert int((sampled.images().int() - (expected * 255).round().int()).abs().max()) <= 1
    assert (tmp_path / "out" / "samples.png").is_file()


def test_ldm_inference_samples_after_patches_of_yours(tmp_path: Path) -> None:
    write_stripes(tmp_path / "data", size=160, um="0.8")
    given = {"bundle_root": str(LDM), "device": "cpu", "dataset_dir": str(tmp_path / "data")}
    config = str(LDM / "configs/inference.json")
    run(config_file=config, output_dir=str(tmp_path / "out"), seeds=[3, 5], **given)
    patches = PatchSet.open(tmp_path / "data").at(1.0).select("train")
    found = PatchEncoder.from_bundle(LDM).descriptors(patches.images(128))
    own = Sources.of([{"label": 0, "descriptor": row} for row in found], 1)
    student = LatentDiffusion.few_steps_from_bundle(LDM)
    sampler = GuidedSampler(student, sources=own, settings=SamplingSettings.pretrained())
    expected = sampler(None, [3, 5])
    sampled = PatchSet.open(tmp_path / "out" / "samples").images()
    assert int((sampled.int() - (expected * 255).round().int()).abs().max()) <= 1
    assert float((ldm_student()(None, [3, 5]) - expected).abs().max()) > 0.1, "not the stored ones"


def as_items(patches: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"image": patch} for patch in patches]


def test_ldm_evaluate_measures_reconstruction_samples_and_copies(tmp_path: Path) -> None:
    sources = pretraining_sets(tmp_path / "data")
    write_stripes(tmp_path / "data" / "labelled")
    bundle = tmp_path / "bundle"
    shutil.copytree(LDM, bundle)
    torch.manual_seed(0)
    save_weights(bundle / "models" / "encoder.pt", PatchEncoder().state_dict())
    run(
        config_file=str(LDM / "configs/evaluate.yaml"),
        bundle_root=str(bundle),
        output_dir=str(tmp_path / "out"),
        dataset_dir=str(tmp_path / "data"),
        sources=sources,
        labelled="labelled",
        held_out=0.25,
        num_samples=12,
        two_sample_steps=2,
        patch_size=100,
        sizes=[96, 144],
        device="cpu",
    )
    rows = dict(
        line.split(",") for line in (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    )
    held_out = PatchSet.open([tmp_path / "data" / s for s in sources]).hold_out(0.25, seed=0)[1]
    model = LatentDiffusion.from_bundle(LDM)
    x = held_out.images(100).float() / 255
    with torch.no_grad():
        rebuilt = centre_crop(model.decode(model.encode(model.padded(x))), 100)
    error = (rebuilt - x).square().mean((1, 2, 3))
    assert float(rows["psnr"]) == pytest.approx(float((-10 * error.log10()).mean()), abs=0.05)
    assert 0 < float(rows["ssim"]) <= 1
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["reconstruction"] == pytest.approx(
        {k: float(v) for k, v in rows.items()}, abs=1e-3
    )
    assert {size: row["crop"] for size, row in found["by_size"].items()} == {"96": 96, "144": 128}
    assert (tmp_path / "out" / "samples-144.png").is_file()
    encoder = PatchEncoder.from_bundle(bundle)
    samples = (ldm_student().replace(size=100)(None, range(12)) * 255).round() / 255
    expected = compare_features(encoder.features(x), encoder.features(samples))
    deviation = appearance(x).std(0).clamp(min=1 / 255)
    expected["appearance"] = frechet_distance(
        appearance(x) / deviation, appearance(samples) / deviation
    )
    assert found["generator"]["samples"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert found["denoising"]["mean"] == pytest.approx(
        denoising_error(model, as_items(x))["mean"], rel=1e-3
    )
    assert found["generator"]["numbers"] == {
        "samples": 12,
        "floor": 12,
        "held_out": len(held_out),
        "train": 48 - len(held_out),
    }
    assert found["generator"]["floor"]["fid"] < found["generator"]["samples"]["fid"]
    assert found["probe"]["accuracy"] == 1.0  # two plain colours
    assert (tmp_path / "out" / "samples.png").is_file()


@pytest.mark.parametrize(("bundle", "config"), [(LDM, "train_diffusion"), (GUIDANCE, "train")])
def test_training_workflows_have_the_required_properties(
    bundle: Path, config: str, tmp_path: Path
) -> None:
    sources = pretraining_sets(tmp_path / "data")
    if bundle == LDM:
        data = {
            "dataset_dir": str(tmp_path / "data"),
            "sources": sources,
            "autoencoder_weights": str(LDM / "models" / "model.pt"),
        }
    else:
        data = {
            "dataset_dir": str(write_stripes(tmp_path / "stripes")),
            "labels_per_class": 6,
            "encodings": 1,
        }
    workflow = ConfigWorkflow(
        config_file=ldm_training(config)
        if bundle == LDM
        else str(bundle / "configs" / f"{config}.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        output_dir=str(tmp_path / "out"),
        **data,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("bundle", [LDM, GUIDANCE])
def test_inference_workflows_have_the_required_properties(bundle: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(bundle),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_demo_set_is_synthetic_grouped_and_balanced() -> None:
    demo = PatchSet.open(GUIDANCE / "data" / "demo.zip")
    assert all(r.extra["synthetic"] == "true" for r in demo.records)
    for split in ("train", "test"):
        assert len(set(demo.select(split).counts().values())) == 1
    assert not set(demo.select("train").groups) & set(demo.select("test").groups)
    assert demo.images().shape[1:] == (3, 128, 128)


def test_shipped_samples_look_like_tissue_by_their_statistics() -> None:
    model = LatentDiffusion.from_bundle(LDM)
    patches = GuidedSampler(model, steps=12)(None, range(8))
    mean = patches.mean((0, 2, 3))
    assert mean[0] > mean[1] and mean[2] > mean[1]  # haematoxylin and eosin absorb green most
    assert float(patches.std((2, 3)).mean()) > 0.04


def test_metadata_names_the_latent_of_the_network() -> None:
    parser = ConfigParser()
    parser.read_config(str(LDM / "configs" / "inference.json"))
    shape = parser.get_parsed_content("network_def").latent_shape
    for bundle in (LDM, GUIDANCE):
        about = json.loads((bundle / "configs" / "metadata.json").read_text())[
            "network_data_format"
        ]["inputs"]["image"]
        assert (about["num_channels"], *about["spatial_shape"]) == shape


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real H&E data")
def test_finetune_on_real_colorectal_tissue(tmp_path: Path) -> None:
    """The set is read whole; the run takes some of its test patches."""
    whole = PatchSet.open(REAL / "colorectal_ebhi_192.zip")
    assert len(whole.select("test")) == 444
    few = {record.path for record in whole.select("test").few(8).records}
    kept = [i for i, r in enumerate(whole.records) if r.split == "train" or r.path in few]
    some = whole.take(kept).write(tmp_path / "data")
    run(
        config_file=str(BUNDLES / "finetune.json"),
        bundle_root=str(BUNDLES),
        dataset_dir=str(some),
        output_dir=str(tmp_path / "out"),
        labels_per_class=15,
        unlabelled_patches=30,
        device="cpu",
        seeds=[0],
        arms=["C", "G"],
        train={**SMALL_TRAIN, "adaptation_steps": 0},
        evaluate=NARROW_EVALUATE,
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["dataset"]["counts"]["labelled"] == dict.fromkeys(
        ("ADC", "HGIN", "LGIN", "NORM", "POLYP", "SERR"), 15
    )
    assert set(results["dataset"]["counts"]["test"].values()) == {8}


def test_packaged_downloaded_loaded_and_run_outside_the_checkout(tmp_path: Path) -> None:
    archive = package_bundle(LDM, tmp_path / "dist")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "dist"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        bundles = tmp_path / "bundles"
        download = [
            "download",
            "--name",
            "histopathology_ldm",
            "--url",
            url,
            "--bundle_dir",
            str(bundles),
        ]
        python_m("monai.bundle", *download, cwd=tmp_path).check_returncode()
        server.shutdown()
    network = load(
        "histopathology_ldm", bundle_dir=str(bundles), workflow_type="inference", device="cpu"
    )
    own = LatentDiffusion.from_bundle(LDM)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in own.state_dict().items())
    options = [
        "--config_file",
        "configs/inference.json",
        "--seeds",
        "[1]",
        "--output_dir",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    folder = bundles / "histopathology_ldm"
    python_m("monai.bundle", "run", *options, cwd=folder).check_returncode()
    expected = ldm_student()(None, [1])
    assert (
        int(
            (
                PatchSet.open(tmp_path / "out" / "samples").images().int()
                - (expected * 255).round().int()
            )
            .abs()
            .max()
        )
        <= 1
    )


@pytest.mark.parametrize("unlabelled", [0, 12])
def test_the_critic_learns_from_unlabelled_patches_where_there_are_any(
    unlabelled: int, tmp_path: Path
) -> None:
    write_stripes(tmp_path / "data", per_class=12, splits=("train", "test"))
    parser = ConfigParser()
    parser.read_config(str(GUIDANCE / "configs/train.yaml"))
    parser.update({"dataset_dir": str(tmp_path / "data"), "ldm_dir": str(LDM), "device": "cpu"})
    parser.update({"labels_per_class": 6, "unlabelled_patches": unlabelled, "critic_views": 1})
    critic = parser.get_parsed_content("critic")
    recipe = parser.get_parsed_content("critic_training")
    assert len(recipe._crops) == unlabelled
    assert (critic._last is None) == (unlabelled == 0)
    assert len(parser.get_parsed_content("known")) == 12 + unlabelled
