"""The shape of the package, read from its source: who may import whom, sizes, docstrings, and what must not be there."""

from __future__ import annotations

import ast
import graphlib
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import monai_histodiff

PACKAGE = Path(monai_histodiff.__file__).parent
NAME = "monai_histodiff"
SOURCES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
MODULES = sorted(set(SOURCES) - {"__init__"})
NUMERICS = {"schedules", "solvers", "guidance", "selection", "distances", "metrics", "comparisons", "generator_metrics"}
MAY_PRINT = {"results", "summary", "zoo"}
LONGEST = 300


def imports(name: str) -> set[str]:
    """Every module that a module names in an import, absolute, at any depth of the code."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in ([NAME] if node.level else []) + [node.module or ""] if part)
            found |= {f"{NAME}.{alias.name}" for alias in node.names} if base == NAME else {base}
    return found


def own_imports(name: str) -> set[str]:
    """Names of the package's own modules among them; ``__init__`` for a name taken from the package itself."""
    own = {found.removeprefix(f"{NAME}.") for found in imports(name) if found.split(".")[0] == NAME}
    return {module if module in MODULES else "__init__" for module in own}


def test_the_modules_were_found() -> None:
    assert NUMERICS | MAY_PRINT | {"sampling", "networks", "transforms"} <= set(MODULES)
    assert {"schedules", "solvers"} <= own_imports("guidance")


def test_imports_run_downward_only() -> None:
    graph = {name: own_imports(name) for name in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the cycle
    assert set(order) >= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_modules_not_the_package(name: str) -> None:
    assert "__init__" not in own_imports(name)


@pytest.mark.parametrize("name", sorted(NUMERICS))
def test_numerics_stand_on_torch_and_numpy_alone(name: str) -> None:
    assert own_imports(name) <= NUMERICS
    outside = {found.split(".")[0] for found in imports(name)} - {NAME}
    assert outside <= {"__future__", "collections", "dataclasses", "math", "numpy", "torch", "typing"}


def test_imports_are_at_the_top_of_the_module() -> None:
    """Or under ``if`` or ``try``, but not in functions, where they would hide a cycle."""
    for name, tree in TREES.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
                own = [n for n in hidden if isinstance(n, ast.ImportFrom) and (n.module or "").startswith(NAME)]
                assert not own, f"{name}.{function.name} imports within its body"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_module_says_what_it_is_and_fits_on_a_few_screens(name: str) -> None:
    if name != "_version":
        assert ast.get_docstring(TREES[name])
    assert len(SOURCES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_print_and_no_assert(name: str) -> None:
    """Messages go through logging, and ``python -O`` must not switch a check off."""
    nodes = list(ast.walk(TREES[name]))
    assert not [n.lineno for n in nodes if isinstance(n, ast.Assert)]
    if name not in MAY_PRINT:
        assert not [n.lineno for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]


def public_names() -> list[str]:
    return [alias.asname or alias.name for node in TREES["__init__"].body if isinstance(node, ast.ImportFrom) for alias in node.names]


def test_the_package_re_exports_explicitly() -> None:
    """``from module import X as X``: the form that type checkers take for a public name."""
    for node in TREES["__init__"].body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.asname == alias.name for alias in node.names)
    names = public_names()
    assert len(names) == len(set(names)) >= 15


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    thing = getattr(monai_histodiff, name)
    if name != "__version__":
        assert (inspect.getdoc(thing) or "").strip()
        assert thing.__module__.startswith(f"{NAME}.")
        assert thing.__doc__, f"{name} inherits its docstring"


@pytest.mark.parametrize("name", [m for m in MODULES if m != "_version"])
def test_what_a_module_lists_exists_and_is_documented(name: str) -> None:
    module = import_module(f"{NAME}.{name}")
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__module__ == module.__name__, f"{public} is another module's"
            assert thing.__doc__, f"{public} has no docstring"
