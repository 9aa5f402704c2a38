"""``histodiff-summary out/*/results.json`` prints Markdown; ``--html page.html`` writes a page."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.evaluation.combining import (
    by_data_set,
    by_label_count,
    combine,
    combine_sets,
    label_key,
)
from monai_histodiff.evaluation.methods import differing
from monai_histodiff.evaluation.results_files import read_results
from monai_histodiff.report.data_sets import UNSHARED, sets_to_html
from monai_histodiff.report.limits import beside, limits
from monai_histodiff.report.summary import difference_table, to_html, to_markdown
from monai_histodiff.report.values import markdown


def main(argv: Sequence[str] | None = None) -> None:
    """Print the Markdown of several results, and write the page if asked to."""
    parser = argparse.ArgumentParser(
        "histodiff-summary", description="Combine several results.json into one table."
    )
    parser.add_argument(
        "results",
        nargs="+",
        help="results.json files: other draws, other label counts, other data sets",
    )
    parser.add_argument("--html", help="a page to write")
    args = parsed(parser, argv)
    with plain_errors(parser):
        if args.html and Path(args.html).resolve() in map(Path.resolve, map(Path, args.results)):
            raise ValueError(f"html must be another file than the results, got '{args.html}'")
        sets = by_data_set(read_results(args.results))
        _speak_utf8()
        _tell(sets, args.html)


def _tell(sets: Mapping[str, list[Any]], html: str | None) -> None:
    """Print what the runs of each data set, and all together, say, and write the page."""
    counted = {name: by_label_count(results) for name, results in sets.items()}
    combined = {
        name: {labels: combine(runs) for labels, runs in by_count.items()}
        for name, by_count in counted.items()
    }
    for name, by_count in counted.items():
        print(to_markdown(by_count, combined[name], differing(sets[name])), end="")
    every = [run for runs in sets.values() for run in runs]
    apart = differing(every)
    if len(sets) == 1:
        if html:
            to_html(by_count, combined[name], apart, html)
        return
    by_key = [{label_key(n): runs for n, runs in c.items()} for c in counted.values()]
    across = {
        n: combine_sets([runs[label_key(n)] for runs in by_key])
        for n in next(iter(counted.values()))
        if all(label_key(n) in runs for runs in by_key)
    }
    print(_across_sets(len(sets), across, beside(every, apart)), end="")
    if html:
        sets_to_html({n: (counted[n], combined[n]) for n in sets}, across, apart, html)


def _speak_utf8() -> None:
    """Files and pipes get UTF-8, whatever the code page; a console shows ``?`` where it must."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8")


def _across_sets(
    count: int, combined: Mapping[str, Mapping[str, Any]], said: Sequence[str]
) -> str:
    """Markdown of the mean differences over data sets, for each label count that all have, below
    what is said of all runs.
    """
    lines = [
        "",
        f"# {count} data sets",
        "",
        "Mean over the data sets above; the interval is for new test groups, trainings and draws "
        "of them, not for other data sets.",
        *(line for sentence in said for line in ("", markdown(sentence))),
    ]
    if not combined:
        lines += ["", UNSHARED]
    for labels, found in combined.items():
        lines += ["", f"## {labels} labels per class", *difference_table(found)]
        for sentence in limits([], found):
            lines += ["", markdown(sentence)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
