from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAxisFlipd, RandGaussianNoised

from monai_histodiff import PatchClassifier
from monai_histodiff.utils.cache import cached, fingerprint


def closing_over(value: Any) -> Callable[[], Any]:
    return lambda: value


def noise(std: float) -> Compose:
    return Compose([RandAxisFlipd("image", 0.5), RandGaussianNoised("image", prob=0.2, std=std)])


SAME: list[Callable[[], Any]] = [
    lambda: {"b": 1, "a": [1.5, "x", None]},
    lambda: torch.arange(6).view(2, 3),
    lambda: np.arange(4.0),
    lambda: noise(0.1),
    lambda: closing_over(3),
    lambda: functools.partial(PatchClassifier, width=8),
    lambda: (
        torch.nn.Conv2d(1, 1, 1)
        .requires_grad_(False)
        .apply(lambda m: [p.fill_(1) for p in m.parameters()])
    ),
    lambda: {"z", "y"},
    lambda: Path("a") / "b",
]


@pytest.mark.parametrize("make", SAME)
def test_equal_content_has_one_fingerprint(make: Callable[[], Any]) -> None:
    assert fingerprint(make()) == fingerprint(make()) and len(fingerprint(make())) == 64


def test_order_of_keys_and_the_state_of_generators_do_not_count() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(noise(0.1).set_random_state(0)) == fingerprint(
        noise(0.1).set_random_state(1)
    )


DIFFERENT: list[tuple[Any, Any]] = [
    (1, 1.0),
    (1, "1"),
    ([1, 2], [2, 1]),
    ([[1], 2], [[1, 2]]),
    (("ab", "c"), ("a", "bc")),
    ({"a": 1}, {"a": 2}),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (torch.zeros(2), torch.zeros(2).int()),
    (np.zeros(2), np.zeros(2, np.float32)),
    (noise(0.1), noise(0.2)),
    (closing_over(3), closing_over(4)),
    (lambda x: x + 1, lambda x: x + 2),
    (functools.partial(PatchClassifier, width=8), functools.partial(PatchClassifier, width=16)),
    (torch.nn.Linear(2, 2).forward, torch.nn.Linear(2, 2).forward),
    (torch.nn.ReLU(), torch.nn.GELU()),
    (np.ones, np.zeros),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_content_has_another_fingerprint(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_cycles_end() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)


def test_what_is_cached_is_not_computed_again(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.arange(3.0), "y": np.array(2.5)}

    for _ in range(2):
        found = cached(tmp_path / "cache", "name", compute)
        assert found["x"].tolist() == [0, 1, 2] and float(found["y"]) == 2.5
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
