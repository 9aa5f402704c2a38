"""Image classifiers: the backbone of every arm and every critic, fitted by a stock
``SupervisedTrainer``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.data import DataLoader
from monai.engines import SupervisedTrainer, default_prepare_batch
from monai.handlers import LrScheduleHandler
from monai.networks.nets import ResNet
from monai.transforms import Compose
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import RandomSampler

from monai_histodiff.classifiers.first_batch import CheckedFirst, LabelledItems
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.training.monitoring import FiniteLoss
from monai_histodiff.training.steps import AutocastInferer, warmup_cosine
from monai_histodiff.utils.bfloat16 import check_bfloat16, chosen_bfloat16
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.global_state import float32_default, kept_random_state
from monai_histodiff.utils.modes import evaluating

__all__ = ["ClassifierTraining", "PatchClassifier", "mix_batch", "predict"]


class PatchClassifier(nn.Module):
    """MONAI's ``ResNet`` for RGB patches in [0, 1], shape ``N x 3 x H x W``, to logits
    ``N x num_classes``.

    Args:
        num_classes: number of classes.
        width: channels of the first level; doubled at each of the four levels.
        blocks: basic residual blocks of each level.
    """

    @float32_default()
    def __init__(
        self, num_classes: int, width: int = 32, blocks: Sequence[int] = (1, 1, 1, 1)
    ) -> None:
        super().__init__()
        planes = [width * 2**i for i in range(4)]
        options = {
            "spatial_dims": 2,
            "n_input_channels": 3,
            "conv1_t_stride": 2,
            "num_classes": num_classes,
        }
        self.resnet = ResNet("basic", list(blocks), planes, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet(x * 4 - 2)


def mix_batch(
    images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv:1710.09412) or, as often, CutMix (arXiv:1905.04899) of a batch with a
    permutation of itself.

    MONAI's ``MixUp`` and ``CutMix`` mix pictures with pictures; class targets, which they do not
    take, follow the area here.

    Args:
        images: ``N x 3 x H x W``.
        targets: class probabilities ``N x K``.
        alpha: the share of the first of each pair is drawn from Beta(alpha, alpha), once for the
            batch.
        rng: of the draws.

    Returns:
        Mixed images and their targets.

    Raises:
        ValueError: ``alpha`` is not above 0.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    share, order = (
        float(rng.beta(alpha, alpha)),
        torch.from_numpy(rng.permutation(len(images))).to(images.device),
    )
    if rng.random() < 0.5:
        mixed = share * images + (1 - share) * images[order]
    else:
        h, w = images.shape[2:]
        high, wide = (round(side * (1 - share) ** 0.5) for side in (h, w))
        top, left = int(rng.integers(h - high + 1)), int(rng.integers(w - wide + 1))
        mixed, share = images.clone(), 1 - high * wide / (h * w)
        mixed[..., top : top + high, left : left + wide] = images[order][
            ..., top : top + high, left : left + wide
        ]
    return mixed, share * targets + (1 - share) * targets[order]


class _MixPrepareBatch:
    """``prepare_batch`` that mixes each batch, by :func:`mix_batch`."""

    def __init__(self, num_classes: int, alpha: float, seed: int) -> None:
        self.num_classes, self.alpha, self.rng = num_classes, alpha, np.random.default_rng(seed)

    def __call__(
        self, batchdata: Any, device: Any = None, non_blocking: bool = False, **options: Any
    ) -> tuple[Tensor, Tensor]:
        image, label = default_prepare_batch(batchdata, device, non_blocking, **options)
        return mix_batch(
            image, functional.one_hot(label, self.num_classes).float(), self.alpha, self.rng
        )


@dataclass(frozen=True)
class ClassifierTraining:
    """A recipe that fits a classifier: the same number of optimiser steps whatever the data.

    Attributes:
        network: makes a fresh network from ``num_classes=``.
        steps: optimiser steps.
        batch_size: patches a step, drawn with replacement.
        learning_rate: peak of a warm-up and cosine schedule, AdamW.
        weight_decay: of AdamW.
        label_smoothing: of the cross-entropy.
        mixing: the parameter of :func:`mix_batch`; 0 mixes nothing.
        device: where to train.
        num_workers: worker processes that load.
        bfloat16: compute under bfloat16 autocast, else in float32, see
            :class:`~monai_histodiff.training.AutocastInferer`; ``None``, until it is made: on a
            GPU that computes in it.

    Raises:
        ValueError: a number is out of range.
    """

    network: Callable[..., nn.Module] = PatchClassifier
    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    mixing: float = 0.0
    device: str | torch.device = "cpu"
    num_workers: int = 0
    bfloat16: bool | None = False

    def __post_init__(self) -> None:
        check_from(1, steps=self.steps, batch_size=self.batch_size)
        most = {"learning_rate": np.inf, "weight_decay": np.inf, "mixing": np.inf}
        for name, limit in {**most, "label_smoothing": 1.0}.items():
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and np.isfinite(value)
            if not number or not 0 <= value <= limit:
                rule = "finite" if limit == np.inf else "1 at the most"
                raise ValueError(f"{name} must be at least 0 and {rule}, got {value!r}")
        check_bfloat16(self.bfloat16)
        if self.bfloat16 is None:
            object.__setattr__(self, "bfloat16", chosen_bfloat16(self.device, None))

    @kept_random_state()
    def __call__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        num_classes: int,
        seed: int,
        name: str = "fit",
    ) -> nn.Module:
        """Fit a fresh classifier. The caller's random state is left as it was.

        Args:
            data: items with ``"image"`` and ``"label"``.
            transform: makes an item's image a floating-point patch in [0, 1]; its random state is
                set from ``seed``.
            num_classes: number of classes.
            seed: seed of initialisation, order and augmentation.
            name: shown by the progress bar.

        Returns:
            The network after the last step, in evaluation mode.

        Raises:
            RuntimeError: the loss became infinite or NaN.
            ValueError: there is no item, a label is not one of the classes, or the patches of the
                first batch are not in [0, 1].
        """
        if not len(data):
            raise ValueError("a classifier needs labelled patches, got none")
        set_determinism(seed)
        transform.set_random_state(seed)
        with float32_default():
            network = self.network(num_classes=num_classes)
        # convolutions are faster with the channels last, which torch's stubs do not know of
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, warmup_cosine(self.steps, min(20, self.steps // 5 + 1))
        )
        sampler = RandomSampler(
            range(len(data)), replacement=True, num_samples=self.steps * self.batch_size
        )
        prepare, loss = self._objective(network, num_classes, seed)
        trainer = SupervisedTrainer(
            device=torch.device(self.device),
            max_epochs=1,
            train_data_loader=DataLoader(
                LabelledItems(data, transform, num_classes),
                batch_size=self.batch_size,
                sampler=sampler,
                num_workers=self.num_workers,
            ),
            network=network,
            optimizer=optimizer,
            prepare_batch=CheckedFirst(prepare),
            loss_function=loss,
            train_handlers=[
                LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
                FiniteLoss(),
            ],
            inferer=AutocastInferer(self.bfloat16),
        )
        trainer.logger.setLevel(logging.WARNING)
        ProgressBar(desc=name).attach(trainer, event_name=Events.ITERATION_COMPLETED(every=5))
        trainer.run()
        return network.eval()

    def _objective(
        self, network: nn.Module, num_classes: int, seed: int
    ) -> tuple[Callable[..., Any], nn.Module]:
        """What a batch becomes, and its loss."""
        prepare = (
            _MixPrepareBatch(num_classes, self.mixing, seed)
            if self.mixing
            else default_prepare_batch
        )
        return prepare, nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Logits, float32 on the CPU, of patches ``N x 3 x H x W`` (uint8, or floating point in [0,
    1]), in evaluation mode. The network is left in the mode that it was in.
    """
    check_from(1, batch_size=batch_size)
    first = next(chain(network.parameters(), network.buffers()), images)
    device = first.device
    with evaluating(network):
        parts = [network(to_unit(p.to(device))).float().cpu() for p in images.split(batch_size)]
    return torch.cat(parts)
