"""Mutation tests: change one operator, number or condition at a time; does a test fail?

``python tests/mutation.py --minutes 20`` prints every change that no test noticed, and the score
of each module. A survivor is a missing test, or a change that changes nothing. Only the standard
library and pytest are needed. Each mutant runs in a fork of a process that has torch and MONAI
loaded: a second or two each.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "monai_histodiff"
# what tests a module, below tests/; the fastest first
MODULES = {
    "diffusion/schedules": "diffusion/test_schedules.py",
    "diffusion/solvers": "diffusion/test_solvers.py",
    "diffusion/guidance": "diffusion/test_guidance.py",
    "diffusion/settings": "diffusion/test_sampler.py",
    "selection/calibration": "selection/test_calibration.py",
    "selection/copies": "selection/test_copies.py",
    "selection/selector": "selection/test_calibration.py selection/test_centroid_selector.py "
    "selection/test_critic.py",
    "selection/quotas": "selection/test_quotas.py selection/test_candidates.py "
    "selection/test_calibration.py",
    "data/bank": "data/test_bank.py",
    "data/bank_files": "data/test_sealed.py data/test_bank.py",
    "data/sealed": "data/test_sealed.py data/test_bank.py",
    "data/strict_table": "data/test_sealed.py",
    "selection/candidates": "data/test_bank.py data/test_sealed.py",
    "augmentation/labels": "augmentation/test_labels.py augmentation/test_transforms.py",
    "augmentation/patches": "augmentation/test_patches.py augmentation/test_items.py",
    "augmentation/items": "augmentation/test_items.py",
    "augmentation/transforms": "augmentation/test_transforms.py augmentation/test_patches.py "
    "augmentation/test_items.py augmentation/test_labels.py",
    "augmentation/dictionary": "augmentation/test_transforms.py augmentation/test_patches.py "
    "augmentation/test_items.py augmentation/test_labels.py",
    "augmentation/filling": "augmentation/test_live_bank.py",
    "augmentation/buffers": "augmentation/test_live_bank.py",
    "evaluation/metrics": "evaluation/test_metrics.py",
    "evaluation/statistics": "evaluation/test_statistics.py",
    "evaluation/feature_metrics": "evaluation/test_feature_metrics.py",
    "evaluation/experiment": "evaluation/test_crops.py evaluation/test_experiment.py",
    "utils/cache": "utils/test_cache.py",
    "utils/files": "utils/test_files.py",
    "utils/fingerprint": "utils/test_fingerprint.py",
}
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "min": "max",
    "max": "min",
    "amin": "amax",
    "argmin": "argmax",
    "any": "all",
    "all": "any",
}
SAFE = ("strict", "non_blocking")  # arguments that change no result
# in this process, which alone has the mutant; what it has loaded cannot be rewritten
OPTIONS = ("-x", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow")
OPTIONS += ("-W", "ignore::pytest.PytestAssertRewriteWarning")
LOADED = ("pytest", "hypothesis", "scipy.stats", "sklearn.metrics", "diffusers")


def changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Fields of a node, and what they become, one at a time."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        yield "op", SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "op", ast.UAdd()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "value", node.value + 1
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield "attr", NAMES[node.attr]
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield "id", NAMES[node.id]
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield "value", ast.Constant(None)


def sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run: no annotation, and nothing within an error or a text for the reader."""
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            hidden = ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom
            if name in ("annotation", "returns") or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.keyword) and child.arg in SAFE:
                continue
            if not isinstance(child, hidden):
                yield child
                yield from sites(child)


def mutants(source: str) -> list[tuple[int, str, ast.Module]]:
    """Line, what was changed, and the changed module, for every change."""
    tree, found = ast.parse(source), []
    for node in sites(tree):
        for field, value in changes(node):
            line = getattr(node, "lineno", 0)
            before, old = ast.unparse(node), getattr(node, field)
            setattr(node, field, value)
            told = f"{before.splitlines()[0][:70]}  ->  {ast.unparse(node).splitlines()[0][:70]}"
            found.append((line, told, copy.deepcopy(tree)))
            setattr(node, field, old)
    return found


class Loader(importlib.machinery.SourceFileLoader):
    """Gives one module the code of a mutant."""

    tree: ast.Module

    def get_code(self, fullname: str) -> Any:
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")


class Finder:
    """Finds the mutated module before the real one."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.name = f"monai_histodiff.{module.replace('/', '.')}"
        self.path, self.tree = str(PACKAGE / f"{module}.py"), tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        loader = Loader(name, self.path)
        loader.tree = self.tree
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


def run(module: str, tree: ast.Module | None, limit: float) -> bool:
    """Whether the tests of a module pass, in a fork; too slow is a failure."""
    child = os.fork()
    if child == 0:
        import pytest

        os.setpgrp()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if tree is not None:
            sys.meta_path.insert(0, Finder(module, tree))  # type: ignore[arg-type]
        tests = [str(TESTS / name) for name in MODULES[module].split()]
        os._exit(int(pytest.main([*OPTIONS, *tests])))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def judge(module: str, seconds: float, seed: int) -> tuple[int, int]:
    """Try mutants of a module in random order until the time is up: how many were tried, how many
    were noticed.
    """
    start = time.monotonic()
    if not run(module, None, 600):
        sys.exit(f"the tests of {module} must pass without a change: {MODULES[module]}")
    limit, tried, killed = 10 + 3 * (time.monotonic() - start), 0, 0
    found = mutants((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for line, told, tree in random.Random(seed).sample(found, len(found)):
        if time.monotonic() - start > seconds:
            break
        tried += 1
        if run(module, tree, limit):
            print(f"  {module}.py:{line}: {told}", flush=True)
        else:
            killed += 1
    print(f"{module}: {killed} of {tried} noticed, of {len(found)} in all", flush=True)
    return tried, killed


def load_what_the_package_stands_on() -> None:
    """All but the package itself, which every fork imports with its own change."""
    own = [f"monai_histodiff.{name.replace('/', '.')}" for name in MODULES]
    for name in (*LOADED, *own, "monai_histodiff.bundle"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "monai_histodiff"]:
        del sys.modules[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(MODULES), help="such as utils/cache")
    parser.add_argument("--minutes", type=float, default=20.0, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the mutants")
    options = parser.parse_args()
    if unknown := sorted(set(options.modules) - set(MODULES)):
        parser.error(f"modules must be among {sorted(MODULES)}, got {unknown}")
    load_what_the_package_stands_on()
    total = [0, 0]
    end = time.monotonic() + 60 * options.minutes
    for left, module in zip(range(len(options.modules), 0, -1), options.modules, strict=True):
        for i, count in enumerate(judge(module, (end - time.monotonic()) / left, options.seed)):
            total[i] += count
    print(f"in all: {total[1]} of {total[0]} changes noticed")


if __name__ == "__main__":
    main()
