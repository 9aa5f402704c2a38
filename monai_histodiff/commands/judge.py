"""``histodiff-judge RUN``: judge a finished run anew, from what its classifiers said."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff._version import __version__
from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.bundle.predictions import read_predictions
from monai_histodiff.bundle.provenance import check_files
from monai_histodiff.bundle.results_folder import ResultsFolder
from monai_histodiff.bundle.verdict_words import headline, reasons, withheld
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.evaluation.combining import rejudged
from monai_histodiff.evaluation.comparisons import COMPARISONS
from monai_histodiff.evaluation.results_files import read_results
from monai_histodiff.evaluation.results_kinds import REMEDY, check_kinds
from monai_histodiff.evaluation.verdict import compare_arms, last_word
from monai_histodiff.report.summary import difference_words
from monai_histodiff.report.values import p_value
from monai_histodiff.utils.files import write_json

__all__ = ["judge", "main"]

COUNTS = "pictures accepted copies test_copies unlike taught expected usual".split()
UNJUDGED = (
    "Whether the labels of the pictures fit is not judged anew: an earlier version wrote these "
    "results, and does not tell how many labelled patches that rests on."
)
NEEDED = ("verdict", "claim", "notes", "selection#accepted", "versions", "files")


def judge(output_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The results of a run as this version judges them. Nothing is trained, nothing written.

    Args:
        output_dir: of the run; or a ``results.json`` alone, such as a published one.

    Returns:
        ``results.json`` with all that follows from the predictions made anew, or, of a file alone,
        with the claims and what they rest on made anew from which answers were right;
        ``judged_by`` is this version, ``judged_from`` is ``"predictions"`` or ``"hits"``.

    Raises:
        FileNotFoundError: there are no results, or predictions that they name are missing.
        ValueError: a file is damaged, the predictions are not those of the results, or the results
            are of ``verdict.json`` and tell too little of the copies.
    """
    return _judged(output_dir, _read(output_dir))


def _judged(output_dir: str | os.PathLike[str], results: Mapping[str, Any]) -> dict[str, Any]:
    accepted = int(results["selection"]["accepted"])
    if Path(output_dir).is_file():
        return _told(results, rejudged(results, accepted), accepted, "hits")
    folder = ResultsFolder(output_dir)
    found = read_predictions(folder.predictions)
    check_files(folder.root, results["files"], [folder.predictions.name], REMEDY)
    judged = compare_arms(
        dict(zip(found["arms"].tolist(), map(list, found["probabilities"]), strict=True)),
        found["labels"],
        found["groups"].tolist(),
        found["classes"].tolist(),
        COMPARISONS,
        accepted,
    )
    return _told(results, judged, accepted, "predictions")


def _read(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``results.json`` of a run, or the file itself."""
    path = Path(run)
    found = path / "results.json" if path.is_dir() else path
    if not found.is_file():
        raise FileNotFoundError(
            f"a run must have 'results.json', got none in '{run}': evaluate it, or give its folder"
        )
    (results,) = read_results([found])
    sets = ["foreign#sets"] if "foreign" in results else []
    check_kinds(results, found, (*NEEDED, *sets))
    return results


def _told(
    results: Mapping[str, Any], judged: Mapping[str, Any], accepted: int, source: str
) -> dict[str, Any]:
    claim, sentence = last_word(judged["claims"], accepted)
    found = {**judged, "claim": claim, "verdict": sentence, **_of_sets(results, judged, sentence)}
    told = [*found["shortfalls"], *reasons(found["claims"]), *_unjudged(results)]
    rest = [note for note in results["notes"] if note not in (*results["shortfalls"], *told)]
    return {
        **{key: value for key, value in results.items() if key != "word"},
        **found,
        "notes": [*told, *rest],
        "judged_by": __version__,
        "judged_from": source,
    }


def _of_sets(
    results: Mapping[str, Any], judged: Mapping[str, Any], sentence: str
) -> dict[str, Any]:
    """What the copies, and the labels, that were found in the sets of ``verdict.json`` change."""
    if "foreign" not in results:
        return {}
    sets = results["foreign"]["sets"]
    numbers = (int, float)
    if missing := [k for k in COUNTS for part in sets if not isinstance(part.get(k), numbers)]:
        raise ValueError(
            f"results of verdict.json must count what each set holds, got no '{missing[0]}': an "
            "earlier version wrote them; run it again, its trainings are in the cache"
        )
    return {"claims": withheld(judged["claims"], sets), **headline(sets[0], sentence)}


def _unjudged(results: Mapping[str, Any]) -> list[str]:
    """A note where results of ``verdict.json`` tell too little of the labels."""
    sets = results.get("foreign", {}).get("sets", ())
    rows = [row for part in sets for row in part.get("classes", {"": {}}).values()]
    return [] if all("labelled" in row for row in rows) else [UNJUDGED]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the verdict then and now, and write the results if asked to."""
    parser = argparse.ArgumentParser(
        "histodiff-judge", description="Judge a finished run anew, without a training."
    )
    parser.add_argument("run", help="its output_dir, or a results.json alone")
    parser.add_argument("--output", help="a results.json to write, for histodiff-summary")
    args = parsed(parser, argv)
    with plain_errors(parser):
        before = _read(args.run)
        if args.output and Path(args.output).exists():
            raise FileExistsError(
                f"output must be a new file, got '{args.output}', which exists: choose another"
            )
        results = _judged(args.run, before)
        if args.output:
            write_json(args.output, results)
    print(f"Then ({before['versions'].get('monai-histodiff', '?')}): {before['verdict']}")
    print(f"Now ({__version__}): {results['verdict']}")
    if results["judged_from"] == "hits":
        print("(from which answers were right: other metrics than balanced accuracy are as then)")
    for name, row in results["claims"].items():
        found = results["differences"][name]["balanced_accuracy"]
        print(f"{name}: {difference_words(found)}, p {p_value(row['p_holm'])}: {row['claim']}")


if __name__ == "__main__":
    main()
