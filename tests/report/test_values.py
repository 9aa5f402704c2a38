"""Foreign text and numbers; and what a page needs is shipped."""

from __future__ import annotations

import ast
import fnmatch
import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from monai_histodiff.report import html
from monai_histodiff.report.plots import Axis, Curves
from monai_histodiff.report.values import (
    change_words,
    claim,
    clean,
    markdown,
    number,
    p_value,
    percent,
)

ROOT = Path(html.__file__).parents[2]


def test_clean_text_is_one_line_that_steers_nothing() -> None:
    assert clean("a\r\nb\tc\u2028d") == "a  b c d"
    assert clean("\x1b[2J\x07\x7f\x9b\u202eabc\u2066\ud800") == "�[2J����abc��"
    for kept in ("Ünïcode — 组织", "שלום\u200f", "👩\u200d🔬", "no\u00a0break", 7):
        assert clean(kept) == str(kept)


def test_markdown_keeps_foreign_text_in_its_cell() -> None:
    assert markdown("a|b\nc") == r"a\|b c"
    assert markdown("<script>&`*[x](y)\\") == r"&lt;script&gt;&amp;\`\*\[x\](y)\\"
    assert markdown("resnet_50 (5 %)") == "resnet_50 (5 %)"


@pytest.mark.parametrize(
    ("value", "settings", "text"),
    [
        (1234.56, {}, "1,234.6"), (-0.04, {}, "0.0"), (-2, {}, "−2.0"),
        (2, {"sign": True}, "+2.0"),
        (0, {"sign": True}, "0.0"), (None, {}, "–"), (math.inf, {}, "–"), ([], {}, "–"),
        ([1, math.nan, 3], {}, "2.0\u00a0±\u00a01.4"), (0.00001, {"digits": None}, "1e−05"),
        (1020.4, {"digits": None}, "1,020"), (7, {"digits": 0}, "7"),
    ],
)  # fmt: skip
def test_numbers(value: object, settings: dict[str, object], text: str) -> None:
    assert number(value, **settings) == text  # type: ignore[arg-type]


def test_shares_and_changes() -> None:
    assert percent(0.1234) == "12.3\u00a0%" and percent(math.nan, 0) == "–\u00a0%"
    assert change_words([1.24, -2, math.nan]) == "+1.2 (no interval)"
    assert change_words([1.24, -2, 3]) == "+1.2 (−2.0 to +3.0)"


def test_a_claim_needs_its_corrected_p_value() -> None:
    assert claim(0.1, 0.2) == "helps" and claim(-0.2, -0.1) == "hurts"
    assert claim(-0.1, 0.1) == claim(math.nan, math.nan) == "inconclusive"
    assert claim(0.1, 0.2, {"p_holm": 0.049}) == "helps"
    for p in (0.05, 0.2, math.nan):
        assert claim(0.1, 0.2, {"p_holm": p}) == "inconclusive"
    assert claim(0.1, 0.2, {"claim": "hurts", "p_holm": 0.5}) == "hurts"


@pytest.mark.parametrize("values", [[0.0], [-3.2, 8.1], [1e-4, 3e-4], [math.nan], [1e6, 2e6]])
def test_ticks_are_round_and_stand_where_they_say(values: list[float]) -> None:
    axis = Axis.over(values, signed=True)
    ticks = axis.ticks
    assert 2 <= len(ticks) <= 8 and sum(zero for *_, zero in ticks) == 1
    for place, text, _ in ticks:
        assert place == pytest.approx(axis.at(float(text.replace("−", "-").replace(",", ""))))
        assert 0 <= place <= 100


def test_names_of_curves_never_overlap_and_stay_near() -> None:
    """The places are the least-squares ones under the gap: a cluster is spread about its mean."""
    rows = {name: [50.0, value] for name, value in zip("abcde", (52, 52, 52, 70, 30), strict=True)}
    lines = {line.name: line for line in Curves("", ["1", "2"], rows, "").lines}
    places = np.array(sorted(line.y for line in lines.values()))
    assert (np.diff(places) > 4.49).all()
    ends = {name: line.points[-1][1] for name, line in lines.items()}
    assert lines["d"].y == ends["d"] and lines["e"].y == ends["e"]
    assert np.mean([lines[n].y for n in "abc"]) == pytest.approx(ends["a"], abs=0.02)


def test_templates_and_style_are_shipped() -> None:
    tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["monai_histodiff"]
    report = Path(html.__file__).parent
    needed = [p for p in report.rglob("*") if p.suffix in (".html", ".css")]
    assert len(needed) == 3
    for path in needed:
        name = path.relative_to(report.parent).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
    assert any(d.startswith("jinja2") for d in settings["project"]["dependencies"])


def test_the_wing_stands_on_few_libraries() -> None:
    found = set()
    for path in Path(html.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    outside = found - sys.stdlib_module_names - {"monai_histodiff"}
    assert outside == {"jinja2", "numpy", "PIL"}


def test_a_template_that_lacks_a_value_fails() -> None:
    template = html.TEMPLATES.from_string("{{ page.nosuch }}")
    with pytest.raises(Exception, match="nosuch"):
        template.render(page={})
    assert html.TEMPLATES.from_string("{{ x }}").render(x="<\n") == "&lt; "


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04321, "0.043"), (8e-6, "< 0.001"), (0.0006, "0.001"), (1.0, "1.000"), (None, "–")],
)
def test_a_small_p_value_is_not_shown_as_nought(value: float | None, text: str) -> None:
    assert p_value(value) == text
