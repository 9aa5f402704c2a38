"""The guidance bundle with a generator of another make: what its bundle must hold, and a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_histodiff import LatentClassifier, LatentDiffusion, PatchSet
from monai_histodiff.bundle.generator import check_generator
from monai_histodiff.bundle.metadata import scale_of
from monai_histodiff.bundle.running import run_stage
from monai_histodiff.bundle.task import Task
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.training import DenoisingPrepareBatch
from monai_histodiff.utils.weights import save_weights

BUNDLES = Path(__file__).parents[2] / "bundles"
GUIDANCE = BUNDLES / "histopathology_guidance"
SMALL = {"spatial_dims": 2, "num_res_blocks": 1, "norm_num_groups": 4}
NETWORK: dict[str, Any] = {
    "_target_": "monai_histodiff.LatentDiffusion.from_monai",
    "autoencoder": {
        "_target_": "monai.networks.nets.AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "channels": [4, 4, 4, 4],
        "latent_channels": 4,
        "attention_levels": [False] * 4,
        "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
        **SMALL,
    },
    "unet": {
        "_target_": "monai.networks.nets.DiffusionModelUNet",
        "in_channels": 4,
        "out_channels": 4,
        "channels": [8, 8],
        "attention_levels": [False, False],
        "num_head_channels": 8,
        "num_class_embeds": 3,
        **SMALL,
    },
    "scheduler": {"_target_": "monai.networks.schedulers.DDPMScheduler"},
    "scale_factor": 1.0,
    "patch_size": 96,
    "null_class": 2,
}
SETTINGS: dict[str, Any] = {
    "bundle_root": str(GUIDANCE),
    "device": "cpu",
    "labels_per_class": 6,
    "batch_size": 8,
    "adaptation_steps": 1,
    "adaptation_encodings": 1,
    "encodings": 1,
    "guide_steps": 1,
    "critic_views": 1,
    "guidance_scales": [3.0],
    "solver_steps": 2,
    "quota": 2,
    "max_candidates": 3,
    "target_precision": 0.5,
    "exemplar_scale": 0.0,
}


@pytest.fixture
def ldm(tmp_path: Path) -> Path:
    """The bundle of a generator of MONAI's networks, of the classes blue and pink, or none."""
    root = tmp_path / "theirs"
    for folder in ("configs", "models"):
        (root / folder).mkdir(parents=True)
    config = json.dumps({"network_def": NETWORK})
    (root / "configs/inference.json").write_text(config)
    metadata = {"um_per_px": 1.0, "classes": ["blue", "pink"]}
    (root / "configs/metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    network = ConfigParser(json.loads(config)).get_parsed_content("network_def")
    save_weights(root / "models/model.pt", network.state_dict())
    shutil.copy(BUNDLES / "histopathology_ldm/models/encoder.pt", root / "models")
    return root


@pytest.fixture
def write(draw_patches: Callable[..., np.ndarray], tmp_path: Path) -> Callable[..., str]:
    def make(*names: str) -> str:
        items = [
            (
                PatchRecord(f"{name}/{i}.png", name, "test" if i > 7 else "train", f"{name}{i}"),
                patch,
            )
            for label, name in enumerate(names)
            for i, patch in enumerate(draw_patches(label, 11, 96))
        ]
        return str(write_patches(tmp_path / "-".join(names), items))

    return make


def test_a_generator_of_classes_is_adapted_guided_sampled_and_judged(
    ldm: Path, write: Callable[..., str], tmp_path: Path
) -> None:
    data, out = write("blue", "pink"), tmp_path / "out"
    options = {**SETTINGS, "ldm_dir": str(ldm), "dataset_dir": data, "output_dir": str(out)}
    run_stage(GUIDANCE / "configs/train.yaml", **options, class_scale=2.0)
    outcome = json.loads((out / "outcome.json").read_text())
    assert outcome["sampling"]["class_scale"] == 2.0
    guide = LatentClassifier.from_file(out / "models/model.pt")
    assert (guide.in_channels, guide.num_classes) == (4, 2)
    assert sum(row["candidates"] for row in outcome["selection"]["per_class"].values()) >= 4
    adapted = LatentDiffusion.from_bundle(ldm, weights=out / "models/generator.pt")
    theirs = LatentDiffusion.from_bundle(ldm)
    before, after = (model.unet.state_dict() for model in (theirs, adapted))
    assert any(not torch.equal(before[k], after[k]) for k in before), "the adaptation trains it"
    run_stage(
        GUIDANCE / "configs/inference.json",
        bundle_root=str(GUIDANCE),
        ldm_dir=str(ldm),
        weights_dir=str(out / "models"),
        output_dir=str(tmp_path / "samples"),
        device="cpu",
        seeds=[0, 1],
        accepted_only=False,
        **{"class": "pink"},
    )
    samples = PatchSet.open(tmp_path / "samples/samples")
    assert samples.sizes() == [(96, 96)] * 2 and samples.counts() == {"pink": 2}


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("models/encoder.pt", "got no 'models/encoder.pt' in .*the patch encoder: copy that of"),
        ("configs/metadata.json", "got no 'configs/metadata.json' in .*which tells um_per_px"),
    ],
)
def test_what_a_bundle_lacks_is_told_before_any_work(
    file: str, told: str, ldm: Path, write: Callable[..., str], tmp_path: Path
) -> None:
    (ldm / file).unlink()
    options = {**SETTINGS, "ldm_dir": str(ldm), "dataset_dir": write("blue", "pink")}
    with pytest.raises(SystemExit, match=told):
        run_stage(GUIDANCE / "configs/train.yaml", **options, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    if "metadata" in file:
        with pytest.raises(FileNotFoundError, match="a bundle must tell um_per_px.* no such file"):
            scale_of(ldm)


def test_a_scatter_that_was_cut_is_told_before_any_work(
    ldm: Path, write: Callable[..., str], tmp_path: Path
) -> None:
    whole = (BUNDLES / "histopathology_ldm/models/scatter.pt").read_bytes()
    (ldm / "models/scatter.pt").write_bytes(whole[: len(whole) // 2])
    options = {**SETTINGS, "ldm_dir": str(ldm), "dataset_dir": write("blue", "pink")}
    with pytest.raises(SystemExit, match=r"scatter\.pt"):
        run_stage(GUIDANCE / "configs/train.yaml", **options, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_a_generator_cannot_do_is_told_before_any_work(
    ldm: Path, write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Task) -> None:
        raise AssertionError("every picture is read before")

    monkeypatch.setattr(Task, "read", refuse)
    options = {**SETTINGS, "ldm_dir": str(ldm), "output_dir": str(tmp_path / "out")}
    config, own = GUIDANCE / "configs/train.yaml", write("blue", "pink")
    with pytest.raises(SystemExit, match="exemplar_scale must be 0 for a generator that takes no"):
        run_stage(config, **{**options, "exemplar_scale": 1.0}, dataset_dir=own)
    shipped = {"ldm_dir": str(BUNDLES / "histopathology_ldm"), "class_scale": 0.5}
    with pytest.raises(SystemExit, match="class_scale must be 1 for a generator that does not"):
        run_stage(config, **{**options, **shipped}, dataset_dir=own)
    told = "in their order, blue, violet, got blue, pink in .*: give --train#class_scale 0"
    with pytest.raises(SystemExit, match=told):
        run_stage(config, **options, dataset_dir=write("blue", "violet"))
    assert not (tmp_path / "out").exists()


def test_classes_of_a_generator_are_those_that_its_bundle_names(ldm: Path) -> None:
    model = LatentDiffusion.from_bundle(ldm)
    own, others = (PatchSet([], [], names) for names in (["blue", "pink"], ["other", "tissue"]))
    check_generator(model, ldm, own, 1.0, 0.0)
    check_generator(model, ldm, others, 0.0, 0.0)
    (ldm / "configs/metadata.json").write_text('{"um_per_px": 1.0}')
    with pytest.raises(ValueError, match="must name the 2 classes that its generator draws"):
        check_generator(model, ldm, own, 1.0, 0.0)
    model.unet.null_class = None
    with pytest.raises(ValueError, match="class_scale must be 1 for a generator that does not"):
        check_generator(model, ldm, own, 0.0, 0.0)
    with pytest.raises(ValueError, match="take another, for this one cannot leave its classes"):
        check_generator(model, ldm, own, 1.0, 0.0)


def test_a_generator_whose_classes_are_left_aside_is_trained_as_one_of_none(ldm: Path) -> None:
    model = LatentDiffusion.from_bundle(ldm)
    batch = {"image": torch.zeros(3, *model.latent_shape), "label": torch.tensor([0, 7, -1])}
    shown = DenoisingPrepareBatch(model)(batch)[2][1]
    aside = DenoisingPrepareBatch(model, class_scale=0.0)(batch)[2][1]
    assert shown.tolist() == [0, 7, -1] and aside.tolist() == [-1, -1, -1]
