"""``SyntheticAugment``: replace a patch by an accepted synthetic one of its class."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, RandomizableTransform
from monai.utils.enums import TraceKeys, TransformBackends
from torch import Tensor
from torch.utils.data import get_worker_info

from monai_histodiff.augmentation.items import RECORD
from monai_histodiff.augmentation.labels import Labels
from monai_histodiff.augmentation.patches import Scale, check_patch, check_values, in_place_of
from monai_histodiff.data.bank import Bank, BankPatch, SyntheticBank
from monai_histodiff.utils.processes import candidate_seed, process_rank

__all__ = ["SyntheticAugment", "float32"]


class SyntheticAugment(RandomizableTransform, InvertibleTransform):
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
        balance: weights of the classes, one for each of your indices, from which the class of the
            replacement is drawn (and then becomes the label), see
            :func:`~monai_histodiff.even_weights`; ``None`` keeps the class of the patch. A class
            without accepted patches is never drawn, and a patch of such a class is left as it is.
        full_prob_at: patches of a class in the bank from which on the probability is ``prob``; 1
            switches the rule off.
        classes: the names of your class indices, in order; ``None``: they are the bank's. Needed
            where names are numbers that are not their indices.
        um_per_px: micrometres that a pixel of your patches shows, where that, or their size, is
            not the bank's. Synthetic patches are then cropped and resampled to yours. Where yours
            are finer, real patches, too, go to the bank's scale and back, even at ``prob=0``: put
            the transform with ``prob=0`` into validation, which else sees other patches.

    Raises:
        ValueError: ``prob`` is not in [0, 1], or ``full_prob_at`` is below 1; ``balance`` is
            negative or gives no weight to any class in the bank; ``classes`` are not the names of
            the bank's; ``um_per_px`` is not positive, or the bank does not know its own.
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
        um_per_px: float | None = None,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        if not full_prob_at >= 1:
            raise ValueError(f"full_prob_at must be at least 1, got {full_prob_at}")
        super().__init__(prob)
        self.bank: Bank = (
            SyntheticBank.load(bank) if isinstance(bank, (str, os.PathLike)) else bank
        )
        self.labels = Labels(self.bank, classes)
        self.scale = Scale(self.bank, um_per_px)
        self.full_prob_at = full_prob_at
        self.balance = None if balance is None else np.asarray(balance, dtype=float)
        if self.balance is not None:
            self._check_balance(self.balance)
        self._drawn: BankPatch | None = None
        self._corner = np.zeros(2)
        self._process = os.getpid()

    def __deepcopy__(self, memo: dict[int, Any]) -> SyntheticAugment:
        """A copy with its own random state, where one is set, which shares the bank."""
        clone = object.__new__(type(self))
        clone.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_tracing"})
        if "R" in self.__dict__:  # else it is the one that MONAI's unseeded transforms share
            clone.R = copy.deepcopy(self.R, memo)
        return clone

    def randomize(self, data: Any = None) -> None:
        """Draw whether to replace, and by what, for a patch whose class has your index
        ``data``.
        """
        self._seed_plain_worker()
        super().randomize(None)
        class_draw, scale_draw, patch_draw = self.R.rand(3)
        if self.scale.crops:
            self._corner = self.R.rand(2)
        self._drawn = None
        if self._do_transform:
            own = int(data) if self.balance is None else self._draw_class(class_draw)
            label = self.labels.to_bank[own]
            if scale_draw * self.full_prob_at < self.bank.count(label):
                self._drawn = self.bank.draw(label, patch_draw)

    def _check_balance(self, balance: np.ndarray) -> None:
        if balance.shape != (len(self.labels),):
            raise ValueError(
                f"balance must have one weight for each of the {len(self.labels)} classes, got "
                f"{balance.tolist()}"
            )
        fixed = isinstance(self.bank, SyntheticBank)  # another bank may still be filled
        possible = self._usable_balance() if fixed else balance
        if not (balance.min() >= 0 and 0 < possible.sum() < np.inf):
            raise ValueError(
                "balance must not be negative and must favour a class in the bank, got "
                f"{balance.tolist()}"
            )

    def _usable_balance(self) -> np.ndarray:
        weights = () if self.balance is None else self.balance
        there = (self.bank.count(label) > 0 for label in self.labels.to_bank)
        return np.array([w if held else 0.0 for w, held in zip(weights, there, strict=True)])

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

    def __call__(
        self, img: Tensor, label: Any, randomize: bool = True, keys: Sequence[Any] = ()
    ) -> tuple[Tensor, Any]:
        """Maybe replace one patch.

        Args:
            img: RGB patch ``3 x H x W``, tensor or array; uint8, or floating point in [0, 1] (up
                to what interpolation overshoots). The replacement has the same type.
            label: its class index, or the name of its class; see :class:`Labels`.
            randomize: draw anew.
            keys: where patch and label come from, for messages.

        Returns:
            The patch, and its label in the type that it came in; :attr:`record` tells what was
            done.

        Raises:
            TypeError: the patch is no tensor nor array.
            ValueError: it is not RGB or does not fit the bank's size; it is to be replaced or
                resampled, and its values are far from [0, 1]; the label is none of the bank's.
        """
        key, label_key = keys or ("img", "label")
        check_patch(img, key)
        size = (int(img.shape[1]), int(img.shape[2]))
        self.scale.check_size(size)
        own = self.labels.read(label, label_key)
        if randomize:
            self.randomize(own)
        if self._drawn is None:
            if self.scale.factor > 1:
                check_values(img, key)
            return self.scale.of_real(img), label
        check_values(img, key)
        new = self.labels.from_bank[self._drawn.label]
        patch = self.scale.of_synthetic(self._drawn.image, size, self._corner)
        out = in_place_of(img, patch)
        if isinstance(out, MetaTensor):
            self.push_transform(out)
        return out, label if new == own else self.labels.like(label, new)

    def inverse(self, data: Any) -> Any:
        """A real patch as it is.

        Raises:
            RuntimeError: it was replaced: there is no original to go back to.
        """
        done = data.applied_operations if isinstance(data, MetaTensor) else []
        if done and done[-1].get(TraceKeys.CLASS_NAME) == type(self).__name__:
            raise RuntimeError(
                "a replacement cannot be inverted, since a synthetic patch has no original: "
                "invert real patches, or with prob=0"
            )
        return data

    @property
    def record(self) -> dict[str, Any]:
        """``synthetic`` (bool), ``synthetic_confidence`` (float32 tensor, NaN for a real patch)
        and ``synthetic_seed`` (-1 for a real patch) of the last call.
        """
        empty = torch.empty(0, dtype=torch.uint8, device="cpu")
        known = self._drawn or BankPatch(empty, -1, float("nan"), -1)
        values = (self._drawn is not None, float32(known.confidence), known.seed)
        return dict(zip(RECORD, values, strict=True))


def float32(value: float) -> Tensor:
    """A number as a tensor that collates to float32."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")
