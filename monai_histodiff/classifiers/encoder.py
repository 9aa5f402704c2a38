"""The patch encoder: self-supervised features of H&E patches, and what they give a classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets import ResNet
from torch import Tensor, nn

from monai_histodiff.classifiers.classifier import PatchClassifier
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.weights import checked_device, load_weights

__all__ = ["EncoderStart", "PatchEncoder", "bundle_features", "linear_probe"]

Features = Callable[[Tensor], Tensor]


class EncoderStart:
    """Makes classifiers whose backbone starts from the patch encoder of a bundle, and whose last
    layer is random.

    For :attr:`monai_histodiff.ClassifierTraining.network`, in place of ``PatchClassifier``, which
    starts from scratch.

    Args:
        ldm_dir: a bundle with ``models/encoder.pt``.

    Raises:
        FileNotFoundError: the bundle has none.
        ValueError: the weights do not fit.
    """

    backbone = "patch encoder"

    def __init__(self, ldm_dir: str | os.PathLike[str]) -> None:
        self.encoder = PatchEncoder.from_bundle(ldm_dir)

    def __call__(self, num_classes: int) -> PatchClassifier:
        network = PatchClassifier(num_classes)
        network.resnet.load_state_dict(
            {**network.resnet.state_dict(), **self.encoder.resnet.state_dict()}
        )
        return network


def bundle_features(
    ldm_dir: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> Features:
    """Features of the patch encoder of a bundle, or, where it has none, the pooled latents of its
    autoencoder.

    Args:
        ldm_dir: a bundle with ``models/encoder.pt``, or else ``models/model.pt``.
        device: where to compute.

    Returns:
        Patches ``N x 3 x H x W``, uint8 or in [0, 1], to float32 features ``N x D`` on the CPU.
        Pooled latents are the mean and the standard deviation of each channel over the patch.

    Raises:
        FileNotFoundError: the bundle has neither.
        ValueError: the weights do not fit.
    """
    if (Path(ldm_dir) / "models" / "encoder.pt").is_file():
        return PatchEncoder.from_bundle(ldm_dir, device).features
    model = LatentDiffusion.from_bundle(ldm_dir, device)

    @torch.no_grad()
    def pooled(patches: Tensor) -> Tensor:
        latents = (model.encode(to_unit(part.to(device))).flatten(2) for part in patches.split(64))
        return torch.cat([torch.cat([z.mean(2), z.std(2)], 1).float().cpu() for z in latents])

    return pooled


class PatchEncoder(nn.Module):
    """MONAI's ``ResNet`` without its last layer: RGB patches in [0, 1], ``N x 3 x H x W`` of any
    size, to features ``N x D``.

    With the default arguments it is the backbone of :class:`~monai_histodiff.PatchClassifier`,
    which can start from it.

    Args:
        width: channels of the first level; doubled at each of the four levels, so that
            ``D = 8 * width``.
        blocks: basic residual blocks of each level.
    """

    @float32_default()
    def __init__(self, width: int = 32, blocks: Sequence[int] = (1, 1, 1, 1)) -> None:
        super().__init__()
        self.num_features = 8 * width
        planes = [width * 2**i for i in range(4)]
        self.resnet = ResNet(
            "basic",
            list(blocks),
            planes,
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_stride=2,
            feed_forward=False,
        )

    @classmethod
    def from_bundle(
        cls, bundle_dir: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> PatchEncoder:
        """The encoder of a bundle, ``models/encoder.pt``, in evaluation mode.

        Raises:
            FileNotFoundError: the bundle has none.
            ValueError: the weights cannot be read or do not fit, or there is no such device.
        """
        return (
            load_weights(cls(), Path(bundle_dir) / "models" / "encoder.pt")
            .to(checked_device(device))
            .eval()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet(x * 4 - 2)

    @torch.no_grad()
    def features(self, patches: Tensor, batch_size: int = 64) -> Tensor:
        """Features of any number of patches, on the CPU, in evaluation mode.

        Args:
            patches: ``N x 3 x H x W``, uint8 or floating point in [0, 1], N at least 1.
            batch_size: patches encoded at once.

        Returns:
            float32 tensor ``N x D``.
        """
        device = next(self.parameters()).device
        training = self.training
        self.eval()
        parts = [
            self(to_unit(part.to(device))).float().cpu() for part in patches.split(batch_size)
        ]
        self.train(training)
        return torch.cat(parts)


def linear_probe(
    features: Tensor, labels: Tensor, penalty: float = 1e-2, steps: int = 200
) -> nn.Linear:
    """Multinomial logistic regression on standardised features: the minimum of mean cross-entropy
    + ``penalty / 2 |W|^2``.

    Args:
        features: ``N x D``.
        labels: class indices, shape ``N``; each class up to the largest must occur.
        penalty: on the weights for standardised features.
        steps: at most so many iterations of L-BFGS.

    Returns:
        The layer that takes features as they are to logits ``N x K``.

    Raises:
        ValueError: fewer than two classes, a class without features, or a negative label.
    """
    counts = torch.bincount(labels.clamp(min=0))
    if int(labels.min()) < 0 or len(counts) < 2 or int(counts.min()) == 0:
        raise ValueError(
            "labels must be 0 to K - 1 with K at least 2, each present, "
            f"got {sorted(set(labels.tolist()))}"
        )
    x, mean = features.double(), features.double().mean(0)
    std = x.std(0, correction=0).clamp(min=1e-6)
    x = (x - mean) / std
    weight = torch.zeros(len(counts), x.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(len(counts), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(F.linear(x, weight, bias), labels)
            + penalty / 2 * weight.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    layer = nn.Linear(x.shape[1], len(counts)).requires_grad_(False)
    layer.weight.copy_(weight.detach() / std)
    layer.bias.copy_(bias.detach() - (weight.detach() / std) @ mean)
    return layer
