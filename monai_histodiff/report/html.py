"""Pages as files: the templates, with everything escaped, and pictures inside the page."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from monai_histodiff.report.blocks import Page, Picture
from monai_histodiff.report.values import clean
from monai_histodiff.utils.files import whole_file

__all__ = ["picture", "write_page"]

LARGEST = 256  # pixels of a picture's longer side


def _printed(value: Any) -> Any:
    """What a template prints: text is cleaned, but for what is markup already."""
    return clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


TEMPLATES = Environment(
    loader=PackageLoader("monai_histodiff", "report"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_printed,
    trim_blocks=True,
    lstrip_blocks=True,
)


def picture(image: np.ndarray, alt: str) -> Picture:
    """A picture for a page; larger ones are shrunk to 256 pixels.

    Args:
        image: uint8, ``H x W x 3``.
        alt: what it shows.

    Raises:
        ValueError: it is not such an array, or it is empty.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"a picture must be a uint8 array H x W x 3, got {image.dtype} {image.shape}"
        )
    small, stream = Image.fromarray(image), io.BytesIO()
    small.thumbnail((LARGEST, LARGEST))
    small.save(stream, "JPEG", quality=90, subsampling=0)
    source = base64.b64encode(stream.getvalue()).decode()
    return Picture(f"data:image/jpeg;base64,{source}", alt, small.width, small.height)


def write_page(path: str | os.PathLike[str], page: Page) -> Path:
    """Write a page: all of it, or nothing; its folder is made if need be."""
    text = TEMPLATES.get_template("templates/page.html").render(page=page)
    with whole_file(path) as draft:
        draft.write_bytes(text.encode())
    return Path(path)
