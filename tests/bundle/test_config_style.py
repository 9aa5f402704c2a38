"""The shipped configs read like configs: named parts and components, few expressions, short lines.

Counted are the values that begin with ``$``, in lists too, wherever they stand but in ``imports``,
which names modules and computes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from monai_histodiff.options.docs import TITLES, config_files

BUNDLES = Path(__file__).parents[2] / "bundles"
FILES = sorted(path for path in BUNDLES.rglob("*.[jy]*") if path.suffix in (".json", ".yaml"))
CONFIGS = [path for path in FILES if path.name != "metadata.json"]
ALWAYS = ("torch", "monai", "monai_histodiff")  # for expressions that a user gives
MOST, LONGEST = 25, 120  # expressions, and characters in a line


def expressions(thing: Any) -> list[str]:
    """The expressions within, at any depth, but for the imports of a config."""
    if isinstance(thing, str):
        return [thing] if thing.startswith("$") else []
    if isinstance(thing, dict):
        kept = [value for key, value in thing.items() if key.lstrip("+") != "imports"]
        return [found for value in kept for found in expressions(value)]
    if isinstance(thing, list):
        return [found for value in thing for found in expressions(value)]
    return []


def test_expressions_are_found_wherever_they_stand() -> None:
    config = {
        "imports": ["$import a"],
        "+imports": ["$import b"],
        "a": "$1",
        "b": {"_target_": "c", "d": ["$2", {"e": "$3"}, "@a"]},
        "run": ["$4", 5],
    }
    assert expressions(config) == ["$1", "$2", "$3", "$4"]
    assert len(CONFIGS) >= 16


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(BUNDLES)))
def test_a_config_has_few_expressions_and_short_lines(path: Path) -> None:
    found = expressions(ConfigParser.load_config_file(path))
    assert len(found) <= MOST, "take a component with named arguments, or let it compute"
    assert not [f for f in found if re.fullmatch(r"\$@[\w#]+", f)], "'@name' is enough"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [number for number, line in enumerate(lines, 1) if len(line) > LONGEST]


@pytest.mark.parametrize("name", TITLES)
def test_a_config_with_what_it_lies_over_has_few_expressions(name: str) -> None:
    config = ConfigParser.load_config_files(config_files(BUNDLES, name))
    assert len(expressions(dict(config))) <= MOST


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(BUNDLES)))
def test_a_config_imports_what_its_expressions_name(path: Path) -> None:
    config = ConfigParser.load_config_file(path)
    imports = [*config.get("imports", ()), *config.get("+imports", ())]
    text = " ".join(expressions(config))
    for name in {line.split()[-1] for line in imports} - {*ALWAYS}:
        assert re.search(rf"\b{name}\b", text), f"{name} is imported and not used"
