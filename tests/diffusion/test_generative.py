"""Checkpoints of MONAI Generative Models compute in MONAI what they computed there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden_generative import GOLDEN, NETWORKS, outputs, weights
from monai.networks import nets
from torch import Tensor, nn

from monai_histodiff import GuidedSampler, LatentDiffusion
from monai_histodiff.diffusion.generative import load_generative

RECORDED = json.loads(GOLDEN.read_text(encoding="utf-8"))


def network(name: str, **options: bool) -> nn.Module:
    kind, arguments = NETWORKS[name]
    return getattr(nets, kind)(**arguments, **options)


def old(name: str) -> dict[str, Tensor]:
    return weights(RECORDED[name]["shapes"])


def furthest(name: str, found: nn.Module) -> float:
    """Largest difference from what the old package computed."""
    truth = {k: torch.tensor(v) for k, v in RECORDED[name]["outputs"].items()}
    made = outputs(name, found)
    assert made.keys() == truth.keys()
    return max(float((made[k].flatten() - truth[k]).abs().max()) for k in truth)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_old_package(name: str) -> None:
    state = old(name)
    kept = {k: v.clone() for k, v in state.items()}
    assert furthest(name, load_generative(network(name), state)) < 1e-5
    assert state.keys() == kept.keys() and all(torch.equal(v, state[k]) for k, v in kept.items())


@pytest.mark.parametrize("name", ["autoencoder", "unet", "classes"])
def test_networks_without_the_projection_are_the_same(name: str) -> None:
    assert furthest(name, load_generative(network(name, include_fc=False), old(name))) < 1e-5


def test_monais_own_loader_computes_something_else() -> None:
    """Why there is one of ours; when this fails, MONAI's serves."""
    found = network("unet")
    found.load_old_state_dict(old("unet"))
    assert furthest("unet", found) > 0.01


def test_a_file_is_read_and_a_checkpoint_of_monai_is_its_own(tmp_path: Path) -> None:
    torch.save(old("unet"), tmp_path / "old.pth")
    found = load_generative(network("unet"), tmp_path / "old.pth")
    assert furthest("unet", found) < 1e-5
    with torch.no_grad():
        found.middle_block.attention.attn.out_proj.weight.mul_(2)
    torch.save(found.state_dict(), tmp_path / "new.pth")
    again = load_generative(network("unet"), tmp_path / "new.pth")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in found.state_dict().items())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = old("unet")
    with pytest.raises(ValueError, match="weights must fit the network, got .* 'the state given'"):
        load_generative(network("context"), state)
    with pytest.raises(ValueError, match="weights must fit the network"):
        load_generative(network("unet"), {**state, "more.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="weights must fit the network"):
        load_generative(network("unet", use_combined_linear=True), state)
    del state["out.0.weight"]
    with pytest.raises(ValueError, match="weights must fit the network, .*'out.0.weight'"):
        load_generative(network("unet"), state)
    with pytest.raises(FileNotFoundError, match="weights must exist"):
        load_generative(network("unet"), tmp_path / "none.pth")


@pytest.mark.parametrize("autoencoder", ["autoencoder", "vqvae"])
def test_an_old_generator_goes_through_the_sampler(autoencoder: str) -> None:
    model = LatentDiffusion.from_monai(
        load_generative(network(autoencoder), old(autoencoder)),
        load_generative(network("classes"), old("classes")),
        {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195},
        scale_factor=0.9,
        patch_size=16,
        null_class=2,
    )
    sampler = GuidedSampler(model, steps=3, class_scale=2.0, progress=False)
    made = sampler([0, 1], [5, 6])
    assert made.shape == (2, 3, 16, 16) and not torch.equal(made[0], made[1])
    torch.testing.assert_close(sampler.replace(max_batch=1)([0, 1], [5, 6]), made)
