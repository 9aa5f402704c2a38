"""``SyntheticAugment`` and ``SyntheticAugmentd``: replace a patch by an accepted synthetic one of
its class.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils.enums import TransformBackends
from torch import Tensor
from torch.utils.data import get_worker_info

from monai_histodiff.data.bank import Bank, BankPatch, SyntheticBank
from monai_histodiff.data.pixels import to_unit
from monai_histodiff.utils.processes import candidate_seed, process_rank

__all__ = [
    "SyntheticAugment",
    "SyntheticAugmentD",
    "SyntheticAugmentDict",
    "SyntheticAugmentd",
    "even_weights",
]


def even_weights(counts: Sequence[int], prob: float) -> list[float]:
    """The ``balance`` of :class:`SyntheticAugment` that makes the classes as even as ``prob``
    allows.

    Items of class ``c`` have the frequency ``(1 - prob) counts[c] / sum(counts) + prob w[c]``. The
    weights ``w`` raise the rarest classes to one common level; where ``prob`` is large enough, all
    classes reach ``1 / len(counts)``.

    Args:
        counts: real items of each class.
        prob: probability of a replacement, in (0, 1].

    Returns:
        One weight for each class, of sum 1.

    Raises:
        ValueError: ``prob`` is not in (0, 1], or the counts are negative or all zero.
    """
    real = np.asarray(counts, dtype=float)
    if not 0 < prob <= 1:
        raise ValueError(f"prob must lie in (0, 1], got {prob}")
    if not len(real) or real.min() < 0 or real.sum() == 0:
        raise ValueError(f"counts must not be negative, nor all zero, got {list(counts)}")
    real *= (1 - prob) / real.sum()
    rising = np.sort(real)
    levels = (prob + rising.cumsum()) / np.arange(
        1, len(real) + 1
    )  # if the k rarest classes share all of prob
    level = levels[np.flatnonzero(levels > rising)[-1]]
    return [float(w) for w in (level - real).clip(min=0) / prob]


class SyntheticAugment(RandomizableTransform):
    """With probability ``prob``, replace a patch by a synthetic one from a bank.

    Place it after cropping and before intensity and geometric augmentation, so that real and
    synthetic patches are augmented alike. It reads shared memory only: it is safe in forked and
    spawned workers, and costs a copy.

    A class with few patches in the bank is replaced less often, since few patches shown often are
    learnt by heart: with ``n`` patches of the class, the probability is
    ``prob * min(1, n / full_prob_at)``. With ``prob`` up to 0.5 and ``full_prob_at`` the number of
    real patches of the class, no synthetic patch is shown more often than a real one.

    Of several distributed processes that are given the same seed, each draws for itself.

    Args:
        bank: a :class:`~monai_histodiff.SyntheticBank`, the folder of a saved one, or a
            :class:`~monai_histodiff.LiveBank`.
        prob: probability of a replacement.
        balance: weights of the classes, from which the class of the replacement is drawn (and then
            becomes the label), see :func:`even_weights`; ``None`` keeps the class of the patch. A
            class without accepted patches is never drawn, and a patch of such a class is left as
            it is.
        full_prob_at: patches of a class in the bank from which on the probability is ``prob``; 1
            switches the rule off.
        classes: the names of your class indices, in order, to be compared with the bank's;
            ``None`` compares nothing.

    Raises:
        ValueError: ``prob`` is not in [0, 1], or ``full_prob_at`` is below 1; ``balance`` is
            negative or gives no weight to any class in the bank; ``classes`` are not those of the
            bank, in their order.
        FileNotFoundError: the folder holds no bank.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        bank: Bank | str | os.PathLike[str],
        prob: float = 0.5,
        balance: Sequence[float] | None = None,
        full_prob_at: int = 25,
        classes: Sequence[str] | None = None,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        if full_prob_at < 1:
            raise ValueError(f"full_prob_at must be at least 1, got {full_prob_at}")
        super().__init__(prob)
        self.bank: Bank = (
            SyntheticBank.load(bank) if isinstance(bank, (str, os.PathLike)) else bank
        )
        if classes is not None and tuple(classes) != tuple(self.bank.classes):
            raise ValueError(
                f"classes must be the bank's, {list(self.bank.classes)}, in this order, got {list(classes)}"
            )
        self.full_prob_at = full_prob_at
        self.balance = None if balance is None else np.asarray(balance, dtype=float)
        if self.balance is not None:
            fixed = isinstance(self.bank, SyntheticBank)  # another bank may still be filled
            possible = self._usable_balance() if fixed else self.balance[: self.bank.num_classes]
            if not (self.balance.min(initial=0) >= 0 and possible.sum() > 0):
                raise ValueError(
                    f"balance must not be negative and must favour a class in the bank, got {self.balance.tolist()}"
                )
        self._drawn: BankPatch | None = None
        self._process = os.getpid()

    def __deepcopy__(self, memo: dict[int, Any]) -> SyntheticAugment:
        """A copy with its own random state, where one is set, which shares the bank."""
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        if "R" in self.__dict__:  # else it is the one that MONAI's unseeded transforms share
            clone.R = copy.deepcopy(self.R, memo)
        return clone

    def randomize(self, data: Any = None) -> None:
        """Draw whether to replace, and by what, for a patch of class ``data``."""
        self._seed_plain_worker()
        super().randomize(None)
        class_draw, scale_draw, patch_draw = self.R.rand(3)
        self._drawn = None
        if self._do_transform:
            label = int(data) if self.balance is None else self._draw_class(class_draw)
            if scale_draw * self.full_prob_at < self.bank.count(label):
                self._drawn = self.bank.draw(label, patch_draw)

    def _usable_balance(self) -> np.ndarray:
        weights = () if self.balance is None else self.balance
        return np.array([w if self.bank.count(k) else 0.0 for k, w in enumerate(weights)])

    def _draw_class(self, position: float) -> int:
        edges = self._usable_balance().cumsum()
        return int(
            np.searchsorted(edges, position * edges[-1], side="right").clip(max=len(edges) - 1)
        )

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> SyntheticAugment:
        rank = process_rank()
        super().set_random_state(
            candidate_seed(seed, rank) if seed is not None and rank else seed, state
        )
        self._process = os.getpid()
        return self

    def _seed_plain_worker(self) -> None:
        """Workers of a plain torch loader all inherit one random state: give each its own (MONAI's
        loader seeds its own).
        """
        info = get_worker_info()
        if info is not None and self._process != os.getpid():
            self.set_random_state(seed=info.seed % 2**32)

    def __call__(self, img: Tensor, label: int, randomize: bool = True) -> tuple[Tensor, int]:
        """Maybe replace one patch.

        Args:
            img: RGB patch ``3 x H x W``, tensor or array; uint8, or floating point in [0, 1] (up
                to what interpolation overshoots). The replacement has the same type.
            label: its class index.
            randomize: draw anew.

        Returns:
            The patch and its label; :attr:`record` tells what was done.

        Raises:
            ValueError: the patch, which would be replaced, has another size than those of the
                bank, another type than these, or values that are far from [0, 1].
        """
        if randomize:
            self.randomize(label)
        if self._drawn is None:
            return img, label
        patch, new_label = self._drawn.image, self._drawn.label
        if tuple(img.shape) != tuple(patch.shape):
            raise ValueError(
                f"a patch must have the size of the bank's, {tuple(patch.shape)}, got {tuple(img.shape)}: crop before"
            )
        _check_values(img)
        if not isinstance(img, torch.Tensor):
            return patch.numpy().copy() if img.dtype == np.uint8 else (patch.numpy() / 255).astype(
                img.dtype
            ), new_label
        patch = patch.clone() if img.dtype == torch.uint8 else to_unit(patch).to(img.dtype)
        patch = patch.to(img.device)
        return (
            MetaTensor(patch, meta=dict(img.meta)) if isinstance(img, MetaTensor) else patch
        ), new_label

    @property
    def record(self) -> dict[str, Any]:
        """``synthetic`` (bool), ``confidence`` (NaN for a real patch) and ``seed`` (-1 for a real
        patch) of the last call.
        """
        if self._drawn is None:
            return {"synthetic": False, "confidence": float("nan"), "seed": -1}
        return {"synthetic": True, "confidence": self._drawn.confidence, "seed": self._drawn.seed}


def _check_values(img: Any) -> None:
    """Patches of 0 to 255 in floating point, as MONAI's ``LoadImage`` reads them, would get
    replacements that are nearly black.
    """
    if str(img.dtype).removeprefix("torch.") == "uint8":
        return
    if "float" not in str(img.dtype):
        raise ValueError(f"a patch must be uint8 or floating point, got {img.dtype}")
    low, high = float(img.min()), float(img.max())
    if not (low >= -0.5 and high <= 1.5):
        rule = "a floating-point patch must lie in [0, 1] (or load it as uint8: LoadImaged(..., dtype=np.uint8))"
        raise ValueError(f"{rule}, got {low:g} to {high:g}")


def soft_label(label: int, confidence: float, num_classes: int) -> Tensor:
    """float32 of shape ``num_classes``: the confidence at the label, the rest spread evenly over
    the other classes.

    Raises:
        ValueError: the label is not a class.
    """
    if not 0 <= label < num_classes:
        raise ValueError(
            f"the class of a soft label must lie from 0 to {num_classes - 1}, got {label}"
        )
    out = torch.full(
        (num_classes,), (1 - confidence) / max(num_classes - 1, 1), dtype=torch.float32
    )
    out[label] = confidence
    return out


class SyntheticAugmentd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`SyntheticAugment`, for MONAI's ``Compose`` and every MONAI
    dataset.

    It replaces the patch, sets the label where ``balance`` drew another class, and records
    ``synthetic``, ``confidence`` and ``seed`` in the item, for real and synthetic patches alike,
    so that batches collate. The input dictionary and its tensors are not changed.

    A synthetic patch is of its class with a probability, the confidence of the critic. A loss can
    take that into
    account: by a weight, 1 for a real patch and the confidence for a synthetic one, or by a soft
    label, float32 of shape ``num_classes``, with the confidence at the class and the rest spread
    evenly over the others.

    Args:
        keys: the key of the patch.
        bank: as in :class:`SyntheticAugment`.
        label_key: the key of the class index (int, or integer tensor or array of one element).
        prob: as in :class:`SyntheticAugment`.
        balance: as in :class:`SyntheticAugment`.
        full_prob_at: as in :class:`SyntheticAugment`.
        classes: as in :class:`SyntheticAugment`.
        weight_key: the key to write the loss weight to; ``None``: it is not written.
        soft_label_key: the key to write the soft label to; ``None``: it is not written.
        allow_missing_keys: leave items without the key as they are.

    Raises:
        ValueError: there is more than one key.
        KeyError: the label key is missing.
    """

    backend = SyntheticAugment.backend

    def __init__(
        self,
        keys: KeysCollection,
        bank: Bank | str | os.PathLike[str],
        label_key: str = "label",
        prob: float = 0.5,
        balance: Sequence[float] | None = None,
        full_prob_at: int = 25,
        classes: Sequence[str] | None = None,
        weight_key: str | None = None,
        soft_label_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(
                f"an item has one patch, to which its label and its record belong, got keys {list(self.keys)}"
            )
        RandomizableTransform.__init__(self, 1.0)
        self.augment = SyntheticAugment(bank, prob, balance, full_prob_at, classes)
        self.label_key, self.weight_key, self.soft_label_key = (
            label_key,
            weight_key,
            soft_label_key,
        )

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> SyntheticAugmentd:
        super().set_random_state(seed, state)
        self.augment.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.label_key not in d:
                raise KeyError(
                    f"the class of a patch must be under '{self.label_key}', got keys {sorted(map(str, d))}"
                )
            label = d[self.label_key]
            number = int(label.item() if isinstance(label, (Tensor, np.ndarray)) else label)
            d[key], drawn = self.augment(d[key], number)
            if drawn != number:
                full_like: Any = torch.full_like if isinstance(label, Tensor) else np.full_like
                d[self.label_key] = (
                    full_like(label, drawn)
                    if isinstance(label, (Tensor, np.ndarray))
                    else type(label)(drawn)
                )
            record = self.augment.record
            d.update(record)
            confidence = record["confidence"] if record["synthetic"] else 1.0
            if self.weight_key is not None:
                d[self.weight_key] = confidence
            if self.soft_label_key is not None:
                d[self.soft_label_key] = soft_label(
                    drawn, confidence, self.augment.bank.num_classes
                )
        return d


SyntheticAugmentD = SyntheticAugmentDict = SyntheticAugmentd
