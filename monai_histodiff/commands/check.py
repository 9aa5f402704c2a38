"""``histodiff-check DATASET``: what a patch set holds, and what would spoil a result."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.bundle.labels_needed import least_labels
from monai_histodiff.bundle.task import refusal
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.data.check import FOLDS, PATCH, Findings, check
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.data.sizes import MODEL
from monai_histodiff.evaluation.baselines import colour_floors
from monai_histodiff.evaluation.comparisons import USUAL, compared
from monai_histodiff.evaluation.power import foresee
from monai_histodiff.evaluation.verdict import shortfalls
from monai_histodiff.options.config_names import TRAIN
from monai_histodiff.options.table import options_of
from monai_histodiff.report.blocks import (
    Fact,
    Gallery,
    Page,
    Section,
    Table,
    TableCell,
    TileView,
    Verdict,
    Words,
)
from monai_histodiff.report.html import picture, write_page
from monai_histodiff.utils.progress import patient

__all__ = ["colour_alone", "main", "page_of", "power_of", "told"]

MOST = 2000  # patches of each side that the colour baselines are fitted and tested on
MOST_SEEDS = 1000
SHOWN = 8  # pictures of each kind on the page
METRIC = "balanced_accuracy"
# problems that the refusal of the main job tells, too
TOLD_ANYWAY = ("no test part can be drawn", "at least 2 classes", "patches are as small as")


def colour_alone(
    patches: PatchSet, size: int, test_fraction: float = 0.3, draw: int = 0
) -> dict[str, float]:
    """Balanced accuracy of colour alone on the test part, by baseline: what texture must beat.

    Args:
        patches: the set. Up to 2,000 labelled patches of each side are used, drawn at random.
        size: side of the centre crops that are looked at.
        test_fraction: held out where no split is recorded.
        draw: seed of that, and of the 2,000.

    Returns:
        Nothing where no two classes can be trained on and tested.
    """
    labelled = patches.with_labels()
    try:
        whole = labelled.with_split(test_fraction, draw)
        sides = [_some(whole.select(side), size, draw) for side in ("train", "test")]
    except ValueError:
        return {}
    if any(len(set(labels.tolist())) < 2 for _, labels in sides):
        return {}
    floors = colour_floors(*sides[0], *sides[1], len(patches.classes))
    return {name: metrics[METRIC] for name, metrics in floors.items()}


def power_of(patches: PatchSet, test_fraction: float = 0.3, draw: int = 0, seeds: int = 3) -> str:
    """What a verdict on the test part could see with the usual arms, in words, behind the rules by
    which nothing will be claimed; empty where there is no test part.

    Args:
        patches: the set.
        test_fraction: held out where no split is recorded.
        draw: seed of that.
        seeds: trainings of each arm, at least 2.
    """
    try:
        test = patches.with_labels().with_split(test_fraction, draw).select("test")
        known, claims = (test.labels.numpy(), test.groups), len(compared(USUAL))
        foreseen = foresee(*known, seeds, claims=claims).sentence
    except ValueError:
        return ""
    unmet = shortfalls(*known, test.classes, seeds)
    return " ".join([*(f"Nothing will be claimed: {rule}" for rule in unmet), foreseen])


def _some(part: PatchSet, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Crops of up to 2,000 patches, ``N x 3 x size x size``, and their labels."""
    if not len(part):
        raise ValueError("a side must hold at least one patch, got none")
    chosen = np.random.default_rng(seed).permutation(len(part))[:MOST].tolist()
    looked = patient(chosen, "colour alone")
    crops = torch.stack([centre_crop(part[i]["image"], size) for i in looked])
    return crops, part.labels[chosen]


def _classes(found: Findings) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of classes: patches, and groups in brackets, by split."""
    splits = sorted({s for counts in found.classes.values() for s in counts}, reverse=True)
    rows = [
        [name, *(f"{counts.get(s, 0)} ({found.groups[name].get(s, 0)})" for s in splits)]
        for name, counts in found.classes.items()
    ]
    return ["class", *(split or "patches" for split in splits)], rows


def _facts(found: Findings, floors: Mapping[str, float]) -> list[tuple[str, str]]:
    """Names and figures; those that say nothing are left out."""
    sizes = ", ".join(f"{w} x {h}" for w, h in list(found.sizes)[:3])
    more = f" and {len(found.sizes) - 3} more" if len(found.sizes) > 3 else ""
    counts = {
        "without a label": found.unlabelled,
        "copies, in pairs": len(found.twins),
        "overlapping, in pairs": len(found.overlaps),
        "blank": len(found.blank),
        "blurred": len(found.blurred),
    }
    return [
        ("patches", str(found.patches)),
        ("groups", str(found.all_groups)),
        ("pixels", sizes + more),
        ("um per px", ", ".join(um or "not recorded" for um in found.spacings)),
        ("labels_per_class", _possible(found)),
        *((name, str(count)) for name, count in counts.items() if count),
        *((f"{name} alone", f"{100 * value:.0f} %") for name, value in floors.items()),
    ]


def _possible(found: Findings) -> str:
    """Which ``labels_per_class`` a run takes: the critic rests on some patches in all."""
    least = least_labels(len(found.classes), FOLDS)
    if len(found.classes) < 2:
        return "none"
    if found.most_labels >= least:
        return f"{least} to {found.most_labels}"
    if not found.rarest:
        return "none"
    return (
        f"none: '{found.rarest}' has {found.most_labels} to train on, and a run needs {least} of "
        "each class"
    )


def told(
    found: Findings, floors: Mapping[str, float], power: str = "", notes: Sequence[str] = ()
) -> str:
    """All of it as text for a terminal, with the sentence of :func:`power_of`, and notes on what
    was left out or assumed.
    """
    heads, rows = _classes(found)
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    facts = [f"{name}: {value}" for name, value in _facts(found, floors)]
    problems = [f"- {problem}" for problem in found.problems] or ["- nothing"]
    groups = "(patches, and their groups in brackets)"
    accuracy = "(balanced accuracy of colour alone: what texture must beat)" if floors else ""
    verdict = ["", "what a verdict could see:", power] if power else []
    left = ["", "left out or assumed:", *(f"- {note}" for note in notes)] if notes else []
    parts = [*lines, groups, "", *facts, accuracy, *verdict, *left, "", "to look at:", *problems]
    return "\n".join(parts) + "\n"


def left_out(patches: PatchSet) -> list[str]:
    """The notes of a set at the model's scale, but for those of which the problems tell."""
    told = ("No group is recorded", "taken to be at")
    notes = patches.at(MODEL).notes
    return [note for note in notes if not any(words in note for words in told)]


def page_of(
    name: str, patches: PatchSet, found: Findings, floors: Mapping[str, float], power: str = ""
) -> Page:
    """All of it as a page, with pictures."""
    heads, rows = _classes(found)
    index = {name: i for i, name in enumerate(patches.names())}

    def tile(names: Sequence[str], alt: str, caption: str) -> TileView:
        views = [picture(_picture(patches, index[name]), alt) for name in names]
        return TileView(views, alt, [TableCell(caption)])

    def shown(title: str, names: Iterable[str]) -> Section:
        chosen = [(name, patches.records[index[name]]) for name in list(names)[:SHOWN]]
        tiles = [
            tile([name], f"{name}, of {r.group}", f"{r.label or 'no label'}, {r.group}")
            for name, r in chosen
        ]
        return Section(title, [Gallery("", tiles)] * bool(tiles))

    twins = [
        tile(
            (twin.first, twin.second),
            f"{twin.first} beside {twin.second}",
            f"across {twin.across}, "
            + ("shifted" if math.isnan(twin.distance) else f"distance {twin.distance:.2f}"),
        )
        for twin in (*found.twins[:SHOWN], *found.overlaps[:SHOWN])
    ]
    table = Table("Patches, and groups in brackets", heads, rows, cards=len(heads) > 4)
    problems, notes = list(found.problems), left_out(patches)
    sections = [
        Section("To look at", [Words(problems)] * bool(problems)),
        Section("What a verdict could see", [Words([power])] * bool(power)),
        Section("Left out or assumed", [Words(notes)] * bool(notes)),
        Section("Classes", [table] * bool(rows)),
        *(shown(label, _spread(patches, label)) for label in found.classes),
        Section("Copies", [Gallery("", twins)] * bool(twins)),
        shown("Blank", found.blank),
        shown("Blurred", found.blurred),
        shown("Of few colours", found.masks),
    ]
    leaks = any(t.across == "splits" for t in (*found.twins, *found.overlaps))
    verdict = Verdict("helps", "Sound", "Nothing was found that would spoil a result.")
    if problems:
        verdict = Verdict("hurts" if leaks else "inconclusive", "Look first", problems[0])
    facts = [Fact(*fact) for fact in _facts(found, floors)]
    return Page(f"What {name} holds", sections, verdict=verdict, facts=facts)


def _spread(patches: PatchSet, label: str) -> list[str]:
    """Names of the patches of a class, one of each group first."""
    seen: dict[str, int] = {}
    turns = []
    for i, (r, name) in enumerate(zip(patches.records, patches.names(), strict=True)):
        if r.label == label:
            seen[r.group] = seen.get(r.group, 0) + 1
            turns.append((seen[r.group], i, name))
    return [name for _, _, name in sorted(turns)]


def _picture(patches: PatchSet, i: int) -> NDArray[np.uint8]:
    picture = Image.fromarray(patches[i]["image"].permute(1, 2, 0).numpy())
    picture.thumbnail((PATCH, PATCH))
    return np.array(picture)


def main(argv: Sequence[str] | None = None) -> None:
    """Print what was found, and write it as a page with pictures."""
    parser = argparse.ArgumentParser(
        "histodiff-check", description="Look at a patch set before work."
    )
    parser.add_argument("dataset", nargs="+", help="folders or zips, taken as one set")
    parser.add_argument("--html", help="the page (default: NAME-check.html, here)")
    parser.add_argument("--test_fraction", type=float, default=0.3, help="where no split is given")
    parser.add_argument("--draw", type=int, default=0, help="seed of that split")
    parser.add_argument("--um_per_px", type=float, help="of patches whose manifest tells none")
    parser.add_argument("--class_level", type=int, help="level of folders that names the class")
    parser.add_argument("--group_level", type=int, help="and that names the patient or slide")
    parser.add_argument("--group_pattern", help="or a regular expression: its bracket is that")
    parser.add_argument("--write", metavar="NEW", help="write the set, with a manifest, to NEW")
    parser.add_argument("--seeds", type=int, default=3, help="planned trainings of each arm")
    args = parsed(parser, argv)
    if not 2 <= args.seeds <= MOST_SEEDS:
        parser.error(f"seeds must be a number of them, from 2 to {MOST_SEEDS}, got {args.seeds}")
    with plain_errors(parser):
        known = options_of(TRAIN)
        for name in ("test_fraction", "draw", "um_per_px"):
            known[name].check(getattr(args, name))
        levels = args.class_level, args.group_level
        patches = PatchSet.open(
            args.dataset, args.um_per_px, *levels, group_pattern=args.group_pattern
        )
        options = args.test_fraction, args.draw
        found = check(patches, *options, progress=True)
        if why := refusal(patches, *options):
            rest = [p for p in found.problems if not p.startswith(TOLD_ANYWAY)]
            found = replace(found, problems=(f"the main job refuses this set: {why}", *rest))
        size = min(PATCH, *(min(size) for size in found.sizes))
        floors = colour_alone(patches, size, *options)
        power = power_of(patches, *options, args.seeds)
        print(told(found, floors, power, left_out(patches)), end="")
        name = Path(args.dataset[0]).resolve().stem
        page = write_page(
            args.html or f"{name}-check.html", page_of(name, patches, found, floors, power)
        )
        print(f"page: {page}")
        if args.write:
            print(f"set: {patches.write(args.write)}")
    if why and found.classes:  # without labels it may be meant for pre-training
        parser.exit(1, f"the main job refuses this set: {why}\n")


if __name__ == "__main__":
    main()
