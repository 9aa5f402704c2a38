"""A public set, downloaded or taken from its files, becomes a patch set."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from monai_histodiff.data.download import check_file, fetch_file
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.public_readers import Patches
from monai_histodiff.data.public_sets import PUBLIC_SETS, PublicSet
from monai_histodiff.data.scale import check_scale

__all__ = ["describe", "fetch_public_set"]


def fetch_public_set(
    name: str,
    folder: str | os.PathLike[str],
    archives: str | os.PathLike[str],
    per_class: int | None = None,
    um_per_px: float | None = None,
    tile: int | None = None,
    seed: int = 0,
    progress: bool = True,
    known: Mapping[str, PublicSet] = PUBLIC_SETS,
) -> Path:
    """Download a public set, or take its files, and write it as a patch set.

    Args:
        name: a key of ``known``.
        folder: the patch set; a new folder.
        archives: where its files are or go.
        per_class: at most so many pictures of each class and split, drawn at random.
        um_per_px: shrink to this spacing, anti-aliased; pictures stay as they are by default.
        tile: cut each picture into squares of so many pixels; what is left over is dropped.
        seed: of the draw.
        progress: show bars.
        known: the table.

    Raises:
        ConnectionError: a file could not be downloaded.
        FileNotFoundError: a file that must be fetched by hand is not there.
        FileExistsError: the folder is not empty.
        ValueError: the name is unknown, a file is not what was meant, an option does not fit, or
            a picture is smaller than a tile.
    """
    if name not in known:
        raise ValueError(f"the set must be one of {', '.join(known)}, got '{name}'")
    what, target = known[name], Path(folder)
    check_scale(um_per_px)
    if um_per_px is not None and (what.um_per_px is None or um_per_px < what.um_per_px):
        raise ValueError(
            f"um_per_px must be at least the set's own, {what.um_per_px or 'unknown'}, got "
            f"{um_per_px}"
        )
    if min(n for n in (per_class, tile, 1) if n is not None) < 1:
        raise ValueError(f"per_class and tile must be at least 1, got {per_class} and {tile}")
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"a patch set must go into a new folder, got '{folder}', not empty")
    scale = um_per_px / what.um_per_px if um_per_px and what.um_per_px else 1.0
    _check_size(what.pixels, scale, tile, what.title)
    files = _files(what, Path(archives), progress)
    chosen = None
    if per_class is not None:
        rng, classes = np.random.default_rng(seed), defaultdict(list)
        for record, _ in what.read(files):
            classes[record.split, record.label].append(record.path)
        drawn = (rng.permutation(paths)[:per_class].tolist() for paths in classes.values())
        chosen = {path for paths in drawn for path in paths}
    spacing = what.um_per_px and what.um_per_px * scale
    patches = _patches(what.read(files), chosen, scale, tile, f"{spacing:.4g}" if spacing else "")
    with tqdm(patches, desc=name, unit="patch", disable=not progress) as bar:
        return write_patches(target, bar, {"SOURCE.txt": describe(name, what)})


def _files(what: PublicSet, archives: Path, progress: bool) -> dict[str, Path]:
    """The set's files by name: those for hand are looked for before any is downloaded."""
    paths = {file.name: archives / file.name for file in what.files}
    missing = [f.name for f in what.files if not f.url and not paths[f.name].is_file()]
    if missing:
        raise FileNotFoundError(
            f"{what.title} must be fetched by hand, got no {' and '.join(missing)} in "
            f"'{archives}'. "
            f"{what.notes} See {what.page}"
        )
    for file in what.files:
        if file.url:
            fetch_file(file.url, paths[file.name], file.checksum, file.size, progress)
        else:
            check_file(paths[file.name], file.checksum, file.size)
    return paths


def _check_size(pixels: tuple[int, int], scale: float, tile: int | None, of: str) -> None:
    """Refuse a tile that is larger than a picture at its spacing."""
    width, height = (round(side / scale) for side in pixels)
    if tile and min(width, height) < tile:
        size = f"{width} x {height} px" + f", from {pixels[0]} x {pixels[1]}" * (scale != 1)
        raise ValueError(
            f"pictures must hold one tile at least, got {size} of '{of}', and tile {tile}: choose"
            " a smaller tile or um_per_px"
        )


def _patches(
    found: Patches, chosen: set[str] | None, scale: float, tile: int | None, spacing: str
) -> Iterator[tuple[PatchRecord, bytes | NDArray[np.uint8]]]:
    """Records with their pictures, shrunk and cut as wanted; untouched files are kept byte for
    byte.
    """
    for record, read in found:
        if chosen is not None and record.path not in chosen:
            continue
        record = replace(record, extra={**record.extra, "um_per_px": spacing})
        content = read()
        if isinstance(content, bytes) and scale == 1 and tile is None and _is_rgb(content):
            yield record, content
            continue
        source = io.BytesIO(content) if isinstance(content, bytes) else None
        picture = Image.open(source).convert("RGB") if source else Image.fromarray(content)  # type: ignore[arg-type]
        if scale != 1:
            width, height = (round(side / scale) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        _check_size(picture.size, 1.0, tile, record.path)
        path = PurePosixPath(record.path).with_suffix(".png")
        if tile is None:
            yield replace(record, path=str(path)), np.asarray(picture)
            continue
        for y in range(0, picture.height - tile + 1, tile):
            for x in range(0, picture.width - tile + 1, tile):
                part = path.with_name(f"{path.stem}_{x}_{y}.png")
                cut = picture.crop((x, y, x + tile, y + tile))
                yield replace(record, path=str(part)), np.asarray(cut)


def _is_rgb(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as picture:
        return bool(picture.mode == "RGB")


def describe(name: str, what: PublicSet) -> str:
    """What is to be known of the set, as text."""
    files = [
        f"  {f.name}  {f.url or 'by hand'}  {f.checksum or 'no checksum known'}"
        for f in what.files
    ]
    spacing = f"{what.um_per_px:.4g}" if what.um_per_px else "not stated by its authors"
    lines = [
        f"{name}: {what.title}",
        f"page: {what.page}",
        f"licence: {what.licence}",
        f"classes: {', '.join(what.classes)}",
        f"pictures: {what.patches} of {what.pixels[0]} x {what.pixels[1]} px; um per px: "
        f"{spacing}",
        f"group: {what.groups}",
        f"note: {what.notes}",
        "files:",
        *files,
    ]
    return "\n".join(lines) + "\n"
