"""The critic: independent, cross-fitted, temperature-scaled classifiers that judge candidates."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor, nn

from monai_histodiff.classifiers.classifier import ClassifierTraining, PatchClassifier, predict
from monai_histodiff.classifiers.crops import over_crops
from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.classifiers.encoder_names import named_encoder, stored_name
from monai_histodiff.classifiers.probe import ProbeTraining
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop, check_batch
from monai_histodiff.selection.calibration import (
    fit_temperature,
    precision_at,
    precision_threshold,
)
from monai_histodiff.selection.fitting import checked_origins
from monai_histodiff.selection.folds import group_folds
from monai_histodiff.utils.bfloat16 import check_float32
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.global_state import float32_default
from monai_histodiff.utils.weights import checked_device, load_fitting, read_state, save_weights

__all__ = ["PatchCritic", "fit_critic"]

Recipe = ClassifierTraining | ProbeTraining
SCRATCH = "members.0.resnet.conv1.weight"


class PatchCritic(nn.Module):
    """An ensemble of cross-fitted classifiers with one temperature and the threshold for a target
    precision.

    Args:
        members: the classifiers, patches in [0, 1] to logits.
        num_classes: number of classes.

    Attributes:
        precision: of the labels that it gives with at least the threshold, on held-out patches.
        folds: the fold of each patch that it was fitted on, int64: member ``k`` has not seen fold
            ``k``; ``None`` where it was not made by :func:`fit_critic`, or its file tells none.
        encoder: name of the ``timm:`` or ``hf-hub:`` encoder below, as bytes, or ``None``.
    """

    folds: Tensor | None
    encoder: Tensor | None
    temperature: Tensor
    threshold: Tensor
    precision: Tensor
    target_precision: Tensor

    @float32_default()
    def __init__(self, members: Sequence[nn.Module], num_classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.num_classes = num_classes
        for name in ("temperature", "threshold", "precision", "target_precision"):
            self.register_buffer(name, torch.tensor(1.0, dtype=torch.float32, device="cpu"))
        for name in ("folds", "encoder"):
            self.register_buffer(name, None)
        self._last: tuple[PatchSet, Any, Tensor] | None = None

    def forward(self, patches: Tensor) -> Tensor:
        """Temperature-scaled probabilities, ``N x num_classes``, of patches in [0, 1], ``N x 3 x H
        x W``: the members' mean. Fitted on few labels, they are too low for the class they name.
        """
        check_float32("a critic", self.temperature.dtype)
        logits = torch.stack(self._logits(patches)).float()
        return torch.softmax(logits / self.temperature, 2).mean(0)

    def _logits(self, patches: Tensor) -> list[Tensor]:
        """Of each member; an encoder that all of them stand on sees the patches once."""
        parts = [list(m) if isinstance(m, nn.Sequential) else [m] for m in self.members]
        if all(len(p) == 2 and p[0] is parts[0][0] for p in parts):
            features = parts[0][0](patches)
            return [layer(features) for _, layer in parts]
        return [member(patches) for member in self.members]

    @torch.no_grad()
    def probabilities(
        self, patches: Tensor, origins: Tensor | None = None, batch_size: int = 64
    ) -> Tensor:
        """As calling the critic, in batches, on uint8 or floating-point patches, in evaluation
        mode; the result is on the CPU.

        Args:
            patches: ``N x 3 x H x W``.
            origins: which patch each was made from, or after, counted from those that the critic
                was fitted on, shape ``N``. Where it is one of those, the one member that has not
                seen it judges, as the patches that calibrated the critic were judged: the others
                know the answer by heart. Beyond those, all members judge.
            batch_size: patches judged at once.

        Raises:
            ValueError: these are no patches; origins are no rows, one for each, or folds unknown.
        """
        check_batch(patches, finite=False)
        if origins is None:
            return predict(self, patches, batch_size)
        if self.folds is None:
            raise ValueError(
                "to judge variations of patches the critic must know its folds (fit_critic tells "
                "them), got none"
            )
        origins = checked_origins(origins, len(patches))
        fitted = origins < len(self.folds)
        fold = torch.where(fitted, self.folds.cpu()[origins.clamp(max=len(self.folds) - 1)], -1)
        found = torch.zeros(len(patches), self.num_classes, dtype=torch.float32)
        if not bool(fitted.all()):
            found[~fitted] = self.probabilities(patches[~fitted], None, batch_size)
        for k, member in enumerate(self.members):
            own = fold == k
            if bool(own.any()):
                logits = predict(member, patches[own], batch_size)
                found[own] = torch.softmax(logits / self.temperature.cpu(), 1)
        return found

    def of_patches(self, patches: PatchSet, size: int) -> Tensor:
        """Of whole patches, ``N x num_classes``: the mean over their centre and corner crops of
        height and width ``size``, as test patches are judged. The set that was judged last is
        not judged again, unless temperature or members have changed.

        Raises:
            ValueError: the set is empty, or patches are smaller than ``size``.
        """
        own = (self.temperature, *self.members.parameters(), *self.members.buffers())
        how = (size, [(id(v), 0 if v.is_inference() else v._version) for v in own])
        if self._last is None or self._last[1] != how or not self._last[0].same(patches):
            self._last = (patches, how, over_crops(self.probabilities, patches, size).mean(1))
        return self._last[2].clone()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, temperature, threshold, folds and encoder's name to one file."""
        save_weights(path, self.state_dict())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        network: Callable[..., nn.Module],
        num_classes: int,
        device: str | torch.device = "cpu",
    ) -> PatchCritic:
        """Read a critic written by :meth:`save`, whose members ``network(num_classes=...)`` makes.

        Args:
            path: the file.
            network: makes a member.
            num_classes: number of classes.
            device: where to put it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file cannot be read or belongs to another architecture, or there is no
                such device.
        """
        return cls._restored(read_state(path), path, network, num_classes, device)

    @classmethod
    def _restored(
        cls,
        state: Mapping[str, Any],
        path: str | os.PathLike[str],
        network: Callable[..., nn.Module],
        num_classes: int,
        device: str | torch.device,
    ) -> PatchCritic:
        members = {name.split(".")[1] for name in state if name.startswith("members.")}
        with float32_default():
            made = [network(num_classes=num_classes) for _ in members]
        critic = cls(made, num_classes)
        critic.folds, critic.encoder = state.get("folds"), state.get("encoder")
        load_fitting(critic, state, path)
        temperature, threshold = float(critic.temperature), float(critic.threshold)
        if not (0 < temperature < math.inf and 0 <= threshold <= 1):
            raise ValueError(
                "a critic must have a temperature above 0 and a threshold in [0, 1], got "
                f"{temperature:g} and {threshold:g} in '{path}': fit it anew"
            )
        return critic.to(checked_device(device)).eval()

    @classmethod
    def load_probes(
        cls,
        path: str | os.PathLike[str],
        encoder: str | os.PathLike[str],
        num_classes: int,
        device: str | torch.device = "cpu",
    ) -> PatchCritic:
        """Read a critic written by :meth:`save` whose members are
        :class:`~monai_histodiff.classifiers.ProbeTraining` 's, on one encoder, or each a
        ``PatchClassifier``, as those of ``published.yaml``.

        Args:
            path: the file.
            encoder: a bundle, or a name, see :func:`~monai_histodiff.classifiers.named_encoder`;
                not read where the file names one.
            num_classes: number of classes.
            device: where to put it.

        Raises:
            FileNotFoundError, ValueError: as :meth:`load`, or there is no such encoder.
        """
        state = read_state(path)
        if (first := state.get(SCRATCH)) is not None:
            network = partial(PatchClassifier, width=len(first))
            return cls._restored(state, path, network, num_classes, device)
        if (name := state.get("encoder")) is not None:
            encoder = stored_name(name, path)
        made = named_encoder(encoder)
        layer = state.get("members.0.0.discriminant.weight")
        if isinstance(made, PatchEncoder) and isinstance(layer, Tensor):  # it may be adapted
            made = made.with_discriminant(nn.Linear(*layer.shape[::-1]))
        return cls._restored(state, path, ProbeTraining(made).network, num_classes, device)


def fit_critic(
    patches: PatchSet,
    training: Recipe,
    transform: Compose,
    size: int = 128,
    folds: int = 3,
    target_precision: float = 0.75,
    seed: int = 0,
    unlabelled: PatchSet | None = None,
    trusted_share: float = 0.5,
) -> PatchCritic:
    """Cross-fit a critic: one member for each fold, calibrated on the patches that it did not see.

    Args:
        patches: real labelled patches; folds are group-disjoint.
        training: recipe of the members.
        transform: its random transform, from uint8 patches to floating point in [0, 1].
        size: held-out patches are judged by their centre crop of this size, unlabelled ones by
            five crops.
        folds: members of the ensemble.
        target_precision: that the threshold aims at, see ``calibration.precision_threshold``.
        seed: seed of the folds and of the fits.
        unlabelled: patches of the target; the threshold, which rests on few labelled ones, is
            lowered until ``trusted_share`` of them reach it.
        trusted_share: in [0, 1]; 0 leaves the threshold as it is.

    Raises:
        ValueError: a class has too few patches, or the share lies outside [0, 1].
    """
    check_from(1, size=size)
    if not 0 <= trusted_share <= 1:
        raise ValueError(f"trusted_share must lie in [0, 1], got {trusted_share}")
    labels, classes = patches.labels, len(patches.classes)
    fold = group_folds(labels.tolist(), patches.groups, folds, seed, patches.classes)
    items = [patches[i] for i in range(len(patches))]
    members, logits = _cross_fit(items, classes, training, transform, size, fold, seed)
    temperature = fit_temperature(logits, labels)
    critic = PatchCritic(members, classes).to(training.device).eval()
    critic.folds = fold
    if name := getattr(getattr(training, "encoder", None), "name", ""):
        critic.encoder = torch.tensor(list(name.encode()), dtype=torch.uint8)
    critic.temperature.fill_(temperature)
    held_out = torch.softmax(logits / temperature, 1)
    threshold, _ = precision_threshold(held_out, labels, target_precision)
    if unlabelled is not None and len(unlabelled) and trusted_share:
        confidence = critic.of_patches(unlabelled, size).amax(1)
        threshold = min(threshold, float(torch.quantile(confidence, 1 - trusted_share)))
    critic.threshold.fill_(threshold)
    critic.precision.fill_(precision_at(held_out, labels, threshold))
    critic.target_precision.fill_(target_precision)
    return critic


def _cross_fit(
    items: Sequence[Mapping[str, Any]],
    classes: int,
    recipe: Recipe,
    transform: Compose,
    size: int,
    fold: Tensor,
    seed: int,
) -> tuple[list[nn.Module], Tensor]:
    """A member without each fold, and the logits, ``N x K``, of the patches of that fold."""
    logits = torch.zeros(len(items), classes, dtype=torch.float32)
    members: list[nn.Module] = []
    pairs = [{"image": d["image"], "label": d["label"]} for d in items]
    for k in range(count := int(fold.max()) + 1):
        seen = [d for d, f in zip(pairs, fold, strict=True) if f != k]
        members.append(recipe(seen, transform, classes, seed + k, f"critic {k + 1} of {count}"))
        unseen = torch.stack(
            [centre_crop(d["image"], size) for d, f in zip(items, fold, strict=True) if f == k]
        )
        logits[fold == k] = predict(members[k], unseen)
    return members, logits
