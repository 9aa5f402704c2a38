"""A stock trainer with our ``prepare_batch`` learns; averages, schedules and caches are what they
say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, RandFlipd, ScaleIntensityRanged
from monai.utils import set_determinism
from PIL import Image
from torch import Tensor, nn

from monai_histodiff import ClassifierTraining, LatentClassifier, LatentDiffusion, PatchSet
from monai_histodiff.diffusion.latents import encode_latents, fit_latent_statistics
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.training.adversarial import DecoderLoss
from monai_histodiff.training.checkpoints import EMAHandler, WeightsSaver
from monai_histodiff.training.distillation import DistillationPrepareBatch
from monai_histodiff.training.monitoring import FiniteLoss
from monai_histodiff.training.steps import (
    AutocastInferer,
    AutoencoderLoss,
    AutoencoderPrepareBatch,
    DenoisingPrepareBatch,
    NoisyLatentPrepareBatch,
    stratified_times,
    warmup_cosine,
)
from monai_histodiff.utils import bfloat16

MakeModel = Callable[..., LatentDiffusion]
UNIT = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)


def train(
    network: nn.Module,
    data: Sequence[Any],
    prepare_batch: Any,
    loss: Any,
    epochs: int = 1,
    rate: float = 2e-3,
    handlers: Sequence[Any] = (),
    inferer: Any = None,
) -> list[float]:
    """Train with a stock MONAI trainer, batches of 8; the loss of every iteration."""
    losses: list[float] = []
    torch.manual_seed(0)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(data), batch_size=8, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), rate),
        loss_function=loss,
        prepare_batch=prepare_batch,
        inferer=inferer,
        train_handlers=list(handlers),
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output[0]["loss"])
    )
    trainer.run()
    return losses


@pytest.fixture
def latents() -> list[dict[str, Any]]:
    """Forty latents of two classes that differ in the sign of one channel."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 4, 8, 8, generator=generator) * 0.3
    for i in range(40):
        z[i, 0] += 2 * (i % 2) - 1
    return [{"image": z[i].half(), "label": i % 2} for i in range(40)]


# -------------------------------------------------------------------------------------------------
# ---------------- learning


def test_autoencoder_learns_to_reconstruct(model: LatentDiffusion, patch_set: PatchSet) -> None:
    data = [UNIT({"image": d["image"]}) for d in patch_set]
    patches = torch.stack([torch.as_tensor(d["image"]) for d in data])
    autoencoder = model.autoencoder

    def error() -> float:
        with torch.no_grad():
            return float((autoencoder.decode(autoencoder.encode(patches)) - patches).abs().mean())

    before = error()
    losses = train(autoencoder, data, AutoencoderPrepareBatch(), AutoencoderLoss(), epochs=20)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert error() < 0.5 * before


def test_autoencoder_loss_is_what_it_says() -> None:
    image, loss = torch.rand(2, 3, 8, 8), AutoencoderLoss(gradient_weight=2.0)
    assert float(loss(image, image)) == 0
    assert float(loss(image + 0.25, image)) == pytest.approx(0.25, rel=1e-4), (
        "a shift has no differences"
    )
    stripes = torch.zeros(1, 3, 8, 8)
    stripes[..., 1::2] = 1.0  # of period two: gone at the coarser scale
    assert float(loss(stripes, torch.zeros(1, 3, 8, 8))) == pytest.approx(0.5 + 2 * 1.0, rel=1e-5)


@pytest.mark.parametrize("prediction", ["velocity", "epsilon"])
def test_diffusion_learns_to_denoise(
    prediction: str, make_model: MakeModel, latents: list[dict[str, Any]]
) -> None:
    model = make_model(prediction=prediction)
    z0 = torch.stack([d["image"] for d in latents]).float()
    generator = torch.Generator().manual_seed(5)
    t, noise = torch.full((40,), 0.5), torch.randn(z0.shape, generator=generator)

    def error() -> float:
        with torch.no_grad():
            return float((model.denoise(model.target(z0, noise, t)[0], t) - z0).square().mean())

    before = error()
    losses = train(model.unet, latents, DenoisingPrepareBatch(model), nn.MSELoss(), epochs=12)
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert error() < 0.5 * before
    assert error() < 0.8 * float((z0 - z0.mean(0)).square().mean()), "better than the mean latent"


def test_guide_learns_classes_in_noise(
    model: LatentDiffusion, guide: LatentClassifier, latents: list[dict[str, Any]]
) -> None:
    train(guide, latents, NoisyLatentPrepareBatch(model), nn.CrossEntropyLoss(), epochs=12)
    guide.eval()
    z0, labels = (
        torch.stack([d["image"] for d in latents]).float(),
        torch.tensor([d["label"] for d in latents]),
    )
    for time, least in ((0.0, 0.95), (0.4, 0.95), (1.0, 0.0)):
        t = torch.full((40,), time)
        noisy = model.target(
            z0, torch.randn(z0.shape, generator=torch.Generator().manual_seed(1)), t
        )[0]
        with torch.no_grad():
            logits = guide(noisy, t)
        probability = torch.softmax(logits, 1).gather(1, labels[:, None])
        assert float((logits.argmax(1) == labels).float().mean()) >= least
        if time == 1.0:
            assert float(probability.mean()) < 0.8, "it must not be sure of pure noise"


# -------------------------------------------------------------------------------------------------
# ----------- prepare_batch


def test_autoencoder_batch_is_its_own_target() -> None:
    patches = torch.rand(2, 3, 8, 8)
    inputs, target = AutoencoderPrepareBatch()(
        {"image": patches, "label": torch.zeros(2)}, "cpu", False
    )
    assert torch.equal(inputs, patches) and torch.equal(target, patches)


@pytest.mark.parametrize("n", [1, 7, 64])
def test_times_cover_the_strata(n: int) -> None:
    draws = [stratified_times(n, "cpu") for _ in range(50)]
    for t in draws:
        assert (t * n).floor().tolist() == list(range(n))
    offsets = torch.stack(draws) * n - torch.arange(n)
    assert 0.45 < float(offsets.mean()) < 0.55 or n == 1
    assert float(offsets.std()) > 0.2, "a time is random within its stratum"


def test_diffusion_batch_holds_the_truth(
    make_model: MakeModel, latents: list[dict[str, Any]]
) -> None:
    model = make_model(prediction="velocity")
    z0 = torch.stack([d["image"] for d in latents])
    noisy, target, (timesteps,), options = DenoisingPrepareBatch(model)(
        {"image": z0}, "cpu", False
    )
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in model.schedule.alpha_sigma(timesteps / 1000))
    assert torch.allclose(alpha * noisy - sigma * target, z0.float(), atol=1e-4), (
        "the latent follows from what it is made of"
    )
    noise = sigma * noisy + alpha * target
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    assert (
        options == {}
        and noisy.dtype == torch.float32
        and 0 <= float(timesteps.min())
        and 900 < float(timesteps.max()) <= 1000
    )


def test_guide_batch_is_noisy_at_its_time_or_clean(
    model: LatentDiffusion, latents: list[dict[str, Any]]
) -> None:
    batch = {"image": torch.stack([d["image"] for d in latents]), "label": torch.arange(40)}
    noisy, label, (t,), options = NoisyLatentPrepareBatch(model)(batch)
    alpha, sigma = model.schedule.alpha_sigma(t)
    noise = (noisy - alpha.view(-1, 1, 1, 1) * batch["image"]) / sigma.view(-1, 1, 1, 1)
    assert (
        float((noise[5:].flatten(1).std(1) - 1).abs().max()) < 0.25
        and 0 <= float(t.min())
        and float(t.max()) <= 1
    )
    assert torch.equal(label, batch["label"]) and options == {}
    clean, label, (t,), _ = NoisyLatentPrepareBatch(model, mode="clean")(batch)
    assert (
        torch.equal(clean, batch["image"].float())
        and torch.equal(label, batch["label"])
        and not t.any()
    )


# -------------------------------------------------------------------------------------------------
# ---------------- handlers


def stepper(
    network: nn.Module,
    steps: int,
    values: Callable[[int], float],
    handlers: Sequence[Any],
) -> Engine:
    """An engine whose step ``n`` (from 1) sets every weight to ``values(n)``."""

    def step(engine: Engine, batch: int) -> list[dict[str, float]]:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(values(engine.state.iteration))
        return [{"loss": 1.0}]

    engine = Engine(step)
    for handler in handlers:
        handler.attach(engine)
    return engine


def test_ema_is_the_average_by_hand() -> None:
    network = nn.BatchNorm1d(1)
    ema = EMAHandler(network, decay=0.3)
    engine = stepper(network, 5, lambda n: float(n**2), [ema])
    engine.run([0] * 5)
    expected = 1.0  # the first step is the first average
    for n in range(1, 5):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * (n + 1) ** 2
    assert ema.average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert network.weight.item() == 25.0, "the network in training keeps its own weights"


def test_ema_applies_and_gives_back_also_when_the_body_fails() -> None:
    network = nn.BatchNorm1d(1)
    ema = EMAHandler(network, decay=0.9)
    stepper(network, 3, float, [ema]).run([0] * 3)
    network.running_mean.fill_(4.0)
    average, own = (
        ema.average.module.weight.item(),
        {k: v.clone() for k, v in network.state_dict().items()},
    )
    assert average < 3
    with pytest.raises(RuntimeError, match="body"), ema.applied():
        assert network.weight.item() == pytest.approx(average)
        raise RuntimeError("body")
    assert all(torch.equal(v, own[k]) for k, v in network.state_dict().items())


def test_ema_is_adopted_at_the_end_only() -> None:
    network, seen = nn.Linear(1, 1), []
    ema = EMAHandler(network, decay=0.5, adopt=True)
    engine = stepper(network, 4, float, [ema])
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(network.weight.item()))
    engine.run([0, 0], max_epochs=2)
    assert seen == [2.0, 4.0]
    assert (
        network.weight.item() == pytest.approx(ema.average.module.weight.item())
        and network.weight.item() < 4
    )


def test_saver_writes_the_average_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    network, path, seen = nn.Linear(1, 1), tmp_path / "model.pt", {}
    ema = EMAHandler(network, decay=0.5)
    saver = WeightsSaver(network, tmp_path, interval=2, ema=ema)
    engine = stepper(network, 5, float, [ema, saver])

    def look(engine: Engine) -> None:
        seen[engine.state.epoch] = (
            float(torch.load(path, weights_only=True)["bias"]) if path.is_file() else None
        )

    engine.add_event_handler(Events.EPOCH_COMPLETED, look)
    engine.run([0], max_epochs=5)
    average = ema.average.module.bias.item()
    assert seen[1] is None and seen[2] is not None and seen[3] == seen[2] != seen[4] == seen[5]
    assert (
        float(torch.load(path, weights_only=True)["bias"]) == pytest.approx(average)
        and average != 5.0
    )
    assert network.bias.item() == 5.0, "saving does not disturb the training"


def test_saver_without_average_writes_the_current_weights(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    stepper(network, 2, float, [WeightsSaver(network, tmp_path)]).run([0], max_epochs=2)
    assert float(torch.load(tmp_path / "model.pt", weights_only=True)["bias"]) == 2.0


@pytest.mark.parametrize("bad", ["inf", "nan"])
def test_a_loss_that_is_not_finite_changes_no_weight(
    bad: str,
    latents: list[dict[str, Any]],
    guide: LatentClassifier,
    model: LatentDiffusion,
    tmp_path: Path,
) -> None:
    before: list[list[Tensor]] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        before.append([p.detach().clone() for p in guide.parameters()])
        return nn.functional.cross_entropy(logits, labels) * (
            float(bad) if len(before) == 3 else 1.0
        )

    handlers = [FiniteLoss(), WeightsSaver(guide, tmp_path)]
    with pytest.raises(RuntimeError, match=f"the loss must be finite, got {bad} at iteration 3"):
        train(guide, latents, NoisyLatentPrepareBatch(model), loss, handlers=handlers)
    assert len(before) == 3 and not (tmp_path / "model.pt").exists()
    for now, first, last in zip(guide.parameters(), before[0], before[2], strict=True):
        assert torch.equal(now, last)
        assert not torch.equal(first, last) or first.numel() < 2


def test_autocast_computes_in_bfloat16_and_returns_float32() -> None:
    network, seen = nn.Linear(8, 8), []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    half, full = AutocastInferer()(x, network), AutocastInferer(enabled=False)(x, network)
    assert torch.equal(AutocastInferer(None)(x, network), full), "on a CPU it is off"
    assert seen == [torch.bfloat16, torch.float32, torch.float32]
    assert half.dtype == full.dtype == torch.float32
    assert torch.equal(full, network(x)) and 0 < float((half - full).detach().abs().max()) < 0.05


def test_without_bfloat16_a_trainer_keeps_its_own_precision() -> None:
    """Such as float16 on GPUs that do not compute in bfloat16."""
    network, seen = nn.Linear(8, 8), []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.float16):
        found = [AutocastInferer(choice)(torch.ones(1, 8), network) for choice in (False, None)]
    assert seen == [torch.float16] * 2 and all(y.dtype == torch.float32 for y in found)


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_that_is_not_chosen_is_for_gpus_that_compute_in_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "native_bfloat16", lambda device: native)
    assert bfloat16.chosen_bfloat16("cuda:1", None) is native
    assert not bfloat16.chosen_bfloat16("cpu", None), "a patch would depend on its batch"
    for device in ("cpu", "cuda"):
        assert [bfloat16.chosen_bfloat16(device, choice) for choice in (True, False)] == [
            True,
            False,
        ]


@pytest.mark.parametrize("choice", [1, "False"])
def test_bfloat16_is_chosen_by_a_flag(choice: Any, make_model: MakeModel) -> None:
    made: list[Callable[..., Any]] = [
        ClassifierTraining,
        SamplingSettings,
        partial(DecoderLoss, nn.Identity(), lambda x: [x]),
        partial(DistillationPrepareBatch, make_model(0)),
    ]
    for own in made:
        with pytest.raises(ValueError, match="bfloat16 must be True, False or None, got"):
            own(bfloat16=choice)
    with pytest.raises(ValueError, match="adopt must be True or False, got"):
        EMAHandler(nn.Linear(2, 2), adopt=choice)


def test_autocast_is_on_or_off() -> None:
    with pytest.raises(TypeError, match="bfloat16 must be True, False or None, got 'true'"):
        AutocastInferer("true")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_autocast_keeps_the_range_of_gradients(scale: float) -> None:
    """No gradient scaler is needed: gradients that float16 would round to zero survive."""
    network = nn.Linear(8, 1, bias=False)
    out = AutocastInferer()(torch.ones(4, 8), network)
    (out.sum() * scale).backward()
    assert network.weight.grad is not None and torch.allclose(
        network.weight.grad, torch.full((1, 8), 4 * scale), rtol=0.01
    )


def test_autocast_learns_to_denoise_as_float32_does(
    make_model: MakeModel, latents: list[dict[str, Any]]
) -> None:
    ends = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = make_model()
        losses = train(
            model.unet,
            latents,
            DenoisingPrepareBatch(model),
            nn.MSELoss(),
            epochs=8,
            inferer=AutocastInferer(enabled),
        )
        assert all(weight.dtype == torch.float32 for weight in model.unet.parameters())
        assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:5])
        ends.append(np.mean(losses[-20:]))
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_learning_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    factor = warmup_cosine(steps=110, warmup=10, floor=0.1)
    assert [factor(0), factor(4), factor(9), factor(10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert factor(60) == pytest.approx(0.1 + 0.9 / 2) and factor(35) == pytest.approx(
        0.1 + 0.9 * (1 + 0.5**0.5) / 2
    )
    assert factor(110) == factor(500) == pytest.approx(0.1)
    assert all(factor(n + 1) < factor(n) for n in range(10, 110))
    assert warmup_cosine(steps=5, warmup=5)(5) == pytest.approx(1.0), "no division by zero"


def test_without_a_floor_the_cosine_is_that_of_monai() -> None:
    """MONAI's schedule cuts the cosine off at its floor, begins at 0, and rises again when the
    training goes on; where none of this counts, the two are one.
    """
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    theirs = WarmupCosineSchedule(optimizer, warmup_steps=10, t_total=110)
    ours = warmup_cosine(steps=110, warmup=10, floor=0.0)
    assert [ours(n) for n in range(10, 111)] == pytest.approx(
        [theirs.lr_lambda(n) for n in range(10, 111)]
    )
    assert [ours(n) for n in range(10)] == pytest.approx(
        [theirs.lr_lambda(n + 1) for n in range(10)]
    )


# -------------------------------------------------------------------------------------------------
# ----------------- latents


def test_latents_are_those_of_the_encoder_in_order(
    model: LatentDiffusion, patch_set: PatchSet
) -> None:
    items = encode_latents(model, Dataset(patch_set, UNIT), repeats=2, batch_size=5)
    assert [d["label"] for d in items] == patch_set.labels.tolist() * 2
    assert [d["row"] for d in items] == list(range(18)) * 2
    with torch.no_grad():
        truth = model.encode(patch_set.images() / 255)
    z = torch.stack([d["image"] for d in items])
    assert z.dtype == torch.float16 and not z.requires_grad
    assert torch.allclose(z[:18].float(), truth, atol=2e-2) and torch.equal(z[:18], z[18:])


def test_repeats_see_other_augmentations(model: LatentDiffusion, patch_set: PatchSet) -> None:
    dataset = Dataset(patch_set[:4], Compose([UNIT, RandFlipd("image", prob=0.5, spatial_axis=0)]))
    set_determinism(3)
    z = torch.stack([d["image"] for d in encode_latents(model, dataset, repeats=6)]).view(6, 4, -1)
    set_determinism(None)
    views = [len({tuple(v.tolist()) for v in z[:, i]}) for i in range(4)]
    assert max(views) == 2 and sum(views) >= 6, "most patches are seen upright and flipped"


def test_cache_is_used_for_the_same_latents_only(
    make_model: MakeModel, patch_set: PatchSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, model, calls = tmp_path / "deep" / "latents.pt", make_model(0), []
    plain = LatentDiffusion.encode
    monkeypatch.setattr(
        LatentDiffusion, "encode", lambda self, x: calls.append(len(x)) or plain(self, x)
    )

    def encode(
        model: LatentDiffusion, patches: PatchSet = patch_set, repeats: int = 1
    ) -> tuple[Tensor, list[int], int]:
        calls.clear()
        items = encode_latents(model, Dataset(patches, UNIT), repeats, cache=cache)
        return torch.stack([d["image"] for d in items]), [d["label"] for d in items], sum(calls)

    first, labels, encoded = encode(model)
    assert (
        encoded == 18
        and cache.is_file()
        and [p.name for p in cache.parent.iterdir()] == ["latents.pt"]
    )
    again, same, encoded = encode(model)
    assert (
        encoded == 0 and torch.equal(again, first) and same == labels == patch_set.labels.tolist()
    )

    assert encode(make_model(1))[2] == 18, "another autoencoder"
    assert encode(model)[2] == 18
    assert encode(model, repeats=2)[2] == 36, "other repeats"
    assert encode(model, patch_set[:10])[2] == 10, "other patches"
    assert encode(model, patch_set[::-1])[1] == labels[::-1], "another order"
    assert encode(model)[2] == 18
    encode_latents(
        model, Dataset(patch_set, Compose([UNIT, RandFlipd("image", prob=0.0)])), cache=cache
    )
    assert encode(model)[2] == 18, "another transform"
    model.latent_std.mul_(2)
    halved, _, encoded = encode(model)
    assert encoded == 18 and torch.allclose(halved.float(), first.float() / 2, atol=1e-2), (
        "other statistics"
    )
    with torch.no_grad():
        next(model.unet.parameters()).add_(1)
    assert encode(model)[2] == 0, "the UNet has no part in it"


def test_cache_is_not_used_for_other_pictures_of_the_same_names(
    model: LatentDiffusion, write_patch_set: Callable[..., Path], tmp_path: Path
) -> None:
    folder, cache = write_patch_set(tmp_path / "set"), tmp_path / "latents.pt"
    first = encode_latents(model, Dataset(PatchSet.open(folder), UNIT), cache=cache)
    picture = next(folder.rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    second = encode_latents(model, Dataset(PatchSet.open(folder), UNIT), cache=cache)
    assert (
        sum(not torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))
        == 1
    )


def test_cache_needs_to_know_its_patches(model: LatentDiffusion, tmp_path: Path) -> None:
    items = [{"image": torch.rand(3, 32, 32), "label": 0}]
    assert len(encode_latents(model, Dataset(items))) == 1
    with pytest.raises(
        ValueError, match="only the latents of a PatchSet, .*, can be kept, got Dataset"
    ):
        encode_latents(model, Dataset(items), cache=tmp_path / "latents.pt")


def test_interrupted_cache_is_not_read(
    model: LatentDiffusion, patch_set: PatchSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_: Any, file: Any) -> None:
        file.write(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch, "save", cut)
        encode_latents(model, Dataset(patch_set, UNIT), cache=tmp_path / "latents.pt")
    assert (
        len(encode_latents(model, Dataset(patch_set, UNIT), cache=tmp_path / "latents.pt")) == 18
    )


def test_statistics_whiten_and_the_model_agrees(
    model: LatentDiffusion, patch_set: PatchSet
) -> None:
    patches = patch_set.images() / 255
    before = encode_latents(model, Dataset(patch_set, UNIT))
    with torch.no_grad():
        picture = model.decode(model.encode(patches))
    after = fit_latent_statistics(model, before)
    z = torch.stack([d["image"] for d in after]).float()
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(4), atol=5e-3) and float(
        z.std()
    ) == pytest.approx(1, abs=5e-3)
    assert float(model.latent_std.std()) == 0, "one scale for all channels"
    assert [d["label"] for d in after] == patch_set.labels.tolist()
    with torch.no_grad():
        assert torch.allclose(model.encode(patches), z, atol=3e-2), (
            "what the model encodes from now on"
        )
        assert torch.allclose(model.decode(model.encode(patches)), picture, atol=1e-4), (
            "whitening does not change a picture"
        )


def test_latents_survive_saving(tmp_path: Path) -> None:
    items = [
        {"image": torch.randn(4, 2, 2).half(), "label": i % 2, "row": i // 3} for i in range(6)
    ]
    sources = Sources.of(items, 2)
    sources.save(tmp_path / "new" / "sources.pt")
    kept = Sources.load(tmp_path / "new" / "sources.pt", 2)
    for column in ("latents", "rows"):
        for one, other in zip(getattr(sources, column), getattr(kept, column), strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype
    Sources(sources.latents).save(tmp_path / "unknown.pt")
    assert Sources.load(tmp_path / "unknown.pt", 2).rows == ()
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at '.*none.pt'"):
        Sources.load(tmp_path / "none.pt", 2)
    torch.save({"image": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError,
        match=r"a file of sources must hold label, and image or descriptor, got \['image'\] in",
    ):
        Sources.load(tmp_path / "other.pt", 2)
    cut = {"image": torch.zeros(2, 1), "label": [0], "row": [0, 1]}
    torch.save(cut, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"must hold as many of each, got \[1, 2, 2\] in"):
        Sources.load(tmp_path / "cut.pt", 2)
