"""The documentation site: it builds without a warning, and nothing public is missing from it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import monai_histodiff

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DOORS = ("data", "diffusion", "training", "classifiers", "selection", "evaluation", "report")


def documented() -> set[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    return set(re.findall(r"^\.\. (?:autoclass|autofunction|py:data):: (\S+)", text, flags=re.M))


def test_every_public_name_is_in_the_reference() -> None:
    public = {f"monai_histodiff.{name}" for name in monai_histodiff.__all__ if name[0] != "_"}
    for wing in (*DOORS, "options", "bundle", "commands"):
        door = Path(monai_histodiff.__file__).parent / wing / "__init__.py"
        for node in ast.parse(door.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monai_histod"):
                names = {alias.name for alias in node.names} - set(monai_histodiff.__all__)
                public |= {f"monai_histodiff.{wing}.{name}" for name in names}
    missing, gone = public - documented(), documented() - public
    assert not missing and not gone, f"docs/api lacks {missing}, and has {gone} that are not there"


class Links(HTMLParser):
    """Ids of a page, and what it links to and loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        if tag == "a" and found.get("href"):
            self.links.add(found["href"] or "")
        if tag in ("img", "script", "link") and found.get("rel") not in ("canonical", "license"):
            self.loaded.add(found.get("src") or found.get("href") or "")


@pytest.mark.slow  # reads the whole package and writes forty pages
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for name in ("sphinx", "myst_nb", "pydata_sphinx_theme", "sphinx_copybutton"):
        pytest.importorskip(name, reason='the site needs pip install -e ".[docs]"')
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    pages = {path.resolve(): Links(path) for path in sorted(tmp_path.rglob("*.html"))}
    assert len(pages) > 35
    for path, page in pages.items():
        for link in page.links:
            if "://" in link or link.startswith(("mailto:", "javascript:")):
                continue
            name, _, mark = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name} links to {link}"
            if mark and target in pages:
                assert mark in pages[target].ids, f"{path.name} links to {link}"
        for source in page.loaded:
            assert "://" not in source, f"{path.name} loads {source} from elsewhere"
