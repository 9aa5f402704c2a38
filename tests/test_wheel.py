"""The wheel holds all that the package needs, and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_histodiff"
OTHER = {".pyc", ".pyo"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, without the network."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "sources"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "monai_histodiff"):
        run("cp", "-r", ROOT / name, copy, cwd=place)
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *flags, "-w", place, copy, cwd=place)
    (found,) = place.glob("monai_histodiff-*.whl")
    return found


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in OTHER}
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert {"monai_histodiff/py.typed", "monai_histodiff/data/bank.py"} <= held


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are lent by this environment: they come by path, without what an editable
    install adds to it.
    """
    venv.create(tmp_path / "env", with_pip=True)
    python = next((tmp_path / "env").glob("*/python"))
    flags = ("--no-deps", "--no-index", "--quiet")
    run(python, "-m", "pip", "install", *flags, wheel, cwd=tmp_path)
    lent = {"PYTHONPATH": sysconfig.get_path("purelib")}
    code = (
        "import monai_histodiff as m, torch, numpy as np\n"
        "from importlib import import_module\n"
        "for name in dir(m): getattr(m, name)\n"
        "bank = m.SyntheticBank.from_arrays({0: np.zeros((30, 8, 8, 3), np.uint8)}, ['tumour'])\n"
        "bank.save('bank')\n"
        "transform = m.SyntheticAugmentd('image', 'bank', prob=1.0)\n"
        "item = transform({'image': torch.full((3, 8, 8), 9, dtype=torch.uint8), 'label': 0})\n"
        "assert int(item['image'].max()) == 0\n"
        "print(m.__file__, m.__version__)"
    )
    told = run(python, "-c", code, cwd=tmp_path, **lent).split()
    assert Path(told[0]).is_relative_to(tmp_path / "env")
    assert told[1] == wheel.name.split("-")[1]
    for script in (tmp_path / "env").glob("*/histodiff-*"):
        assert "usage: " in run(script, "--help", cwd=tmp_path, **lent)
