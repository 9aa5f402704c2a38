"""The patch autoencoder: cheap at 128 x 128, f = 8, with enough channels to keep nuclei.

MONAI's ``AutoencoderKL`` behind the same pixel-unshuffle stem, with 8 latent channels, reached 22.7 to 23.8 dB on held-out
groups in 1,500 steps of batch 16; ``docs/training.md`` has what this one reaches. Its shortcuts through pixel-unshuffle
(Chen et al. 2024, arXiv:2410.10733) let it start as a linear block transform and learn only what that misses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PatchAutoencoder"]


class PatchAutoencoder(nn.Module):
    """Convolutional autoencoder with a fixed latent noise, norm-free residual blocks and space-to-channel shortcuts.

    Args:
        channels: widths at the reductions ``stem``, ``2 * stem``, ...
        num_res_blocks: residual blocks of each level, in the encoder and in the decoder.
        latent_channels: channels of the latent.
        stem: pixel-unshuffle factor of the first layer. The total reduction is ``stem * 2 ** (len(channels) - 1)``.
        noise: standard deviation of the noise added to the latent in training, which the decoder learns to bear.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 192),
        num_res_blocks: Sequence[int] = (1, 2),
        latent_channels: int = 16,
        stem: int = 4,
        noise: float = 0.05,
    ) -> None:
        super().__init__()
        self.factor = stem * 2 ** (len(channels) - 1)
        self.latent_channels = latent_channels
        self.noise = noise
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        width = 3
        for i, (channel, blocks) in enumerate(zip(channels, num_res_blocks, strict=True)):
            ratio = stem if i == 0 else 2
            down += [_Resize(width, channel, ratio, down=True), *(_ResidualBlock(channel) for _ in range(blocks))]
            up = [*(_ResidualBlock(channel) for _ in range(blocks)), _Resize(channel, width, ratio, down=False), *up]
            width = channel
        self.encoder = nn.Sequential(*down, _Resize(width, latent_channels, 1, down=True))
        self.decoder = nn.Sequential(_Resize(latent_channels, width, 1, down=False), *up)

    def encode(self, x: Tensor) -> Tensor:
        """Patches in [0, 1], ``N x 3 x H x W``, to the raw (not whitened) latent.

        Raises:
            ValueError: the patches are not ``N x 3 x H x W`` with H and W divisible by the reduction factor.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(f"patches must be N x 3 x H x W with H and W divisible by {self.factor}, got {tuple(x.shape)}")
        return self.encoder(x * 2 - 1)

    def decode(self, raw: Tensor) -> Tensor:
        """Raw latent to patches, about [0, 1] and not clamped."""
        return self.decoder(raw) / 2 + 0.5

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction from the noisy latent, and the latent (for training)."""
        raw = self.encode(x)
        return self.decode(raw + self.noise * torch.randn_like(raw)), raw


class _ResidualBlock(nn.Module):
    """``x + conv(silu(conv(x)))``, the identity at the start; no normalisation, so that intensities pass (Lim et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class _Resize(nn.Module):
    """A convolution between space and channels, beside a shortcut that averages or repeats channels."""

    def __init__(self, channels_in: int, channels_out: int, ratio: int, down: bool) -> None:
        super().__init__()
        self.ratio, self.down = ratio, down
        if down:
            self.inner, self.outer = channels_in * ratio**2, channels_out
        else:
            self.inner, self.outer = channels_in, channels_out * ratio**2
        self.conv = nn.Conv2d(self.inner, self.outer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            x = F.pixel_unshuffle(x, self.ratio) if self.ratio > 1 else x
        out = self.conv(x)
        if self.outer % self.inner == 0:
            out = out + x.repeat_interleave(self.outer // self.inner, 1)
        elif self.inner % self.outer == 0:
            out = out + x.unflatten(1, (self.outer, self.inner // self.outer)).mean(2)
        return out if self.down or self.ratio == 1 else F.pixel_shuffle(out, self.ratio)
