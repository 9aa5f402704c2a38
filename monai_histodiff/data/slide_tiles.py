"""Many slides into one patch set: in parallel, resumable, with a word on every slide.

The folder that :func:`cut_slides` writes::

    manifest.csv     all tiles: path,label,split,group,um_per_px,slide,x,y
    slides.csv       each slide: slide,file,found,kept,background,beyond,error
    settings.json    what the tiles were cut with
    tiles/<slide>/   its tiles, with tiles.csv and overview.jpg: complete, or not there

``x`` and ``y`` are the tile's corner in pixels of the slide's finest level.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from monai_histodiff.data.patch_files import OVERVIEW
from monai_histodiff.data.slide_groups import SlideRow, slide_rows
from monai_histodiff.data.slide_reader import READERS, open_slide, slide_bytes
from monai_histodiff.data.slides import cut, plan_tiles
from monai_histodiff.utils.files import whole_file
from monai_histodiff.utils.folders import whole_folder

__all__ = ["SlideReport", "TileSettings", "cut_slides"]

MANIFEST, SLIDES, SETTINGS, TILES = "manifest.csv", "slides.csv", "settings.json", "tiles"
FORMATS = ("png", "jpg")
LONGEST = 2000  # side of the picture of a slide, in pixels


@dataclass(frozen=True)
class TileSettings:
    """What tiles are cut with; all that decides their pixels and places.

    Args:
        um_per_px: their spacing. The shipped generator was trained at about 1.
        size: their side in pixels.
        tissue: least share of a tile that must be tissue.
        per_slide: at most so many of each slide, drawn at random; all by default.
        seed: of that draw.
        slide_um_per_px: spacing of slides that state none.
        format: ``"png"``, or ``"jpg"`` (quality 92, a fourth of the size).

    Raises:
        ValueError: a value is out of its range.
    """

    um_per_px: float = 1.0
    size: int = 128
    tissue: float = 0.5
    per_slide: int | None = None
    seed: int = 0
    slide_um_per_px: float | None = None
    format: str = "png"

    def __post_init__(self) -> None:
        spacings = [v for v in (self.um_per_px, self.slide_um_per_px) if v is not None]
        rules = (
            (
                all(v > 0 for v in spacings),
                "um_per_px and slide_um_per_px must be above 0",
                spacings,
            ),
            (self.size >= 1, "size must be at least 1", self.size),
            (0 <= self.tissue <= 1, "tissue must lie in [0, 1]", self.tissue),
            (
                self.per_slide is None or self.per_slide >= 1,
                "per_slide must be at least 1",
                self.per_slide,
            ),
            (self.format in FORMATS, f"format must be one of {', '.join(FORMATS)}", self.format),
        )
        for holds, rule, value in rules:
            if not holds:
                raise ValueError(f"{rule}, got {value}")


@dataclass(frozen=True)
class SlideReport:
    """What became of one slide. ``error`` is empty where it was cut.

    ``found`` places of the grid = ``kept`` + ``background`` (too little tissue) + ``beyond`` (more
    than ``per_slide``). ``bytes``: of the file; 0: not known (versions before 0.13).
    """

    slide: str
    file: str
    found: int = 0
    kept: int = 0
    background: int = 0
    beyond: int = 0
    error: str = ""
    bytes: int = 0

    def __str__(self) -> str:
        if self.error:
            return f"{self.slide}: FAILED: {self.error}"
        return (
            f"{self.slide}: {self.kept} tiles kept of {self.found} found "
            f"({self.background} background, {self.beyond} beyond per_slide)"
        )


def cut_slides(
    slides: Mapping[str, Path],
    folder: str | os.PathLike[str],
    settings: TileSettings | None = None,
    rows: Mapping[str, SlideRow] | None = None,
    workers: int = 1,
    readers: Sequence[str] = READERS,
    progress: bool = True,
) -> list[SlideReport]:
    """Cut tiles of slides into a patch set, each slide once: what an earlier call has done is not
    done again.

    Args:
        slides: files by slide name (:func:`~monai_histodiff.data.slide_reader.find_slides`).
        folder: the patch set; a new folder, or that of an earlier call with the same settings.
        settings: see :class:`TileSettings`.
        rows: group, label and split of each slide
            (:func:`~monai_histodiff.data.slide_groups.slide_rows`). They may differ from an
            earlier call's.
        workers: processes, each with one slide at a time.
        readers: see :func:`~monai_histodiff.data.slide_reader.open_slide`.
        progress: show a bar.

    Returns: A report for each slide, in order; one without tiles says why.

    Raises:
        ValueError: the folder holds tiles cut with other settings, or ``workers`` is below 1.
    """
    settings, root = settings or TileSettings(), Path(folder)
    rows = rows or slide_rows(slides)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    _claim(root, settings)
    _write_manifest(root, settings, rows)
    reports = {
        name: report for name, file in slides.items() if (report := _done(root, name, file))
    }
    jobs = [
        (name, file, root, settings, tuple(readers))
        for name, file in slides.items()
        if name not in reports
    ]
    with tqdm(total=len(slides), initial=len(reports), unit="slide", disable=not progress) as bar:
        for report in _run(jobs, workers):
            reports[report.slide] = report
            bar.update()
    _write_manifest(root, settings, rows)
    ordered = [reports[name] for name in slides]
    others = [row for row in _rows(root / SLIDES) if row["slide"] not in reports]
    with whole_file(root / SLIDES) as draft:
        _write_rows(
            draft, [*others, *map(asdict, ordered)], list(SlideReport.__dataclass_fields__)
        )
    return ordered


def _claim(root: Path, settings: TileSettings) -> None:
    """Write the settings into a new folder, or see that an old one has the same (or had no
    ``slide_um_per_px``).
    """
    path, mine = root / SETTINGS, asdict(settings)
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        free = {"slide_um_per_px"} - {key for key, value in theirs.items() if value is not None}
        if differ := sorted(
            key for key in mine if theirs.get(key) != mine[key] and key not in free
        ):
            told = ", ".join(f"{key} {theirs.get(key)} and not {mine[key]}" for key in differ)
            raise ValueError(
                f"tiles of one folder must be cut alike, got {told} in '{root}': give a new folder"
            )
    elif root.exists() and any(root.iterdir()):
        raise ValueError(
            f"tiles must go into a new folder, or one of theirs, got '{root}', which holds other "
            "files"
        )
    with whole_file(path) as draft:
        draft.write_text(json.dumps(mine, indent=1), encoding="utf-8")


def _run(
    jobs: Sequence[tuple[str, Path, Path, TileSettings, tuple[str, ...]]], workers: int
) -> Iterator[SlideReport]:
    if workers == 1 or len(jobs) < 2:
        yield from (_cut_one(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # safe beside threads and CUDA
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_cut_one, *job): job for job in jobs}
        try:
            for future in as_completed(futures):
                name, file = futures[future][:2]
                try:
                    yield future.result()
                except BrokenProcessPool:
                    died = "the worker process died: try again with fewer --workers"
                    yield SlideReport(name, str(file), error=died)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _cut_one(
    name: str, file: Path, root: Path, settings: TileSettings, readers: tuple[str, ...]
) -> SlideReport:
    """Cut one slide; whatever is wrong with it becomes a report, and leaves nothing behind."""
    try:
        slide = open_slide(file, settings.slide_um_per_px, readers)
        try:
            options = settings.um_per_px, settings.size
            plan = plan_tiles(slide, *options, settings.tissue, settings.per_slide, settings.seed)
            counts = plan.found, len(plan.tiles), plan.background, plan.beyond
            report = SlideReport(name, str(file), *counts, bytes=slide_bytes(file))
            if not plan.tiles:
                return replace(report, error=f"no tissue in any of {plan.found} places")
            with whole_folder(root / TILES / name) as draft:
                lines = []
                for tile, picture in cut(slide, plan, *options):
                    path = f"{name}_{tile.left}_{tile.top}.{settings.format}"
                    Image.fromarray(picture).save(draft / path, quality=92, subsampling=0)
                    lines.append({"path": path, "x": tile.left, "y": tile.top})
                _write_rows(draft / "tiles.csv", lines, ["path", "x", "y"])
                (draft / "report.json").write_text(json.dumps(asdict(report)), encoding="utf-8")
                small = Image.fromarray(plan.picture)
                small.thumbnail((LONGEST, LONGEST))
                small.save(draft / OVERVIEW, quality=85)
            return report
        finally:
            slide.close()
    except Exception as error:  # a damaged slide raises nearly anything
        kind = f"{type(error).__name__}: {error}"
        told = str(error) if isinstance(error, (ValueError, ImportError)) else ""
        told = told or f"a slide must be readable, got {kind} in '{file}'"
        return SlideReport(name, str(file), error=told)


def _done(root: Path, name: str, file: Path) -> SlideReport | None:
    """The report of a slide that is done, or nothing."""
    path = root / TILES / name / "report.json"
    if not path.is_file():
        return None
    report = SlideReport(**json.loads(path.read_text(encoding="utf-8")))
    if Path(report.file).name != file.name:
        raise ValueError(
            f"a slide's name must mean one file, got '{file}' where '{root}' has tiles of "
            f"'{report.file}': rename it"
        )
    if report.bytes and (size := slide_bytes(file)) not in (0, report.bytes):
        raise ValueError(
            f"a slide must be what its tiles are cut from, got '{file}' of {size} bytes, and tiles"
            f" of {report.bytes}: remove '{path.parent}', and it is cut anew, or give a new folder"
        )
    return report


def _write_manifest(root: Path, settings: TileSettings, rows: Mapping[str, SlideRow]) -> None:
    """The manifest of all slides that are done; those of an earlier call that this one does not
    name keep their lines.
    """
    lines: list[Mapping[str, object]] = [
        row for row in _rows(root / MANIFEST) if row["slide"] not in rows
    ]
    for name, row in rows.items():
        known = {"label": row.label, "split": row.split, "group": row.group}
        for tile in _rows(root / TILES / name / "tiles.csv"):
            at = {"um_per_px": settings.um_per_px, "slide": name, "x": tile["x"], "y": tile["y"]}
            lines.append({"path": f"{TILES}/{name}/{tile['path']}", **known, **at})
    with whole_file(root / MANIFEST) as draft:
        _write_rows(
            draft, lines, ["path", "label", "split", "group", "um_per_px", "slide", "x", "y"]
        )


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, or none where it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write_rows(path: Path, lines: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(lines)
