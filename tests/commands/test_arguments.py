"""Arguments of the commands."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from monai_histodiff.commands import arguments
from monai_histodiff.commands.arguments import parsed


def test_the_home_folder_is_meant_wherever_a_path_begins_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--html")
    parser.add_argument("--title")
    found = parsed(parser, ["~/set", "a~b", "--html=~/page.html", "--title", "about ~ 5 of a=~b"])
    assert found.paths == [f"{tmp_path}/set", "a~b"] and found.html == f"{tmp_path}/page.html"
    assert found.title == "about ~ 5 of a=~b"


def test_every_command_takes_its_arguments_so() -> None:
    own = Path(arguments.__file__)
    calls = {
        path.name: re.findall(r"\.parse_args\((\w*)", path.read_text(encoding="utf-8"))
        for path in own.parents[1].rglob("*.py")
        if path != own
    }
    other = {name: found for name, found in calls.items() if found}
    assert other == {"main_job.py": ["own"]}, "which takes the name of a config alone"
