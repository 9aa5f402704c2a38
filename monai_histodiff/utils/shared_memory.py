"""``SharedTensors``: named tensors in one block of memory that forked and spawned processes
share.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
import uuid
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor

__all__ = ["SharedTensors"]

ALIGNMENT = 64  # bytes
WINDOWS = sys.platform == "win32"  # where blocks have names, and no descriptors
Layout = Mapping[Hashable, tuple[Sequence[int], torch.dtype]]


class SharedTensors(Mapping[Hashable, Tensor]):
    """Tensors, zero at first, in memory that the processes started from this one share.

    The memory is an anonymous file (``memfd_create``; a deleted temporary file where the system
    has none; on Windows a mapping with a name). It does not count against ``/dev/shm``, which is
    64 MiB in many containers, and it is gone with the last process that uses it, even a killed
    one. A process started by ``multiprocessing``, forked or spawned, gets the memory itself; a
    plain pickle holds a copy.

    Args:
        layout: shape and dtype of each tensor.
        block: of an existing one with this layout, its descriptor, on Windows its name.

    Raises:
        OSError: there is no room for the block.
    """

    def __init__(self, layout: Layout, block: int | str | None = None) -> None:
        self._layout = {name: (tuple(shape), dtype) for name, (shape, dtype) in layout.items()}
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in self._layout.values()]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        total = max(starts[-1], ALIGNMENT)
        if WINDOWS:
            self._block: Any = block or f"monai_histodiff-{uuid.uuid4().hex}"
            memory = mmap.mmap(-1, total, tagname=self._block)  # type: ignore[call-arg]
        else:
            self._block = _anonymous_file(total) if block is None else block
            weakref.finalize(self, os.close, self._block)
            memory = mmap.mmap(self._block, total)
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self._tensors = {
            name: self._bytes[start : start + size].view(dtype).view(shape)
            for (name, (shape, dtype)), start, size in zip(
                self._layout.items(), starts, sizes, strict=False
            )
        }

    def __getitem__(self, name: Hashable) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __reduce__(self) -> Any:
        return _copied, (self._layout, self._bytes.numpy().tobytes())


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("monai_histodiff")
    else:
        file, path = tempfile.mkstemp(prefix="monai_histodiff")
        os.unlink(path)
    os.ftruncate(file, size)
    return file


def _copied(layout: Layout, content: bytes) -> SharedTensors:
    out = SharedTensors(layout)
    out._bytes.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return out


def _attached(layout: Layout, block: Any) -> SharedTensors:
    return SharedTensors(layout, block if WINDOWS else block.detach())


def _pass_on(shared: SharedTensors) -> Any:
    block = shared._block
    return _attached, (shared._layout, block if WINDOWS else reduction.DupFd(block))


reduction.ForkingPickler.register(SharedTensors, _pass_on)
