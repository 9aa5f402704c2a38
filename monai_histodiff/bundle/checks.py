"""Everything about a run that can be told before any work: names, values, places, data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_histodiff.bundle.run_folder import MADE, RunFolder
from monai_histodiff.bundle.tracking import check_tracking
from monai_histodiff.bundle.verdict_folder import OWN, VerdictFolder
from monai_histodiff.classifiers.discriminant import Scatter
from monai_histodiff.classifiers.encoder_names import check_encoder_name
from monai_histodiff.data.patch_files import MANIFEST
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.diffusion.parts import diffusers_hint
from monai_histodiff.evaluation.arms import ARMS
from monai_histodiff.evaluation.synthetic import further_counts
from monai_histodiff.options.table import check_values
from monai_histodiff.selection.selector import CENTROIDS
from monai_histodiff.utils.weights import checked_device

__all__ = [
    "check_arms",
    "check_pool",
    "check_places",
    "check_writable",
    "room_for",
]

PIXEL_BYTES = 3  # of a stored patch, at the most
WEIGHTS_BYTES = 120e6  # guide, critic, generator, and a draft of the largest
# what runs write into output_dir
WRITTEN = {(), *((name.split("/")[0],) for name in (*MADE, *OWN, "cache", "tensorboard"))}
DATA = ("dataset_dir", "synthetic_dir", "second_dir")  # that a config reads
STARTS = ("initial_weights", "autoencoder_weights")  # weights that a training reads
# what bundle_root must hold, for the configs that stand on it
ROOTED = {
    "finetune": "histopathology_guidance",
    "verdict": "histopathology_ldm",
    **dict.fromkeys(
        ("train", "evaluate", "inference", "ldm inference", "ldm evaluate"),
        "configs/metadata.json",
    ),
}


def check_places(
    name: str, values: Mapping[str, Any], home: Path | None = None, kept: bool = False
) -> None:
    """Check values, then device, folders and room on the disk.

    Args:
        name: the config's, in the table of options.
        values: of its options.
        home: folder of the config's file, for the remedy.
        kept: what the stage would write is there, and is kept.

    Raises:
        ValueError: a value is out of range, a place of another kind, or the disk full.
        OSError: a place is missing, or cannot be written.
    """
    check_values(name, values)
    _check_apart(values)
    if not kept:
        _check_output(name, values)
    try:
        checked_device(values["device"])
    except ValueError as error:
        raise ValueError(f"{error}: give --device cpu") from error
    root = Path(values["bundle_root"])
    if name in ROOTED and not (root / ROOTED[name]).exists():
        whole = home.parent if home and home.name == "configs" else home
        raise FileNotFoundError(
            f"bundle_root must be the folder that holds '{ROOTED[name]}', got '{root}' in "
            f"'{Path.cwd()}': give --bundle_root {whole.resolve() if whole else 'with its path'}"
        )
    for key in ("ldm_dir", "guidance_dir"):
        if key in values and not Path(values[key]).is_dir():
            raise FileNotFoundError(
                f"{key} must be the folder of a bundle, got '{values[key]}' in '{Path.cwd()}', "
                f"where there is none: give --{key} with the whole path"
            )
    if name == "inference" and values.get("dataset_dir"):
        raise ValueError(
            f"dataset_dir must be empty for inference, which reads no patches, got "
            f"'{values['dataset_dir']}': leave it out; --weights_dir names a run of yours"
        )
    if values.get("dataset_dir") and not Path(values["dataset_dir"]).exists():
        raise FileNotFoundError(
            f"dataset_dir must exist, got '{values['dataset_dir']}': give the path of a folder, a "
            "zip or a table"
        )
    for key in ("weights", "initial_weights", "autoencoder_weights"):
        needed = key != "autoencoder_weights" or not values.get("initial_weights")
        if values.get(key) and needed and not Path(values[key]).is_file():
            raise FileNotFoundError(
                f"{key} must be a file, got '{values[key]}', where there is none: give its path"
            )
    if name in ("evaluate", "verdict"):
        check_tracking(values)
    if name == "verdict":
        _check_encoder(values)
    elif "ldm_dir" in values:
        _check_models(name, values)
    check_writable(Path(values["output_dir"]))


def check_writable(folder: Path, needed: float = 1e6) -> None:
    """Refuse a folder that cannot be made or written, or whose disk has no room; makes nothing.

    Raises:
        NotADirectoryError: it, or a folder above it, is a file.
        PermissionError: it cannot be written.
        ValueError: there is not the needed room, in bytes.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(
            f"output_dir must be a folder, got '{folder}', where '{there}' is a file: choose "
            "another"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(
            f"output_dir must be writable, got '{folder}', where '{there}' is not: choose another"
        )
    if (free := shutil.disk_usage(there).free) < needed:
        raise ValueError(
            f"output_dir must be on a disk with {needed / 1e6:.0f} MB of room, got "
            f"{free / 1e6:.0f} MB for '{folder}': free some, or choose another disk"
        )


def room_for(values: Mapping[str, Any], classes: int, size: int) -> float:
    """Bytes that a training stage may write: weights, and candidates and bank of patches of that
    many pixels a side.
    """
    patches = classes * (values["max_candidates"] + values["quota"])
    return WEIGHTS_BYTES + patches * size**2 * PIXEL_BYTES


def check_arms(values: Mapping[str, Any]) -> None:
    """Check that the arms have the files that they need beside those of the run.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: what arm G0 is to show was made by another method.
    """
    arms, encoder = values["arms"], Path(values["ldm_dir"]) / "models" / "encoder.pt"
    if "J" in arms and not encoder.is_file():
        raise FileNotFoundError(
            f"arm J needs the patch encoder of the LDM bundle, got no '{encoder}': leave J out"
        )
    if "G0" in arms:
        published = RunFolder(values["published_dir"])
        needs = "arm G0 needs a run of published.yaml in published_dir, got"
        rest = f"in '{published.root}': make one (docs/verdict.md), or leave G0 out"
        if not published.outcome.is_file():
            raise FileNotFoundError(f"{needs} none {rest}")
        if published.read_outcome()["selection"].get("rule") != CENTROIDS:
            raise ValueError(f"{needs} one of another method {rest}")


def check_pool(arms: Iterable[str], pool: PatchSet, further_steps: int = 0) -> None:
    """Check that there are training patches beside the labelled ones, with labels where these are
    read, for the arms and the further classifier.

    Raises:
        ValueError: there are none, or of a class none.
    """
    for needs, arm in ((ARMS[arm].needs, arm) for arm in arms):
        if "pool" in needs and not len(pool):
            raise ValueError(
                f"arm {arm} needs training patches that are not labelled ones, got none: give "
                f"--labels_per_class a number, or leave {arm} out"
            )
        if "labels_of_pool" in needs and not len(pool.with_labels()):
            raise ValueError(
                f"arm {arm} needs labels of training patches that are not labelled ones, got none "
                f"on {len(pool)} patches: give --labels_per_class a smaller number, or leave "
                f"{arm} out"
            )
    if further_steps:
        further_counts(pool)


def _check_apart(values: Mapping[str, Any]) -> None:
    """That a run cannot remove or overwrite what it was given, nor read back what it wrote: data
    lie under no name that a run writes, and no run within class folders. Nor are real patches
    given as synthetic ones.
    """
    for key in (key for key in DATA[1:] if values.get(key)):
        if Path(values[key]).resolve() == Path(values["dataset_dir"]).resolve():
            raise ValueError(
                f"{key} must be another set than dataset_dir, the real patches, got "
                f"'{values[key]}' for both: give the synthetic pictures alone"
            )
    written = Path(values["output_dir"]).resolve()
    for key in (key for key in (*DATA, *STARTS) if values.get(key)):
        read = Path(values[key]).resolve()
        parts = read.relative_to(written).parts if read.is_relative_to(written) else None
        made = parts is not None and (len(parts) == 1 if key in STARTS else parts[:1] in WRITTEN)
        # of a manifest, or of a folder that holds several sets, only what is named is read
        by_folders = "sources" not in values and not (read / MANIFEST).is_file()
        if made or (read in written.parents and by_folders):
            raise ValueError(
                f"output_dir must lie apart from {key}, got '{values['output_dir']}' and "
                f"'{values[key]}': move one of them"
            )


def _check_output(name: str, values: Mapping[str, Any]) -> None:
    """That nothing is overwritten, and nobody else works there."""
    if name == "train":
        RunFolder(values["output_dir"]).check_new()
    if name == "evaluate":
        RunFolder(values["output_dir"]).check_unevaluated(values["replace"])
    if name == "verdict":
        VerdictFolder(values["output_dir"]).check(values["replace"])
    if name in ("inference", "ldm inference"):
        samples = Path(values["output_dir"]) / "samples"
        if samples.exists() and any(samples.iterdir()):
            raise FileExistsError(
                f"output_dir must be new, got '{values['output_dir']}', which holds 'samples' "
                "already: choose another"
            )


def _check_encoder(values: Mapping[str, Any]) -> None:
    """No generator is read for a verdict on others' pictures."""
    encoder = Path(values["ldm_dir"]) / "models" / "encoder.pt"
    for name in ("encoder", "critic_encoder"):
        if Path(values[name]) != encoder:
            check_encoder_name(str(values[name]))
        elif not encoder.is_file():
            raise FileNotFoundError(
                f"ldm_dir must hold the patch encoder, got no '{encoder}': give --ldm_dir with "
                "the whole path"
            )


def _check_models(config: str, values: Mapping[str, Any]) -> None:
    """That the bundle of the generator, ours or another, has what a config reads of it."""
    root = Path(values["ldm_dir"])
    wanted = {
        "configs/inference.json": "which builds the network",
        "configs/metadata.json": "which tells um_per_px",
        "models/model.pt": "its weights",
    }
    if config in ("finetune", "train", "inference"):
        wanted["models/encoder.pt"] = (
            "the patch encoder: copy that of bundles/histopathology_ldm, which describes patches "
            "of any generator"
        )
    for name, what in wanted.items():
        if not (root / name).is_file():
            hint = diffusers_hint(root) or ": give --ldm_dir with the whole path"
            raise FileNotFoundError(
                f"ldm_dir must be the bundle of a generator, such as histopathology_ldm, got no "
                f"'{name}' in '{root}', {what}{hint}"
            )
    if config in ("finetune", "train"):
        Scatter.beside(root)  # is whole
