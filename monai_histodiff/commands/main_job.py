"""``python -m monai_histodiff``, or ``histodiff-demo``: the main job from an installed package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import fire
from monai.bundle import run

from monai_histodiff.bundle.errors import plain_errors, show_error
from monai_histodiff.options.typed import check_typed

__all__ = ["bundles_dir", "main"]

PACKAGE = Path(__file__).resolve().parents[1]
JOBS = {
    "finetune": ("finetune.json",),
    "thorough": ("finetune.json", "thorough.json"),
    "verdict": ("verdict.json",),
}


def bundles_dir() -> Path:
    """The folder of the bundles: within the installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    places = (PACKAGE / "bundles", PACKAGE.parent / "bundles")
    for place in places:
        if (place / JOBS["finetune"][0]).is_file():
            return place
    raise FileNotFoundError(
        f"the bundles must lie in one of {[str(place) for place in places]}, got neither: install "
        "the package from its wheel, or run in a checkout"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run a config of the bundles that came with the package; further arguments are its options,
    as those of ``python -m monai.bundle run``.
    """
    parser = argparse.ArgumentParser(
        "histodiff-demo",
        description="Adapt, sample, select, and say whether it helps: on a built-in set, or on "
        "yours (--dataset_dir PATCHES --labels_per_class N).",
        epilog="Further options, as --NAME VALUE, are those of docs/options.md; all are checked "
        "before any work.",
    )
    parser.add_argument(
        "job",
        nargs="?",
        choices=list(JOBS),
        default="finetune",
        help="the quick look, the thorough one, or a verdict on pictures of any origin",
    )
    if argv is None:  # a command of its own, not a call from other code
        sys.excepthook = show_error
    given = list(sys.argv[1:] if argv is None else argv)
    own = given[:1] if given and (given[0][:1] != "-" or given[0] in ("-h", "--help")) else []
    job, options = parser.parse_args(own).job, given[len(own) :]
    with plain_errors(parser):
        folder = bundles_dir()
        check_typed(["--bundle_root", str(folder), *options])
    configs = [str(folder / name) for name in JOBS[job]]
    given = ["--config_file", repr(configs), "--bundle_root", str(folder), *options]
    fire.Fire(run, command=given, name="histodiff-demo")


if __name__ == "__main__":
    main()
