"""``fingerprint``: one hash of the content of nested values, and an error for what has no content
that can be told.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import operator
import pickle
import random
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["fingerprint"]

# the state of a generator is not a setting
RANDOM = (random.Random, np.random.RandomState, np.random.Generator, torch.Generator)
ATOMS = (type(None), bool, int, float, complex, str, bytes)
SEQUENCES = (list, tuple, set, frozenset)


def fingerprint(*things: Any) -> str:
    """SHA-256, in hexadecimal, of the content of any values; equal for equal content alone.

    ============================ ==================================================================
    plain values                 type and value: ``1``, ``1.0`` and ``True`` differ
    containers                   type and content; dictionaries and sets without their order
    tensors, arrays              dtype, shape and bytes, on whatever device
    classes                      qualified name; code and plain attributes, those of bases too
    functions                    code, defaults, what they close over, the plain global constants
                                 that they name, and functions of their own module that they call
    builtins, modules            qualified name
    generators of random numbers nothing: their state is not a setting
    everything else              class, and what ``pickle`` would keep of the object
    ============================ ==================================================================

    What a library's functions call in turn is not followed: put the version of the library, or one
    of your own, among the things. Objects that keep the outcome of their last draw, as MONAI's
    random transforms do, should be hashed before they are used: a needless difference costs a
    computation, no more.

    Raises:
        TypeError: a value has no content that can be told, such as an open file or a lock.
    """
    return _Hasher()(things).hex()


def _leaf(tag: str, content: bytes = b"") -> bytes:
    return hashlib.sha256(b"leaf\0" + tag.encode() + b"\0" + content).digest()


def _node(tag: str, parts: Iterable[bytes]) -> bytes:
    """The digest of digests, all of one length: no two trees have the same bytes."""
    return hashlib.sha256(b"node\0" + tag.encode() + b"\0" + b"".join(parts)).digest()


def _name(thing: Any) -> str:
    found = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", "")
    return f"{getattr(thing, '__module__', '')}.{found}"


def _is_plain(value: Any) -> bool:
    """Whether a value is plain all through: such constants are settings."""
    if type(value) in SEQUENCES:
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, [*value, *value.values()]))
    return type(value) in (*ATOMS, Tensor, np.ndarray)


class _Hasher:
    def __init__(self) -> None:
        self._above: list[int] = []
        self._known: dict[type | FunctionType, bytes] = {}

    def __call__(self, thing: Any) -> bytes:
        kind = type(thing)
        if kind in ATOMS:
            return _leaf(_name(kind), (hex(thing) if kind is int else repr(thing)).encode())
        if isinstance(thing, RANDOM):
            return _leaf(_name(kind))
        if id(thing) in self._above:
            return _leaf("cycle", str(self._above[::-1].index(id(thing))).encode())
        self._above.append(id(thing))
        try:
            return self._content(thing)
        finally:
            self._above.pop()

    def _all(self, tag: str, *things: Any) -> bytes:
        return _node(tag, map(self, things))

    def _content(self, thing: Any) -> bytes:
        kind = type(thing)
        tag = _name(kind)
        if kind in (list, tuple):
            return self._all(tag, *thing)
        if kind in (set, frozenset):
            return _node(tag, sorted(map(self, thing)))
        if kind in (dict, MappingProxyType):
            return _node(tag, sorted(self._all("item", *item) for item in thing.items()))
        if isinstance(thing, Tensor):
            return self._tensor(thing)
        if kind in (np.ndarray, np.memmap):
            array = np.ascontiguousarray(thing)
            content = array.tolist() if array.dtype.hasobject else array.tobytes()
            return self._all(tag, str(array.dtype), thing.shape, content)
        if isinstance(thing, ModuleType):
            return _leaf(tag, thing.__name__.encode())
        if isinstance(thing, type):
            return self._class(thing)
        if isinstance(thing, FunctionType):
            return self._function(thing)
        if isinstance(thing, MethodType):
            return self._all(tag, thing.__func__, thing.__self__)
        if isinstance(thing, CodeType):
            return self._all(tag, *_code(thing))
        return self._pickled(thing)

    def _tensor(self, thing: Tensor) -> bytes:
        try:
            plain = thing.detach().as_subclass(Tensor).resolve_conj().resolve_neg().cpu()
            content = plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        except RuntimeError as error:  # sparse, quantised, without data
            raise TypeError(
                f"a fingerprint needs dense tensors with data, got {_name(type(thing))} of layout "
                f"{thing.layout} on {thing.device}: keep it out of what is hashed"
            ) from error
        about = (str(thing.dtype), tuple(thing.shape), content, vars(thing))
        return self._all(_name(type(thing)), *about)

    def _class(self, thing: type) -> bytes:
        if thing not in self._known:
            parts = []
            for base in thing.__mro__[:-1]:
                parts.append(_leaf("class", _name(base).encode()))
                local = "<locals>" in base.__qualname__  # its methods may hold what is around it
                for name, value in sorted(vars(base).items()):
                    for body in _bodies(value):
                        held = [body] if local else [body.__code__, _constants(body)]
                        parts.append(self._all(name, *held))
                    if _is_plain(value) and not name.startswith("__"):
                        parts.append(self._all(name, value))
            self._known[thing] = _node("class", parts)
        return self._known[thing]

    def _function(self, thing: FunctionType) -> bytes:
        if thing not in self._known:
            held = [_held(cell) for cell in thing.__closure__ or ()]
            called = {
                name: other
                for name, other in _globals(thing).items()
                if isinstance(other, FunctionType) and other.__module__ == thing.__module__
            }
            inside = (thing.__code__, thing.__defaults__, thing.__kwdefaults__, held, vars(thing))
            self._known[thing] = self._all(_name(thing), *inside, _constants(thing), called)
        return self._known[thing]

    def _pickled(self, thing: Any) -> bytes:
        kind = type(thing)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            found = thing.__reduce_ex__(4) if reduce is None else reduce(thing)
            if isinstance(found, str):
                module = pickle.whichmodule(thing, found)  # type: ignore[attr-defined]
                if operator.attrgetter(found)(sys.modules[module]) is not thing:
                    raise pickle.PicklingError(f"{module}.{found} is another")
                return _leaf(_name(kind), f"{module}.{found}".encode())
        except Exception as error:  # each type has its own
            raise TypeError(
                "a fingerprint needs plain values, arrays, functions, or objects that can be "
                f"pickled, got {_name(kind)} ({error}): keep it out of what is hashed, or do "
                "without a cache"
            ) from error
        make, arguments, state, *items = (*found, None, None, None)[:5]
        content = (_name(make), arguments, state, *(list(part or ()) for part in items))
        return self._all(_name(kind), kind, *content)


def _code(code: CodeType) -> tuple[Any, ...]:
    names = (code.co_varnames, code.co_names)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    jumps = getattr(code, "co_exceptiontable", b"")  # from Python 3.11 on
    return code.co_code, code.co_consts, names, counts, jumps


def _names(code: CodeType) -> set[str]:
    """The global and attribute names of a code and of the codes within it."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _globals(function: FunctionType) -> dict[str, Any]:
    """What a function may read of its module."""
    names = (name for name in _names(function.__code__) if not name.startswith("__"))
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


def _constants(function: FunctionType) -> dict[str, Any]:
    return {name: value for name, value in _globals(function).items() if _is_plain(value)}


def _bodies(value: Any) -> Iterator[FunctionType]:
    """The functions of a method or property, and those that its decorators wrap."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, functools.cached_property):
        value = value.func
    for part in (value.fget, value.fset) if isinstance(value, property) else (value,):
        while isinstance(part, FunctionType):
            yield part
            part = getattr(part, "__wrapped__", None)


def _held(cell: Any) -> tuple[Any, ...]:
    """What a closure holds, if the name is bound already."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()
