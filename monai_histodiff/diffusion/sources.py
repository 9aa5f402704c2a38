"""Latents of real patches, by class: what variations start from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.utils.weights import read_state, write_state

__all__ = ["by_class", "load_latents", "save_latents"]


def by_class(
    items: Sequence[Mapping[str, Any]], num_classes: int, key: str = "image"
) -> list[Tensor]:
    """What the items of each class hold under a key, stacked: latents ``N x C x h x w``, of which
    :class:`~monai_histodiff.GuidedSampler` makes variations, or their ``"row"``, shape ``N``.
    """
    found: list[list[Tensor]] = [[] for _ in range(num_classes)]
    for item in items:
        found[int(item["label"])].append(torch.as_tensor(item[key]))
    return [torch.stack(group) if group else torch.empty(0) for group in found]


def save_latents(path: str | os.PathLike[str], items: Sequence[Mapping[str, Any]]) -> None:
    """Write the items of :func:`encode_latents` to one file. Whoever has it and the autoencoder
    can see the patches.

    Raises:
        OSError: the file cannot be written; the previous one is kept.
    """
    write_state(
        path,
        {
            "image": torch.stack([item["image"] for item in items]),
            **{k: [i[k] for i in items] for k in ("label", "row")},
        },
    )


def load_latents(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read what :func:`save_latents` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or holds something else.
    """
    state = read_state(path)
    if missing := [name for name in ("image", "label", "row") if name not in state]:
        raise ValueError(
            f"a file of latents must hold image, label and row, got no {missing[0]} in '{path}'"
        )
    return [
        {"image": z, "label": y, "row": r}
        for z, y, r in zip(state["image"], state["label"], state["row"], strict=True)
    ]
