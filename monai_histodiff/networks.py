"""The networks: the latent diffusion model and the noise-aware latent classifier that guides it.

Patches are RGB in [0, 1], shape ``N x 3 x H x W``; latents ``z`` are
normalised (zero mean in each channel, unit variance over all of them), shape ``N x C x H/8 x W/8``; times ``t`` are in [0, 1],
shape ``N``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from monai_histodiff.autoencoders import PatchAutoencoder
from monai_histodiff.schedules import NoiseSchedule
from monai_histodiff.unets import FineUNet
from monai_histodiff.weights import checked_device, load_fitting, load_weights, read_state

__all__ = ["LatentClassifier", "LatentDiffusion", "load_autoencoder"]

PREDICTIONS = ("epsilon", "velocity", "sample", "flow")


class LatentDiffusion(nn.Module):
    """A latent diffusion model in one module and one checkpoint: no scale factor is ever lost or guessed.

    Autoencoder, UNet, latent statistics, noise schedule and prediction type all live in the ``state_dict``.

    Args:
        autoencoder: encodes patches; see :class:`PatchAutoencoder`.
        unet: the network ``(z, timesteps in [0, 1000]) -> prediction`` of the shape of ``z``.
        schedule: ``"cosine"``, ``"flow"``, or a :class:`NoiseSchedule`.
        prediction: what the UNet predicts: ``"epsilon"``, ``"velocity"`` (alpha eps - sigma z0, Salimans & Ho 2022),
            ``"sample"`` (z0) or ``"flow"`` (eps - z0).
        patch_size: height and width of the patches that it was trained on, in pixels.
    """

    latent_mean: Tensor
    latent_std: Tensor
    prediction_code: Tensor

    def __init__(
        self,
        autoencoder: PatchAutoencoder,
        unet: DiffusionModelUNet | FineUNet,
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
        self.register_buffer("latent_mean", torch.zeros(autoencoder.latent_channels))
        self.register_buffer("latent_std", torch.ones(autoencoder.latent_channels))
        self.register_buffer("prediction_code", torch.tensor(PREDICTIONS.index(prediction)))

    @property
    def prediction(self) -> str:
        """What the UNet predicts."""
        return PREDICTIONS[int(self.prediction_code)]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape ``C x h x w`` of the latent of one patch."""
        side = self.patch_size // self.autoencoder.factor
        return self.autoencoder.latent_channels, side, side

    @classmethod
    def from_bundle(
        cls,
        bundle_dir: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        weights: str | os.PathLike[str] | None = None,
    ) -> LatentDiffusion:
        """Build the network of a bundle (``network_def`` of ``configs/inference.json``) with its weights.

        Args:
            bundle_dir: the bundle.
            device: where to put the network.
            weights: an adapted model's file, used if it exists; the bundle's ``models/model.pt`` otherwise.

        Raises:
            FileNotFoundError: the folder is not a bundle.
            ValueError: the weights cannot be read or do not fit the network.
        """
        config, own = _files_of_bundle(bundle_dir, "configs/inference.json", "models/model.pt")
        chosen = Path(weights) if weights is not None and Path(weights).is_file() else own
        return cls._configured(config, chosen, device)

    @classmethod
    def weak_from_bundle(cls, bundle_dir: str | os.PathLike[str], device: str | torch.device = "cpu") -> LatentDiffusion:
        """The weak model of a bundle, ``models/weak.pt``: an earlier state of the same training, for autoguidance.

        It is the network ``weak_def`` of ``configs/inference.json``, or, where that has none, ``network_def``.

        Raises:
            FileNotFoundError: the folder is not a bundle, or has no weak model.
            ValueError: the weights cannot be read or do not fit the network.
        """
        config, weak = _files_of_bundle(bundle_dir, "configs/inference.json", "models/weak.pt")
        return cls._configured(config, weak, device, "weak_def")

    @classmethod
    def _configured(cls, config: Path, weights: Path, device: str | torch.device, name: str = "network_def") -> LatentDiffusion:
        parser = ConfigParser()
        parser.read_config(str(config))
        network = parser.get_parsed_content(name if name in parser else "network_def")
        return load_weights(network, weights).to(checked_device(device)).eval()

    def encode(self, x: Tensor) -> Tensor:
        """Patches in [0, 1] to normalised latents."""
        return (self.autoencoder.encode(x) - self.latent_mean.view(-1, 1, 1)) / self.latent_std.view(-1, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents to patches in [0, 1]."""
        return self.autoencoder.decode(z * self.latent_std.view(-1, 1, 1) + self.latent_mean.view(-1, 1, 1)).clamp(0, 1)

    def denoise(self, z: Tensor, t: Tensor) -> Tensor:
        """The denoiser: estimate of ``z0`` from ``z_t`` at times ``t``, shape ``N``."""
        alpha, sigma = (v.view(-1, *[1] * (z.ndim - 1)) for v in self.schedule.alpha_sigma(t))
        power = alpha**2 + sigma**2
        # z0 = a z + b out: a pair for each of PREDICTIONS, looked up by tensor, so that no step waits for the device
        a = torch.stack([1 / alpha, alpha / power, torch.zeros_like(alpha), 1 / (alpha + sigma)])
        b = torch.stack([-sigma / alpha, -sigma / power, torch.ones_like(alpha), -sigma / (alpha + sigma)])
        code = self.prediction_code.view(1)
        return a.index_select(0, code)[0] * z + b.index_select(0, code)[0] * self.unet(z, t * 1000)

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latent ``z_t`` and what the UNet must predict from it."""
        alpha, sigma = (v.view(-1, *[1] * (z0.ndim - 1)) for v in self.schedule.alpha_sigma(t))
        targets = {"epsilon": noise, "velocity": alpha * noise - sigma * z0, "sample": z0, "flow": noise - z0}
        return alpha * z0 + sigma * noise, targets[self.prediction]

    def forward(self, noise: Tensor) -> Tensor:
        """One denoising step from pure noise, decoded: patches in [0, 1] from noise of shape ``N x C x h x w``.

        For sampling use :class:`monai_histodiff.GuidedSampler`; this makes the module a plain network for tools.
        """
        return self.decode(self.denoise(noise, torch.ones(len(noise), device=noise.device)))


class LatentClassifier(nn.Module):
    """The guide: class logits of a noisy latent, for any spatial size (Dhariwal & Nichol 2021, arXiv:2105.05233).

    A residual convolutional network whose blocks are scaled and shifted by an embedding of the time.

    Args:
        in_channels: channels of the latent.
        num_classes: number of classes, at least 2.
        channels: widths of the levels; each level after the first halves the size.
        dropout: dropout before the last layer.
    """

    frequencies: Tensor

    def __init__(self, in_channels: int, num_classes: int, channels: Sequence[int] = (64, 96, 128), dropout: float = 0.2) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 6.2, 32)), persistent=False)
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        widths = list(zip([channels[0], *channels[:-1]], channels, strict=True))
        self.blocks = nn.ModuleList(_TimeBlock(a, b, 128, down=i > 0) for i, (a, b) in enumerate(widths))
        self.head = nn.Sequential(nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
        self.logits = nn.Linear(channels[-1], num_classes)

    def forward(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits, shape ``N x num_classes``, of normalised latents ``z_t`` at times ``t`` in [0, 1]; clean ones by default.

        Raises:
            ValueError: the latents have another number of channels.
        """
        if z.ndim != 4 or z.shape[1] != self.in_channels:
            raise ValueError(f"the guide reads latents N x {self.in_channels} x h x w, got {tuple(z.shape)}")
        t = torch.zeros(len(z), device=z.device) if t is None else t
        angles = t.float()[:, None] * self.frequencies
        emb = self.embed(torch.cat([angles.sin(), angles.cos()], 1).to(z.dtype))
        h = self.stem(z)
        for block in self.blocks:
            h = block(h, emb)
        return self.logits(self.head(h))


class _TimeBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, embedding: int, down: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels_in), nn.GroupNorm(8, channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=2 if down else 1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1, stride=2 if down else 1)
        self.modulate = nn.Linear(embedding, 2 * channels_out)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulate(emb)[:, :, None, None].chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


def _files_of_bundle(bundle_dir: str | os.PathLike[str], *names: str) -> list[Path]:
    for name in names:
        if not (Path(bundle_dir) / name).is_file():
            raise FileNotFoundError(f"a bundle must hold '{name}', got none in '{bundle_dir}'")
    return [Path(bundle_dir) / name for name in names]


def load_autoencoder(model: LatentDiffusion, path: str | os.PathLike[str]) -> LatentDiffusion:
    """Load the autoencoder alone from a latent diffusion model's ``state_dict`` file, and return the model.

    UNet, latent statistics, schedule and prediction stay those of ``model``: what a training of the UNet starts from. A
    :class:`~monai_histodiff.FineUNet` is shown the autoencoder's components.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable ``state_dict``, or its autoencoder is another.
    """
    prefix = "autoencoder."
    state = {k.removeprefix(prefix): v for k, v in read_state(path).items() if k.startswith(prefix)}
    load_fitting(model.autoencoder, state, path)
    if isinstance(model.unet, FineUNet):
        model.unet.see(model.autoencoder)
    return model
