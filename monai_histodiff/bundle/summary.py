"""``histodiff-summary out/*/results.json`` prints Markdown; ``--html page.html`` writes a page."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from monai_histodiff.evaluation.draws import by_label_count, combine, read_results
from monai_histodiff.report.summary import to_html, to_markdown


def main(argv: Sequence[str] | None = None) -> None:
    """Print the Markdown of several results, and write the page if asked to."""
    parser = argparse.ArgumentParser(
        "histodiff-summary", description="Combine several results.json into one table."
    )
    parser.add_argument(
        "results", nargs="+", help="results.json files: other draws, other label counts"
    )
    parser.add_argument("--html", help="a page to write")
    args = parser.parse_args(argv)
    try:
        results = read_results(args.results)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    by_count = by_label_count(results)
    combined = {labels: combine(runs) for labels, runs in by_count.items()}
    _speak_utf8()
    print(to_markdown(by_count, combined), end="")
    if args.html:
        to_html(by_count, combined, args.html)


def _speak_utf8() -> None:
    """Files and pipes get UTF-8, whatever the code page; a console shows ``?`` where it must."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8")
