"""Reading patches: bytes of sources to images of one magnification and one size."""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from monai_histodiff.data.patch_files import SCALE, PatchRecord, PatchSource
from monai_histodiff.data.pictures import NIFTI, decode_patch, picture_size
from monai_histodiff.data.pixels import resampled
from monai_histodiff.utils.progress import patient

__all__ = [
    "PatchReader",
    "check_scale",
    "fill_scale",
    "image_scale",
    "patch_hash",
    "scale_notes",
    "size_words",
]

ENLARGED = 1.25  # beyond this factor, a note says that detail is missing
ALIKE = 0.05  # scales that differ by no more are one: scanners do, at one magnification


def check_scale(um_per_px: float) -> None:
    """Refuse what is no magnification.

    Raises:
        ValueError: it is not above 0.
    """
    if not 0 < um_per_px < math.inf:
        raise ValueError(f"um_per_px must be above 0, such as 1.0, got {um_per_px}")


def fill_scale(
    records: Sequence[PatchRecord], um_per_px: float
) -> tuple[list[PatchRecord], list[str]]:
    """The records, with a magnification where none is recorded; and a plain sentence where what
    is recorded stays, though it differs.
    """
    check_scale(um_per_px)
    said = {SCALE: repr(float(um_per_px))}
    other = {f"{r.um_per_px:g}" for r in records if r.um_per_px not in (None, um_per_px)}
    notes = [
        f"{SCALE} {um_per_px:g} is for patches that record none: {', '.join(sorted(other)[:3])}, "
        "as others record it, stays."
    ] * bool(other)
    return [r if r.um_per_px else replace(r, extra={**r.extra, **said}) for r in records], notes


def scale_notes(records: Sequence[PatchRecord], um_per_px: float) -> list[str]:
    """Plain sentences on what is assumed, or lacking, at a magnification."""
    scales, notes = [r.um_per_px for r in records], []
    if unknown := sum(s is None for s in scales):
        notes.append(
            f"{unknown} of {len(records)} patches record no {SCALE}: taken to be at {um_per_px:g}"
            " um per pixel, as the model is."
        )
    if coarse := sum(s is not None and s > ENLARGED * um_per_px for s in scales):
        notes.append(
            f"{coarse} of {len(records)} patches are coarser than {um_per_px:g} um per pixel:"
            " enlarged, without the detail that the model knows."
        )
    return notes


def image_scale(record: PatchRecord, um_per_px: float | None) -> float | None:
    """Micrometres per pixel of an image that is read at ``um_per_px``; ``None`` where the record
    says none. Scales that differ by 5 % or less count as one: the image is as its file is.
    """
    own = record.um_per_px
    if own is None or um_per_px is None or abs(own / um_per_px - 1) < ALIKE + 1e-9:
        return own
    return um_per_px


def size_words(path: str, read: tuple[int, int], own: tuple[int, int]) -> str:
    """A path, the height and width that its image is read at, and those of its file if they are
    others.
    """
    file = "" if own == read else f" of a file of {own[0]} x {own[1]}"
    return f"'{path}' ({read[0]} x {read[1]}{file})"


@dataclass(frozen=True)
class PatchReader:
    """Images of records.

    Attributes:
        sources: the folders and zips that records point into.
        um_per_px: micrometres per pixel of every image; a record that says none is taken to have
            it. ``None`` leaves each image as its file is.
    """

    sources: tuple[PatchSource, ...]
    um_per_px: float | None = None

    def check_same(self, other: PatchReader) -> None:
        """Refuse a reader of other folders or zips: a record only tells which of them it is in.

        Raises:
            ValueError: they differ.
        """
        roots, theirs = ([str(s.root) for s in one.sources] for one in (self, other))
        if roots != theirs:
            raise ValueError(
                f"patches must be drawn from the same folders or zips, got {roots} and {theirs}:"
                " open them as one set, PatchSet.open([first, second])"
            )

    def names(self, records: Sequence[PatchRecord]) -> list[str]:
        """What to call each: its path, or, where several sources have that, the whole place."""
        known = Counter(path for source in self.sources for path in source.pictures)
        return [
            str(self.sources[r.source].root / r.path) if known[r.path] > 1 else r.path
            for r in records
        ]

    def content(self, record: PatchRecord) -> bytes:
        """The bytes of its file."""
        return self.sources[record.source].read(record.path)

    def sha256(self, record: PatchRecord) -> str:
        """SHA-256 of its file, in hexadecimal."""
        return hashlib.sha256(self.content(record)).hexdigest()

    def image(self, record: PatchRecord) -> Tensor:
        """uint8 ``3 x H x W``, at the magnification, in memory of its own."""
        source = self.sources[record.source]
        place = str(source.root / record.path)
        array = decode_patch(self.content(record), place, source.limits)
        image = torch.from_numpy(array).permute(2, 0, 1)
        height, width = image.shape[1:]
        return resampled(image, self._scaled(record, height, width)).contiguous()

    def transparent(self, record: PatchRecord) -> bool:
        """Whether its file has transparency, which is read over white."""
        if record.path.lower().endswith(NIFTI):
            return False
        with Image.open(io.BytesIO(self.content(record))) as picture:
            return "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA")

    def size(self, record: PatchRecord) -> tuple[int, int]:
        """Height and width of the image, from the header of the file, which is read once."""
        source = self.sources[record.source]
        if (known := source.headers.get(record.path)) is None:
            place = str(source.root / record.path)
            known = picture_size(self.content(record), place, source.limits)
            source.headers[record.path] = known
        return self._scaled(record, *known)

    def sizes(self, records: Sequence[PatchRecord]) -> list[tuple[int, int]]:
        """Those of several, with a bar where that takes long."""
        return [self.size(r) for r in patient(records, "headers")]

    def _scaled(self, record: PatchRecord, height: int, width: int) -> tuple[int, int]:
        own, wanted = record.um_per_px, image_scale(record, self.um_per_px)
        if own is None or wanted is None or own == wanted:
            return height, width
        size = max(1, round(height * own / wanted)), max(1, round(width * own / wanted))
        if size[0] * size[1] > (most := self.sources[record.source].limits.pixels):
            raise ValueError(
                f"a patch must have at most {most} pixels at {wanted:g} um per pixel, got "
                f"{size[0]} x {size[1]} of '{record.path}', recorded at {own:g}: is it in "
                "micrometres, not nanometres? Correct um_per_px, or cut smaller patches"
            )
        return size

    def digest(self, records: Iterable[PatchRecord]) -> str:
        """SHA-256, in hexadecimal, of files, of what is recorded of each, and of the
        magnification.
        """
        found = hashlib.sha256()
        for r in records:
            scale = () if self.um_per_px is None else (r.um_per_px, self.um_per_px)
            found.update(repr((r.path, r.label, r.group, *scale)).encode())
            found.update(bytes.fromhex(self.sha256(r)))
        return found.hexdigest()

    def check_size(self, records: Sequence[PatchRecord], size: int) -> None:
        """Refuse images that are smaller than ``size`` x ``size``, before any is decoded.

        Raises:
            ValueError: some are; the message says how many, and what would do.
        """
        sides = [min(size) for size in self.sizes(records)]
        small = [i for i, side in enumerate(sides) if side < size]
        if small:
            scale = "" if self.um_per_px is None else f" at {self.um_per_px:g} um per pixel"
            first = records[small[0]]
            told = size_words(
                first.path, self.size(first), replace(self, um_per_px=None).size(first)
            )
            raise ValueError(
                f"patches must be at least {size} x {size}{scale}, got {len(small)} of"
                f" {len(records)} that are smaller, such as {told}: set size"
                f" to at most {min(sides)}, or leave them out"
            )

    def stack(
        self, records: Sequence[PatchRecord], crop: Callable[[Tensor], Tensor], size: int | None
    ) -> Tensor:
        """What ``crop`` makes of each image, uint8; memory grows with the crops, not the files.

        Args:
            records: at least one.
            crop: ``3 x H x W`` to a tensor of one shape.
            size: the least height and width; ``None`` for whole images, all of one size.

        Raises:
            ValueError: there is no record, or images are too small or differ in size.
        """
        if not records:
            raise ValueError("a patch set must hold at least one patch, got none")
        out = torch.empty(0, dtype=torch.float32)
        for i, record in enumerate(patient(records, "read")):
            image = self.image(record)
            if size is not None and min(image.shape[1:]) < size:
                self.check_size(records, size)
            part = crop(image)
            if i == 0:
                out = torch.empty(len(records), *part.shape, dtype=torch.uint8)
            if part.shape != out.shape[1:]:
                first, here = tuple(out.shape[-2:]), tuple(part.shape[-2:])
                raise ValueError(
                    f"all patches must have one size, got {first} in '{self.names(records)[0]}'"
                    f" and {here} in '{self.names([record])[0]}': give a size to crop to"
                )
            out[i] = part
        return out


def patch_hash(item: Mapping[str, Any]) -> bytes:
    """The ``hash_func`` of a MONAI ``PersistentDataset`` over a :class:`PatchSet`: the same for
    equal content. MONAI's own pickles tensors, which differs from one reading to the next.
    """
    rest = sorted((k, v) for k, v in item.items() if k != "image")
    content = repr((tuple(item["image"].shape), rest)).encode() + item["image"].numpy().tobytes()
    return hashlib.sha256(content).hexdigest().encode()
