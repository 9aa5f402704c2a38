"""The networks invert what they promise to invert; a checkpoint is whole, exact and refused when
it is not what it should be.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion, PatchAutoencoder
from monai_histodiff.diffusion.model import PREDICTIONS
from monai_histodiff.diffusion.sharing import load_autoencoder
from monai_histodiff.utils.files import file_sha256
from monai_histodiff.utils.weights import checked_device, load_weights, save_weights

MakeModel = Callable[..., LatentDiffusion]


class Recall(nn.Module):
    """Stands for a UNet: returns one answer whatever it is asked, and keeps the question."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        self.asked = z, timesteps
        return self.answer


# -------------------------------------------------------------------------------------------------
# ------------ autoencoder


@pytest.mark.parametrize(
    ("channels", "stem", "factor"),
    [((32,), 4, 4), ((32, 64), 4, 8), ((32, 32, 64), 1, 4), ((32, 32), 2, 4)],
)
def test_latent_is_smaller_by_the_factor_also_where_the_patch_is_not_square(
    channels: tuple[int, ...], stem: int, factor: int
) -> None:
    autoencoder = PatchAutoencoder(channels, (1,) * len(channels), latent_channels=6, stem=stem)
    assert autoencoder.factor == factor
    raw = autoencoder.encode(torch.rand(2, 3, 3 * factor, 5 * factor))
    assert raw.shape == (2, 6, 3, 5)
    assert autoencoder.decode(raw).shape == (2, 3, 3 * factor, 5 * factor)


@pytest.mark.parametrize(
    "shape", [(1, 3, 18, 16), (1, 3, 16, 18), (1, 4, 16, 16), (1, 1, 16, 16), (3, 16, 16)]
)
def test_patches_that_cannot_be_encoded_are_refused(
    shape: tuple[int, ...], model: LatentDiffusion
) -> None:
    with pytest.raises(ValueError, match=r"N x 3 x H x W with H and W divisible by 4, got \("):
        model.encode(torch.zeros(shape))


def test_each_patch_is_encoded_and_decoded_for_itself(model: LatentDiffusion) -> None:
    patches = torch.rand(3, 3, 32, 32)
    latents = model.encode(patches)
    assert torch.allclose(model.encode(patches[1:2]), latents[1:2], atol=1e-5)
    assert torch.allclose(model.decode(latents[1:2]), model.decode(latents)[1:2], atol=1e-5)


def test_training_noise_is_added_to_the_latent_and_nothing_else_is_random() -> None:
    autoencoder, patches = (
        PatchAutoencoder((32,), (1,), 4, stem=4, noise=0.0),
        torch.rand(2, 3, 16, 16),
    )
    out = autoencoder(patches)
    assert torch.equal(out, autoencoder.decode(autoencoder.encode(patches)))
    autoencoder.noise = 0.5
    assert not torch.allclose(autoencoder(patches), out, atol=1e-3)


@pytest.mark.parametrize(("channels", "blocks"), [((32,), (1,)), ((32, 16), (2, 1))])
def test_a_fresh_decoder_is_the_linear_inverse_of_the_principal_components(
    channels: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    """Against numpy: the least error that any linear map of so many components can reach, and the
    scale of each of them.
    """
    stem = 4 // 2 ** (len(channels) - 1)
    autoencoder = PatchAutoencoder(channels, blocks, latent_channels=5, stem=stem)
    patches = F.avg_pool2d(
        torch.rand(40, 3, 40, 40), 5, 1, 2
    )  # neighbouring pixels resemble each other
    with torch.no_grad():
        raw = autoencoder.fit(patches).encode(patches)
        error = float((autoencoder.decode(raw) - patches).square().mean())
    colour = patches.mean((0, 2, 3)).view(3, 1, 1)
    flat = (
        F.pixel_unshuffle(patches - colour, 4).permute(0, 2, 3, 1).reshape(-1, 48).double().numpy()
    )
    values = np.linalg.svd(flat, compute_uv=False) ** 2 / len(
        flat
    )  # variances along the principal axes
    assert error == pytest.approx(values[5:].sum() / 48, rel=1e-3)
    std = np.sqrt(values[:5])
    assert np.allclose(raw.square().mean((0, 2, 3)).numpy(), std / std.mean(), rtol=1e-2), (
        "half whitened, of unit mean variance"
    )
    covariance = torch.einsum("nchw,ndhw->cd", raw, raw)
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-3 * float(
        covariance.max()
    )


@pytest.mark.parametrize(
    "patches",
    [torch.rand(1, 3, 4, 4), torch.full((8, 3, 16, 16), 0.5)],
    ids=["too few", "all the same"],
)
def test_components_need_blocks_that_differ(patches: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"5 components need as many blocks that differ, got \d+"):
        PatchAutoencoder((32,), (1,), latent_channels=5, stem=4).fit(patches)


@pytest.mark.parametrize("channels", [0, 49])
def test_more_components_than_values_in_a_block_are_refused(channels: int) -> None:
    with pytest.raises(
        ValueError,
        match=rf"latent_channels must lie from 1 to 48, the values of a block, got {channels}",
    ):
        PatchAutoencoder((32,), (1,), latent_channels=channels, stem=4)


# -------------------------------------------------------------------------------------------------
# --------- latent diffusion


def test_decode_inverts_the_whitening(model: LatentDiffusion) -> None:
    patches = torch.rand(2, 3, 32, 32)
    raw = model.autoencoder.encode(patches)
    latents = model.encode(patches)
    for c in range(4):
        assert torch.allclose(
            latents[:, c] * model.latent_std[c] + model.latent_mean[c], raw[:, c], atol=1e-5
        )
    assert torch.allclose(
        model.decode(latents), model.autoencoder.decode(raw).clamp(0, 1), atol=1e-5
    )


def test_an_autoencoder_does_not_take_bytes_for_the_unit_range(model: LatentDiffusion) -> None:
    patches = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="must be floating point in .*, got torch.uint8: scale"):
        model.autoencoder(patches)
    assert torch.equal(model.encode(patches), model.encode(patches / 255))


@torch.no_grad()
def test_what_is_decoded_must_be_finite(model: LatentDiffusion) -> None:
    sampler = GuidedSampler(model, steps=2, progress=False)
    model.autoencoder.decoder[-1].conv.bias[0] = float("nan")  # type: ignore[index,union-attr]
    for call in (lambda: sampler(None, [0, 1]), lambda: model.decode(torch.zeros(2, 4, 8, 8))):
        with pytest.raises(FloatingPointError, match="decoded patches must be finite, got 2 of 2"):
            call()


@torch.no_grad()
def test_decoded_patches_lie_in_the_unit_range(model: LatentDiffusion) -> None:
    patches = model.decode(torch.randn(2, 4, 8, 8) * 50)
    assert float(patches.min()) == 0 and float(patches.max()) == 1


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_exact_prediction_denoises_exactly(
    prediction: str, schedule: str, make_model: MakeModel
) -> None:
    model = make_model(schedule=schedule, prediction=prediction)
    t = torch.tensor([0.0, 0.05, 0.3, 0.6, 0.9])
    clean, noise = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in model.schedule.alpha_sigma(t))
    noisy, target = model.target(clean, noise, t)
    assert torch.allclose(noisy, alpha * clean + sigma * noise)
    expected = {
        "epsilon": noise,
        "sample": clean,
        "velocity": alpha * noise - sigma * clean,
        "flow": noise - clean,
    }[prediction]
    assert torch.allclose(target, expected)
    oracle: Any = Recall(target)
    model.unet = oracle
    assert torch.allclose(model.denoise(noisy, t), clean, atol=1e-4)
    assert torch.equal(oracle.asked[0], noisy) and torch.allclose(oracle.asked[1], t * 1000)


def test_unknown_prediction_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="prediction must be one of .*, got 'score'"):
        make_model(prediction="score")


def test_call_is_one_denoising_step_from_noise(model: LatentDiffusion) -> None:
    noise = torch.randn(2, *model.latent_shape)
    assert model.latent_shape == (4, 8, 8)
    assert torch.equal(model(noise), model.decode(model.denoise(noise, torch.ones(2))))


# -------------------------------------------------------------------------------------------------
# ------------------- guide


def test_guide_reads_latents_of_any_size_and_of_its_own_channels(guide: LatentClassifier) -> None:
    for shape in ((2, 4, 8, 8), (1, 4, 5, 12)):
        assert guide(torch.randn(shape), torch.rand(shape[0])).shape == (shape[0], 3)
    for shape in ((2, 3, 8, 8), (4, 8, 8)):
        with pytest.raises(ValueError, match=r"the guide reads latents N x 4 x h x w, got \["):
            guide(torch.randn(shape), torch.rand(2))
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        LatentClassifier(4, 1)


def test_guide_knows_the_time_of_each_latent(guide: LatentClassifier) -> None:
    z = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    logits = guide(z, torch.tensor([0.0, 0.3, 0.301])).detach()
    assert torch.allclose(guide(z[:1]), logits[:1], atol=1e-6), "a latent without a time is clean"
    assert float((logits[1] - logits[0]).abs().max()) > 1e-2
    assert 0 < float((logits[2] - logits[1]).abs().max()) < 0.5, "near times are near"


# -------------------------------------------------------------------------------------------------
# ------------- checkpoints


def test_checkpoint_carries_everything(make_model: MakeModel, tmp_path: Path) -> None:
    saved = make_model(0, prediction="epsilon", schedule="flow")
    save_weights(tmp_path / "new" / "model.pt", saved.state_dict())
    loaded = load_weights(
        make_model(1, prediction="velocity", schedule="cosine"), tmp_path / "new" / "model.pt"
    )
    assert loaded.prediction == "epsilon" and bool(loaded.schedule.is_flow)
    state = loaded.state_dict()
    for name, value in saved.state_dict().items():
        assert state[name].dtype == value.dtype, name
        exact = (
            value
            if value.ndim < 2 or not value.is_floating_point()
            else value.half().to(value.dtype)
        )
        assert torch.equal(state[name], exact), name
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model.pt"]


def test_an_autoencoder_alone_is_taken_from_a_checkpoint(
    make_model: MakeModel, tmp_path: Path
) -> None:
    saved, model = (
        make_model(0, prediction="epsilon", schedule="flow"),
        make_model(1, prediction="velocity", schedule="cosine"),
    )
    saved.latent_mean.fill_(3.0)
    save_weights(tmp_path / "model.pt", saved.state_dict())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    after = load_autoencoder(model, tmp_path / "model.pt").state_dict()
    taken = {
        k: (v.half().float() if v.ndim > 1 else v)
        for k, v in saved.state_dict().items()
        if k.startswith("autoencoder.")
    }
    assert taken and any(not torch.equal(taken[k], before[k]) for k in taken)
    assert all(torch.equal(value, taken.get(k, before[k])) for k, value in after.items())


def test_an_autoencoder_that_does_not_fit_or_is_not_there(
    model: LatentDiffusion, tmp_path: Path
) -> None:
    other = LatentDiffusion(PatchAutoencoder((32, 32), (1, 1), latent_channels=5), model.unet)
    save_weights(tmp_path / "other.pt", other.state_dict())
    save_weights(tmp_path / "guide.pt", LatentClassifier(4, 3, (32, 32)).state_dict())
    for name in ("other.pt", "guide.pt"):
        with pytest.raises(
            ValueError,
            match=rf"weights must fit the network, got \d+ keys that do not in '.*{name}'",
        ):
            load_autoencoder(model, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at '.*none.pt'"):
        load_autoencoder(model, tmp_path / "none.pt")


def test_weights_are_stored_in_half_and_statistics_in_full_precision(
    model: LatentDiffusion, tmp_path: Path
) -> None:
    save_weights(tmp_path / "model.pt", model.state_dict())
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert stored["autoencoder.decoder.0.weight"].dtype == torch.float16
    for name in ("latent_mean", "latent_std", "schedule.log_snr_table"):
        assert stored[name].dtype == torch.float32, name
    assert (
        stored["prediction_code"].dtype == torch.int64
        and stored["schedule.is_flow"].dtype == torch.bool
    )


def test_failing_save_keeps_the_old_file(
    model: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    save_weights(path, model.state_dict())
    before = path.read_bytes()

    def full(_: Any, file: Any) -> None:
        file.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OSError,
        match="model.pt' must be writable, got no space left on device; the previous file is kept",
    ):
        save_weights(path, {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    path.write_bytes(bytes(b ^ 0x55 for b in path.read_bytes()))


def renamed(path: Path) -> None:
    torch.save({f"net.{k}": v for k, v in torch.load(path, weights_only=True).items()}, path)


def one_more(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "more": torch.zeros(1)}, path)


def no_tensor(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "latent_mean": [0.0] * 4}, path)


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (lambda p: p.write_bytes(b""), "must be a readable state_dict, got '.*model.pt'"),
    (
        lambda p: p.write_bytes(b"\x80\x04random bytes that are no pickle" * 40),
        "must be a readable state_dict",
    ),
    (lambda p: p.write_text("PK, but not a zip"), "must be a readable state_dict"),
    (half, "must be a readable state_dict"),
    (flipped, "must be a readable state_dict"),
    (
        lambda p: torch.save({"latent_mean": Recall(torch.zeros(1))}, p),
        "must be a readable state_dict",
    ),
    (lambda p: torch.save([torch.zeros(1)], p), "must be a state_dict, got list in '.*model.pt'"),
    (lambda p: torch.save(torch.zeros(4), p), "must be a state_dict, got Tensor"),
    (
        lambda p: torch.save({}, p),
        r"must fit the network, got \d+ keys that do not in '.*model.pt', such as",
    ),
    (renamed, r"must fit the network, got \d+ keys"),
    (one_more, "got 1 keys that do not .* such as 'more'"),
    (no_tensor, "got 1 keys that do not .* such as 'latent_mean'"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damaged_checkpoint_is_refused_and_changes_nothing(
    damage: Callable[[Path], Any], message: str, make_model: MakeModel, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    save_weights(path, make_model(0).state_dict())
    damage(path)
    model = make_model(1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_checkpoint_of_another_architecture_or_none(
    model: LatentDiffusion, tmp_path: Path
) -> None:
    save_weights(tmp_path / "guide.pt", LatentClassifier(4, 3, (32, 32)).state_dict())
    with pytest.raises(ValueError, match="1 keys|2 keys"):
        load_weights(LatentClassifier(4, 5, (32, 32)), tmp_path / "guide.pt")
    with pytest.raises(ValueError, match="must fit the network"):
        load_weights(model, tmp_path / "guide.pt")
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at '.*none.pt'"):
        load_weights(model, tmp_path / "none.pt")


# -------------------------------------------------------------------------------------------------
# ----------------- bundles


@pytest.fixture
def bundle(make_model: MakeModel, tmp_path: Path) -> Path:
    """A bundle of a tiny model (seed 0)."""
    network = {
        "_target_": "monai_histodiff.LatentDiffusion",
        "autoencoder": {
            "_target_": "monai_histodiff.PatchAutoencoder",
            "channels": [32, 32],
            "num_res_blocks": [1, 1],
            "latent_channels": "@latent_channels",
            "stem": 2,
        },
        "unet": {
            "_target_": "monai.networks.nets.DiffusionModelUNet",
            "spatial_dims": 2,
            "in_channels": "@latent_channels",
            "out_channels": "@latent_channels",
            "channels": [32, 32],
            "attention_levels": [False, False],
            "num_res_blocks": 1,
            "num_head_channels": 32,
        },
        "patch_size": 32,
    }
    for name in ("configs", "models"):
        (tmp_path / "bundle" / name).mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "inference.json").write_text(
        json.dumps({"latent_channels": 4, "network_def": network})
    )
    save_weights(tmp_path / "bundle" / "models" / "model.pt", make_model(0).state_dict())
    return tmp_path / "bundle"


def test_bundle_gives_the_model_that_was_saved(
    bundle: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    model, truth = LatentDiffusion.from_bundle(str(bundle)), make_model(0)
    assert not model.training and model.patch_size == 32
    patches = torch.rand(1, 3, 32, 32)
    assert torch.allclose(model.encode(patches), truth.encode(patches), atol=2e-2), (
        "up to the half precision of the weights"
    )
    adapted = tmp_path / "generator.pt"
    with pytest.raises(FileNotFoundError, match="generator.pt"):
        LatentDiffusion.from_bundle(bundle, weights=adapted)
    assert torch.equal(LatentDiffusion.from_bundle(bundle).latent_mean, truth.latent_mean)
    other = make_model(1)
    save_weights(adapted, other.state_dict())
    assert torch.equal(
        LatentDiffusion.from_bundle(bundle, weights=adapted).latent_mean, other.latent_mean
    )


def test_student_of_a_bundle(bundle: Path, make_model: MakeModel) -> None:
    with pytest.raises(
        FileNotFoundError, match="a bundle must hold 'models/few_steps.pt', got none in '.*bundle'"
    ):
        LatentDiffusion.few_steps_from_bundle(bundle)
    other = make_model(1)
    save_weights(bundle / "models" / "few_steps.pt", other.state_dict())
    own = file_sha256(bundle / "models" / "model.pt")
    for told in ({}, {"few_steps_of": "0" * 64}):
        (bundle / "configs" / "metadata.json").write_text(json.dumps(told))
        with pytest.raises(ValueError, match=f"the student must be of the bundle's .*{own}: set"):
            LatentDiffusion.few_steps_from_bundle(bundle)
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"few_steps_of": own}))
    student = LatentDiffusion.few_steps_from_bundle(str(bundle))
    assert torch.equal(student.latent_mean, other.latent_mean) and not student.training
    assert not torch.equal(student.latent_mean, LatentDiffusion.from_bundle(bundle).latent_mean)
    assert LatentDiffusion.from_bundle(bundle).taught == make_model(0).taught == {}
    taught = {"solver": "ddim", "eta": 0.0, "steps": 4, "stop": None, "exemplar_scale": 1.0}
    assert student.taught == taught
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    fine = {
        "_target_": "monai_histodiff.FineUNet",
        "unet": config["network_def"]["unet"],
        "block": 4,
    }
    own = {**config["network_def"], "unet": fine}
    path.write_text(json.dumps({**config, "network_def": own}))
    with pytest.raises(ValueError, match="weights must fit the network"):
        LatentDiffusion.from_bundle(bundle)


def test_folder_that_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match="a bundle must hold 'configs/inference.json', got none in '.*nowhere'",
    ):
        LatentDiffusion.from_bundle(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="device must be there, got 'cuda:77'"):
        LatentDiffusion.from_bundle(bundle, device="cuda:77")
    (bundle / "models" / "model.pt").write_bytes(b"cut short")
    with pytest.raises(
        ValueError, match="weights must be a readable state_dict, got '.*model.pt'"
    ):
        LatentDiffusion.from_bundle(bundle)
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match="a bundle must hold 'models/model.pt'"):
        LatentDiffusion.from_bundle(bundle)


@pytest.mark.parametrize("device", ["cuda:77", "nonsense", "cpu:x"])
def test_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ValueError, match=f"device must be there, got '{device}'"):
        checked_device(device)


def test_device_that_is_there() -> None:
    assert checked_device("cpu") == checked_device(torch.device("cpu")) == torch.device("cpu")
