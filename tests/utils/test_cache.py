from __future__ import annotations

import io
import logging
import multiprocessing
import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_histodiff.utils.cache import cached

Arrays = dict[str, np.ndarray]


def counting(value: float = 1.0) -> tuple[Callable[[], Arrays], list[int]]:
    calls: list[int] = []

    def compute() -> Arrays:
        calls.append(1)
        return {"x": np.arange(3.0) * value, "y": np.array(2.5)}

    return compute, calls


def test_what_is_cached_is_not_computed_again(tmp_path: Path) -> None:
    compute, calls = counting()
    for _ in range(2):
        found = cached(tmp_path / "cache", "name", compute)
        assert found["x"].tolist() == [0, 1, 2] and float(found["y"]) == 2.5
        assert set(found) == {"x", "y"}
    assert len(calls) == 1 and [p.name for p in (tmp_path / "cache").iterdir()] == ["name.npz"]
    cached(tmp_path / "cache", "other", compute)
    cached(None, "name", compute)
    assert len(calls) == 3


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        cached(tmp_path, "name", lambda: {"x": np.zeros(2)})
    assert not list(tmp_path.iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    """In a number, where neither zip nor numpy looks but the check sum."""
    content = bytearray(path.read_bytes())
    place = content.index(np.array(2.0).tobytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def make_not_finite(path: Path) -> None:
    np.savez(path, x=np.array([1.0, np.nan]), y=np.array(2.5), __name__=np.array("name"))


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (cut, "zip"),
    (flip_a_bit, "Bad CRC-32"),
    (lambda p: p.write_bytes(b""), "No data left"),
    (lambda p: p.write_text("a cache"), "pickle"),
    (lambda p: np.savez(p, x=np.zeros(1)), "it must hold 'name', got ''"),
    (make_not_finite, "cached arrays must be finite, got 1 values of 'x'"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_cache_is_made_anew_with_a_warning(
    damage: Callable[[Path], Any],
    message: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compute, calls = counting()
    cached(tmp_path, "name", compute)
    damage(tmp_path / "name.npz")
    with caplog.at_level(logging.WARNING):
        assert cached(tmp_path, "name", compute)["x"].tolist() == [0, 1, 2]
    assert "name.npz' is made anew" in caplog.text and message in caplog.text
    assert cached(tmp_path, "name", compute)["x"].tolist() == [0, 1, 2] and len(calls) == 2


def test_the_cache_of_another_name_is_not_believed(tmp_path: Path) -> None:
    """A file that was renamed, or copied over another one."""
    cached(tmp_path, "one", counting(1.0)[0])
    (tmp_path / "one.npz").rename(tmp_path / "other.npz")
    assert cached(tmp_path, "other", counting(2.0)[0])["x"].tolist() == [0, 2, 4]


def test_values_that_were_changed_are_made_anew(tmp_path: Path) -> None:
    cached(tmp_path, "one", counting(1.0)[0])
    with np.load(tmp_path / "one.npz") as file:
        arrays = dict(file)
    arrays["x"] = arrays["x"][::-1]
    np.savez(tmp_path / "one.npz", **arrays)
    assert cached(tmp_path, "one", counting(2.0)[0])["x"].tolist() == [0, 2, 4]


class Planted:
    """What unpickles to a file on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_planted_pickle_is_not_run(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    stream.write(pickle.dumps(np.array([Planted(tmp_path / "ran")], dtype=object)))
    np.savez(tmp_path / "name.npz", y=np.array(2.5), __name__=np.array("name"))
    with zipfile.ZipFile(tmp_path / "name.npz", "a") as archive:
        archive.writestr("x.npy", stream.getvalue())
    compute, calls = counting()
    assert cached(tmp_path, "name", compute)["x"].tolist() == [0, 1, 2]
    assert not (tmp_path / "ran").exists() and len(calls) == 1


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan, np.inf]), "must be finite, got 2 values of 'x' that are not"),
        (np.array([1 + 1j, np.nan * 1j]), "must be finite, got 1 values of 'x' that are not"),
        (np.array([None]), "must hold numbers or text, got objects in 'x'"),
    ],
)
def test_what_is_computed_must_be_finite_numbers(
    folder: bool, array: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        cached(tmp_path if folder else None, "name", lambda: {"x": array})
    assert not list(tmp_path.iterdir())


def hammer(folder: Path, times: int, results: Any) -> None:
    """Write and read one name again and again; whatever is read must be whole."""
    for _ in range(times):
        (folder / "name.npz").unlink(missing_ok=True)
        found = cached(folder, "name", lambda: {"x": np.arange(2000.0)})
        if found["x"].tolist() != list(range(2000)):
            results.append("other content")
    results.append("done")


def test_threads_that_write_one_cache_do_not_meet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[str] = []
    threads = [threading.Thread(target=hammer, args=(tmp_path, 30, results)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == ["done"] * 4
    assert [p.name for p in tmp_path.iterdir()] == ["name.npz"]
    assert "BadZipFile" not in caplog.text and "CRC" not in caplog.text


def test_processes_that_write_one_cache_do_not_meet(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        results = manager.list()
        writers = [context.Process(target=hammer, args=(tmp_path, 30, results)) for _ in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert list(results) == ["done"] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["name.npz"]
