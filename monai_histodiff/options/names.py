"""Keys of a config: one that nothing knows is refused, wherever it stands and whatever its value.

MONAI takes any key, and a misspelt one would change nothing.
"""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from monai_histodiff.options.config_names import EVALUATE, FINETUNE, TRAIN
from monai_histodiff.options.table import options_of

__all__ = ["as_of_main_job", "check_names", "check_stage_names", "referred", "spelt"]

REFERENCE = re.compile(r"@([\w#]+)")
GIVEN = re.compile(r"--(\w+)(?![\w#])")  # an option in a message
COMPONENT = ("_target_", "_requires_", "_disabled_", "_desc_", "_mode_", "_wrapper_")
CONFIGS = (".json", ".yaml", ".yml")
# keys that MONAI, and the Model Zoo, look up by themselves
MONAI_KEYS = {
    *("_meta_", "imports", "initialize", "run", "finalize"),
    *("bundle_root", "output_dir", "dataset_dir", "device", "network_def", "inferer", "evaluator"),
    *("save_execute_config", "execute_config"),
    *DEFAULT_MLFLOW_SETTINGS["configs"],
}


def check_names(name: str, config: Mapping[str, Any], home: Path) -> None:
    """Refuse keys that neither the table of options, nor another key, nor a config file knows.

    Args:
        name: the config's, in the table of options.
        config: with overrides.
        home: folder of the config's file, whose configs, overlays among them, tell the parts:
            mappings and expressions, that nothing may refer to, as they may be switched off.

    Raises:
        ValueError: with the nearest name that there is.
    """
    options, used = options_of(name), set(referred(config))
    known = {*options, *(key.split("#")[0] for key in used), *MONAI_KEYS}
    files = _files(home)
    for key, value in config.items():
        part = isinstance(value, Mapping) or (isinstance(value, str) and value.startswith("$"))
        there = [file[key] for file in files if key in file]
        if key not in known and not (part and there):
            _refuse(f"an option must be one of {name}'s", key, known)
        if isinstance(value, Mapping) and key not in options:
            _check_part(name, key, value, there, {*options, *used, *_paths(files)})


def _check_part(
    name: str, where: str, part: Mapping[str, Any], there: Sequence[Any], known: set[str]
) -> None:
    """Refuse keys within a part that the files do not have there, but for arguments that the
    class of a component takes.
    """
    alike = [other for other in there if isinstance(other, Mapping)]
    names = {*COMPONENT, *(key for other in alike for key in other)}
    target = part.get("_target_")
    if not alike and target is None:
        return  # a mapping of the user's own
    for key, value in part.items():
        path = f"{where}#{key}"
        if key not in names and path not in known and not (target and _takes(target, key)):
            _refuse(f"an option must be one of {name}'s", path, {*known, *names - {*COMPONENT}})
        if isinstance(value, Mapping):
            deeper = [other[key] for other in alike if key in other]
            _check_part(name, path, value, deeper, known)


def _takes(target: Any, argument: str) -> bool:
    """Whether a class or function has an argument; ``True`` where that cannot be told."""
    found = pydoc.locate(target) if isinstance(target, str) and "." in target else None
    try:
        parameters = inspect.signature(found).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _files(home: Path) -> list[Mapping[str, Any]]:
    paths = sorted(path for path in home.iterdir() if path.suffix in CONFIGS)
    found = [ConfigParser.load_config_file(path) for path in paths]
    mappings = [file for file in found if isinstance(file, Mapping)]
    return [{key.lstrip("+"): value for key, value in file.items()} for file in mappings]


def _paths(files: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys such as ``train#loss#weight`` of overlays, with ``train#loss``."""
    keys = {key for file in files for key in file if "#" in key}
    return {key.rsplit("#", i)[0] for key in keys for i in range(key.count("#"))}


def _refuse(rule: str, key: str, known: set[str]) -> None:
    near = get_close_matches(key.split("#")[-1], sorted(known - {key}), 1, 0.6)
    remedy = f"did you mean '{near[0]}'?" if near else "docs/options.md lists them"
    raise ValueError(f"{rule}, got '{key}': {remedy}")


def check_stage_names(stage: str, overrides: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse options of a stage that its config does not have.

    Raises:
        ValueError: with the nearest name that there is.
    """
    for key in overrides:
        if key.split("#")[0] not in config:
            rule = f"an option of the stage {stage} must be one of its config's"
            _refuse(rule, key, {*options_of(stage), *config})


def spelt(text: str, *stages: str) -> str:
    """A message of stages of the main job, with their options as the main job takes them: its own
    as they are, others as ``--STAGE#NAME``.
    """
    own = options_of(FINETUNE)

    def word(found: re.Match[str]) -> str:
        having = [stage for stage in stages if found[1] in options_of(stage)]
        told = " and ".join(f"--{stage}#{found[1]}" for stage in having)
        return told if told and found[1] not in own else found[0]

    return GIVEN.sub(word, text)


@contextmanager
def as_of_main_job(*stages: str) -> Iterator[None]:
    """Let the messages of errors name options as :func:`spelt` does; by default of all stages."""
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1:
            error.args = (spelt(str(error), *(stages or (TRAIN, EVALUATE))),)
        raise


def referred(thing: Any) -> Iterator[str]:
    """The keys that the texts within refer to, such as ``train#dataset``: expressions, which start
    with ``$``, and texts that are a reference as a whole; ``me@home`` is a text.
    """
    if isinstance(thing, str):
        found = REFERENCE.findall(thing)
        yield from found if thing.startswith("$") or found == [thing[1:]] else []
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from referred(value)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from referred(value)
