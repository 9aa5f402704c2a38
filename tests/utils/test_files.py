from __future__ import annotations

from pathlib import Path

import pytest

from monai_histodiff.utils.files import whole_file


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    with whole_file(target) as draft:
        draft.write_text("first half")
        assert not target.exists() and draft.parent == target.parent
    assert target.read_text() == "first half" and list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_previous_file_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("previous")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "previous" and list(tmp_path.iterdir()) == [target]


def test_a_draft_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="file.txt"), whole_file(tmp_path / "file.txt"):
        pass
    assert not list(tmp_path.iterdir())
