"""The class of an item: read, compared with the bank's, and written back as it came; and the
weights of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.bank import Bank
from monai_histodiff.data.names import check_ordered

__all__ = ["Labels", "even_weights", "soft_label"]


class Labels:
    """Your classes beside those of a bank.

    Args:
        bank: whose classes they are.
        classes: names of your class indices, in order: names of the bank's, in any order, of which
            you may have fewer. ``None``: your indices are the bank's.

    Attributes:
        names: by your index; empty where the bank has none.
        telling: names of the bank that stand for a class wherever they are read: no numbers.
        to_bank: the bank's index, by yours.

    Raises:
        ValueError: other names, one twice, or no list; or no names are given, though the bank's
            are numbers that are not their indices, so that a number could mean either.
    """

    def __init__(self, bank: Bank, classes: Sequence[str] | None = None) -> None:
        known = list(bank.classes)
        self.telling = frozenset(name for name in known if not name.isdecimal())
        if classes is None:
            odd = [(i, name) for i, name in enumerate(known) if name != str(i)]
            if odd and all(name.strip().isdecimal() for name in known):
                raise ValueError(
                    f"the bank's classes are named by numbers, of which {odd[0][1]!r} has the "
                    f"index {odd[0][0]}: pass classes=, the names of your class indices in order "
                    f"(the bank's: {known})"
                )
            self.to_bank = list(range(bank.num_classes))
            self.names = known
        else:
            check_ordered(classes)
            self.names = list(classes)
            if not self.names or len({*self.names} & {*known}) < len(self.names):
                raise ValueError(
                    f"classes must be names of the bank's, {known}, in the order of your class "
                    f"indices, each once, got {self.names}"
                )
            self.to_bank = [known.index(name) for name in self.names]
        self.from_bank = {theirs: own for own, theirs in enumerate(self.to_bank)}

    def __len__(self) -> int:
        return len(self.to_bank)

    def shortages(self, bank: Bank, balance: np.ndarray | None, full_prob_at: int) -> list[str]:
        """Which of your classes a bank replaces less often than was asked, in plain sentences."""
        names = self.names or range(len(self))
        counts = {
            name: bank.count(theirs) for name, theirs in zip(names, self.to_bank, strict=True)
        }
        told = []
        if empty := [name for name, count in counts.items() if not count]:
            favoured = balance is not None and any(
                weight for weight, count in zip(balance, counts.values(), strict=True) if not count
            )
            share = ", and their share of balance is left undrawn" * favoured
            told.append(f"the bank has no patch of the classes {empty}: they stay real{share}")
        if balance is None:
            return told
        for (name, count), weight in zip(counts.items(), balance, strict=True):
            if weight and 0 < count < full_prob_at:
                told.append(
                    f"the bank has {count} patches of class {name!r}, fewer than full_prob_at, "
                    f"{full_prob_at}: it is drawn in {count / full_prob_at:.0%} of the cases that "
                    "balance gives it"
                )
        return told

    def read(self, label: Any, key: str = "label") -> int:
        """Your class index of an item.

        Args:
            label: a class index (int, or an integer tensor or array of one element), or the name
                of a class (text, or an array of one).
            key: where it comes from, for messages.

        Raises:
            ValueError: it is no single class of the bank; the message tells what it is.
        """
        if isinstance(label, np.ndarray) and label.dtype.kind == "U" and label.size == 1:
            label = label.item()
        if isinstance(label, str):
            if label not in self.names:
                raise self._error(key, f"{str(label)!r}", "this is none of the bank's classes")
            return self.names.index(label)
        if not isinstance(label, (int, float, np.generic, np.ndarray, Tensor)):
            got = "None" if label is None else f"a {type(label).__name__}"
            raise self._error(key, got, "give each item its class")
        if isinstance(label, Tensor):
            label = label.detach().cpu()
            label = label.double() if label.is_floating_point() else label
        values = np.asarray(label)
        if values.size != 1:
            raise self._error(key, f"shape {values.shape}", self._several(values))
        value = values.reshape(-1)[0]
        if values.dtype.kind not in "buifc":
            got = f"{value} ({values.dtype})"
            raise self._error(key, got, "a name is text, an index a whole number")
        if values.dtype.kind not in ("bui" if len(self) <= 2 else "ui"):
            got = f"{value} ({values.dtype})"
            raise self._error(key, got, "an index is a whole number: cast it")
        if not 0 <= value < len(self):
            reason = {
                -1: "-1 stands for items without a label: leave them out",
                len(self): "if your indices start at 1, subtract 1 from each",
            }.get(int(value), "pass classes= if your indices have another order")
            raise self._error(key, str(value), reason)
        return int(value)

    def like(self, label: Any, index: int) -> Any:
        """One of your class indices in the type of a label: a name for a name, a tensor for a
        tensor.
        """
        if isinstance(label, str):
            return same_type(label, self.names[index])
        if isinstance(label, Tensor):
            return torch.full_like(label, index)
        if isinstance(label, np.ndarray) and label.dtype.kind == "U":
            return np.full(label.shape, self.names[index])
        return np.full_like(label, index) if isinstance(label, np.ndarray) else type(label)(index)

    def _several(self, values: np.ndarray) -> str:
        if values.size == len(self) and bool(np.isin(values, (0, 1)).all()):
            if values.sum() == 1:
                return "of a one-hot label take the argmax"
            return (
                "an item of several classes (multi-label) cannot be replaced by one of one class"
            )
        return "apply the transform to each item, not to a batch"

    def _error(self, key: str, got: str, remedy: str) -> ValueError:
        names = f", or one of the names {self.names}" if self.names else ""
        return ValueError(
            f"the label under '{key}' must be a class index from 0 to {len(self) - 1}{names}, "
            f"got {got}: {remedy}"
        )


def same_type(text: Any, new: str) -> Any:
    """A new text in the type of another; plain text in place of an ``Enum`` that does not have
    it.
    """
    try:
        return type(text)(new)
    except ValueError:
        return new


def even_weights(counts: Sequence[int], prob: float) -> list[float]:
    """The ``balance`` of :class:`~monai_histodiff.SyntheticAugment` that makes the classes as even
    as ``prob`` allows, from a bank with ``full_prob_at`` patches of each.

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
    if not len(real) or not real.min() >= 0 or real.sum() == 0:
        raise ValueError(f"counts must not be negative, nor all zero, got {list(counts)}")
    real *= (1 - prob) / real.sum()
    rising = np.sort(real)
    levels = (prob + rising.cumsum()) / np.arange(
        1, len(real) + 1
    )  # if the k rarest classes share all of prob
    level = levels[np.flatnonzero(levels > rising)[-1]]
    return [float(w) for w in (level - real).clip(min=0) / prob]


def soft_label(label: int, confidence: float, num_classes: int) -> Tensor:
    """float32 of shape ``num_classes``: the confidence at the label, the rest spread evenly over
    the other classes.
    """
    rest = (1 - confidence) / max(num_classes - 1, 1)
    out = torch.full((num_classes,), rest, dtype=torch.float32, device="cpu")
    out[label] = confidence
    return out
