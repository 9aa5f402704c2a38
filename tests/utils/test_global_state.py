"""Nothing that we call changes the caller's random state, and the caller's default dtype changes
nothing of ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAxisFlipd,
    RandSpatialCropd,
    ScaleIntensityRanged,
    ToTensord,
)
from monai.utils import get_seed, set_determinism
from test_reference import run as reference_run

import monai_histodiff as mh
from monai_histodiff.classifiers import ProbeTraining, PropagatedProbe
from monai_histodiff.diffusion import encode_latents, fit_latent_statistics
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.training import DenoisingPrepareBatch, NoisyLatentPrepareBatch
from monai_histodiff.utils.global_state import float32_default, kept_random_state, untracked
from monai_histodiff.utils.weights import save_weights


def state() -> tuple[Any, ...]:
    """The global random state, and the next draws from it."""
    flags = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    with torch.random.fork_rng():
        drawn = torch.rand(3).tolist()
    python, arrays = random.getstate(), np.random.get_state(legacy=False)
    algorithms = torch.are_deterministic_algorithms_enabled()
    return get_seed(), flags, drawn, python, str(arrays), algorithms, get_track_meta()


@pytest.fixture(params=[7, None])
def before(request: pytest.FixtureRequest) -> Any:
    """The state after ``set_determinism(7)``, or without it, some numbers having been drawn."""
    with kept_random_state():
        set_determinism(request.param)
        _ = torch.rand(5), random.random(), np.random.rand(3)
        yield state()


def test_the_block_leaves_no_trace(before: tuple[Any, ...]) -> None:
    with kept_random_state():
        set_determinism(3, use_deterministic_algorithms=True)
        DataLoader(Dataset([1, 2]), num_workers=0)
        assert get_seed() == 3 and state() != before
    assert state() == before


def test_the_state_comes_back_after_an_error(before: tuple[Any, ...]) -> None:
    with pytest.raises(KeyError), kept_random_state():
        set_determinism(3, use_deterministic_algorithms=True)
        raise KeyError
    assert state() == before


def patch_pipeline() -> Compose:
    crop = RandSpatialCropd("image", (32, 32), random_size=False)
    flip = RandAxisFlipd("image", prob=0.5)
    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    return Compose([crop, flip, scale, ToTensord("image", track_meta=False)])


def train(patches: mh.PatchSet) -> torch.nn.Module:
    items = [{"image": d["image"], "label": d["label"]} for d in (patches[i] for i in range(18))]
    return mh.ClassifierTraining(steps=3, batch_size=4)(items, patch_pipeline(), 3, seed=5)


def test_one_training_leaves_no_trace(before: tuple[Any, ...], patch_set: mh.PatchSet) -> None:
    weights = train(patch_set).state_dict()
    assert state() == before
    torch.rand(11)
    torch.testing.assert_close(train(patch_set).state_dict(), weights, rtol=0, atol=0)


def test_a_failed_training_leaves_no_trace(
    before: tuple[Any, ...], patch_set: mh.PatchSet
) -> None:
    recipe = mh.ClassifierTraining(steps=3, batch_size=4, learning_rate=1e30)
    items = [{"image": patch_set[0]["image"], "label": 0}]
    with pytest.raises(RuntimeError, match="the loss must be finite"):
        recipe(items, patch_pipeline(), 3, seed=5)
    assert state() == before


def test_encoding_leaves_no_trace(
    before: tuple[Any, ...],
    patch_set: mh.PatchSet,
    model: mh.LatentDiffusion,
    tmp_path: Path,
) -> None:
    encode_latents(model, Dataset(patch_set, patch_pipeline()), cache=tmp_path / "latents.pt")
    assert state() == before
    encode_latents(model.train(), Dataset(patch_set, patch_pipeline()), repeats=2)
    assert state() == before and model.training


# --- the default dtype ---


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_dtype_comes_back(dtype: torch.dtype) -> None:
    with default(dtype):
        with float32_default():
            assert torch.zeros(1).dtype == torch.float32
        with pytest.raises(KeyError), float32_default():
            raise KeyError
        assert torch.get_default_dtype() == dtype


NETWORKS: list[Callable[[], torch.nn.Module]] = [
    lambda: mh.PatchClassifier(3, width=8),
    lambda: mh.LatentClassifier(4, 3, channels=(8, 8)),
    lambda: mh.PatchAutoencoder((8, 8), (1, 1), 4, 2),
    lambda: mh.PatchEncoder(),
    lambda: mh.PatchCritic([mh.PatchClassifier(3, width=8)], 3),
]


@pytest.mark.parametrize("make", NETWORKS)
def test_networks_are_the_same_under_any_default_dtype(
    make: Callable[[], torch.nn.Module],
) -> None:
    def made(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(), default(dtype):
            torch.manual_seed(0)
            return make().state_dict()

    torch.testing.assert_close(made(torch.float64), made(torch.float32), rtol=0, atol=0)


def test_a_model_with_a_unet_from_monai_is_float32(
    make_model: Callable[..., mh.LatentDiffusion],
) -> None:
    with default(torch.float64):
        model = make_model()
    kinds = {v.dtype for v in model.state_dict().values() if v.is_floating_point()}
    assert kinds == {torch.float32}


def test_probes_are_the_same_under_any_default_dtype(
    patch_set: mh.PatchSet, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    items = [{"image": v, "label": i % 2} for i, v in enumerate(images)]
    encoder = mh.PatchEncoder(features=8).eval()
    save_weights(tmp_path / "models" / "encoder.pt", mh.PatchEncoder().state_dict())

    def judged(dtype: torch.dtype) -> list[torch.Tensor]:
        with default(dtype):
            made: list[ProbeTraining] = [ProbeTraining(encoder, views=2)]
            made.append(PropagatedProbe(encoder, views=2, unlabelled=patch_set, size=32))
            critic = mh.PatchCritic([fit(items, Compose([]), 2, seed=0) for fit in made], 2).eval()
            critic.save(tmp_path / "critic.pt")
            again = mh.PatchCritic.load_probes(tmp_path / "critic.pt", tmp_path, 2)
            return [own.probabilities(images) for own in (critic, again)]

    torch.testing.assert_close(judged(torch.float64), judged(torch.float32), rtol=0, atol=0)


@pytest.mark.slow
def test_the_pipeline_is_the_same_under_any_default_dtype(
    write_patch_set: Any,
    make_model: Callable[..., mh.LatentDiffusion],
    guide: mh.LatentClassifier,
    tmp_path: Path,
) -> None:
    """Sampling, a critic, selection, the transform and two small trainings: bit for bit."""
    patches = mh.PatchSet.open(write_patch_set(tmp_path / "set", per_class=12))
    model = make_model()
    plain = reference_run(patches, model, guide)
    with default(torch.float64):
        again = reference_run(patches, model, guide)
    assert again["sha256"] == plain["sha256"] and again["reasons"] == plain["reasons"]
    assert again["confidence"] == plain["confidence"]


def test_latents_and_losses_are_the_same_under_any_default_dtype(
    patch_set: mh.PatchSet, model: mh.LatentDiffusion, guide: mh.LatentClassifier
) -> None:
    def made() -> list[torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            items = encode_latents(model, Dataset(patch_set, patch_pipeline()))
            items = fit_latent_statistics(model, items)
            batch = {
                "image": torch.stack([item["image"] for item in items]),
                "label": torch.tensor([item["label"] for item in items]),
            }
            noisy, target, (times,), _ = DenoisingPrepareBatch(model)(batch)
            guided, _, (t,), _ = NoisyLatentPrepareBatch(model)(batch)
            sources = Sources.of(items, 3)
            options = {"steps": 3, "progress": False}
            varied = mh.GuidedSampler(model, guide, sources=sources, strength=0.5, **options)
            ddim = mh.GuidedSampler(model, guide, solver="ddim", eta=1.0, stop=3.0, **options)
            patches = [sampler([0, 1], [5, 6]) for sampler in (varied, ddim)]
            return [batch["image"], noisy, target, times, guided, t, guide(guided), *patches]

    state = {k: v.clone() for k, v in model.state_dict().items()}
    plain = made()
    model.load_state_dict(state)
    with default(torch.float64):
        again = made()
    torch.testing.assert_close(again, plain, rtol=0, atol=0)


@pytest.mark.parametrize("tracked", [True, False])
def test_transforms_keep_no_metadata_within_the_block_alone(tracked: bool) -> None:
    flip = RandAxisFlipd("image", prob=1.0).set_random_state(3)
    set_track_meta(tracked)
    try:
        with pytest.raises(KeyError), untracked():
            inside = flip({"image": torch.arange(12.0).reshape(1, 3, 4)})["image"]
            raise KeyError
        assert get_track_meta() is tracked
        flip.set_random_state(3)
        outside = flip({"image": torch.arange(12.0).reshape(1, 3, 4)})["image"]
    finally:
        set_track_meta(True)
    assert not isinstance(inside, MetaTensor) and isinstance(outside, MetaTensor) is tracked
    assert torch.equal(torch.as_tensor(outside), inside)
