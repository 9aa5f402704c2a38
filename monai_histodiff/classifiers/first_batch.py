"""What a classifier is trained on: labels that are classes, pictures in [0, 1] or features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Compose
from torch import Tensor

__all__ = ["CheckedFirst", "LabelledItems", "check_finite", "check_rows", "labelled_items"]

PICTURES = {"image", "weak", "strong"}  # of a batch, the last two by FixMatch


class LabelledItems(Dataset):
    """Items whose labels are checked: the loss would leave -100 out, and others stop obscurely."""

    def __init__(self, data: Sequence[Any], transform: Compose, num_classes: int) -> None:
        super().__init__(data, transform)
        self.num_classes = num_classes

    def _transform(self, index: int) -> Any:
        made: Any = super()._transform(index)
        labelled_items(made, self.num_classes, index)
        return made


def labelled_items(made: Any, num_classes: int, index: int) -> list[Any]:
    """What a transform made of an item, one or several, whose labels are classes and become int.

    Raises:
        ValueError: a label is not one of the classes.
    """
    items = made if isinstance(made, list) else [made]
    for item in items:
        given = item.get("label")
        label = np.asarray(given)
        whole = label.ndim == 0 and label.dtype.kind in "iu"
        if not whole or not 0 <= int(label) < num_classes:
            raise ValueError(
                f"a label must be a whole number from 0 to {num_classes - 1}, got {given!r} of "
                f"item {index}: give the place among the classes, and leave unlabelled out"
            )
        item["label"] = int(label)
    return items


def _check_scaled(batch: Tensor) -> None:
    """Refuse a batch that is surely of another range than [0, 1]; strong noise and brightness
    pass, and what is not finite: the loss tells that.
    """
    low, high = float(batch.min()), float(batch.max())
    deep, most = (0.1, 0.01) if high <= 0.55 else (0.25, 0.05)
    share = float((batch < -deep).float().mean())
    if high > 3 or 0 < high < 1.01 / 255 or share > most:
        raise ValueError(
            f"a transform must make patches in [0, 1], got a first batch of {low:g} to {high:g}, "
            f"{share:.1%} of it below {-deep:g}: scale uint8 once, by 1 / 255 "
            "(ScaleIntensityRanged)"
        )


class CheckedFirst:
    """``prepare_batch`` that refuses a first batch whose pictures are not in [0, 1]: a network
    would learn from them, and judge others.
    """

    def __init__(self, prepare: Callable[..., Any]) -> None:
        self.prepare, self.seen = prepare, False

    def __call__(self, batchdata: Mapping[str, Any], *given: Any, **options: Any) -> Any:
        for name in () if self.seen else PICTURES & batchdata.keys():
            if not batchdata[name].is_floating_point():
                raise ValueError(
                    "a transform must make patches floating point in [0, 1], got "
                    f"{batchdata[name].dtype}: let it scale them (ScaleIntensityRanged)"
                )
            _check_scaled(batchdata[name])
        self.seen = True
        return self.prepare(batchdata, *given, **options)


def check_finite(features: Tensor) -> None:
    """Refuse features ``N x D`` of which a row is not finite.

    Raises:
        ValueError: one is not; the message names it.
    """
    if not bool((finite := features.isfinite().all(1)).all()):
        row = int((~finite).nonzero()[0])
        got = f"{int((~finite).sum())} of {len(finite)} rows that are not, such as number {row}"
        raise ValueError(f"features must be finite, got {got}: leave them out")


def check_rows(features: Tensor, labels: Tensor) -> None:
    """Refuse what are no finite features ``N x D`` and ``N`` whole labels.

    Raises:
        ValueError: they differ in number, there are none, or one is of another kind.
    """
    if features.ndim != 2 or labels.shape != (len(features),) or not len(labels):
        got = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"a probe needs features N x D and as many labels, got {got}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers, got {labels.dtype}: convert by .long()")
    check_finite(features)
