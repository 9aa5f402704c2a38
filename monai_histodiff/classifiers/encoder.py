"""The patch encoder: self-supervised features of H&E patches, and what they give a classifier."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets.resnet import ResNetBlock
from torch import Tensor, nn

from monai_histodiff.classifiers.first_batch import check_rows
from monai_histodiff.data.pixels import appearance, centre_crop, check_batch, to_unit
from monai_histodiff.utils.bfloat16 import check_float32
from monai_histodiff.utils.counts import check_flags, check_from
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.modes import evaluating
from monai_histodiff.utils.progress import patient
from monai_histodiff.utils.weights import checked_device, load_weights

__all__ = ["PatchEncoder", "in_evaluation", "linear_probe"]


class PatchEncoder(nn.Module):
    """RGB patches in [0, 1], ``N x 3 x H x W`` of any size from 16 x 16, to features ``N x D``.

    A residual network of five levels, at 1/2, 1/4 ... 1/32 of the resolution; each level after the
    second is one of MONAI's ``ResNetBlock``. The mean and the standard deviation of every channel
    of the finer levels, of the patch and of the patch at half its magnification, are its
    statistics: they say what the tissue is made of, wherever it lies in the patch. A last, linear
    layer turns them into features: the discriminant of :func:`~monai_histodiff.classifiers.
    fit_discriminant`, in which the directions that tell patches apart have unit spread between
    views of one patch.

    Args:
        widths: channels of the levels.
        features: ``D``, the number of features.
        described: so many levels, from the finest, give the statistics.

    Raises:
        ValueError: there are fewer than two levels, or ``described`` does not lie between 1 and
            their number.
    """

    @float32_default()
    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 192, 256),
        features: int = 512,
        described: int = 4,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or not 1 <= described <= len(widths):
            raise ValueError(
                "an encoder must have at least 2 levels and describe 1 or more of them, "
                f"got widths {tuple(widths)} and described {described}"
            )
        self.num_features, self.described = features, described
        self.num_summary = 2 * widths[-1]
        second = nn.Sequential(_convolution(widths[0], widths[1], 3), _block(widths[1], widths[1]))
        self.levels = nn.ModuleList([_convolution(3, widths[0], 5), second])
        self.levels.extend(_block(a, b) for a, b in pairwise(widths[1:]))
        self.discriminant = nn.Linear(4 * sum(widths[:described]), features).requires_grad_(False)

    @classmethod
    def from_bundle(
        cls, bundle_dir: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> PatchEncoder:
        """The encoder of a bundle, ``models/encoder.pt``, in evaluation mode.

        Raises:
            FileNotFoundError: the bundle has none.
            ValueError: the weights cannot be read or do not fit, or there is no such device.
        """
        found = load_weights(cls(), Path(bundle_dir) / "models" / "encoder.pt")
        return found.to(checked_device(device)).eval()

    def with_discriminant(self, layer: nn.Linear) -> PatchEncoder:
        """An encoder that shares this one's levels, with another last layer, from statistics to
        features, which is made float32 and not trained.
        """
        made = copy.copy(self)
        own = copy.deepcopy(layer).float().requires_grad_(False)
        made._modules = {**self._modules, "discriminant": own}
        made.num_features = layer.out_features
        return made

    def digest(self) -> str:
        """A hash of the levels, to the precision of a file of weights (float16)."""
        found = hashlib.sha256()
        for name, value in self.levels.state_dict().items():
            if value.is_floating_point():
                found.update(name.encode() + value.half().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def maps(self, x: Tensor, depth: int = 3) -> list[Tensor]:
        """What the first ``depth`` levels see: maps ``N x C x H / 2 ** l x W / 2 ** l`` of level
        l, such as a perceptual loss compares.
        """
        x, found = (x * 4 - 2.5).contiguous(memory_format=torch.channels_last), []
        for level in self.levels[:depth]:
            x = level(x)
            found.append(x)
        return found

    def _moments(self, x: Tensor, depth: int) -> list[Tensor]:
        """Mean and deviation, ``N x 2C``, of each of the first ``depth`` levels."""
        flat = [level.float().flatten(2) for level in self.maps(x, depth)]
        spread = [(level.var(2, correction=0) + 1e-4).sqrt() for level in flat]
        return [torch.cat([a.mean(2), b], 1) for a, b in zip(flat, spread, strict=True)]

    def summary(self, x: Tensor) -> Tensor:
        """Mean and deviation of the last level, ``N x 2C``: what a self-supervised loss sees."""
        return self._moments(x, len(self.levels))[-1]

    def statistics(self, x: Tensor) -> Tensor:
        """What the features are made of: means and deviations, at the patch's magnification and at
        half of it.

        Raises:
            ValueError: the patches are smaller than 16 x 16.
        """
        if min(x.shape[-2:]) < 16:
            raise ValueError(f"patches must be at least 16 x 16, got {tuple(x.shape[-2:])}")
        whole = self._moments(x, self.described)
        return torch.cat(whole + self._moments(F.avg_pool2d(x, 2), self.described), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.discriminant(self.statistics(x))

    @torch.no_grad()
    def descriptors(self, patches: Tensor, batch_size: int = 64) -> Tensor:
        """What tells a generator of exemplars which patch to draw: the features, and colour,
        contrast and sharpness, of the middle of each patch, whose sides are multiples of 32.

        Args:
            patches: as for :meth:`features`, at least 32 x 32.
            batch_size: patches encoded at once.

        Returns:
            float32 tensor ``N x (D + 11)``, see :func:`monai_histodiff.data.pixels.appearance`.

        Raises:
            ValueError: the patches are smaller than 32 x 32; see also :meth:`features`.
        """
        check_batch(patches)
        h, w = (side // 32 * 32 for side in patches.shape[-2:])
        if min(h, w) < 32:
            got = tuple(patches.shape[-2:])
            raise ValueError(f"an exemplar must be at least 32 x 32 pixels, got {got}")
        middle = centre_crop(patches.as_subclass(Tensor), (h, w))
        parts = [appearance(part).float().cpu() for part in middle.split(batch_size)]
        return torch.cat([self.features(middle, batch_size), torch.cat(parts)], 1)

    def features(self, patches: Tensor, batch_size: int = 64) -> Tensor:
        """Features of any number of patches, on the CPU, in evaluation mode.

        Args:
            patches: ``N x 3 x H x W``, uint8 or floating point in [0, 1], N at least 1.
            batch_size: patches encoded at once.

        Returns:
            float32 tensor ``N x D``.

        Raises:
            ValueError: they are no such tensor, or of another range.
        """
        return in_evaluation(self, patches, batch_size, self.discriminant.weight)


@torch.no_grad()
def in_evaluation(encoder: nn.Module, patches: Tensor, batch_size: int, weight: Tensor) -> Tensor:
    """What an encoder gives patches, uint8 or in [0, 1], in evaluation mode: batches where its
    ``weight`` is, float32 features on the CPU. It is left in the mode that it was in.

    Raises:
        ValueError: the patches are no such tensor, the batch size is not positive, or the encoder
            is not float32.
    """
    check_batch(patches)
    check_float32("an encoder", weight.dtype)
    check_from(1, batch_size=batch_size)
    parts = patches.as_subclass(Tensor).split(batch_size)
    batches = patient(parts, "features", unit="batch")
    with evaluating(encoder):
        return torch.cat(
            [encoder(to_unit(part.to(weight.device))).float().cpu() for part in batches]
        )


def _convolution(channels: int, out: int, kernel: int) -> nn.Sequential:
    """Convolution that halves the resolution, batch normalisation, ReLU."""
    layer = nn.Conv2d(channels, out, kernel, 2, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _block(channels: int, out: int) -> ResNetBlock:
    """A residual block that starts as its shortcut, and halves the resolution where the channels
    change.
    """
    if channels == out:
        block = ResNetBlock(channels, out, spatial_dims=2)
    else:
        short = nn.Sequential(nn.Conv2d(channels, out, 1, 2, bias=False), nn.BatchNorm2d(out))
        block = ResNetBlock(channels, out, spatial_dims=2, stride=2, downsample=short)
    nn.init.zeros_(block.bn2.weight)
    return block


def linear_probe(
    features: Tensor,
    labels: Tensor,
    penalty: float = 1e-2,
    steps: int = 200,
    scaling: str = "each",
    balanced: bool = False,
) -> nn.Linear:
    """Multinomial logistic regression on scaled features: the minimum of mean cross-entropy
    + ``penalty / 2 |W|^2``.

    Args:
        features: ``N x D``.
        labels: class indices, shape ``N``; each class up to the largest must occur.
        penalty: on the weights for scaled features.
        steps: at most so many iterations of L-BFGS.
        scaling: ``"each"`` feature by its own deviation, or all by their ``"common"`` one, the
            root of their mean variance. A :class:`PatchEncoder` 's features that tell much spread
            most: where labels are few they should keep that.
        balanced: each class counts the same in the mean, however many it has; else each row.

    Returns:
        The layer that takes features as they are to logits ``N x K``.

    Raises:
        ValueError: fewer than two classes, a class without features, a negative label, labels
            that are no whole numbers, features that are not finite or of another number, or
            another scaling, penalty or number of steps.
    """
    if scaling not in ("each", "common"):
        raise ValueError(f"scaling must be 'each' or 'common', got {scaling!r}")
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty must be at least 0 and finite, got {penalty}")
    check_from(1, steps=steps)
    check_flags(balanced=balanced)
    check_rows(features, labels)
    counts = torch.bincount(labels.clamp(min=0))
    if int(labels.min()) < 0 or len(counts) < 2 or int(counts.min()) == 0:
        raise ValueError(
            "labels must be 0 to K - 1 with K at least 2, each present, "
            f"got {sorted(set(labels.tolist()))}"
        )
    features, labels = features.cpu(), labels.cpu().long()
    x, mean = features.double(), features.double().mean(0)
    std = x.std(0, correction=0)
    if scaling == "common":
        std = std.square().mean().sqrt().expand_as(std)
    std = std.clamp(min=1e-6)
    x = (x - mean) / std
    share = 1 / counts.double() if balanced else None  # of each row of a class
    weight = torch.zeros(len(counts), x.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(len(counts), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(F.linear(x, weight, bias), labels, share)
            + penalty / 2 * weight.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    layer = nn.Linear(x.shape[1], len(counts), dtype=torch.float32).requires_grad_(False)
    layer.weight.copy_(weight.detach() / std)
    layer.bias.copy_(bias.detach() - (weight.detach() / std) @ mean)
    return layer
