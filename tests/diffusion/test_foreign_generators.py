"""Generators of MONAI and diffusers through our door: exact denoisers of Gaussian data, one call
against the maker's own scheduler, classes and their guidance, and everything behind the sampler.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.networks.nets import VQVAE, AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    RFlowScheduler,
)
from torch import Tensor, nn

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion
from monai_histodiff.diffusion.foreign import ForeignAutoencoder, ForeignDenoiser, read_scheduler
from monai_histodiff.training.steps import DenoisingPrepareBatch
from monai_histodiff.utils.weights import save_weights

SIZE, FACTOR, CHANNELS = 16, 4, 3
MEAN, STD = 0.4, 0.3
BETAS = {"beta_start": 0.0015, "beta_end": 0.0195}
MONAI = {
    "linear epsilon": lambda: DDPMScheduler(1000, "linear_beta"),
    "scaled linear v": lambda: DDPMScheduler(
        1000, "scaled_linear_beta", prediction_type="v_prediction", **BETAS
    ),
    "cosine sample": lambda: DDIMScheduler(1000, "cosine", prediction_type="sample"),
    "250 steps": lambda: PNDMScheduler(250, "linear_beta", beta_end=0.08),
    "rectified flow": lambda: RFlowScheduler(1000, use_discrete_timesteps=False),
}


class Pooled(nn.Module):
    """An autoencoder of known answers: the mean of each block of 4 x 4 pixels, and back."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(x, FACTOR)
        return mean, torch.zeros_like(mean)

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate(z, scale_factor=FACTOR)


class Exact(nn.Module):
    """What a network of that scheduler must predict of data ``N(mean, std^2)``, and, of classes,
    of ``N(mean_k, std^2)``, in the maker's own terms: amplitudes by index of the timestep.
    """

    def __init__(self, scheduler: Any, means: Tensor, std: float = STD) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.scheduler, self.std = [scheduler], std  # a list: one of MONAI is half a module
        if len(means) > 1:
            self.num_class_embeds = len(means)

    def forward(self, z: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        mean = (self.means[0] if class_labels is None else self.means[class_labels]).view(
            -1, 1, 1, 1
        )
        (scheduler,) = self.scheduler
        config = getattr(scheduler, "config", scheduler)
        kind = config.prediction_type if hasattr(config, "prediction_type") else "flow_prediction"
        flow = not hasattr(scheduler, "alphas_cumprod")
        if flow:
            sigma = (timesteps / config.num_train_timesteps).view(-1, 1, 1, 1)
            alpha = 1 - sigma
        else:  # between two timesteps the log-SNR is interpolated
            table = torch.logit(torch.cumprod(1 - scheduler.betas.double(), 0))
            table[-1] = table[-1].clamp(min=2 * table[-2] - table[-3])  # of no signal
            left = timesteps.double().floor().clamp(max=len(table) - 2)
            low, high = table[left.long()], table[left.long() + 1]
            ratio = low + (timesteps.double() - left) * (high - low)
            alpha, sigma = (
                torch.sigmoid(v).sqrt().float().view(-1, 1, 1, 1) for v in (ratio, -ratio)
            )
        z0 = mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (z - alpha * mean)
        eps = (z - alpha * z0) / sigma
        if isinstance(scheduler, RFlowScheduler):
            return z0 - eps
        return {
            "epsilon": eps,
            "sample": z0,
            "v_prediction": alpha * eps - sigma * z0,
            "flow_prediction": eps - z0,
        }[str(kind)]


def exact_model(scheduler: Any, means: Tensor | None = None, **options: Any) -> LatentDiffusion:
    """Data of pixels ``N(MEAN, STD^2)`` in [-1, 1], whose latents are four times that."""
    means = torch.tensor([MEAN]) if means is None else means
    unet = Exact(scheduler, means * 4, STD * 4)
    given = {"scale_factor": 4.0, "patch_size": SIZE, "pixels": (-1.0, 1.0), **options}
    return LatentDiffusion.from_monai(Pooled(), unet, scheduler, **given)


# -------------------------------------------------------------------------------------------------
# -- noise levels, predictions, timesteps


@pytest.mark.parametrize("name", MONAI)
def test_samples_of_the_exact_denoiser_are_the_data(name: str) -> None:
    model = exact_model(MONAI[name]())
    z = GuidedSampler(model, steps=40, progress=False).latents(None, range(400)) / 4
    assert z.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert z.std().item() == pytest.approx(STD, rel=0.04)


def grey(value: float) -> Tensor:
    return torch.full((1, 3, SIZE, SIZE), value)


def test_patches_go_in_and_out_at_the_range_and_scale_of_the_maker() -> None:
    model = exact_model(MONAI["linear epsilon"](), shift=0.25)
    assert model.autoencoder.factor == FACTOR and model.latent_shape == (CHANNELS, 4, 4)
    assert torch.allclose(model.encode(grey(0.75)), torch.tensor((0.5 - 0.25) * 4.0))
    assert torch.allclose(model.decode(model.encode(grey(0.75))), grey(0.75), atol=1e-6)


def test_each_channel_may_have_its_own_scale_and_shift() -> None:
    shift, scale = torch.tensor([0.25, 0.0, -0.5]), torch.tensor([4.0, 2.0, 1.0])
    model = exact_model(MONAI["linear epsilon"](), shift=shift.tolist(), scale_factor=scale)
    expected = ((0.5 - shift) * scale).view(1, 3, 1, 1).expand(-1, -1, 4, 4)
    torch.testing.assert_close(model.encode(grey(0.75)), expected)
    assert torch.allclose(model.decode(expected), grey(0.75), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *(({"shift": v}, "shift must be finite, got") for v in (float("nan"), float("inf"), "a")),
        ({"shift": [0.0, 0.0]}, "got .*: give one number, or one for each of the 3 latent"),
        *(({"scale_factor": v}, "scale_factor must be positive") for v in (None, [1.0, 0.0, 1.0])),
        ({"pixels": (0, float("inf"))}, "pixels must be the values of black and white"),
        *(({"patch_size": v}, "patch_size must be a whole") for v in (0, -32, 16.0, "16", True)),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact_model(DDPMScheduler(), **wrong)


def test_a_scale_that_decodes_to_no_number_stops_the_run() -> None:
    sampler = GuidedSampler(exact_model(DDPMScheduler(), scale_factor=1e-38), progress=False)
    with pytest.raises(FloatingPointError, match="decoded patches must be finite"):
        sampler(None, [0])


def test_without_a_shift_latents_are_only_scaled() -> None:
    model = exact_model(MONAI["linear epsilon"]())
    assert torch.allclose(model.encode(grey(0.75)), torch.tensor(0.5 * 4.0))


@pytest.mark.parametrize("name", [name for name in MONAI if name != "rectified flow"])
def test_one_call_is_that_of_monais_scheduler(name: str) -> None:
    scheduler, generator = MONAI[name](), torch.Generator().manual_seed(0)
    network = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    model = LatentDiffusion.from_monai(
        Pooled(), Told(network), scheduler, scale_factor=1.0, patch_size=SIZE
    )
    z, count = torch.randn(2, CHANNELS, 4, 4, generator=generator), scheduler.num_train_timesteps
    for step in (0, 1, count // 3, count - 2):
        asked = torch.full((2,), step)
        with torch.no_grad():
            ours = model.denoise(z, asked / (count - 1))
            output = Told(network)(z, asked.float())
        twin = DDIMScheduler(count, clip_sample=False, prediction_type=scheduler.prediction_type)
        twin.betas, twin.alphas_cumprod = scheduler.betas, scheduler.alphas_cumprod
        twin.set_timesteps(count)
        theirs = twin.step(output, step, z)[1]
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


class Told(nn.Module):
    """A network that is told the timestep, as a number."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        return self.network(z) * (1 + timesteps.view(-1, 1, 1, 1) / 1000)


def test_one_call_of_a_flow_is_that_of_monais_scheduler() -> None:
    scheduler, network = RFlowScheduler(1000), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    scheduler.set_timesteps(1000)
    model = LatentDiffusion.from_monai(
        Pooled(), Told(network), scheduler, scale_factor=1.0, patch_size=SIZE
    )
    z = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    for step in (2.0, 400.0, 998.0):
        sigma = torch.tensor([step / 1000] * 2)
        with torch.no_grad():
            ours = model.denoise(z, model.schedule.time(2 * torch.log((1 - sigma) / sigma)))
            theirs = scheduler.step(Told(network)(z, sigma * 1000), step, z)[1]
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


def test_arguments_stand_for_a_scheduler() -> None:
    named = read_scheduler({"schedule": "scaled_linear_beta", **BETAS})
    given = read_scheduler(DDPMScheduler(schedule="scaled_linear_beta", **BETAS))
    assert torch.equal(named.schedule.log_snr_table, given.schedule.log_snr_table)
    assert (named.prediction, named.timesteps) == ("epsilon", (0.0, 999.0))


def test_a_last_step_without_signal_has_the_least() -> None:
    scheduler = DDPMScheduler(10, prediction_type="v_prediction")
    scheduler.betas = torch.cat([scheduler.betas[:-1], torch.ones(1)])
    before, last, end = read_scheduler(scheduler).schedule.log_snr_table[-3:].tolist()
    assert before - last == pytest.approx(last - end, rel=1e-4) and end < last


def test_other_schedulers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have betas.*got Conv2d: give the DDPM"):
        read_scheduler(nn.Conv2d(1, 1, 1))
    scheduler = DDPMScheduler(10)
    scheduler.prediction_type = "noise"
    with pytest.raises(ValueError, match="must predict one of .*, got 'noise'"):
        read_scheduler(scheduler)


# -------------------------------------------------------------------------------------------------
# -- MONAI's networks


def networks(seed: int = 0, **options: Any) -> tuple[AutoencoderKL, DiffusionModelUNet]:
    """Both tiny, of random weights, none of them zero."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        common = {"norm_num_groups": 8, "num_res_blocks": 1}
        kl = AutoencoderKL(
            2, 3, 3, channels=(8, 8), attention_levels=(False, False), latent_channels=4, **common
        )
        options = {"attention_levels": (False, True), **options}
        unet = DiffusionModelUNet(
            2, 4, 4, channels=(16, 16), num_head_channels=8, **common, **options
        )
        for parameter in (*kl.parameters(), *unet.parameters()):
            if not parameter.any():
                parameter.normal_(0, 0.05)
    return kl.eval(), unet.eval()


def monai_model(**options: Any) -> LatentDiffusion:
    given = {k: options.pop(k) for k in ("classes", "null_class", "context") if k in options}
    return LatentDiffusion.from_monai(
        *networks(**options), DDPMScheduler(), scale_factor=0.5, patch_size=SIZE, **given
    )


def test_monais_networks_are_called_as_monai_calls_them() -> None:
    kl, unet = networks()
    model = LatentDiffusion.from_monai(
        kl, unet, DDPMScheduler(), scale_factor=0.5, patch_size=SIZE
    )
    x = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latent = kl.encode(x)[0] * 0.5
        assert torch.allclose(model.encode(x), latent, atol=1e-6)
        decoded = kl.decode_stage_2_outputs(latent / 0.5).clamp(0, 1)
        assert torch.allclose(model.decode(latent), decoded, atol=1e-6)
        t = torch.tensor([300, 700])
        alpha = DDPMScheduler().alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
        truth = (latent - (1 - alpha**2).sqrt() * unet(latent, t)) / alpha
        assert torch.allclose(model.denoise(latent, t / 999), truth, atol=1e-4)
    assert model.size_step == 4 and model.num_classes == 0


def test_a_vqvae_gives_and_takes_the_latents_that_monai_trains_on() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vq = VQVAE(
            2,
            3,
            3,
            channels=(8, 8),
            num_res_layers=1,
            num_res_channels=(8, 8),
            downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
            upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
            num_embeddings=16,
            embedding_dim=4,
        ).eval()
    coder = ForeignAutoencoder(vq, SIZE, (0.0, 1.0))
    x = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(coder.encode(x), vq.encode_stage_2_inputs(x))
        z = torch.randn(2, 4, 4, 4)
        assert torch.equal(coder.decode(z), vq.decode_stage_2_outputs(z))
    assert (coder.latent_channels, coder.factor) == (4, 4)


# -------------------------------------------------------------------------------------------------
# -- classes


def test_classes_are_drawn_by_the_model_itself() -> None:
    """Data of three Gaussians, and the fourth row of the table stands for no class."""
    means = torch.tensor([-0.6, 0.0, 0.6, 0.2])
    model = exact_model(DDPMScheduler(), means, null_class=3)
    assert model.num_classes == 3
    sampler = GuidedSampler(model, steps=20, progress=False)
    for k, mean in ((0, -0.6), (2, 0.6)):
        z = sampler.latents([k] * 60, range(60)) / 4
        assert z.mean().item() == pytest.approx(mean, abs=0.03)
    assert (sampler.latents(None, range(60)) / 4).mean().item() == pytest.approx(0.2, abs=0.03)
    aside = sampler.replace(class_scale=0.0)
    assert torch.equal(aside.latents([0] * 4, range(4)), sampler.latents(None, range(4)))


def test_class_scale_is_classifier_free_guidance() -> None:
    """Of Gaussians of one deviation, guidance by ``w`` moves the mean to ``m_0 + w (m_k - m_0)``,
    for it moves the estimate of every step so (Ho & Salimans 2022).
    """
    means = torch.tensor([-0.3, 0.3, 0.0])
    model = exact_model(DDPMScheduler(), means, null_class=2)
    sampler = GuidedSampler(
        model, steps=20, progress=False, class_scale=2.0, interval=(-99.0, 99.0)
    )
    z = sampler.latents([1] * 60, range(60)) / 4
    assert z.mean().item() == pytest.approx(0.6, abs=0.03)
    assert sampler.network_evaluations == 40
    assert sampler.replace(class_scale=1.0).network_evaluations == 20


def test_rows_of_the_table_may_be_any() -> None:
    means = torch.tensor([0.2, -0.6, 0.0, 0.6])
    model = exact_model(DDPMScheduler(), means, classes=(3, 1), null_class=0)
    z = GuidedSampler(model, steps=12, progress=False).latents([0] * 30 + [1] * 30, range(60)) / 4
    assert z[:30].mean().item() == pytest.approx(0.6, abs=0.04)
    assert z[30:].mean().item() == pytest.approx(-0.6, abs=0.04)


def test_a_network_attends_to_the_context_of_its_class() -> None:
    context = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    options = {"with_conditioning": True, "cross_attention_dim": 6}
    model = monai_model(context=context, null_class=2, **options)
    _, unet = networks(**options)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.6])
    with torch.no_grad():
        for given, rows in ((torch.tensor([1, 0]), [1, 0]), (None, [2, 2])):
            found = model.unet(z, t * 1000, given)
            assert torch.allclose(found, unet(z, t * 999, context=context[rows]), atol=1e-5)
    assert model.num_classes == 2 and "unet.context" in model.state_dict()


def classes_of_three(**options: Any) -> LatentDiffusion:
    return exact_model(DDPMScheduler(), torch.tensor([-0.3, 0.3, 0.0]), **options)


def test_what_does_not_fit_is_refused_first() -> None:
    kl, unet = networks()
    small = DiffusionModelUNet(
        2,
        3,
        3,
        num_res_blocks=1,
        channels=(8,),
        attention_levels=(False,),
        norm_num_groups=8,
        num_head_channels=8,
    )
    given: dict[str, Any] = {"scale_factor": 1.0, "patch_size": SIZE}
    wrong: list[tuple[str, Callable[[], Any]]] = [
        (
            "channels of the latents, got one for 3 and 3: a generator of pixels has no door here",
            lambda: LatentDiffusion.from_monai(kl, small, DDPMScheduler(), **given),
        ),
        (
            "channels of the latents, got one for 4 and 1: give the autoencoder that it was",
            lambda: ForeignDenoiser(Narrow(), 4, read_scheduler(DDPMScheduler())),
        ),
        (
            "scale_factor must be positive and finite, got 0: give",
            lambda: LatentDiffusion.from_monai(
                kl, unet, DDPMScheduler(), **{**given, "scale_factor": 0}
            ),
        ),
        (
            "values of black and white, got",
            lambda: LatentDiffusion.from_monai(
                kl, unet, DDPMScheduler(), pixels=(1.0, 0.0), **given
            ),
        ),
        (
            "must decode RGB patches of 16 pixels",
            lambda: ForeignAutoencoder(Wrong("decoded"), SIZE, (0.0, 1.0)),
        ),
        (
            "the latent of a patch must be C x h x h",
            lambda: ForeignAutoencoder(Wrong("latent"), SIZE, (0.0, 1.0)),
        ),
        (
            r"must be C x h x h.* got \(3, 4, 8\) of 16 pixels",
            lambda: ForeignAutoencoder(Wrong("oblong"), SIZE, (0.0, 1.0)),
        ),
        (
            "classes must be rows of the 3 embeddings .*, got 3",
            lambda: classes_of_three(null_class=3),
        ),
        (
            "classes must be rows of the 3 embeddings .*, got 'ADC': give their numbers, in",
            lambda: classes_of_three(classes=["ADC"]),
        ),
        (
            "labels must be class indices, whole numbers, got 'ADC': give its place among the",
            lambda: GuidedSampler(classes_of_three(), progress=False)(["ADC"], [0]),
        ),
        (
            "autoencoder must be a network, .*, got None: a generator of pixels has no door here",
            lambda: LatentDiffusion.from_diffusers(None, small, DDPMScheduler(), patch_size=SIZE),
        ),
        (
            r"autoencoder must be a network, .*, got 'my/vae': load it first, as by diffusers\.",
            lambda: LatentDiffusion.from_diffusers("my/vae", small, None, patch_size=SIZE),
        ),
        (
            r"unet must be a network, .*, got 'my/unet': load .*UNet2DModel.from_pretrained\(",
            lambda: LatentDiffusion.from_monai(kl, "my/unet", None, **given),  # type: ignore[arg-type]
        ),
        (
            "of diffusers must tell its scaling_factor, got AutoencoderKL without: give .*from_mo",
            lambda: LatentDiffusion.from_diffusers(kl, unet, DDPMScheduler(), patch_size=SIZE),
        ),
        (
            "classes must be rows of the 3 embeddings .*, got -1",
            lambda: classes_of_three(classes=[-1]),
        ),
        (
            "classes must be rows of the 0 embeddings",
            lambda: exact_model(DDPMScheduler(), classes=[0]),
        ),
        (
            "a context must be given where .* got one for a network that attends to none",
            lambda: monai_model(context=torch.zeros(2, 1, 6)),
        ),
        (
            "a context must be given where .* got none",
            lambda: monai_model(with_conditioning=True, cross_attention_dim=6),
        ),
        *(
            (
                r"a context must be embeddings of the classes, K x L x 6, got \(2, .*: give",
                lambda shape=shape: monai_model(
                    context=torch.zeros(shape), with_conditioning=True, cross_attention_dim=6
                ),
            )
            for shape in ((2, 6), (2, 1, 5))
        ),
        ("classes must be at least one row, got none", lambda: classes_of_three(classes=[])),
        (
            "those of MONAI's DDPMScheduler, got {'foo': 1}",
            lambda: exact_model({"foo": 1}),
        ),
        (
            "class_scale other than 1 needs a model that draws classes, and also none, got 2.0",
            lambda: GuidedSampler(classes_of_three(), class_scale=2.0),
        ),
        (
            "class_scale must be at least 0 and finite, got -1",
            lambda: GuidedSampler(classes_of_three(null_class=2), class_scale=-1),
        ),
        (
            "the guide must know the 3 classes that the model draws, got one of 2",
            lambda: GuidedSampler(classes_of_three(), LatentClassifier(3, 2)),
        ),
        (
            "without a null class needs a label for each patch, got none",
            lambda: GuidedSampler(classes_of_three(), progress=False, steps=2)(None, [0]),
        ),
        (
            "labels must lie from 0 to 2, got 3 to 3",
            lambda: GuidedSampler(classes_of_three(), progress=False)([3], [0]),
        ),
    ]
    for message, call in wrong:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_folder_of_diffusers_is_told_from_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold 'configs/inference.json', got.*'$"):
        LatentDiffusion.from_bundle(tmp_path)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="but parts of diffusers: load them and give them"):
        LatentDiffusion.from_bundle(tmp_path)


class Narrow(nn.Module):
    """A network whose one channel would spread over all of a latent."""

    in_channels, out_channels = 4, 1


class Wrong(nn.Module):
    """An autoencoder of another shape than it should have."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def encode(self, x: Tensor) -> Tensor:
        down, right = {"latent": (3, 3), "oblong": (4, 2)}.get(self.what, (4, 4))
        return x[..., ::down, ::right]

    def decode(self, z: Tensor) -> Tensor:
        return z


# -------------------------------------------------------------------------------------------------
# -- behind the sampler


def test_a_guide_leads_a_foreign_generator() -> None:
    """On a Gaussian with a linear guide the classes part ways, as with a model of ours."""
    model = exact_model(DDPMScheduler())
    guide = LatentClassifier(CHANNELS, 2, channels=(16, 16)).eval()
    guide.forward = lambda z, t=None: torch.stack([-z.mean((1, 2, 3)), z.mean((1, 2, 3))], 1)
    sampler = GuidedSampler(model, guide, steps=10, scale=5.0, progress=False)
    down, up = (sampler.latents([k] * 20, range(20)).mean().item() for k in (0, 1))
    assert down < sampler.latents(None, range(20)).mean().item() < up


def test_a_bundle_may_name_a_foreign_generator(tmp_path: Path) -> None:
    model = monai_model()
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    save_weights(tmp_path / "models" / "model.pt", model.state_dict())
    common = {"spatial_dims": 2, "norm_num_groups": 8, "num_res_blocks": 1}
    config = {
        "network_def": {
            "_target_": "monai_histodiff.LatentDiffusion.from_monai",
            "autoencoder": {
                "_target_": "monai.networks.nets.AutoencoderKL",
                "in_channels": 3,
                "out_channels": 3,
                "channels": [8, 8],
                "attention_levels": [False, False],
                "latent_channels": 4,
                **common,
            },
            "unet": {
                "_target_": "monai.networks.nets.DiffusionModelUNet",
                "in_channels": 4,
                "out_channels": 4,
                "channels": [16, 16],
                "attention_levels": [False, True],
                "num_head_channels": 8,
                **common,
            },
            "scheduler": {"_target_": "monai.networks.schedulers.DDPMScheduler"},
            "scale_factor": 1.0,
            "patch_size": SIZE,
        }
    }
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    opened = LatentDiffusion.from_bundle(tmp_path)
    assert torch.allclose(opened.latent_std, torch.tensor(2.0)), "the file's, not the config's"
    ours, theirs = (
        GuidedSampler(m, steps=3, progress=False)(None, [1, 2]) for m in (model, opened)
    )
    assert torch.allclose(ours, theirs, atol=0.02), "weights are stored in float16"


# -------------------------------------------------------------------------------------------------
# -- diffusers


def diffusers_parts() -> SimpleNamespace:
    """Tiny networks of diffusers, of random weights."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in an extra")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kl = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
            latent_channels=4,
            scaling_factor=0.5,
            shift_factor=0.1,
        )
        vq = diffusers.VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
            latent_channels=4,
            scaling_factor=0.5,
        )
        unet = diffusers.UNet2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            block_out_channels=(16, 16),
            layers_per_block=1,
            norm_num_groups=8,
            num_class_embeds=4,
        )
        dit = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=3,
        )
        attending = diffusers.UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 16),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=6,
            attention_head_dim=8,
        )
    parts = SimpleNamespace(kl=kl, vq=vq, unet=unet, dit=dit, attending=attending, of=diffusers)
    for network in (kl, vq, unet, dit, attending):
        network.eval()
    return parts


THEIRS = {
    "linear epsilon": ("DDPMScheduler", {"beta_schedule": "linear"}),
    "scaled linear v": (
        "DDIMScheduler",
        {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", **BETAS},
    ),
    "cosine sample": (
        "DPMSolverMultistepScheduler",
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
    ),
    "no signal at the end": (
        "DDIMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
}


@pytest.mark.parametrize("name", THEIRS)
def test_samples_of_the_exact_denoiser_are_the_data_with_schedulers_of_diffusers(
    name: str,
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in an extra")
    kind, options = THEIRS[name]
    scheduler = getattr(diffusers, kind)(**options)
    model = exact_model(scheduler)
    z = GuidedSampler(model, steps=40, progress=False).latents(None, range(400)) / 4
    assert z.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert z.std().item() == pytest.approx(STD, rel=0.04)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("network", ["unet", "dit", "attending"])
def test_one_call_is_that_of_diffusers(network: str, kind: str) -> None:
    parts = diffusers_parts()
    scheduler = parts.of.DDIMScheduler(
        prediction_type=kind, clip_sample=False, set_alpha_to_one=False
    )
    scheduler.set_timesteps(1000)
    theirs = getattr(parts, network)
    table = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(0))
    context = {"context": table} if network == "attending" else {}
    model = LatentDiffusion.from_diffusers(
        parts.kl, theirs, scheduler, patch_size=SIZE, null_class=3, **context
    )
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for step, classes in ((20, [2, 0]), (600, None)):
        rows = torch.tensor([3, 3] if classes is None else classes)
        known = {"class_labels": rows}
        if network == "attending":
            known = {"encoder_hidden_states": table[rows]}
        with torch.no_grad():
            output = theirs(z, torch.tensor([step, step]), **known).sample[:, :4]
            truth = scheduler.step(output, step, z).pred_original_sample
            asked = None if classes is None else torch.tensor(classes)
            ours = model.denoise(z, torch.full((2,), step / 999), asked)
        torch.testing.assert_close(ours, truth, rtol=2e-4, atol=2e-4)
    assert model.num_classes == 3 and model.size_step == 4


def test_one_call_of_a_flow_is_that_of_diffusers() -> None:
    parts = diffusers_parts()
    scheduler = parts.of.FlowMatchEulerDiscreteScheduler()
    model = LatentDiffusion.from_diffusers(parts.kl, parts.dit, scheduler, patch_size=SIZE)
    z, sigma = torch.randn(1, 4, 8, 8), torch.tensor([0.6])
    with torch.no_grad():
        velocity = parts.dit(z, sigma * 1000, class_labels=torch.tensor([1])).sample[:, :4]
        ours = model.denoise(
            z, model.schedule.time(2 * torch.log((1 - sigma) / sigma)), torch.tensor([1])
        )
    torch.testing.assert_close(ours, z - 0.6 * velocity, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("network", ["kl", "vq"])
def test_patches_go_through_the_autoencoders_of_diffusers(network: str) -> None:
    parts = diffusers_parts()
    theirs = getattr(parts, network)
    model = LatentDiffusion.from_diffusers(
        theirs, parts.unet, parts.of.DDPMScheduler(), patch_size=SIZE
    )
    x = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        raw = theirs.encode(x * 2 - 1)
        raw = raw.latent_dist.mode() if network == "kl" else raw.latents
        latent = (raw - (0.1 if network == "kl" else 0.0)) * 0.5
        assert torch.allclose(model.encode(x), latent, atol=1e-6)
        decoded = (theirs.decode(raw).sample / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(model.decode(latent), decoded, atol=1e-5)


def test_the_mean_and_deviation_of_each_channel_are_those_of_diffusers() -> None:
    parts = diffusers_parts()
    mean, std = [0.5, -0.5, 1.0, 0.0], [2.0, 3.0, 1.0, 1.0]
    parts.kl.register_to_config(latents_mean=mean, latents_std=std, shift_factor=None)
    model = LatentDiffusion.from_diffusers(
        parts.kl, parts.unet, parts.of.DDPMScheduler(), patch_size=SIZE
    )
    z = torch.randn(2, 4, 8, 8)
    raw = z * torch.tensor(std).view(4, 1, 1) / 0.5 + torch.tensor(mean).view(4, 1, 1)
    with torch.no_grad():
        decoded = (parts.kl.decode(raw).sample / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(model.decode(z), decoded, atol=1e-5)
    parts.kl.register_to_config(latents_std=None)
    with pytest.raises(ValueError, match="must tell latents_mean and latents_std, no 0"):
        LatentDiffusion.from_diffusers(parts.kl, parts.unet, None, patch_size=SIZE)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_generator_of_diffusers_is_guided_both_ways(network: str) -> None:
    parts = diffusers_parts()
    model = LatentDiffusion.from_diffusers(
        parts.kl, getattr(parts, network), parts.of.DDPMScheduler(), patch_size=SIZE, null_class=3
    )
    guide = LatentClassifier(4, 3, channels=(16, 16)).eval()
    options = {"scale": 1000.0, "steps": 3, "progress": False}
    sampler = GuidedSampler(model, guide, class_scale=2.0, **options)
    made = sampler([0, 1, 2], [1, 2, 3])
    assert made.shape == (3, 3, SIZE, SIZE)
    assert torch.allclose(sampler.replace(max_batch=1)([0, 1, 2], [1, 2, 3]), made, atol=1e-5)
    for other in ({"class_scale": 1.0}, {"scale": 0.0}, {"class_scale": 0.0}):
        assert not torch.allclose(sampler.replace(**other)([0, 1, 2], [1, 2, 3]), made, atol=1e-4)


def test_a_denoiser_keeps_its_keys() -> None:
    kl, unet = networks()
    denoiser = ForeignDenoiser(unet, 4, read_scheduler(DDPMScheduler()))
    assert {f"unet.{k}" for k in unet.state_dict()} == set(denoiser.state_dict())


# -------------------------------------------------------------------------------------------------
# -- training


class Remembering(nn.Module):
    """A network of three classes and a row for none, that says which rows it was asked for."""

    num_class_embeds = 4

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, z: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        self.asked.append(class_labels)
        return z


def test_a_training_shows_labels_and_leaves_one_in_ten_out() -> None:
    network = Remembering()
    model = LatentDiffusion.from_monai(
        Pooled(), network, DDPMScheduler(), scale_factor=1.0, patch_size=SIZE, null_class=3
    )
    prepare = DenoisingPrepareBatch(model)
    batch = {"image": torch.zeros(2000, 3, 4, 4), "label": torch.tensor([2, -1] * 1000)}
    noisy, _, given, _ = prepare(batch)
    model.eval().unet(noisy, *given)
    assert torch.equal(network.asked[-1], torch.tensor([2, 3] * 1000))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.train().unet(noisy, *given)
    shown = network.asked[-1]
    assert shown[1::2].unique().tolist() == [3] and shown[::2].unique().tolist() == [2, 3]
    assert (shown[::2] == 3).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_a_training_without_a_row_for_no_class_needs_every_label() -> None:
    model = LatentDiffusion.from_monai(
        Pooled(), Remembering(), DDPMScheduler(), scale_factor=1.0, patch_size=SIZE
    ).train()
    prepare = DenoisingPrepareBatch(model)
    noisy, _, given, _ = prepare(
        {"image": torch.zeros(2, 3, 4, 4), "label": torch.tensor([2, -1])}
    )
    with pytest.raises(ValueError, match="needs a label for each patch, got none"):
        model.unet(noisy, *given)


def test_half_precision_is_made_whole() -> None:
    """As pipelines are often loaded."""
    parts = [network.half() for network in networks()]
    model = LatentDiffusion.from_monai(*parts, DDPMScheduler(), scale_factor=1.0, patch_size=SIZE)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
