"""Latents of patches, encoded once: for training, and as sources of variations."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from monai.data import DataLoader
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.utils.fingerprint import fingerprint
from monai_histodiff.utils.global_state import kept_random_state
from monai_histodiff.utils.modes import evaluating
from monai_histodiff.utils.processes import from_first_rank
from monai_histodiff.utils.weights import read_state, write_state

__all__ = ["describe_exemplars", "encode_latents", "fit_exemplars", "fit_latent_statistics"]

logger = logging.getLogger(__name__)
Describe = Callable[[Tensor], Tensor]


class Describer(Protocol):
    """What gives the descriptors ``N x D`` of patches, such as
    :class:`monai_histodiff.PatchEncoder`.
    """

    def descriptors(self, patches: Tensor) -> Tensor:
        """Of patches ``N x 3 x H x W`` in [0, 1]."""


def encode_latents(
    model: LatentDiffusion,
    patches: Dataset,
    repeats: int = 1,
    batch_size: int = 64,
    num_workers: int = 0,
    cache: str | os.PathLike[str] | None = None,
    describe: Describer | None = None,
) -> list[dict[str, Any]]:
    """Encode every item of a dataset once, or ``repeats`` times under its random transforms, for
    latent training.

    Args:
        model: its autoencoder encodes, where it is; latents are normalised by its statistics.
        patches: a map-style dataset whose items hold ``"image"``, RGB, uint8 or in
            [0, 1], and ``"label"``, such as a ``PatchSet``.
        repeats: encodings of each item; use more than one where the dataset augments.
        batch_size: patches encoded at once.
        num_workers: worker processes that load.
        cache: a file to keep the latents in, where the dataset is over a ``PatchSet``. It is used
            again only for the same encoder, statistics, files, transform and repeats, and made
            anew if it is damaged. In a distributed training one process encodes and all read it.
        describe: gives the descriptors ``N x D`` of patches, for exemplars, such as a
            :class:`monai_histodiff.PatchEncoder`.

    Returns:
        A list of ``{"image": float16 latent C x h x w, "label": int, "row": int}`` on the CPU;
        ``row`` is the item's place in the dataset. With ``describe`` each holds a
        ``"descriptor"`` too, float32, shape ``D``.

    Raises:
        ValueError: patches are of another range, latents that are not those of a ``PatchSet`` are
            to be kept, are not finite, or another run writes into the same cache at the same time.
    """
    described = None if describe is None else describe.descriptors

    def encode() -> dict[str, Tensor]:
        return _encode(model, patches, repeats, batch_size, num_workers, described)

    if cache is None:
        return _items(encode(), repeats)
    key, own = _key(model, patches, repeats, described), []

    def prepare() -> None:
        found = _kept(cache, key)
        if found is None:
            found = encode()
            write_state(cache, {"key": key, "columns": found})
        own.append(found)

    from_first_rank(prepare)
    kept = own[0] if own else _kept(cache, key)
    if kept is None:
        raise ValueError(
            f"the cache must hold the latents of this run, got those of another in '{cache}', "
            "which writes there at the same time: give each run a cache of its own"
        )
    return _items(kept, repeats)


def _kept(cache: str | os.PathLike[str], key: str) -> dict[str, Tensor] | None:
    """The columns of a cache, if it has this key and is intact."""
    if not Path(cache).exists():
        return None
    try:
        kept = read_state(cache)
        return kept["columns"] if kept["key"] == key else None
    except (ValueError, KeyError) as error:
        logger.warning("the latents are encoded anew, for the cache is damaged: %s", error)
        return None


def _items(columns: Mapping[str, Tensor], repeats: int) -> list[dict[str, Any]]:
    count = len(columns["label"]) // repeats
    rows = zip(*columns.values(), strict=True)
    items = [dict(zip(columns, row, strict=True)) for row in rows]
    return [
        {**item, "label": int(item["label"]), "row": i % count} for i, item in enumerate(items)
    ]


def _encode(
    model: LatentDiffusion,
    patches: Dataset,
    repeats: int,
    batch_size: int,
    num_workers: int,
    describe: Describe | None,
) -> dict[str, Tensor]:
    """The columns of the items, one row for each encoding."""
    parts: dict[str, list[Tensor]] = {"image": [], "label": []}
    with kept_random_state(), torch.no_grad(), evaluating(model):
        loader = DataLoader(patches, batch_size=batch_size, num_workers=num_workers)
        batches = (batch for _ in range(repeats) for batch in loader)
        for batch in tqdm(batches, desc="encode latents", total=repeats * len(loader)):
            image = convert_to_tensor(batch["image"], track_meta=False)
            padded = model.padded(image.to(model.latent_mean.device))
            parts["image"].append(model.encode(padded).half().cpu())
            parts["label"].append(torch.as_tensor(batch["label"]))
            if describe is not None:
                parts.setdefault("descriptor", []).append(describe(image).float().cpu())
    columns = {name: torch.cat(found) for name, found in parts.items()}
    if not bool((finite := columns["image"].isfinite()).all()):
        raise ValueError(
            "latents must be finite in float16, got "
            f"{int((~finite).sum())} values that are not: check autoencoder and patches"
        )
    return columns


def _key(model: LatentDiffusion, patches: Dataset, repeats: int, describe: Describe | None) -> str:
    data = getattr(patches, "data", patches)
    if not isinstance(data, PatchSet):
        raise ValueError(
            "only the latents of a PatchSet, or of a MONAI dataset over one, can be kept, "
            f"got {type(patches).__name__}"
        )
    parts = model.autoencoder.state_dict().items()
    kept = {name: value for name, value in parts if "decoder" not in name.split(".")}
    encoder = (kept, model.latent_mean, model.latent_std)
    return fingerprint(
        encoder, data.digest(), getattr(patches, "transform", None), repeats, describe
    )


def fit_latent_statistics(
    model: LatentDiffusion, latents: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Set the model's latent mean and scale from latents encoded so far, and return them
    normalised anew.

    The mean is that of each channel, the scale one for all: the autoencoder's own order of
    channels is kept.

    Raises:
        ValueError: there are no latents, or they do not differ.
    """
    old_mean, old_std = (
        v.cpu().clone().view(-1, 1, 1) for v in (model.latent_mean, model.latent_std)
    )

    def raw(item: Mapping[str, Any]) -> Tensor:
        return item["image"].float() * old_std + old_mean

    if not latents:
        raise ValueError("statistics need latents, got none: encode some patches")
    mean = torch.stack([raw(item).double().mean((1, 2)) for item in latents]).mean(0)
    own = mean.float().view(-1, 1, 1)
    squares = sum(float((raw(item) - own).double().square().sum()) for item in latents)
    count = sum(item["image"].numel() for item in latents)
    std = math.sqrt(squares / (count - 1))
    if not 0 < std < math.inf:
        raise ValueError(f"latents must differ, got a deviation of {std}: check the patches")
    model.latent_mean.copy_(mean)
    model.latent_std.fill_(std)
    return [{**item, "image": ((raw(item) - own) / std).half()} for item in latents]


def fit_exemplars(model: LatentDiffusion, latents: Sequence[Mapping[str, Any]]) -> LatentDiffusion:
    """Set mean and scale of the descriptors of a model of exemplars from latents encoded so far,
    unless they have been set, and return the model.
    """
    exemplar = model.exemplar
    if exemplar is not None and not bool(exemplar.mean.any()):
        exemplar.fit(torch.stack([item["descriptor"] for item in latents]))
    return model


def describe_exemplars(
    patches: Dataset, describe: Describer, weights: Tensor, count: int = 2048, seed: int = 0
) -> Sources:
    """Descriptors of training patches, which a bundle keeps for samples of no class: the sources
    of :meth:`Sources.from_bundle`.

    Args:
        patches: a map-style dataset whose items hold ``"image"``, RGB in [0, 1].
        describe: gives their descriptors ``N x D``, such as a
            :class:`monai_histodiff.PatchEncoder`.
        weights: of each patch, shape ``len(patches)``: patches are drawn by them, each once.
        count: how many are drawn; of fewer patches all.
        seed: draws them.

    Returns:
        Descriptors in float16, as those of one class; without latents and rows.

    Raises:
        ValueError: ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"the number of exemplars must be at least 1, got {count}")
    generator = torch.Generator().manual_seed(seed)
    count = min(count, int((weights > 0).sum()))
    drawn = torch.multinomial(weights, count, generator=generator).tolist()
    with kept_random_state():
        loader = DataLoader(Subset(patches, drawn), batch_size=64)
        found = [
            describe.descriptors(convert_to_tensor(batch["image"], track_meta=False))
            for batch in tqdm(loader, desc="describe exemplars")
        ]
    return Sources(descriptors=(torch.cat(found).half().cpu(),))
