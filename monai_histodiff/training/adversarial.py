"""What sharpens a decoder: a loss that asks for the texture of real patches, and its opponent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor, distributed, nn

from monai_histodiff.training.steps import AutoencoderLoss, bfloat16_autocast, steps_now
from monai_histodiff.utils.bfloat16 import check_bfloat16
from monai_histodiff.utils.processes import is_distributed

__all__ = ["DecoderLoss", "DiscriminatorStep"]

Maps = Callable[[Tensor], list[Tensor]]


class DecoderLoss(AutoencoderLoss):
    """The loss of pixels and edges, with the distance of an encoder's maps and the non-saturating
    adversarial loss (Goodfellow et al. 2014; of patches, as Isola et al. 2017).

    The loss of pixels alone asks for the mean of all that a latent may have been, which is
    smooth; the two terms ask for one that looks real (Rombach et al. 2022, section 3.1).

    Args:
        discriminator: such as MONAI's ``PatchDiscriminator``: patches in [-1, 1] to a list of
            maps, the last of which are the logits of "real". :class:`DiscriminatorStep` trains
            it.
        maps: such as :meth:`monai_histodiff.PatchEncoder.maps`.
        feature_weight: weight of the L1 distances of the maps, each in units of the standard
            deviation of the real patches' map.
        adversarial_weight: weight of the adversarial loss.
        gradient_weight: as for :class:`AutoencoderLoss`.
        bfloat16: compute maps and logits under bfloat16 autocast; ``None``: on a GPU that computes
            in it.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        maps: Maps,
        feature_weight: float = 0.1,
        adversarial_weight: float = 0.02,
        gradient_weight: float = 1.0,
        bfloat16: bool | None = False,
    ) -> None:
        check_bfloat16(bfloat16)
        super().__init__(gradient_weight)
        self.discriminator, self.maps = discriminator, maps
        self.feature_weight, self.adversarial_weight = feature_weight, adversarial_weight
        self.enabled = bfloat16

    def logits(self, patches: Tensor) -> Tensor:
        """Of "real", for patches in [0, 1], ``N x 3 x H x W``."""
        with bfloat16_autocast(patches, self.enabled):
            return self.discriminator(patches * 2 - 1)[-1].float()

    def _distance(self, output: Tensor, image: Tensor) -> Tensor:
        with bfloat16_autocast(image, self.enabled):
            made = self.maps(output)
            with torch.no_grad():
                real = self.maps(image)
        pairs = [(a.float(), b.float()) for a, b in zip(made, real, strict=True)]
        return torch.stack([F.l1_loss(a, b) / b.std() for a, b in pairs]).sum()

    def forward(self, output: Tensor, image: Tensor) -> Tensor:
        """The loss of reconstructions against patches in [0, 1], ``N x 3 x H x W``."""
        out = output.float()
        loss = super().forward(out, image)
        trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        try:
            self.discriminator.requires_grad_(False)
            opposed = F.softplus(-self.logits(out)).mean()
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        distance = self._distance(out, image)
        return loss + self.feature_weight * distance + self.adversarial_weight * opposed


class DiscriminatorStep:
    """Ignite handler that trains the discriminator of a :class:`DecoderLoss` on the patches and
    the reconstructions of every iteration in which the trainer's optimiser steps.

    In a distributed training its gradients are averaged over the processes.

    Args:
        loss: its discriminator is trained.
        optimizer: of the discriminator's parameters.
    """

    def __init__(self, loss: DecoderLoss, optimizer: torch.optim.Optimizer) -> None:
        self.loss, self.optimizer = loss, optimizer

    def attach(self, engine: Engine) -> None:
        """Step in every iteration, after the trained network."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Step once, and leave the loss in ``engine.state.output["discriminator_loss"]``.

        Raises:
            RuntimeError: the loss is not finite; nothing has been changed then.
        """
        if not steps_now(engine):
            return
        output: Any = engine.state.output
        item = output[0] if isinstance(output, list) else output
        real = self.loss.logits(_batch(output, CommonKeys.IMAGE))
        made = self.loss.logits(_batch(output, CommonKeys.PRED).detach().float())
        loss = F.softplus(-real).mean() + F.softplus(made).mean()
        if not bool(loss.isfinite()):
            raise RuntimeError(
                f"the discriminator's loss must be finite, got {loss.item()} at iteration "
                f"{engine.state.iteration}: lower discriminator_learning_rate"
            )
        self.optimizer.zero_grad()
        loss.backward()
        if is_distributed():
            gradients = [
                p.grad for p in self.loss.discriminator.parameters() if p.grad is not None
            ]
            for gradient in gradients:
                distributed.all_reduce(gradient)
                gradient /= distributed.get_world_size()
        self.optimizer.step()
        item["discriminator_loss"] = loss.item()


def _batch(output: Any, key: str) -> Tensor:
    """A trainer's batch, which MONAI's ``decollate`` may have taken apart."""
    if isinstance(output, list):
        return torch.stack([item[key] for item in output])
    return torch.as_tensor(output[key])
