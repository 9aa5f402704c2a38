"""``VerdictFolder``: where a verdict on synthetic sets goes, and what it keeps of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from monai_histodiff._version import __version__
from monai_histodiff.bundle.results_folder import RESULTS, ResultsFolder
from monai_histodiff.data.patch_files import PatchRecord, PatchSource, write_patches, write_rows
from monai_histodiff.selection.foreign import Judged
from monai_histodiff.utils.files import sweep_drafts

__all__ = ["VerdictFolder"]

FOUND = ("confidence", "distance", "likeness", "nearest", "reason")
STAGE = "verdict"
OWN = ("accepted", "accepted.csv", "bank", "judged.csv", "second", *RESULTS)


class VerdictFolder(ResultsFolder):
    """The folder of one verdict.

    Args:
        root: the folder, ``output_dir`` of the config. Nothing is made before :meth:`lock`.
    """

    def check(self, replace: bool = False) -> None:
        """Refuse a folder in which another process works, or that holds results that are not to be
        replaced, a run of another kind, or what no verdict has written; changes nothing.

        Raises:
            FileExistsError: it is one of these.
        """
        self._lock.check()
        if found := [n for n in ("outcome.json", "candidates") if (self.root / n).exists()]:
            raise FileExistsError(
                f"output_dir must not be that of a training run, got '{self.root}', which holds "
                f"'{found[0]}': choose another"
            )
        found = [name for name in OWN if (self.root / name).exists()]
        if found and self._lock.content.get("stage") != STAGE:
            raise FileExistsError(
                f"output_dir must be new, or that of a verdict, got '{self.root}', which holds "
                f"'{found[0]}', and no verdict has written it: choose another"
            )
        if (self.results.exists() or self.report.exists()) and not replace:
            raise FileExistsError(
                f"output_dir must be new, got '{self.root}', which holds '{found[0]}' already: "
                "choose another, or add --replace True (no arm is trained again)"
            )

    def lock(self, replace: bool = False) -> None:
        """Lock the folder for this process, and remove what an earlier verdict wrote there, but
        for the cache.

        Raises:
            FileExistsError: as :meth:`check`.
        """
        self.check(replace)
        self._take({"stage": STAGE}, OWN)
        sweep_drafts(self.root)

    def keep(self, judged: Judged, path: str | os.PathLike[str], second: bool = False) -> Path:
        """Write what became of each picture of a set, and what is worth keeping of it.

        ``judged.csv`` lists all pictures, ``accepted.csv`` those that are worth keeping: laid into
        the set in place of its ``manifest.csv``, it makes a set of them alone. ``accepted/`` is
        that set, with the files as they were, for ``PatchSet.open``, and ``bank/`` the pictures as
        they were judged, for :class:`~monai_histodiff.SyntheticAugmentd`. Columns: those of the
        set's own manifest (its ``confidence`` as ``given_confidence``), the critic's
        ``confidence``, the ``distance`` and ``likeness`` to real training patches, the name of the
        ``nearest`` of them, and the ``reason``.

        Args:
            judged: the set.
            path: where its pictures lie.
            second: it is the second set: everything goes into ``second/``.

        Returns:
            The path of ``accepted.csv``.
        """
        folder = self.root / "second" if second else self.root
        rows = list(_records(judged))
        kept = [r for r in rows if r.extra["reason"] == "accepted"]
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in (("judged.csv", rows), ("accepted.csv", kept)):
            write_rows(folder / name, part, rows)
        source = PatchSource(path)
        if kept:
            write_patches(folder / "accepted", ((r, source.read(r.path)) for r in kept))
            found, scale = judged.candidates, judged.pictures.um_per_px
            made = {"version": __version__, "pictures": judged.name}
            bank = found.bank(found.accepted, found.classes, made, scale)
            bank.save(folder / "bank")
        return folder / "accepted.csv"


def _records(judged: Judged) -> Iterator[PatchRecord]:
    """The rows of the set, with what was found of each."""
    found, nearest = judged.candidates, judged.nearest_names()
    for i, record in enumerate(judged.pictures.records):
        own = {
            f"given_{key}" if key in FOUND else key: value for key, value in record.extra.items()
        }
        values = {
            "confidence": f"{float(found.confidence[i]):.6g}",
            "distance": f"{float(found.distance[i]):.6g}",
            "likeness": f"{float(judged.known.likeness[i]):.6g}",
            "nearest": nearest[i],
            "reason": found.reasons[i].value,
        }
        yield replace(record, extra={**own, **values}, source=0)
