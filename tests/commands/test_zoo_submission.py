"""A submission to the Model Zoo, in a folder that has the places of a checkout."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from monai_histodiff.commands.zoo_submission import EXCLUSIONS, INFO, LIST, main, submit_bundles

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
LISTS = (
    'first = ["a"]\n\n# a comment\nexclude_verify_torchscript_list = [\n    "b",\n]\nlast = {}\n'
)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    (folder / "ci" / "unit_tests").mkdir(parents=True)
    (folder / "models" / "histopathology_ldm").mkdir(parents=True)
    (folder / "models" / "histopathology_ldm" / "old").touch()
    (folder / "models" / "other").mkdir()
    for name in ("ci/verify_bundle.py", "ci/unit_tests/utils.py"):
        (folder / name).touch()
    (folder / EXCLUSIONS).write_text(LISTS)
    (folder / INFO).write_text(json.dumps({"histopathology_ldm_v0.0.1": {}}))
    return folder


def lists(zoo: Path) -> dict[str, object]:
    tree = ast.parse((zoo / EXCLUSIONS).read_text())
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def test_a_submission(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(BUNDLES), str(zoo)])
    out = capsys.readouterr().out
    for name in ("histopathology_guidance", "histopathology_ldm"):
        folder = zoo / "models" / name
        assert (folder / "models/model.pt").read_bytes() == (
            BUNDLES / name / "models/model.pt"
        ).read_bytes()
        assert (folder / "LICENSE").is_file() and (folder / "docs/data_license.txt").is_file()
        test = (zoo / "ci" / "unit_tests" / f"test_{name}.py").read_text()
        ast.parse(test)
        assert "monai_histodiff" not in test, "the Zoo does not have it when it collects tests"
        assert f'os.path.join("models", "{name}")' in test
        assert f"python ci/verify_bundle.py -b {name} -m full" in out
    assert not (zoo / "models" / "histopathology_ldm" / "old").exists()
    assert (zoo / "models" / "other").is_dir()
    assert lists(zoo) == {"first": ["a"], LIST: ["b", "histopathology_ldm"], "last": {}}
    assert "# a comment" in (zoo / EXCLUSIONS).read_text()
    before = (zoo / EXCLUSIONS).read_text()
    submit_bundles(BUNDLES, zoo)
    assert (zoo / EXCLUSIONS).read_text() == before, "an entry is made once"


@pytest.mark.parametrize(
    "entries", ["", '"b"', '"b", "c",', '\n    "b"\n'], ids=["empty", "one", "comma", "line"]
)
def test_an_entry_joins_any_list(zoo: Path, entries: str) -> None:
    (zoo / EXCLUSIONS).write_text(f"{LIST} = [{entries}]\n")
    submit_bundles(BUNDLES, zoo)
    known = ast.literal_eval(f"[{entries}]")
    assert lists(zoo)[LIST] == [*known, "histopathology_ldm"]


def test_what_is_no_checkout_or_no_bundles(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="must be a checkout of the Model Zoo, got none of"
    ):
        submit_bundles(BUNDLES, tmp_path)
    with pytest.raises(FileNotFoundError, match="bundles_dir must hold bundles, got none in"):
        submit_bundles(tmp_path, zoo)
    (zoo / EXCLUSIONS).write_text("nothing = []\n")
    with pytest.raises(ValueError, match=f"must have a list '{LIST}', got none: add 'histopath"):
        submit_bundles(BUNDLES, zoo)


def test_a_version_or_bundle_that_cannot_go_in_leaves_the_checkout_alone(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = json.loads((BUNDLES / "histopathology_ldm/configs/metadata.json").read_text())
    (zoo / INFO).write_text(json.dumps({f"histopathology_ldm_v{version['version']}": {}}))
    with pytest.raises(SystemExit):
        main([str(BUNDLES), str(zoo)])
    assert "a version is submitted once, got 'histopathology_ldm'" in capsys.readouterr().err
    (zoo / INFO).unlink()
    copy = tmp_path / "bundles" / "histopathology_guidance"
    shutil.copytree(BUNDLES / "histopathology_guidance", copy)
    (copy / "LICENSE").unlink()
    with pytest.raises(ValueError, match="must be valid, got: a bundle must hold 'LICENSE'"):
        submit_bundles(tmp_path / "bundles", zoo)
    assert (zoo / EXCLUSIONS).read_text() == LISTS
    assert (zoo / "models" / "histopathology_ldm" / "old").is_file()
