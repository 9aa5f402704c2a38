"""``split.csv``: which patches a run has used, and for what, so that nothing that made its candidates is tested on."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from monai_histodiff.patchsets import PatchSet
from monai_histodiff.wholefiles import whole_file

__all__ = ["check_split", "write_split"]

FILE = "split.csv"
SEEN = ("labelled", "unlabelled")


def write_split(output_dir: str | os.PathLike[str], known: PatchSet, labelled: PatchSet, test: PatchSet) -> Path:
    """Write the columns ``path,label,group,role``, one row for each patch.

    Args:
        output_dir: where ``split.csv`` goes.
        known: what the generator was adapted to: the labelled patches (role ``labelled``) and others, whose labels were not read
            (``unlabelled``).
        labelled: what guide and critic were fitted on.
        test: what they must not see (``test``).
    """
    parts = {"labelled": labelled, "unlabelled": known.without(labelled), "test": test}
    with whole_file(Path(output_dir) / FILE) as draft, open(draft, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group", "role"])
        writer.writerows([r.path, r.label, r.group, role] for role, part in parts.items() for r in part.records)
    return Path(output_dir) / FILE


def check_split(output_dir: str | os.PathLike[str], labelled: PatchSet, test: PatchSet) -> None:
    """Refuse to judge candidates on patches that they were made with, before any work is done.

    Args:
        output_dir: of the run that made the candidates.
        labelled: what the arms train on: must be what guide and critic were fitted on.
        test: what they are tested on: of groups that neither generator nor guide nor critic saw.

    Raises:
        FileNotFoundError: there is no ``split.csv``.
        ValueError: other patches are labelled, or a test group was seen.
    """
    path = Path(output_dir) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"the training stage must have written '{FILE}', got none in '{output_dir}'")
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    seen = {row["group"] for row in rows if row["role"] in SEEN}
    if leaked := sorted(seen & set(test.groups)):
        raise ValueError(f"test groups must be new to the candidates, got {len(leaked)} they were made with, such as '{leaked[0]}'")
    made_with = {(row["path"], row["label"]) for row in rows if row["role"] == "labelled"}
    if other := sorted({(r.path, r.label) for r in labelled.records} ^ made_with):
        raise ValueError(f"labelled patches must be those of the candidates, got {len(other)} that differ, such as '{other[0][0]}'")
