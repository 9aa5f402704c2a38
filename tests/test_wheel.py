"""The wheel holds all that the package needs, and works outside the checkout."""

from __future__ import annotations

import json
import os
import re
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
COMMANDS = set(
    re.findall(r"^(histodiff-\w+) =", (ROOT / "pyproject.toml").read_text(), flags=re.M)
)


QUICK = (
    "--labels_per_class 5 --unlabelled_patches 4 --arms ['C','G'] --seeds [0,1,2] --device cpu "
    "--train#adaptation_steps 1 --train#adaptation_encodings 1 --train#encodings 1 "
    "--train#guide_steps 2 --train#critic_views 2 --train#guidance_scales [3.0] "
    "--train#solver_steps 2 --train#batch_size 8 --train#quota 2 --train#max_candidates 2 "
    "--train#target_precision 0.5 --evaluate#classifier_steps 2 --evaluate#batch_size 8 "
    "--evaluate#classifier "
    "{'_target_':'monai_histodiff.PatchClassifier','_mode_':'callable','width':8}"
).split()


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
    for name in ("pyproject.toml", "README.md", "LICENSE", "monai_histodiff", "bundles"):
        run("cp", "-r", ROOT / name, copy, cwd=place)
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *flags, "-w", place, copy, cwd=place)
    (found,) = place.glob("monai_histodiff-*.whl")
    return found


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in OTHER}
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    bundles = [path.relative_to(ROOT) for path in (ROOT / "bundles").rglob("*") if path.is_file()]
    shipped = [path for path in bundles if "output" not in path.parts and path.suffix not in OTHER]
    wanted |= {f"monai_histodiff/{path.as_posix()}" for path in shipped}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert {"monai_histodiff/py.typed", "monai_histodiff/data/bank.py"} <= held


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel. Its dependencies are lent by this environment: they come
    by path, without what an editable install adds to it.
    """
    place = tmp_path_factory.mktemp("installed")
    venv.create(place / "env", with_pip=True)
    found = next((place / "env").glob("*/python"))
    flags = ("--no-deps", "--no-index", "--quiet")
    run(found, "-m", "pip", "install", *flags, wheel, cwd=place)
    return found


@pytest.mark.slow
def test_the_main_job_runs_from_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    """On the built-in set, with settings that show the way and mean nothing."""
    lent = {"PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    out = run(python, "-m", "monai_histodiff", *QUICK, "--output_dir", "out", cwd=tmp_path, **lent)
    assert "Report: out/report.html" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["dataset"]["path"] == "demo.zip"
    assert sorted(results["arms"]) == ["C", "G"]
    script = python.parent / "histodiff-demo"
    bad = subprocess.run(
        [script, "--labels_per_clas", "3"],
        cwd=tmp_path,
        env={**os.environ, **lent},
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = bad.stderr.strip().splitlines()[-1]
    assert bad.returncode and last.startswith("Error: ") and "did you mean" in last, bad.stderr
    assert "Traceback" not in bad.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "nothing else is written"


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(python: Path, tmp_path: Path, wheel: Path) -> None:
    """All in one process, commands included: each script names the interpreter that it needs."""
    scripts = sorted(python.parent.glob("histodiff-*"))
    assert {script.name for script in scripts} == COMMANDS
    for script in scripts:
        first = script.read_text(encoding="utf-8").splitlines()[0]
        assert first == f"#!{python}" and os.access(script, os.X_OK)
    code = (
        "import monai_histodiff as m, torch, numpy as np, runpy, sys\n"
        "for name in dir(m): getattr(m, name)\n"
        "bank = m.SyntheticBank.from_arrays({0: np.zeros((30, 8, 8, 3), np.uint8)}, ['tumour'])\n"
        "bank.save('bank')\n"
        "transform = m.SyntheticAugmentd('image', 'bank', prob=1.0)\n"
        "item = transform({'image': torch.full((3, 8, 8), 9, dtype=torch.uint8), 'label': 0})\n"
        "assert int(item['image'].max()) == 0\n"
        "from monai_histodiff.commands.main_job import bundles_dir\n"
        "assert (bundles_dir() / 'histopathology_ldm' / 'models' / 'model.pt').is_file()\n"
        "print(m.__file__, m.__version__)\n"
        "for script in sys.argv[1:]:\n"
        "    sys.argv = [script, '--help']\n"
        "    try: runpy.run_path(script, run_name='__main__')\n"
        "    except SystemExit as end: assert not end.code, script\n"
        "    else: raise AssertionError(script)\n"
    )
    lent = {"PYTHONPATH": sysconfig.get_path("purelib")}
    lines = run(python, "-c", code, *scripts, cwd=tmp_path, **lent).splitlines()
    place, version = lines[0].split()
    assert Path(place).is_relative_to(python.parents[1])
    assert version == wheel.name.split("-")[1]
    told = [line.split()[1] for line in lines if line.startswith("usage: ")]
    assert told == [script.name for script in scripts]
