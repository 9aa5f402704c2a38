"""Pages of the package as a reader meets them: parsed, and held to what every page must be."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "br", "line", "circle", "rect"}


class Page(HTMLParser):
    """Parses a page, insists on what holds for all of them, and keeps what the tests ask for.

    Tags balance; ids are unique and links lead to them; there is one main part, one first heading,
    and no level of headings is skipped; pictures and plots have words; tables have a caption,
    scopes, and a cell under each head; nothing comes from outside and no script runs.
    """

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
        self._check_structure()
        self._check_words()
        self._check_alone()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice: {attrs}"
        self.found.append((tag, {k: plain(v or "") for k, v in attrs}))
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
        self.found.append((tag, {k: plain(v or "") for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        data = plain(data)
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
        return [[cell.strip() for cell in row] for row in table["rows"][1:]]

    def section(self, heading: str) -> str:
        """The source below a second heading."""
        (part,) = [
            part
            for part in re.findall(r"<section.*?</section>", self.source, re.S)
            if re.search(rf"<h2[^>]*>{re.escape(heading)}</h2>", part)
        ]
        return part

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def _check_structure(self) -> None:
        ids = [attrs["id"] for _, attrs in self.found if "id" in attrs]
        assert len(ids) == len(set(ids)), "ids are unique"
        assert all(link["href"][0] == "#" and link["href"][1:] in ids for link in self.all("a"))
        named = [a["aria-labelledby"] for _, a in self.found if "aria-labelledby" in a]
        assert set(named) <= set(ids) and len(self.all("section")) == len(named)
        assert len(self.all("main")) == len(self.all("header")) == 1
        assert all(nav.get("aria-label") for nav in self.all("nav"))
        levels = [int(tag[1]) for tag, _ in self.headings]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), levels
        assert all(words.strip() for _, words in self.headings)
        tags = [tag for tag, _ in self.found]
        after = [tags[i + 1] for i, tag in enumerate(tags) if tag == "details"]
        assert set(after) <= {"summary"}, "what opens says so first"

    def _check_words(self) -> None:
        assert all(image.get("alt") for image in self.all("img"))
        for plot in self.all("svg"):
            assert (
                plot.get("role") == "img"
                and plot.get("aria-label")
                or (plot.get("aria-hidden") == "true" or "aria-label" not in plot)
            )
        for table in self.tables:
            assert table["caption"] and len({len(row) for row in table["rows"]}) == 1, table
            assert all(head.strip() for head in table["rows"][0]), "every column has a head"
        assert {head.get("scope") for head in self.all("th")} <= {"row", "col"}

    def _check_alone(self) -> None:
        assert self.source.startswith("<!DOCTYPE html>") and self.all("html") == [{"lang": "en"}]
        tags = {tag for tag, _ in self.found}
        assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:", self.source)
        for _, attrs in self.found:
            assert not [name for name in attrs if name.startswith("on")], attrs
            assert attrs.get("src", "data:image/jpeg;base64,").startswith(
                "data:image/jpeg;base64,"
            )
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        assert [m["content"] for m in self.all("meta") if "http-equiv" in m] == [policy]
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", self.source
        )


def plain(text: str) -> str:
    """With blanks in place of no-break spaces."""
    return text.replace("\u00a0", " ")
