"""Runs a config of a bundle; and the config that is running, and the values of its options."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, run

from monai_histodiff.bundle.errors import told
from monai_histodiff.options.names import referred, spelt
from monai_histodiff.options.option import DEVICE, PATH, Option
from monai_histodiff.options.table import options_of
from monai_histodiff.utils.files import file_sha256

__all__ = ["method", "method_of", "option_values", "run_stage", "running_config", "without_places"]

# options that tell draw, trainings, or what is done besides: not which method is judged
ASIDE = {
    *("labels_per_class", "draw", "seeds", "arms", "num_workers", "replace"),
    *("tensorboard", "mlflow_uri", "generator_metrics", "further_steps"),
}
NOT_PARTS = {"_meta_", "plan", "save_execute_config", "execute_config"}
# of the generator's bundle, that a config reads
WEIGHTS = {"train": ("model.pt", "encoder.pt", "scatter.pt"), "evaluate": ("encoder.pt",)}
ENCODERS = ("encoder", "critic_encoder")  # a file, or the name of one elsewhere
ABSENT = "none"
DIGITS = 12  # of a hash


def running_config() -> tuple[dict[str, Any], Path] | None:
    """The config, overrides included, of the ``ConfigWorkflow`` that evaluates the expression
    from which this is called, and the folder of its file; MONAI has no other way to them.
    ``None`` where there is no workflow.
    """
    frame = sys._getframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), ConfigWorkflow):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return None
    workflow = frame.f_locals["self"]
    return deepcopy(workflow.parser.get()), Path(workflow.config_root_path)


def option_values(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config's options, but for those that are computed from more than options.

    Args:
        name: the config's, in the table of options.
        config: with overrides.

    Raises:
        ValueError: an expression cannot be computed, or a place or device needs more than options.
    """
    known, parser = options_of(name), ConfigParser(deepcopy(dict(config)))
    simple = {key for key in known if key in config}
    while needy := {
        key for key in simple if {ref.split("#")[0] for ref in referred(config[key])} - simple
    }:
        simple -= needy
        for key in sorted(key for key in needy if known[key].kind in (PATH, DEVICE)):
            raise _unclear(known[key], config[key], "it refers to more than options")
    found = {}
    for key in (key for key in known if key in simple):
        try:
            found[key] = parser.get_parsed_content(key)
        except Exception as error:  # an expression can raise anything
            cause = error.__cause__ or error
            raise _unclear(known[key], config[key], f"{type(cause).__name__}: {cause}") from error
    return found


def method_of(name: str) -> dict[str, Any]:
    """:func:`method` of the running config. Empty where none is running."""
    running = running_config()
    return {} if running is None else method(name, running[0])


def method(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What tells the method of a config from others, as plain values: every option but those of
    the draw, the seeds, the arms, the machine (but for bfloat16) and the places; hashes of the
    weights that it starts from; and ``parts``, a hash of all of the config that is no option.
    Keys are ``NAME#OPTION``.

    Args:
        name: the config's, in the table of options.
        config: with overrides.

    Raises:
        ValueError: as :func:`option_values`.
    """
    values = option_values(name, config)
    kept = without_places(name, values, ASIDE)
    rest = {k: v for k, v in config.items() if k not in values and k not in NOT_PARTS}
    text = json.dumps(rest, sort_keys=True, default=lambda thing: type(thing).__name__)
    parts = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
    found = {**kept, **_weights(name, values), "parts": parts}
    return {f"{name}#{k}": v for k, v in sorted(found.items())}


def without_places(name: str, values: Mapping[str, Any], aside: Collection[str]) -> dict[str, Any]:
    """The values of a config's options but for places, the device, and those ``aside``."""
    known = options_of(name)
    return {
        key: value
        for key, value in values.items()
        if key not in aside and known[key].kind not in (PATH, DEVICE)
    }


def _weights(name: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the weights that a config reads, or the names of encoders from elsewhere."""
    files = {file: Path(values["ldm_dir"]) / "models" / file for file in WEIGHTS.get(name, ())}
    names = {}
    for key in (key for key in ENCODERS if key in values):
        given = Path(values[key])
        path = given / "models" / "encoder.pt" if given.is_dir() else given
        if path.is_file():
            files |= {key: path, f"{key}, scatter.pt": path.with_name("scatter.pt")}
        else:
            names[key] = str(values[key])
    hashes = {k: file_sha256(p)[:DIGITS] if p.is_file() else ABSENT for k, p in files.items()}
    return {**hashes, **names}


def _unclear(option: Option, value: Any, why: str) -> ValueError:
    path = f"; write a path as --{option.name} ./NAME" if option.kind is PATH else ""
    return ValueError(
        f"{option.name} must be a value, or an expression of other options, got {value!r} ({why}):"
        f" text that starts with $, @ or % is an expression to MONAI{path}"
    )


def run_stage(config_file: str | os.PathLike[str], **overrides: Any) -> None:
    """Run one bundle config, as ``python -m monai.bundle run --config_file ...`` does, with
    overrides by config key.

    Args:
        config_file: a config of a bundle.
        overrides: values by key, such as ``seeds=[0, 1]``.

    Raises:
        SystemExit: the input is bad (a value out of range, a file that is missing or that is there
            already, a full disk). The message is that of the first error, without the chain of the
            configuration that led to it, and with options as the main job takes them.
    """
    try:
        run(config_file=str(config_file), **overrides)
    except Exception as error:
        if (line := told(error)) is None:
            raise
        line = spelt(line, Path(config_file).stem)
        raise SystemExit(f"Error: {line}") from error
