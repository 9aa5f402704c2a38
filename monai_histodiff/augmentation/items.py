"""What lies in an item beside patch and label: once the patch is replaced, nothing may go on
telling of the real one.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.augmentation.labels import Labels, same_type
from monai_histodiff.augmentation.patches import SYNTHETIC, beside_synthetic
from monai_histodiff.data.bank import BankPatch

__all__ = ["RECORD", "check_item", "check_names", "float32", "record_of", "retell"]

RECORD = ("synthetic", "synthetic_confidence", "synthetic_seed")


def check_item(
    item: Mapping[Hashable, Any],
    own: Iterable[Hashable],
    kept: Iterable[Hashable],
    written: Iterable[Hashable],
) -> None:
    """Refuse items that a replacement would make false, whether this one is replaced or not.

    Args:
        item: the item.
        own: the keys of patch and label.
        kept: keys whose values hold for a synthetic patch, too.
        written: keys that will be added.

    Raises:
        ValueError: a key would be overwritten, or holds more than a text and is not among those
            kept, such as a mask.
    """
    if taken := [key for key in written if key in item]:
        raise ValueError(
            f"the keys {taken} tell what the transform did, and the item has them already: rename "
            "yours (and use one SyntheticAugmentd in a pipeline)"
        )
    known = {*own, *kept}
    stale = [
        key
        for key, value in item.items()
        if key not in known and not isinstance(value, (str, os.PathLike))
    ]
    if stale:
        raise ValueError(
            f"the keys {stale} belong to the real patch and would lie beside a synthetic one: "
            f"take them out before (DeleteItemsd({stale})), or name them in keep_keys if what "
            "they tell holds for any patch of the class"
        )


def check_names(
    item: Mapping[Hashable, Any],
    own: Iterable[Hashable],
    kept: Iterable[Hashable],
    labels: Labels,
    index: int,
) -> None:
    """Refuse an item in which a text names another class than the label does, such as the
    ``label_name`` of a :class:`~monai_histodiff.PatchSet` whose indices are not the bank's.

    Args:
        item: as it came.
        own: the keys of patch and label.
        kept: keys that are not looked at.
        labels: your classes.
        index: of the label.

    Raises:
        ValueError: there is such a text.
    """
    known, names = {*own, *kept}, labels.names
    for key, value in item.items():
        if key not in known and value in labels.telling and names[index] != value:
            raise ValueError(
                f"the label is {index}, which stands for '{names[index]}', but '{key}' is "
                f"'{value}': pass classes=, the names of your class indices in order; or, if "
                f"'{key}' tells something else, name it in keep_keys"
            )


def retell(
    item: dict[Hashable, Any], own: Iterable[Hashable], kept: Iterable[Hashable], names: Any
) -> None:
    """Make the texts of an item whose patch was replaced tell of the synthetic one: the name of
    the old class becomes that of the new one, any other text ``"synthetic"``. Of what is kept, the
    metadata of a MetaTensor no longer tell of its file.

    Args:
        item: changed in place.
        own: the keys of patch and label.
        kept: keys whose values hold for a synthetic patch, too.
        names: of the old and of the new class; empty where they are not known.
    """
    mine, known = {*own}, {*kept}
    for key, value in item.items():
        if key in known - mine:
            item[key] = beside_synthetic(value)
        elif key not in mine:
            is_class = bool(names) and value == names[0]
            item[key] = same_type(value, names[1] if is_class else SYNTHETIC)


def record_of(drawn: BankPatch | None) -> dict[str, Any]:
    """What an item tells of the patch that took its place; ``None``: it is real."""
    empty = torch.empty(0, dtype=torch.uint8, device="cpu")
    known = drawn or BankPatch(empty, -1, float("nan"), -1)
    values = (drawn is not None, float32(known.confidence), known.seed)
    return dict(zip(RECORD, values, strict=True))


def float32(value: float) -> Tensor:
    """A number as a tensor that collates to float32."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")
