"""Equal content has equal fingerprints, other content has others, and what cannot be told is an
error.
"""

from __future__ import annotations

import collections
import copy
import datetime
import enum
import fractions
import functools
import operator
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai import transforms
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, RandAxisFlipd, RandGaussianNoised

from monai_histodiff import PatchClassifier, RandHEJitterd
from monai_histodiff.utils.fingerprint import fingerprint

FACTOR, TABLE = 2, [1, 2]


def closing_over(value: Any) -> Callable[[], Any]:
    return lambda: value


def defaulting_to(value: Any) -> Callable[..., Any]:
    def function(x: Any, *, y: Any = value) -> Any:
        return y

    return function


def noise(std: float) -> Compose:
    return Compose([RandAxisFlipd("image", 0.5), RandGaussianNoised("image", prob=0.2, std=std)])


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Scale(torch.nn.Module):
    """A module whose setting is in neither its state nor its text."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Recipe:
    steps: int
    network: Callable[..., Any] = PatchClassifier


def with_method(code: str) -> type:
    """A class of one qualified name, whatever its body, as after an edit of its source."""
    space: dict[str, Any] = {"__name__": "edited", "FACTOR": 3}
    exec(f"class Edited:\n    sigma = 1\n    {code}", space)
    return space["Edited"]


def local_class(value: Any) -> type:
    class Local:
        def __call__(self) -> Any:
            return value

    return Local


def compiled(code: str, **around: Any) -> Any:
    space: dict[str, Any] = {"__name__": "edited", **around}
    exec(code, space)
    return space["function"]


SAME: list[Callable[[], Any]] = [
    lambda: {"b": 1, "a": [1.5, "x", None]},
    lambda: torch.arange(6).view(2, 3),
    lambda: np.arange(4.0),
    lambda: noise(0.1),
    lambda: closing_over(3),
    lambda: functools.partial(PatchClassifier, width=8),
    lambda: {"z", "y"},
    lambda: Path("a") / "b",
    lambda: torch.sin,
    lambda: range(3),
    lambda: re.compile("a+"),
    lambda: Slotted([1]),
    lambda: Scale(2.0).eval(),
    lambda: Colour.RED,
    lambda: Recipe(3),
    lambda: local_class(3)(),
    lambda: with_method("def f(self): return FACTOR"),
    lambda: np.array([1, "a", None], dtype=object),
    lambda: Lambdad("image", torch.sin),
    lambda: collections.deque([1, 2], maxlen=3),
    lambda: 10**5000,
    lambda: MappingProxyType({"a": 1}),
    lambda: collections.defaultdict(list, a=[1]),
    lambda: torch.device("cpu"),
    lambda: torch.tensor([1j, 2.0]),
    lambda: float("nan"),
]


@pytest.mark.parametrize("make", SAME)
def test_equal_content_has_one_fingerprint(make: Callable[[], Any]) -> None:
    assert fingerprint(make()) == fingerprint(make()) and len(fingerprint(make())) == 64
    assert fingerprint(make()) != fingerprint(make(), make())


def test_order_of_keys_and_the_state_of_generators_do_not_count() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(noise(0.1).set_random_state(0)) == fingerprint(
        noise(0.1).set_random_state(1)
    )
    assert fingerprint(random.Random(1)) == fingerprint(random.Random(2))
    assert fingerprint(np.random.default_rng(1)) == fingerprint(np.random.default_rng(2))


DIFFERENT: list[tuple[Any, Any]] = [
    # plain values and containers
    (1, 1.0),
    (1, True),
    (1, "1"),
    (0.0, -0.0),
    ("a", b"a"),
    ([1, 2], [2, 1]),
    ([1, 2], (1, 2)),
    ([[1], 2], [[1, 2]]),
    (("ab", "c"), ("a", "bc")),
    (["a", "b"], ["a'<builtins.str>'b"]),
    ({"a": 1}, {"a": 2}),
    ({1: "a"}, {"1": "a"}),
    ({1, 2}, frozenset({1, 2})),
    # arrays
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (torch.zeros(2), torch.zeros(2).int()),
    (torch.zeros(2), torch.nn.Parameter(torch.zeros(2))),
    (torch.zeros(2), torch.tensor([0.0, 1.0]).flip(0)),
    (torch.zeros(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)),
    (MetaTensor(torch.zeros(1, 2, 2)), MetaTensor(torch.zeros(1, 2, 2), meta={"a": 1})),
    (np.zeros(2), np.zeros(2, np.float32)),
    (np.zeros(2, ">f4"), np.zeros(2, "<f4")),
    (np.array([1, 2], dtype=object), np.array([1, 3], dtype=object)),
    (np.ma.masked_array([1, 2], [0, 0]), np.ma.masked_array([1, 2], [0, 1])),
    (np.float32(1), np.float64(1)),
    # builtins and what has no __dict__
    (torch.sin, torch.cos),
    (Lambdad("image", torch.sin), Lambdad("image", torch.cos)),
    (np.sin, np.cos),
    (np.ones, np.zeros),
    (len, sum),
    (str.upper, str.lower),
    ([1].append, [2].append),
    (range(3), range(5)),
    (slice(1, 2), slice(1, 3)),
    (re.compile("a"), re.compile("b")),
    (re.compile("a"), re.compile("a", re.IGNORECASE)),
    (Slotted(1), Slotted(2)),
    (bytearray(b"a"), bytearray(b"b")),
    (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)),
    (fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
    (operator.itemgetter("a"), operator.itemgetter("b")),
    (collections.deque([1], 2), collections.deque([1], 3)),
    (iter([1, 2]), iter([1, 3])),
    (torch.float16, torch.float32),
    (torch.device("cpu"), torch.device("cuda")),
    (Colour.RED, Colour.BLUE),
    (Path("a"), Path("b")),
    (functools, operator),
    # functions and classes
    (noise(0.1), noise(0.2)),
    (closing_over(3), closing_over(4)),
    (closing_over([1]), closing_over([2])),
    (defaulting_to(3), defaulting_to(4)),
    (lambda x: x + 1, lambda x: x + 2),
    (lambda x=1: x, lambda x=2: x),
    (lambda x: x.mean(), lambda x: x.sum()),
    (lambda x: x, lambda *x: x),
    (lambda x: lambda: 1, lambda x: lambda: 2),
    (functools.partial(PatchClassifier, width=8), functools.partial(PatchClassifier, width=16)),
    (torch.nn.Linear(2, 2).forward, torch.nn.Linear(2, 2).forward),
    (torch.nn.ReLU(), torch.nn.GELU()),
    (Scale(1.0), Scale(2.0)),
    (Scale(1.0), Scale(1.0).eval()),
    (Recipe(3), Recipe(4)),
    (local_class(3), local_class(4)),
    (local_class(3)(), local_class(4)()),
    (with_method("def f(self): return 1"), with_method("def f(self): return 2")),
    (with_method("f = staticmethod(lambda: 1)"), with_method("f = staticmethod(lambda: 2)")),
    (with_method("f = property(lambda s: 1)"), with_method("f = property(lambda s: 2)")),
    (with_method("size = 1"), with_method("size = 2")),
    (with_method("def f(self): return 1")(), with_method("def f(self): return 2")()),
    # what a function reads of its module
    (
        compiled("def function(x): return x * FACTOR", FACTOR=2),
        compiled("def function(x): return x * FACTOR", FACTOR=3),
    ),
    (
        compiled("def helper(x): return 1\ndef function(x): return helper(x)"),
        compiled("def helper(x): return 2\ndef function(x): return helper(x)"),
    ),
    (
        compiled("def function(x): return [v * TABLE[0] for v in x]", TABLE=[1]),
        compiled("def function(x): return [v * TABLE[0] for v in x]", TABLE=[2]),
    ),
    (SimpleNamespace(a=1), SimpleNamespace(a=2)),
    (RandHEJitterd("image", 0.1), RandHEJitterd("image", 0.2)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_content_has_another_fingerprint(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_a_decorator_does_not_hide_the_method() -> None:
    """``torch.no_grad`` wraps a method in one and the same function."""
    one, other = (
        with_method(f"f = __import__('torch').no_grad()(lambda self: {value})") for value in (1, 2)
    )
    assert fingerprint(one) != fingerprint(other)


def test_cycles_end_and_differ_by_where_they_lead() -> None:
    def loop(depth: int) -> list[Any]:
        inner: list[Any] = [1]
        outer = [inner]
        inner.append((outer, inner)[depth])
        return outer

    assert fingerprint(loop(0)) == fingerprint(loop(0)) != fingerprint(loop(1))
    node = SimpleNamespace()
    node.me = node
    assert fingerprint(node) == fingerprint(copy.deepcopy(node))

    def calls_itself(n: int) -> int:
        return n and calls_itself(n - 1)

    assert fingerprint(calls_itself) == fingerprint(calls_itself)


UNKNOWN: list[tuple[Any, str]] = [
    (threading.Lock(), "_thread.lock"),
    ((i for i in range(3)), "builtins.generator"),
    (memoryview(b"x"), "builtins.memoryview"),
    ({}.keys(), "builtins.dict_keys"),
    (functools.lru_cache(lambda: 1), "_lru_cache_wrapper"),
    (SimpleNamespace(deep=[threading.Lock()]), "_thread.lock"),
    (closing_over(threading.Lock()), "_thread.lock"),
]


@pytest.mark.parametrize(("thing", "kind"), UNKNOWN)
def test_what_cannot_be_told_is_an_error_that_names_type_and_remedy(thing: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"got .*{kind} .*: keep it out of what is hashed"):
        fingerprint({"a": [thing]})


def test_tensors_without_plain_data_are_an_error() -> None:
    for tensor in (torch.eye(2).to_sparse(), torch.zeros(2, device="meta")):
        with pytest.raises(TypeError, match="needs dense tensors with data, got torch.Tensor of"):
            fingerprint(tensor)


def test_an_open_file_is_an_error(tmp_path: Path) -> None:
    with (
        open(tmp_path / "x", "w") as stream,
        pytest.raises(TypeError, match="got _io.TextIOWrapper"),
    ):
        fingerprint(stream)


def test_transforms_of_monai_have_fingerprints() -> None:
    """The kinds that a pipeline of patches is made of; none of them is unknown."""
    pipeline = Compose(
        [
            transforms.RandSpatialCropd("image", (32, 32), random_size=False),
            transforms.RandRotate90d("image", prob=0.5),
            transforms.RandZoomd("image", prob=0.3),
            transforms.RandAdjustContrastd("image"),
            transforms.OneOf([transforms.RandGaussianSmoothd("image"), noise(0.1)]),
            transforms.RandLambdad("image", torch.nn.functional.relu),
            transforms.ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
            transforms.EnsureTyped("image", dtype=torch.float32),
            transforms.ToTensord("image", track_meta=False),
        ]
    )
    assert len({fingerprint(pipeline), *map(fingerprint, pipeline.transforms)}) == 10


# --- nested values, made at random ---

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.integers(0, 9).map(range)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(max_size=4), max_size=4)
        | st.lists(st.integers(-9, 9), max_size=4).map(np.array)
        | inner.map(Slotted)
    ),
    max_leaves=8,
)


def told(value: Any) -> Any:
    """The content of a value by another way: a tree of tuples of text, without any hash."""
    kind = type(value).__qualname__
    if isinstance(value, dict):
        return kind, tuple(sorted((repr(told(k)), told(v)) for k, v in value.items()))
    if isinstance(value, frozenset):
        return kind, tuple(sorted(repr(told(v)) for v in value))
    if isinstance(value, list | tuple):
        return kind, tuple(told(v) for v in value)
    if isinstance(value, np.ndarray):
        return kind, str(value.dtype), value.shape, tuple(value.ravel().tolist())
    if isinstance(value, Slotted):
        return kind, told(value.value)
    return kind, repr(value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(values, values)
def test_fingerprints_are_equal_where_the_content_is(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (told(one) == told(other))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(values)
def test_a_copy_has_the_fingerprint_and_a_wrapped_one_has_not(value: Any) -> None:
    key = fingerprint(value)
    assert key == fingerprint(copy.deepcopy(value))
    assert key not in (fingerprint([value]), fingerprint((value,)), fingerprint(value, value))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(values, min_size=1, max_size=5), st.data())
def test_one_changed_leaf_changes_the_fingerprint(items: list[Any], data: Any) -> None:
    place, new = data.draw(st.integers(0, len(items) - 1)), data.draw(values)
    changed = [new if i == place else item for i, item in enumerate(items)]
    assert (fingerprint(items) == fingerprint(changed)) == (told(items[place]) == told(new))
