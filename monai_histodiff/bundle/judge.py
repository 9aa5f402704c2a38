"""``histodiff-judge RUN``: judge a finished run anew, from what its classifiers said."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_histodiff._version import __version__
from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.bundle.predictions import read_predictions
from monai_histodiff.bundle.provenance import check_files, read_json
from monai_histodiff.bundle.run_folder import RunFolder
from monai_histodiff.evaluation.arms import COMPARISONS
from monai_histodiff.evaluation.verdict import compare_arms, last_word
from monai_histodiff.utils.files import write_json

__all__ = ["judge", "main"]

NEEDED = ("verdict", "claim", "shortfalls", "notes", "selection", "versions", "files")


def judge(output_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The results of a run as this version judges them. Nothing is trained, nothing written.

    Args:
        output_dir: of the run.

    Returns:
        ``results.json`` with all that follows from the predictions made anew; ``judged_by`` is
        this version.

    Raises:
        FileNotFoundError: there are no results, or no predictions (versions before 0.11).
        ValueError: a file is damaged, or the predictions are not those of the results.
    """
    folder = RunFolder(output_dir)
    if not folder.results.is_file():
        raise FileNotFoundError(
            f"a run must have '{folder.results.name}', got none in '{output_dir}': evaluate it"
        )
    results = read_json(folder.results, NEEDED)
    found = read_predictions(folder.predictions)
    check_files(folder.root, results["files"], [folder.predictions.name])
    accepted = int(results["selection"]["accepted"])
    judged = compare_arms(
        dict(zip(found["arms"].tolist(), map(list, found["probabilities"]), strict=True)),
        found["labels"],
        found["groups"].tolist(),
        found["classes"].tolist(),
        COMPARISONS,
        accepted,
    )
    claim, sentence = last_word(judged["claims"], accepted)
    rest = [note for note in results["notes"] if note not in results["shortfalls"]]
    return {
        **results,
        **judged,
        "claim": claim,
        "verdict": sentence,
        "notes": [*judged["shortfalls"], *rest],
        "judged_by": __version__,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the verdict then and now, and write the results if asked to."""
    parser = argparse.ArgumentParser(
        "histodiff-judge", description="Judge a finished run anew, without a training."
    )
    parser.add_argument("run", help="its output_dir")
    parser.add_argument("--output", help="a results.json to write, for histodiff-summary")
    args = parser.parse_args(argv)
    with plain_errors(parser):
        before, results = read_json(Path(args.run) / "results.json", NEEDED), judge(args.run)
        if args.output:
            write_json(args.output, results)
    print(f"Then ({before['versions'].get('monai-histodiff', '?')}): {before['verdict']}")
    print(f"Now ({__version__}): {results['verdict']}")
    for name, row in results["claims"].items():
        found = results["differences"][name]["balanced_accuracy"]
        mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
        told = f"{mean:+.1f} ({low:+.1f} to {high:+.1f}), p {row['p_holm']:.3f}"
        print(f"{name}: {told}: {row['claim']}")


if __name__ == "__main__":
    main()
