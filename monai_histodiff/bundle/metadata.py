"""``metadata.json`` of a bundle: the rules of MONAI's Model Zoo, and the scale of its patches."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from monai_histodiff.utils.files import read_json

__all__ = ["SCHEMA", "metadata_problems", "scale_of"]

TEXT, OBJECT = {"type": "string"}, {"type": "object"}
WHOLE = {"type": "integer", "minimum": 1}
DTYPES = sorted(name for name, v in vars(torch).items() if isinstance(v, torch.dtype))
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "type": TEXT,
        "format": TEXT,
        "num_channels": WHOLE,
        "spatial_shape": {"type": "array", "items": {"anyOf": [TEXT, WHOLE]}},
        "dtype": {"enum": DTYPES},
        "value_range": {
            "type": "array",
            "items": {"type": "number"},
            "anyOf": [{"maxItems": 0}, {"minItems": 2, "maxItems": 2}],
        },
        "is_patch_data": {"type": "boolean"},
        "channel_def": OBJECT,
    },
}
# a side that is described by more than tensors may have numbers and texts, too
SIDE = {
    "type": "object",
    "additionalProperties": {"if": OBJECT, "then": TENSOR, "else": {"type": ["string", "number"]}},
}
FORMAT = {
    "type": "object",
    "required": ["inputs", "outputs"],
    "properties": {"inputs": SIDE, "outputs": SIDE, "post_processed_outputs": SIDE},
}
NETWORK = {
    "allOf": [FORMAT],
    "properties": {
        "inputs": {"required": ["image"], "properties": {"image": OBJECT}},
        "outputs": {"required": ["pred"], "properties": {"pred": OBJECT}},
    },
}
REQUIRED = (
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version"),
    *("task", "description", "authors", "copyright"),
    *("required_packages_version", "changelog", "network_data_format"),
)
SCHEMA = {
    "type": "object",
    "required": list(REQUIRED),
    "properties": {
        **dict.fromkeys(REQUIRED[:9], TEXT),
        **dict.fromkeys(("name", "data_source", "data_type", "intended_use"), TEXT),
        **dict.fromkeys(("image_classes", "label_classes", "pred_classes"), TEXT),
        **dict.fromkeys(("required_packages_version", "changelog"), OBJECT),
        **dict.fromkeys(("eval_metrics", "supported_apps"), OBJECT),
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "references": {"type": "array"},
        "network_data_format": NETWORK,
    },
    "patternProperties": {"_data_format$": FORMAT},
}


def metadata_problems(metadata: Mapping[str, Any]) -> list[str]:
    """One sentence for each rule that a bundle's metadata break, with the offending value.

    The rules are those of the Zoo's ``meta_schema_20240725.json`` and of its checks in
    ``verify_bundle.py``, as a JSON schema (:data:`SCHEMA`).
    """
    errors = sorted(
        Draft202012Validator(SCHEMA).iter_errors(metadata), key=lambda e: [str(k) for k in e.path]
    )
    problems = list(dict.fromkeys(_sentence(error) for error in errors))
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if isinstance(changelog, dict) and isinstance(version, str) and version not in changelog:
        problems.append(
            f"the changelog must name the version '{version}', got {sorted(changelog)}"
        )
    return problems


def scale_of(bundle_dir: str | os.PathLike[str]) -> float:
    """Micrometres that a pixel of the patches of a bundle's model shows: ``um_per_px`` of its
    metadata.

    Raises:
        FileNotFoundError: the folder has no metadata.
        ValueError: they do not tell it.
    """
    path = Path(bundle_dir) / "configs" / "metadata.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"a bundle must tell um_per_px, the micrometres per pixel that its model was trained "
            f"at, in 'configs/metadata.json', got no such file in '{bundle_dir}': write it, such "
            'as {"um_per_px": 1.0}'
        )
    found: Any = read_json(path).get("um_per_px")
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    if not number or not 0 < found < math.inf:
        raise ValueError(
            f"'{path}' must tell um_per_px, the micrometres per pixel that the model was trained "
            f'at, got {found!r}: add "um_per_px": 1.0, or what it is'
        )
    return float(found)


def _sentence(error: ValidationError) -> str:
    where = "#".join(str(key) for key in error.path)
    of = f"metadata '{where}'" if where else "metadata"
    rule: Any = error.validator_value
    if error.validator == "required":
        missing = re.match("'(.*)' is a required", error.message)
        name = missing.group(1) if missing else "?"
        return f"{of} must have '{name}', got {sorted(map(str, error.instance))}"
    words = {
        "type": f"be of type {rule}" if isinstance(rule, str) else "be of type string or number",
        "pattern": "be like '0.1.0'",
        "enum": "be a dtype of torch",
        "minimum": f"be at least {rule}",
        "anyOf": "be as the schema says",
    }
    return f"{of} must {words.get(str(error.validator), 'be valid')}, got {error.instance!r}"
