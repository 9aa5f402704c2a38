"""The figures of ``docs/evidence.md`` are those of the runs that lie beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_histodiff.evaluation.combining import _estimate, combine, combine_sets
from monai_histodiff.evaluation.results_files import read_results
from monai_histodiff.evaluation.statistics import combined
from monai_histodiff.evaluation.verdict import describe

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "evidence.md").read_text(encoding="utf-8")
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
SETS = {
    "EBHI": "colorectal_ebhi_192",
    "crc9": "crc9_nct_224",
    "crc5 regions": "crc5r",
    "lung, own archive": "lung",
}


def rows(name: str) -> list[list[str]]:
    """Of the table of five labels: those of a data set, and its row "all"."""
    section = PAGE.partition("## Five labels")[2].partition("\n## ")[0]
    every = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in section.splitlines()]
    return [cells for cells in every if len(cells) == 7 and cells[0] == name]


def files(name: str) -> dict[int, Path]:
    return {
        int(path.stem.rpartition("-")[2]): path
        for path in sorted((DOCS / "evidence").glob(f"{SETS[name]}-5-*.json"))
    }


def told(row: Any) -> str:
    mean, low, high = (f"{100 * row[key]:+.1f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


@pytest.mark.parametrize("name", SETS)
def test_every_run_is_in_the_table_as_it_was(name: str) -> None:
    table, scores = rows(name), []
    assert [row[1] for row in table] == [*map(str, sorted(files(name))), "all"]
    for (draw, path), row in zip(sorted(files(name).items()), table, strict=False):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["settings"]["draw"] == draw and found["seeds"] == [0, 1, 2]
        assert found["settings"]["labels_per_class"] == 5
        means = [100 * np.mean(found["arms"][arm]["balanced_accuracy"]) for arm in "CG"]
        scores.append(means)
        assert row[2:4] == [f"{mean:.1f}" for mean in means]
        assert row[4] == told(found["differences"]["G-C"]["balanced_accuracy"])
        assert row[5] == "{accepted:,} of {candidates:,}".format(**found["selection"])
    assert table[-1][2:4] == [f"{mean:.1f}" for mean in np.mean(scores, 0)]
    combined = combine(read_results([*files(name).values()]))["G-C"]
    assert table[-1][4] == told(combined)


def test_the_sentence_and_the_claim_are_what_the_statistics_say() -> None:
    found = [read_results([*files(name).values()]) for name in SETS]
    mean = combine_sets(found)["G-C"]
    figures = re.search(r"Mean over the four sets: ([^,]+), p ([\d.]+)", PAGE)
    assert figures and figures[1] == told(mean) and float(figures[2]) == round(mean["p"], 3)
    assert told(mean).split(" ")[0] in PAGE.split("\n\n")[1]
    unseen = combine_sets(found[:3])["G-C"]
    figures = re.search(r"mean over the three unseen sets ([^,]+), p (0\.\d+)", PAGE)
    assert figures and figures[1] == told(unseen) and float(figures[2]) == round(unseen["p"], 3)
    assert told(mean).replace(" (", " points of balanced accuracy (") in README
    assert told(unseen) in README


def test_earlier_runs_of_the_method_and_the_critic_are_told_as_they_were() -> None:
    every, earlier = [], (DOCS / "evidence" / "0.20.0").glob
    for name, stem in SETS.items():
        paths = [*files(name).values(), *earlier(f"{stem}-5-*.json")]
        every.append(read_results(sorted(paths)))
        assert len(every[-1]) == 6 and told(combine(every[-1])["G-C"]) in PAGE, name
        found = [json.loads(path.read_text(encoding="utf-8")) for path in files(name).values()]
        critic = np.mean([result["critic"]["balanced_accuracy"] for result in found])
        c, g = rows(name)[-1][2:4]
        assert re.search(rf"{100 * critic:.1f} \((`G` )?{g}, (`C` )?{c}\)", PAGE), name
    assert f"in the mean over 24 draws {told(combine_sets(every)['G-C'])}" in PAGE


def test_the_same_real_patches_in_place_of_synthetic_ones_are_told_as_they_were() -> None:
    """The supplement of the plan: arm E of the same runs, whose other arms are the table's."""
    section = PAGE.partition("## Against the same real patches")[2].partition("\n## ")[0]
    table = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in section.splitlines()]
    estimates: dict[str, list[Any]] = {"E-C": [], "G-E": []}
    for name in SETS:
        runs = []
        for path in files(name).values():
            run = json.loads((path.parent / "supplement" / path.name).read_text(encoding="utf-8"))
            planned = json.loads(path.read_text(encoding="utf-8"))
            for arm in "CG":
                assert run["hits"][arm] == planned["hits"][arm], "the same trainings"
            runs.append(run)
        mean = np.mean([np.mean(run["arms"]["E"]["balanced_accuracy"]) for run in runs])
        found = {pair: _estimate(runs, pair).at(0) for pair in estimates}
        (row,) = [cells for cells in table if cells[:1] == [name]]
        assert row[1:3] == [rows(name)[-1][3], f"{100 * mean:.1f}"], name
        assert row[3:] == [told(describe(found[pair])) for pair in ("E-C", "G-E")]
        for pair, every in estimates.items():
            every.append(found[pair])
    (row,) = [cells for cells in table if cells[:1] == ["mean"]]
    assert row[3:] == [told(describe(combined(every))) for every in estimates.values()]


def check_section(
    title: str, arms: str, pairs: list[str], read: Callable[[Path], dict[str, Any]]
) -> None:
    """The table of a section: of each set the means of arms, and estimates of pairs of them; and
    those of the mean over the sets.
    """
    section = PAGE.partition(f"## {title}")[2].partition("\n## ")[0]
    table = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in section.splitlines()]
    estimates: dict[str, list[Any]] = {pair: [] for pair in pairs}
    first = 1 + len(arms)
    for name in SETS:
        runs = [read(path) for path in files(name).values()]
        means = [np.mean([run["arms"][arm]["balanced_accuracy"] for run in runs]) for arm in arms]
        found = {pair: _estimate(runs, pair).at(0) for pair in pairs}
        (row,) = [cells for cells in table if cells[:1] == [name]]
        assert row[1:first] == [f"{100 * mean:.1f}" for mean in means], name
        assert row[first:] == [told(describe(estimate)) for estimate in found.values()], name
        for pair, every in estimates.items():
            every.append(found[pair])
    (row,) = [cells for cells in table if cells[:1] == ["mean"]]
    assert row[first:] == [told(describe(combined(every))) for every in estimates.values()]


def load(path: Path, part: str) -> dict[str, Any]:
    """The results of a supplement on the run of a planned one."""
    return dict(json.loads((path.parent / part / path.name).read_text(encoding="utf-8")))


def test_semi_supervision_and_both_kinds_together_are_told_as_they_were() -> None:
    """The second supplement: arms M and P, one seed, beside the same trainings of the others."""

    def read(path: Path) -> dict[str, Any]:
        first, run = load(path, "supplement"), load(path, "supplement2")
        assert run["seeds"] == [0]
        for arm in "CGE":
            scores = [found["arms"][arm]["balanced_accuracy"][0] for found in (first, run)]
            assert scores[0] == scores[1], "the same trainings"
        return run

    check_section("Against semi-supervision", "CGEMP", ["G-M", "P-C", "P-E"], read)


def test_a_classifier_on_a_frozen_encoder_is_told_as_it_was() -> None:
    """The third supplement: arms C, G and E, one seed, of the same patches."""

    def read(path: Path) -> dict[str, Any]:
        planned, run = load(path, ""), load(path, "supplement3")
        assert run["seeds"] == [0] and run["settings"]["backbone"] == "patch encoder, frozen"
        assert run["test"] == planned["test"] and run["settings"]["classifier_steps"] == 400
        assert run["selection"]["accepted"] == planned["selection"]["accepted"]
        return run

    check_section("On a frozen encoder", "CGE", ["G-C", "E-C", "G-E"], read)
    section, means = PAGE.partition("## On a frozen encoder")[2].partition("\n## ")[0], {}
    for name in ("critic", *"CGE"):
        scores = [
            np.mean(
                [
                    found["critic"]["balanced_accuracy"]
                    if name == "critic"
                    else found["arms"][name]["balanced_accuracy"][0]
                    for path in files(data).values()
                    for found in (load(path, "supplement3"),)
                ]
            )
            for data in SETS
        ]
        means[name] = f"{100 * np.mean(scores):.1f}"
    text = "best of them: {critic} in the mean over the sets, `G` {G}, `E` {E}, `C` {C}."
    assert text.format(**means) in section
