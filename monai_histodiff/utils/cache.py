"""Results kept under the hash of everything that they depend on."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_histodiff.utils.files import whole_file

__all__ = ["cached", "fingerprint"]

RANDOM = (
    np.random.RandomState,
    np.random.Generator,
    torch.Generator,
)  # the state of a generator is not a setting
PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.device,
    torch.dtype,
    np.dtype,
    os.PathLike,
)


def fingerprint(*things: Any) -> str:
    """SHA-256, in hexadecimal, of the content of plain values, arrays, containers, functions,
    networks and other objects.

    Objects count by their class and attributes, functions by their code and what they close over,
    generators of random numbers not at all. Objects that keep the outcome of their last draw, as
    MONAI's random transforms do, should be hashed
    before they are used: a needless difference costs a computation, no more.
    """
    digest = hashlib.sha256()
    _feed(digest.update, things, ())
    return digest.hexdigest()


def _feed(update: Callable[[bytes], None], thing: Any, above: tuple[int, ...]) -> None:
    if id(thing) in above:  # a cycle
        return update(b"cycle")
    above = (*above, id(thing))
    kind = type(thing)
    update(f"<{kind.__module__}.{kind.__qualname__}>".encode())
    inside: Any
    if isinstance(thing, RANDOM):
        return None
    if isinstance(thing, PLAIN):
        return update(repr(thing).encode())
    if isinstance(thing, torch.Tensor):
        thing = thing.detach().cpu().contiguous()
        update(f"{thing.dtype}{tuple(thing.shape)}".encode())
        return update(
            thing.reshape(-1).view(torch.uint8).numpy().tobytes() if thing.numel() else b""
        )
    if isinstance(thing, np.ndarray | np.generic):
        update(f"{thing.dtype}{thing.shape}".encode())
        return update(np.ascontiguousarray(thing).tobytes())
    if isinstance(thing, type | ModuleType):
        return update(
            f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', thing.__name__)}".encode()
        )
    if isinstance(thing, FunctionType):
        inside = (
            thing.__qualname__,
            thing.__code__,
            thing.__defaults__,
            [c.cell_contents for c in thing.__closure__ or ()],
        )
    elif isinstance(thing, CodeType):
        inside = (thing.co_code, thing.co_names, thing.co_consts)
    elif isinstance(thing, MethodType):
        inside = (thing.__func__, thing.__self__)
    elif isinstance(thing, functools.partial):
        inside = (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, nn.Module):
        inside = [*thing.state_dict().items(), str(thing)]
    elif isinstance(thing, Mapping):
        inside = [(key, thing[key]) for key in sorted(thing, key=repr)]
    elif isinstance(thing, set | frozenset):
        inside = sorted(thing, key=repr)
    else:
        inside = (
            thing
            if isinstance(thing, list | tuple)
            else sorted(getattr(thing, "__dict__", {}).items())
        )
    update(f"[{len(inside)}]".encode())
    for part in inside:
        _feed(update, part, above)
    return None


def cached(
    folder: str | os.PathLike[str] | None, name: str, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of ``folder/name.npz`` where the file exists; otherwise they are computed and
    written, whole or not at all.

    Args:
        folder: made if need be; ``None`` computes and writes nothing.
        name: must tell all that the arrays depend on, see :func:`fingerprint`.
        compute: makes the arrays.
    """
    if folder is None:
        return compute()
    path = Path(folder) / f"{name}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    arrays, stream = compute(), io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    with whole_file(path) as draft:
        draft.write_bytes(stream.getvalue())
    return arrays
