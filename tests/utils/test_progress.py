"""A bar is shown where work takes long, and only there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_histodiff.utils import progress


@pytest.mark.parametrize(
    ("patience", "shown", "bar"), [(0, True, True), (9, True, False), (0, False, False)]
)
def test_a_bar_comes_after_a_while(
    patience: int,
    shown: bool,
    bar: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", patience)
    assert list(progress.patient([1, 2, 3], "look", shown)) == [1, 2, 3]
    assert ("look: 100%" in capsys.readouterr().err) == bar


def test_items_without_a_length_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    def few() -> Iterator[int]:
        yield from range(2)

    assert list(progress.patient(few(), "look")) == [0, 1]
    assert capsys.readouterr().err == ""
