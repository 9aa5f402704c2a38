"""Pillow reads whole pictures alone, whatever the caller's own code asks of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile

__all__ = ["whole_pictures"]

_lock, _inside = threading.Lock(), 0


@contextmanager
def whole_pictures() -> Iterator[None]:
    """Within the block, in any thread, a picture that was cut is an error, also where
    ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` was set; it is set again when the last block ends.
    """
    global _inside
    if not ImageFile.LOAD_TRUNCATED_IMAGES and not _inside:
        yield
        return
    with _lock:
        _inside += 1
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            ImageFile.LOAD_TRUNCATED_IMAGES = not _inside
