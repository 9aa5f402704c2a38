"""As many patches at once as a device has room for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from monai_histodiff.utils.files import first_line

__all__ = ["batch_from_memory", "in_batches"]

CPU_BATCH, CUDA_BATCH = 32, 512  # patches at once beyond which nothing is gained
# Bytes at work for each byte of a float32 patch: 30 measured, and halving corrects the rest.
PATCH_MEMORY = 100
# in the words of torch, cuBLAS and cuDNN, Metal, and Windows
FULL = ("can't allocate memory", "ALLOC_FAILED", "out of memory", "not enough memory")
logger = logging.getLogger(__name__)


def batch_from_memory(device: torch.device, side: int) -> int:
    """How many patches of ``side`` pixels a device's free memory has room for."""
    if device.type != "cuda":
        return CPU_BATCH
    free, _ = torch.cuda.mem_get_info(device)  # what torch keeps may be a trainer's
    return min(CUDA_BATCH, max(1, free // (PATCH_MEMORY * 3 * side**2 * 4)))


def in_batches(
    make: Callable[[slice], Tensor], count: int, batch: int, progress: bool
) -> tuple[Tensor, int]:
    """Make rows ``0 .. count - 1`` batch by batch; when a device runs out of memory, by half as
    many from then on.

    Args:
        make: makes the rows of a slice.
        count: rows wanted.
        batch: rows at once, at the most.
        progress: show a progress bar, if there is more than one batch.

    Returns:
        All rows on the CPU, float32, and how many were made at once in the end.

    Raises:
        torch.OutOfMemoryError: there is not even room for one.
    """
    start, parts = 0, []
    bar = tqdm(total=count, desc="sample", disable=not progress or count <= batch)
    while start < count:
        rows = slice(start, min(start + batch, count))
        try:
            parts.append(make(rows).float().cpu())
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            full = any(words in str(error) for words in FULL)
            if not (full or isinstance(error, torch.OutOfMemoryError)):
                raise
            if rows.stop - start == 1:
                told = f"not even one patch fits into the memory: {first_line(error)}"
                raise torch.OutOfMemoryError(f"{told}; make smaller ones") from error
            batch = (rows.stop - start) // 2
            told = "the device ran out of memory: from now on %d patches are sampled at once"
            logger.warning(told, batch)
        else:
            bar.update(rows.stop - start)
            start = rows.stop
    bar.close()
    return torch.cat(parts), batch
