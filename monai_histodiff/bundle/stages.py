"""Runs the stages of ``bundles/finetune.json`` one after another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai.bundle import run

from monai_histodiff.bundle.errors import told
from monai_histodiff.options.names import spelt

__all__ = ["run_stage"]


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
