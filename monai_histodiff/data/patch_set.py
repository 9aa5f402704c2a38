"""The one data format that every stage reads and writes: patches plus a manifest.

A :class:`PatchSet` is a folder, or a zip, of RGB patches with a ``manifest.csv``::

    path,label,split,group,um_per_px,...
    ADC/0001.jpg,ADC,train,patient_7,0.5,...

``label`` is empty for unlabelled patches, ``split`` is ``train``, ``val``, ``test`` or empty,
``group`` names the patient, slide or source tile: the unit that must never be on both sides of a
split, and ``um_per_px`` is the magnification. Further columns are kept as they are. The rules of
manifests, and of class folders without one, are those of :mod:`~monai_histodiff.data.listing`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_histodiff.data.choosing import check_named, chosen_rows, own_paths, select_records
from monai_histodiff.data.draws import draw_few, draw_groups, draw_split
from monai_histodiff.data.listing import list_patches
from monai_histodiff.data.patch_files import PatchRecord, PatchSource, write_patches
from monai_histodiff.data.pictures import LIMITS, Limits
from monai_histodiff.data.pixels import centre_crop, five_crops
from monai_histodiff.data.reading import PatchFiles
from monai_histodiff.data.scale import fill_scale

__all__ = ["PatchSet"]


class PatchSet(PatchFiles):
    """An immutable sequence of patches; item ``i`` is
    ``{"image", "label", "label_name", "group", "path"}``.

    ``image`` is a uint8 tensor ``3 x H x W``; ``label`` is the index of the class in
    :attr:`classes`, or -1. Being a sequence of dictionaries, it is what MONAI's ``Dataset``,
    ``CacheDataset`` and ``PersistentDataset`` (with ``hash_func=patch_hash``) take as data.

    Attributes:
        records: one for each patch.
        classes: names, by class index.
        notes: plain sentences on what was left out or assumed when the set was opened.
        um_per_px: micrometres per pixel of every image; ``None`` leaves each as its file is.
    """

    def __init__(
        self,
        sources: Sequence[PatchSource],
        records: Sequence[PatchRecord],
        classes: Sequence[str],
        notes: Sequence[str] = (),
        um_per_px: float | None = None,
    ) -> None:
        super().__init__(sources, records, um_per_px)
        self.classes = tuple(classes)
        self.notes = tuple(notes)
        self._index = {name: i for i, name in enumerate(self.classes)}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        um_per_px: float | None = None,
        class_level: int | None = None,
        group_level: int | None = None,
        limits: Limits = LIMITS,
        group_pattern: str | None = None,
    ) -> PatchSet:
        """Open a folder or zip with a ``manifest.csv``, one of class folders, a table of another
        name (``.csv``, ``.tsv``) beside its pictures, or several of them as one set.

        Args:
            path: one or several; ``~`` is the user's home.
            um_per_px: micrometres per pixel of the patches that record none.
            class_level: without a manifest, the level of folders, from 1 at the top, that names
                the class; needed where there are several beside the split.
            group_level: likewise the level that names the patient or slide.
            limits: of pixels and bytes of each file.
            group_pattern: a regular expression: its bracket is the group, where none is recorded.

        Raises:
            FileNotFoundError, PermissionError: a path or file is not there, or may not be read.
            ValueError: a rule of the manifest, the folders or the zip is broken.
        """
        paths = [path] if isinstance(path, (str, os.PathLike)) else path
        if not (sources := [PatchSource(p, limits) for p in paths]):
            raise ValueError("a patch set needs at least one folder or zip, got none")
        records, notes = list_patches(sources, class_level, group_level, group_pattern)
        found = cls(sources, records, sorted({r.label for r in records} - {""}), notes)
        return found if um_per_px is None else found.filled(um_per_px)

    def filled(self, um_per_px: float, *notes: str) -> PatchSet:
        """This set with a magnification for the patches that record none, and notes on it."""
        found, more = fill_scale(self.records, um_per_px)
        return self._with(found, (*notes, *more))

    def at(self, um_per_px: float | None) -> PatchSet:
        """This set with every image at one magnification, such as the model's: resampled, with
        anti-aliasing, as it is read; ``None``: as the files are. Patches that record none are
        taken to have it, and a note says so.
        """
        new = () if um_per_px is None else self._scale_notes(um_per_px)
        return PatchSet(self._sources, self.records, self.classes, [*self.notes, *new], um_per_px)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._with(self.records[index])
        record = self.records[index]
        return {
            "image": self._image(record),
            "label": self._index.get(record.label, -1),
            "label_name": record.label,
            "group": record.group,
            "path": record.path,
        }

    def _with(self, records: Sequence[PatchRecord], more: Sequence[str] = ()) -> PatchSet:
        notes = (*self.notes, *more)
        return PatchSet(self._sources, records, self.classes, notes, self.um_per_px)

    @property
    def labels(self) -> Tensor:
        """int64 tensor of class indices, -1 where unlabelled."""
        indices = [self._index.get(r.label, -1) for r in self.records]
        return torch.tensor(indices, dtype=torch.long, device="cpu")

    @property
    def groups(self) -> list[str]:
        """The group of each patch."""
        return [r.group for r in self.records]

    def counts(self) -> dict[str, int]:
        """Number of patches of each class."""
        found = Counter(r.label for r in self.records)
        return {name: found[name] for name in self.classes}

    def images(self, size: int | None = None) -> Tensor:
        """All patches as one uint8 tensor ``N x 3 x H x W``, cropped one by one as they are read.

        Args:
            size: side of the centre crops; ``None``: whole patches, which must be of one size.

        Raises:
            ValueError: the set is empty, or patches differ in size or are smaller than ``size``.
        """
        return self._stack(lambda image: image if size is None else centre_crop(image, size), size)

    def crop_count(self, size: int) -> int:
        """How many crops :meth:`five_crops` takes of each patch: one where all have that size."""
        return 1 if set(self.sizes()) == {(size, size)} else 5

    def five_crops(self, size: int) -> Tensor:
        """Centre and corner crops, uint8 ``5 x N x 3 x size x size``; ``1 x N x ...`` where all
        patches have that size.

        Raises:
            ValueError: the set is empty, or patches are smaller than ``size``.
        """
        if self.crop_count(size) == 1:
            return self.images(size)[None]
        crops = self._stack(lambda v: five_crops(v[None], size)[:, 0].expand(5, -1, -1, -1), size)
        return crops.transpose(0, 1)

    def select(self, split: str | None = None, label: str | None = None) -> PatchSet:
        """The patches of one split, or of one class, or of both; of none where it is ``""``.

        Raises:
            ValueError: there is no such split, or the set has no such class.
        """
        return self._with(select_records(self.records, self.classes, split, label))

    def take(self, chosen: Iterable[int] | Iterable[bool]) -> PatchSet:
        """The patches at these indices, in their order, or where a bool mask is true.

        Raises:
            ValueError: the mask is not as long as the set, or an index is no whole number.
        """
        return self._with([self.records[i] for i in chosen_rows(chosen, len(self))])

    def with_labels(self) -> PatchSet:
        """The patches that have a label."""
        return self._with([r for r in self.records if r.label])

    def with_classes(self, classes: Sequence[str]) -> PatchSet:
        """This set with its labels counted, by name, in the classes of a set opened apart.

        Raises:
            ValueError: a patch has a label that is none of these.
        """
        check_named(self.records, self.classes, classes)
        return PatchSet(self._sources, self.records, classes, self.notes, self.um_per_px)

    def without(self, other: PatchSet) -> PatchSet:
        """The patches of this set that ``other``, drawn from the same sources, does not hold.

        Raises:
            ValueError: ``other`` is drawn from other sources.
        """
        self._check_same(other)
        drawn = {(r.source, r.path) for r in other.records}
        return self._with([r for r in self.records if (r.source, r.path) not in drawn])

    def same(self, other: PatchSet) -> bool:
        """Whether ``other`` has the same patches of the same sources, in this order and scale."""
        own, theirs = ((s._sources, s.um_per_px, s.records) for s in (self, other))
        return own == theirs

    def extend(self, other: PatchSet, count: int, seed: int = 0) -> PatchSet:
        """This set, and ``count`` others: as by :meth:`without` and :meth:`with_classes`."""
        rest, rng = other.without(self), np.random.default_rng(seed)
        chosen = sorted(rng.permutation(len(rest))[: max(0, count)].tolist())
        return self._with([*self.records, *rest.take(chosen).with_classes(self.classes).records])

    def weights(self, power: float = 0.5) -> Tensor:
        """Sampling weights ``n_group ** -power``: large groups do not drown others."""
        sizes = Counter(own := self.groups)
        return torch.tensor([sizes[g] ** -power for g in own], dtype=torch.double, device="cpu")

    def hold_out(self, fraction: float, seed: int = 0) -> tuple[PatchSet, PatchSet]:
        """Two group-disjoint sets, the second with about ``fraction`` of each class.

        Raises:
            ValueError: ``fraction`` is not between 0 and 1, or a class has too few groups.
        """
        taken = draw_groups(self.records, fraction, seed)
        sides = ([r for r in self.records if (r.group in taken) == out] for out in (False, True))
        return self._with(next(sides)), self._with(next(sides))

    def with_split(self, fraction: float = 0.3, seed: int = 0) -> PatchSet:
        """This set as it is where a split is recorded; otherwise with ``fraction`` of each class
        held out as ``test``: groups are drawn by labelled patches, unlabelled ones go along.

        Raises:
            ValueError: only some patches have a split, or none is ``test``; see :meth:`hold_out`.
        """
        drawn = draw_split(self.records, fraction, seed)
        return self if drawn is self.records else self._with(drawn)

    def few(self, labels_per_class: int | str, seed: int = 0) -> PatchSet:
        """A few-label draw: patches of each class, spread over as many groups as possible.

        Args:
            labels_per_class: patches of each class; ``"5%"``: that share, rounded up; ``"all"``.
            seed: seed of the draw.

        Raises:
            ValueError: there are fewer than two classes, or too few patches of one, or none asked.
        """
        return self.take(draw_few(self.records, self.classes, labels_per_class, seed))

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Copy the patches, byte for byte, into a new folder with its manifest, which keeps the
        magnification of the files. Nothing is left behind on failure. Where sources share a path,
        each goes into a sub-folder with its number. An empty set, or one that has a patch twice,
        is refused, by a ``ValueError``. A part that lacks a class does not know it when it is
        opened: see :meth:`with_classes`.
        """
        own, content = own_paths(self.records), map(self._content, self.records)
        return write_patches(folder, zip(own, content, strict=True))
