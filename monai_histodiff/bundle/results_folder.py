"""``ResultsFolder``: the files of an evaluation, and one writer at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from monai_histodiff._version import __version__
from monai_histodiff.bundle.lock import FolderLock

__all__ = ["RESULTS", "ResultsFolder"]

RESULTS = ("predictions.npz", "results.json", "report.html")


class ResultsFolder:
    """What the folders of runs and of verdicts have in common.

    Args:
        root: the folder, ``output_dir`` of a config. Nothing is made before it is locked.

    Attributes:
        record: who works in it, or worked in it last.
        predictions: test probabilities of every arm and seed, see
            :mod:`~monai_histodiff.bundle.predictions`.
        results: what was found, as numbers.
        report: the same as a page.
        cache: test probabilities of the classifiers, by hashes of all that they depend on.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.record, self.cache = self.root / "run.json", self.root / "cache"
        self.predictions, self.results, self.report = (self.root / name for name in RESULTS)
        self._lock = FolderLock(self.record)

    def release(self) -> None:
        """The work is done: others may have the folder."""
        self._lock.release()

    def _take(self, content: Mapping[str, str], names: Iterable[str]) -> list[str]:
        """Lock the folder, and remove what it holds of these names; returns what it held."""
        self._lock.take({**content, "version": __version__})
        held = [name for name in names if (self.root / name).exists()]
        for path in (self.root / name for name in held):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return held
