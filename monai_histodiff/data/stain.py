"""Stain jitter: the classical colour augmentation for H&E (Tellez et al. 2019, arXiv:1902.06543),
on tensors, any device.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_histodiff.data.pixels import check_range, to_bytes, to_unit

__all__ = [
    "RandHEJitter",
    "RandHEJitterD",
    "RandHEJitterDict",
    "RandHEJitterd",
    "jitter_stains",
    "shift_stains",
]

# Optical density of haematoxylin, eosin and the residual, one stain a row (Ruifrok & Johnston
# 2001).
STAINS = torch.nn.functional.normalize(
    torch.tensor(
        [(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)], dtype=torch.float32
    ),
    dim=1,
)
UNMIX = torch.linalg.inv(STAINS)


def jitter_stains(image: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Multiply the stain concentrations of an RGB patch by ``gain`` and add ``offset``.

    Args:
        image: RGB, ``3 x H x W``; floating point in [0, 1] or uint8. Values beyond [0, 1], as
            augmentation makes them, are accepted; the result is in [0, 1].
        gain: one factor for each of haematoxylin, eosin, residual; ones change nothing.
        offset: one offset for each, in optical density (natural logarithm); zeros change nothing.

    Returns:
        The patch, of the same shape and dtype.

    Raises:
        ValueError: the patch is not ``3 x H x W``, is of another type, or its values are not
            scaled to [0, 1], see :func:`~monai_histodiff.data.pixels.check_range`.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"a patch must be RGB, of shape 3 x H x W, got {tuple(image.shape)}")
    byte = image.dtype == torch.uint8
    if not (byte or image.is_floating_point()):
        raise ValueError(
            f"a patch must be uint8 or floating point, got {image.dtype}: cast it before (0 to "
            "255 to uint8, 0 to 1 to float32)"
        )
    if not byte and image.numel():
        check_range(image)
    out = shift_stains(to_unit(image), gain, offset)
    return to_bytes(out) if byte else out.to(image.dtype)


def shift_stains(image: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """As :func:`jitter_stains` for a floating-point patch, without checks, which ``torch.vmap``
    could not pass.
    """
    x, stains = image.flatten(1), STAINS.to(image)
    mix = UNMIX.to(x) @ (gain.to(x)[:, None] * stains)
    log_intensity = torch.log(x.clamp(min=1 / 512))
    return (
        torch.exp(torch.addmm(-(offset.to(x) @ stains)[:, None], mix.T, log_intensity))
        .clamp(0, 1)
        .view(image.shape)
    )


class RandHEJitter(RandomizableTransform):
    """Randomly jitter the haematoxylin and eosin concentrations of an RGB patch.

    Args:
        prob: probability of a change.
        gain: each stain's factor is uniform in ``[1 - gain, 1 + gain]``.
        offset: each stain's offset is uniform in ``[-offset, offset]``, in optical density
            (natural logarithm).

    Raises:
        ValueError: ``gain`` is not in [0, 1) or ``offset`` is negative.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, prob: float = 0.5, gain: float = 0.15, offset: float = 0.03) -> None:
        super().__init__(prob)
        if not 0 <= gain < 1 or offset < 0:
            raise ValueError(
                f"gain must lie in [0, 1) and offset must not be negative, got {gain} and {offset}"
            )
        self.gain, self.offset = gain, offset
        self._drawn = (np.ones(3), np.zeros(3))

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        if self._do_transform:
            self._drawn = (
                1 + self.R.uniform(-self.gain, self.gain, 3),
                self.R.uniform(-self.offset, self.offset, 3),
            )

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Jitter one patch: RGB ``3 x H x W``, floating point in [0, 1] or uint8, array or tensor;
        returns the same kind.
        """
        if randomize:
            self.randomize()
        if not self._do_transform:
            return img
        gain, offset = (torch.from_numpy(v).float() for v in self._drawn)
        out, *_ = convert_to_dst_type(jitter_stains(convert_to_tensor(img), gain, offset), img)
        return out


class RandHEJitterd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`RandHEJitter`; all keys share one draw."""

    backend = RandHEJitter.backend

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        gain: float = 0.15,
        offset: float = 0.03,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.jitter = RandHEJitter(prob=1.0, gain=gain, offset=offset)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandHEJitterd:
        super().set_random_state(seed, state)
        self.jitter.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(None)
        self.jitter.randomize()
        if self._do_transform:
            for key in self.key_iterator(d):
                d[key] = self.jitter(d[key], randomize=False)
        return d


RandHEJitterD = RandHEJitterDict = RandHEJitterd
