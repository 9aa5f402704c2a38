"""Patch files decode alike whatever the format; splits and draws keep their promises; bad input is
named.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.transforms import Transform
from PIL import Image

from monai_histodiff import PatchSet
from monai_histodiff.data.patch_files import PatchRecord, PatchSource, write_patches
from monai_histodiff.data.patch_set import patch_hash
from monai_histodiff.data.pictures import decode_patch
from monai_histodiff.utils.files import write_json

HEADER = "path,label,split,group"


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    """A smooth picture that equals none of its flips and turns."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 5 * x, 30 + 8 * y, 200 - 3 * x - y], 2).clip(0, 255).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, form, **options)
    return stream.getvalue()


def nifti(array: np.ndarray, name: str, folder: Path) -> bytes:
    """The file of an array whose axes are ``x, y, ...``, as every NIfTI file has them."""
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 1, 1])), folder / name)
    return (folder / name).read_bytes()


def deep_png(array: np.ndarray) -> bytes:
    """A PNG file of 16 bits per channel, which pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def folder_of(root: Path, manifest: str | bytes | None, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(np.full((8, 8, 3), i, np.uint8), "PNG"))
    root.mkdir(exist_ok=True)
    if manifest is not None:
        (root / "manifest.csv").write_bytes(
            manifest.encode() if isinstance(manifest, str) else manifest
        )
    return root


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def records(sizes: dict[str, list[int]], shared: bool = False) -> list[PatchRecord]:
    """One record for each patch of groups of the given sizes by class; groups of all classes share
    their names if wanted.
    """
    return [
        PatchRecord(f"{label}/{g}-{i}.png", label, "", f"{'' if shared else label}{g}")
        for label, groups in sizes.items()
        for g, size in enumerate(groups)
        for i in range(size)
    ]


def paths(patches: PatchSet) -> list[str]:
    return [r.path for r in patches.records]


# -------------------------------------------------------------------------------------------------
# --------------- pictures


@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        "A.PNG",
        "a.tif",
        "a.tiff",
        "a.jpg",
        "a.jpeg",
        "a.nii",
        "a.nii.gz",
        "b.nii",
        "c.nii",
    ],
)
def test_every_format_decodes_to_the_same_picture(name: str, tmp_path: Path) -> None:
    truth = gradient()
    xy = truth.swapaxes(0, 1)
    content = {
        "png": lambda: encoded(truth, "PNG"),
        "tif": lambda: encoded(truth, "TIFF"),
        "tiff": lambda: encoded(truth, "TIFF", compression="tiff_lzw"),
        "jpg": lambda: encoded(truth, "JPEG", quality=98, subsampling=0),
        "jpeg": lambda: encoded(truth, "JPEG", quality=98, subsampling=0, progressive=True),
        "gz": lambda: nifti(xy, name, tmp_path),
        "nii": lambda: nifti(
            {"a": xy, "b": xy[:, :, None], "c": xy[:, :, None].astype(np.float32)}[name[0]],
            name,
            tmp_path,
        ),
    }[name.lower().split(".")[-1]]()
    found = decode_patch(content, name)
    assert found.dtype == np.uint8 and found.shape == (24, 40, 3)
    assert np.abs(found.astype(int) - truth).max() <= (4 if "jp" in name else 0)


GREY = Image.fromarray(gradient()[..., 0])
COLOUR = Image.fromarray(gradient())
FLOAT = np.full((5, 4, 3), 0.5, np.float32)
BAD_PICTURES: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "grey": (
        "x.png",
        lambda _: encoded(GREY, "PNG"),
        r"must be RGB, .* got L of shape \(24, 40\) in 'x.png'",
    ),
    "grey jpeg": ("x.jpg", lambda _: encoded(GREY, "JPEG"), "must be RGB"),
    "palette": ("x.png", lambda _: encoded(COLOUR.convert("P"), "PNG"), "got P of shape"),
    "rgba": (
        "x.png",
        lambda _: encoded(COLOUR.convert("RGBA"), "PNG"),
        r"got RGBA of shape \(24, 40, 4\)",
    ),
    "cmyk": ("x.jpg", lambda _: encoded(COLOUR.convert("CMYK"), "JPEG"), "got CMYK of shape"),
    "ycbcr": (
        "x.tif",
        lambda _: encoded(COLOUR.convert("YCbCr"), "TIFF"),
        r"got YCbCr of shape \(24, 40, 3\)",
    ),
    "grey 16-bit": (
        "x.png",
        lambda _: encoded(np.full((8, 8), 900, np.uint16), "PNG"),
        "got .*16.* of shape",
    ),
    "rgb 16-bit": (
        "x.png",
        lambda _: deep_png(np.full((8, 8, 3), 900)),
        "got 16-bit RGB of shape",
    ),
    "nifti beyond 8 bits": (
        "x.nii",
        lambda p: nifti(np.full((5, 4, 3), 300, np.int16), "x.nii", p),
        "from 0 to 255, got 300",
    ),
    "nifti negative": (
        "x.nii",
        lambda p: nifti(np.full((5, 4, 3), -1, np.int16), "x.nii", p),
        "from 0 to 255, got -1",
    ),
    "nifti fraction": (
        "x.nii",
        lambda p: nifti(FLOAT, "x.nii", p),
        "whole numbers from 0 to 255, got 0.5",
    ),
    "nifti nan": (
        "x.nii",
        lambda p: nifti(FLOAT * np.nan, "x.nii", p),
        "whole numbers from 0 to 255, got nan",
    ),
    "nifti grey": (
        "x.nii",
        lambda p: nifti(FLOAT[..., 0], "x.nii", p),
        r"got NIfTI of shape \(5, 4\)",
    ),
    "nifti volume": (
        "x.nii",
        lambda p: nifti(np.zeros((5, 4, 6, 3), np.uint8), "x.nii", p),
        "must be RGB",
    ),
    "cut png": (
        "x.png",
        lambda _: encoded(COLOUR, "PNG")[:-200],
        "must be a readable picture, got 'x.png'",
    ),
    "cut jpeg": (
        "x.jpg",
        lambda _: encoded(COLOUR, "JPEG")[:-200],
        "must be a readable picture, got 'x.jpg'",
    ),
    "cut nifti": (
        "x.nii.gz",
        lambda p: nifti(np.zeros((5, 4, 3), np.uint8), "x.nii.gz", p)[:40],
        "must be a readable picture",
    ),
    "text": ("x.png", lambda _: b"no picture", "must be a readable picture, got 'x.png'"),
    "empty": ("x.jpg", lambda _: b"", "must be a readable picture, got 'x.jpg'"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_picture_that_is_no_patch_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_PICTURES[case]
    with pytest.raises(ValueError, match=message):
        decode_patch(content(tmp_path), name)


# -------------------------------------------------------------------------------------------------
# ---------------- sources


def test_class_folders(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "lung", None, "acc/1.png", "deeper/acc/2.png", "norm/3.png", "stray.png"
    )
    (root / "norm" / "notes.txt").write_text("not a picture")
    (root / "norm" / ".hidden.png").write_bytes(b"left by a file browser")
    patches = PatchSet.open(root)
    assert patches.classes == ("acc", "norm") and paths(patches) == [
        "acc/1.png",
        "deeper/acc/2.png",
        "norm/3.png",
    ]
    assert patches.labels.tolist() == [0, 0, 1] and patches.counts() == {"acc": 2, "norm": 1}
    assert len(set(patches.groups)) == 3, "each file is its own group"
    assert {r.split for r in patches.records} == {""}


@pytest.mark.parametrize("as_zip", [False, True])
def test_manifest_in_folder_and_zip(as_zip: bool, tmp_path: Path) -> None:
    rows = ["a.png,B,train,p1,x", "sub/b.png,A,test,p2,", 'c.png,,,"p, 3",y']
    root = folder_of(
        tmp_path / "set",
        "\ufeff" + "\n".join([HEADER + ",stain", *rows]) + "\n",
        "a.png",
        "sub/b.png",
        "c.png",
        "not-listed.png",
    )
    source = zipped(root, tmp_path / "set.zip") if as_zip else root
    patches = PatchSet.open(str(source))
    assert [(r.path, r.label, r.split, r.group, dict(r.extra)) for r in patches.records] == [
        ("a.png", "B", "train", "p1", {"stain": "x"}),
        ("sub/b.png", "A", "test", "p2", {"stain": ""}),
        ("c.png", "", "", "p, 3", {"stain": "y"}),
    ]
    assert patches.classes == ("A", "B") and patches.labels.tolist() == [1, 0, -1]
    item = patches[1]
    assert (
        item["image"].dtype == torch.uint8
        and item["image"].shape == (3, 8, 8)
        and bool((item["image"] == 1).all())
    )
    assert {k: v for k, v in item.items() if k != "image"} == {
        "label": 0,
        "label_name": "A",
        "group": "p2",
        "path": "sub/b.png",
    }
    assert patches[-1]["label"] == -1


def test_image_is_channel_first_and_upright(tmp_path: Path) -> None:
    write_patches(tmp_path / "set", [(PatchRecord("a.png", "A", "", "g"), gradient())])
    image = PatchSet.open(tmp_path / "set")[0]["image"]
    assert torch.equal(image, torch.from_numpy(gradient()).permute(2, 0, 1))
    image += 1  # the tensor is the caller's own


def test_several_sources_are_one_set(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "one", f"{HEADER}\na.png,B,train,g1\n", "a.png")
    second = zipped(
        folder_of(tmp_path / "two", f"{HEADER}\na.png,A,test,g2\n", "b.png", "a.png"),
        tmp_path / "two.zip",
    )
    patches = PatchSet.open([first, second])
    assert patches.classes == ("A", "B") and patches.labels.tolist() == [1, 0]
    assert [int(patches[i]["image"].max()) for i in range(2)] == [0, 1], (
        "each patch comes from its own source"
    )
    part = patches.select("test")
    assert (
        len(part) == 1
        and part.classes == ("A", "B")
        and int(part[0]["image"].max()) == 1
        and part[0]["label"] == 0
    )


MANIFEST_FAULTS: dict[str, tuple[str | bytes, type[Exception], str]] = {
    "columns": (
        "path,label\na.png,A\n",
        ValueError,
        r"must have the columns .* got none named \['split', 'group'\]",
    ),
    "no header": ("", ValueError, "must have the columns"),
    "no rows": (f"{HEADER}\n", ValueError, "must list at least one patch"),
    "missing file": (
        f"{HEADER}\nz.png,A,train,g\n",
        FileNotFoundError,
        "names 'z.png', which is not there",
    ),
    "outside": (f"{HEADER}\n../set/a.png,A,train,g\n", FileNotFoundError, "which is not there"),
    "duplicate": (
        f"{HEADER}\na.png,A,train,g\na.png,A,train,g\n",
        ValueError,
        "list each path once, got 'a.png' twice",
    ),
    "split": (
        f"{HEADER}\na.png,A,val,g\n",
        ValueError,
        "split must be 'train', 'test' or empty, got 'val' for 'a.png'",
    ),
    "straddling": (
        f"{HEADER}\na.png,A,train,g7\nb.png,A,test,g7\n",
        ValueError,
        "one split only, got 1 that straddle, such as 'g7'",
    ),
    "half straddling": (
        f"{HEADER}\na.png,A,train,g7\nb.png,A,,g7\n",
        ValueError,
        "straddle, such as 'g7'",
    ),
    "no group": (
        f"{HEADER}\na.png,A,train,\n",
        ValueError,
        "must name its group, got none for 'a.png'",
    ),
    "short row": (f"{HEADER}\na.png,A\n", ValueError, "must name its group, got none for 'a.png'"),
    "long row": (
        f"{HEADER}\na.png,A,train,g,H&E\n",
        ValueError,
        r"not have more cells than the header, got \['H&E'\]",
    ),
    "encoding": (
        "path,label,split,group\na.png,\xe9,train,g\n".encode("latin-1"),
        ValueError,
        "a manifest must be UTF-8",
    ),
}


@pytest.mark.parametrize("case", MANIFEST_FAULTS)
def test_broken_manifest_is_named(case: str, tmp_path: Path) -> None:
    manifest, kind, message = MANIFEST_FAULTS[case]
    root = folder_of(tmp_path / "set", manifest, "a.png", "b.png")
    for source in (root, zipped(root, tmp_path / "set.zip")):
        with pytest.raises(kind, match=message):
            PatchSet.open(source)


def test_columns_in_any_order_and_a_row_without_its_last_cell(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "set",
        "group,path,split,label\ng1,a.png,train\ng2,b.png,train,A\n",
        "a.png",
        "b.png",
    )
    assert PatchSet.open(root).labels.tolist() == [-1, 0]


def test_group_must_not_straddle_sources(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "one", f"{HEADER}\na.png,A,train,patient 7\n", "a.png")
    second = folder_of(tmp_path / "two", f"{HEADER}\na.png,A,test,patient 7\n", "a.png")
    with pytest.raises(ValueError, match="straddle, such as 'patient 7'"):
        PatchSet.open([first, second])


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset_dir must exist, got '.*none'"):
        PatchSet.open(tmp_path / "none")
    (tmp_path / "file.txt").write_text("no zip")
    with pytest.raises(ValueError, match="must be a folder or a zip, got '.*file.txt'"):
        PatchSet.open(tmp_path / "file.txt")
    for root in (folder_of(tmp_path / "empty", None), folder_of(tmp_path / "flat", None, "a.png")):
        with pytest.raises(
            ValueError, match="must hold a manifest.csv or class folders with pictures, got"
        ):
            PatchSet.open(root)


def test_manifest_below_the_top_is_not_overlooked(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", f"{HEADER}\nimages/a.png,A,train,g\n", "images/a.png")
    with pytest.raises(
        ValueError, match="manifest.csv must lie at the top of '.*set.zip', got 'set/manifest.csv'"
    ):
        PatchSet.open(zipped(root, tmp_path / "set.zip", "set/"))


def test_zip_made_on_a_mac(tmp_path: Path) -> None:
    path = zipped(
        folder_of(tmp_path / "set", None, "A/a.png", "B/b.png"), tmp_path / "set.zip", "set/"
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/set/A/._a.png", b"a resource fork")
    patches = PatchSet.open(path)
    assert paths(patches) == ["set/A/a.png", "set/B/b.png"] and patches.classes == ("A", "B")


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "A/../../evil.png"])
def test_names_that_lead_out_of_a_zip_are_not_followed(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, encoded(gradient(), "PNG"))
        archive.writestr("manifest.csv", f"{HEADER}\n{name},A,train,g\n")
    with pytest.raises(FileNotFoundError, match="which is not there"):
        PatchSet.open(tmp_path / "evil.zip")


# -------------------------------------------------------------------------------------------------
# -------- splits and draws


SIZES = {"A": [3] * 12, "B": [1, 9, 2, 2, 5, 1, 1], "C": [4, 4], "": [2] * 9}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.7])
def test_hold_out_is_disjoint_stratified_and_reproducible(fraction: float, shared: bool) -> None:
    patches = PatchSet([], records(SIZES, shared), ["A", "B", "C"])
    draws = []
    for seed in range(20):
        kept, held = patches.hold_out(fraction, seed)
        assert not set(kept.groups) & set(held.groups)
        assert (
            sorted(paths(kept) + paths(held)) == sorted(paths(patches))
            and kept.classes == held.classes == patches.classes
        )
        for label, groups in SIZES.items():
            n = sum(r.label == label for r in held.records)
            assert 0 < n < sum(groups), f"class '{label}' must be on both sides"
            if not shared:  # as many as asked for, up to one group
                assert n < fraction * sum(groups) + max(groups)
                assert (
                    n >= fraction * sum(groups)
                    or len({r.group for r in kept.records if r.label == label}) == 1
                )
        assert [paths(p) for p in patches.hold_out(fraction, seed)] == [paths(kept), paths(held)]
        draws.append(tuple(paths(held)))
    assert len(set(draws)) > 5, "another seed must give another draw"


def test_hold_out_leaves_no_class_without_a_group() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = [
            PatchRecord(
                f"{i}.png",
                str(rng.choice(["A", "B", "C"], p=[0.7, 0.2, 0.1])),
                "",
                f"g{rng.integers(8)}",
            )
            for i in range(60)
        ]
        if min(len({r.group for r in rows if r.label == c}) for c in "ABC") < 2:
            continue
        for part in PatchSet([], rows, "ABC").hold_out(0.3, seed):
            assert min(part.counts().values()) > 0, (seed, part.counts())


def test_hold_out_that_cannot_be_is_refused() -> None:
    rows = [
        PatchRecord(f"{i}.png", label, "", group)
        for i, (label, group) in enumerate(["A1", "A2", "B1", "B3", "C2", "C3"])
    ]
    # whichever group is held out for A, one of its classes keeps a single group; the last class
    # then has none to give
    with pytest.raises(
        ValueError, match="no group of class '.' can be held out without emptying another"
    ):
        PatchSet([], rows, "ABC").hold_out(0.5)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction must lie between 0 and 1, got {fraction}"):
        PatchSet([], records(SIZES), "ABC").hold_out(fraction)


def test_class_with_one_group_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least 2 groups to be split, got 1 in 'B'"):
        PatchSet([], records({"A": [1, 1], "B": [5]}), "AB").with_split()


def test_with_split_names_both_sides_and_respects_a_recorded_split() -> None:
    patches = PatchSet([], records(SIZES), "ABC")
    split = patches.with_split(0.3, seed=4)
    kept, held = patches.with_labels().hold_out(0.3, seed=4)
    for side, part in (("train", kept), ("test", held)):
        assert sorted(paths(split.select(side).with_labels())) == sorted(paths(part))
    assert not split.select("")
    assert split.with_split(0.5, seed=9) is split
    assert [len(split.select("test", c)) for c in "ABC"] == [held.counts()[c] for c in "ABC"]


def test_unlabelled_patches_go_where_their_group_goes() -> None:
    labelled = records({"A": [2, 2, 2, 2], "B": [2, 2, 2, 2]})
    beside = [PatchRecord(f"u{i}.png", "", "", r.group) for i, r in enumerate(labelled)]
    alone = [PatchRecord(f"slide{i}.png", "", "", "one slide") for i in range(40)]
    split = PatchSet([], [*labelled, *beside, *alone], "AB").with_split(0.25, seed=1)
    assert len(split) == 72 and not split.select("")
    test, train = split.select("test"), split.select("train")
    assert test.counts() == {"A": 2, "B": 2} and len(test) == 8, (
        "two of each class, and as many unlabelled ones of their groups"
    )
    assert not set(test.groups) & set(train.groups) and "one slide" in train.groups
    assert int(test.with_labels().labels.min()) == 0 and len(test.with_labels()) == 4
    blind = PatchSet([], [replace(r, label="") for r in labelled], "AB").with_split(0.25, seed=1)
    assert len(blind.select("test")) == 4, "without any label all patches count alike"


@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_few_is_exact_and_spread_over_groups(k: int) -> None:
    sizes = {"A": [1] * 30, "B": [9, 1, 1, 9], "C": [20]}
    patches = PatchSet([], records(sizes), "ABC")
    draws = set()
    for seed in range(8):
        few = patches.few(k, seed)
        assert few.counts() == {"A": k, "B": k, "C": k} and len(set(paths(few))) == 3 * k
        assert paths(few) == paths(patches.few(k, seed))
        for label, groups in sizes.items():
            taken = Counter(int(r.group[1:]) for r in few.records if r.label == label)
            left = [
                taken[g] for g, size in enumerate(groups) if taken[g] < size
            ]  # groups that had more to give
            assert not left or max(taken.values()) <= min(left) + 1, (
                "a group gives a second patch only after all gave one"
            )
        draws.add(tuple(paths(few)))
    assert len(draws) == 8, "another seed must give another draw"


def test_few_refuses_what_cannot_be() -> None:
    patches = PatchSet([], records({"A": [4], "B": [3, 3]}), ["A", "B", "C"])
    wrong: list[tuple[Any, str]] = [
        (0, "must be 'all', a share such as '5%', or at least 1, got 0"),
        (1.5, "got 1.5"),
        ("25", "got '25'"),
        (5, "'A' has 4 patches"),
    ]
    for number, message in wrong:
        with pytest.raises(ValueError, match=f"^labels_per_class .*{message}"):
            patches.few(number)
    with pytest.raises(ValueError, match=r"at least 2 classes are needed, got 1: \['B'\]"):
        patches.select(label="B").few(1)
    with pytest.raises(ValueError, match="class 'C' has 0 patches"):
        patches.few(1)
    with pytest.raises(ValueError, match=r"at least 2 classes are needed, got 0: \[\]"):
        PatchSet([], [], []).few("all")


def test_few_all_keeps_every_labelled_patch() -> None:
    patches = PatchSet([], records(SIZES), ["A", "B", "C"])
    few = patches.few("all")
    assert (
        paths(few) == [r.path for r in patches.records if r.label] and int(few.labels.min()) == 0
    )


def test_weights_keep_large_groups_from_drowning_small_ones() -> None:
    patches = PatchSet([], records({"A": [4, 1]}), "A")
    assert patches.weights().tolist() == [0.5] * 4 + [1.0]
    assert patches.weights(1.0).tolist() == [0.25] * 4 + [1.0]
    assert patches.weights(0.0).tolist() == [1.0] * 5


def test_images_of_one_size(tmp_path: Path) -> None:
    items = [
        (PatchRecord(f"{i}.png", "A", "", f"{i}"), np.full((8 + 2 * (i == 2), 12, 3), i, np.uint8))
        for i in range(3)
    ]
    patches = PatchSet.open(write_patches(tmp_path / "set", items))
    stack = patches[:2].images(least=8)
    assert (
        stack.dtype == torch.uint8
        and stack.shape == (2, 3, 8, 12)
        and stack[:, 0, 0, 0].tolist() == [0, 1]
    )
    with pytest.raises(
        ValueError, match=r"one size, got \(8, 12\) in '0.png' and \(10, 12\) in '2.png'"
    ):
        patches.images()
    with pytest.raises(ValueError, match=r"at least 9 x 9, got \(8, 12\)"):
        patches[:2].images(least=9)
    with pytest.raises(ValueError, match="at least one patch, got none"):
        patches[:0].images()


# -------------------------------------------------------------------------------------------------
# ---------------- writing


def test_write_copies_byte_for_byte(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "set",
        f'{HEADER},note\na.png,A,train,g1,\nsub/b.png,,test,g2,"x, ""y"""\n',
        "a.png",
        "sub/b.png",
    )
    (root / "a.png").write_bytes(b"these bytes are not even a picture")
    patches = PatchSet.open(zipped(root, tmp_path / "set.zip"))
    copy = patches.write(tmp_path / "new" / "copy")
    assert PatchSet.open(copy).records == patches.records
    for name in ("a.png", "sub/b.png"):
        assert (copy / name).read_bytes() == (root / name).read_bytes()
    part = PatchSet.open(patches.select("test").write(tmp_path / "part"))
    assert paths(part) == ["sub/b.png"] and not (tmp_path / "part" / "a.png").exists()


def test_write_keeps_patches_of_several_sources_apart(tmp_path: Path) -> None:
    roots = [
        folder_of(tmp_path / name, f"{HEADER}\na.png,{name},train,{name}\n", "a.png")
        for name in ("A", "B")
    ]
    (roots[1] / "a.png").write_bytes(encoded(np.full((8, 8, 3), 7, np.uint8), "PNG"))
    copy = PatchSet.open(PatchSet.open(roots).write(tmp_path / "copy"))
    assert [(r.label, r.group) for r in copy.records] == [("A", "A"), ("B", "B")]
    assert [int(copy[i]["image"].max()) for i in range(2)] == [0, 7]


def test_failing_write_leaves_nothing(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png", "B/b.png")
    patches = PatchSet.open(root)
    (root / "B" / "b.png").unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError):
        patches.write(tmp_path / "out" / "copy")
    assert not list((tmp_path / "out").iterdir())
    twice = [(PatchRecord("a.png", "A", "", g), gradient()) for g in "12"]
    with pytest.raises(ValueError, match="its own path, got 'a.png' twice"):
        write_patches(tmp_path / "out" / "copy", twice)
    assert not list((tmp_path / "out").iterdir())


def test_write_needs_a_new_or_empty_folder(tmp_path: Path) -> None:
    patches = PatchSet.open(folder_of(tmp_path / "set", None, "A/a.png"))
    (tmp_path / "empty").mkdir()
    patches.write(tmp_path / "empty")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == ["A", "manifest.csv"]
    before = (tmp_path / "empty" / "manifest.csv").read_bytes()
    with pytest.raises(
        FileExistsError,
        match="must be written into a new folder, got '.*empty', which is not empty",
    ):
        patches.write(tmp_path / "empty")
    assert (tmp_path / "empty" / "manifest.csv").read_bytes() == before


def test_write_json_is_all_or_nothing(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "a.json", {"a": [1, 2.5], "é": None})
    assert json.loads(path.read_text()) == {"a": [1, 2.5], "é": None}
    with pytest.raises(TypeError):
        write_json(path, {"a": torch.zeros(1)})
    assert json.loads(path.read_text())["a"] == [1, 2.5] and [
        p.name for p in path.parent.iterdir()
    ] == ["a.json"]


# -------------------------------------------------------------------------------------------------
# MONAI's datasets, workers


@pytest.fixture(scope="module")
def zip_set(
    write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> PatchSet:
    root = tmp_path_factory.mktemp("zip")
    return PatchSet.open(zipped(write_patch_set(root / "set", per_class=16), root / "set.zip"))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_two_workers_read_one_zip(context: str, zip_set: PatchSet) -> None:
    truth = [
        zip_set[i] for i in range(len(zip_set))
    ]  # the zip is open here before the workers start
    loader = DataLoader(
        Dataset(zip_set), batch_size=3, num_workers=2, multiprocessing_context=context
    )
    seen = 0
    for batch in loader:
        for image, label, path in zip(batch["image"], batch["label"], batch["path"], strict=True):
            assert path == truth[seen]["path"] and int(label) == truth[seen]["label"]
            assert torch.equal(torch.as_tensor(image), truth[seen]["image"])
            seen += 1
    assert seen == len(truth) == 48


def test_cached_datasets_over_a_patch_set(zip_set: PatchSet, tmp_path: Path) -> None:
    reads = []

    class Note(Transform):  # MONAI caches the results of its own kind only
        def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
            reads.append(data["path"])
            return data

    part = zip_set[:5]
    for make in (
        lambda: CacheDataset(part, Note(), num_workers=1, progress=False),
        lambda: PersistentDataset(
            part, Note(), cache_dir=tmp_path / "cache", hash_func=patch_hash
        ),
    ):
        reads.clear()
        cached = make()
        for _ in range(2):
            for i in range(5):
                truth, item = part[i], cached[i]
                assert torch.equal(torch.as_tensor(item["image"]), truth["image"])
                assert [item[k] for k in ("label", "group", "path")] == [
                    truth[k] for k in ("label", "group", "path")
                ]
        assert sorted(reads) == sorted(paths(part)), "each patch is read once"


def test_patch_hash_tells_content_apart(zip_set: PatchSet) -> None:
    item = zip_set[0]
    assert patch_hash(item) == patch_hash(zip_set[0])
    changed = item["image"].clone()
    changed[0, 0, 0] ^= 1
    others = [
        {**item, "image": changed},
        {**item, "image": item["image"].flatten(1)},
        {**item, "label": 2},
        {**item, "path": "x"},
    ]
    assert len({patch_hash(other) for other in [item, *others]}) == 5


def test_slices_and_negative_indices(zip_set: PatchSet) -> None:
    assert paths(zip_set[2:8:3]) == [paths(zip_set)[i] for i in (2, 5)]
    assert zip_set[-1]["path"] == paths(zip_set)[-1]
    assert len(list(zip_set[:4])) == 4
    with pytest.raises(IndexError):
        zip_set[len(zip_set)]
    assert math.isclose(len(zip_set.select(label="pink")), len(zip_set) / 3)


def test_source_reads_what_it_lists(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", None, "A/a.png")
    for source in (PatchSource(root), PatchSource(zipped(root, tmp_path / "set.zip"))):
        assert (
            source.names == ["A/a.png"]
            and source.read("A/a.png") == (root / "A" / "a.png").read_bytes()
        )


def test_without_is_the_rest(patch_set: PatchSet) -> None:
    drawn = patch_set.few(2)
    rest = patch_set.without(drawn)
    assert {r.path for r in rest.records} == {r.path for r in patch_set.records} - {
        r.path for r in drawn.records
    }
    assert (
        len(rest) == 12
        and rest.classes == patch_set.classes
        and len(patch_set.without(patch_set)) == 0
    )


def test_extension_keeps_the_order_and_draws_only_what_is_new() -> None:
    patches = PatchSet([], records(SIZES), ["A", "B", "C"])
    first = patches.few(2, seed=1)
    more = first.extend(patches, 5, seed=3)
    assert more.records[: len(first)] == first.records and len(more) == len(first) + 5
    assert len({r.path for r in more.records}) == len(more)
    assert (
        more.records
        == first.extend(patches, 5, seed=3).records
        != first.extend(patches, 5, seed=4).records
    )
    assert (
        len(first.extend(patches, 10**6)) == len(patches)
        and first.extend(patches, 0).records == first.records
    )


def test_a_share_of_each_class_is_rounded_up() -> None:
    patches = PatchSet([], records(SIZES), ["A", "B", "C"])
    for share, text in ((0.05, "5%"), (0.125, "12.5%"), (1.0, "100%")):
        assert patches.few(text).counts() == {
            name: math.ceil(share * n) for name, n in patches.counts().items()
        }


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7%"), (14, "14%"), (28, "28%"), (55, "55%"), (56, "56%"), (58, "57.1%")],
)
def test_a_share_is_exact_before_it_is_rounded(number: int, text: str) -> None:
    patches = PatchSet([], records({"A": [1] * 100, "B": [1] * 100}), "AB")
    assert patches.few(text).counts() == {"A": number, "B": number}


def test_no_source_is_refused() -> None:
    with pytest.raises(ValueError, match="a patch set needs at least one folder or zip, got none"):
        PatchSet.open([])


@pytest.mark.parametrize("wanted", ["0%", "101%", "five", "5 %", "%", 0, -1])
def test_impossible_shares_are_refused(wanted: int | str) -> None:
    with pytest.raises(
        ValueError,
        match=r"labels_per_class must be 'all', a share such as '5%', or at least 1, got",
    ):
        PatchSet([], records(SIZES), ["A", "B", "C"]).few(wanted)
