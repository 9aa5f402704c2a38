"""A real patch and the synthetic one that takes its place: checked, brought to one scale, and of
one type.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys
from torch import Tensor

from monai_histodiff.data.bank import Bank, SyntheticBank
from monai_histodiff.data.pixels import check_range, resampled, to_bytes, to_unit
from monai_histodiff.data.scale import check_scale

__all__ = [
    "SYNTHETIC",
    "Scale",
    "beside_synthetic",
    "check_patch",
    "check_values",
    "in_place_of",
]

logger = logging.getLogger(__name__)
SYNTHETIC = "synthetic"  # what is written where a text told of the real patch
GEOMETRY = (  # what a patch's metadata tells of its grid, not of its file
    MetaKeys.AFFINE,
    MetaKeys.ORIGINAL_AFFINE,
    MetaKeys.PIXDIM,
    MetaKeys.ORIGINAL_PIXDIM,
    MetaKeys.SPATIAL_SHAPE,
    MetaKeys.SPACE,
    MetaKeys.ORIGINAL_CHANNEL_DIM,
)
FARTHEST = 4.0  # times that patches may be enlarged or reduced


class Scale:
    """How patches of a bank come to the scale and size of yours.

    A synthetic patch is cropped at the bank's scale and resampled to yours. Where yours is finer,
    it lacks the detail that real patches have, and any classifier would see that: real patches,
    too, then go to the bank's scale and back. Both have gone through one last step, the same, from
    as many pixels to as many: neither is sharper. Where yours is coarser, a synthetic patch loses
    what your pixels cannot hold, and real patches stay as they are.

    Args:
        bank: tells its ``um_per_px`` and its size.
        um_per_px: micrometres that a pixel of your patches shows; ``None``: as the bank's, and of
            its size; where the bank knows its scale that is logged as a warning, for patches of
            another scale may have that size, too.

    Attributes:
        factor: pixels of yours for one of the bank's.

    Raises:
        ValueError: the scale is none, the bank does not know its own, or one is more than
            4 times the other.
    """

    def __init__(self, bank: Bank, um_per_px: float | None) -> None:
        check_scale(um_per_px)
        self.bank, self.crops, self.factor = bank, um_per_px is not None, 1.0
        if um_per_px is None:
            if bank.um_per_px is not None:
                logger.warning(
                    "the bank shows %g um per pixel, and patches are taken to show as much: pass "
                    "um_per_px=, what a pixel of yours shows (at 20x 0.5)",
                    bank.um_per_px,
                )
            return
        if bank.um_per_px is None:
            saved = " or write the number into its bank.json"
            raise ValueError(
                f"um_per_px is {um_per_px:g}, but the bank does not tell its own: make it with "
                f"{type(bank).__name__}(..., um_per_px=...)"
                f"{saved if isinstance(bank, SyntheticBank) else ''}"
            )
        self.factor = bank.um_per_px / um_per_px
        if not 1 / FARTHEST <= self.factor <= FARTHEST:
            raise ValueError(
                f"um_per_px must be within {FARTHEST:g} times the bank's {bank.um_per_px:g}, got "
                f"{um_per_px:g}: resample your patches, or sample a bank at your scale"
            )

    def size_in_bank(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width, at the bank's scale, of what patches of a size show."""
        height, width = (max(1, round(side / self.factor)) for side in size)
        return height, width

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse patches for which the bank has none of their size.

        Raises:
            ValueError: the message names both sizes and the remedy.
        """
        theirs = self.bank.size
        if theirs is None:
            return
        height, width = theirs
        needed = self.size_in_bank(size)
        if self.crops and needed[0] <= height and needed[1] <= width:
            return
        rule = f"a patch must have the size of the bank's, {height} x {width}"
        got = f"got {size[0]} x {size[1]}"
        if self.crops:
            fits = tuple(int(side * self.factor) for side in theirs)
            raise ValueError(
                f"a patch must show no more than the bank's, {height} x {width} at "
                f"{self.bank.um_per_px:g} um per pixel, {got}, which takes {needed[0]} x "
                f"{needed[1]}: crop it to at most {fits[0]} x {fits[1]} before, such as by "
                f"CenterSpatialCropd(roi_size={fits}), or make a bank of larger patches "
                "(--patch_size of the run)"
            )
        if needed == theirs:
            return
        if size[0] >= height and size[1] >= width:
            raise ValueError(
                f"{rule}, {got}: crop it before, such as by RandSpatialCropd(roi_size={theirs}, "
                "random_size=False); if it has another scale, pass um_per_px="
            )
        raise ValueError(
            f"{rule}, {got}: pass um_per_px=, the micrometres that a pixel of yours shows, and "
            "the bank's are cropped and resampled to yours"
        )

    def of_synthetic(self, patch: Tensor, size: tuple[int, int], corner: np.ndarray) -> Tensor:
        """A uint8 patch of the bank at the scale and size of yours.

        Args:
            patch: ``3 x H x W``.
            size: height and width wanted.
            corner: two numbers in [0, 1), where the crop lies.
        """
        if not self.crops:
            return patch
        height, width = self.size_in_bank(size)
        top, left = (
            int(place * (whole - side + 1))
            for place, whole, side in zip(corner, patch.shape[1:], (height, width), strict=True)
        )
        cut = patch[:, top : top + height, left : left + width]
        return cut.clone() if self.factor == 1 else resampled(cut, size)

    def of_real(self, patch: Any) -> Any:
        """A real patch, without the detail that the bank's cannot have."""
        if self.factor <= 1:
            return patch
        height, width = patch.shape[1:]
        small = resampled(_bytes(patch), self.size_in_bank((height, width)))
        out = _typed(resampled(small, (height, width)), patch)
        return MetaTensor(out).copy_meta_from(patch) if isinstance(patch, MetaTensor) else out


def check_patch(img: Any, key: str) -> None:
    """Refuse what is no RGB patch.

    Args:
        img: should be a tensor or array ``3 x H x W``.
        key: where it comes from, for messages.

    Raises:
        TypeError: it is no tensor nor array.
        ValueError: it has another shape or type; the message tells what it is, and the remedy.
    """
    where = f"the patch under '{key}' must be an RGB tensor or array 3 x H x W"
    load = f"LoadImaged(keys='{key}', ensure_channel_first=True, dtype=np.uint8)"
    if isinstance(img, (str, os.PathLike)):
        raise TypeError(f"{where}, got the path '{os.fspath(img)}': load it before, by {load}")
    if not isinstance(img, (Tensor, np.ndarray)):
        raise TypeError(f"{where}, got a {type(img).__name__}: load it before, by {load}")
    shape = tuple(img.shape)
    got = f"{where}, got shape {shape}"
    if len(shape) == 4:
        raise ValueError(f"{got}: apply the transform to each item, not to a batch")
    if len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2]) and 3 not in shape):
        raise ValueError(f"{got}, a grey picture: read it in colour (pillow: convert('RGB'))")
    if len(shape) == 3 and shape[0] == 4 and shape[2] != 3:
        raise ValueError(
            f"{got}, a picture with alpha: drop that channel before (Lambdad('{key}', "
            "lambda x: x[:3]); pillow: convert('RGB'))"
        )
    if len(shape) != 3 or (shape[0] != 3 and shape[2] not in (3, 4)):
        raise ValueError(f"{got}: bring it to three channels before")
    if shape[0] != 3:
        raise ValueError(
            f"{got}, with the channels last: move them before "
            f"(EnsureChannelFirstd('{key}', channel_dim=-1))"
        )
    if not (_is_bytes(img) or "float" in str(img.dtype)):
        raise ValueError(
            f"{where} of uint8 or floating point, got {img.dtype}: cast it before (0 to 255 to "
            "uint8, 0 to 1 to float32)"
        )


def check_values(img: Any, key: str) -> None:
    """Refuse floating-point patches that are not scaled to [0, 1], such as those of 0 to 255 that
    MONAI's ``LoadImage`` reads: their replacements would be nearly black.

    Raises:
        ValueError: values are far from [0, 1], or not finite; see
            :func:`~monai_histodiff.data.pixels.check_range`.
    """
    if not _is_bytes(img):
        check_range(img, f" under '{key}'")


def in_place_of(img: Any, patch: Tensor) -> Any:
    """A uint8 patch in the type of a real one: uint8, or floating point in [0, 1]; tensor, array
    or MetaTensor, on its device.

    The metadata of a MetaTensor keeps what tells of the grid, such as the affine; its texts, such
    as the file name, become ``"synthetic"``, and the rest, with the record of earlier transforms,
    is left out.
    """
    out = _typed(patch, img)
    return MetaTensor(out, meta=_grid(img)) if isinstance(img, MetaTensor) else out


def beside_synthetic(value: Any) -> Any:
    """A value, such as a label, that lies beside a synthetic patch: the metadata of a MetaTensor
    is what :func:`in_place_of` leaves of it, anything else stays as it is.
    """
    if not isinstance(value, MetaTensor):
        return value
    return MetaTensor(value.as_tensor(), meta=_grid(value))


def _grid(img: MetaTensor) -> dict[str, Any]:
    """Its metadata without what tells of its file."""
    texts = {
        name: SYNTHETIC
        for name, value in img.meta.items()
        if isinstance(value, (str, os.PathLike)) and name not in GEOMETRY
    }
    return {name: img.meta[name] for name in GEOMETRY if name in img.meta} | texts


def _is_bytes(img: Any) -> bool:
    return str(img.dtype).removeprefix("torch.") == "uint8"


def _bytes(img: Any) -> Tensor:
    """A patch in [0, 1], or uint8, as a plain uint8 tensor on the CPU."""
    x = torch.from_numpy(img) if isinstance(img, np.ndarray) else img.cpu()
    x = x.as_tensor() if isinstance(x, MetaTensor) else x
    return to_bytes(x if _is_bytes(x) else x.float())


def _typed(patch: Tensor, img: Any) -> Any:
    """uint8 to the type of ``img``, but for metadata of a synthetic patch."""
    if isinstance(img, np.ndarray):
        return (
            patch.numpy().copy()
            if img.dtype == np.uint8
            else (patch.numpy() / 255).astype(img.dtype)
        )
    out = patch.clone() if img.dtype == torch.uint8 else to_unit(patch).to(img.dtype)
    return out.to(img.device)
