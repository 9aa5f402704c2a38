"""The sampling benchmark compares like with like: all its samplers solve the same equation from
the same noise.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from monai_histodiff import (
    GuidedSampler,
    LatentClassifier,
    LatentDiffusion,
    PatchClassifier,
    PatchCritic,
)
from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.diffusion import Sources


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, Path(__file__).parent / "benchmarks" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("bench_sampling")


@pytest.mark.parametrize("scale", [0.0, 20.0])
def test_peers_end_at_our_patches(
    scale: float, bench: ModuleType, model: LatentDiffusion, guide: LatentClassifier
) -> None:
    """At many steps, with neither interval nor cap, which the peers' guides have not."""
    labels, seeds = torch.tensor([0, 2]), [3, 4]
    ours = GuidedSampler(model, guide, steps=100, scale=scale, interval=(-99, 99), cap=1e9)(
        labels, seeds
    )
    peers = [bench.monai_ddim(model, guide, 200, scale)]
    if bench.DPMSolverMultistepScheduler is not None:
        peers.append(bench.diffusers_dpm(model, guide, 100, scale))
    apart = [float((sample(labels, seeds) - ours).abs().mean()) for sample in peers]
    assert max(apart) < 0.01, apart
    if scale > 0:
        unguided = GuidedSampler(model, guide, steps=100, scale=0.0)(labels, seeds)
        assert max(apart) < 0.2 * float((unguided - ours).abs().mean()), apart


def test_table_has_a_row_for_each_sampler(
    bench: ModuleType, model: LatentDiffusion, guide: LatentClassifier, make_model
) -> None:
    labels, seeds = torch.tensor([0, 1, 2, 1]), [1, 2, 3, 4]
    latents = tuple(torch.randn(2, *model.latent_shape) for _ in range(3))
    entries = bench.samplers(
        model,
        guide,
        [{}, {"few_steps": True}, {"steps": 4, "strength": 0.5, "scale": 0}],
        ddim_steps=4,
        dpm_steps=3,
        batch=3,
        student=make_model(1),
        variations=Sources(latents),
    )
    assert list(entries)[0] == bench.PAPER
    assert list(entries)[-3:] == [
        "ours: as it comes (20 evaluations)",
        "ours: few_steps True (4 evaluations)",
        "ours: steps 4, strength 0.5, scale 0 (3 evaluations)",
    ]
    rows = bench.run(entries, labels, seeds, batch=3)
    for name, row in rows.items():
        assert [len(p) for p in row.patches] == [3, 1] and row.seconds > 0
        assert torch.allclose(
            torch.cat(row.patches)[3:], entries[name](labels[3:], seeds[3:]), atol=1e-5
        )
    critic = PatchCritic([PatchClassifier(3, width=8)], 3).eval()
    confidence = critic.probabilities(torch.cat(rows[bench.PAPER].patches)).gather(
        1, labels[:, None]
    )[:, 0]
    critic.threshold.fill_(float(confidence.sort().values[2]))  # half of the paper's are accepted
    real = torch.rand(8, 3, 32, 32)
    encoder = PatchEncoder(widths=(4, 4, 8, 8, 8), features=16).eval()
    lines = bench.table(rows, labels, critic, real, encoder).splitlines()
    assert len(lines) == 2 + len(rows) + 1 and len({line.count("|") for line in lines}) == 1
    name, speed, share, mean, rate, ratio, _ = (
        cell.strip() for cell in lines[2].strip("|").split("|")
    )
    assert (name, share, ratio) == (bench.PAPER, "50%", "1.0") and float(mean) == pytest.approx(
        float(confidence.mean()), abs=0.01
    )
    assert float(rate) == pytest.approx(float(speed) / 2, abs=0.01)


def test_flow_has_no_peer(bench: ModuleType, make_model) -> None:
    with pytest.raises(
        ValueError, match="need a schedule that preserves the variance, got a flow"
    ):
        bench.signal_power(make_model(schedule="flow"))


def test_the_command_prints_a_table(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    names = [(k, i) for k in ("lung_aca", "lung_n", "lung_scc") for i in range(4)]
    pictures = (
        (
            PatchRecord(f"{k}/{i}.png", k, "train", f"{k}{i}"),
            rng.integers(0, 256, (128, 128, 3), np.uint8),
        )
        for k, i in names
    )
    write_patches(tmp_path / "real", pictures)
    few = ["--patches", "4", "--ddim_steps", "1", "--dpm_steps", "1"]
    ours = ["--ours", '{"steps": 2, "stop": 3, "strength": 0.5}', '{"few_steps": true}']
    bench.main([*few, *ours, "--device", "cpu", "--dataset_dir", str(tmp_path / "real")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].endswith("| KID |") and lines[-1].startswith("| real, one half to the other |")
    assert lines[-3].startswith("| ours: steps 2, stop 3, strength 0.5 (2 evaluations) |")
    assert lines[-2].startswith("| ours: few_steps True (4 evaluations) |")


def test_the_profile_counts_every_call(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    gradient = torch.autograd.grad
    load("profile_sampling").main(["--patches", "3", "--device", "cpu", "--ours", '{"steps": 12}'])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()[5:]
    ]
    calls = {name: count for name, _, count in rows}
    assert calls.pop("the rest") == "" and torch.autograd.grad is gradient
    assert calls == {
        "UNet": "12",
        "guide, forward": "7",
        "guide, backward": "7",
        "decoder": "1",
    }
    assert sum(float(share.rstrip("%")) for _, share, _ in rows) == pytest.approx(100, abs=0.5)
