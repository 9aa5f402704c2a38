"""Kept latents: whose they are is checked when they are read, and a damaged file is made anew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, ScaleIntensityRanged, ToTensord

import monai_histodiff as mh
from monai_histodiff.bundle.inference import ReconstructionInferer
from monai_histodiff.diffusion import encode_latents, latents
from monai_histodiff.evaluation.denoising import denoising_error
from monai_histodiff.utils.weights import write_state

PIPELINE = Compose(
    [ScaleIntensityRanged("image", 0, 255, 0.0, 1.0), ToTensord("image", track_meta=False)]
)


@pytest.fixture
def encode(
    patch_set: mh.PatchSet, model: mh.LatentDiffusion, tmp_path: Path
) -> Callable[[], list[dict[str, Any]]]:
    return lambda: encode_latents(model, Dataset(patch_set, PIPELINE), cache=tmp_path / "z.pt")


def looks(model: mh.LatentDiffusion, patches: Any) -> list[Callable[[], Any]]:
    """All ways by which patches reach the autoencoder."""
    images = torch.stack([patches[i]["image"] for i in range(len(patches))])
    return [
        lambda: model.encode(images),
        lambda: torch.stack([v["image"] for v in encode_latents(model, patches)]),
        lambda: ReconstructionInferer()(images, model),
        lambda: torch.tensor(denoising_error(model, patches)["relative_error"]),
    ]


@torch.no_grad()
def test_bytes_are_scaled_and_other_ranges_refused(
    patch_set: mh.PatchSet, model: mh.LatentDiffusion
) -> None:
    unit = Dataset(patch_set, PIPELINE)
    for plain, scaled in zip(looks(model, patch_set), looks(model, unit), strict=True):
        torch.testing.assert_close(plain(), scaled(), rtol=1e-3, atol=1e-3)
    for low, high in ((0.0, 255.0), (-1.0, 1.0)):
        wrong = [{**v, "image": v["image"] * (high - low) + low} for v in unit]
        for look in looks(model, wrong):
            with pytest.raises(ValueError, match=r"lie in \[0, 1\], got .*: load it as uint8"):
                look()


def test_latents_without_spread_have_no_statistics(model: mh.LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="latents must differ"):
        latents.fit_latent_statistics(model, [{"image": torch.zeros(4, 8, 8)}] * 3)


def test_latents_are_encoded_once(
    encode: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode()
    monkeypatch.setattr(latents, "_encode", None)
    torch.testing.assert_close(encode(), first, rtol=0, atol=0)


def test_another_decoder_keeps_the_latents_and_another_encoder_does_not(
    encode: Callable[[], Any], model: mh.LatentDiffusion
) -> None:
    first = encode()
    with torch.no_grad():
        for parameter in model.autoencoder.decoder.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(encode(), first, rtol=0, atol=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(latents, "_encode", None)
        encode()
    model.autoencoder.basis.mul_(2.0)
    assert not torch.equal(encode()[0]["image"], first[0]["image"])


def flip_a_bit(path: Path) -> None:
    """In a latent, of which the first is looked for by its bytes."""
    content, stored = bytearray(path.read_bytes()), torch.load(path)["columns"]["image"]
    content[content.index(stored[0, 0, 0].numpy().tobytes())] ^= 2
    path.write_bytes(bytes(content))


DAMAGE: list[Callable[[Path], Any]] = [
    lambda p: p.write_bytes(p.read_bytes()[:-200]),
    lambda p: p.write_bytes(b""),
    flip_a_bit,
    lambda p: write_state(p, {"image": torch.zeros(1)}),
    lambda p: torch.save([1], p),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew_with_a_warning(
    damage: Callable[[Path], Any],
    encode: Callable[[], Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, path = encode(), tmp_path / "z.pt"
    damage(path)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(encode(), first, rtol=0, atol=0)
    assert "encoded anew" in caplog.text


def test_the_latents_of_another_run_do_not_come_back(
    encode: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run writes the same file between our writing and the reading."""
    first = encode()
    (tmp_path / "z.pt").unlink()

    def overtaken(path: Path, state: dict[str, Any]) -> None:
        columns = {**state["columns"], "image": torch.zeros_like(state["columns"]["image"])}
        write_state(path, {"key": "another", "columns": columns})

    monkeypatch.setattr(latents, "write_state", overtaken)
    torch.testing.assert_close(encode(), first, rtol=0, atol=0)
    monkeypatch.setattr(latents, "from_first_rank", lambda make: overtaken_elsewhere(tmp_path))
    with pytest.raises(ValueError, match="the latents of this run, got those of another"):
        encode()


def overtaken_elsewhere(folder: Path) -> None:
    """What a process that is not the first sees."""
    write_state(folder / "z.pt", {"key": "another", "columns": {}})


def test_latents_beyond_float16_are_refused(
    encode: Callable[[], Any], model: mh.LatentDiffusion, tmp_path: Path
) -> None:
    model.latent_std.fill_(1e-9)
    with pytest.raises(ValueError, match="latents must be finite in float16, got [0-9]+ values"):
        encode()
    assert not (tmp_path / "z.pt").exists()
