"""``split.csv``: which patches a run has used, for what, and what their files held."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_histodiff.bundle.provenance import need
from monai_histodiff.data.patch_files import SCALE, PatchRecord
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.tables import read_table, write_table
from monai_histodiff.utils.files import whole_file

__all__ = ["SplitFile", "changed_warning"]

HASH = "sha256"
NEEDED = ("path", "label", "group", "role", HASH)
SEEN = ("labelled", "unlabelled")
Facts = tuple[str, ...]


class SplitFile:
    """``split.csv`` of one run.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: of what reads it: there is none.
        ValueError: likewise: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, known: PatchSet, labelled: PatchSet, test: PatchSet) -> Path:
        """Write the columns ``path,label,group,role,sha256,um_per_px``, one row for each patch.

        Args:
            known: what the generator was adapted to: the labelled patches (role ``labelled``) and
                others, whose labels were not read (``unlabelled``).
            labelled: what guide and critic were fitted on.
            test: what they must not see (``test``).
        """
        parts = {"labelled": labelled, "unlabelled": known.without(labelled), "test": test}
        rows = [
            (r.path, r.label, r.group, role, found, _scale(r))
            for role, part in parts.items()
            for r, found in zip(part.records, part.file_hashes(), strict=True)
        ]
        with whole_file(self.path) as draft:
            write_table(draft, (*NEEDED, SCALE), rows)
        return self.path

    def check(self, labelled: PatchSet, test: PatchSet) -> None:
        """Refuse to judge candidates on patches that they were made with, before any work is done.

        Args:
            labelled: what the arms train on: must be what guide and critic were fitted on.
            test: what they are tested on: of groups that the candidates' makers never saw.

        Raises:
            ValueError: other patches are labelled, or a test patch was seen: its group, or its
                file, whatever the group is called now.
        """
        rows = self._rows()
        groups = {row["group"] for row in rows if row["role"] in SEEN}
        files = {(row["path"], row[HASH]) for row in rows if row["role"] in SEEN}
        placed = zip(test.records, test.file_hashes(), strict=True)
        leaked = {r.group for r, found in placed if r.group in groups or (r.path, found) in files}
        if leaked:
            raise ValueError(
                f"test groups must be new to the candidates, got {len(leaked)} they were made "
                f"with, such as '{min(leaked)}': give the data of that run"
            )
        own = [row for row in rows if row["role"] == "labelled"]
        given, made_with = ({*facts} for facts in _facts(labelled, own))
        if given != made_with:
            more, fewer = given - made_with, made_with - given
            other, rest = (more, fewer) if len(more) >= len(fewer) else (fewer, more)
            first = min(other)
            raise ValueError(
                f"labelled patches must be those of the candidates, got {len(other)} that differ "
                f"(file, label, group or um_per_px), such as '{first[0]}' "
                f"{_difference(first, rest)}: give the data, "
                "labels_per_class and draw of that run"
            )

    def changed(self, test: PatchSet) -> list[str]:
        """Paths of test patches that are not as they were when the candidates were made: other
        files, labels, groups or scales, new, or no longer there.

        Args:
            test: what the arms are tested on.
        """
        # before 0.24 unlabelled ones were listed, too
        rows = [row for row in self._rows() if row["role"] == "test" and row["label"]]
        now, before = _facts(test, rows)
        return sorted({facts[0] for facts in {*before} ^ {*now}})

    def known(self, patches: PatchSet) -> PatchSet:
        """The patches that the generator was adapted to, the labelled ones first, in the order in
        which candidates were compared with them.

        Args:
            patches: holds them.

        Raises:
            ValueError: a patch is missing or has another content now.
        """
        rows = [row for row in self._rows() if row["role"] in SEEN]
        wanted = {row["path"] for row in rows}
        there = patches.take(i for i, r in enumerate(patches.records) if r.path in wanted)
        now, then = _facts(there, rows)
        places: dict[Facts, list[int]] = {}  # some where sources share them
        for i, (name, _, _, *rest) in reversed(list(enumerate(now))):  # labels may not be known
            places.setdefault((name, *rest), []).append(i)
        keys = [(name, *rest) for name, _, _, *rest in then]
        found = [places[key].pop() if places.get(key) else None for key in keys]
        if lost := [row["path"] for row, place in zip(rows, found, strict=True) if place is None]:
            raise ValueError(
                "dataset_dir must hold the patches that the candidates were made with, as they "
                f"were, got {len(lost)} of {len(rows)} that are missing or changed, such as "
                f"'{lost[0]}': give the data of that run"
            )
        return there.take([place for place in found if place is not None])

    def count(self) -> int:
        """Number of the test patches; 0 where there is no file."""
        if not self.path.is_file():
            return 0
        return sum(row["role"] == "test" for row in self._rows())

    def _rows(self) -> list[dict[str, str]]:
        try:
            rows = read_table(need(self.path).read_bytes(), f"'{self.path}'", NEEDED)
            if not rows:
                raise ValueError(f"it must list at least one patch, got none in '{self.path}'")
        except ValueError as error:
            raise ValueError(f"{error}: run the training stage again") from error
        return [row.cells for row in rows]


def _scale(record: PatchRecord) -> str:
    return "" if record.um_per_px is None else f"{record.um_per_px:g}"


def _facts(
    patches: PatchSet, rows: Sequence[Mapping[str, str]]
) -> tuple[list[Facts], list[Facts]]:
    """Path, label, group, hash and scale of patches, and what rows tell of theirs. The scale,
    where the rows have none (before 0.26), is empty in both; and a group that nobody recorded,
    which begins with the name of the folder, that may be another now.
    """
    scaled = all(SCALE in row for row in rows)
    now: list[Facts] = [
        (r.path, r.label, _recorded(r.path, r.group), found, _scale(r) if scaled else "")
        for r, found in zip(patches.records, patches.file_hashes(), strict=True)
    ]
    then: list[Facts] = [
        (
            *(row["path"], row["label"], _recorded(row["path"], row["group"])),
            *(row[HASH], row[SCALE] if scaled else ""),
        )
        for row in rows
    ]
    return now, then


def _recorded(path: str, group: str) -> str:
    """The group, but for one that is the patch itself."""
    return "" if group.endswith(f"/{unicodedata.normalize('NFC', path)}") else group


def _difference(one: Facts, others: set[Facts]) -> str:
    """What tells one patch from that of its path, in words."""
    alike = next((other for other in others if other[0] == one[0]), one)
    pairs = zip(("path", "label", "group", "file", SCALE), one, alike, strict=True)
    names = [name for name, own, other in pairs if own != other]
    return f"by its {' and '.join(names)}" if names else "which is in one of them alone"


def changed_warning(changed: Sequence[str]) -> list[tuple[str, str]]:
    """A warning, a word and a sentence, where the test patches are not those that there were when
    the candidates were made; none without any.

    Args:
        changed: their paths.
    """
    if not changed:
        return []
    sentence = (
        f"{len(changed)} of the test patches are not as they were when the candidates were made "
        f"(other files, labels, groups or scales, new, or gone), such as '{changed[0]}'. Test "
        "patches that are changed after results were seen bias the verdict."
    )
    return [("Other test patches.", sentence)]
