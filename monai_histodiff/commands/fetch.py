"""``histodiff-fetch NAME DIR``: a public set by name, as a patch set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.data.download import checksum
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.public_fetch import describe, fetch_public_set
from monai_histodiff.data.public_sets import PUBLIC_SETS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Tell of a set, or fetch it; print what it is, the checksums of its files, and its counts."""
    parser = argparse.ArgumentParser(
        "histodiff-fetch",
        description="Download a public set, or take its files, and write it as a patch set.",
        epilog=f"sets: {', '.join(PUBLIC_SETS)}",
    )
    parser.add_argument("name", metavar="NAME", choices=list(PUBLIC_SETS))
    parser.add_argument("folder", metavar="DIR", nargs="?", help="the patch set; none: only tell")
    parser.add_argument(
        "--archives", help="where its files are or go (default: beside DIR, DIR-archives)"
    )
    parser.add_argument("--per_class", type=int, help="at most so many of each class and split")
    parser.add_argument("--um_per_px", type=float, help="shrink to this spacing")
    parser.add_argument("--tile", type=int, help="cut each picture into squares of so many pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of --per_class")
    args = parsed(parser, argv)
    print(describe(args.name, PUBLIC_SETS[args.name]), end="")
    if args.folder is None:
        return
    archives = Path(args.archives or f"{args.folder}-archives")
    with plain_errors(parser):
        options = args.per_class, args.um_per_px, args.tile, args.seed
        folder = fetch_public_set(args.name, args.folder, archives, *options, known=PUBLIC_SETS)
        patches = PatchSet.open(folder)
    for file in PUBLIC_SETS[args.name].files:
        print(f"sha256 {checksum(archives / file.name)}  {file.name}")
    for split in ("train", "test", ""):
        if len(part := patches.select(split)):
            print(
                f"{split or 'no split'}: {len(part)} patches, {len(set(part.groups))} groups: "
                f"{part.counts()}"
            )


if __name__ == "__main__":
    main()
