"""The code in the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_histodiff import PatchSet

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_two_folders_become_one_patch_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, count in (("NCT-CRC-HE-100K-NONORM", 3), ("CRC-VAL-HE-7K", 2)):
        for name in ("ADI", "TUM"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((224, 224, 3), 40 * i, np.uint8)).save(tmp_path / folder / name / f"{name}-{i}.tif")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "data.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(code, "data.md", "exec"), {})
    patches = PatchSet.open("crc")
    assert patches.select("train").counts() == {"ADI": 3, "TUM": 3}
    assert patches.select("test").counts() == {"ADI": 2, "TUM": 2}
    assert patches.images().shape == (10, 3, 140, 140)
