"""Results kept under a name that tells all that they depend on."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from monai_histodiff.utils.files import whole_file

__all__ = ["cached"]

NAME, DIGEST = "__name__", "__digest__"  # arrays of the file that tell its own name and content
logger = logging.getLogger(__name__)


def cached(
    folder: str | os.PathLike[str] | None, name: str, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of ``folder/name.npz`` where the file holds them; otherwise they are computed and
    written, whole or not at all.

    A file that is damaged, changed, or written under another name, is made anew, with a warning.
    Threads, processes and machines may share a folder: each writes a draft of its own.

    Args:
        folder: made if need be; ``None`` computes and writes nothing.
        name: must tell all that the arrays depend on, see
            :func:`~monai_histodiff.utils.fingerprint.fingerprint`.
        compute: makes the arrays, of numbers or text, all finite.

    Raises:
        ValueError: a computed array holds objects, or a number that is not finite.
        OSError: the file cannot be written.
    """
    if folder is None:
        return _checked(compute())
    path = Path(folder) / f"{name}.npz"
    if path.is_file():
        try:
            return _read(path, name)
        except Exception as error:  # a damaged file can raise nearly anything
            logger.warning("the cache '%s' is made anew: %s", path, error)
    arrays, stream = _checked(compute()), io.BytesIO()
    told = {NAME: np.array(name), DIGEST: np.array(_digest(arrays))}
    np.savez(stream, **arrays, **told)  # type: ignore[arg-type]
    with whole_file(path) as draft:
        draft.write_bytes(stream.getvalue())
    return arrays


def _read(path: Path, name: str) -> dict[str, np.ndarray]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays = dict(file)
    if (found := str(arrays.pop(NAME, ""))) != name:
        raise ValueError(f"it must hold '{name}', got '{found}'")
    told = str(arrays.pop(DIGEST, ""))  # before 0.24 there was none
    if _digest(arrays := dict(_checked(arrays))) != told and told:
        raise ValueError("it must be as it was written, got other values")
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of names, kinds, shapes and values."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        own = np.asarray(array)
        found.update(repr((name, own.dtype.str, own.shape)).encode() + own.tobytes())
    return found.hexdigest()


def _checked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name, array in arrays.items():
        kind = np.asarray(array).dtype
        if kind.hasobject:
            raise ValueError(f"cached arrays must hold numbers or text, got objects in '{name}'")
        if kind.kind in "fc" and not np.isfinite(array).all():
            raise ValueError(
                f"cached arrays must be finite, got {int((~np.isfinite(array)).sum())} values of"
                f" '{name}' that are not"
            )
    return dict(arrays)
