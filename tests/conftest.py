"""Small things that the tests share: coloured patches, patch sets made of them, and tiny networks
with random weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import set_track_meta
from monai.networks.nets import DiffusionModelUNet

from monai_histodiff import (
    Candidates,
    LatentClassifier,
    LatentDiffusion,
    PatchAutoencoder,
    PatchSet,
)
from monai_histodiff.data.patch_files import PatchRecord, write_patches

# many tiny tensors: one thread is faster than two, here and in the processes that tests start
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

CLASSES = ("blue", "pink", "violet")
COLOURS = ((90, 110, 200), (230, 150, 190), (130, 60, 150))

DrawPatches = Callable[..., np.ndarray]
WritePatchSet = Callable[..., Path]


@pytest.fixture(autouse=True)
def restore_track_meta() -> Iterator[None]:
    """The guidance configs switch MONAI's metadata off for speed; other tests want it on."""
    yield
    set_track_meta(True)


@pytest.fixture(scope="session")
def draw_patches() -> DrawPatches:
    """Draw uint8 patches ``N x H x W x 3`` of a class: its colour, blobs of another size in each
    patch, and pixel noise.
    """

    def draw(label: int, count: int, side: int = 32, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng((seed, label))
        blobs = rng.normal(0, 25, (count, side // 4, side // 4, 1)).repeat(4, 1).repeat(4, 2)
        values = np.array(COLOURS[label]) + blobs + rng.normal(0, 6, (count, side, side, 3))
        return values.round().clip(0, 255).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def write_patch_set(draw_patches: DrawPatches) -> WritePatchSet:
    """Write a patch set: ``per_class`` patches of each class, ``group_size`` to a group, one
    column beyond the required.
    """

    def write(
        folder: Path,
        per_class: int = 6,
        group_size: int = 2,
        side: int = 32,
        split: str = "",
        seed: int = 0,
        classes: Sequence[str] = CLASSES,
    ) -> Path:
        items = []
        for label, name in enumerate(classes):
            for i, patch in enumerate(draw_patches(label, per_class, side, seed)):
                group = f"{split}{seed}-{name}-{i // group_size}"
                items.append(
                    (
                        PatchRecord(
                            f"{name}/{seed}-{i}.png", name, split, group, {"stain": f"H&E {i}"}
                        ),
                        patch,
                    )
                )
        return write_patches(folder, items)

    return write


@pytest.fixture(scope="session")
def patch_set(
    write_patch_set: WritePatchSet, tmp_path_factory: pytest.TempPathFactory
) -> PatchSet:
    """Three classes of six patches 32 x 32, two to a group, without a split."""
    return PatchSet.open(write_patch_set(tmp_path_factory.mktemp("patches") / "set"))


@pytest.fixture(scope="session")
def candidates(draw_patches: DrawPatches) -> Candidates:
    """Six candidates 32 x 32 of each class, of which the first and the third were accepted."""
    images = torch.from_numpy(
        np.concatenate([draw_patches(k, 6, 32, seed=50) for k in range(3)])
    ).permute(0, 3, 1, 2)
    reasons = [
        "accepted",
        "low confidence",
        "accepted",
        "low confidence",
        "low confidence",
        "near copy",
    ]
    confidence = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.3, 0.95]).repeat(3)
    labels, n = torch.arange(3).repeat_interleave(6), 18
    return Candidates(
        images,
        labels,
        torch.arange(n),
        confidence,
        torch.ones(n),
        torch.zeros(n, dtype=torch.long),
        reasons * 3,
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LatentDiffusion]:
    """Make a latent diffusion model of 32 x 32 patches and 4 x 8 x 8 latents, in which no weight
    is zero.
    """

    def make(seed: int = 0, **options: Any) -> LatentDiffusion:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            autoencoder = PatchAutoencoder(
                channels=(32, 32), num_res_blocks=(1, 1), latent_channels=4, stem=2
            )
            unet = DiffusionModelUNet(
                spatial_dims=2,
                in_channels=4,
                out_channels=4,
                channels=(32, 32),
                attention_levels=(False, False),
                num_res_blocks=1,
                num_head_channels=32,
                norm_num_groups=32,
            )
            model = LatentDiffusion(autoencoder, unet, **{"patch_size": 32, **options})
            for parameter in model.parameters():
                if (
                    not parameter.any()
                ):  # MONAI and we start some layers at zero, which would hide errors
                    parameter.normal_(0, 0.05)
            model.latent_mean.normal_()
            model.latent_std.uniform_(0.5, 2)
        return model.eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., LatentDiffusion]) -> LatentDiffusion:
    return make_model()


@pytest.fixture
def guide() -> LatentClassifier:
    """A guide for three classes with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LatentClassifier(4, 3, channels=(32, 32)).eval()


@pytest.fixture(autouse=True)
def closed_slides(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Slides that a test opens are closed after it."""
    real = getattr(request.module, "open_slide", None)
    with ExitStack() as opened:

        def kept(*args: Any, **options: Any) -> Any:
            slide = real(*args, **options)
            opened.callback(slide.close)
            return slide

        if real is not None:
            monkeypatch.setattr(request.module, "open_slide", kept)
        yield
