"""``histodiff-tiles``: whole slides in, a patch set out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.data.slide_files import find_slides
from monai_histodiff.data.slide_groups import read_slide_table
from monai_histodiff.data.slide_reader import READERS
from monai_histodiff.data.slide_tiles import FORMATS, TileSettings, cut_slides

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Cut tiles; print a line for each slide and a summary; exit with 1 if a slide failed or
    nothing was cut.
    """
    parser = argparse.ArgumentParser(
        "histodiff-tiles", description="Cut whole slides into a patch set, where there is tissue."
    )
    parser.add_argument(
        "slides", nargs="+", metavar="SLIDE", help="slides, or folders that hold some"
    )
    parser.add_argument(
        "output", metavar="OUT", help="the patch set: a new folder, or the same again to go on"
    )
    parser.add_argument(
        "--um_per_px", type=float, default=1.0, help="spacing of the tiles (default 1.0)"
    )
    parser.add_argument(
        "--size", type=int, default=128, help="side of a tile in pixels (default 128)"
    )
    parser.add_argument(
        "--per_slide", type=int, help="at most so many tiles of each slide, drawn at random"
    )
    parser.add_argument(
        "--tissue", type=float, default=0.5, help="least share of tissue in a tile (default 0.5)"
    )
    parser.add_argument("--slide_um_per_px", type=float, help="spacing of slides that state none")
    parser.add_argument(
        "--group_pattern",
        help="regular expression: its bracket is the patient in the slide's name",
    )
    parser.add_argument("--table", help="csv with slide,group[,label][,split]")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--format", choices=FORMATS, default="png")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of --per_slide")
    parser.add_argument("--reader", choices=READERS, help="use this reader alone")
    args = parsed(parser, argv)
    with plain_errors(parser):
        if Path(args.output).is_file():
            raise ValueError(
                f"OUT, the last argument, must be a folder, got the file '{args.output}': name the"
                " slides first, and then the folder of the tiles"
            )
        slides = find_slides(args.slides)
        table = read_slide_table(args.table) if args.table else None
        names = ("um_per_px", "size", "tissue", "per_slide", "seed", "slide_um_per_px", "format")
        settings = TileSettings(**{name: getattr(args, name) for name in names})
        readers = (args.reader,) if args.reader else READERS
        reports = cut_slides(
            slides, args.output, settings, table, args.group_pattern, args.workers, readers
        )
    failed = [report for report in reports if report.error]
    for report in reports:
        print(report)
    print(
        f"{sum(r.kept for r in reports)} tiles of {len(reports) - len(failed)} slides in "
        f"'{args.output}'; {len(failed)} slides failed"
    )
    if failed:
        parser.exit(1)


if __name__ == "__main__":
    main()
