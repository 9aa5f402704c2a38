"""Runs the stages of ``bundles/finetune.json`` one after another; bad input ends in one clear
line.
"""

from __future__ import annotations

import os
from typing import Any

from monai.bundle import ConfigParser, run

__all__ = ["run_stage"]

BAD_INPUT = (ValueError, FileNotFoundError, FileExistsError)


def run_stage(config_file: str | os.PathLike[str], **overrides: Any) -> None:
    """Run one bundle config, as ``python -m monai.bundle run --config_file ...`` does, with
    overrides by config key.

    Args:
        config_file: a config of a bundle.
        overrides: values by key, such as ``seeds=[0, 1]``.

    Raises:
        SystemExit: the input is bad (a value out of range, a file that is missing or that is there
            already). The message is that of the first error, without the chain of the
            configuration that led to it. An override must
            be of a key that the config has: MONAI itself takes any, and a misspelt one would
            change nothing.
    """
    try:
        parser = ConfigParser()
        parser.read_config(str(config_file))
        if unknown := [key for key in overrides if key.split("#")[0] not in parser.get()]:
            raise ValueError(f"an option must be a key of '{config_file}', got '{unknown[0]}'")
        run(config_file=str(config_file), **overrides)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, BAD_INPUT):
            cause = cause.__cause__
        if isinstance(cause, BAD_INPUT):
            raise SystemExit(f"Error: {cause}") from error
        raise
