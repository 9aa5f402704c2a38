"""The latent diffusion model.

Patches are RGB in [0, 1], shape ``N x 3 x H x W``; latents ``z`` are normalised (zero mean in each
channel, unit variance over all of them), shape ``N x C x H/8 x W/8``; times ``t`` are in [0, 1],
shape ``N``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from monai_histodiff.data.pixels import reflected, to_unit
from monai_histodiff.diffusion.autoencoder import PatchAutoencoder
from monai_histodiff.diffusion.exemplar import ExemplarEmbedding
from monai_histodiff.diffusion.foreign import (
    ForeignAutoencoder,
    ForeignDenoiser,
    read_scheduler,
    side_step,
)
from monai_histodiff.diffusion.parts import (
    check_networks,
    check_student,
    checked_decoded,
    files_of_bundle,
    latent_statistics,
    scale_of_diffusers,
)
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.settings import TAUGHT
from monai_histodiff.diffusion.unet import FineUNet
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.weights import checked_device, load_weights

__all__ = ["LatentDiffusion"]

PREDICTIONS = ("epsilon", "velocity", "sample", "flow")


class LatentDiffusion(nn.Module):
    """A latent diffusion model in one module and one checkpoint: no scale factor is ever lost or
    guessed.

    Autoencoder, UNet, latent statistics, noise schedule and prediction type all live in the
    ``state_dict``. Weights are made float32, whatever torch's default dtype is.

    Args:
        autoencoder: encodes patches; see :class:`PatchAutoencoder`, and :meth:`from_monai` and
            :meth:`from_diffusers` for others.
        unet: the network ``(z, timesteps in [0, 1000]) -> prediction`` of the shape of ``z``.
        schedule: ``"cosine"``, ``"flow"``, or a :class:`NoiseSchedule`.
        prediction: what the UNet predicts: ``"epsilon"``, ``"velocity"`` (alpha eps - sigma z0,
            Salimans & Ho 2022), ``"sample"`` (z0) or ``"flow"`` (eps - z0).
        patch_size: height and width of the patches that it was trained on, in pixels.

    Attributes:
        taught: settings of a student, of which a sampler takes no others. Empty: any.
    """

    latent_mean: Tensor
    latent_std: Tensor
    prediction_code: Tensor

    @float32_default()
    def __init__(
        self,
        autoencoder: PatchAutoencoder | ForeignAutoencoder,
        unet: DiffusionModelUNet | FineUNet | ForeignDenoiser,
        schedule: str | NoiseSchedule = "cosine",
        prediction: str = "velocity",
        patch_size: int = 128,
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {PREDICTIONS}, got '{prediction}'")
        self.autoencoder = autoencoder
        self.unet = unet
        self.schedule = NoiseSchedule.named(schedule) if isinstance(schedule, str) else schedule
        self.patch_size = patch_size
        self.taught: dict[str, Any] = {}
        channels = autoencoder.latent_channels
        self.register_buffer("latent_mean", torch.zeros(channels, dtype=torch.float32))
        self.register_buffer("latent_std", torch.ones(channels, dtype=torch.float32))
        code = torch.tensor(PREDICTIONS.index(prediction), dtype=torch.long)
        self.register_buffer("prediction_code", code)
        self.to(torch.float32)  # a UNet from MONAI has torch's default dtype

    @property
    def prediction(self) -> str:
        """What the UNet predicts."""
        return PREDICTIONS[int(self.prediction_code)]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape ``C x h x w`` of the latent of a patch of the size that it was trained on."""
        return self.latent_shape_of(self.patch_size)

    @property
    def size_step(self) -> int:
        """Patches are made with sides of this many pixels, or multiples, and then cropped: the
        reduction of the autoencoder times that of the UNet's levels.
        """
        return int(self.autoencoder.factor) * side_step(self.unet)

    def latent_shape_of(self, size: int) -> tuple[int, int, int]:
        """Shape ``C x h x w`` of the latent from which a patch of ``size`` pixels is cropped."""
        side = -(-size // self.size_step) * self.size_step // self.autoencoder.factor
        return self.autoencoder.latent_channels, side, side

    def padded(self, x: Tensor) -> Tensor:
        """Patches ``N x C x H x W``, reflected at their borders to multiples of ``size_step``:
        what :meth:`encode` and the UNet take. The centre crop of what is decoded is the patch.

        Raises:
            ValueError: a patch is too small to be reflected so far, or of another range.
        """
        return reflected(to_unit(x), self.size_step)

    @classmethod
    def from_bundle(
        cls,
        bundle_dir: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        weights: str | os.PathLike[str] | None = None,
    ) -> LatentDiffusion:
        """The network of a bundle, ``network_def`` of ``configs/inference.json``, with weights.

        Args:
            bundle_dir: the bundle.
            device: where to put the network.
            weights: an adapted model's file; ``None``: the bundle's ``models/model.pt``.

        Raises:
            FileNotFoundError: the folder is not a bundle, or there is no such file.
            ValueError: the weights cannot be read or do not fit the network.
        """
        config, own = files_of_bundle(bundle_dir, "configs/inference.json", "models/model.pt")
        return cls._configured(config, own if weights is None else Path(weights), device)

    @classmethod
    def few_steps_from_bundle(
        cls, bundle_dir: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> LatentDiffusion:
        """The student of a bundle, ``models/few_steps.pt``, distilled from its model, which
        samples in few steps and by no other settings: :meth:`SamplingSettings.pretrained`.

        Raises:
            FileNotFoundError: the folder is not a bundle, or has no student.
            ValueError: the weights cannot be read, do not fit, or are not of the bundle's model.
        """
        config, own = files_of_bundle(bundle_dir, "configs/inference.json", "models/few_steps.pt")
        check_student(bundle_dir)
        student = cls._configured(config, own, device)
        student.taught = dict(TAUGHT)
        return student

    @classmethod
    def _configured(
        cls, config: Path, weights: Path, device: str | torch.device
    ) -> LatentDiffusion:
        parser = ConfigParser()
        parser.read_config(str(config))
        network = parser.get_parsed_content("network_def")
        return load_weights(network, weights).to(checked_device(device)).eval()

    @classmethod
    def from_monai(
        cls,
        autoencoder: nn.Module,
        unet: nn.Module,
        scheduler: nn.Module | Mapping[str, Any],
        *,
        scale_factor: float | Sequence[float],
        patch_size: int,
        shift: float | Sequence[float] = 0.0,
        pixels: tuple[float, float] = (0.0, 1.0),
        classes: Sequence[int] | None = None,
        null_class: int | None = None,
        context: Tensor | None = None,
    ) -> LatentDiffusion:
        """A latent diffusion model of MONAI's networks.

        Args:
            autoencoder: ``AutoencoderKL`` or ``VQVAE``; a latent is the mean that it encodes.
            unet: ``DiffusionModelUNet``. Both become the model's own: float32 and evaluating.
            scheduler: what it was trained with, such as a ``DDPMScheduler`` or an
                ``RFlowScheduler``, or the arguments of the former.
            scale_factor: its latents were multiplied by this, or each channel by one of these.
            patch_size: height and width of the patches that it was trained on, in pixels.
            shift: subtracted from the latents before, or one from each channel.
            pixels: what the autoencoder takes for black and for white.
            classes: see :class:`~monai_histodiff.diffusion.foreign.ForeignDenoiser`, for these
                three.
            null_class: the row that stands for no class.
            context: embeddings of the classes, ``K x L x D``, for a network that attends to them.

        Raises:
            ValueError: the parts do not fit one another, or a number is out of range.
        """
        check_networks(autoencoder, unet)
        noising = read_scheduler(scheduler)
        coder = ForeignAutoencoder(autoencoder, patch_size, pixels)
        channels = coder.latent_channels
        mean, std = latent_statistics(scale_factor, shift, channels)
        denoiser = ForeignDenoiser(unet, channels, noising, classes, null_class, context)
        model = cls(coder, denoiser, noising.schedule, noising.prediction, patch_size)
        model.latent_mean.copy_(mean)
        model.latent_std.copy_(std)
        return model.to(next((p.device for p in autoencoder.parameters()), "cpu")).eval()

    @classmethod
    def from_diffusers(
        cls,
        autoencoder: Any,
        unet: nn.Module,
        scheduler: Any,
        *,
        patch_size: int,
        pixels: tuple[float, float] = (-1.0, 1.0),
        **others: Any,
    ) -> LatentDiffusion:
        """A latent diffusion model of parts of diffusers: ``AutoencoderKL`` or ``VQModel``, which
        knows its scale and shift; ``UNet2DModel``, ``DiTTransformer2DModel`` or
        ``UNet2DConditionModel``; and a scheduler with the betas that it was trained with, or of
        flow matching. ``others`` and errors are those of :meth:`from_monai`.
        """
        known = scale_of_diffusers(autoencoder, unet)
        given = {**known, "patch_size": patch_size, "pixels": pixels, **others}
        return cls.from_monai(autoencoder, unet, scheduler, **given)

    def encode(self, x: Tensor) -> Tensor:
        """Patches, uint8 or in [0, 1], to normalised latents. Other ranges are refused."""
        mean, std = self.latent_mean.view(-1, 1, 1), self.latent_std.view(-1, 1, 1)
        return (self.autoencoder.encode(to_unit(x).to(mean.dtype)) - mean) / std

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents to patches in [0, 1]; a ``FloatingPointError`` if not finite."""
        mean, std = self.latent_mean.view(-1, 1, 1), self.latent_std.view(-1, 1, 1)
        return checked_decoded(self.autoencoder.decode(z * std + mean)).clamp(0, 1)

    @property
    def exemplar(self) -> ExemplarEmbedding | None:
        """What embeds exemplars; ``None`` where the model takes none."""
        return self.unet.exemplar if isinstance(self.unet, FineUNet) else None

    @property
    def num_classes(self) -> int:
        """Classes that it draws by itself, without a guide; 0 where it knows none."""
        return self.unet.num_classes if isinstance(self.unet, ForeignDenoiser) else 0

    @property
    def null_class(self) -> int | None:
        """The row that stands for no class; ``None`` where it cannot leave classes aside."""
        return self.unet.null_class if isinstance(self.unet, ForeignDenoiser) else None

    def denoise(self, z: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The denoiser: estimate of ``z0`` from ``z_t`` at times ``t``, shape ``N``; of patches
        like exemplars, descriptors ``N x D``, or of classes, shape ``N``, where they are given.
        """
        alpha, sigma = (v.view(-1, *[1] * (z.ndim - 1)) for v in self.schedule.alpha_sigma(t))
        power = alpha**2 + sigma**2
        # z0 = a z + b out: a pair for each of PREDICTIONS, looked up by tensor, so that no step
        # waits for the device
        a = torch.stack([1 / alpha, alpha / power, torch.zeros_like(alpha), 1 / (alpha + sigma)])
        b = torch.stack(
            [-sigma / alpha, -sigma / power, torch.ones_like(alpha), -sigma / (alpha + sigma)]
        )
        code = self.prediction_code.view(1)
        given = () if condition is None else (condition,)
        out = self.unet(z, t * 1000, *given)
        return a.index_select(0, code)[0] * z + b.index_select(0, code)[0] * out

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latent ``z_t`` and what the UNet must predict from it."""
        alpha, sigma = (v.view(-1, *[1] * (z0.ndim - 1)) for v in self.schedule.alpha_sigma(t))
        targets = {
            "epsilon": noise,
            "velocity": alpha * noise - sigma * z0,
            "sample": z0,
            "flow": noise - z0,
        }
        return alpha * z0 + sigma * noise, targets[self.prediction]

    def forward(self, noise: Tensor) -> Tensor:
        """One denoising step from pure noise, decoded: patches in [0, 1] from noise of shape
        ``N x C x h x w``.

        For sampling use :class:`monai_histodiff.GuidedSampler`; this makes the module a plain
        network for tools.
        """
        t = noise.new_ones(len(noise), dtype=torch.float32)
        return self.decode(self.denoise(noise, t))
