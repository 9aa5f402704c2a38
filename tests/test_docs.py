"""The code in the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_histodiff import PatchSet, SyntheticBank

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_two_folders_become_one_patch_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, count in (("NCT-CRC-HE-100K-NONORM", 3), ("CRC-VAL-HE-7K", 2)):
        for name in ("ADI", "TUM"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((224, 224, 3), 40 * i, np.uint8)).save(
                    tmp_path / folder / name / f"{name}-{i}.tif"
                )
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "data.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    exec(compile(code, "data.md", "exec"), {})
    patches = PatchSet.open("crc")
    assert patches.select("train").counts() == {"ADI": 3, "TUM": 3}
    assert patches.select("test").counts() == {"ADI": 2, "TUM": 2}
    assert not patches.notes and patches.at(um_per_px=1.0).images(112).shape == (10, 3, 112, 112)


def test_the_readme_line_of_the_pipeline_takes_files_and_a_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "patch.png")
    accepted = {k: np.full((30, 16, 16, 3), 50 + 50 * k, np.uint8) for k in range(2)}
    SyntheticBank.from_arrays(accepted, classes=["normal", "tumour"]).save(
        tmp_path / "out" / "bank"
    )
    monkeypatch.chdir(tmp_path)
    code = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    names: dict = {}
    exec(compile(next(block for block in code if "Compose" in block), "README.md", "exec"), names)
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
