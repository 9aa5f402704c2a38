"""The command of an installed package: which configs it runs, from where, with which options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monai_histodiff.commands import main_job

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    monkeypatch.setattr(main_job, "run", lambda **options: found.update(options))
    return found


@pytest.mark.parametrize(
    ("argv", "files"),
    [
        ([], ["finetune.json"]),
        (["thorough"], ["finetune.json", "thorough.json"]),
        (["verdict"], ["verdict.json"]),
    ],
)
def test_a_job_is_its_configs(argv: list[str], files: list[str], asked: dict[str, Any]) -> None:
    main_job.main([*argv, "--labels_per_class", "25", "--train#quota", "7"])
    assert asked["config_file"] == [str(BUNDLES / name) for name in files]
    assert asked["bundle_root"] == str(BUNDLES)
    assert asked["labels_per_class"] == 25 and asked["train#quota"] == 7


def test_an_unknown_job_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main_job.main(["finetun"])
    assert "invalid choice: 'finetun'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main_job.main(["--help"])
    assert "usage: histodiff-demo" in capsys.readouterr().out


def test_an_installed_package_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "monai_histodiff"
    (package / "bundles").mkdir(parents=True)
    monkeypatch.setattr(main_job, "PACKAGE", package)
    with pytest.raises(FileNotFoundError, match="must lie in one of .*, got neither: install"):
        main_job.bundles_dir()
    with pytest.raises(SystemExit):
        main_job.main([])
    (package / "bundles" / "finetune.json").touch()
    assert main_job.bundles_dir() == package / "bundles"
