"""The networks: the latent diffusion model and the noise-aware latent classifier that guides it.

Patches are RGB in [0, 1], shape ``N x 3 x H x W``; latents ``z`` are
normalised (zero mean in each channel, unit variance over all of them), shape ``N
x C x H/8 x W/8``; times ``t`` are in [0, 1], shape ``N``.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from monai_histodiff.diffusion.autoencoder import PatchAutoencoder
from monai_histodiff.diffusion.exemplar import ExemplarEmbedding
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.unet import FineUNet
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.weights import checked_device, load_fitting, load_weights, read_state

__all__ = ["LatentDiffusion", "load_autoencoder", "same_latents"]

PREDICTIONS = ("epsilon", "velocity", "sample", "flow")


class LatentDiffusion(nn.Module):
    """A latent diffusion model in one module and one checkpoint: no scale factor is ever lost or
    guessed.

    Autoencoder, UNet, latent statistics, noise schedule and prediction type all live in the
    ``state_dict``. Weights are made float32, whatever torch's default dtype is.

    Args:
        autoencoder: encodes patches; see :class:`PatchAutoencoder`.
        unet: the network ``(z, timesteps in [0, 1000]) -> prediction`` of the shape of ``z``.
        schedule: ``"cosine"``, ``"flow"``, or a :class:`NoiseSchedule`.
        prediction: what the UNet predicts: ``"epsilon"``, ``"velocity"`` (alpha eps - sigma z0,
            Salimans & Ho 2022), ``"sample"`` (z0) or ``"flow"`` (eps - z0).
        patch_size: height and width of the patches that it was trained on, in pixels.
    """

    latent_mean: Tensor
    latent_std: Tensor
    prediction_code: Tensor

    @float32_default()
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
        """Shape ``C x h x w`` of the latent of one patch of the size that it was trained on."""
        return self.latent_shape_of(self.patch_size)

    @property
    def size_step(self) -> int:
        """Patches are made with sides of this many pixels, or multiples, and then cropped: the
        reduction of the autoencoder times that of the UNet's levels.
        """
        unet = self.unet.unet if isinstance(self.unet, FineUNet) else self.unet
        levels = len(getattr(unet, "down_blocks", (None,)))
        return int(self.autoencoder.factor) * 2 ** (levels - 1)

    def latent_shape_of(self, size: int) -> tuple[int, int, int]:
        """Shape ``C x h x w`` of the latent from which a patch of ``size`` pixels is cropped."""
        side = -(-size // self.size_step) * self.size_step // self.autoencoder.factor
        return self.autoencoder.latent_channels, side, side

    def padded(self, x: Tensor) -> Tensor:
        """Patches ``N x C x H x W``, reflected at their borders to multiples of ``size_step``, the
        patch in the middle: what :meth:`encode` and the UNet can take. The centre crop of what
        is decoded is the patch again.

        Raises:
            ValueError: a patch is too small to be reflected so far.
        """
        step, sides = self.size_step, x.shape[2:]
        extra = [-side % step for side in sides]
        if any(missing >= 2 * side for missing, side in zip(extra, sides, strict=True)):
            raise ValueError(f"patches must be larger than {step // 3} pixels, got {tuple(sides)}")
        below, right = extra
        border = (right // 2, right - right // 2, below // 2, below - below // 2)
        return F.pad(x, border, mode="reflect") if any(extra) else x

    @classmethod
    def from_bundle(
        cls,
        bundle_dir: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        weights: str | os.PathLike[str] | None = None,
    ) -> LatentDiffusion:
        """Build the network of a bundle (``network_def`` of ``configs/inference.json``) with its
        weights.

        Args:
            bundle_dir: the bundle.
            device: where to put the network.
            weights: an adapted model's file, used if it exists; the bundle's ``models/model.pt``
                otherwise.

        Raises:
            FileNotFoundError: the folder is not a bundle.
            ValueError: the weights cannot be read or do not fit the network.
        """
        config, own = _files_of_bundle(bundle_dir, "configs/inference.json", "models/model.pt")
        chosen = Path(weights) if weights is not None and Path(weights).is_file() else own
        return cls._configured(config, chosen, device)

    @classmethod
    def weak_from_bundle(
        cls, bundle_dir: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> LatentDiffusion:
        """The weak model of a bundle, ``models/weak.pt``: an earlier state of the same training,
        for autoguidance.

        It is the network ``weak_def`` of ``configs/inference.json``, or, where that has none,
        ``network_def``.

        Raises:
            FileNotFoundError: the folder is not a bundle, or has no weak model.
            ValueError: the weights cannot be read or do not fit the network.
        """
        config, weak = _files_of_bundle(bundle_dir, "configs/inference.json", "models/weak.pt")
        return cls._configured(config, weak, device, "weak_def")

    @classmethod
    def _configured(
        cls, config: Path, weights: Path, device: str | torch.device, name: str = "network_def"
    ) -> LatentDiffusion:
        parser = ConfigParser()
        parser.read_config(str(config))
        network = parser.get_parsed_content(name if name in parser else "network_def")
        return load_weights(network, weights).to(checked_device(device)).eval()

    def encode(self, x: Tensor) -> Tensor:
        """Patches in [0, 1] to normalised latents."""
        return (
            self.autoencoder.encode(x) - self.latent_mean.view(-1, 1, 1)
        ) / self.latent_std.view(-1, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents to patches in [0, 1]."""
        return self.autoencoder.decode(
            z * self.latent_std.view(-1, 1, 1) + self.latent_mean.view(-1, 1, 1)
        ).clamp(0, 1)

    @property
    def exemplar(self) -> ExemplarEmbedding | None:
        """What embeds exemplars; ``None`` where the model takes none."""
        return self.unet.exemplar if isinstance(self.unet, FineUNet) else None

    def denoise(self, z: Tensor, t: Tensor, exemplars: Tensor | None = None) -> Tensor:
        """The denoiser: estimate of ``z0`` from ``z_t`` at times ``t``, shape ``N``; of patches
        like exemplars, descriptors ``N x D``, where they are given.
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
        given = () if exemplars is None else (exemplars,)
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


def _files_of_bundle(bundle_dir: str | os.PathLike[str], *names: str) -> list[Path]:
    for name in names:
        if not (Path(bundle_dir) / name).is_file():
            raise FileNotFoundError(f"a bundle must hold '{name}', got none in '{bundle_dir}'")
    return [Path(bundle_dir) / name for name in names]


def load_autoencoder(model: LatentDiffusion, path: str | os.PathLike[str]) -> LatentDiffusion:
    """Load the autoencoder alone from a latent diffusion model's ``state_dict`` file, and return
    the model.

    UNet, latent statistics, schedule and prediction stay those of ``model``: what a training of
    the UNet starts from. A :class:`~monai_histodiff.FineUNet` is shown the autoencoder's
    components.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable ``state_dict``, or its autoencoder is another.
    """
    prefix = "autoencoder."
    state = {
        k.removeprefix(prefix): v for k, v in read_state(path).items() if k.startswith(prefix)
    }
    load_fitting(model.autoencoder, state, path)
    if isinstance(model.unet, FineUNet):
        model.unet.see(model.autoencoder)
    return model


def same_latents(model: LatentDiffusion, other: LatentDiffusion) -> bool:
    """Whether two models share all but the UNet and what it predicts."""

    def rest(m: LatentDiffusion) -> dict[str, Tensor]:
        own = m.state_dict().items()
        return {k: v for k, v in own if not k.startswith("unet.") and k != "prediction_code"}

    ours, theirs = rest(model), rest(other)
    same = ours.keys() == theirs.keys()
    same = same and all(torch.equal(ours[k], theirs[k].to(ours[k].device)) for k in ours)
    return same and model.latent_shape == other.latent_shape
