"""The code of the page on generators runs as it stands, and does what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_generative import GOLDEN, weights
from monai.utils import set_determinism

from monai_histodiff import LatentDiffusion
from monai_histodiff.utils.weights import save_weights

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "generators.md"
PARTS = (("down", "Encoder"), ("up", "Decoder"))


def blocks_of(heading: str) -> list[str]:
    """The code below a heading."""
    text = PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.M)
    own = [part for part in parts if part.startswith(heading)]
    return re.findall(r"^```python\n(.*?)^```$", own[0], flags=re.M | re.S)


def run(blocks: list[str], names: dict[str, Any]) -> None:
    try:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    finally:
        set_determinism(None)


@pytest.mark.slow
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    names: dict[str, Any] = {}
    run(blocks_of("# Generators") + blocks_of("MONAI\n"), names)
    pink, violet = names["made"].mean((2, 3)).split(2)
    assert bool((pink[:, 0] > 0.65).all() and (violet[:, 0] < 0.65).all()), "by their red"
    run(blocks_of("Guide"), names)
    assert len(names["bank"]) >= 6
    model = names["model"]
    run(blocks_of("The verdict"), names)
    assert len([*Path("my_pictures").rglob("*.png")]) == 8
    run(blocks_of("In a bundle"), names)
    theirs = names["again"]
    assert torch.equal(theirs.latent_std, model.latent_std)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.7])
    classes = torch.tensor([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.denoise(z, t, classes), model.denoise(z, t, classes), atol=0.02, rtol=0.02
        )
    for name in ("autoencoder", "unet"):
        shapes = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]["shapes"]
        torch.save(weights(shapes), f"{name}.pth")
    run(blocks_of("MONAI Generative"), names)
    assert names["from_old"].shape == (2, 3, 16, 16)


def test_the_page_of_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers", reason="diffusers is in an extra")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    imports = "from monai_histodiff import GuidedSampler, LatentDiffusion"
    run([imports, *blocks_of("diffusers")], names)
    assert names["of_diffusers"].shape == (2, 3, 16, 16) and names["model"].num_classes == 2
    assert names["of_unet"].shape == (2, 3, 16, 16) and names["model"].null_class == 2


def test_a_bundle_may_be_of_diffusers_as_the_page_says(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in an extra")
    small = {"block_out_channels": [8, 8], "norm_num_groups": 4}
    blocks = {k: [f"{k.capitalize()}Block2D"] * 2 for k in ("down", "up")}
    of_unet = {f"{k}_block_types": v for k, v in blocks.items()} | small
    of_unet |= {"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_class_embeds": 3}
    of_vae = {f"{k}_block_types": [f"{k.capitalize()}{part}Block2D"] * 2 for k, part in PARTS}
    network = {
        "_target_": "monai_histodiff.LatentDiffusion.from_diffusers",
        "autoencoder": {"_target_": "diffusers.AutoencoderKL", **of_vae, **small},
        "unet": {"_target_": "diffusers.UNet2DModel", **of_unet},
        "scheduler": {"_target_": "diffusers.DDPMScheduler"},
        "patch_size": 16,
        "null_class": 2,
    }
    vae = diffusers.AutoencoderKL(**of_vae, **small)
    unet, scheduler = diffusers.UNet2DModel(**of_unet), diffusers.DDPMScheduler()
    model = LatentDiffusion.from_diffusers(vae, unet, scheduler, patch_size=16, null_class=2)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"network_def": network}))
    (tmp_path / "models").mkdir()
    save_weights(tmp_path / "models" / "model.pt", model.state_dict())
    again = LatentDiffusion.from_bundle(tmp_path)
    z, t, classes = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.7]), torch.tensor([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(
            again.denoise(z, t, classes), model.denoise(z, t, classes), atol=0.05, rtol=0.05
        )
