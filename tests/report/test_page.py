"""The report says what the results say, for every kind of results, and stands alone."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_histodiff.report.html import STYLE
from monai_histodiff.report.page import Tile, write_report

NASTY = "<b>&x"
VOID = {"meta", "img", "br", "line", "circle", "rect"}
DASH = "–"
Read = Callable[..., "Page"]


class Page(HTMLParser):
    """Parses a page, insists that its tags balance, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.words: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.headings: list[tuple[str, str]] = []
        self.tables: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("th", "td"):
            self.tables[-1]["rows"][-1].append("")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        data = data.replace("\u00a0", " ")
        if "style" not in self.open:
            self.words.append(data)
        if "table" in self.open:
            table = self.tables[-1]
            if "caption" in self.open:
                table["caption"] += data
            elif {"th", "td"} & set(self.open):
                table["rows"][-1][-1] += data
        elif self.headings and self.headings[-1][0] in self.open:
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.found if name == tag]

    def table(self, caption: str) -> list[list[str]]:
        """The body rows of the one table whose caption starts so."""
        (table,) = [table for table in self.tables if table["caption"].startswith(caption)]
        return table["rows"][1:]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


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
        "verdict": "No difference shown: balanced accuracy changed by +1.2 points (95 % interval -2.0 to +4.1).",
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
            "G-C": {"p_holm": 0.4321, "outcome": "same"},
            "G-F": {"p_holm": 0.0123, "outcome": "helps"},
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
    def read(
        changed: dict[str, Any] | None = None, shown: list[Tile] | None = None, **settings: int
    ) -> Page:
        path = tmp_path / "new folder" / "report.html"
        assert (
            write_report(
                path,
                results if changed is None else changed,
                tiles if shown is None else shown,
                **settings,
            )
            == path
        )
        return Page(path.read_text(encoding="utf-8"))

    return read


def test_stands_alone_and_is_well_formed(read: Read) -> None:
    page = read()
    assert (
        "http" not in page.source and "<script" not in page.source and "@import" not in page.source
    )
    assert not page.all("link") and all(
        image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img")
    )
    assert page.source.startswith("<!DOCTYPE html>") and page.all("html") == [{"lang": "en"}]
    assert "prefers-color-scheme:dark" in page.source and "@media print" in page.source
    anchors = {section["id"] for section in page.all("section")}
    assert len(anchors) == len(page.all("section")) and {
        link["href"] for link in page.all("a")
    } == {f"#{key}" for key in anchors}


def test_sections_come_in_order(read: Read) -> None:
    headings = read().headings
    assert [words for tag, words in headings if tag == "h2"] == [
        "What changes", "Every arm", "Class by class", "Calibration", "Accepted patches", "Rejected patches", "Selection",
        "Generator", "Data", "Cost", "Settings and versions", "Notes",
    ]  # fmt: skip
    assert [tag for tag, _ in headings].count("h1") == 1 and headings[0][0] == "h1"
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
    assert "distance 0.250" in text and text.count("nearest real distance") == 6


def test_galleries_are_spread_over_the_confidence(read: Read) -> None:
    many = [Tile(patch(i), "ADC", i / 10, i) for i in range(11)]
    alts = [image["alt"] for image in read(shown=many, max_per_class=3).all("img")]
    assert [re.findall(r"seed (\d+)", alt)[0] for alt in alts] == ["10", "5", "0"]
    assert not read(shown=many, max_per_class=0).all("img")


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
        "No verdict" in page.text and "Nothing was compared." in page.text and not page.all("img")
    )
    assert [words for tag, words in page.headings if tag == "h2"] == [
        "What changes",
        "Every arm",
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
    assert (
        "Labelled patch that the synthetic patch is a variation of: ADC, accepted, confidence 90.0 %, seed 1"
        in page.source
    )
    assert (
        "made from this labelled patch" in " ".join(page.text.split())
        and "nearest real" not in page.text
    )


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
    assert page.table("Recall")[0] == ["ADC", DASH, "70.0 ± 0.0", DASH, ""]
    assert (
        "No verdict" in page.text
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
    rows = re.findall(r"<li class=row.*?</li>", read().source, re.S)
    assert [re.findall(r"corrected p ([\d.]+)", row) for row in rows[:3]] == [
        ["0.432"],
        ["0.012"],
        [],
    ]
    assert "Holm" in read().text
    del results["claims"]
    assert "corrected p" not in read(results).text and "Holm" not in read(results).text


def test_every_arm_has_its_interval_and_floors_have_a_dot(
    read: Read, results: dict[str, Any]
) -> None:
    figure = read().source.split("<h2>Every arm</h2>")[1].split("</figure>")[0]
    rows = re.findall(r"<li class=row.*?</li>", figure, re.S)
    assert (
        len(rows) == 5
        and ">58.0 % (53.0 to 64.0)<" in rows[3]
        and 'aria-label="G: 58.0 % (53.0 to 64.0)"' in rows[3]
    )
    marks = [re.search(r'interval x1="(.*?)%" x2="(.*?)%".*?cx="(.*?)%"', row) for row in rows]
    found = [[float(v) for v in mark.groups()] for mark in marks if mark]
    assert marks[4] is None and ">38.0 %<" in rows[4] and "<circle" in rows[4]
    values = [[mean - 0.05, mean + 0.06, mean] for mean in (0.5, 0.56, 0.55, 0.58)]
    slope, offset = np.polyfit(np.ravel(values), np.ravel(found), 1)
    assert slope > 0 and np.allclose(slope * np.array(values) + offset, found, atol=0.02)
    del results["intervals"]
    assert (
        "<li class=row"
        not in read(results).source.split("<h2>Every arm</h2>")[1].split("</section>")[0]
    )


def test_reliability_diagrams_of_the_two_arms(read: Read, results: dict[str, Any]) -> None:
    section = read().source.split("<h2>Calibration</h2>")[1].split("</section>")[0]
    assert (
        section.count("<svg") == 2
        and "Reliability of Arm C: 60 % said, 40 % so; 90 % said, 80 % so" in section
    )
    dots = re.findall(r'<circle cx="(.*?)%" cy="(.*?)%" r="(.*?)"/>', section)
    assert [(float(x), float(y)) for x, y, _ in dots] == [(60, 60), (90, 20), (70, 30)]
    assert float(dots[0][2]) < float(dots[1][2]) < float(dots[2][2])
    del results["reliability"]
    assert "Calibration" not in [words for _, words in read(results).headings]


def test_generator_table_sets_samples_beside_real_patches(
    read: Read, results: dict[str, Any]
) -> None:
    rows = read().table("Accepted patches beside real ones")
    assert rows[0] == ["ADC6 against 7 patches", "0.020real 0.001", "0.81real 0.81", "0.42real 0.42", "0.93real 0.93",
                       "0.75real 0.75", "1 of 150real 2 of 7"]  # fmt: skip
    assert rows[1][1] == f"{DASH}real {DASH}" and rows[1][-1] == "0 of 60real 0 of 3"
    del results["generator"]
    assert "Generator" not in [words for _, words in read(results).headings]


def test_recall_table(read: Read) -> None:
    rows = read().table("Recall")
    assert rows == [["ADC", "60.0 ± 10.0", "70.0 ± 0.0", "+10.0", ""],
                    [NASTY, "20.0 ± 0.0", "10.0 ± 0.0", "−10.0", ""]]  # fmt: skip


def test_selection_data_cost_and_settings(read: Read) -> None:
    page = read()
    assert (
        "at least 71.0 %." in page.text
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
    assert len(page.tables) == 8 and all(table["caption"] for table in page.tables)
    assert {head.get("scope") for head in page.all("th")} == {"row", "col"}


def intervals(page: Page) -> list[tuple[float, float, float, float]]:
    """Zero, low, mean and high of every row of the interval plot, in percent of its width."""
    rows = re.findall(r"<li class=row.*?</li>", page.source, re.S)
    marks = [
        [
            re.search(pattern, row)
            for pattern in (
                r'"zero" x1="(.*?)%',
                r'interval x1="(.*?)%" x2="(.*?)%"',
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
        (-0.01, 0.05, "No difference", "same"),
        (0.0, 0.1, "No difference", "same"),
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
    assert f'class=verdict style="--tone:var(--{tone})"' in page.source


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

    for theme in re.findall(r":root\{[^}]*--page:#\w{6}[^}]*\}", STYLE):
        colours = {
            name: luminance(value) for name, value in re.findall(r"--(\w+):#(\w{6})", theme)
        }
        for name in ("ink", "soft", "mark", "helps", "hurts", "same"):
            light, dark = sorted((colours[name], colours["page"]), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4.5, name


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
