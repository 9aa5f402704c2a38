"""One HTML page with the verdict, its evidence and pictures, for the pathologist and the engineer
alike.

The page stands alone: style, plots (inline SVG) and pictures (JPEG data URIs) are inside, nothing
is fetched, no script runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff.report.blocks import Fact, Fold, Page, Section, Verdict, Words, pairs
from monai_histodiff.report.comparisons import arms, calibration, change, changes, classes_table
from monai_histodiff.report.foreign import foreign_facts, foreign_sets
from monai_histodiff.report.gallery import (
    Answer,
    Tile,
    accepted_tiles,
    answer_tiles,
    rejected_tiles,
)
from monai_histodiff.report.html import write_page
from monai_histodiff.report.making import dataset, generator, passed, selection
from monai_histodiff.report.values import claim, finite, number, percent, span

__all__ = ["write_report"]

TITLE = "Do synthetic patches help?"
REQUIRED = ("verdict", "dataset", "arms", "differences", "selection", "sampling", "seeds")
WORDS = {"steps": "sampling steps", "accepted_per_second": "passed per second"}
MEANING = {
    "helps": "The whole interval lies above zero.",
    "hurts": "The whole interval lies below zero.",
    "inconclusive": "A real change cannot be told from chance here.",
}
UNKNOWN = "This run does not allow a verdict."
DEMO = (
    "Demonstration only.",
    "The patches of this data set are synthetic demonstration patches, not tissue, and the "
    "verdict is only a demonstration of this report: it says nothing about real data.",
)
NOTHING = (
    "No candidate was accepted.",
    "The bank is empty, and there is nothing to help: see the selection for the reasons.",
)


def write_report(
    path: str | os.PathLike[str],
    results: Mapping[str, Any],
    tiles: Sequence[Tile],
    further: Mapping[str, Sequence[Tile]] | None = None,
    answers: Mapping[str, tuple[int, Sequence[Answer]]] | None = None,
) -> Path:
    """Write the page: all of it, or nothing.

    Args:
        path: the HTML file to write; its folder is made if need be.
        results: what the comparison found. ``verdict``, ``dataset``, ``arms``, ``differences``,
            ``selection``, ``sampling`` and ``seeds`` are required; ``claim``, ``arm_names``,
            ``claims``, ``intervals``, ``recall``, ``reliability``, ``floors``,
            ``generator``, ``agreement``, ``versions``, ``settings``, ``seconds``, ``shortfalls``,
            ``notes``, ``warnings`` (pairs of texts) and ``foreign`` (synthetic sets of any
            origin) are shown where given; so are a ``title`` and a ``word`` of its own.
            The colour of the verdict and the recall follow ``"G-C"``, or else the first
            difference.
        tiles: patches to show, accepted and rejected: eight at the most of each class and reason,
            spread evenly over the confidence.
        further: patches of a second set, by its name.
        answers: test patches put ``"right"`` and ``"lost"``: how many, and those to show.

    Raises:
        ValueError: a required key is missing, or a picture is not a uint8 array ``H x W x 3``.
    """
    if missing := [key for key in REQUIRED if key not in results]:
        raise ValueError(f"results must hold {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
    data, chosen = results["dataset"], results["selection"]
    shown = [tile.label for tile in tiles]
    named = [*data.get("classes", ()), *chosen.get("per_class", ()), *shown]
    classes = list(dict.fromkeys(named))
    compared = results["differences"]
    primary = "G-C" if "G-C" in compared else next(iter(compared), "G-C")
    both = primary.split("-", 1)[::-1]
    seconds = {f"{key}, seconds": value for key, value in results.get("seconds", {}).items()}
    cost = {
        WORDS.get(key, key.replace("_", " ")): value
        for key, value in {**seconds, **results["sampling"]}.items()
    }
    setup = {**results.get("settings", {}), **results.get("versions", {})}
    tables = pairs("Settings, and versions of packages", setup)
    notes = list(dict.fromkeys([*results.get("shortfalls", ()), *results.get("notes", ())]))
    sections = [
        Section("The pictures", foreign_sets(results.get("foreign", {}), compared)),
        Section("What changes", changes(results)),
        Section("Notes", [Words(notes)] if notes else []),
        Section("Every arm", arms(results)),
        Section("Class by class", classes_table(results, classes, both)),
        Section("Test patches that changed", answer_tiles(answers or {})),
        Section("Calibration", calibration(results.get("reliability", {}), both)),
        Section("Accepted patches", accepted_tiles(tiles, classes)),
        Section("Rejected patches", rejected_tiles(tiles)),
        *_further(further or {}, classes),
        Section("Selection", selection(chosen, results.get("agreement"))),
        Section("Generator", generator(results.get("generator", {}))),
        Section("Data", dataset(data, classes)),
        Section("Cost", pairs("Time and throughput", cost)),
        Section("Settings and versions", [Fold("Show all", tables)] if tables else []),
    ]
    warnings = [DEMO] * bool(data.get("demo"))
    if "foreign" not in results:
        warnings += [NOTHING] * (chosen.get("accepted") == 0)
    warnings += [(strong, words) for strong, words in results.get("warnings", ())]
    page = Page(
        results.get("title", TITLE),
        sections,
        origin=_origin(results),
        verdict=_verdict(results, primary),
        warnings=warnings,
        facts=_facts(results, primary),
        footer="One file: nothing is fetched, no script runs. "
        "What each number means is in the documentation, under “The verdict”.",
    )
    return write_page(path, page)


def _origin(results: Mapping[str, Any]) -> str:
    settings = results.get("settings", {})
    words = [results["dataset"].get("path", "")]
    if (labels := settings.get("labels_per_class")) is not None:
        words.append(f"{labels} labels per class")
    if (draw := settings.get("draw")) is not None:
        words.append(f"draw {draw}")
    return " · ".join(str(word) for word in words if word)


def _verdict(results: Mapping[str, Any], primary: str) -> Verdict:
    _, low, high = change(results["differences"].get(primary, {}))
    tone = claim(low, high, results)
    more = MEANING[tone] if math.isfinite(low + high) else UNKNOWN
    word = results.get("word", tone.capitalize())
    told = results["verdict"].replace(f"{word}: ", "", 1)  # it stands above the sentence
    return Verdict(tone, word, told[:1].upper() + told[1:], "" if "word" in results else more)


def _further(sets: Mapping[str, Sequence[Tile]], classes: Sequence[str]) -> list[Section]:
    """Galleries of further sets."""
    return [
        section
        for name, tiles in sets.items()
        for section in (
            Section(f"Accepted of {name}", accepted_tiles(tiles, classes)),
            Section(f"Rejected of {name}", rejected_tiles(tiles)),
        )
    ]


def _facts(results: Mapping[str, Any], primary: str) -> list[Fact]:
    """The figures at the top; those that are not known are left out."""
    facts, chosen = [], results["selection"]
    values = change(results["differences"].get(primary, {}))
    if math.isfinite(values[0]):
        arms = primary.replace("-", " against ", 1)
        note = f"{span(values[1:])}, in balanced accuracy, {arms}"
        facts.append(Fact("Change", f"{number(values[0], sign=True)} points", note))
    least = 100 * float(finite(results.get("claims", {}).get(primary, {}).get("detectable"))[0])
    if math.isfinite(least):
        note = (
            "so large must a true change be to be found four times in five, by the "
            "noise that this run measured"
        )
        facts.append(Fact("This run could have seen", f"{number(least)} points", note))
    if "accepted" in chosen and "candidates" in chosen:
        told = f"{number(chosen['accepted'], 0)} of {number(chosen['candidates'], 0)}"
        rate = percent(passed(chosen) / (chosen["candidates"] or math.nan), 0)
        over = int(passed(chosen)) - chosen["accepted"]
        more = f", {number(over, 0)} more than were asked for" if over else ""
        facts.append(Fact("Candidates accepted", told, f"{rate} passed the selection{more}"))
    facts += foreign_facts(results.get("foreign", {}))
    data = results["dataset"]
    if test := data.get("counts", {}).get("test"):
        groups = data.get("groups", {}).get("test")
        note = "" if groups is None else f"of {number(groups, 0)} patients, slides or tiles"
        facts.append(Fact("Test patches", number(sum(test.values()), 0), note))
    if seeds := results["seeds"]:
        count = len(results["arms"])
        note = f"{count} arm{'s' * (count > 1)} × {len(seeds)} seed{'s' * (len(seeds) > 1)}"
        facts.append(Fact("Trainings", number(len(seeds) * count, 0), note))
    return facts
