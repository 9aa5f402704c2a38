"""Pillow reads whole pictures, and as large ones as our own limits allow, whatever the caller's
code has asked of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from PIL import Image, ImageFile

__all__ = ["large_pictures", "whole_pictures"]


class _Held:
    """A global that has a value of ours within blocks, in any thread; it has its own again when
    the last block ends.
    """

    def __init__(self, module: ModuleType, name: str, value: Any) -> None:
        self.module, self.name, self.value = module, name, value
        self.lock, self.inside, self.own = threading.Lock(), 0, None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if getattr(self.module, self.name) == self.value and not self.inside:
            yield
            return
        with self.lock:
            if not self.inside:
                self.own = getattr(self.module, self.name)
            self.inside += 1
            setattr(self.module, self.name, self.value)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    setattr(self.module, self.name, self.own)


whole_pictures = _Held(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # a picture cut is an error
large_pictures = _Held(Image, "MAX_IMAGE_PIXELS", None)
