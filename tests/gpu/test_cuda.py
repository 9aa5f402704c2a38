"""What must hold on a GPU; where there is none, or with ``HISTODIFF_DEVICE=cpu``, it is tried on
the CPU, so that the tests do not rot.

Run by ``python tests/gpu/kit.py``, or alone: ``python -m pytest -m gpu tests/gpu``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, WritePatchSet
from making import NARROW_EVALUATE, SMALL_TRAIN
from monai.bundle import run
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, ScaleIntensityRanged, ToTensord
from torch import Tensor

import monai_histodiff as mh
from monai_histodiff.selection import Selection
from monai_histodiff.selection.reasons import Reason
from monai_histodiff.training import DenoisingPrepareBatch, MuonAdamW

FOUND = "cuda" if torch.cuda.is_available() else "cpu"
DEVICE = torch.device(os.environ.get("HISTODIFF_DEVICE", FOUND))
BUNDLES = Path(__file__).parents[2] / "bundles"
LDM, GUIDANCE = BUNDLES / "histopathology_ldm", BUNDLES / "histopathology_guidance"

pytestmark = pytest.mark.gpu


def everything(patches: Tensor, labels: Any, origins: Any = None) -> Selection:
    """Accepts whatever it is shown."""
    count = len(patches)
    sure = torch.ones(count)
    nearest = torch.zeros(count, dtype=torch.long)
    return Selection(sure, sure, nearest, [Reason.accepted] * count)


@pytest.fixture(scope="module")
def models() -> dict[str, mh.LatentDiffusion]:
    return {name: mh.LatentDiffusion.from_bundle(LDM, name) for name in {"cpu", DEVICE.type}}


def test_samples_are_those_of_the_cpu(models: dict[str, mh.LatentDiffusion]) -> None:
    """In float32: the same noise, and rounding apart the same patches; exemplars included."""
    exemplars = mh.PatchEncoder.from_bundle(LDM).descriptors(torch.rand(3, 3, 128, 128))
    made = [
        mh.GuidedSampler(models[name], steps=4, stop=4.0, bfloat16=False, progress=False)(
            None, [1, 2, 3], exemplars
        )
        for name in ("cpu", DEVICE.type)
    ]
    assert float((made[0] - made[1]).abs().mean()) < 2e-3
    assert float((made[0] - made[1]).abs().max()) < 0.1


def test_bfloat16_samples_are_near(models: dict[str, mh.LatentDiffusion]) -> None:
    made = [
        mh.GuidedSampler(
            models[DEVICE.type], steps=4, stop=4.0, bfloat16=bfloat16, progress=False
        )(None, range(2))
        for bfloat16 in (False, True)
    ]
    assert float((made[0] - made[1]).abs().mean()) < 0.02


@pytest.mark.parametrize("size", [96, 128, 256])
def test_guidance_at_any_size(size: int, models: dict[str, mh.LatentDiffusion]) -> None:
    model = models[DEVICE.type]
    guide = mh.LatentClassifier(model.latent_shape[0], 2).to(DEVICE).eval()
    sampler = mh.GuidedSampler(model, guide, steps=2, size=size, progress=False)
    patches = sampler([0, 1], [5, 6])
    assert patches.shape == (2, 3, size, size) and bool(patches.isfinite().all())
    assert patches.device.type == "cpu"


def test_features_are_those_of_the_cpu() -> None:
    images = torch.rand(4, 3, 128, 128)
    found = [mh.PatchEncoder.from_bundle(LDM, name).features(images) for name in ("cpu", DEVICE)]
    assert float((found[0] - found[1]).abs().max()) < 1e-2 * float(found[0].abs().max())


def test_a_step_of_training_lowers_the_loss() -> None:
    model = mh.LatentDiffusion.from_bundle(LDM, DEVICE)
    model.unet.train()
    optimizer, step = MuonAdamW(model.unet.parameters(), 1e-3), DenoisingPrepareBatch(model)
    channels, *sides = model.latent_shape
    torch.manual_seed(0)
    batch = {  # of patches of half the size: a CPU that lacks bfloat16 is slow
        "image": torch.randn(2, channels, *(side // 2 for side in sides)),
        "descriptor": torch.randn(2, len(model.unet.exemplar.mean)),
    }
    losses = []
    for i in range(4):
        torch.manual_seed(i % 2)
        noisy, target, given, _ = step(batch, DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            out = model.unet(noisy, *given)
        loss = (out.float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[2:]) < sum(losses[:2])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_a_live_bank_that_a_gpu_fills(
    context: str,
    models: dict[str, mh.LatentDiffusion],
    write_patch_set: WritePatchSet,
    tmp_path: Path,
) -> None:
    """The sampler stays in this process; workers see shared memory alone."""
    model = models[DEVICE.type]
    guide = mh.LatentClassifier(model.latent_shape[0], 3).to(DEVICE).eval()
    sampler = mh.GuidedSampler(model, guide, steps=2, size=32, progress=False)
    bank = mh.LiveBank(sampler, everything, CLASSES, quota=2, max_candidates=2, capacity=2)  # type: ignore[arg-type]
    bank.refresh()
    patches = mh.PatchSet.open(write_patch_set(tmp_path / "set"))
    transform: list[Any] = [
        mh.SyntheticAugmentd("image", bank, prob=1.0, full_prob_at=1, classes=CLASSES),
        ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
        ToTensord("image", track_meta=False),
    ]
    loader = DataLoader(
        Dataset([{"image": v["image"], "label": v["label"]} for v in patches], Compose(transform)),
        batch_size=6,
        num_workers=2,
        multiprocessing_context=context,
    )
    assert sum(len(batch["label"]) for batch in loader) == len(patches)


def test_critics_judge_as_on_the_cpu() -> None:
    images, path = torch.rand(4, 3, 128, 128), GUIDANCE / "models" / "critic.pt"
    found = [
        mh.PatchCritic.load_probes(path, LDM, 3, name).probabilities(images)
        for name in ("cpu", DEVICE)
    ]
    assert float((found[0] - found[1]).abs().max()) < 1e-2


def test_the_main_job_and_what_reads_its_run(tmp_path: Path) -> None:
    """Every stage on the device, the smallest settings: adaptation, guide, critic, candidates,
    arms of each kind, report; then samples by the run, and a verdict on its bank.
    """
    out, shown, judged = (tmp_path / name for name in ("run", "shown", "judged"))
    small = {
        "train": {
            **SMALL_TRAIN,
            **{"adaptation_steps": 2, "batch_size": 8, "target_precision": 0.5},
        },
        "evaluate": {**NARROW_EVALUATE, "generator_metrics": True},
    }
    demo = mh.PatchSet.open(GUIDANCE / "data" / "demo.zip")
    few = demo.select("train").few(16).records + demo.select("test").few(6).records
    kept = {record.path for record in few}
    places = [i for i, record in enumerate(demo.records) if record.path in kept]
    data = demo.take(places).write(tmp_path / "data")
    common = {
        **{"labels_per_class": 5, "device": DEVICE.type, "seeds": [0]},
        "dataset_dir": str(data),
    }
    run(
        config_file=str(BUNDLES / "finetune.json"),
        bundle_root=str(BUNDLES),
        output_dir=str(out),
        arms=["C", "G", "E", "M", "P", "J"],
        **small,
        **common,
    )
    results = json.loads((out / "results.json").read_text())
    assert {*results["arms"]} >= {"C", "E", "M"} and (out / "report.html").is_file()
    run(
        config_file=str(GUIDANCE / "configs" / "inference.json"),
        bundle_root=str(GUIDANCE),
        ldm_dir=str(LDM),
        weights_dir=str(out / "models"),
        output_dir=str(shown),
        solver_steps=2,
        device=DEVICE.type,
    )
    assert (shown / "samples.png").is_file()
    run(
        config_file=str(BUNDLES / "verdict.json"),
        bundle_root=str(BUNDLES),
        synthetic_dir=str(shown / "samples"),
        output_dir=str(judged),
        classifier_steps=3,
        arms=["C", "G"],
        **common,
    )
    assert (judged / "results.json").is_file()
