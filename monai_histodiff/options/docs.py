"""``python -m monai_histodiff.options.docs bundles > docs/options.md``: the table of options
as a page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_histodiff.options.table import options_of

__all__ = ["config_files", "options_page"]

HEAD = """# Options

Every option of every config, as `--NAME VALUE`; made from `monai_histodiff/options/table.py`
by `python -m monai_histodiff.options.docs bundles > docs/options.md`. An unknown name, or a
value of another kind or out of range, is refused in the first second. Other keys of a config
(networks, transforms, optimisers) can be overridden as MONAI's bundles allow, for example
`--optimizer#lr 0.0005`, and those of a stage of `finetune.json` by
`--train "{'optimizer#lr': 0.0005}"`. A path that begins with `$`, `@` or `%` would be an
expression or a reference to MONAI: write `./` before it, and before one that Python reads as a
number, a list or another text, such as `2024_05`. A path must not hold `#`, a mark to Python and
to MONAI, nor `::`, what MONAI makes of it: rename the folder, or link to it.
"""
TITLES = {
    "finetune": "`bundles/finetune.json`",
    "verdict": "`bundles/verdict.json`",
    "train": "`histopathology_guidance/configs/train.yaml` (`--train#NAME` in `finetune.json`)",
    "evaluate": "`histopathology_guidance/configs/evaluate.yaml` (`--evaluate#NAME` in "
    "`finetune.json`)",
    "inference": "`histopathology_guidance/configs/inference.json`",
    "ldm inference": "`histopathology_ldm/configs/inference.json`",
    "ldm train_autoencoder": "`histopathology_ldm/configs/train_autoencoder.yaml`, over "
    "`train_base.yaml`",
    "ldm train_decoder": "`histopathology_ldm/configs/train_decoder.yaml`, over `train_base.yaml`",
    "ldm train_diffusion": "`histopathology_ldm/configs/train_diffusion.yaml`, over "
    "`train_base.yaml`",
    "ldm train_few_steps": "`histopathology_ldm/configs/train_few_steps.yaml`, over "
    "`train_base.yaml` and `train_diffusion.yaml`",
    "ldm train_encoder": "`histopathology_ldm/configs/train_encoder.yaml`, over `train_base.yaml`",
    "ldm evaluate": "`histopathology_ldm/configs/evaluate.yaml`",
}


def config_files(bundles: Path, name: str) -> list[str]:
    """The files of a config that the table of options names, in the order to read them."""
    if name in ("finetune", "verdict"):
        return [str(bundles / f"{name}.json")]
    ldm = name.startswith("ldm ")
    folder = bundles / f"histopathology_{'ldm' if ldm else 'guidance'}" / "configs"
    suffix = "json" if name.endswith("inference") else "yaml"
    own = [str(folder / f"{name.removeprefix('ldm ')}.{suffix}")]
    if not name.startswith("ldm train"):
        return own
    unet = ["train_diffusion.yaml"] if name == "ldm train_few_steps" else []
    return [*(str(folder / under) for under in ("train_base.yaml", *unet)), *own]


def options_page(bundles: Path) -> str:
    """Markdown: a table for each config, with the defaults that its files hold."""
    parts = [HEAD]
    for name, title in TITLES.items():
        content = ConfigParser.load_config_files(config_files(bundles, name))
        rows = [
            f"| `{option.name}` | {_shown(content[option.name])} | {option.rule} | {option.help} |"
            for option in options_of(name).values()
        ]
        parts.append(
            "\n".join([f"## {title}\n", "| option | default | what it may be | meaning |"])
            + "\n|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    return "\n".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "chosen" if value else "none"
    if value is None:
        return "None"
    text = value if isinstance(value, str) else json.dumps(value).replace('"', "'")
    if text.startswith("$"):
        text = text[1:]
    return f"`{text}`" if text else "empty"


if __name__ == "__main__":
    print(options_page(Path(sys.argv[1])), end="")
