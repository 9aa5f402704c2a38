"""Check a bundle by the rules of MONAI's Model Zoo, and pack it into the zip that
``monai.bundle download`` reads.

From a shell::

    histodiff-zoo bundles/histopathology_ldm dist

The same bundle gives the same bytes on any machine: sorted names, fixed times and permissions, no
compression.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.bundle.metadata import metadata_problems
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.utils.files import file_sha256, first_line, read_json, whole_file

__all__ = ["bundle_files", "check_bundle", "package_bundle"]

METADATA, WEIGHTS, INFERENCE = "configs/metadata.json", "models/model.pt", "configs/inference.json"
CONFIG = r"configs/[^/]+\.(json|yaml|yml)"
REQUIRED_FILES = ("LICENSE", METADATA, WEIGHTS, INFERENCE)
CONFIG_KEYS = ("bundle_root", "output_dir", "dataset_dir", "device")
INFERENCE_KEYS = ("network_def", "inferer")
TARGET_PACKAGES = ("monai", "monai_histodiff", "torch", "ignite")
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
LARGE = 25_000_000  # bytes; the Zoo says 25 MB


def check_bundle(bundle_dir: str | os.PathLike[str]) -> list[str]:
    """Problems that the Model Zoo would find in a bundle, and those that break it elsewhere.

    Code of the packages named by ``_target_`` is imported, and the weights are read; nothing of
    the bundle is run.

    Args:
        bundle_dir: the folder, which carries the bundle's name.

    Returns:
        One sentence for each problem, with the offending value; empty for a valid bundle.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = _folder(bundle_dir)
    files = bundle_files(root)
    problems = [f"a bundle must hold '{name}'" for name in REQUIRED_FILES if name not in files]
    if any(name.startswith("scripts/") for name in files):
        problems.append(
            "code must come from an installed package, got 'scripts/', which is found from one "
            "folder only"
        )
    for name in files:
        if re.fullmatch(CONFIG, name):
            kind = "JSON" if name.endswith("json") else "YAML"
            try:
                text = (root / name).read_text(encoding="utf-8")
                content = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
            except (ValueError, yaml.YAMLError) as error:
                told = " ".join(str(error).split())
                problems.append(f"'{name}' must be {kind}, got {told}")
                continue
            if not isinstance(content, dict):
                found = type(content).__name__
                problems.append(f"'{name}' must be a {kind} object, got {found}")
            else:
                problems += (
                    metadata_problems(content)
                    if name == METADATA
                    else _config_problems(name, content)
                )
    for name in files:
        if re.fullmatch(r"models/[^/]+\.pt", name):
            problems += _weights_problems(name, root / name)
    return problems + _large_file_problems(root, files)


def package_bundle(bundle_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> Path:
    """Check a bundle and write ``<name>_v<version>.zip``, whose one top folder is the bundle's
    name.

    ``output/``, ``__pycache__`` and hidden files are left out. The zip appears complete or not at
    all.

    Args:
        bundle_dir: the folder, which carries the bundle's name.
        output_dir: where to write the zip, outside of the bundle; made if missing.

    Returns:
        The path of the zip.

    Raises:
        FileNotFoundError: there is no such bundle folder.
        ValueError: the bundle is not valid (all its problems are listed), or ``output_dir`` lies
            inside it.
    """
    root, target = _folder(bundle_dir), Path(output_dir).resolve()
    if target.is_relative_to(root):
        raise ValueError(f"output_dir must lie outside the bundle, got '{output_dir}' in '{root}'")
    problems = check_bundle(root)
    if problems:
        raise ValueError(
            "\n  ".join(
                [
                    f"the bundle '{root.name}' must be valid, got {len(problems)} problem(s):",
                    *problems,
                ]
            )
        )
    version = read_json(root / METADATA)["version"]
    path = Path(output_dir) / f"{root.name}_v{version}.zip"
    with whole_file(path) as draft, zipfile.ZipFile(draft, "w") as archive:
        for name in bundle_files(root):
            entry = zipfile.ZipInfo(f"{root.name}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = (
                3,
                0o100644 << 16,
            )  # as on Unix, whatever this machine is
            archive.writestr(entry, (root / name).read_bytes())
    return path


def _folder(bundle_dir: str | os.PathLike[str]) -> Path:
    if not Path(bundle_dir).is_dir():
        raise FileNotFoundError(f"bundle_dir must be a folder, got '{bundle_dir}'")
    return Path(bundle_dir).resolve()


def bundle_files(root: Path) -> list[str]:
    """Sorted names of the files that belong to the bundle."""
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    kept = (
        n
        for n in names
        if n.parts[0] != "output"
        and not any(p.startswith(".") or p == "__pycache__" for p in n.parts)
    )
    return sorted(name.as_posix() for name in kept)


def _config_problems(name: str, config: Mapping[str, Any]) -> list[str]:
    # what cannot run alone changes another config, or is what others stand on
    partial = "run" not in config or Path(name).stem.endswith("_base")
    overlay = partial and name != INFERENCE
    keys = () if overlay else CONFIG_KEYS + (INFERENCE_KEYS if name == INFERENCE else ())
    problems = [f"'{name}' must define '{key}'" for key in keys if key not in config]
    targets = list(_targets(config))
    for target in (t for i, t in enumerate(targets) if t not in targets[:i]):
        if (
            not isinstance(target, str)
            or target.split(".")[0] not in TARGET_PACKAGES
            or "." not in target
        ):
            problems.append(
                f"'{name}' must name full paths in {', '.join(TARGET_PACKAGES)} as _target_, got "
                f"{target!r}"
            )
        elif not _is_importable(target):
            problems.append(
                f"'{name}' must name something that can be imported as _target_, got '{target}'"
            )
    return problems


def _targets(config: Any) -> Iterator[Any]:
    """Every ``_target_`` in a config, in order."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from _targets(item)


def _is_importable(target: str) -> bool:
    try:
        return callable(pydoc.locate(target))
    except pydoc.ErrorDuringImport:
        return False


def _weights_problems(name: str, path: Path) -> list[str]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything
        return [
            f"'{name}' must load with weights_only=True, got {type(error).__name__}: "
            f"{first_line(error)}"
        ]
    return (
        []
        if isinstance(state, Mapping)
        else [f"'{name}' must be a state_dict, got {type(state).__name__}"]
    )


def _large_file_problems(root: Path, files: Sequence[str]) -> list[str]:
    text = "\n".join(
        (root / name).read_text(encoding="utf-8", errors="replace")
        for name in LARGE_FILES
        if name in files
    )
    listed = re.findall(
        r"""(?<![\w#])["']?path["']?\s*:\s*["']?([^"'\s,}]+)""", re.sub(r"(?m)^\s*#.*$", "", text)
    )
    sizes = {name: (root / name).stat().st_size for name in files if name not in listed}
    large = {name: size for name, size in sizes.items() if size > LARGE}
    return [
        f"files over 25 MB must be in '{LARGE_FILES[0]}', got '{name}' of {n / 1e6:.1f} MB"
        for name, n in large.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Check and pack one bundle; print the path of the zip and its SHA-256."""
    parser = argparse.ArgumentParser(
        "histodiff-zoo", description="Check a bundle and pack it for the Model Zoo."
    )
    parser.add_argument("bundle_dir", help="the bundle's folder")
    parser.add_argument("output_dir", help="where to write the zip")
    args = parsed(parser, argv)
    with plain_errors(parser):
        path = package_bundle(args.bundle_dir, args.output_dir)
    print(path)
    print(f"sha256 {file_sha256(path)}")


if __name__ == "__main__":
    main()
