"""Which devices compute in bfloat16."""

from __future__ import annotations

import functools
import warnings

import torch

__all__ = [
    "check_bfloat16",
    "check_float32",
    "chosen_bfloat16",
    "native_bfloat16",
    "warn_of_emulation",
]


def native_bfloat16(device: str | torch.device) -> bool:
    """Whether a device computes in bfloat16, and so about twice as fast as in float32: NVIDIA GPUs
    from Ampere on, and processors with AVX-512 BF16 or AMX. Others emulate it, and are slower.
    """
    return _native(torch.device(device).type)


def chosen_bfloat16(device: str | torch.device, enabled: bool | None) -> bool:
    """``enabled``; where that is ``None``, whether the device is a GPU that computes in bfloat16
    (not a processor, where a patch then depends on its batch).
    """
    where = torch.device(device)
    return where.type == "cuda" and native_bfloat16(where) if enabled is None else enabled


def check_bfloat16(enabled: object) -> None:
    """Refuse what is no choice of bfloat16: numbers and texts, of which "False" would be true.

    Raises:
        ValueError: it is none of ``True``, ``False`` and ``None``.
    """
    if enabled is not None and not isinstance(enabled, bool):
        raise ValueError(f"bfloat16 must be True, False or None, got {enabled!r}")


def check_float32(name: str, *found: torch.dtype) -> None:
    """Refuse a network whose weights were made half or double.

    Raises:
        ValueError: one is not float32.
    """
    if odd := [kind for kind in found if kind.is_floating_point and kind != torch.float32]:
        raise ValueError(
            f"{name} must be float32, got {odd[0]}: call its .float(); a sampler and a training "
            "compute in bfloat16 by bfloat16=True"
        )


def warn_of_emulation(device: str | torch.device, enabled: bool | None) -> None:
    """Warn where bfloat16 is asked of a device that emulates it: a training step on a processor
    with AVX2 alone then takes some fifty times as long as in float32.
    """
    if enabled and not native_bfloat16(device):
        warnings.warn(
            f"bfloat16 is True, but this {device} emulates it, and a run can take fifty times as "
            "long as in float32: leave it out, or set it to False",
            stacklevel=2,
        )


@functools.cache
def _native(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and torch.cpu._is_avx512_bf16_supported()
