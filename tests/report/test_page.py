"""The report says what the results say, for every kind of results, and stands alone."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page

from monai_histodiff.report import page as report_page
from monai_histodiff.report.blocks import TableCell
from monai_histodiff.report.foreign import _called
from monai_histodiff.report.gallery import Tile
from monai_histodiff.report.page import write_report

NASTY = "<b>&x"
DASH = "–"
Read = Callable[..., Page]
STYLE = (Path(report_page.__file__).parent / "style.css").read_text(encoding="utf-8")


def patch(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def tiles() -> list[Tile]:
    accepted = [
        Tile(patch(i), ("ADC", NASTY)[i % 2], 0.9 - i / 100, i, "", patch(100 + i), 0.25 + i / 10)
        for i in range(6)
    ]
    rejected = [
        Tile(patch(50 + i), "HGIN", i / 10, 50 + i, ("low confidence", "near copy")[i % 2])
        for i in range(4)
    ]
    return accepted + rejected


@pytest.fixture
def results() -> dict[str, Any]:
    def arm(mean: float) -> dict[str, list[float]]:
        metrics = {
            "accuracy": 0.02,
            "balanced_accuracy": 0.0,
            "macro_f1": -0.01,
            "auc": 0.3,
            "ece": -0.4,
        }
        return {
            name: [mean + shift - 0.01, mean + shift, mean + shift + 0.01]
            for name, shift in metrics.items()
        }

    def difference(mean: float, low: float, high: float) -> dict[str, dict[str, float]]:
        return {
            name: {"mean": mean, "low": low, "high": high}
            for name in ("accuracy", "balanced_accuracy")
        }

    def fidelity(kid: float) -> dict[str, float]:
        return {
            "kid": kid,
            "kid_std": 0.0,
            "fid": 3.0,
            "precision": 0.81,
            "recall": 0.42,
            "density": 0.93,
            "coverage": 0.75,
        }

    classes = ["ADC", NASTY, "HGIN"]
    return {
        "verdict": "No difference shown: balanced accuracy changed by +1.2 points "
        "(95 % interval -2.0 to +4.1).",
        "dataset": {
            "path": "data/patches.zip",
            "classes": classes,
            "demo": False,
            "counts": {
                "train": {"ADC": 1477, NASTY: 20, "HGIN": 30},
                "labelled": dict.fromkeys(classes, 25),
                "test": {"ADC": 7},
            },
            "groups": {"train": 200, "labelled": 90, "test": 60},
        },
        "arms": {"A": arm(0.50), "C": arm(0.56), "F": arm(0.55), "G": arm(0.58)},
        "arm_names": {
            "A": "real",
            "C": "real + strong classical augmentation",
            "F": "C + random",
            "G": "C + selected",
        },
        "differences": {
            "G-C": difference(0.012, -0.02, 0.041),
            "G-F": difference(0.03, 0.004, 0.055),
            "F-C": difference(-0.03, -0.06, -0.004),
        },
        "recall": {
            "C": {"ADC": [0.5, 0.6, 0.7], NASTY: [0.2, 0.2, 0.2]},
            "G": {"ADC": [0.7, 0.7, 0.7], NASTY: [0.1, 0.1, 0.1]},
        },
        "selection": {
            "candidates": 600,
            "accepted": 210,
            "per_class": {
                "ADC": {"candidates": 300, "accepted": 150},
                NASTY: {"candidates": 200, "accepted": 60},
            },
            "threshold": 0.71,
            "target_precision": 0.9,
            "reached_precision": 0.82,
            "reasons": {"low confidence": 300, "near copy": 3},
        },
        "sampling": {
            "steps": 20,
            "guidance_scale": 2.0,
            "candidates_per_second": 5.2345,
            "accepted_per_second": 1.8,
        },
        "floors": {"mean colour": {"accuracy": 0.4, "balanced_accuracy": 0.38}},
        "claims": {
            "G-C": {"p_holm": 0.4321, "claim": "inconclusive"},
            "G-F": {"p_holm": 0.0123, "claim": "helps"},
        },
        "intervals": {
            name: {"balanced_accuracy": {"mean": mean, "low": mean - 0.05, "high": mean + 0.06}}
            for name, mean in {"A": 0.50, "C": 0.56, "F": 0.55, "G": 0.58}.items()
        },
        "reliability": {
            "C": [
                {"confidence": 0.6, "accuracy": 0.4, "share": 0.25},
                {"confidence": 0.9, "accuracy": 0.8, "share": 0.75},
            ],
            "G": [{"confidence": 0.7, "accuracy": 0.7, "share": 1.0}],
            "A": [{"confidence": 0.5, "accuracy": 0.1, "share": 1.0}],
        },
        "generator": {
            "ADC": {
                "samples": fidelity(0.02),
                "floor": fidelity(0.001),
                "copies": {"samples": 1, "held_out": 2},
                "numbers": {"real": 7, "compared": 6, "accepted": 150},
            },
            NASTY: {
                "samples": None,
                "floor": None,
                "copies": {"samples": 0, "held_out": 0},
                "numbers": {"real": 3, "compared": 0, "accepted": 60},
            },
        },
        "seeds": [0, 1, 2],
        "versions": {"monai_histodiff": "0.1.0", "torch": "2.0"},
        "settings": {"learning_rate": 1e-5, "backbone": "resnet & co"},
        "seconds": {"guide": 30.1, "classifiers": 1200.0},
        "notes": [
            "The target precision was not reached.",
            f"Class {NASTY} is short of its quota.",
        ],
    }


@pytest.fixture
def read(tmp_path: Path, results: dict[str, Any], tiles: list[Tile]) -> Read:
    def read(changed: dict[str, Any] | None = None, shown: list[Tile] | None = None) -> Page:
        path = tmp_path / "new folder" / "report.html"
        assert (
            write_report(
                path,
                results if changed is None else changed,
                tiles if shown is None else shown,
            )
            == path
        )
        return Page(path.read_text(encoding="utf-8"))

    return read


def test_stands_alone_and_is_well_formed(read: Read) -> None:
    """What holds for every page is checked wherever one is read, see ``pages.Page``."""
    page = read()
    assert "prefers-color-scheme: dark" in page.source and "@media print" in page.source
    anchors = [section["id"] for section in page.all("section")]
    links = [link["href"] for link in page.all("a")]
    assert links == ["#main", *(f"#{key}" for key in anchors)], "a way past, then the contents"
    assert [tag for tag, _ in page.found if tag in ("header", "nav", "main", "footer")] == [
        "header",
        "nav",
        "main",
        "footer",
    ]


def test_sections_come_in_order(read: Read) -> None:
    headings = read().headings
    assert [words for tag, words in headings if tag == "h2"] == [
        "What changes", "Notes", "Every arm", "Class by class", "Calibration", "Accepted patches",
        "Rejected patches", "Selection", "Generator", "Data", "Cost", "Settings and versions",
    ]  # fmt: skip
    assert [words for tag, words in headings if tag == "h3"] == [
        "ADC",
        NASTY,
        "HGIN",
        "low confidence",
        "near copy",
    ]


def test_every_picture_says_what_it_is(read: Read, tiles: list[Tile]) -> None:
    told = [image["alt"] for image in read().all("img")]
    assert len(told) == len(tiles) + sum(tile.nearest is not None for tile in tiles)
    for tile in tiles:
        state = f"rejected: {tile.reason}" if tile.reason else "accepted"
        words = (
            f"{tile.label}, {state}, confidence {100 * tile.confidence:.1f} %, seed {tile.seed}"
        )
        assert told.count(f"Synthetic patch: {words}") == 1
        assert told.count(f"Real training patch nearest to the synthetic patch: {words}") == (
            tile.nearest is not None
        )


def test_distance_is_shown_where_there_is_a_neighbour(read: Read) -> None:
    text = read().text
    assert "distance 0.250" in text and text.count("nearest real distance 0.") == 6


def test_galleries_are_spread_over_the_confidence(read: Read) -> None:
    many = [Tile(patch(i), "ADC", i / 14, i) for i in range(15)]
    alts = [image["alt"] for image in read(shown=many).all("img")]
    assert [int(re.findall(r"seed (\d+)", alt)[0]) for alt in alts] == [*range(14, -1, -2)]
    assert not read(shown=[]).all("img")


def test_large_pictures_are_shrunk(read: Read) -> None:
    (image,) = read(shown=[Tile(np.zeros((512, 1024, 3), np.uint8), "ADC", 0.5, 1)]).all("img")
    assert (image["width"], image["height"]) == ("256", "128")


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)]
)
def test_wrong_pictures_are_refused(read: Read, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 array H x W x 3, got"):
        read(shown=[Tile(image, "ADC", 0.5, 1)])


def test_all_text_is_escaped(read: Read, results: dict[str, Any]) -> None:
    for key in ("verdict", "notes"):
        results[key] = NASTY if key == "verdict" else [NASTY]
    results["dataset"]["path"] = results["arm_names"]["G"] = NASTY
    results["arms"][NASTY] = results["arms"]["A"]
    results["differences"][f"{NASTY}-C"] = results["differences"]["G-C"]
    for part in ("versions", "settings", "sampling", "seconds", "floors"):
        results[part][NASTY] = (
            {"accuracy": 0.1} if part == "floors" else 1.5 if part == "seconds" else NASTY
        )
    results["selection"]["reasons"][NASTY] = 4
    page = read(
        results, [Tile(patch(1), NASTY, 0.5, 1, reason, patch(2), 0.1) for reason in ("", NASTY)]
    )
    assert NASTY not in page.source and page.source.count("&lt;b&gt;&amp;x") > 20
    assert f"Class {NASTY}" not in page.text and NASTY in page.text


@pytest.mark.parametrize(
    "key", ["verdict", "dataset", "arms", "differences", "selection", "sampling", "seeds"]
)
def test_missing_key_is_named(tmp_path: Path, results: dict[str, Any], key: str) -> None:
    del results[key]
    with pytest.raises(ValueError, match=f"missing: {key}$"):
        write_report(tmp_path / "r.html", results, [])
    assert not list(tmp_path.iterdir())


def test_bare_results_suffice(read: Read) -> None:
    bare = {
        "verdict": "Nothing was compared.",
        "dataset": {},
        "arms": {},
        "differences": {},
        "selection": {},
        "sampling": {},
        "seeds": [],
    }
    page = read(bare, [])
    assert (
        "Inconclusive Nothing was compared. This run does not allow a verdict." in page.text
        and not page.all("img")
    )
    assert [words for tag, words in page.headings if tag == "h2"] == [
        "What changes",
        "Accepted patches",
        "Selection",
    ]


def test_class_without_accepted_patch_is_named(read: Read, results: dict[str, Any]) -> None:
    results["selection"]["per_class"]["HGIN"] = {"candidates": 0, "accepted": 0}
    page = read(results)
    assert "HGIN No patch to show." in page.text
    assert ["HGIN", "0", "0", f"{DASH} %"] in page.table("Candidates by")
    assert read(results, []).text.count("No patch to show.") == 3


def test_sources_of_variations_are_a_column(read: Read, results: dict[str, Any]) -> None:
    chosen = results["selection"]
    for i, count in enumerate([*chosen["per_class"].values(), chosen]):
        count["sources"] = i + 2
    rows = read(results).table("Candidates by")
    assert [row[3] for row in rows] == [str(i + 2) for i in range(len(rows))] and len(rows[0]) == 5


def test_arms_table(read: Read, results: dict[str, Any]) -> None:
    rows = read().table("Mean ± standard deviation over 3 seeds")
    assert len(rows) == len(results["arms"]) + len(results["floors"])
    assert rows[3] == [
        "GC + selected",
        "58.0 ± 1.0",
        "60.0 ± 1.0",
        "57.0 ± 1.0",
        "0.880 ± 0.010",
        "18.0 ± 1.0",
        "",
    ]
    assert rows[4][:4] == ["mean colourbaseline to beat", "38.0", "40.0", DASH]
    results["critic"] = {"accuracy": 0.61, "balanced_accuracy": 0.6}
    rows = read(results).table("Mean ± standard deviation over 3 seeds")
    told = ["the criticwhat labels and selects, as it is", "60.0", "61.0", DASH]
    assert len(rows) == 6 and rows[5][:4] == told
    label = "balanced accuracy of each seed: 57.0, 58.0, 59.0 %"
    assert label in [plot.get("aria-label") for plot in read().all("svg")]


def test_one_seed_has_no_spread(read: Read, results: dict[str, Any]) -> None:
    results["seeds"], results["floors"] = [0], {}
    results["arms"] = {
        name: {metric: values[:1] for metric, values in arm.items()}
        for name, arm in results["arms"].items()
    }
    rows = read(results).table("One seed")
    assert len(rows) == 4 and not any("±" in cell for row in rows for cell in row)


def test_a_variation_is_shown_beside_its_origin(read: Read, results: dict[str, Any]) -> None:
    page = read(results, [Tile(patch(1), "ADC", 0.9, 1, distance=0.25, origin=patch(2))])
    told = "patch that the synthetic patch is a variation of: "
    told += "ADC, accepted, confidence 90.0 %, seed 1"
    assert [image["alt"] for image in page.all("img")][1] == f"Labelled {told}"
    assert (
        "made from this labelled patch" in " ".join(page.text.split())
        and "nearest real" not in page.text
    )
    unlabelled = Tile(patch(1), "ADC", 0.9, 1, origin=patch(2), source="unlabelled")
    page = read(results, [unlabelled])
    assert [image["alt"] for image in page.all("img")][1] == f"Unlabelled {told}"
    assert "made from this unlabelled patch" in page.text


@pytest.mark.parametrize("nothing", [math.nan, math.inf, None])
def test_undefined_numbers_become_dashes(
    read: Read, results: dict[str, Any], nothing: float | None
) -> None:
    results["arms"]["F"] = dict.fromkeys(results["arms"]["F"], [nothing] * 3)
    results["arms"]["G"]["auc"] = [0.8, nothing, 0.9]
    results["differences"]["G-C"]["balanced_accuracy"] = {
        "mean": nothing,
        "low": nothing,
        "high": nothing,
    }
    results["recall"]["C"]["ADC"] = [nothing]
    results["selection"] |= {"reached_precision": nothing}
    page = read(results, [Tile(patch(1), "ADC", math.nan, 1, nearest=patch(2), distance=nothing)])
    rows = page.table("Mean ± standard")
    assert rows[2][1:6] == [DASH] * 5 and rows[3][4] == "0.850 ± 0.071"
    assert page.table("Recall")[0][1:5] == [DASH, "70.0 ± 0.0", DASH, ""]
    assert (
        "Inconclusive" in page.text
        and "not measured" in page.text
        and "cannot be checked" in page.text
    )
    assert (
        not re.search(r"\bnan\b|\binf\b", page.text)
        and "nan%" not in page.source
        and f"distance {DASH}" in page.text
    )


def test_corrected_p_values_stand_beside_their_comparison(
    read: Read, results: dict[str, Any]
) -> None:
    rows = re.findall(r'<li class="row.*?</li>', read().source, re.S)
    assert [re.findall(r"corrected p ([\d.]+(?:: claimed)?)", row) for row in rows[:3]] == [
        ["0.432"],
        ["0.012: claimed"],
        [],
    ]
    assert "Holm" in read().text
    del results["claims"]
    assert "corrected p" not in read(results).text and "Holm" not in read(results).text


def test_every_arm_has_its_interval_and_floors_have_a_dot(
    read: Read, results: dict[str, Any]
) -> None:
    figure = read().section("Every arm").split("</figure>")[0]
    rows = re.findall(r'<li class="row.*?</li>', figure, re.S)
    assert (
        len(rows) == 5
        and ">58.0 % (53.0 to 64.0)" in rows[3]
        and 'aria-label="G: 58.0 % (53.0 to 64.0)"' in rows[3]
    )
    marks = [
        re.search(r'interval" x1="(.*?)%" x2="(.*?)%".*?cx="(.*?)%"', row, re.S) for row in rows
    ]
    found = [[float(v) for v in mark.groups()] for mark in marks if mark]
    assert marks[4] is None and ">38.0 %" in rows[4] and "<circle" in rows[4]
    values = [[mean - 0.05, mean + 0.06, mean] for mean in (0.5, 0.56, 0.55, 0.58)]
    slope, offset = np.polyfit(np.ravel(values), np.ravel(found), 1)
    assert slope > 0 and np.allclose(slope * np.array(values) + offset, found, atol=0.02)
    del results["intervals"]
    assert '<li class="row' not in read(results).section("Every arm")


def test_reliability_diagrams_of_the_two_arms(read: Read, results: dict[str, Any]) -> None:
    page = read()
    section = page.section("Calibration")
    labels = [plot["aria-label"] for plot in page.all("svg") if "aria-label" in plot]
    assert section.count("<svg") == 2 and "Reliability of Arm G: 70 % said, 70 % so" in labels
    assert "Reliability of Arm C: 60 % said, 40 % so; 90 % said, 80 % so" in labels
    dots = np.array(re.findall(r'<circle cx="(.*?)" cy="(.*?)" r="(.*?)"/>', section), float)
    figure = section.split("</svg>")[0]
    ticks = [re.findall(pattern, figure) for pattern in (
        r'<text x="(.*?)" y="318">(\d+)</text>', r'x="-8" y="(.*?)">(\d+)</text>'
    )]  # fmt: skip
    across, upwards = (
        np.array(sorted(found, key=lambda t: float(t[0])), float) for found in ticks
    )
    assert sorted(across[:, 1]) == sorted(upwards[:, 1]) == [0, 25, 50, 75, 100]
    assert np.allclose(np.interp(dots[:, 0], *across.T), [60, 90, 70])
    assert np.allclose(np.interp(dots[:, 1] + 4, *upwards.T), [40, 80, 70]), "text sits 4 lower"
    assert dots[0, 2] < dots[1, 2] < dots[2, 2]
    assert ">confidence, %</text>" in section and ">right, %</text>" in section
    del results["reliability"]
    assert "Calibration" not in [words for _, words in read(results).headings]


def test_generator_table_sets_samples_beside_real_patches(
    read: Read, results: dict[str, Any]
) -> None:
    rows = read().table("Accepted patches beside real ones")
    assert rows[0] == ["ADC6 against 7 patches", "0.020real 0.001", "0.81real 0.81",
                       "0.42real 0.42", "0.93real 0.93", "0.75real 0.75",
                       "1 of 150real 2 of 7"]  # fmt: skip
    assert rows[1][1] == f"{DASH}real {DASH}" and rows[1][-1] == "0 of 60real 0 of 3"
    del results["generator"]
    assert "Generator" not in [words for _, words in read(results).headings]


def test_recall_stands_beside_what_was_accepted_of_the_class(read: Read) -> None:
    rows = read().table("Recall")
    assert rows == [["ADC7 test patches", "60.0 ± 10.0", "70.0 ± 0.0", "+10.0", "", "150 of 300"],
                    [NASTY, "20.0 ± 0.0", "10.0 ± 0.0", "−10.0", "", "60 of 200"]]  # fmt: skip


def test_selection_data_cost_and_settings(read: Read) -> None:
    page = read()
    assert (
        "at least 71.0 %, and no other class may be more" in page.text
        and "a precision of 82.0 %; the target, 90.0 %, is not reached." in page.text
    )
    assert page.table("Candidates by") == [
        ["ADC", "300", "150", "50.0 %"],
        [NASTY, "200", "60", "30.0 %"],
        ["All classes", "600", "210", "35.0 %"],
    ]
    assert page.table("Reasons") == [
        ["low confidence", "300", "50.0 %"],
        ["near copy", "3", "0.5 %"],
    ]
    data = page.table("Patches in data/patches.zip")
    assert data[0] == ["ADC", "1,477", "25", "7"] and data[-2:] == [
        ["All classes", "1,527", "75", "7"],
        ["Groupspatients, slides or tiles", "200", "90", "60"],
    ]
    assert ["classifiers, seconds", "1,200"] in page.table("Time") and [
        "candidates per second",
        "5.234",
    ] in page.table("Time")
    assert ["learning_rate", "1e−05"] in page.table("Settings") and ["torch", "2.0"] in page.table(
        "Settings"
    )


def test_tables_have_captions_and_scopes(read: Read) -> None:
    page = read()
    assert len(page.tables) == 9 and all(table["caption"] for table in page.tables)
    assert {head.get("scope") for head in page.all("th")} == {"row", "col"}


def intervals(page: Page) -> list[tuple[float, float, float, float]]:
    """Zero, low, mean and high of every row of the interval plot, in percent of its width."""
    rows = re.findall(r'<li class="row.*?</li>', page.source, re.S)
    marks = [
        [
            re.search(pattern, row)
            for pattern in (
                r'"zero" x1="(.*?)%',
                r'interval" x1="(.*?)%" x2="(.*?)%"',
                r'cx="(.*?)%',
            )
        ]
        for row in rows
    ]
    return [
        (float(zero[1]), float(bar[1]), float(dot[1]), float(bar[2]))
        for zero, bar, dot in marks
        if zero and bar and dot
    ]


def test_interval_positions_follow_the_values(read: Read, results: dict[str, Any]) -> None:
    found = intervals(read())
    assert len(found) == 3 and len({zero for zero, *_ in found}) == 1
    values, places = [], []
    for (zero, *marks), change in zip(found, results["differences"].values(), strict=True):
        values += [0.0, *(change["balanced_accuracy"][key] for key in ("low", "mean", "high"))]
        places += [zero, *marks]
    assert all(0 <= place <= 100 for place in places)
    slope, offset = np.polyfit(values, places, 1)
    assert slope > 0 and np.allclose(slope * np.array(values) + offset, places, atol=0.02)


def test_ticks_stand_where_their_numbers_say(read: Read) -> None:
    page = read()
    labels = re.findall(r'<text x="(.*?)%" y="14">(.*?)</text>', page.source.split("</figure>")[0])
    places, values = (
        np.array([float(x) for x, _ in labels]),
        np.array([float(t.replace("−", "-")) for _, t in labels]),
    )
    zero, low, mean, high = intervals(page)[0]
    assert 3 <= len(labels) <= 7 and np.allclose(
        np.interp([zero, low, mean], places, values), [0, -2, 1.2], atol=0.01
    )


@pytest.mark.parametrize(
    ("low", "high", "word", "tone"),
    [
        (0.01, 0.05, "Helps", "helps"),
        (-0.05, -0.01, "Hurts", "hurts"),
        (-0.01, 0.05, "Inconclusive", "inconclusive"),
        (0.0, 0.1, "Inconclusive", "inconclusive"),
    ],
)
def test_outcome_is_said_in_words_and_colour(
    read: Read, results: dict[str, Any], low: float, high: float, word: str, tone: str
) -> None:
    results["differences"]["G-C"]["balanced_accuracy"] = {
        "mean": (low + high) / 2,
        "low": low,
        "high": high,
    }
    page = read(results)
    assert f"Do synthetic patches help? {word} {results['verdict']}" in page.text
    assert f'<div class="verdict {tone}">' in page.source
    assert re.search(rf"\.{tone} \{{ --tone: var\(--{tone}\); \}}", page.source)


@pytest.mark.parametrize("before", ["", "The labels do not fit. Of the 3 that are kept: "])
def test_the_word_of_the_verdict_stands_above_its_sentence_and_not_in_it(
    read: Read, results: dict[str, Any], before: str
) -> None:
    results["verdict"] = f"{before}Inconclusive: balanced accuracy changed by +1.0 points."
    results["claim"] = "inconclusive"
    told = f"{before}{'b' if before else 'B'}alanced accuracy changed by +1.0 points."
    assert f"Do synthetic patches help? Inconclusive {told}" in read(results).text


def test_without_the_usual_comparison_the_first_one_counts(
    read: Read, results: dict[str, Any]
) -> None:
    del results["differences"]["G-C"]
    assert f"help? Helps {results['verdict']}" in read(results).text


def test_demonstration_is_declared(read: Read, results: dict[str, Any]) -> None:
    assert "Demonstration only" not in read().text
    results["dataset"]["demo"] = True
    assert "Demonstration only. The patches of this data set are synthetic" in read(results).text


def test_colours_have_contrast() -> None:
    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        return float(
            np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
            @ [0.2126, 0.7152, 0.0722]
        )

    themes = re.findall(r":root \{[^}]*--page: #\w{6}[^}]*\}", STYLE)
    assert len(themes) == 2
    for theme in themes:
        colours = {
            name: luminance(value) for name, value in re.findall(r"--(\w+): #(\w{6})", theme)
        }
        for name in ("ink", "soft", "mark", "helps", "hurts", "inconclusive"):
            for ground in ("page", "card"):
                light, dark = sorted((colours[name], colours[ground]), reverse=True)
                assert (light + 0.05) / (dark + 0.05) > 4.5, (name, ground)


@pytest.mark.parametrize("broken", ["write_bytes", "replace"])
def test_failed_write_leaves_the_old_report(
    tmp_path: Path,
    results: dict[str, Any],
    tiles: list[Tile],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    path = tmp_path / "report.html"
    write_report(path, results, tiles)
    before = path.read_bytes()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(Path, broken, fail)
        write_report(path, results | {"verdict": "new"}, tiles)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_results_are_left_alone_and_the_page_is_reproducible(
    read: Read, results: dict[str, Any]
) -> None:
    before = copy.deepcopy(results)
    assert read().source == read().source and results == before


EVIL = "<script>alert('1')</script>\n\x1b[31m\"x\"|\u202e{{ page }}\ud800"


def test_foreign_text_cannot_leave_its_place(read: Read, results: dict[str, Any]) -> None:
    """Markup, breaks, terminal escapes, turned reading directions, template marks, surrogates."""

    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            return {k.replace(NASTY, EVIL): spoilt(v) for k, v in value.items()}
        if isinstance(value, list):
            return [spoilt(v) for v in value]
        return value.replace(NASTY, EVIL) if isinstance(value, str) else value

    results = spoilt(results) | {"verdict": EVIL, "notes": [EVIL], "shortfalls": [EVIL + "2"]}
    results["dataset"]["path"] = results["arm_names"]["G"] = EVIL
    results["settings"] = {EVIL: EVIL, "labels_per_class": EVIL, "draw": EVIL}
    results["arms"][EVIL] = results["arms"]["A"]
    results["selection"]["reasons"][EVIL] = 4
    tiles = [Tile(patch(1), EVIL, 0.5, 1, reason, patch(2), 0.1) for reason in ("", EVIL)]
    page = read(results, tiles)
    safe = "<script>alert('1')</script> \ufffd[31m\"x\"|\ufffd{{ page }}\ufffd"
    assert page.text.count(safe) > 15 and "jinja" not in page.source.lower()
    assert [alt["alt"] for alt in page.all("img")][0].startswith(f"Synthetic patch: {safe}, ")


@pytest.mark.parametrize("number", [1, 9, 50])
def test_any_number_of_classes_and_any_length_of_name(
    read: Read, results: dict[str, Any], number: int
) -> None:
    names = [f"{i} {'very' * 60}" for i in range(number)]
    results["dataset"]["classes"] = names
    results["dataset"]["counts"] = {"train": dict.fromkeys(names, 3)}
    results["selection"]["per_class"] = {n: {"candidates": 9, "accepted": 1} for n in names}
    results["recall"] = {arm: {n: [0.5] for n in names} for arm in ("C", "G")}
    page = read(results, [Tile(patch(i), name, 0.5, i) for i, name in enumerate(names)])
    assert [row[0] for row in page.table("Recall")] == names
    assert [words for tag, words in page.headings if tag == "h3"] == names
    folded = sum(attrs.get("class") == "fold" for attrs in page.all("details")) - 2
    assert folded == (number - 3 if number > 8 else 0), "many galleries are folded away"
    assert "overflow-wrap: anywhere" in STYLE


def test_a_picture_enlarges_without_a_script(read: Read, tiles: list[Tile]) -> None:
    """What opens is a ``details``: the keyboard reaches its summary, which holds the pictures."""
    page = read()
    zooms = re.findall(r'<details class="zoom".*?</details>', page.source, re.S)
    assert len(zooms) == len(tiles)
    pictures = [re.findall(r"<summary>.*<img.*</summary>", zoom, re.S) for zoom in zooms]
    assert all(pictures) and sum(z.count("<img") for z in zooms) == len(page.all("img"))
    assert re.search(r"\.zoom\[open\] > summary \{\s*position: fixed", STYLE)


def test_a_long_seed_stays_in_one_piece(read: Read) -> None:
    page = read(shown=[Tile(patch(1), "ADC", 0.5, 2**63 - 1)])
    assert f"seed {2**63 - 1}</div>" in page.source
    assert re.search(r"figcaption div:last-child \{[^}]*white-space: nowrap", STYLE)


def test_over_quota_is_no_rejection(read: Read, results: dict[str, Any]) -> None:
    chosen = results["selection"]
    chosen["reasons"]["over quota"] = 90
    rows = read(results).table("Candidates by")
    assert rows[0] == ["ADC", "300", "150", DASH, "≥ 50.0 %"], "nobody counted it by class"
    assert rows[-1] == ["All classes", "600", "210", "90", "50.0 %"]
    for count, over in zip(chosen["per_class"].values(), (75, 15), strict=True):
        count["over_quota"] = over
    page = read(results)
    assert [row[3:] for row in page.table("Candidates by")] == [
        ["75", "75.0 %"],
        ["15", "37.5 %"],
        ["90", "50.0 %"],
    ]
    assert [row[0] for row in page.table("Reasons")] == ["low confidence", "near copy"]
    assert "210 of 600 50 % passed the selection, 90 more than were asked for" in page.text


def test_the_kinds_of_sources_are_told_apart(read: Read, results: dict[str, Any]) -> None:
    chosen = results["selection"]
    for i, count in enumerate([*chosen["per_class"].values(), chosen]):
        count["sources"] = {"labelled": i + 2, "unlabelled": 10 * i}
    rows = read(results).table("Candidates by")
    assert [row[3:5] for row in rows] == [["2", "0"], ["3", "10"], ["4", "20"]]
    assert "Unlabelled sources" in read(results).text


def test_a_further_classifier_is_asked(read: Read, results: dict[str, Any]) -> None:
    results["agreement"] = {"patches": 70, "accepted": 0.6, "candidates": None, "test": 0.7}
    assert read(results).table("Share of patches") == [
        ["Accepted candidates", "60.0 %"],
        ["All candidates", f"{DASH} %"],
        ["Test patches", "70.0 %"],
    ]


def test_nothing_accepted_is_said_at_the_top(read: Read, results: dict[str, Any]) -> None:
    assert "No candidate was accepted" not in read().text
    results["selection"]["accepted"] = 0
    page = read(results)
    assert "No candidate was accepted." in page.source.split("</header>")[0]
    assert "0 of 600 0 % passed" in page.text


def test_what_the_run_could_have_seen(read: Read, results: dict[str, Any]) -> None:
    assert "could have seen" not in read().text and '<rect class="band"' not in read().source
    for key, least in (("G-C", 0.05), ("G-F", 0.02), ("G-C", math.nan)):
        results["claims"][key]["detectable"] = least
        page = read(results)
        told = {"G-C": "5.0", "G-F": "2.0"}[key]
        assert (f"could have seen {told}" in page.text) == math.isfinite(least)
    results["claims"]["G-C"]["detectable"] = 0.05
    page = read(results)
    assert "This run could have seen 5.0 points" in page.text
    (x, width), *_ = re.findall(r'"band" x="(.*?)%" width="(.*?)%"', page.source)
    zero, low, mean, _ = intervals(page)[0]
    point = (mean - low) / 3.2  # of the width, for +1.2 from -2.0
    edges = [max(zero - 5 * point, 0), min(zero + 5 * point, 100)]
    assert np.allclose([float(x), float(x) + float(width)], edges, atol=0.03)


@pytest.mark.parametrize(
    ("said", "tone"),
    [("helps", "helps"), ("hurts", "hurts"), ("inconclusive", "inconclusive"),
     ("same", "inconclusive"), ("soft", "inconclusive")],
)  # fmt: skip
def test_a_claim_is_that_of_the_statistics_not_of_the_interval(
    read: Read, results: dict[str, Any], said: str, tone: str
) -> None:
    for known in results["claims"].values():
        known["claim"] = said
    results["claim"] = said
    page = read(results)
    assert f'<div class="verdict {tone}">' in page.source
    rows = re.findall(r'<li class="row (\w*)">', page.section("What changes"))
    assert rows == [tone, tone, "hurts"], "the last one is not corrected: its interval decides"
    assert (": claimed" in page.text) == (tone != "inconclusive")


def test_rules_that_forbid_a_claim_are_the_first_notes(
    read: Read, results: dict[str, Any]
) -> None:
    results["shortfalls"] = ["A claim needs more seeds.", results["notes"][0]]
    notes = re.findall("<li>(.*?)</li>", read(results).section("Notes"))
    assert notes[:2] == results["shortfalls"] and len(notes) == 3, "each is said once"


def test_every_metric_has_its_interval(read: Read, results: dict[str, Any]) -> None:
    results["differences"]["G-C"]["auc"] = {"mean": 0.0123, "low": -0.004, "high": 0.03}
    rows = read(results).table("Changes in every metric")
    points = "+1.2−2.0 to +4.1"
    assert rows[0] == ["G against C", points, points, "+0.012−0.004 to +0.030"]
    assert rows[1][3] == f"{DASH}no interval"


def test_no_claim_is_promised_where_a_rule_is_not_met(read: Read, results: dict[str, Any]) -> None:
    assert "below 0.05, the change may be claimed" in read().text
    results["shortfalls"] = ["A claim needs at least 3 seeds, got 1."]
    assert "may be claimed" not in read(results).text
    assert "nothing is claimed here: see the sentence at the top" in read(results).text


def test_given_labels_stand_beside_those_of_the_critic() -> None:
    def table(names: str, **called: dict[str, int]) -> Any:
        rows = {
            n: {"pictures": 0, "accepted": 0, "called": dict.fromkeys(names, 0)} for n in names
        }
        for name, counts in called.items():
            of = {**rows[name]["called"], **counts}
            rows[name] = {"pictures": sum(counts.values()), "accepted": 1, "called": of}
        return _called({"name": "theirs", "classes": rows})

    (found,) = table("abc", a={"a": 3, "c": 7}, b={"b": 2})
    assert list(found.heads) == ["Given label", *"abc", "Pictures", "Worth keeping"]
    assert found.rows == [["a", "3", "0", "7", "10", "1"], ["b", "0", "2", "0", "2", "1"]]
    (found,) = table("abcdefghijk", a={"a": 3, "c": 7}, b={"b": 2})
    heads = ["Given label", "The same", "Most often besides", "Pictures", "Worth keeping"]
    assert list(found.heads) == heads
    (first, second), (_, other) = found.rows[0][1:3], found.rows[1][1:3]
    assert first == "3" and second == TableCell("c", "7") and other == TableCell("none")
    assert table("ab") == []
