"""``histodiff-export PATCHES TARGET``: accepted patches for other tools, with a card."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.data.bank_files import ABOUT as BANK
from monai_histodiff.data.export import FORMATS, export_patches
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.candidates import ABOUT as CANDIDATES
from monai_histodiff.utils.files import read_json

__all__ = ["facts_of", "main"]

SEALED = (BANK, CANDIDATES)  # which name the classes by their index


def facts_of(results: Mapping[str, Any], place: int = 0) -> dict[str, str]:
    """What ``results.json`` of a run, or of a verdict on a foreign set, says for the card.

    Args:
        results: of the run.
        place: of a verdict: 1 for its second set.
    """
    chosen, sets = results["selection"], results.get("foreign", {}).get("sets", ())
    settings, own = results.get("settings", {}), sets[place] if sets else {}
    accepted = own.get("accepted", chosen["accepted"])
    made = own.get("pictures", chosen["candidates"])
    said = results["verdict"] if not place else results["claims"].get("G2-C", {}).get("sentence")
    least = chosen.get("source_threshold", chosen["threshold"])
    rule = (
        f"at a confidence of at least {least:.2f} of a critic that was fitted on real patches only"
        if chosen["threshold"]
        else "of whose class no other was more probable to a critic that was fitted on real "
        f"patches only. Unlabelled sources had a confidence of at least {least:.2f}"
    )
    facts = {
        "accepted": f"{accepted} of {made} candidates were accepted, "
        f"{rule}; its precision there is {chosen['reached_precision']:.2f}.",
        "verdict": str(said or "Not compared."),
        "made_from": f"The critic, and the comparison, used {results['dataset']['path']} with "
        f"{settings.get('labels_per_class', '?')} labels per class.",
    }
    copies = int(chosen.get("reasons", {}).get("near copy", 0))
    if sets:
        facts["copies"] = (
            f"{own['copies']} of {own['pictures']} candidates were found to be copies of "
            f"real training patches, by a rule that finds {own['usual']:.0%} among real test "
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


def place_of(results: Mapping[str, Any], patches: PatchSet, second: bool = False) -> int:
    """Which set of the results the patches are, by how many of each class were made or accepted.

    Args:
        results: of a run, or of a verdict.
        patches: to be exported.
        second: which of two sets that are alike in that.

    Raises:
        ValueError: they are none of them.
    """
    sets = results.get("foreign", {}).get("sets", ())
    kinds = [part.get("classes") for part in sets] or [results["selection"].get("per_class")]
    if not all(kinds):  # an earlier version did not count them
        return int(second and len(kinds) > 1)
    own = {name: count for name, count in patches.counts().items() if count}
    found = [
        i
        for i, classes in enumerate(kinds)
        if any(
            own == {name: row[key] for name, row in classes.items() if row.get(key)}
            for key in ("accepted", "candidates", "pictures")
        )
    ]
    if not found:
        known = " or ".join(
            str({name: row["accepted"] for name, row in classes.items()}) for classes in kinds
        )
        raise ValueError(
            f"results must be those of the patches, got {known} accepted, and {own} patches: give"
            " the results.json of these, or none"
        )
    return found[-1] if second else found[0]


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
    args = parsed(parser, argv)
    with plain_errors(parser):
        patches, above = PatchSet.open(args.patches), Path(args.patches).resolve().parent
        second = above.name == "second"
        path = Path(args.results or (above.parent if second else above) / "results.json")
        facts: dict[str, str] = {}
        classes: list[str] = []
        if args.results or path.is_file():
            results = read_json(path, ("selection", "verdict", "dataset", "versions"))
            facts = facts_of(results, place_of(results, patches, second))
            classes = results["dataset"].get("classes", [])
        given = {key: getattr(args, key) for key in ("licence", "title", "made_by")}
        facts |= {key: value for key, value in given.items() if value}
        for sealed in (Path(args.patches).expanduser() / name for name in SEALED):
            if sealed.is_file():
                classes = read_json(sealed, ("classes",))["classes"]
        written = export_patches(patches, args.target, args.format, facts, classes)
    print(f"{len(patches)} patches as {args.format}: {written}")


if __name__ == "__main__":
    main()
