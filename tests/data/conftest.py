"""Slides that a test opens are closed after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def closed_slides(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    real = getattr(request.module, "open_slide", None)
    with ExitStack() as opened:

        def kept(*args: Any, **options: Any) -> Any:
            slide = real(*args, **options)
            opened.callback(slide.close)
            return slide

        if real is not None:
            monkeypatch.setattr(request.module, "open_slide", kept)
        yield
