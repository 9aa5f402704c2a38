"""The folder of a run: what it holds, and which patches were used for what, so that nothing that
made its candidates is tested on.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.utils.files import whole_file, write_json

__all__ = ["check_new", "check_split", "check_stage", "save_outcome", "write_split"]

FILE = "split.csv"
SEEN = ("labelled", "unlabelled")


def write_split(
    output_dir: str | os.PathLike[str], known: PatchSet, labelled: PatchSet, test: PatchSet
) -> Path:
    """Write the columns ``path,label,group,role``, one row for each patch.

    Args:
        output_dir: where ``split.csv`` goes.
        known: what the generator was adapted to: the labelled patches (role ``labelled``) and
            others, whose labels were not read (``unlabelled``).
        labelled: what guide and critic were fitted on.
        test: what they must not see (``test``).
    """
    parts = {"labelled": labelled, "unlabelled": known.without(labelled), "test": test}
    with (
        whole_file(Path(output_dir) / FILE) as draft,
        open(draft, "w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group", "role"])
        writer.writerows(
            [r.path, r.label, r.group, role] for role, part in parts.items() for r in part.records
        )
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
        raise FileNotFoundError(
            f"the training stage must have written '{FILE}', got none in '{output_dir}'"
        )
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    seen = {row["group"] for row in rows if row["role"] in SEEN}
    if leaked := sorted(seen & set(test.groups)):
        raise ValueError(
            f"test groups must be new to the candidates, got {len(leaked)} they were made with, such as '{leaked[0]}'"
        )
    made_with = {(row["path"], row["label"]) for row in rows if row["role"] == "labelled"}
    if other := sorted({(r.path, r.label) for r in labelled.records} ^ made_with):
        raise ValueError(
            f"labelled patches must be those of the candidates, got {len(other)} that differ, such as '{other[0][0]}'"
        )


def check_new(
    output_dir: str | os.PathLike[str],
    names: Sequence[str] = ("candidates", "bank", "outcome.json"),
) -> None:
    """Refuse an output folder that holds results already, before any work is done.

    Raises:
        FileExistsError: it holds one of the names.
    """
    for name in names:
        if (Path(output_dir) / name).exists():
            raise FileExistsError(
                f"output_dir must be new, got '{output_dir}', which holds '{name}' already"
            )


def save_outcome(
    output_dir: str | os.PathLike[str],
    candidates: Candidates,
    classes: Sequence[str],
    selector: Any,
    sampler: GuidedSampler,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``candidates/``, ``bank/`` (the accepted ones) and ``outcome.json`` (counts,
    thresholds, speed, settings).

    Args:
        output_dir: where they go.
        candidates: with their outcome.
        classes: class names.
        selector: the :class:`Selector`, or another rule with a ``critic`` and ``settings``, that
            judged them.
        sampler: made them.
        settings: further plain values; ``um_per_px``, where it is among them, is the bank's.

    Returns:
        The path of ``outcome.json``, whose ``selection`` and ``sampling`` entries the report
        repeats.
    """
    root, accepted = Path(output_dir), candidates.accepted
    counts = candidates.counts(torch.ones_like(accepted))
    passed, made = counts["accepted"] + counts["over_quota"], counts["candidates"]
    calibrated = {
        "target_precision": selector.critic.target_precision,
        "reached_precision": selector.critic.precision,
    }
    rule = {**calibrated, **selector.settings}
    selection = {
        **counts,
        "per_class": {
            name: candidates.counts(candidates.labels == k) for k, name in enumerate(classes)
        },
        **{
            name: value if isinstance(value, str) else round(float(value), 6)
            for name, value in rule.items()
        },
        "reasons": candidates.rejections(),
    }
    sampling = {
        **asdict(sampler.settings),
        "candidates_per_second": made / max(candidates.seconds, 1e-9),
        "accepted_per_second": passed / max(candidates.seconds, 1e-9),
        "seconds": candidates.seconds,
        "network_evaluations": made * sampler.network_evaluations,
    }
    candidates.save(root / "candidates", classes)
    provenance = {"sampling": sampling, "selection": selection, "settings": dict(settings or {})}
    scale = provenance["settings"].get("um_per_px")
    candidates.bank(accepted, classes, provenance, scale).save(root / "bank")
    return write_json(root / "outcome.json", provenance)


def check_stage(output_dir: str | os.PathLike[str], **settings: Any) -> None:
    """Refuse to judge candidates by other patches than those they were made for, before any work
    is done.

    Args:
        output_dir: holds ``outcome.json`` of the training stage.
        settings: what must be as it was there: those that decide which patches are labelled, and
            which are for test.

    Raises:
        FileNotFoundError: there is no ``outcome.json``.
        ValueError: a setting differs: patches that the generator, guide or critic saw could be
            among the test patches.
    """
    path = Path(output_dir) / "outcome.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"the training stage must have written 'outcome.json', got none in '{output_dir}'"
        )
    made = json.loads(path.read_text(encoding="utf-8"))["settings"]
    for key, value in settings.items():
        if key in made and made[key] != value:
            raise ValueError(
                f"{key} must be what the candidates were made with, {made[key]}, got {value}"
            )
