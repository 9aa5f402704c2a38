"""MONAI's own doors to the Hugging Face hub, rehearsed against a stand-in of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub import Hub, running

from monai_histodiff.commands.zoo import bundle_files, check_bundle

pytest.importorskip("huggingface_hub", reason="rehearses the hub: pip install huggingface-hub")

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAME = "histopathology_guidance"


def python(hub: Hub, home: Path, *words: str) -> None:
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **own},
    )
    assert done.returncode == 0, done.stdout + done.stderr + "\n".join(hub.asked)


def test_a_bundle_goes_to_the_hub_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "bundles" / NAME
    for name in bundle_files(BUNDLES / NAME):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BUNDLES / NAME / name, folder / name)
    version = json.loads((folder / "configs/metadata.json").read_text())["version"]
    repo = f"lab/{NAME}"
    with running() as hub:
        # not among MONAI's commands, so that a line of Python does it
        given = {"repo": repo, "name": NAME, "bundle_dir": str(folder.parent), "token": "hf_no"}
        given |= {"version": version, "tag_as_latest_version": True}
        code = f"from monai.bundle.scripts import push_to_hf_hub; push_to_hf_hub(**{given!r})"
        code += "; import runpy; runpy.run_module('monai.bundle', run_name='__main__')"
        target = tmp_path / "back"
        words = ("--name", NAME, "--bundle_dir", str(target), "--source", "huggingface_hub")
        python(hub, tmp_path / "home", "-c", code, "download", *words, "--repo", repo)
        assert set(hub.tags[repo]) == {version, "latest_version"} and hub.private[repo]
    back = target / NAME
    for name in bundle_files(BUNDLES / NAME):
        assert (back / name).read_bytes() == (BUNDLES / NAME / name).read_bytes(), name
    assert check_bundle(back) == []
    card = (back / "README.md").read_text(encoding="utf-8")
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    assert text.strip() == (BUNDLES / NAME / "docs/README.md").read_text().strip()
