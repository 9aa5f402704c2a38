"""Every command line of the documentation names files, options and sessions that there are."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
LDM = "bundles/histopathology_ldm/"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("bundles/*/docs/README.md")),
]
STAND_INS = {"BASE": f"{LDM}configs/train_base.yaml", "CONFIG": f"{LDM}configs/train_encoder.yaml"}
HEADS = "python|histodiff-|nox|torchrun|OMP_NUM_THREADS|pytest"


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in the blocks of a page, comments taken off."""
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(.*?)\n(.*?)^```$", text, flags=re.M | re.S):
        if language not in ("", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if re.match(HEADS, part.strip()):
                    words = shlex.split(part, comments=True)
                    yield words[: words.index(">")] if ">" in words else words


def options(words: list[str]) -> dict[str, str]:
    """``--NAME VALUE`` by name, without what follows a ``#`` or ``=`` in the name."""
    return {
        re.split("[#=]", word[2:])[0]: value
        for word, value in zip(words, [*words[1:], ""], strict=True)
        if word.startswith("--")
    }


def check_bundle_run(words: list[str], folder: Path) -> None:
    given = options(words)
    files = given.pop("config_file")
    names = ast.literal_eval(files) if files.startswith("[") else [files]
    paths = [folder / STAND_INS.get(name, name) for name in names]
    assert all(path.is_file() for path in paths), names
    parser = ConfigParser()
    parser.read_config([str(path) for path in paths])
    own = {"nnodes", "nproc_per_node"}
    assert set(given) - own <= set(parser.get()), set(given) - set(parser.get())


def check_bundle_export(words: list[str], folder: Path) -> None:
    given = options(words)
    for name in ("ckpt_file", "meta_file", "config_file"):
        assert (folder / given[name]).is_file(), given[name]


def check_script(words: list[str], _: Path, capsys: Any) -> None:
    tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts[words[0]].split(":")
    with pytest.raises(SystemExit):
        getattr(import_module(module), function)(["--help"])
    known = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    if words[0] == "histodiff-demo":
        parser = ConfigParser()
        parser.read_config(str(ROOT / "bundles" / "finetune.json"))
        known |= set(parser.get())
    assert set(options(words)) <= known, words


def check_file(words: list[str]) -> None:
    (name,) = [word for word in words if word.endswith(".py")]
    files = {ROOT / name, *(ROOT / name).parent.glob("bench_*.py")}  # which share their options
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for option in options(words):
        assert f'"--{option}"' in source, f"{name} --{option}"


def check_sessions(words: list[str]) -> None:
    source = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    names = words[words.index("-s") + 1 :] if "-s" in words else []
    for name in names:
        assert f"def {name}(" in source, name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_the_commands_of_a_page(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = page.parent.parent if "bundles" in page.parts else ROOT
    for words in commands(page):
        line = " ".join(words)
        kinds: dict[str, Callable[[], None]] = {
            " ckpt_export ": lambda w=words: check_bundle_export(w, folder),
            "monai.bundle run ": lambda w=words: check_bundle_run(w, folder),
            "histodiff-": lambda w=words: check_script(w, folder, capsys),
            "monai.bundle download ": lambda: None,  # tests/bundle/test_hub.py
            "python -c ": lambda w=words: ast.parse(w[w.index("-c") + 1]),
            "python ci/": lambda: None,  # of the Model Zoo
            "nox ": lambda w=words: check_sessions(w),
            ".py": lambda w=words: check_file(w),
            "python -m ": lambda w=words: import_module(w[w.index("-m") + 1]),
            "pytest": lambda: None,
        }
        for mark, check in kinds.items():
            if mark in line if mark != "histodiff-" else line.startswith(mark):
                check()
                break
        else:
            raise AssertionError(f"a command of a kind that no check knows: {line}")


def test_commands_were_found() -> None:
    found = [" ".join(words) for page in PAGES for words in commands(page)]
    assert len(found) > 30
    for head in ("torchrun", "histodiff-check", "histodiff-summary", "nox -s", "python -m monai"):
        assert any(line.startswith(head) for line in found), head
