from __future__ import annotations

from pathlib import Path

import pytest

from monai_histodiff.utils.folders import whole_folder


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "set"
    (target.parent / ".set.part").mkdir(parents=True)  # what a killed process leaves
    (target.parent / ".set.part" / "old").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as draft:
        (draft / "half").touch()
        raise KeyboardInterrupt
    assert not list(target.parent.iterdir())
    with whole_folder(target) as draft:
        (draft / "one").touch()
        assert not target.exists()
    assert [p.name for p in target.parent.iterdir()] == ["set"]
    assert [p.name for p in target.iterdir()] == ["one"]
    with pytest.raises(OSError, match="set"), whole_folder(target):
        pass
    assert [p.name for p in target.iterdir()] == ["one"]
