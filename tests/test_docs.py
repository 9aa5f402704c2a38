"""The code in the documentation runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slides_painted import disc, write_slide

from monai_histodiff import PatchSet, SyntheticBank
from monai_histodiff.data.slide_files import find_slides
from monai_histodiff.data.slide_tiles import TileSettings, cut_slides

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def code_of(page: Path) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )


def test_patches_are_opened_at_another_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / "patches" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((224, 224, 3), 200, np.uint8)).save(tmp_path / "patches" / name)
    shutil.make_archive(str(tmp_path / "patches"), "zip", tmp_path / "patches")
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in code_of(DOCS / "data.md") if ".at(um_per_px" in block]
    names: dict = {}
    exec(compile(code, "data.md", "exec"), names)
    assert names["patches"].sizes() == [(112, 112)] * 4
    assert capsys.readouterr().out.strip()


def test_a_datalist_becomes_a_patch_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scans" / "p1").mkdir(parents=True)
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "scans" / "p1" / "a.png")
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in code_of(DOCS / "data.md") if "datalist" in block]
    exec(compile(code, "data.md", "exec"), {})
    (record,) = PatchSet.open("my_set").records
    assert (record.path, record.label, record.group) == ("normal/0.png", "normal", "p1")
    assert record.um_per_px == 0.5


def test_monai_takes_the_places_of_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openslide")
    (tmp_path / "slides").mkdir()
    write_slide(tmp_path / "slides" / "a.svs", disc(2400, 2000, 900)[0], um=0.25)
    settings = TileSettings(size=128, per_slide=4)
    slides = find_slides([tmp_path / "slides"])
    cut_slides(slides, tmp_path / "tiles", settings, progress=False)
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in code_of(DOCS / "data.md") if "PatchWSIDataset" in block]
    names: dict = {}
    exec(compile(code, "data.md", "exec"), names)
    ours = PatchSet.open("tiles")
    assert len(ours) == len(names["patches"]) == 4
    for item, patch in zip(names["patches"], ours, strict=True):
        assert np.array_equal(item["image"].numpy(), patch["image"].numpy())


def test_the_readme_line_of_the_pipeline_takes_files_and_a_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "patch.png")
    accepted = {k: np.full((30, 16, 16, 3), 50 + 50 * k, np.uint8) for k in range(2)}
    bank = SyntheticBank.from_arrays(accepted, classes=["normal", "tumour"], um_per_px=1.0)
    bank.save(tmp_path / "out" / "bank")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    (code,) = [block for block in code_of(ROOT / "README.md") if "Compose" in block]
    exec(compile(code, "README.md", "exec"), names)
    names["transform"].set_random_state(0)
    items = [names["transform"]({"image": "patch.png", "label": 1}) for _ in range(40)]
    values = {
        bool(item["synthetic"]): {
            round(float(v) * 255) for v in (item["image"].min(), item["image"].max())
        }
        for item in items
    }
    assert values == {True: {100}, False: {200}} and all(item["label"] == 1 for item in items)


def test_links_between_the_documents_hold() -> None:
    pages = [
        ROOT / "README.md",
        *sorted(DOCS.glob("*.md")),
        *sorted(ROOT.glob("bundles/*/docs/README.md")),
    ]
    found = 0
    for page in pages:
        for target in re.findall(
            r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")
        ):
            path = page.parent / target[0] if target[0] else page
            if "://" in target[0]:
                continue
            assert path.exists(), f"{page.name} links to {target[0]}"
            if target[1]:
                heads = re.findall(
                    r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE
                )
                assert target[1] in {
                    re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads
                }, target
            found += 1
    assert found > 20
