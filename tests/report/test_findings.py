"""A page of findings holds what it is given, and refuses what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page

from monai_histodiff.report import write_findings

GREY = np.full((16, 32, 3), 128, np.uint8)


@pytest.fixture
def values() -> dict[str, Any]:
    return {
        "title": "Is this patch set <ready>?",
        "word": "Two things to mend",
        "sentence": "Three pairs are copies & one class is thin.",
        "tone": "bad",
        "facts": [("Patches", 1776), ("Groups", "274")],
        "sections": [
            {
                "title": "Counts",
                "tables": [
                    {"caption": "By class", "heads": ["Class", "Train"], "rows": [["<A>", 3]]}
                ],
            },
            {"title": "Nothing", "notes": []},
            {
                "title": "Copies",
                "notes": ["a.png equals b.png."],
                "pictures": [
                    {"images": [GREY, GREY], "alt": "a and b", "caption": "distance 0"},
                    {"image": GREY, "alt": "c"},
                ],
            },
        ],
    }


def test_what_is_given_is_on_the_page(tmp_path: Path, values: dict[str, Any]) -> None:
    page = Page(write_findings(tmp_path / "new" / "f.html", values).read_text(encoding="utf-8"))
    assert [words for _, words in page.headings] == [values["title"], "Counts", "Copies"]
    assert page.table("By class") == [["<A>", "3"]]
    assert f"Two things to mend {values['sentence']}" in page.text
    assert "Patches 1776 Groups 274" in page.text and "a.png equals b.png." in page.text
    assert '<div class="verdict hurts">' in page.source and "distance 0" in page.text
    assert [image["alt"] for image in page.all("img")] == ["a and b", "a and b", "c"]
    assert [d["style"] for d in page.all("details")] == ["aspect-ratio:4.0", "aspect-ratio:2.0"]


def test_a_title_suffices(tmp_path: Path) -> None:
    page = Page(write_findings(tmp_path / "f.html", {"title": "Empty"}).read_text())
    assert [words for _, words in page.headings] == ["Empty"] and not page.all("nav")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "x"}, "findings may hold title, .*, got titel"),
        ({"tone": "green"}, "tone must be one of good, bad, plain, got 'green'"),
        ({"sections": [{"notes": ["x"]}]}, "a section must hold title; missing: title"),
        (
            {"sections": [{"title": "x", "tables": [{"caption": "c", "heads": ["a"]}]}]},
            "a table must hold caption, heads, rows; missing: rows",
        ),
        (
            {"sections": [{"title": "x", "tables": [
                {"caption": "c", "heads": ["a", "b"], "rows": [["1"]]}]}]},
            r"a row must have one cell for each of 2 heads, got \['1'\]",
        ),
        (
            {"sections": [{"title": "x", "pictures": [{"image": GREY}]}]},
            "a picture must hold alt; missing: alt",
        ),
        (
            {"sections": [{"title": "x", "pictures": [{"image": GREY[..., 0], "alt": "c"}]}]},
            "uint8 array H x W x 3, got uint8",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, values: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_findings(tmp_path / "f.html", {**values, **change})
    assert not list(tmp_path.iterdir())


def test_a_missing_title_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="findings must hold title; missing: title"):
        write_findings(tmp_path / "f.html", {})
