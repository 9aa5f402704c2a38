"""The config that is running, and the values of its options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from monai_histodiff.bundle.names import referred
from monai_histodiff.bundle.option_table import options_of
from monai_histodiff.bundle.options import DEVICE, PATH

__all__ = ["option_values", "running_config"]


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
            raise _unclear(key, config[key], "it refers to more than options")
    found = {}
    for key in (key for key in known if key in simple):
        try:
            found[key] = parser.get_parsed_content(key)
        except Exception as error:  # an expression can raise anything
            cause = error.__cause__ or error
            raise _unclear(key, config[key], f"{type(cause).__name__}: {cause}") from error
    return found


def _unclear(key: str, value: Any, why: str) -> ValueError:
    return ValueError(
        f"{key} must be a value, or an expression of other options, got {value!r} ({why}): text "
        f"that starts with $, @ or % is an expression to MONAI; write a path as --{key} ./NAME"
    )
