from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import CLASSES, WritePatchSet
from making import folder_of
from PIL import Image

from monai_histodiff import PatchSet, SyntheticBank
from monai_histodiff.commands.export import facts_of, main
from monai_histodiff.data.export import card, export_patches
from monai_histodiff.data.patch_files import PatchRecord, PatchSource
from monai_histodiff.data.scale import scale_in_header

FACTS = {
    "title": 'Three "colours"',
    "licence": "CC-BY-4.0",
    "made_by": "a painter",
    "accepted": "18 of 20.",
    "verdict": "Inconclusive.",
}


def pixels(patches: PatchSet, i: int) -> np.ndarray:
    return patches[i]["image"].permute(1, 2, 0).numpy()


def check_card(text: str) -> None:
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "cc-by-4.0" and about["pretty_name"] == 'Three "colours"'
    assert "a painter" in body and "18 of 20." in body and "Inconclusive." in body
    assert "| pink | 6 |" in body and "synthetic" in body
    assert body.count("Not known.") == 2, "origin of the data, and copies"


def test_any_name_of_a_class_is_exported_in_a_folder_that_every_system_can_have(
    tmp_path: Path,
) -> None:
    names = ("Benign (normal)", "Gleason 3+4", "Gleason 3/4", "HER2+", "T|2", "..")
    rows = "".join(f"{i}.png,{name},g{i}\n" for i, name in enumerate(names))
    files = [f"{i}.png" for i in range(len(names))]
    patches = PatchSet.open(folder_of(tmp_path / "set", f"path,label,group\n{rows}", *files))
    root = export_patches(patches, tmp_path / "out", "imagefolder", FACTS)
    folders = ["%2E%2E", "Benign (normal)", "Gleason 3%2F4", "Gleason 3+4", "HER2+", "T%7C2"]
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == folders
    text = (root / "CARD.md").read_text()
    assert "`%2E%2E` holds `..`, `Gleason 3%2F4` holds `Gleason 3/4`, `T%7C2` holds `T|2`." in text
    assert "torchvision numbers" in text and "| T&#124;2 | 1 | 5 |" in text
    hub = export_patches(patches, tmp_path / "hub", "huggingface", FACTS)
    lines = (hub / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["label"] for line in lines} == set(names)
    assert all((hub / "train" / json.loads(line)["file_name"]).is_file() for line in lines)
    shard = export_patches(patches, tmp_path / "x.tar", "webdataset", FACTS)
    assert "## Folders" not in shard.with_suffix(".md").read_text(), "it has none"


def test_an_image_folder_holds_every_patch_under_its_class(
    patch_set: PatchSet, tmp_path: Path
) -> None:
    root = export_patches(patch_set, tmp_path / "out", "imagefolder", FACTS)
    # torchvision.datasets.ImageFolder: sorted folders are the classes, sorted files the samples
    folders = sorted(p.name for p in root.iterdir() if p.is_dir())
    assert tuple(folders) == CLASSES
    found = [(k, p) for k, name in enumerate(folders) for p in sorted((root / name).iterdir())]
    assert [k for k, _ in found] == sorted(patch_set.labels.tolist())
    rows = {f"{i:06d}.png": i for i in range(len(patch_set))}
    for k, path in found:
        i = rows.pop(path.name)
        assert np.array_equal(np.array(Image.open(path)), pixels(patch_set, i))
        assert int(patch_set.labels[i]) == k
    assert not rows
    check_card((root / "CARD.md").read_text())
    again = PatchSet.open(root)
    assert again.classes == CLASSES and again.counts() == patch_set.counts()


def test_a_shard_is_read_by_a_plain_tar_reader(patch_set: PatchSet, tmp_path: Path) -> None:
    path = export_patches(patch_set, tmp_path / "patches.tar", "webdataset", FACTS)
    with tarfile.open(path) as shard:
        members = [(m.name, shard.extractfile(m).read()) for m in shard]  # type: ignore[union-attr]
    assert len(members) == 3 * len(patch_set)
    for i in range(len(patch_set)):  # files of one sample follow one another, under one key
        (a, png), (b, cls), (c, text) = members[3 * i : 3 * i + 3]
        key = f"{i:06d}"
        assert (a, b, c) == (f"{key}.png", f"{key}.cls", f"{key}.json")
        assert np.array_equal(np.array(Image.open(io.BytesIO(png))), pixels(patch_set, i))
        assert int(cls) == int(patch_set.labels[i])
        assert json.loads(text)["label"] == patch_set.records[i].label
        assert json.loads(text)["stain"] == patch_set.records[i].extra["stain"]
    check_card(path.with_suffix(".md").read_text())


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_hugging_face_folder_has_its_table_and_card(patch_set: PatchSet, tmp_path: Path) -> None:
    root = export_patches(patch_set, tmp_path / "hub", "huggingface", FACTS)
    rows = lines_of(root / "train" / "metadata.jsonl")
    assert len(rows) == len(patch_set)
    for i, row in enumerate(rows):
        image = np.array(Image.open(root / "train" / row["file_name"]))
        assert np.array_equal(image, pixels(patch_set, i))
        assert (row["label"], row["group"]) == (patch_set.records[i].label, patch_set.groups[i])
    check_card((root / "README.md").read_text())


ROWS = (
    "path,label,split,group,um_per_px,note\n"
    "a.png,A,train,-P1,0.5,=1\nb.png,B,train,P2,0.97,\nc.png,A,val,P3,,x\nd.png,B,test,01,1.0,\n"
)


@pytest.fixture
def parts(tmp_path: Path) -> PatchSet:
    """Four patches of 8 px, of three parts of the split and three scales."""
    names = [f"{name}.png" for name in "abcd"]
    return PatchSet.open(folder_of(tmp_path / "parts", ROWS, *names))


def test_the_split_goes_along(parts: PatchSet, tmp_path: Path) -> None:
    root = export_patches(parts, tmp_path / "hub", "huggingface", {})
    found = {name: lines_of(root / name / "metadata.jsonl") for name in ("train", "validation")}
    assert found == {
        "train": [
            {"file_name": "A/000000.png", "label": "A", "split": "train", "group": "-P1"}
            | {"um_per_px": "0.5", "note": "=1"},
            {"file_name": "B/000001.png", "label": "B", "split": "train", "group": "P2"}
            | {"um_per_px": "0.97", "note": ""},
        ],
        "validation": [
            {"file_name": "A/000002.png", "label": "A", "split": "val", "group": "P3"}
            | {"um_per_px": "", "note": "x"},
        ],
    }
    assert (root / "test" / "B" / "000003.png").is_file()
    again = PatchSet.open(export_patches(parts, tmp_path / "plain", "imagefolder", {}))
    told = sorted((r.path.rpartition("/")[2], r.label, r.split) for r in again.records)
    assert [row[1:] for row in told] == [(r.label, r.split) for r in parts.records]
    with tarfile.open(export_patches(parts, tmp_path / "x.tar", "webdataset", {})) as shard:
        texts = [shard.extractfile(m).read() for m in shard if m.name.endswith("json")]  # type: ignore[union-attr]
    assert [json.loads(t)["split"] for t in texts] == ["train", "train", "val", "test"]
    half = PatchSet(
        parts._sources, [replace(parts.records[0], split=""), *parts.records[1:]], parts.classes
    )
    with pytest.raises(ValueError, match="for every patch or for none, got 1 of 4 without"):
        export_patches(half, tmp_path / "half", "huggingface", {})


def test_the_scale_is_that_of_the_picture(parts: PatchSet, tmp_path: Path) -> None:
    """Of 1 um: 0.5 is resampled, 0.97 counts as 1 and stays, what is not known stays unknown."""
    path = export_patches(parts.at(1.0), tmp_path / "x.tar", "webdataset", {})
    with tarfile.open(path) as shard:
        found = {m.name: shard.extractfile(m).read() for m in shard}  # type: ignore[union-attr]
    scales = [json.loads(found[f"{i:06d}.json"])["um_per_px"] for i in range(4)]
    widths = [Image.open(io.BytesIO(found[f"{i:06d}.png"])).width for i in range(4)]
    assert scales == ["1", "0.97", "", "1.0"] and widths == [4, 8, 8, 8]
    headers = [Image.open(io.BytesIO(found[f"{i:06d}.png"])).info for i in range(4)]
    told = [scale_in_header(info, "") for info in headers]
    assert told == [pytest.approx(1.0), pytest.approx(0.97, abs=1e-5), None, pytest.approx(1.0)]


def indices(path: Path) -> list[int]:
    with tarfile.open(path) as shard:
        return [int(shard.extractfile(m).read()) for m in shard if m.name.endswith("cls")]  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [("normal", "polyp", "tumour"), ()])
def test_indices_are_those_of_the_bank(names: tuple[str, ...], tmp_path: Path) -> None:
    """A class of which nothing was accepted counts, and so does 10, which is sorted before 2."""
    held = {2: 1, 10: 1} if not names else {0: 1, 1: 0, 2: 1}
    images = {k: torch.zeros(n, 3, 8, 8, dtype=torch.uint8) for k, n in held.items()}
    SyntheticBank(images, classes=names).save(tmp_path / "bank")
    main([str(tmp_path / "bank"), str(tmp_path / "x.tar"), "--format", "webdataset"])
    assert indices(tmp_path / "x.tar") == [k for k, n in held.items() if n]
    text = (tmp_path / "x.md").read_text()
    assert all(f"| {names[k] if names else k} | {n} | {k} |" in text for k, n in held.items())
    part = PatchSet.open(PatchSet.open(tmp_path / "bank").take([1]).write(tmp_path / "part"))
    export_patches(part, tmp_path / "y.tar", "webdataset", {})
    assert indices(tmp_path / "y.tar") == [max(held)], "of the bank's own manifest"
    with pytest.raises(ValueError, match="a class must have one index of its own, got"):
        export_patches(part, tmp_path / "z.tar", "webdataset", {}, part.classes)


def test_indices_are_those_of_the_results(parts: PatchSet, tmp_path: Path) -> None:
    kept = parts.take([1]).write(tmp_path / "accepted").parent
    dataset = {"path": "real.zip", "classes": ["A", "B"]}
    selection = {**RESULTS["selection"], "per_class": {"A": {"accepted": 0}, "B": {"accepted": 1}}}
    results = {**RESULTS, "dataset": dataset, "selection": selection}
    (kept / "results.json").write_text(json.dumps(results))
    main([str(kept / "accepted"), str(tmp_path / "x.tar"), "--format", "webdataset"])
    assert indices(tmp_path / "x.tar") == [1]
    with pytest.raises(ValueError, match="every class must have an index, got none for 'B'"):
        export_patches(parts, tmp_path / "y.tar", "webdataset", {}, ["A"])


def test_folders_that_torchvision_numbers_otherwise_are_told(
    parts: PatchSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = export_patches(parts, tmp_path / "out", "imagefolder", {})
    told = "gives 'B' the index 0 in 'test', which is 1 here"  # of 'test' there is B alone
    assert told in caplog.text and told in (root / "CARD.md").read_text()
    caplog.clear()
    export_patches(parts.select("train"), tmp_path / "train", "imagefolder", {})
    export_patches(parts, tmp_path / "hub", "huggingface", {})
    assert not caplog.text, "names are told there"


@pytest.mark.parametrize("name", ["file_name", "label", "group"])
def test_a_column_of_the_export_is_not_overwritten(name: str, tmp_path: Path) -> None:
    record = PatchRecord("a.png", "A", "", "g", {name: "x"})
    root = folder_of(tmp_path / "set", None, "a.png")
    patches = PatchSet([PatchSource(root)], [record], ["A"])
    with pytest.raises(ValueError, match=f"one that the export writes, got '{name}': rename it"):
        export_patches(patches, tmp_path / "out", "huggingface", {})


def test_a_card_that_is_there_is_not_overwritten(patch_set: PatchSet, tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"must be new, got '.*x\.md', which exists"):
        export_patches(patch_set, tmp_path / "x.tar", "webdataset", {})
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("path", "form", "facts", "message"),
    [
        ("out", "parquet", {}, "a form must be one of imagefolder, .* got 'parquet'"),
        ("out", "webdataset", {}, "path of a webdataset must be a file that ends in .tar"),
        ("out.tar", "huggingface", {}, "path of a huggingface must be a folder"),
        ("out", "imagefolder", {"licence": "as is"}, "a licence must be an identifier"),
        ("out", "imagefolder", {"price": "0"}, "facts of a card may be .* got price"),
        (".", "imagefolder", {}, "an export must be new, got"),
    ],
)
def test_bad_exports_are_refused_and_leave_nothing(
    path: str, form: str, facts: dict[str, str], message: str, patch_set: PatchSet, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileExistsError), match=message):
        export_patches(patch_set, tmp_path / path, form, facts)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_named_is_refused(
    patch_set: PatchSet, write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="an export must hold at least one patch, got none"):
        export_patches(patch_set[:0], tmp_path / "out", "imagefolder", {})


def test_the_card_is_safe_against_line_breaks_in_facts(patch_set: PatchSet) -> None:
    text = card(patch_set, {"title": "a\n---\nlicense: mit", "verdict": "b\n# c"})
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert "\n# c" not in text


RESULTS: dict[str, Any] = {
    "selection": {
        "accepted": 18,
        "candidates": 90,
        "threshold": 0.8,
        "reached_precision": 0.9,
        "per_class": {name: {"accepted": 6, "candidates": 30} for name in CLASSES},
    },
    "verdict": "Inconclusive: nothing.",
    "dataset": {"path": "real.zip"},
    "settings": {"labels_per_class": 25},
    "versions": {"monai-histodiff": "1.2"},
    "sampling": {"strength": 0.6},
}


def test_the_command_tells_on_the_card_what_the_verdict_found(
    write_patch_set: WritePatchSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_patch_set(tmp_path / "accepted")
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    main([str(tmp_path / "accepted"), str(tmp_path / "hf"), "--format", "huggingface"])
    assert "18 patches as huggingface" in capsys.readouterr().out
    text = (tmp_path / "hf" / "README.md").read_text()
    for words in (
        "18 of 90 candidates",
        "Inconclusive: nothing.",
        "real.zip",
        "variations of real",
    ):
        assert words in text
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "accepted"), str(tmp_path / "hf")])
    assert stop.value.code == 1 and "an export must be new" in capsys.readouterr().err


def test_the_card_of_each_set_of_a_verdict_has_its_own_numbers(
    write_patch_set: WritePatchSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(accepted: int, copies: int) -> dict[str, Any]:
        classes = {name: {"accepted": accepted, "pictures": 40} for name in CLASSES}
        told = {"accepted": 3 * accepted, "pictures": 120, "copies": copies, "usual": 0.02}
        return {**told, "classes": classes}

    claims = {"G2-C": {"sentence": "The second one helps."}}
    results = {**RESULTS, "foreign": {"sets": [part(9, 1), part(6, 77)]}, "claims": claims}
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_patch_set(tmp_path / "second" / "accepted")
    write_patch_set(tmp_path / "elsewhere")
    for at, further in (
        ("second/accepted", []),
        ("elsewhere", ["--results", str(tmp_path / "results.json")]),
    ):
        target = tmp_path / f"out-{len(further)}"
        main([str(tmp_path / at), str(target), *further])
        text = (target / "CARD.md").read_text()
        for words in ("18 of 120 candidates were accepted", "77 of 120", "The second one helps."):
            assert words in text
        assert "Inconclusive: nothing." not in text
    results["foreign"]["sets"].pop()
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "second/accepted"), str(tmp_path / "out")])
    assert "results must be those of the patches, got {'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_foreign_set_is_not_said_to_be_made_by_us() -> None:
    told = {"copies": 3, "pictures": 9, "usual": 0.02}
    facts = facts_of({**RESULTS, "foreign": {"sets": [told]}})
    assert "made_by" not in facts and facts["copies"].startswith("3 of 9 candidates")
    assert facts_of(RESULTS)["made_by"] == "monai-histodiff 1.2."
