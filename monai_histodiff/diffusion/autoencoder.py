"""The patch autoencoder: linear on the way in, learned on the way out.

The encoder is fixed: the principal components of 8 x 8 blocks (the Karhunen-Loeve transform).
Their statistics are those of an
image: smooth, strong components first. The latent of a learned encoder can be as white as noise,
which a diffusion model is slow to learn (compare Skorokhodov et al. 2025, arXiv:2502.14831). The
decoder adds to the linear inverse what a convolutional network can tell of the rest. Measured
quality: ``docs/training.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_histodiff.data.pixels import to_unit
from monai_histodiff.utils.global_state import float32_default

__all__ = ["PatchAutoencoder"]


class PatchAutoencoder(nn.Module):
    """Principal components of blocks as encoder, and a convolutional decoder that restores what
    they leave out.

    Args:
        channels: widths of the decoder at the reductions ``stem``, ``2 * stem``, ...
        num_res_blocks: residual blocks of each level.
        latent_channels: number of principal components.
        stem: pixel-shuffle factor of the last layer. The total reduction is
            ``stem * 2 ** (len(channels) - 1)``.
        noise: the largest standard deviation of the noise added to the latent in training, which
            the decoder learns to bear.

    Raises:
        ValueError: there are more components than values in a block.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    @float32_default()
    def __init__(
        self,
        channels: Sequence[int] = (64, 192),
        num_res_blocks: Sequence[int] = (1, 2),
        latent_channels: int = 24,
        stem: int = 4,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.factor = stem * 2 ** (len(channels) - 1)
        self.latent_channels = latent_channels
        self.noise = noise
        if not 1 <= latent_channels <= 3 * self.factor**2:
            raise ValueError(
                f"latent_channels must lie from 1 to {3 * self.factor**2}, the values of a block, "
                f"got {latent_channels}"
            )
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5, dtype=torch.float32))
        basis = torch.empty(latent_channels, 3, self.factor, self.factor, dtype=torch.float32)
        self.register_buffer("basis", nn.init.orthogonal_(basis))
        self.register_buffer("scale", torch.ones(latent_channels, 1, 1, dtype=torch.float32))
        up: list[nn.Module] = []
        width = 3
        for i, (channel, blocks) in enumerate(zip(channels, num_res_blocks, strict=True)):
            up = [
                *(_PatchResidual(channel) for _ in range(blocks)),
                _Upsample(channel, width, stem if i == 0 else 2),
                *up,
            ]
            width = channel
        self.decoder = nn.Sequential(nn.Conv2d(latent_channels, width, 3, padding=1), *up)
        for parameter in up[-1].parameters():  # a fresh decoder is the linear inverse
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit(self, patches: Tensor) -> PatchAutoencoder:
        """Set the components from patches, and return the autoencoder.

        Each component is divided by the square root of its standard deviation. This is half a
        whitening: components stay in the order of their strength, so that a diffusion model makes
        colour and layout before detail, and detail still counts.

        Args:
            patches: uint8 or floating-point patches in [0, 1], ``N x 3 x H x W``.

        Raises:
            ValueError: there are fewer blocks than components, or components without variance;
                or the patches are of another shape, or of a side that the reduction does not
                divide.
        """
        x = to_unit(patches.cpu()).float()  # float64 is not everywhere
        mean = x.mean((0, 2, 3)).view(3, 1, 1)
        blocks = (
            F.pixel_unshuffle(self._checked(x) - mean, self.factor)
            .permute(0, 2, 3, 1)
            .flatten(0, 2)
            .double()
        )
        variance, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
        std = variance.flip(0)[: self.latent_channels].clamp(min=0).sqrt()
        if len(blocks) < self.latent_channels or float(std[-1]) < 1e-6:
            raise ValueError(
                f"{self.latent_channels} components need as many blocks that differ, "
                f"got {len(blocks)}"
            )
        self.mean.copy_(mean)
        self.basis.copy_(
            vectors.flip(1).T[: self.latent_channels].unflatten(1, (3, self.factor, self.factor))
        )
        self.scale.copy_((std * std.mean()).sqrt().view(-1, 1, 1))
        return self

    def _checked(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise ValueError(
                f"patches must be floating point in [0, 1], got {x.dtype}: scale them, or give "
                "them to LatentDiffusion.encode"
            )
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"patches must be N x 3 x H x W with H and W divisible by {self.factor}, "
                f"got {tuple(x.shape)}"
            )
        return x

    def encode(self, x: Tensor) -> Tensor:
        """Patches in [0, 1], ``N x 3 x H x W``, to the raw latent, of zero mean and unit mean
        variance.

        Raises:
            ValueError: the patches are not floating point, or not ``N x 3 x H x W`` with H and W
                divisible by the reduction factor.
        """
        return F.conv2d(self._checked(x) - self.mean, self.basis, stride=self.factor) / self.scale

    def decode(self, raw: Tensor) -> Tensor:
        """Raw latent to patches, about [0, 1] and not clamped."""
        return (
            F.conv_transpose2d(raw * self.scale, self.basis, stride=self.factor)
            + self.mean
            + self.decoder(raw)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction from the latent with noise of any strength up to ``noise`` (for
        training).
        """
        raw = self.encode(x)
        strength = self.noise * torch.rand_like(raw[:, :1, :1, :1])
        return self.decode(raw + strength * torch.randn_like(raw))


class _PatchResidual(nn.Module):
    """``x + conv(silu(conv(x)))``, the identity at the start; no normalisation, so that
    intensities pass (Lim et al. 2017).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class _Upsample(nn.Module):
    """A convolution and a pixel-shuffle."""

    def __init__(self, channels_in: int, channels_out: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = nn.Conv2d(channels_in, channels_out * ratio**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), self.ratio)
