"""The folder that tiles are cut into: what earlier calls left there, and what is written.

It holds::

    manifest.csv     all tiles: path,label,split,group,um_per_px,slide,x,y
    slides.csv       each slide: slide,file,found,kept,background,beyond,error
    settings.json    what the tiles were cut with
    tiles/<slide>/   its tiles, with tiles.csv and overview.jpg: complete, or not there

``x`` and ``y`` are the tile's corner in pixels of the slide's finest level.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from monai_histodiff.data.patch_files import COLUMNS, MANIFEST, SCALE
from monai_histodiff.data.slide_files import slide_bytes, slide_sha256
from monai_histodiff.data.slide_groups import SlideRow
from monai_histodiff.data.tables import read_table, write_table
from monai_histodiff.utils.files import read_json, whole_file

__all__ = [
    "SlideReport",
    "cut_before",
    "read_rows",
    "refuse_other_slide",
    "refuse_other_tiles",
    "write_manifest",
    "write_places",
    "write_reports",
]

SLIDES, SETTINGS, TILES = "slides.csv", "settings.json", "tiles"
PLACES, REPORT = "tiles.csv", "report.json"
KINDS = {"str": str, "int": int}  # of the fields of a report
ANEW = "delete its folder, and cut that slide again"


@dataclass(frozen=True)
class SlideReport:
    """What became of one slide. ``error`` is empty where it was cut.

    ``found`` places of the grid = ``kept`` + ``background`` (too little tissue) + ``beyond`` (more
    than ``per_slide``). ``bytes``: of the file; 0: not known (versions before 0.13).
    ``sha256``: see :func:`~monai_histodiff.data.slide_files.slide_sha256`; empty: not known
    (before 0.21).
    """

    slide: str
    file: str
    found: int = 0
    kept: int = 0
    background: int = 0
    beyond: int = 0
    error: str = ""
    bytes: int = 0
    sha256: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.slide}: FAILED: {self.error}"
        return (
            f"{self.slide}: {self.kept} tiles kept of {self.found} found "
            f"({self.background} background, {self.beyond} beyond per_slide)"
        )


def refuse_other_tiles(root: Path, settings: Mapping[str, Any]) -> None:
    """See that a folder is new, or that its tiles were cut with the same settings (or had no
    ``slide_um_per_px``), and have their groups from names of slides where these do.

    Args:
        root: the folder.
        settings: those of this call; ``groups`` says where the groups come from, or is empty.

    Raises:
        ValueError: they were cut with others, or the folder holds other files.
    """
    path = root / SETTINGS
    if not path.is_file():
        if root.exists() and any(root.iterdir()):
            raise ValueError(
                f"tiles must go into a new folder, or one of theirs, got '{root}', which holds"
                " other files: give another folder (for histodiff-tiles the last argument)"
            )
        return
    theirs = read_json(path, remedy="give a new folder")
    free = {"slide_um_per_px"} - {key for key, value in theirs.items() if value is not None}
    if differ := sorted(
        key
        for key in settings
        if theirs.get(key) != settings[key] and key not in (*free, "groups")
    ):
        told = ", ".join(f"{key} {theirs.get(key)} and not {settings[key]}" for key in differ)
        raise ValueError(
            f"tiles of one folder must be cut alike, got {told} in '{root}': give a new folder"
        )
    if theirs.get("groups") and not settings["groups"]:
        raise ValueError(
            "groups must come from a table or a pattern where they did before, got none, and"
            f" {theirs['groups']} in '{root}': give it again, or a new folder"
        )


def cut_before(root: Path) -> dict[str, SlideReport]:
    """The reports of all slides that are done, by name."""
    known = {field.name: KINDS[str(field.type)] for field in fields(SlideReport)}
    found = {}
    for path in sorted((root / TILES).glob(f"*/{REPORT}")):
        if path.parent.name.endswith(".part"):  # what a killed call left
            continue
        told = read_json(path, ("slide", "file"), ANEW)
        odd = [f"{k} {v!r}" for k, v in told.items() if not isinstance(v, known.get(k, ()))]
        if odd:
            raise ValueError(f"'{path}' must be a slide's report, got {odd[0]} in it: {ANEW}")
        found[path.parent.name] = SlideReport(**told)
    return found


def refuse_other_slide(root: Path, file: Path, report: SlideReport) -> None:
    """See that a slide is the one that its tiles are cut from.

    Args:
        root: the folder.
        file: the slide.
        report: of the slide that was cut.

    Raises:
        ValueError: it has another name or content.
    """
    if Path(report.file).name != file.name:
        raise ValueError(
            f"a slide's name must mean one file, got '{file}' where '{root}' has tiles of "
            f"'{report.file}': rename it"
        )
    size, content = slide_bytes(file), slide_sha256(file)
    other = content != report.sha256 if report.sha256 else report.bytes not in (0, size)
    if content and other:
        raise ValueError(
            f"a slide must be what its tiles are cut from, got '{file}' of {size} bytes, and tiles"
            f" of another of {report.bytes}: remove '{root / TILES / report.slide}', and it is"
            " cut anew, or give a new folder"
        )


def read_rows(root: Path) -> dict[str, SlideRow]:
    """Group, label and split of each slide in the manifest.

    Raises:
        ValueError: tiles of one slide have others, which somebody wrote there, and which would be
            lost where the manifest is written anew.
    """
    found: dict[str, SlideRow] = {}
    for row in _read(root / MANIFEST):
        own = SlideRow(row["group"], row["label"], row["split"])
        if own != (first := found.setdefault(row["slide"], own)):
            raise ValueError(
                "tiles of one slide must have one group, label and split where its manifest is "
                f"written anew, got {first} and {own} of '{row['slide']}' in '{root}': keep labels"
                " of single tiles in a copy (PatchSet.open(...).write(NEW)), or take a new folder"
            )
    return found


def write_manifest(root: Path, um_per_px: float, rows: Mapping[str, SlideRow]) -> None:
    """Write the manifest: the tiles of those slides that are done."""
    lines = []
    for name, row in sorted(rows.items()):
        known = {"label": row.label, "split": row.split, "group": row.group}
        for tile in _read(root / TILES / name / PLACES):
            at = {SCALE: um_per_px, "slide": name, "x": tile["x"], "y": tile["y"]}
            lines.append({"path": f"{TILES}/{name}/{tile['path']}", **known, **at})
    with whole_file(root / MANIFEST) as draft:
        _write(draft, [*COLUMNS, SCALE, "slide", "x", "y"], lines)


def write_reports(root: Path, reports: Sequence[SlideReport]) -> None:
    """Write the reports of slides; those of others stay."""
    names = {report.slide for report in reports}
    others = [row for row in _read(root / SLIDES) if row["slide"] not in names]
    with whole_file(root / SLIDES) as draft:
        columns = list(SlideReport.__dataclass_fields__)
        _write(draft, columns, [*others, *map(asdict, reports)])


def write_places(
    folder: Path, report: SlideReport, places: Sequence[Mapping[str, object]]
) -> None:
    """Write into the folder of a slide what became of it, and the places of its tiles: path, x and
    y.
    """
    _write(folder / PLACES, ["path", "x", "y"], places)
    (folder / REPORT).write_text(json.dumps(asdict(report)), encoding="utf-8")


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of a table, or none where it is not there."""
    if not path.is_file():
        return []
    return [row.cells for row in read_table(path.read_bytes(), f"'{path}'", ())]


def _write(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, object]]) -> None:
    cells = ([str(line.get(name, "")) for name in columns] for line in lines)
    write_table(path, columns, ([" ".join(cell.splitlines()) for cell in row] for row in cells))
