"""Files of weights: written whole or not at all, read strictly; and the device to put them on."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from monai_histodiff.utils.files import first_line, whole_file

__all__ = [
    "check_intact",
    "checked_device",
    "load_fitting",
    "load_weights",
    "read_state",
    "save_weights",
    "write_state",
]

Module = TypeVar("Module", bound=nn.Module)


def checked_device(device: str | torch.device) -> torch.device:
    """The device, or an error that names it.

    Raises:
        ValueError: the device does not exist on this machine.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, dtype=torch.float32, device=found).add_(1)  # computes: not all builds can
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be there, got '{device}' ({first_line(error)})") from error
    return found


def save_weights(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Save a ``state_dict`` by :func:`write_state`.

    Floating-point tensors of two or more dimensions (weights, and the autoencoder's fixed basis)
    are stored in float16; vectors and single values (latent statistics, tables, thresholds) keep
    their precision, as does what float16 would change by more than it rounds its largest number.
    A tensor that has several names is stored once.

    Raises:
        ValueError: a number is not finite.
    """
    stored: dict[tuple[Any, ...], Tensor] = {}
    named = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key not in stored or not value.numel():
            own = value.detach().cpu()
            if bad := int((~own.isfinite()).sum()):
                raise ValueError(
                    f"weights must be finite, got {bad} of {own.numel()} that are not in "
                    f"'{name}': keep those from before the training went wrong"
                )
            small = own.is_floating_point() and own.ndim > 1 and _fits_float16(own)
            stored[key] = own.half() if small else own.clone()
        named[name] = stored[key]
    write_state(path, named)


def _fits_float16(own: Tensor) -> bool:
    """Whether it changes by no more than the rounding of its largest number."""
    if not own.numel():
        return True
    changed = (own.half().to(own.dtype) - own).abs().max()
    return bool(changed <= own.abs().max() * 2**-11)


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Save tensors and plain values as they are; the file appears complete, or the previous one
    stays.

    Raises:
        OSError: the file cannot be written: the disk is full, or there is no permission.
    """
    try:
        with whole_file(path) as draft, open(draft, "wb") as stream:
            torch.save(dict(state), stream)
    except (OSError, RuntimeError) as error:  # torch's zip writer makes a full disk the latter
        kept = "the previous file is kept" if Path(path).is_file() else "there is no previous file"
        raise OSError(f"'{path}' must be writable, got {first_line(error)}; {kept}") from error


def load_weights(network: Module, path: str | os.PathLike[str]) -> Module:
    """Load a ``state_dict`` file strictly into a network and return it.

    Args:
        network: has the keys and shapes of the file.
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable ``state_dict``, or belongs to another architecture.
    """
    load_fitting(network, read_state(path), path)
    return network


def read_state(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Tensors and plain values of a file, on the CPU.

    The check sums in the file are compared, which ``torch.load`` does not do: of bits that flipped
    within a tensor it says nothing.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, is damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights must exist, got none at '{path}'")
    check_intact(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(
            f"weights must be a readable state_dict, got '{path}' ({type(error).__name__})"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"weights must be a state_dict, got {type(state).__name__} in '{path}'")
    return state


def check_intact(path: str | os.PathLike[str]) -> None:
    """Compare the check sums (CRC-32) in a file that torch saved with its content.

    Raises:
        ValueError: a part of the file is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ValueError(
            f"weights must be a readable state_dict, got '{path}' ({type(error).__name__}): "
            "fetch or save it again"
        ) from error
    if damaged:
        raise ValueError(
            f"weights must be a readable state_dict, got '{path}' (bytes of '{damaged}' are not "
            "those that were saved): fetch or save it again"
        )


def load_fitting(
    network: nn.Module, state: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Load a state read from ``path`` into a network that has the same keys and shapes.

    Raises:
        ValueError: it belongs to another architecture.
    """
    own = network.state_dict()
    shapes = {k: tuple(v.shape) if isinstance(v, Tensor) else None for k, v in state.items()}
    wrong = [k for k in own if shapes.get(k) != tuple(own[k].shape)] + [
        k for k in shapes if k not in own
    ]
    if wrong:
        raise ValueError(
            f"weights must fit the network, got {len(wrong)} keys that do not in '{path}', "
            f"such as '{wrong[0]}'"
        )
    network.load_state_dict(state)
