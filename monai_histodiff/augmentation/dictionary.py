"""``SyntheticAugmentd``: the dictionary version of ``SyntheticAugment``."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform
from monai.utils import ensure_tuple

from monai_histodiff.augmentation.items import RECORD, check_item, check_names, float32, retell
from monai_histodiff.augmentation.labels import soft_label
from monai_histodiff.augmentation.transforms import NO_ORIGINAL, SyntheticAugment
from monai_histodiff.data.bank import Bank

__all__ = ["SyntheticAugmentD", "SyntheticAugmentDict", "SyntheticAugmentd"]


class SyntheticAugmentd(RandomizableTransform, MapTransform, InvertibleTransform):
    """Dictionary version of :class:`SyntheticAugment`, for MONAI's ``Compose`` and every MONAI
    dataset.

    It replaces the patch, sets the label where ``balance`` drew another class, and records
    ``synthetic``, ``synthetic_confidence`` and ``synthetic_seed`` in the item, for real and
    synthetic patches alike, so that batches collate. The input dictionary and its tensors are not
    changed.

    Nothing goes on telling of the real patch once it is replaced. Texts beside it, such as its
    path and group, and the file name in a MetaTensor (patch, label or one of ``keep_keys``) become
    ``"synthetic"``; a text that is the name of the class becomes the name of the class drawn.
    Anything else beside patch and label, such as a mask, is an error that names it, unless
    ``keep_keys`` does. ``Compose.inverse`` raises for a synthetic patch.

    A synthetic patch is of its class with a probability, the confidence of the critic. A loss can
    take that into account: by a weight, 1 for a real patch and the confidence for a synthetic one,
    or by a soft label, float32 of shape ``num_classes``, with the confidence at the class and the
    rest spread evenly over the others.

    Args:
        keys: the key of the patch.
        bank: as in :class:`SyntheticAugment`.
        label_key: the key of the class index (int, or integer tensor or array of one element), or
            of the name of the class (text, or an array of one).
        prob: as in :class:`SyntheticAugment`.
        balance: as in :class:`SyntheticAugment`.
        full_prob_at: as in :class:`SyntheticAugment`.
        classes: as in :class:`SyntheticAugment`.
        weight_key: the key to write the loss weight to, a float32 tensor; ``None``: it is not
            written.
        soft_label_key: the key to write the soft label to; ``None``: it is not written.
        allow_missing_keys: leave items without the patch, or without a label, as they are.
        um_per_px: as in :class:`SyntheticAugment`.
        keep_keys: keys beside patch and label whose values hold for a synthetic patch, too.

    Raises:
        ValueError: there is more than one key, two of those that are read or written are the same;
            an item has keys that would be overwritten, tell
            of the real patch, or name another class than its label does.
        KeyError: patch or label is missing, and ``allow_missing_keys`` is not set.
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
        um_per_px: float | None = None,
        keep_keys: KeysCollection = (),
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(
                "an item has one patch, to which its label and its record belong, got keys "
                f"{list(self.keys)}"
            )
        own = {"keys": self.keys[0], "label_key": label_key}
        own |= {"weight_key": weight_key, "soft_label_key": soft_label_key}
        _check_distinct({name: key for name, key in own.items() if key is not None})
        self.augment = SyntheticAugment(bank, prob, balance, full_prob_at, classes, um_per_px)
        RandomizableTransform.__init__(self, prob)
        self.label_key, self.weight_key = label_key, weight_key
        self.soft_label_key, self.keep_keys = soft_label_key, ensure_tuple(keep_keys)

    @property
    def prob(self) -> float:
        """As :attr:`SyntheticAugment.prob`."""
        return self.augment.prob

    @prob.setter
    def prob(self, prob: float) -> None:
        self.augment.prob = prob

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
                if self.allow_missing_keys:
                    continue
                raise KeyError(
                    f"the class of a patch must be under '{self.label_key}', got keys "
                    f"{sorted(map(str, d))}: pass label_key="
                )
            own = (key, self.label_key)
            further = [k for k in (self.weight_key, self.soft_label_key) if k is not None]
            check_item(d, own, self.keep_keys, (*RECORD, *further))
            before, labels = d[self.label_key], self.augment.labels
            d[key], d[self.label_key], record = self.augment.replaced(d[key], before, keys=own)
            real, drawn = labels.read(before), labels.read(d[self.label_key], self.label_key)
            check_names(d, own, self.keep_keys, labels, real)
            if record["synthetic"]:
                names = labels.names and [labels.names[i] for i in (real, drawn)]
                retell(d, own, self.keep_keys, names)
            d.update(record)
            confidence = record["synthetic_confidence"] if record["synthetic"] else float32(1.0)
            if self.weight_key is not None:
                d[self.weight_key] = confidence
            if self.soft_label_key is not None:
                d[self.soft_label_key] = soft_label(drawn, float(confidence), len(labels))
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """An item whose patch is real, as it is.

        Raises:
            RuntimeError: the patch was replaced: there is no original to go back to.
        """
        if bool(data.get(RECORD[0], False)):  # of arrays and plain tensors it alone tells
            raise RuntimeError(NO_ORIGINAL)
        return {k: self.augment.inverse(v) if k in self.keys else v for k, v in data.items()}


def _check_distinct(own: Mapping[str, Hashable]) -> None:
    """Refuse two arguments of one key, and one that is a key of the record."""
    names: dict[Hashable, str] = {key: "the record" for key in RECORD}
    for name, key in own.items():
        if key in names:
            raise ValueError(
                f"the keys of an item must be distinct, got {key!r} for {names[key]} and for "
                f"{name}: rename one"
            )
        names[key] = name


SyntheticAugmentD = SyntheticAugmentDict = SyntheticAugmentd
