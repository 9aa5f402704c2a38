from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from making import draft_of

from monai_histodiff.utils.files import (
    DRAFT,
    file_sha256,
    sweep_drafts,
    whole_file,
    whole_folder,
    write_json,
)


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


def test_two_writers_at_once_have_drafts_of_their_own(tmp_path: Path) -> None:
    """In one thread, where neither process nor thread tells them apart; the last one wins."""
    target = tmp_path / "file.txt"
    with whole_file(target) as one, whole_file(target) as other:
        assert one != other
        assert DRAFT.fullmatch(one.name) and DRAFT.fullmatch(other.name)
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one" and list(tmp_path.iterdir()) == [target]


def test_threads_never_see_half_a_file(tmp_path: Path) -> None:
    target, wrong = tmp_path / "file.txt", []
    target.write_text("0" * 5000)

    def write(mark: str) -> None:
        for _ in range(60):
            with whole_file(target) as draft:
                draft.write_text(mark * 5000)
            if len(set(found := target.read_text())) != 1 or len(found) != 5000:
                wrong.append(found[:10])

    threads = [threading.Thread(target=write, args=(mark,)) for mark in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["x" * 250, "é" * 120, ".hidden", "a.tar.gz"])
def test_names_of_any_length_have_drafts(name: str, tmp_path: Path) -> None:
    with whole_file(tmp_path / name) as draft:
        draft.write_text("x")
        assert DRAFT.fullmatch(draft.name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "set"
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as draft:
        (draft / "half").touch()
        assert DRAFT.fullmatch(draft.name)
        raise KeyboardInterrupt
    assert not list(target.parent.iterdir())
    target.mkdir()  # an empty folder is as good as none
    with whole_folder(target) as draft:
        (draft / "one").touch()
        assert not list(target.iterdir())
    assert [p.name for p in target.parent.iterdir()] == ["set"]
    assert [p.name for p in target.iterdir()] == ["one"]
    with (
        pytest.raises(FileExistsError, match="a new folder is needed, got '.*set', which is not"),
        whole_folder(target),
    ):
        pass
    assert [p.name for p in target.iterdir()] == ["one"]


def test_the_draft_of_a_killed_writer_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, signal; from monai_histodiff.utils.files import whole_file\n"
        f"with whole_file({str(tmp_path / 'deep' / 'file.txt')!r}) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == -signal.SIGKILL
    (draft,) = (tmp_path / "deep").iterdir()
    assert sweep_drafts(tmp_path) == [], "what lies deeper may be another's"
    assert sweep_drafts(tmp_path / "deep") == [draft] and not draft.exists()
    assert sweep_drafts(tmp_path / "missing") == []


def test_only_drafts_are_swept(tmp_path: Path) -> None:
    hexadecimal = "0123456789abcdef" * 2
    draft = tmp_path / f".a.txt.{hexadecimal}.part"
    kept = [
        tmp_path / "a.part",
        tmp_path / ".a.txt.part",
        tmp_path / f"a.txt.{hexadecimal}.part",
        tmp_path / f".a.txt.{hexadecimal}.part.gz",
    ]
    folder = tmp_path / draft_of("b" * 50)
    for path in (draft, *kept, folder / "picture.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    for other in ("b" * 39, "b" * 51, "a"):
        assert sweep_drafts(tmp_path, other) == []
    assert sweep_drafts(tmp_path, "b" * 50) == [folder]
    assert sweep_drafts(tmp_path) == [draft]
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "none")


def test_json_holds_null_for_what_is_not_finite(tmp_path: Path) -> None:
    content = {"a": [1.5, math.nan], "b": {"c": math.inf, "d": (-math.inf, 2)}, "é": None}
    text = write_json(tmp_path / "a.json", content).read_text(encoding="utf-8")

    def refuse(name: str) -> None:
        raise ValueError(name)

    assert json.loads(text, parse_constant=refuse) == {
        "a": [1.5, None],
        "b": {"c": None, "d": [None, 2]},
        "é": None,
    }
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text
