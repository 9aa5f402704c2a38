"""Processes that hold the packages from their start: a fresh interpreter takes five seconds of
imports, a child of Python's fork server a tenth. It shares nothing else with the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["monai.bundle", "monai_histodiff.bundle.inference"])


def _be(words: tuple[str, ...], cwd: str, env: dict[str, str], told: tuple[Path, Path]) -> None:
    os.setsid()  # whoever kills the group kills what this starts, too
    for path, number in zip(told, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv[1:] = words[1:]
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def start(words: tuple[str, ...], cwd: Path, told: tuple[Path, Path], **env: str) -> BaseProcess:
    """``python -m`` and these words, in ``cwd``; output and errors go to the two files."""
    process = FORKS.Process(target=_be, args=(words, str(cwd), env, told))
    process.start()
    return process


def python_m(*words: str, cwd: Path, **env: str) -> CompletedProcess[str]:
    """The same to its end, as ``subprocess.run`` gives it; a hang is killed: exit code -9."""
    with TemporaryDirectory() as folder:
        told = (Path(folder) / "out", Path(folder) / "err")
        process = start(words, cwd, told, **env)
        process.join(300)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        return CompletedProcess(words, process.exitcode, *(path.read_text() for path in told))
