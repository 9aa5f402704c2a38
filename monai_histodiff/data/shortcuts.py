"""What a classifier could read in place of tissue, and pictures that are none of tissue in
haematoxylin and eosin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from monai_histodiff.data.patch_files import PatchRecord

__all__ = ["foreign_colours", "shortcuts"]

FORMATS = {"JPG": "JPEG", "TIF": "TIFF"}
LEAST_TOLD = 2  # patches of a class
LEAST_TINT = 0.005  # of 1, by which red and blue are above green: both stains absorb green most


def shortcuts(records: Sequence[PatchRecord], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Plain words on classes that are told apart by format, size or scale of their files alone.

    Args:
        records: of the patches.
        sizes: width and height of each.
    """
    told = []
    endings = [r.path.rpartition(".")[2].upper() for r in records]
    formats = [FORMATS.get(ending, ending) for ending in endings]
    scales = ["not recorded" if r.um_per_px is None else f"{r.um_per_px:g}" for r in records]
    for name, values, read in (
        ("files of format", formats, "the file format"),
        ("pictures of", [f"{wide} x {high}" for wide, high in sizes], "the size"),
        ("um_per_px", scales, "the resampling"),
    ):
        found: defaultdict[str, list[str]] = defaultdict(list)
        for record, value in zip(records, values, strict=True):
            if record.label:
                found[record.label].append(value)
        alone = {
            label: own[0]
            for label, own in sorted(found.items())
            if len(own) >= LEAST_TOLD and len(set(own)) == 1
        }
        first = next(iter(alone), "")
        other = next((label for label in alone if alone[label] != alone[first]), "")
        if other:
            told.append(
                f"class '{first}' has only {name} {alone[first]}, and '{other}' only "
                f"{alone[other]}: a classifier can read the class from {read}; make them alike"
            )
    return told


def foreign_colours(small: Tensor) -> list[str]:
    """Plain words where most patches are not of the colours of haematoxylin and eosin.

    Args:
        small: thumbnails of patches that are not blank, ``N x 3 x H x W`` in [0, 1].
    """
    red, green, blue = small.mean((2, 3)).T
    odd = int((red.minimum(blue) - green <= LEAST_TINT).sum())
    if odd <= len(small) / 2:
        return []
    return [
        f"{odd} of {len(small)} patches are as green as they are red or blue, unlike tissue in "
        "haematoxylin and eosin: are channels exchanged, colours inverted or grey, or is it "
        "another stain?"
    ]
