"""``SyntheticAugment``: replace a patch by an accepted synthetic one of its class."""

from __future__ import annotations

import copy
import logging
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

from monai_histodiff.augmentation.items import record_of
from monai_histodiff.augmentation.labels import Labels
from monai_histodiff.augmentation.patches import (
    Scale,
    beside_synthetic,
    check_patch,
    check_values,
    in_place_of,
)
from monai_histodiff.data.bank import Bank, BankPatch, SyntheticBank
from monai_histodiff.utils.processes import is_distributed, process_rank
from monai_histodiff.utils.seeds import candidate_seed
from monai_histodiff.utils.shared_memory import SharedTensors

__all__ = ["NO_ORIGINAL", "SyntheticAugment"]

logger = logging.getLogger(__name__)

NO_ORIGINAL = (
    "a replacement cannot be inverted, since a synthetic patch has no original: invert real "
    "patches, or with prob=0"
)

Draw = tuple[BankPatch | None, np.ndarray]  # what replaces a patch, and where it is cropped


class SyntheticAugment(RandomizableTransform, InvertibleTransform):
    """With probability ``prob``, replace a patch by a synthetic one from a bank.

    Place it after cropping and before intensity and geometric augmentation, so that real and
    synthetic patches are augmented alike. It reads shared memory only: it is safe in forked and
    spawned workers and in threads, and costs a copy.

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
            :func:`~monai_histodiff.even_weights`; ``None`` keeps the class of the patch. Where the
            class that is drawn has no accepted patches, the patch is left as it is, and so is
            every patch of such a class: no other class takes the share of one that is rare.
        full_prob_at: patches of a class in the bank from which on the probability is ``prob``; 1
            switches the rule off.
        classes: the names of your class indices, in order, all of the bank's or some; ``None``:
            they are the bank's. Needed where names are numbers that are not their indices.
        um_per_px: micrometres that a pixel of your patches shows; ``None``: as much as the bank's,
            and they have its size (a warning tells the bank's scale). Otherwise synthetic patches
            are cropped and resampled to yours. Where yours are finer, real patches, too, go to the
            bank's scale and back, even at ``prob=0``: put the transform with ``prob=0`` into
            validation, which else sees other patches.

    Raises:
        TypeError: ``bank`` is none of these.
        ValueError: ``prob`` is not in [0, 1], or ``full_prob_at`` is below 1 or not finite; a
            :class:`~monai_histodiff.SyntheticBank` holds no patch, and ``prob`` is above 0;
            ``balance`` is negative or gives no weight to any class in the bank; ``classes`` are
            not names of the bank's; ``um_per_px`` is no scale, or the bank does not know its
            own.
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
        if not 1 <= full_prob_at < np.inf:
            raise ValueError(
                f"full_prob_at must be at least 1 and finite, got {full_prob_at}: give the number "
                "of real patches of a class, or prob=0 to replace none"
            )
        if not hasattr(bank, "draw") and not isinstance(bank, (str, os.PathLike)):
            raise TypeError(
                "bank must be a SyntheticBank, the folder of a saved one or a LiveBank, got "
                f"{type(bank).__name__}"
            )
        self.bank: Bank = (
            SyntheticBank.load(bank) if isinstance(bank, (str, os.PathLike)) else bank
        )
        self._shared = SharedTensors({"prob": ((), torch.float64)})  # with running workers, too
        self.prob = prob
        super().__init__(prob)
        self.labels = Labels(self.bank, classes)
        self.scale = Scale(self.bank, um_per_px)
        self.full_prob_at = full_prob_at
        self.balance = None if balance is None else np.asarray(balance, dtype=float)
        if self.balance is not None:
            self._check_balance(self.balance)
        if prob and self._fixed:
            for told in self.labels.shortages(self.bank, self.balance, full_prob_at):
                logger.warning(told)
        self._last: Draw = (None, np.zeros(2))
        self._process = os.getpid()
        self._seed: int | None = None
        self._rank = 0  # that the seed was mixed with
        self._parent_rank: int | None = None  # of the process that this one was given it by

    @property
    def prob(self) -> float:
        """Probability of a replacement; what is set holds from the next draw on, in workers that
        are running, too. A deep copy, and a plain pickle, has its own.

        Raises:
            ValueError: what is set is not in [0, 1], or is above 0 with a bank that holds no patch
                and cannot be filled any more.
        """
        return float(self._shared["prob"])

    @prob.setter
    def prob(self, prob: float) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}: give a probability")
        if prob and isinstance(self.bank, SyntheticBank) and not len(self.bank):
            raise ValueError(
                f"a bank must hold patches where prob is above 0, got prob {prob} and a bank "
                "without any: give one in which some were accepted, or prob=0"
            )
        self._shared["prob"].fill_(prob)

    @property
    def _fixed(self) -> bool:
        return isinstance(self.bank, SyntheticBank)  # another bank may still be filled

    def __getstate__(self) -> dict[str, Any]:
        """The rank goes along: a spawned worker belongs to no process group."""
        return {**super().__getstate__(), "_parent_rank": self._own_rank()}

    def _own_rank(self) -> int:
        given = self._parent_rank if get_worker_info() and not is_distributed() else None
        return process_rank() if given is None else given

    def __deepcopy__(self, memo: dict[int, Any]) -> SyntheticAugment:
        """A copy with its own ``prob`` and random state, where one is set, which shares the
        bank.
        """
        clone = object.__new__(type(self))
        clone.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_tracing"})
        clone._shared = copy.deepcopy(self._shared, memo)
        if "R" in self.__dict__:  # else it is the one that MONAI's unseeded transforms share
            clone.R = copy.deepcopy(self.R, memo)
        return clone

    def randomize(self, data: Any = None) -> None:
        """Draw whether to replace, and by what, for a patch whose class has your index
        ``data``.
        """
        self._last = self._draw(int(data))

    def _draw(self, own: int) -> Draw:
        """Threads share the transform: what one has drawn does not go by way of ``self``."""
        self._seed_anew()
        act, class_draw, scale_draw, patch_draw, *corner = self.R.rand(
            6 if self.scale.crops else 4
        )
        drawn, place = None, np.array(corner)
        self._do_transform = bool(act < self.prob)
        if act < self.prob:
            chosen = own if self.balance is None else self._draw_class(class_draw)
            here, label = self.labels.to_bank[own], self.labels.to_bank[chosen]
            if self.bank.count(here) and scale_draw * self.full_prob_at < self.bank.count(label):
                drawn = self.bank.draw(label, patch_draw)
        return drawn, place

    def _check_balance(self, balance: np.ndarray) -> None:
        if balance.shape != (len(self.labels),):
            raise ValueError(
                f"balance must have one weight for each of the {len(self.labels)} classes, got "
                f"{balance.tolist()}"
            )
        held = [self.bank.count(label) > 0 or not self._fixed for label in self.labels.to_bank]
        if not (balance.min() >= 0 and balance.sum() < np.inf and balance[held].sum() > 0):
            raise ValueError(
                "balance must not be negative and must favour a class in the bank, got "
                f"{balance.tolist()}: leave it out, or give a bank with patches of that class"
            )

    def _draw_class(self, position: float) -> int:
        """One of your classes, by its weight."""
        edges = np.asarray(self.balance).cumsum()
        last = np.searchsorted(edges, edges[-1])  # the last with a weight: a product may round up
        return int(np.searchsorted(edges, position * edges[-1], side="right").clip(max=last))

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> SyntheticAugment:
        rank = self._own_rank()
        super().set_random_state(
            candidate_seed(seed, rank) if seed is not None and rank else seed, state
        )
        self._process, self._seed, self._rank = os.getpid(), seed, rank
        return self

    def _seed_anew(self) -> None:
        """Workers of a plain torch loader all inherit one random state: give each its own (MONAI's
        loader seeds its own). A process that joined a group since is given that of its rank.
        """
        info = get_worker_info()
        if info is not None and self._process != os.getpid():
            self.set_random_state(seed=info.seed % 2**32)
        elif self._seed is not None and self._rank != self._own_rank():
            self.set_random_state(seed=self._seed)

    def __call__(
        self, img: Tensor, label: Any, randomize: bool = True, keys: Sequence[Any] = ()
    ) -> tuple[Tensor, Any]:
        """Maybe replace one patch.

        Args:
            img: RGB patch ``3 x H x W``, tensor or array; uint8, or floating point in [0, 1] (up
                to what augmentation overshoots). The replacement has the same type.
            label: its class index, or the name of its class; see :class:`Labels`.
            randomize: draw anew.
            keys: where patch and label come from, for messages.

        Returns:
            The patch, and its label in the type that it came in (the metadata of a MetaTensor no
            longer tell of a file); :attr:`record` tells what was done.

        Raises:
            TypeError: the patch is no tensor nor array.
            ValueError: it is not RGB, does not fit the bank's size, or its values are not scaled
                to [0, 1] (not looked at where all patches stay as they are, by ``prob=0``); the
                label is none of the bank's.
        """
        return self.replaced(img, label, randomize, keys)[:2]

    def replaced(
        self, img: Tensor, label: Any, randomize: bool = True, keys: Sequence[Any] = ()
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Patch and label as the call returns them, with the :attr:`record` of this very call."""
        key, label_key = keys or ("img", "label")
        check_patch(img, key)
        size = (int(img.shape[1]), int(img.shape[2]))
        self.scale.check_size(size)
        if self.prob or self.scale.factor > 1:
            check_values(img, key)
        own = self.labels.read(label, label_key)
        drawn, corner = self._draw(own) if randomize else self._last
        self._last = drawn, corner
        if drawn is None:
            return self.scale.of_real(img), label, record_of(drawn)
        new = self.labels.from_bank[drawn.label]
        out = in_place_of(img, self.scale.of_synthetic(drawn.image, size, corner))
        if isinstance(out, MetaTensor):
            self.push_transform(out)
        told = label if new == own else self.labels.like(label, new)
        return out, beside_synthetic(told), record_of(drawn)

    def inverse(self, data: Any) -> Any:
        """A real patch as it is.

        Raises:
            RuntimeError: it was replaced: there is no original to go back to.
        """
        done = data.applied_operations if isinstance(data, MetaTensor) else []
        if done and done[-1].get(TraceKeys.CLASS_NAME) == type(self).__name__:
            raise RuntimeError(NO_ORIGINAL)
        return data

    @property
    def record(self) -> dict[str, Any]:
        """``synthetic`` (bool), ``synthetic_confidence`` (float32 tensor, NaN for a real patch)
        and ``synthetic_seed`` (-1 for a real patch) of the last call.
        """
        return record_of(self._last[0])
