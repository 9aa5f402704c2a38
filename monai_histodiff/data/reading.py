"""Reading patches: bytes of sources to images of one magnification and one size."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from monai_histodiff.data.patch_files import PatchRecord, PatchSource
from monai_histodiff.data.pictures import FORMATS, NIFTI, decode_patch, picture_size
from monai_histodiff.data.pixels import resampled
from monai_histodiff.data.scale import image_scale, scale_in_header, scale_notes
from monai_histodiff.utils.counts import is_whole
from monai_histodiff.utils.progress import patient

DESCRIPTION = 270  # of TIFF

__all__ = ["PatchFiles", "patch_hash", "size_words"]


def size_words(path: str, read: tuple[int, int], own: tuple[int, int]) -> str:
    """A path, the height and width that its image is read at, and those of its file if they are
    others.
    """
    file = "" if own == read else f" of a file of {own[0]} x {own[1]}"
    return f"'{path}' ({read[0]} x {read[1]}{file})"


class PatchFiles(Sequence):
    """The files of patches, and the images that they hold, of one magnification.

    Attributes:
        records: one for each patch.
        um_per_px: micrometres per pixel of every image; ``None`` leaves each as its file is. A
            record that says none is taken to have it.
    """

    def __init__(
        self,
        sources: Sequence[PatchSource],
        records: Sequence[PatchRecord],
        um_per_px: float | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self.records = tuple(records)
        self.um_per_px = um_per_px

    def __len__(self) -> int:
        return len(self.records)

    def _check_same(self, other: PatchFiles) -> None:
        """Refuse files of other folders or zips: a record only tells which of them it is in."""
        roots, theirs = ([str(s.root) for s in one._sources] for one in (self, other))
        if roots != theirs:
            raise ValueError(
                f"patches must be drawn from the same folders or zips, got {roots} and {theirs}:"
                " open them as one set, PatchSet.open([first, second])"
            )

    def names(self) -> list[str]:
        """What to call each patch: its path, with its source where several have that path."""
        known = Counter(path for source in self._sources for path in source.pictures)
        return [
            str(self._sources[r.source].root / r.path) if known[r.path] > 1 else r.path
            for r in self.records
        ]

    def file_hashes(self) -> list[str]:
        """SHA-256 of the file of each patch, in hexadecimal."""
        return [hashlib.sha256(self._content(r)).hexdigest() for r in self.records]

    def _content(self, record: PatchRecord) -> bytes:
        return self._sources[record.source].read(record.path)

    def _image(self, record: PatchRecord) -> Tensor:
        """uint8 ``3 x H x W``, at the magnification, in memory of its own."""
        source = self._sources[record.source]
        place = str(source.root / record.path)
        array = decode_patch(self._content(record), place, source.limits)
        image = torch.from_numpy(array).permute(2, 0, 1)
        height, width = image.shape[1:]
        return resampled(image, self._scaled(record, height, width)).contiguous()

    def transparent(self) -> list[bool]:
        """Whether the file of each patch has transparency, which is read over white."""
        return [self._transparent(r) for r in self.records]

    def _transparent(self, record: PatchRecord) -> bool:
        if record.path.lower().endswith(NIFTI):
            return False
        with Image.open(io.BytesIO(self._content(record)), formats=FORMATS) as picture:
            if "transparency" not in picture.info and picture.mode not in ("LA", "PA", "RGBA"):
                return False
            return any(picture.convert("RGBA").getchannel("A").histogram()[:255])

    def _scale_notes(self, um_per_px: float) -> list[str]:
        """Plain sentences on what is assumed, or lacking, at a magnification, also where the file
        of the first record tells one, which is not used: few files tell their own.
        """
        first, own = next((r for r in self.records if r.um_per_px is None), None), None
        if first is not None and not first.path.lower().endswith(NIFTI):
            # what cannot be read is told when it is decoded
            with (
                suppress(Exception),
                Image.open(io.BytesIO(self._content(first)), formats=FORMATS) as picture,
            ):
                description = getattr(picture, "tag_v2", {}).get(DESCRIPTION, "")
                own = scale_in_header(picture.info, str(description))
        return scale_notes(self.records, um_per_px, own)

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image, from the headers of the files, each read once."""
        return [self._scaled(r, *self._header(r)) for r in patient(self.records, "headers")]

    def _header(self, record: PatchRecord) -> tuple[int, int]:
        source = self._sources[record.source]
        if (known := source.headers.get(record.path)) is None:
            place = str(source.root / record.path)
            known = picture_size(self._content(record), place, source.limits)
            source.headers[record.path] = known
        return known

    def _scaled(self, record: PatchRecord, height: int, width: int) -> tuple[int, int]:
        own, wanted = record.um_per_px, image_scale(record, self.um_per_px)
        if own is None or wanted is None or own == wanted:
            return height, width
        size = max(1, round(height * own / wanted)), max(1, round(width * own / wanted))
        if size[0] * size[1] > (most := self._sources[record.source].limits.pixels):
            raise ValueError(
                f"a patch must have at most {most} pixels at {wanted:g} um per pixel, got "
                f"{size[0]} x {size[1]} of '{record.path}', recorded at {own:g}: is that "
                "a magnification? Correct um_per_px, or cut smaller patches"
            )
        return size

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of files, of what is recorded of each, and of their scale."""
        found = hashlib.sha256()
        for r, file in zip(self.records, self.file_hashes(), strict=True):
            scale = () if self.um_per_px is None else (r.um_per_px, self.um_per_px)
            found.update(repr((r.path, r.label, r.group, *scale)).encode())
            found.update(bytes.fromhex(file))
        return found.hexdigest()

    def check_size(self, size: int) -> None:
        """Refuse, by a ``ValueError``, patches smaller than ``size`` x ``size``, undecoded."""
        sizes = self.sizes()
        sides = [min(size) for size in sizes]
        small = [i for i, side in enumerate(sides) if side < size]
        if small:
            scale = "" if self.um_per_px is None else f" at {self.um_per_px:g} um per pixel"
            first = self.records[small[0]]
            told = size_words(first.path, sizes[small[0]], self._header(first))
            raise ValueError(
                f"patches must be at least {size} x {size}{scale}, got {len(small)} of"
                f" {len(self)} that are smaller, such as {told}: set size"
                f" to at most {min(sides)}, or leave them out"
            )

    def _stack(self, crop: Callable[[Tensor], Tensor], size: int | None) -> Tensor:
        """What ``crop`` makes of each image, uint8; memory grows with the crops, not the files.

        Args:
            crop: ``3 x H x W`` to a tensor of one shape.
            size: the least height and width; ``None`` for whole images, all of one size.

        Raises:
            ValueError: there is no record, or images are too small or differ in size.
        """
        if not self.records:
            raise ValueError("a patch set must hold at least one patch, got none")
        if size is not None and not (is_whole(size) and size > 0):
            raise ValueError(f"size must be a whole number of pixels, from 1, got {size!r}")
        out = torch.empty(0, dtype=torch.float32, device="cpu")
        for i, record in enumerate(patient(self.records, "read")):
            image = self._image(record)
            if size is not None and min(image.shape[1:]) < size:
                self.check_size(size)
            part = crop(image)
            if i == 0:
                out = torch.empty(len(self), *part.shape, dtype=torch.uint8, device="cpu")
            if part.shape != out.shape[1:]:
                first, here = tuple(out.shape[-2:]), tuple(part.shape[-2:])
                raise ValueError(
                    f"all patches must have one size, got {first} in '{self.names()[0]}'"
                    f" and {here} in '{self.names()[i]}': give a size to crop to"
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
