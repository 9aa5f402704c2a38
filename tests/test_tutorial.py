"""The code of the tutorial runs as it stands, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from monai.utils import set_determinism

from monai_histodiff import SyntheticBank

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"


def test_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    try:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    finally:
        set_determinism(None)
    assert len(blocks) == 8
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "True tensor(1.) -1"
    assert names["weights"] == pytest.approx([0.2, 0.8])  # (1 - 0.5) * 0.8 + 0.5 * 0.2 = 0.5
    assert sum(names["labels"]) / len(names["labels"]) == pytest.approx(0.5, abs=0.04)
    assert (
        names["bank"].refreshes == 3
        and len(SyntheticBank.load("fresh_bank")) == len(names["bank"]) > 0
    )
