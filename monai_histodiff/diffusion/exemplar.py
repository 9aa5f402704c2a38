"""What tells the denoiser which patch to draw: the embedding of an exemplar."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_histodiff.utils.global_state import float32_default

__all__ = ["ExemplarEmbedding"]


class ExemplarEmbedding(nn.Module):
    """Descriptors of patches to embeddings for the denoiser, or the learned null, which stands for
    no exemplar (classifier-free guidance: Ho & Salimans 2022, arXiv:2207.12598).

    In training mode an exemplar gives way to the null with probability ``dropout``, and the others
    carry noise, so that a descriptor cannot be the fingerprint of one patch. A fresh one embeds
    everything as zero, which a denoiser trained without exemplars does not notice.

    Args:
        descriptors: ``D``, the length of a descriptor, see
            :meth:`monai_histodiff.PatchEncoder.descriptors`.
        features: length of an embedding.
        dropout: probability of the null in training, in [0, 1).
        noise: in training, largest standard deviation of the noise, in standard deviations of the
            descriptors; it is uniform between 0 and that from patch to patch.

    Raises:
        ValueError: a number is out of range.
    """

    mean: Tensor
    std: Tensor

    @float32_default()
    def __init__(
        self, descriptors: int, features: int = 512, dropout: float = 0.15, noise: float = 0.5
    ) -> None:
        super().__init__()
        if descriptors < 1 or features < 1:
            got = f"{descriptors} and {features}"
            raise ValueError(f"descriptors and features must be at least 1, got {got}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise must be at least 0 and finite, got {noise}")
        self.dropout, self.noise, self.features = dropout, noise, features
        self.register_buffer("mean", torch.zeros(descriptors, dtype=torch.float32))
        self.register_buffer("std", torch.ones(descriptors, dtype=torch.float32))
        self.hidden = nn.Linear(descriptors, features)
        self.out = nn.Linear(features, features)
        self.null = nn.Parameter(torch.zeros(features, dtype=torch.float32))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def fit(self, descriptors: Tensor) -> None:
        """Take mean and standard deviation of descriptors ``N x D`` as those of the patches.

        Raises:
            ValueError: they are fewer than 2, of another length, or not finite.
        """
        if descriptors.ndim != 2 or len(descriptors) < 2:
            got = tuple(descriptors.shape)
            raise ValueError(f"statistics need at least 2 descriptors N x D, got {got}")
        x = self.checked(descriptors).double()
        self.mean.copy_(x.mean(0))
        self.std.copy_(x.std(0).clamp(min=1e-4))

    def checked(self, descriptors: Tensor) -> Tensor:
        """The descriptors.

        Raises:
            ValueError: they are not ``N x D``, or not finite.
        """
        known = isinstance(descriptors, Tensor) and descriptors.ndim == 2
        if not known or descriptors.shape[1] != len(self.mean):
            rule = f"exemplars must be descriptors, a tensor N x {len(self.mean)}"
            got = f"{type(descriptors).__name__} {tuple(getattr(descriptors, 'shape', ()))}"
            raise ValueError(f"{rule}, got {got}: PatchEncoder.descriptors(patches) gives them")
        if not bool(descriptors.isfinite().all()):
            row = int((~descriptors.isfinite()).any(1).nonzero()[0])
            raise ValueError(f"descriptors of exemplars must be finite, got others in row {row}")
        return descriptors

    def perturbed(
        self, descriptors: Tensor, noise: float, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Descriptors ``N x D`` with noise of ``noise`` standard deviations, one generator each;
        where ``noise`` is 0, they are as they were, and nothing is drawn.
        """
        if not noise:
            return descriptors
        drawn = [
            torch.randn(len(self.mean), generator=generator, dtype=torch.float32, device="cpu")
            for generator in generators
        ]
        return descriptors + noise * self.std.to(descriptors.device) * torch.stack(drawn).to(
            descriptors.device
        )

    def forward(self, descriptors: Tensor | None, count: int) -> Tensor:
        """Embeddings ``count x features`` of descriptors ``count x D``, or as many times the null
        for ``None``.
        """
        if descriptors is None:
            return self.null.expand(count, -1)
        x = (descriptors.float() - self.mean) / self.std
        if self.training and self.noise:
            spread = self.noise * torch.rand(count, 1, dtype=torch.float32, device=x.device)
            x = x + spread * torch.randn_like(x)
        embedding = self.out(F.silu(self.hidden(x)))
        if self.training and self.dropout:
            drawn = torch.rand(count, 1, dtype=torch.float32, device=x.device)
            embedding = torch.where(drawn < self.dropout, self.null.to(embedding.dtype), embedding)
        return embedding
