"""The notebooks run as they stand, cell by cell, and do what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.data import set_track_meta
from monai.utils import set_determinism

from monai_histodiff import SyntheticBank

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "tutorials"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the bundles lie where the notebooks look for them."""
    folder = tmp_path / "docs" / "tutorials"
    folder.mkdir(parents=True)
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    monkeypatch.chdir(folder)
    return folder


def check_outputs(outputs: list[dict[str, Any]]) -> None:
    """Those that docs/store_outputs.py leaves: no error, log or path of a machine."""
    for output in outputs:
        assert output["output_type"] in ("stream", "display_data"), output
        assert set(output.get("data", {})) <= {"text/plain", "image/jpeg"}
        assert output.get("name", "stdout") == "stdout"
        text = "".join(output.get("text", ""))
        assert not re.search(r"^/|\d{4}-\d\d-\d\d|Warning|/home/|/tmp/", text, re.M), text
    assert len(json.dumps(outputs)) < 100_000, "pictures of a notebook are small"


def executed(name: str) -> dict[str, Any]:
    """What a notebook has defined once all its cells of code have run, in order."""
    content = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    try:
        for i, cell in enumerate(content["cells"]):
            if cell["cell_type"] == "code":
                check_outputs(cell["outputs"])
                exec(compile("".join(cell["source"]), f"{name}, cell {i}", "exec"), names)
    finally:
        set_determinism(None)
        set_track_meta(True)
    return names


def test_every_notebook_is_tried() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert any(cell.get("outputs") for cell in cells), "run docs/store_outputs.py"
    found = {path.name for path in NOTEBOOKS.glob("*.ipynb")}
    assert found == {"slide_to_verdict.ipynb", "class_folders.ipynb", "transform.ipynb"}


@pytest.mark.slow  # the main job, from slides
def test_from_slides_to_a_verdict(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openslide")
    names = executed("slide_to_verdict.ipynb")
    assert len(names["patches"]) == 48 and set(names["patches"].counts().values()) == {24}
    assert names["results"]["sampling"]["size"] == 96
    out = capsys.readouterr().out
    assert "Patches have 96 x 96 pixels at 1 um per pixel." in out
    assert "what a verdict could see:" in out and (place / "out" / "report.html").is_file()
    assert (place / "tiles-check.html").is_file()


@pytest.mark.slow  # the main job, and sampling of its run
def test_from_class_folders_at_another_scale(place: Path) -> None:
    names = executed("class_folders.ipynb")
    assert names["patches"].counts() == {"normal": 24, "tumour": 24}
    assert (
        len(set(names["patches"].groups)) == 16
        and names["patches"].at(1.0).sizes()[0] == (112,) * 2
    )
    assert names["results"]["settings"]["patch_size"] == 112
    assert names["bank"].um_per_px == 1.0 and names["candidates"].images.shape[-1] == 112
    assert names["samples"].sizes() == [(224, 224)] * 2
    assert {record.um_per_px for record in names["samples"].records} == {0.5}


def test_the_transform(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = executed("transform.ipynb")
    out = capsys.readouterr().out
    assert names["item"]["label"] == "tumour" and tuple(names["item"]["image"].shape) == (
        3,
        128,
        128,
    )
    assert SyntheticBank.load("bank").um_per_px == 1.0
    assert len(names["losses"]) == 3 and all(0 < loss < 5 for loss in names["losses"])
    assert "'mask'" in out and "keep_keys" in out, "the error that the notebook shows"
    assert "[1. 0.]" in out or "[1 0]" in out
