"""Banks and candidates that are not as they were written are refused, by file and remedy."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from monai_histodiff import Candidates, SyntheticBank
from monai_histodiff.data.sealed import COLUMNS, _digest, _digest_values, read_sealed
from monai_histodiff.data.strict_table import read_rows
from monai_histodiff.utils.files import file_sha256

REMEDY = "(copy the folder anew|give the folder that|pass a larger max_bytes)"


def noise(count: int, side: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of two classes, ``a`` empty, and its candidates."""
    root = tmp_path_factory.mktemp("whole")
    names = ["a", "b", "=c"]
    images = {0: noise(0), 1: noise(3), 2: noise(2, seed=1)}
    SyntheticBank(images, classes=names, um_per_px=0.5).save(root / "bank")
    rows = torch.arange(4)
    candidates = Candidates(
        noise(4),
        torch.tensor([1, 1, 2, 2]),
        rows,
        torch.tensor([0.9, 0.1, float("nan"), 0.8]),
        torch.tensor([0.2, 0.3, 0.4, float("inf")]),
        rows,
        ["accepted", "low confidence", "not finite", "not finite"],  # type: ignore[list-item]
        seconds=2.5,
    )
    candidates.save(root / "candidates", names)
    return root


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def load(folder: Path) -> Any:
    kind: Any = SyntheticBank if (folder / "bank.json").exists() else Candidates
    return kind.load(folder)


def edit_json(name: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        about = json.loads((folder / name).read_text())
        for key, value in values.items():
            about.pop(key) if value is ... else about.update({key: value})
        (folder / name).write_text(json.dumps(about))

    return edit


def resized(size: list[Any]) -> Callable[[Path], None]:
    """Another size in the seal."""

    def edit(folder: Path) -> None:
        about = json.loads((folder / "bank.json").read_text())
        about["seal"]["size"] = size
        (folder / "bank.json").write_text(json.dumps(about))

    return edit


def edit_rows(change: Callable[[list[list[str]]], Any]) -> Callable[[Path], None]:
    """Change the rows of a manifest (the header is row 0), as somebody without a seal would."""

    def edit(folder: Path) -> None:
        with open(folder / "manifest.csv", newline="") as stream:
            rows = list(csv.reader(stream))
        change(rows)
        with open(folder / "manifest.csv", "w", newline="") as stream:
            csv.writer(stream).writerows(rows)

    return edit


def cell(column: str, value: str, row: int = 1) -> Callable[[Path], None]:
    return edit_rows(lambda rows: rows[row].__setitem__(rows[0].index(column), value))


def resealed(edit: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same with hashes of what is there now: the values are checked, too."""

    def both(folder: Path) -> None:
        def hashed(rows: list[list[str]]) -> None:
            place, path = rows[0].index("sha256"), rows[0].index("path")
            for row in rows[1:]:
                if (folder / row[path]).is_file():
                    row[place] = file_sha256(folder / row[path])

        edit(folder)
        edit_rows(hashed)(folder)
        (file,) = folder.glob("*.json")
        about = json.loads(file.read_text())
        with suppress(ValueError):  # a column may be lacking
            records = [row.record for row in read_rows(folder / "manifest.csv", [])]
            seal = {"sha256": _digest(records), "values": _digest_values(about)}
            edit_json(file.name, seal=about["seal"] | seal)(folder)

    return both


def write(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_bytes(change((folder / name).read_bytes())) and None
    )


def repaint(side: int = 8, mode: str = "RGB") -> Callable[[Path], None]:
    return lambda folder: Image.new(mode, (side, side)).save(folder / "1" / "000001.png")


def flip(content: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


BROKEN: list[tuple[str, Callable[[Path], None], type[Exception], str]] = [
    ("bank", lambda f: shutil.rmtree(f), FileNotFoundError, "'bank.json', got none in"),
    ("candidates", lambda f: shutil.rmtree(f), FileNotFoundError, "in a folder, got none at"),
    ("bank", lambda f: (f / "1/000001.png").unlink(), FileNotFoundError, "names '1/000001.png'"),
    ("candidates", lambda f: (f / "2/000003.png").unlink(), FileNotFoundError, "'2/000003.png'"),
    (
        "bank",
        lambda f: (f / "manifest.csv").unlink(),
        FileNotFoundError,
        "manifest.csv' must",
    ),
    ("candidates", lambda f: (f / "candidates.json").unlink(), FileNotFoundError, "hold the seal"),
    ("bank", edit_json("bank.json", seal=...), ValueError, "must have the key 'seal'"),
    ("bank", edit_json("bank.json", seal={"patches": 5}), ValueError, "must tell patches, size"),
    ("bank", resized([-8, 8]), ValueError, "must tell patches, size"),
    ("bank", resized([8.0, 8]), ValueError, "must tell patches, size"),
    ("bank", resized([True, 8]), ValueError, "must tell patches, size"),
    ("bank", resized([0, 8]), ValueError, "must tell patches, size"),
    ("bank", edit_json("bank.json", indices=...), ValueError, "must have the key 'indices', got"),
    (
        "bank",
        resealed(edit_json("bank.json", indices=[0, 1])),
        ValueError,
        r"one of the 'indices' \[0, 1\]",
    ),
    (
        "bank",
        resealed(edit_json("bank.json", indices=[0, 1, 3])),
        ValueError,
        "whole numbers up to 2",
    ),
    (
        "bank",
        resealed(edit_json("bank.json", indices=[0, 1, 1])),
        ValueError,
        "list of distinct classes",
    ),
    (
        "bank",
        resealed(edit_json("bank.json", indices=[0, 1, 2.0])),
        ValueError,
        "whole numbers up to 2",
    ),
    (
        "bank",
        resealed(edit_json("bank.json", classes=["a", "c", "b"])),
        ValueError,
        "the name of index 1",
    ),
    (
        "bank",
        resealed(edit_json("bank.json", classes=["a", "b", "b"])),
        ValueError,
        "must be distinct",
    ),
    (
        "bank",
        resealed(edit_json("bank.json", classes="abc")),
        ValueError,
        "classes must be a list",
    ),
    ("bank", edit_json("bank.json", um_per_px=-1), ValueError, "um_per_px must be a number of"),
    ("bank", write("bank.json", lambda b: b[: len(b) // 2]), ValueError, "must be whole JSON"),
    ("bank", write("bank.json", lambda b: b"[]"), ValueError, "must be a JSON object"),
    ("bank", write("bank.json", lambda b: b"\xff\xfe" + b), ValueError, "must be whole JSON"),
    ("candidates", write("candidates.json", lambda b: b[:-9]), ValueError, "must be whole JSON"),
    (
        "bank",
        write("manifest.csv", lambda b: b[: len(b) // 2]),
        ValueError,
        "cells|list the 5",
    ),
    ("bank", edit_rows(lambda rows: rows.pop()), ValueError, "must list the 5 patches .*, got 4"),
    ("candidates", edit_rows(lambda rows: rows.pop()), ValueError, "the 4 patches .*, got 3"),
    ("bank", edit_rows(lambda rows: rows.append(rows[1])), ValueError, "listed once, got '1/0"),
    ("bank", cell("confidence", "0.25"), ValueError, "rows that differ from the SHA-256"),
    ("candidates", cell("seed", "77"), ValueError, "rows that differ from the SHA-256"),
    ("bank", write("1/000001.png", flip), ValueError, "000001.png' must be as it was written"),
    ("bank", repaint(), ValueError, "000001.png' must be as it was written"),
    ("bank", resealed(repaint(16)), ValueError, "must be RGB of 8 x 8, got RGB of 16 x 16"),
    ("bank", resealed(repaint(8, "RGBA")), ValueError, "must be RGB of 8 x 8, got RGBA"),
    ("bank", resealed(write("1/000001.png", lambda b: b[:60])), ValueError, "a whole PNG picture"),
    ("bank", resealed(write("1/000001.png", lambda b: b"%!PS" + b)), ValueError, "whole PNG"),
    ("bank", resealed(write("1/000001.png", lambda b: b * 999)), ValueError, "must not exceed"),
    (
        "bank",
        resealed(cell("confidence", "1.5")),
        ValueError,
        r"\[0, 1\], got '1.5' in line 2",
    ),
    ("bank", resealed(cell("confidence", "nan")), ValueError, r"must lie in \[0, 1\], got 'nan'"),
    ("bank", resealed(cell("confidence", "?")), ValueError, "must be a number, got '\\?'"),
    ("bank", resealed(cell("seed", "1.5")), ValueError, "seed must be a whole number, got '1.5'"),
    ("bank", resealed(cell("seed", str(2**63))), ValueError, f"whole number, got '{2**63}'"),
    ("bank", resealed(cell("seed", str(-(2**63) - 1))), ValueError, "whole number, got '-9223"),
    ("bank", resealed(cell("index", "2")), ValueError, "label must be '=c', the name of index 2"),
    ("bank", resealed(cell("index", "7")), ValueError, "whole number from 0 to 2, got '7'"),
    ("bank", resealed(cell("path", "../x.png")), ValueError, "stay within the folder, got '../x"),
    ("bank", resealed(cell("path", "/etc/x.png")), ValueError, "stay within the folder"),
    ("bank", resealed(cell("seed", "", 0)), ValueError, r"columns .*, got no \['seed'\]"),
    ("candidates", resealed(cell("reason", "luck")), ValueError, "reason must be one of .*'luck'"),
    ("candidates", resealed(cell("confidence", "nan")), ValueError, "got 'nan' in line 2"),
    ("candidates", resealed(cell("distance", "-1")), ValueError, r"in \[0, inf\], got '-1'"),
    ("candidates", resealed(cell("nearest", "-1")), ValueError, "whole number from 0, got '-1'"),
    ("candidates", cell("label", "b", 3), ValueError, "rows that differ"),
]


@pytest.mark.parametrize(
    ("kind", "edit", "error", "message"), BROKEN, ids=[f"{k}-{m}" for k, _, _, m in BROKEN]
)
def test_what_is_not_as_it_was_written_is_refused(
    kind: str, edit: Callable[[Path], None], error: type[Exception], message: str, copy: Path
) -> None:
    reader: Any = {"bank": SyntheticBank, "candidates": Candidates}[kind]
    folder = copy / kind
    reader.load(folder)
    edit(folder)
    with pytest.raises(error, match=f"(?s){message}.*{REMEDY}"):
        reader.load(folder)


def test_a_link_that_leads_out_of_the_folder_is_refused(copy: Path) -> None:
    picture = copy / "bank" / "1" / "000001.png"
    picture.rename(copy / "elsewhere.png")
    picture.symlink_to(copy / "elsewhere.png")
    with pytest.raises(ValueError, match="a path must stay within the folder, got '1/000001.png'"):
        SyntheticBank.load(copy / "bank")


def test_a_byte_order_mark_is_no_harm(copy: Path) -> None:
    for name in ("bank.json", "manifest.csv"):
        write(name, lambda content: b"\xef\xbb\xbf" + content)(copy / "bank")
    assert len(SyntheticBank.load(copy / "bank")) == 5


@pytest.mark.parametrize("kind", [SyntheticBank, Candidates])
def test_pictures_must_fit_into_the_limit(kind: Any, written: Path) -> None:
    folder = written / ("bank" if kind is SyntheticBank else "candidates")
    needed = (5 if kind is SyntheticBank else 4) * 3 * 8 * 8
    kind.load(folder, max_bytes=needed)
    with pytest.raises(ValueError, match="must fit into .* bytes, got .*pass a larger max_bytes"):
        kind.load(folder, max_bytes=needed - 1)


def test_what_a_picture_would_take_is_read_from_its_header(copy: Path) -> None:
    """A few kilobytes that would take gigabytes in memory are refused undecoded."""
    picture = copy / "bank" / "1" / "000000.png"
    resized([2000, 2000])(copy / "bank")
    resealed(lambda _: Image.new("RGB", (2000, 2000)).save(picture))(copy / "bank")
    with pytest.raises(ValueError, match="must fit into 100000 bytes, got 2000 x 2000 pixels"):
        SyntheticBank.load(copy / "bank", max_bytes=100_000)


def test_texts_that_spreadsheets_run_come_back_as_they_were(written: Path) -> None:
    assert SyntheticBank.load(written / "bank").classes == ("a", "b", "=c")
    found = read_sealed(written / "candidates", "candidates.json", ("classes",), ("reason",))
    assert [row.record.label for row in found.rows] == ["b", "b", "=c", "=c"]


def test_a_set_without_patches_has_pictures_of_no_size(tmp_path: Path) -> None:
    nothing = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    SyntheticBank({0: nothing}, classes=["a"]).save(tmp_path / "bank")
    found = read_sealed(tmp_path / "bank", "bank.json", (), COLUMNS)
    assert found.images.shape == (0, 3, 0, 0) and len(found.rows) == 0


def test_the_first_patch_may_be_an_origin(written: Path, tmp_path: Path) -> None:
    made = load(written / "candidates")
    replace(made, origin=torch.tensor([0, 1, 0, 2])).save(tmp_path / "made", ["a", "b", "=c"])
    assert load(tmp_path / "made").origin.tolist() == [0, 1, 0, 2]


def test_everything_is_named_a_dtype_and_a_device(written: Path) -> None:
    """Whatever torch's defaults are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            bank, made = load(written / "bank"), load(written / "candidates")
            patch = bank.draw(1, 0.4)
            accepted = made.accepted
            again = made.bank(accepted, ["a", "b", "=c"])
    finally:
        torch.set_default_dtype(before)
    assert bank.confidence[1].dtype == made.confidence.dtype == torch.float32
    assert made.distance.dtype == again.confidence[1].dtype == torch.float32
    assert patch.image.device.type == accepted.device.type == made.labels.device.type == "cpu"
    assert torch.equal(again.images[1], noise(4)[:1]) and int(accepted.sum()) == 1


@pytest.mark.parametrize("kind", ["bank", "candidates"])
def test_values_are_sealed_but_for_the_scale(kind: str, copy: Path) -> None:
    name = f"{kind}.json"
    about = json.loads((copy / kind / name).read_text())
    edit_json(name, um_per_px=0.5)(copy / kind)  # in other white space, too
    load(copy / kind)
    value = {"provenance": {"seed": 3}} if kind == "bank" else {"seconds": 1.0}
    edit_json(name, **value)(copy / kind)
    with pytest.raises(ValueError, match=f"{name}' must be as it was written, .* (copy|make)"):
        load(copy / kind)
    about["seal"].pop("values")  # of an earlier version
    edit_json(name, seal=about["seal"])(copy / kind)
    load(copy / kind)


def test_provenance_of_any_plain_kind_is_read_back(tmp_path: Path) -> None:
    told = {"seed": 1, "by": {1: 0.1, 2: float("inf")}, "both": (1, 2)}
    SyntheticBank({0: noise(1)}, provenance=told).save(tmp_path / "bank")
    found = SyntheticBank.load(tmp_path / "bank").provenance
    assert found == {"seed": 1, "by": {"1": 0.1, "2": float("inf")}, "both": [1, 2]}
