"""Mutation tests: change one operator, number or condition at a time; does a test fail?

``python tests/mutation.py --minutes 20`` tries a random sample over all modules of the numerics,
the selection, the bank and the evaluation, prints every change that no test noticed, and the share
with its interval: also of a part of the sample. ``--log`` keeps what was tried, and goes on. A
survivor is a missing test, or a change that changes nothing. Only the standard library and pytest
are needed.

The tests are collected once. Each mutant is a fork of that process, in which the code of one
function is replaced, and runs the tests of the module up to the first that fails. What a module
does when it is imported is changed in a fork that has imported nothing of the package.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import NormalDist
from types import CodeType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "monai_histodiff"
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from mutants import MODULES, Source, functions, skeleton, tests_of  # noqa: E402

OPTIONS: tuple[str, ...] = (
    "-x",
    "-q",
    "-n0",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "-m",
    "not slow",
)
OPTIONS += ("-W", "ignore::pytest.PytestAssertRewriteWarning")
# what the package stands on is loaded once; the package itself by every fork that changes it
LOADED = ("hypothesis", "scipy.stats", "sklearn.metrics", "diffusers", "monai_histodiff.bundle")
ELSEWHERE = 77  # exit of a fork that did not find the function to change
LIMIT = 120.0  # seconds of the processor for one mutant; ten times that on the clock


def source(module: str) -> Source:
    path = PACKAGE / f"{module}.py"
    return Source(path.read_text(encoding="utf-8"), str(path))


def quiet() -> None:
    """Prints of the tests go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def forked(work: Callable[[], int], limit: float) -> str:
    """``passed``, ``noticed`` or ``hung``, from what a fork returns; ``limit`` in seconds of the
    processor; ten times that on the clock.
    """
    child = os.fork()
    if child == 0:
        os.setpgrp()
        quiet()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
        code = 3
        try:
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + 10 * limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            ended = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (24, 9)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == ELSEWHERE:
                return "elsewhere"
            return "hung" if ended else "noticed" if status else "passed"
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def objects(module: ModuleType) -> Iterator[Any]:
    """Functions of a module and of its classes, out of what decorators put around them."""
    inside = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
    inside += [v for c in inside if isinstance(c, type) for v in vars(c).values()]
    for value in inside:
        for name in ("fget", "func", "__func__"):
            value = getattr(value, name, None) or value
        while value is not None:
            if hasattr(value, "__code__"):
                yield value
            value = getattr(value, "__wrapped__", None)


def replace(module: str, old: CodeType, new: CodeType) -> bool:
    """Give a function of a loaded module another code, in place; whether it was found."""
    loaded = sys.modules[f"monai_histodiff.{module.replace('/', '.')}"]
    found = [f for f in objects(loaded) if f.__code__ == old]
    for function in found:
        function.__code__ = new
    return bool(found)


class Server:
    """Pytest's loop over the tests, driven from outside: what was collected runs in forks."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        self.pipe.send(list(items))
        while (order := self.pipe.recv()) is not None:
            chosen = [items[name] for name in order["tests"]]
            self.pipe.send(forked(partial(self.mutant, chosen, order), LIMIT))
        return True

    def mutant(self, chosen: list[Any], order: dict[str, Any]) -> int:
        module, index = order["module"], order["index"]
        if index is None:
            return int(any(_fails(item, after) for item, after in _followed(chosen)))
        origin = source(module)
        first = order["first"]
        new = functions(origin.mutant(index)[2])[first]
        if not replace(module, functions(origin.code())[first], new):
            return ELSEWHERE
        return int(any(_fails(item, after) for item, after in _followed(chosen)))


def _followed(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    yield from zip(items, [*items[1:], None], strict=True)


def _fails(item: Any, after: Any) -> bool:
    return any(report.failed for report in runtestprotocol(item, nextitem=after, log=False))


class Loader(importlib.machinery.SourceFileLoader):
    """Gives one module the code of a mutant."""

    code: CodeType

    def get_code(self, fullname: str) -> Any:
        return self.code


class Finder:
    """Finds the mutated module before the real one."""

    def __init__(self, module: str, code: CodeType) -> None:
        self.name = f"monai_histodiff.{module.replace('/', '.')}"
        self.path, self.code = str(PACKAGE / f"{module}.py"), code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        loader = Loader(name, self.path)
        loader.code = self.code
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


class Campaign:
    """Tries mutants; ``log`` is a folder that keeps what is known."""

    def __init__(self, log: Path, chosen: Sequence[str]) -> None:
        log.mkdir(parents=True, exist_ok=True)
        self.entries = log / "mutants.jsonl"
        for name in LOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        for name in [name for name in sys.modules if name.split(".")[0] == "monai_histodiff"]:
            del sys.modules[name]
        self.pipe, theirs = multiprocessing.Pipe()
        self.server = os.fork()
        if self.server == 0:
            self.pipe.close()
            quiet()
            places = dict.fromkeys(str(TESTS / f) for m in chosen for f in tests_of(m))
            os._exit(int(pytest.main([*OPTIONS, *places], plugins=[Server(theirs)])))
        theirs.close()
        self.tests: list[str] = self.pipe.recv()
        self.sound: set[str] = set()  # modules whose tests pass without a change

    def judge(self, module: str, index: int) -> dict[str, Any]:
        origin = source(module)
        line, told, code = origin.mutant(index)
        before, after = origin.code(), code
        old, new = functions(before), functions(after)
        inner = skeleton(before) == skeleton(after)
        first = next((n for n in old if inner and old[n] != new[n]), None)
        files = [f"tests/{name}" for name in tests_of(module)]
        tests = [name for file in files for name in self.tests if name.startswith(f"{file}::")]
        if module not in self.sound:
            self.pipe.send({"tests": tests, "module": module, "index": None})
            if (found := self.pipe.recv()) != "passed":
                sys.exit(f"the tests of {module} must pass without a change, got {found}: {files}")
            self.sound.add(module)
        result = ""
        if inner and first is None:
            result = "equal"  # the same code: nothing has changed
        elif first is not None:
            order = {"tests": tests, "module": module, "index": index, "first": first}
            self.pipe.send(order)
            result = self.pipe.recv()
        if result in ("", "elsewhere"):  # no function of the module holds it
            result = forked(partial(self.imported, module, code, files), LIMIT)
        about = {"module": module, "index": index, "line": line, "told": told}
        return {**about, "result": result, "tests": len(tests), "in_place": first is not None}

    def imported(self, module: str, code: CodeType, files: list[str]) -> int:
        sys.meta_path.insert(0, Finder(module, code))
        return int(pytest.main([*OPTIONS, *(str(TESTS.parent / file) for file in files)]))


def wilson(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share: Wilson, Journal of the American Statistical Association 22 (1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = count / total, z * z / total
    half = z * (share * (1 - share) / total + spread / total / 4) ** 0.5
    middle = share + spread / 2
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="such as utils/cache; all of them")
    parser.add_argument("--minutes", type=float, default=20.0, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample's order")
    parser.add_argument("--log", type=Path, default=Path("output/mutation"), help="folder")
    options = parser.parse_args()
    if unknown := sorted(set(options.modules) - set(list(MODULES))):
        parser.error(f"modules must be among {list(MODULES)}, got {unknown}")
    end = time.monotonic() + 60 * options.minutes
    names = options.modules or list(MODULES)
    every = [(m, i) for m in names for i in range(len(source(m).changes))]
    random.Random(options.seed).shuffle(every)
    campaign = Campaign(options.log, names)
    digests = {m: hashlib.sha256((PACKAGE / f"{m}.py").read_bytes()).hexdigest() for m in names}
    known: dict[tuple[str, int, str], dict[str, Any]] = {}
    if campaign.entries.exists():
        for text in campaign.entries.read_text().splitlines():
            entry = json.loads(text)
            known[entry["module"], entry["index"], entry["digest"]] = entry
    counts: dict[str, int] = defaultdict(int)
    for module, index in every:
        entry = known.get((module, index, digests[module]))
        if entry is None:
            if time.monotonic() > end:
                break
            entry = {**campaign.judge(module, index), "digest": digests[module]}
            with campaign.entries.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        counts[entry["result"]] += 1
        if entry["result"] in ("passed", "hung"):
            print("  {module}.py:{line}: {told} ({result})".format(**entry), flush=True)
    campaign.pipe.send(None)
    os.waitpid(campaign.server, 0)
    left = counts["passed"]
    if total := left + counts["noticed"]:
        low, high = wilson(left, total)
        print(
            f"{left} of {total} changes not noticed ({100 * left / total:.1f} %; "
            f"{100 * low:.1f} to {100 * high:.1f} % of all {len(every)}); "
            f"{counts['hung']} more ran too long to tell, {counts['equal']} are no change"
        )


if __name__ == "__main__":
    main()
