"""Many slides into one patch set: in parallel, resumable, with a word on every slide.

:mod:`~monai_histodiff.data.slide_folder` says what lies in the folder.
"""

from __future__ import annotations

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
from monai_histodiff.data.scale import check_scale
from monai_histodiff.data.slide_files import slide_bytes, slide_sha256
from monai_histodiff.data.slide_folder import (
    SETTINGS,
    TILES,
    SlideReport,
    cut_before,
    read_rows,
    refuse_other_slide,
    refuse_other_tiles,
    write_manifest,
    write_places,
    write_reports,
)
from monai_histodiff.data.slide_groups import SlideRow, slide_rows
from monai_histodiff.data.slide_reader import READERS, open_slide
from monai_histodiff.data.slides import cut, plan_tiles
from monai_histodiff.utils.files import sweep_drafts, whole_folder, write_json

__all__ = ["TileSettings", "cut_slides"]

FORMATS = ("png", "jpg")
LONGEST = 2000  # side of the picture of a slide, in pixels
GLASS = 8.0  # deviation of the levels of a picture of nothing, at the most


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
        check_scale(self.um_per_px)
        rules = (
            (
                self.slide_um_per_px is None or self.slide_um_per_px > 0,
                "slide_um_per_px must be above 0",
                self.slide_um_per_px,
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


def cut_slides(
    slides: Mapping[str, Path],
    folder: str | os.PathLike[str],
    settings: TileSettings | None = None,
    table: Mapping[str, SlideRow] | None = None,
    group_pattern: str | None = None,
    workers: int = 1,
    readers: Sequence[str] = READERS,
    progress: bool = True,
) -> list[SlideReport]:
    """Cut tiles of slides into a patch set, each slide once: what an earlier call has done is not
    done again.

    Args:
        slides: files by slide name (:func:`~monai_histodiff.data.slide_files.find_slides`).
        folder: the patch set; a new folder, or that of an earlier call with the same settings.
        settings: see :class:`TileSettings`.
        table: group, label and split of slides
            (:func:`~monai_histodiff.data.slide_groups.read_slide_table`).
        group_pattern: or a pattern that finds the group in a slide's name
            (:func:`~monai_histodiff.data.slide_groups.slide_rows`). Table and pattern hold for
            slides of earlier calls, too; once one is given, each later call needs one.
        workers: processes, each with one slide at a time.
        readers: see :func:`~monai_histodiff.data.slide_reader.open_slide`.
        progress: show a bar.

    Returns: A report for each slide, in order; one without tiles says why.

    Raises:
        ValueError: the folder holds tiles cut with other settings or of other slides, ``workers``
            is below 1, or a rule of :func:`~monai_histodiff.data.slide_groups.slide_rows` is
            broken.
    """
    settings, root = settings or TileSettings(), Path(folder)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    pattern = "" if group_pattern is None else f"--group_pattern '{group_pattern}'"
    mine = {**asdict(settings), "groups": pattern if table is None else "--table"}
    refuse_other_tiles(root, mine)
    done = cut_before(root)
    files = {**{name: Path(report.file) for name, report in done.items()}, **slides}
    rows = slide_rows(files, table, group_pattern, read_rows(root))
    reports = {name: done[name] for name in slides if name in done}
    for name, report in reports.items():
        refuse_other_slide(root, slides[name], report)
    write_json(root / SETTINGS, mine)
    write_manifest(root, settings.um_per_px, rows)
    jobs = [
        (name, file, root, settings, tuple(readers))
        for name, file in slides.items()
        if name not in reports
    ]
    with tqdm(total=len(slides), initial=len(reports), unit="slide", disable=not progress) as bar:
        for report in _run(jobs, workers):
            reports[report.slide] = report
            bar.update()
    write_manifest(root, settings.um_per_px, rows)
    ordered = [reports[name] for name in slides]
    write_reports(root, ordered)
    return ordered


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
            known = slide_bytes(file), slide_sha256(file)
            report = SlideReport(name, str(file), *counts, "", *known)
            if not plan.tiles:
                grey = bool(
                    (plan.picture == plan.picture[..., :1]).all() and plan.picture.std() > GLASS
                )
                why = "; tissue is what has colour: give --tissue 0 for a grey slide" * grey
                return replace(report, error=f"no tissue in any of {plan.found} places{why}")
            sweep_drafts(root / TILES, name)
            with whole_folder(root / TILES / name) as draft:
                lines = []
                for tile, picture in cut(slide, plan, *options):
                    path = f"{name}_{tile.left}_{tile.top}.{settings.format}"
                    Image.fromarray(picture).save(draft / path, quality=92, subsampling=0)
                    lines.append({"path": path, "x": tile.left, "y": tile.top})
                write_places(draft, report, lines)
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
