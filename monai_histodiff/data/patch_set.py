"""The one data format that every stage reads and writes: patches plus a manifest.

A :class:`PatchSet` is a folder, or a zip, of RGB patches with a ``manifest.csv``::

    path,label,split,group,...
    ADC/0001.jpg,ADC,train,patient_7,...

``label`` is empty for unlabelled patches, ``split`` is ``train``, ``test`` or empty, and ``group``
names the patient,
slide or source tile: the unit that must never be on both sides of a split. Further columns are
kept as they are. Without a manifest, each sub-folder is a class and each file is its own group.
Pictures are read through MONAI's
readers: PNG, JPEG and TIFF by pillow, NIfTI (``x, y, [z=1,] rgb``) by nibabel.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_histodiff.data.patch_files import (
    PatchRecord,
    PatchSource,
    decode_patch,
    read_records,
    write_patches,
)

__all__ = ["PatchSet", "patch_hash"]


class PatchSet(Sequence):
    """An immutable sequence of patches; item ``i`` is
    ``{"image", "label", "label_name", "group", "path"}``.

    ``image`` is a uint8 tensor ``3 x H x W``; ``label`` is the index of the class in
    :attr:`classes`, or -1. Being a sequence of dictionaries, it is what MONAI's ``Dataset``,
    ``CacheDataset`` and ``PersistentDataset`` take as data (the last with
    ``hash_func=patch_hash``).
    """

    def __init__(
        self,
        sources: Sequence[PatchSource],
        records: Sequence[PatchRecord],
        classes: Sequence[str],
    ) -> None:
        self._sources = tuple(sources)
        self.records = tuple(records)
        self.classes = tuple(classes)
        self._index = {name: i for i, name in enumerate(self.classes)}

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> PatchSet:
        """Open a folder or zip with a ``manifest.csv``, one of class folders, or several of them
        as one set.

        Raises:
            FileNotFoundError: the path, or a file that the manifest names, does not exist.
            ValueError: no picture is found, a required column is missing, a split is unknown, a
                path is listed twice, or a group is on both sides of a split.
        """
        paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        if not paths:
            raise ValueError("a patch set needs at least one folder or zip, got none")
        sources = [PatchSource(p) for p in paths]
        records = [replace(r, source=i) for i, s in enumerate(sources) for r in read_records(s)]
        sides = defaultdict(set)
        for record in records:
            sides[record.group].add(record.split)
        torn = sorted(group for group, splits in sides.items() if len(splits) > 1)
        if torn:
            raise ValueError(
                f"a group must lie in one split only, got {len(torn)} that straddle, such as '{torn[0]}'"
            )
        return cls(sources, records, sorted({r.label for r in records} - {""}))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._with(self.records[index])
        record = self.records[index]
        array = decode_patch(self._sources[record.source].read(record.path), record.path)
        return {
            "image": torch.from_numpy(array).permute(2, 0, 1).contiguous(),
            "label": self._index.get(record.label, -1),
            "label_name": record.label,
            "group": record.group,
            "path": record.path,
        }

    def _with(self, records: Sequence[PatchRecord]) -> PatchSet:
        return PatchSet(self._sources, records, self.classes)

    @property
    def labels(self) -> torch.Tensor:
        """int64 tensor of class indices, -1 where unlabelled."""
        return torch.tensor([self._index.get(r.label, -1) for r in self.records], dtype=torch.long)

    @property
    def groups(self) -> list[str]:
        """The group of each patch."""
        return [r.group for r in self.records]

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all files and of what is recorded of each."""
        found = hashlib.sha256()
        for r in self.records:
            found.update(repr((r.path, r.label, r.group)).encode())
            found.update(hashlib.sha256(self._sources[r.source].read(r.path)).digest())
        return found.hexdigest()

    def counts(self) -> dict[str, int]:
        """Number of patches of each class."""
        found = Counter(r.label for r in self.records)
        return {name: found[name] for name in self.classes}

    def images(self, least: int = 1) -> torch.Tensor:
        """All patches as one uint8 tensor ``N x 3 x H x W``.

        Args:
            least: smallest allowed height and width.

        Raises:
            ValueError: the set is empty, or its pictures differ in size or are too small.
        """
        if not self.records:
            raise ValueError("a patch set must hold at least one patch, got none")
        loaded: list[torch.Tensor] = []
        for i, record in enumerate(self.records):
            loaded.append(self[i]["image"])
            if loaded[i].shape != loaded[0].shape:
                first, here = tuple(loaded[0].shape[1:]), tuple(loaded[i].shape[1:])
                raise ValueError(
                    f"all patches must have one size, got {first} in '{self.records[0].path}' and {here} in '{record.path}'"
                )
        if min(loaded[0].shape[1:]) < least:
            raise ValueError(
                f"patches must be at least {least} x {least}, got {tuple(loaded[0].shape[1:])}"
            )
        return torch.stack(loaded)

    def select(self, split: str | None = None, label: str | None = None) -> PatchSet:
        """The patches of one split, or of one class, or of both."""
        keep = [r for r in self.records if split in (None, r.split) and label in (None, r.label)]
        return self._with(keep)

    def with_labels(self) -> PatchSet:
        """The patches that have a label."""
        return self._with([r for r in self.records if r.label])

    def without(self, other: PatchSet) -> PatchSet:
        """The patches of this set that ``other``, drawn from the same sources, does not hold."""
        drawn = {(r.source, r.path) for r in other.records}
        return self._with([r for r in self.records if (r.source, r.path) not in drawn])

    def extend(self, other: PatchSet, count: int, seed: int = 0) -> PatchSet:
        """This set, in its order, and up to ``count`` further patches of ``other``, drawn from the
        same sources at random.
        """
        rest = other.without(self).records
        chosen = np.random.default_rng(seed).permutation(len(rest))[: max(0, count)]
        return self._with([*self.records, *(rest[i] for i in sorted(chosen.tolist()))])

    def weights(self, power: float = 0.5) -> torch.Tensor:
        """Sampling weight ``n_group ** -power`` for each patch, so that a few large groups do not
        drown the others.
        """
        sizes = Counter(self.groups)
        return torch.tensor([sizes[g] ** -power for g in self.groups], dtype=torch.double)

    def hold_out(self, fraction: float, seed: int = 0) -> tuple[PatchSet, PatchSet]:
        """Two group-disjoint sets, the second with about ``fraction`` of the patches of each
        class.

        Raises:
            ValueError: ``fraction`` is not between 0 and 1, or a class has fewer than two groups,
                or shares them all with classes that would be left with none.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
        rng = np.random.default_rng(seed)
        taken: set[str] = set()
        present: defaultdict[str, set[str]] = defaultdict(set)
        for r in self.records:
            present[r.label].add(r.group)
        for label in sorted(present):
            sizes = Counter(r.group for r in self.records if r.label == label)
            if len(sizes) < 2:
                raise ValueError(
                    f"a class must have at least 2 groups to be split, got {len(sizes)} in '{label}'"
                )
            have = sum(n for group, n in sizes.items() if group in taken)
            free = rng.permutation([g for g in sorted(sizes) if g not in taken]).tolist()
            for group in free:
                if have >= fraction * sum(sizes.values()) and have > 0:
                    break
                if any(
                    own <= taken | {group} for own in present.values()
                ):  # a class would have no group left
                    continue
                taken.add(group)
                have += sizes[group]
            if have == 0:
                raise ValueError(
                    f"no group of class '{label}' can be held out without emptying another class"
                )
        parts = (
            [r for r in self.records if r.group not in taken],
            [r for r in self.records if r.group in taken],
        )
        return self._with(parts[0]), self._with(parts[1])

    def with_split(self, fraction: float = 0.3, seed: int = 0) -> PatchSet:
        """This set as it is where a split is recorded; otherwise with ``fraction`` of each class
        held out as ``test``.

        Groups are drawn by their labelled patches; unlabelled ones go where their group goes.
        """
        if any(r.split == "test" for r in self.records):
            return self
        held = set((self.with_labels() or self).hold_out(fraction, seed)[1].groups)
        sides = {
            "train": [r for r in self.records if r.group not in held],
            "test": [r for r in self.records if r.group in held],
        }
        return self._with([replace(r, split=split) for split, side in sides.items() for r in side])

    def few(self, labels_per_class: int | str, seed: int = 0) -> PatchSet:
        """A few-label draw: ``labels_per_class`` patches of each class, spread over as many groups
        as possible.

        Args:
            labels_per_class: number of patches of each class; ``"5%"`` is that share of each
                class, rounded up; ``"all"`` keeps all labelled ones.
            seed: seed of the draw.

        Raises:
            ValueError: fewer than two classes are present, the number is below 1, or a class has
                too few patches.
        """
        counts = self.counts()
        present = [c for c, n in counts.items() if n]
        if len(present) < 2:
            raise ValueError(f"at least 2 classes are needed, got {len(present)}: {present}")
        if labels_per_class == "all":
            return self.with_labels()
        share = _share(labels_per_class)
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for label in self.classes:
            wanted = math.ceil(share * counts[label]) if share else int(labels_per_class)
            if counts[label] < wanted:
                raise ValueError(
                    f"labels_per_class is {wanted}, but class '{label}' has {counts[label]} patches"
                )
            queues = defaultdict(list)
            for i in rng.permutation(
                [i for i, r in enumerate(self.records) if r.label == label]
            ).tolist():
                queues[self.records[i].group].append(i)
            rounds = sorted(
                ((turn, k, i) for k, q in enumerate(queues.values()) for turn, i in enumerate(q))
            )
            chosen += [i for _, _, i in rounds[:wanted]]
        return self._with([self.records[i] for i in sorted(chosen)])

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Copy the patches, byte for byte, into a new folder with its manifest. Nothing is left
        behind on failure.

        Where sources share a path, each source goes into a sub-folder with its number.
        """
        shared = len({r.path for r in self.records}) < len(self.records)
        named = (
            (replace(r, path=f"{r.source}/{r.path}") if shared else r, r) for r in self.records
        )
        return write_patches(
            folder, ((new, self._sources[r.source].read(r.path)) for new, r in named)
        )


def _share(labels_per_class: int | str) -> Fraction:
    """The share of each class that is asked for, or 0 where it is a number of patches; exact,
    since it will be rounded up.
    """
    text = str(labels_per_class)
    share = Fraction(text[:-1]) / 100 if re.fullmatch(r"\d+(\.\d+)?%", text) else Fraction(0)
    if not 0 < share <= 1 and not (isinstance(labels_per_class, int) and labels_per_class >= 1):
        raise ValueError(
            f"labels_per_class must be 'all', a share such as '5%', or at least 1, got {labels_per_class!r}"
        )
    return share


def patch_hash(item: Mapping[str, Any]) -> bytes:
    """The ``hash_func`` of a MONAI ``PersistentDataset`` over a :class:`PatchSet`: the same for
    the same content.

    MONAI's own pickles the item, and the pickle of a tensor differs from one reading to the next:
    nothing would be found in its cache.
    """
    rest = sorted((k, v) for k, v in item.items() if k != "image")
    content = repr((tuple(item["image"].shape), rest)).encode() + item["image"].numpy().tobytes()
    return hashlib.sha256(content).hexdigest().encode()
