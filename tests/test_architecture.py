"""The shape of the package, read from its source: who may import whom, sizes, docstrings, and what
must not be there.
"""

from __future__ import annotations

import ast
import graphlib
import inspect
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import GenericAlias

import monai
import pytest

import monai_histodiff

NAME = "monai_histodiff"
PACKAGE = Path(monai_histodiff.__file__).parent
WINGS = (
    "utils",
    "data",
    "diffusion",
    "training",
    "classifiers",
    "selection",
    "augmentation",
    "evaluation",
    "options",
    "bundle",
    "commands",
)
NUMERICS = {
    "data.pixels",
    *(f"diffusion.{name}" for name in ("schedules", "solvers", "guidance", "settings")),
    *(f"selection.{name}" for name in ("calibration", "copies")),
    *(
        f"evaluation.{name}"
        for name in (
            "metrics",
            "student",
            "clusters",
            "statistics",
            "worlds",
            "power",
            "feature_metrics",
        )
    ),
}
LIBRARIES = {
    "__future__",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "math",
    "numpy",
    "statistics",
    "torch",
    "typing",
}
MAY_PRINT = ("options.", "bundle.", "commands.")
LONGEST = 300


def dotted(path: Path) -> str:
    """``data.bank`` for ``data/bank.py``, ``data`` for its door, ``""`` for the package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
MODULES = sorted(name for name in SOURCES if "." in name)
DOORS = sorted(n for n in SOURCES if "." not in n and n not in ("_version", "__main__"))


def imports(name: str) -> set[str]:
    """Every module that a module names in an import, absolute, at any depth of the code."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            found.add(node.module or "")
    return found


def own_imports(name: str) -> set[str]:
    return {
        found.removeprefix(NAME).removeprefix(".")
        for found in imports(name)
        if found.split(".")[0] == NAME
    }


def run_fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_modules_were_found() -> None:
    assert set(MODULES) >= NUMERICS | {"diffusion.sampler", "augmentation.transforms"}
    assert {name.split(".")[0] for name in MODULES} == {*WINGS, "report"}
    assert {"diffusion.schedules", "diffusion.solvers"} <= own_imports("diffusion.guidance")


def test_a_wing_imports_only_from_wings_before_it() -> None:
    for name in MODULES:
        wing = name.split(".")[0]
        allowed = ("utils", "report") if wing == "report" else WINGS[: WINGS.index(wing) + 1]
        if wing in ("bundle", "commands"):
            allowed = (*allowed, "report")
        wrong = sorted(
            found
            for found in own_imports(name)
            if found.split(".")[0] not in (*allowed, "_version")
        )
        assert not wrong, f"{name} imports {wrong}"


def test_imports_name_modules_and_make_no_circle() -> None:
    graph = {name: own_imports(name) - {"_version"} for name in MODULES}
    doors = {
        name: [found for found in modules if "." not in found] for name, modules in graph.items()
    }
    assert not {name: found for name, found in doors.items() if found}, (
        "a module imports modules, not doors"
    )
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= set(
        MODULES
    )  # raises CycleError, naming the circle


def test_the_transform_needs_data_and_utils_alone() -> None:
    parts = {
        f"augmentation.{n}" for n in ("transforms", "dictionary", "labels", "patches", "items")
    }
    lower = {name for name in MODULES if name.startswith(("data.", "utils."))}
    for name in sorted(parts):
        assert own_imports(name) <= parts | lower, name
    code = (
        "import sys, threading, monai; before = threading.active_count(); "
        "from monai_histodiff import SyntheticAugmentd, SyntheticBank; "
        f"print(*sorted(m for m in sys.modules if m.startswith('{NAME}.')), "
        "threading.active_count() - before)"
    )
    *loaded, threads = run_fresh(code).split()
    heavy = [
        name
        for name in loaded
        if name.split(".")[1] not in ("_version", "augmentation", "data", "utils")
    ]
    assert not heavy and f"{NAME}.augmentation.transforms" in loaded
    assert f"{NAME}.augmentation.filling" not in loaded
    assert int(threads) == 0


def test_numerics_stand_on_torch_and_numpy_alone() -> None:
    for name in sorted(NUMERICS):
        assert own_imports(name) <= NUMERICS, name
        outside = {found.split(".")[0] for found in imports(name)} - {NAME}
        assert outside <= LIBRARIES | ({"PIL", "io"} if name == "data.pixels" else set()), name


def test_imports_are_at_the_top_of_the_module() -> None:
    """Or under ``if`` or ``try``, but not in functions, where they would hide a circle."""
    for name, tree in TREES.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                own = [
                    n
                    for n in ast.walk(function)
                    if isinstance(n, ast.ImportFrom) and (n.module or "").startswith(NAME)
                ]
                assert not own, f"{name}.{function.name} imports within its body"


def test_every_module_says_what_it_is_and_fits_on_a_few_screens() -> None:
    for name in (*MODULES, *DOORS):
        assert ast.get_docstring(TREES[name]), name
        assert len(SOURCES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST, name


def definitions(tree: ast.Module) -> set[str]:
    """Classes and functions at the top level: what MONAI's ``ComponentLocator`` finds by name."""
    return {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}


def test_no_class_or_function_bears_a_name_that_monai_has() -> None:
    """MONAI's ``ComponentLocator`` scans every loaded module whose name begins with "monai", ours
    too, and a short ``_target_`` takes the first that it finds.
    """
    theirs = set()
    for path in Path(monai.__file__).parent.rglob("*.py"):
        theirs |= definitions(ast.parse(path.read_text(encoding="utf-8")))
    assert {"SupervisedTrainer", "Critic", "DiffusionPrepareBatch"} <= theirs
    for name, tree in TREES.items():
        assert not definitions(tree) & theirs, name


def test_no_class_of_ours_is_defined_twice() -> None:
    found = Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    )
    assert len(found) > 30 and set(found.values()) == {1}, found.most_common(3)


def whole_numbers(call: ast.Call) -> bool:
    """Whether a tensor is made of ``int(...)`` alone, which no default dtype changes."""
    element = getattr(call.args[0], "elt", None)
    return isinstance(element, ast.Call) and ast.unparse(element.func) == "int"


def test_new_tensors_name_their_dtype() -> None:
    """Else they have the one that the user made torch's default, and other values by one seed."""
    makers = {"empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "tensor"}
    makers = {f"torch.{name}" for name in (*makers, "zeros")}
    found = 0
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in makers:
                found += 1
                named = any(keyword.arg == "dtype" for keyword in node.keywords)
                assert named or whole_numbers(node), f"{name}:{node.lineno}"
    assert found > 40


def test_no_print_and_no_assert() -> None:
    """Messages go through logging, and ``python -O`` must not switch a check off."""
    for name, tree in TREES.items():
        nodes = list(ast.walk(tree))
        assert not [n.lineno for n in nodes if isinstance(n, ast.Assert)], name
        if not name.startswith(MAY_PRINT):
            calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
            assert not [n.lineno for n in calls if n.func.id == "print"], name  # type: ignore[attr-defined]


def typed_names(door: str) -> dict[str, str]:
    """What a door re-exports, by name: ``from module import X as X``, the form that type checkers
    take for a public name.
    """
    found = {}
    for node in ast.walk(TREES[door]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(NAME):
            assert all(alias.asname == alias.name for alias in node.names), door
            found |= {alias.name: node.module or "" for alias in node.names}
    return found


def test_doors_give_what_they_promise() -> None:
    for door in DOORS:
        module = import_module(f"{NAME}.{door}" if door else NAME)
        for name, source in typed_names(door).items():
            assert getattr(module, name) is getattr(import_module(source), name), f"{door}.{name}"


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    """``_target_`` would find the module: from Python 3.12 on ``pydoc`` imports it first."""
    for package in [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir())]:
        files = package.glob("*.py")
        modules = {path.stem for path in files} - {"__init__"}
        if modules and (package / "__init__.py").is_file():
            name = ".".join((NAME, *package.relative_to(PACKAGE).parts))
            door = import_module(name)
            assert not [m for m in modules if callable(getattr(door, m, None))], name


def test_every_public_name_is_imported_when_asked_for_and_documented() -> None:
    lazy = {name for names in monai_histodiff.WINGS.values() for name in names}
    assert lazy == set(typed_names("")) - {"__version__"}
    assert len(lazy) >= 15 and lazy | set(monai_histodiff.ROOMS) <= set(dir(monai_histodiff))
    for name in sorted(lazy):
        thing = getattr(monai_histodiff, name)
        assert thing.__module__.startswith(f"{NAME}.")
        assert (thing.__doc__ or "").strip(), f"{name} inherits its docstring"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = monai_histodiff.Nothing
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = monai_histodiff.augmentation.Nothing


def test_what_a_module_lists_exists_and_is_documented() -> None:
    for name in MODULES:
        module = import_module(f"{NAME}.{name}")
        for public in getattr(module, "__all__", []):
            thing = getattr(module, public)
            alias = isinstance(thing, GenericAlias)  # a class to Python 3.10
            if (inspect.isclass(thing) and not alias) or inspect.isfunction(thing):
                assert thing.__module__ == module.__name__, f"{public} is another module's"
                assert thing.__doc__, f"{public} has no docstring"
