"""A submission to MONAI's Model Zoo, prepared in a checkout of it, such that the checks of the Zoo
pass as they are: ``histodiff-submit bundles ZOO``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from monai_histodiff.bundle.errors import plain_errors
from monai_histodiff.commands.arguments import parsed
from monai_histodiff.commands.zoo import METADATA, bundle_files, check_bundle
from monai_histodiff.utils.files import read_json

__all__ = ["main", "submit_bundles"]

EXCLUSIONS = Path("ci", "bundle_custom_data.py")
NEEDED = (EXCLUSIONS, Path("ci", "verify_bundle.py"), Path("ci", "unit_tests", "utils.py"))
INFO = Path("models", "model_info.json")
# What MONAI's own diffusion UNet cannot be turned into; the Zoo skips the check for these bundles.
NO_TORCHSCRIPT = ("histopathology_ldm",)
LIST = "exclude_verify_torchscript_list"
TEST = '''"""Inference of {name}, as its users start it: two patches in few steps."""

import os
import tempfile
import unittest

from monai.bundle import ConfigWorkflow
from utils import check_workflow

ROOT = os.path.join("models", "{name}")


class TestInference(unittest.TestCase):
    def test_inference_config(self):
        with tempfile.TemporaryDirectory() as folder:
            workflow = ConfigWorkflow(
                workflow_type="inference",
                config_file=os.path.join(ROOT, "configs", "inference.json"),
                logging_file=os.path.join(ROOT, "configs", "logging.conf"),
                meta_file=os.path.join(ROOT, "configs", "metadata.json"),
                bundle_root=ROOT,
                output_dir=folder,
                device="cpu",
                seeds=[0, 1],
                {settings},
            )
            check_workflow(workflow, check_properties=True)
            self.assertIn("samples.png", os.listdir(folder))


if __name__ == "__main__":
    unittest.main()
'''
SETTINGS = {
    "histopathology_ldm": "few_steps=True",
    "histopathology_guidance": "solver_steps=2,\n                accepted_only=False",
}


def submit_bundles(
    bundles_dir: str | os.PathLike[str], zoo_dir: str | os.PathLike[str]
) -> list[Path]:
    """Lay the bundles, their exclusions and their unit tests into a checkout of the Model Zoo.

    Each bundle replaces ``models/NAME``; ``ci/unit_tests/test_NAME.py`` runs its inference; the
    generator is entered in the list of bundles without TorchScript, in
    ``ci/bundle_custom_data.py``. Nothing else of the checkout is touched.

    Args:
        bundles_dir: the folder that holds the bundles.
        zoo_dir: a checkout of ``Project-MONAI/model-zoo``.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: there is no bundle, or ``zoo_dir`` is no checkout.
        ValueError: a bundle is not valid, the Zoo already has its version, or the Zoo's list of
            exclusions is not there. Nothing is written then.
    """
    zoo = Path(zoo_dir)
    if lacking := [str(path) for path in NEEDED if not (zoo / path).is_file()]:
        raise FileNotFoundError(
            f"zoo_dir must be a checkout of the Model Zoo, got none of {lacking}"
        )
    bundles = sorted(path.parents[1] for path in Path(bundles_dir).glob(f"*/{METADATA}"))
    if not bundles:
        raise FileNotFoundError(f"bundles_dir must hold bundles, got none in '{bundles_dir}'")
    known = read_json(zoo / INFO) if (zoo / INFO).is_file() else {}
    for bundle in bundles:
        if problems := check_bundle(bundle):
            raise ValueError(f"'{bundle.name}' must be valid, got: " + "; ".join(problems))
        version = read_json(bundle / METADATA)["version"]
        if f"{bundle.name}_v{version}" in known:
            rule = "a version is submitted once"
            raise ValueError(f"{rule}, got '{bundle.name}' {version}: raise it in {METADATA}")
    exclusions = (zoo / EXCLUSIONS).read_text(encoding="utf-8")
    for bundle in bundles:
        if bundle.name in NO_TORCHSCRIPT:
            exclusions = _excluded(exclusions, bundle.name)
    written = [zoo / EXCLUSIONS]
    written[0].write_text(exclusions, encoding="utf-8")
    for bundle in bundles:
        target = zoo / "models" / bundle.name
        if target.exists():
            shutil.rmtree(target)
        for name in bundle_files(bundle):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, target / name)
        test = zoo / "ci" / "unit_tests" / f"test_{bundle.name}.py"
        settings = SETTINGS.get(bundle.name, "dataset_dir=''")
        test.write_text(TEST.format(name=bundle.name, settings=settings), encoding="utf-8")
        written += [target, test]
    return written


def _excluded(source: str, name: str) -> str:
    """The Zoo's lists with a bundle among those without TorchScript."""
    found = re.search(rf"^{LIST} = \[(.*?)\]", source, flags=re.M | re.S)
    if found is None:
        raise ValueError(
            f"'{EXCLUSIONS}' must have a list '{LIST}', got none: add '{name}' by hand"
        )
    if f'"{name}"' in found[1]:
        return source
    entries = found[1].rstrip()
    entries += "" if entries.endswith(",") or not entries else ","
    return f'{source[: found.start(1)]}{entries}\n    "{name}",\n{source[found.end(1) :]}'


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare a submission, and print what was written and what to run."""
    parser = argparse.ArgumentParser(
        "histodiff-submit", description="Lay bundles into a checkout of MONAI's Model Zoo."
    )
    parser.add_argument("bundles_dir", help="the folder that holds the bundles")
    parser.add_argument("zoo_dir", help="a checkout of Project-MONAI/model-zoo, branch dev")
    args = parsed(parser, argv)
    with plain_errors(parser):
        written = submit_bundles(args.bundles_dir, args.zoo_dir)
    print(*written, sep="\n")
    for path in written:
        if path.parent.name == "models":
            print(f"next, in {args.zoo_dir}: python ci/verify_bundle.py -b {path.name} -m full")


if __name__ == "__main__":
    main()
