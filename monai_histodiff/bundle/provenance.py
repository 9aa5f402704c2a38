"""What came out of a run, and which files it has written: their number, sizes and SHA-256, to be
checked when they are read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from monai_histodiff.bundle.running import method_of
from monai_histodiff.bundle.task import Task
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.utils.files import file_sha256

__all__ = ["check_files", "describe_files", "need", "outcome_of", "settings_of"]


def outcome_of(
    candidates: Candidates, classes: Sequence[str], selector: Any, sampler: GuidedSampler
) -> dict[str, Any]:
    """``sampling`` (settings and speed) and ``selection`` (counts, and the rule that judged) of
    candidates, and the ``options`` of the running config, as plain values.
    """
    counts = candidates.counts(torch.ones_like(candidates.accepted))
    passed, made = counts["accepted"] + counts["over_quota"], counts["candidates"]
    seconds = max(candidates.seconds, 1e-9)
    sampling = {
        **asdict(sampler.settings),
        "candidates_per_second": made / seconds,
        "accepted_per_second": passed / seconds,
        "seconds": candidates.seconds,
        "network_evaluations": made * sampler.network_evaluations,
    }
    rule = {
        "target_precision": selector.critic.target_precision,
        "reached_precision": selector.critic.precision,
        **selector.settings,
    }
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
    return {"sampling": sampling, "selection": selection, "options": method_of("train")}


def settings_of(task: Task, sources: Sources) -> dict[str, Any]:
    """What a run took for known, as plain values: the settings of its task, how many unlabelled
    patches there were, and how many of them were sources.
    """
    rows = {int(row) for own in sources.rows for row in own}
    return {
        **task.settings,
        "unlabelled_patches": len(task.unlabelled),
        "pseudo_labelled": sum(row >= len(task.labelled) for row in rows),
    }


def describe_files(root: str | os.PathLike[str], names: Iterable[str]) -> dict[str, Any]:
    """What the files and folders of these names hold, of those that exist.

    Args:
        root: the folder that they are in.
        names: relative paths, with ``/``.

    Returns:
        For each name ``files``, ``bytes`` and ``sha256``: of a file that of its content, of a
        folder that of the names and hashes of all files below it.
    """
    return {name: _described(Path(root) / name) for name in names if (Path(root) / name).exists()}


def check_files(
    root: str | os.PathLike[str],
    described: Mapping[str, Any],
    names: Iterable[str],
    remedy: str = "run the training stage again, into a new folder",
) -> None:
    """Refuse files that are not those that were described.

    Args:
        root: the folder that they are in.
        described: of :func:`describe_files`.
        names: what to check; what was not described must not be there.
        remedy: what to do where they are not.

    Raises:
        ValueError: a file is missing, was changed, or belongs to another run.
    """
    for name in names:
        path, told = Path(root) / name, described.get(name)
        if told is None:
            if path.exists():
                raise ValueError(
                    f"a run must hold its own files only, got '{path}', which is of another: "
                    "delete it"
                )
            continue
        found = _described(path) if path.exists() else None
        if found != told:
            got = "nothing" if found is None else f"{found['files']} of {found['bytes']} bytes"
            if found and (found["files"], found["bytes"]) == (told["files"], told["bytes"]):
                got = "other content"
            raise ValueError(
                f"'{path}' must be as its run wrote it, {told['files']} file(s) of "
                f"{told['bytes']} bytes, got {got}: {remedy}"
            )


def need(path: Path) -> Path:
    """The path of a file of the training stage.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the training stage must have written '{path.name}', got none in '{path.parent}': "
            "run it first, or give its output_dir"
        )
    return path


def _described(path: Path) -> dict[str, Any]:
    if path.is_file():
        return {"files": 1, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    files = sorted(p for p in path.rglob("*") if p.is_file())
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n".encode())
    size = sum(file.stat().st_size for file in files)
    return {"files": len(files), "bytes": size, "sha256": whole.hexdigest()}
