"""The guide: a classifier of noisy latents.

Annotations are evaluated and messages are plain, so that ``torch.jit.script`` takes the network.
"""

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.weights import checked_device, load_fitting, read_state

__all__ = ["LatentClassifier"]


class LatentClassifier(nn.Module):
    """The guide: class logits of a noisy latent, for any spatial size (Dhariwal & Nichol 2021,
    arXiv:2105.05233).

    A residual convolutional network whose blocks are scaled and shifted by an embedding of the
    time.

    Args:
        in_channels: channels of the latent.
        num_classes: number of classes, at least 2.
        channels: widths of the levels; each level after the first halves the size.
        dropout: dropout before the last layer.
    """

    frequencies: Tensor

    @float32_default()
    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (64, 96, 128),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.register_buffer(
            "frequencies", torch.linspace(0, 6.2, 32, dtype=torch.float32).exp(), persistent=False
        )
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        widths = list(zip([channels[0], *channels[:-1]], channels, strict=True))
        self.blocks = nn.ModuleList(
            _TimeBlock(a, b, 128, down=i > 0) for i, (a, b) in enumerate(widths)
        )
        self.head = nn.Sequential(
            nn.GroupNorm(8, channels[-1]),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.logits = nn.Linear(channels[-1], num_classes)

    @classmethod
    def for_model(cls, model: LatentDiffusion, num_classes: int) -> "LatentClassifier":
        """A guide to be trained for a model: of its latents, where it is."""
        return cls(model.latent_shape[0], num_classes).to(model.latent_mean.device)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> "LatentClassifier":
        """A guide of the default widths with its weights, which tell the latents that it reads and
        the number of its classes; in evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, or holds another network; or there is no such device.
        """
        state = read_state(path)
        stem, logits = state.get("stem.weight"), state.get("logits.weight")
        if stem is None or logits is None:
            keys = ", ".join(sorted(map(str, state))[:3])
            raise ValueError(f"weights must be those of a guide, got {keys} ... in '{path}'")
        guide = cls(stem.shape[1], len(logits))
        load_fitting(guide, state, path)
        return guide.to(checked_device(device)).eval()

    def forward(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits, shape ``N x num_classes``, of normalised latents ``z_t`` at times ``t`` in [0,
        1]; clean ones by default.

        Raises:
            ValueError: the latents have another number of channels.
        """
        if z.ndim != 4 or z.shape[1] != self.in_channels:
            raise ValueError(
                f"the guide reads latents N x {self.in_channels} x h x w, got {list(z.shape)}"
            )
        t = z.new_zeros(len(z), dtype=torch.float32) if t is None else t
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
