"""``histodiff-export PATCHES TARGET``: accepted patches for other tools, with a card."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.bundle.provenance import read_json
from monai_histodiff.data.bank_files import ABOUT as BANK
from monai_histodiff.data.export import FORMATS, export_patches
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.candidates import ABOUT as CANDIDATES

__all__ = ["facts_of", "main"]

SEALED = (BANK, CANDIDATES)  # which name the classes by their index


def facts_of(results: Mapping[str, Any]) -> dict[str, str]:
    """What ``results.json`` of a run, or of a verdict on a foreign set, says for the card."""
    chosen, sets = results["selection"], results.get("foreign", {}).get("sets", ())
    settings = results.get("settings", {})
    least = chosen.get("source_threshold", chosen["threshold"])
    rule = (
        f"at a confidence of at least {least:.2f} of a critic that was fitted on real patches only"
        if chosen["threshold"]
        else "of whose class no other was more probable to a critic that was fitted on real "
        f"patches only. Unlabelled sources had a confidence of at least {least:.2f}"
    )
    facts = {
        "accepted": f"{chosen['accepted']} of {chosen['candidates']} candidates were accepted, "
        f"{rule}; its precision there is {chosen['reached_precision']:.2f}.",
        "verdict": str(results["verdict"]),
        "made_from": f"The critic, and the comparison, used {results['dataset']['path']} with "
        f"{settings.get('labels_per_class', '?')} labels per class.",
    }
    copies = int(chosen.get("reasons", {}).get("near copy", 0))
    if sets:
        facts["copies"] = (
            f"{sets[0]['copies']} of {sets[0]['pictures']} candidates were found to be copies of "
            f"real training patches, by a rule that finds {sets[0]['usual']:.0%} among real test "
            "patches."
        )
    elif float(results.get("sampling", {}).get("strength", 1.0)) < 1:
        facts["copies"] = (
            "The patches are variations of real ones, near them by design: copies were not "
            "looked for."
        )
    else:
        facts["copies"] = f"{copies} candidates were refused as near copies of real patches."
    if not sets:
        facts["made_by"] = f"monai-histodiff {results['versions']['monai-histodiff']}."
    return facts


def main(argv: Sequence[str] | None = None) -> None:
    """Write a patch set in another format, with what a verdict found on its card."""
    parser = argparse.ArgumentParser(
        "histodiff-export", description="Patches as an ImageFolder, a shard, or for Hugging Face."
    )
    parser.add_argument("patches", help="a patch set, such as 'accepted' of a verdict or 'bank'")
    parser.add_argument("target", help="a new folder, or a .tar file for webdataset")
    parser.add_argument("--format", choices=FORMATS, default="imagefolder")
    parser.add_argument("--licence", default="other", help="an identifier such as cc-by-4.0")
    parser.add_argument("--title", help="of the card")
    parser.add_argument("--made_by", help="what made the patches, and its licence")
    parser.add_argument(
        "--results", help="results.json for the card (default: beside the patches, if it is there)"
    )
    args = parser.parse_args(argv)
    with plain_errors(parser):
        beside = Path(args.patches).resolve().parent / "results.json"
        path = Path(args.results) if args.results else beside
        facts: dict[str, str] = {}
        classes: list[str] = []
        if args.results or path.is_file():
            results = read_json(path, ("selection", "verdict", "dataset", "versions"))
            facts, classes = facts_of(results), results["dataset"].get("classes", [])
        given = {key: getattr(args, key) for key in ("licence", "title", "made_by")}
        facts |= {key: value for key, value in given.items() if value}
        patches = PatchSet.open(args.patches)
        for sealed in (Path(args.patches).expanduser() / name for name in SEALED):
            if sealed.is_file():
                classes = read_json(sealed, ("classes",))["classes"]
        written = export_patches(patches, args.target, args.format, facts, classes)
    print(f"{len(patches)} patches as {args.format}: {written}")


if __name__ == "__main__":
    main()
