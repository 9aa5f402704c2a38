"""A UNet of latents that also looks at their blocks on a finer grid.

One place of a latent is a block of 8 x 8 pixels, about as large as a nucleus, so that a network on
the grid of the latent must learn an outline anew for each of its places in the block. On a finer
grid a convolution learns it once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

from monai_histodiff.diffusion.autoencoder import PatchAutoencoder
from monai_histodiff.diffusion.exemplar import ExemplarEmbedding
from monai_histodiff.utils.global_state import float32_default

__all__ = ["FineUNet"]

EMBEDDING, GROUPS = 128, 8


class FineUNet(nn.Module):
    """A MONAI ``DiffusionModelUNet``, and residual blocks that correct what it predicts on a finer
    grid.

    The noisy latent and the prediction are turned into the pixels of their blocks (a 1 x 1
    convolution), corrected on a grid of ``factor`` x ``factor`` places for each block, and turned
    back. A fresh one predicts what its UNet does.

    Args:
        unet: ``(latent, timesteps in [0, 1000]) -> prediction`` of the shape of the latent.
        block: height and width of the pixels that one place of the latent stands for.
        factor: places of the finer grid for each of the latent, in height and in width; divides
            ``block``.
        channels: width of the residual blocks, a multiple of 8.
        num_res_blocks: number of residual blocks.
        exemplar: embeds the exemplars of conditional denoising, to the length of the UNet's own
            embedding of time (four times its first width); ``None``: it takes none.

    Raises:
        ValueError: a number is out of range, ``factor`` does not divide ``block``, or the
            embedding has another length.
    """

    @float32_default()
    def __init__(
        self,
        unet: DiffusionModelUNet,
        block: int = 8,
        factor: int = 4,
        channels: int = 32,
        num_res_blocks: int = 4,
        exemplar: ExemplarEmbedding | None = None,
    ) -> None:
        super().__init__()
        if factor < 1 or block % factor:
            raise ValueError(
                f"factor must be a divisor of the block of {block} pixels, got {factor}"
            )
        if channels < GROUPS or channels % GROUPS:
            raise ValueError(f"channels must be a multiple of {GROUPS}, got {channels}")
        if num_res_blocks < 1:
            raise ValueError(f"num_res_blocks must be at least 1, got {num_res_blocks}")
        self.unet, self.block, self.factor, self.exemplar = unet, block, factor, exemplar
        pixels, latent = 3 * block**2, unet.in_channels
        self.to_pixels = nn.Conv2d(latent, pixels, 1, bias=False)
        self.to_latent = nn.Conv2d(pixels, unet.out_channels, 1, bias=False)
        self.embed = nn.Sequential(
            nn.Linear(EMBEDDING // 2, EMBEDDING),
            nn.SiLU(),
            nn.Linear(EMBEDDING, EMBEDDING),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(2 * pixels // factor**2, channels, 1)
        self.blocks = nn.ModuleList(_FineBlock(channels) for _ in range(num_res_blocks))
        self.head = nn.Conv2d(channels, pixels // factor**2, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        nn.init.orthogonal_(self.to_pixels.weight)
        if exemplar is not None:
            self._condition(exemplar)
        self._set_scale()

    def _condition(self, exemplar: ExemplarEmbedding) -> None:
        """Let the UNet add embeddings to that of time, by the door that MONAI has for classes."""
        length = self.unet.time_embed[-1].out_features
        if exemplar.features != length:
            rule = f"the embedding of exemplars must have length {length}"
            raise ValueError(f"{rule}, as the UNet's of time, got {exemplar.features}")
        self.unet.num_class_embeds, self.unet.class_embedding = 1, nn.Identity()
        self.fine_exemplar = nn.Linear(length, EMBEDDING, bias=False)
        nn.init.zeros_(self.fine_exemplar.weight)

    def _set_scale(self) -> None:
        """Pixels of unit variance from latents of unit variance, and back by the
        pseudo-inverse.
        """
        with torch.no_grad():
            there = self.to_pixels.weight.flatten(1)
            there *= len(there) ** 0.5 / there.norm()
            self.to_latent.weight.copy_(torch.linalg.pinv(there)[:, :, None, None])

    def see(self, autoencoder: PatchAutoencoder) -> None:
        """Let the finer grid be that of the patches: start from the components by which the
        autoencoder describes a block.

        Raises:
            ValueError: its latent or its blocks are of another size.
        """
        if (
            autoencoder.basis.shape[0] != self.to_pixels.in_channels
            or autoencoder.factor != self.block
        ):
            ours, theirs = (
                (self.to_pixels.in_channels, self.block),
                (autoencoder.basis.shape[0], autoencoder.factor),
            )
            raise ValueError(
                f"autoencoder and UNet must share channels and block, got {theirs} and {ours}"
            )
        cells = F.pixel_unshuffle(
            autoencoder.basis * autoencoder.scale[..., None], self.block // self.factor
        )
        with torch.no_grad():
            self.to_pixels.weight.copy_(cells.flatten(1).T[..., None, None])
        self._set_scale()

    def forward(self, x: Tensor, timesteps: Tensor, exemplars: Tensor | None = None) -> Tensor:
        """What the UNet predicts, corrected; of the shape of ``x``, ``N x C x h x w``, at
        timesteps in [0, 1000], shape ``N``, for exemplars of descriptors ``N x D``, or none.
        """
        time = self.embed(get_timestep_embedding(timesteps, EMBEDDING // 2).to(x.dtype))
        if self.exemplar is None:
            coarse = self.unet(x, timesteps)
        else:
            embedding = self.exemplar(exemplars, len(x))
            coarse = self.unet(x, timesteps, class_labels=embedding)
            time = time + self.fine_exemplar(F.silu(embedding))
        h = self.stem(
            torch.cat([F.pixel_shuffle(self.to_pixels(v), self.factor) for v in (x, coarse)], 1)
        )
        for block in self.blocks:
            h = block(h, time)
        return coarse + self.to_latent(F.pixel_unshuffle(self.head(h), self.factor))


class _FineBlock(nn.Module):
    """Two convolutions, scaled and shifted by the time between them; the identity at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(EMBEDDING, 2 * channels)
        for parameter in (*self.conv2.parameters(), *self.modulate.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulate(time)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))
