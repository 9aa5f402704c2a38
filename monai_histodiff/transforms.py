"""``SyntheticAugment`` and ``SyntheticAugmentd``: replace a patch by an accepted synthetic one of its class."""

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

from monai_histodiff.bank import SyntheticBank

__all__ = ["SyntheticAugment", "SyntheticAugmentD", "SyntheticAugmentDict", "SyntheticAugmentd"]


class SyntheticAugment(RandomizableTransform):
    """With probability ``prob``, replace a patch by a synthetic one from a bank.

    Place it after cropping and before intensity and geometric augmentation, so that real and synthetic patches are
    augmented alike. It reads shared memory only: it is safe in forked and spawned workers, and costs a copy.

    Args:
        bank: a :class:`~monai_histodiff.SyntheticBank`, or the folder of a saved one.
        prob: probability of a replacement.
        balance: weights of the classes, from which the class of the replacement is drawn (and then becomes the label);
            ``None`` keeps the class of the patch. A class without accepted patches is never drawn, and a patch of such
            a class is left as it is.

    Raises:
        ValueError: ``prob`` is not in [0, 1]; ``balance`` is negative or gives no weight to any class in the bank.
        FileNotFoundError: the folder holds no bank.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self, bank: SyntheticBank | str | os.PathLike[str], prob: float = 0.5, balance: Sequence[float] | None = None
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        super().__init__(prob)
        self.bank = bank if isinstance(bank, SyntheticBank) else SyntheticBank.load(bank)
        self.weights: np.ndarray | None = None
        if balance is not None:
            weights = np.asarray(balance, dtype=float)
            usable = weights * [self.bank.count(i) > 0 for i in range(len(weights))]
            if (weights < 0).any() or usable.sum() <= 0:
                raise ValueError(f"balance must not be negative and must favour a class in the bank, got {list(balance)}")
            self.weights = usable / usable.sum()
        self._drawn: tuple[int, int] | None = None
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
        self._drawn = None
        class_draw, item_draw = self.R.rand(), self.R.rand()
        if not self._do_transform:
            return
        label = int(data)
        if self.weights is not None:
            label = int(np.searchsorted(self.weights.cumsum(), class_draw, side="right").clip(max=len(self.weights) - 1))
        count = self.bank.count(label)
        if count:
            self._drawn = label, min(int(item_draw * count), count - 1)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SyntheticAugment:
        super().set_random_state(seed, state)
        self._process = os.getpid()
        return self

    def _seed_plain_worker(self) -> None:
        """Workers of a plain torch loader all inherit one random state: give each its own (MONAI's loader seeds its own)."""
        info = get_worker_info()
        if info is not None and self._process != os.getpid():
            self.set_random_state(seed=info.seed % 2**32)

    def __call__(self, img: Tensor, label: int, randomize: bool = True) -> tuple[Tensor, int]:
        """Maybe replace one patch.

        Args:
            img: RGB patch ``3 x H x W``, tensor or array; uint8, or floating point in [0, 1]. The replacement has the same type.
            label: its class index.
            randomize: draw anew.

        Returns:
            The patch and its label; :attr:`record` tells what was done.

        Raises:
            ValueError: the patch has another size than those of the bank.
        """
        if randomize:
            self.randomize(label)
        if self._drawn is None:
            return img, label
        new_label, index = self._drawn
        patch = self.bank.images[new_label][index].clone()
        if tuple(img.shape) != tuple(patch.shape):
            raise ValueError(f"a patch must have the size of the bank's, {tuple(patch.shape)}, got {tuple(img.shape)}: crop before")
        if not isinstance(img, torch.Tensor):
            return patch.numpy() if img.dtype == np.uint8 else (patch.numpy() / 255).astype(img.dtype), new_label
        if img.dtype != torch.uint8:
            patch = (patch.float() / 255).to(img.dtype)
        patch = patch.to(img.device)
        return (MetaTensor(patch, meta=dict(img.meta)) if isinstance(img, MetaTensor) else patch), new_label

    @property
    def record(self) -> dict[str, Any]:
        """``synthetic`` (bool), ``confidence`` (NaN for a real patch) and ``seed`` (-1 for a real patch) of the last call."""
        if self._drawn is None:
            return {"synthetic": False, "confidence": float("nan"), "seed": -1}
        label, index = self._drawn
        return {
            "synthetic": True,
            "confidence": float(self.bank.confidence[label][index]),
            "seed": int(self.bank.seeds[label][index]),
        }


class SyntheticAugmentd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`SyntheticAugment`, for MONAI's ``Compose`` and every MONAI dataset.

    It replaces the patch, sets the label where ``balance`` drew another class, and records ``synthetic``,
    ``confidence`` and ``seed`` in the item, for real and synthetic patches alike, so that batches collate. The input
    dictionary and its tensors are not changed.

    Args:
        keys: the key of the patch.
        bank: as in :class:`SyntheticAugment`.
        label_key: the key of the class index (int, or integer tensor or array of one element).
        prob: as in :class:`SyntheticAugment`.
        balance: as in :class:`SyntheticAugment`.
        allow_missing_keys: leave items without the key as they are.

    Raises:
        KeyError: the label key is missing.
    """

    backend = SyntheticAugment.backend

    def __init__(
        self,
        keys: KeysCollection,
        bank: SyntheticBank | str | os.PathLike[str],
        label_key: str = "label",
        prob: float = 0.5,
        balance: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.augment = SyntheticAugment(bank, prob, balance)
        self.label_key = label_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SyntheticAugmentd:
        super().set_random_state(seed, state)
        self.augment.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.label_key not in d:
                raise KeyError(f"the class of a patch must be under '{self.label_key}', got keys {sorted(map(str, d))}")
            label = d[self.label_key]
            number = int(label.item() if isinstance(label, (Tensor, np.ndarray)) else label)
            d[key], drawn = self.augment(d[key], number)
            if drawn != number:
                full_like: Any = torch.full_like if isinstance(label, Tensor) else np.full_like
                d[self.label_key] = full_like(label, drawn) if isinstance(label, (Tensor, np.ndarray)) else type(label)(drawn)
            d.update(self.augment.record)
        return d


SyntheticAugmentD = SyntheticAugmentDict = SyntheticAugmentd
