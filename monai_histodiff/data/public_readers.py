"""How the files of public sets are laid out: each reader gives every patch with its class and
group.

A reader takes the files by name and yields pairs of a record and a function that reads its
picture: file bytes, or a uint8 ``H x W x 3`` array. The function is valid until the next pair is
asked for.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from monai_histodiff.data.patch_files import PatchRecord
from monai_histodiff.utils.files import whole_file

__all__ = [
    "Patches",
    "Reader",
    "read_bach",
    "read_breakhis",
    "read_kather",
    "read_lc25000",
    "read_mhist",
    "read_nct",
    "read_pathmnist",
    "read_pcam",
]

Content = bytes | NDArray[np.uint8]
Patches = Iterator[tuple[PatchRecord, Callable[[], Content]]]
Reader = Callable[[Mapping[str, Path]], Patches]
PATHMNIST = (
    *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle"),
    *("normal colon mucosa", "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
)
BREAKHIS = {
    **{"A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "TA": "tubular_adenoma"},
    **{"DC": "ductal_carcinoma", "LC": "lobular_carcinoma"},
    **{"MC": "mucinous_carcinoma", "PC": "papillary_carcinoma"},
}
BREAKHIS_NAME = re.compile(r"SOB_[BM]_([A-Z]+)-(\d+-[^-]+)-(\d+)-\d+\.png$")
ROWS = 256  # pictures of an array read at once


def _zipped(path: Path, pattern: str) -> Iterator[tuple[re.Match[str], Callable[[], bytes]]]:
    """The files of a zip whose path ends as the pattern says, in alphabetical order."""
    with zipfile.ZipFile(path) as archive:
        found = 0
        for name in sorted(archive.namelist()):
            match = re.search(f"(?:^|/){pattern}$", name)
            if match and not name.startswith("__MACOSX") and "/._" not in name:
                found += 1
                yield match, lambda name=name: archive.read(name)  # type: ignore[misc]
    if not found:
        raise ValueError(f"the zip must hold files such as '{pattern}', got none in '{path}'")


def read_nct(files: Mapping[str, Path]) -> Patches:
    """NCT-CRC-HE-100K for training and CRC-VAL-HE-7K for testing: ``<class>/<name>.tif``."""
    for file, path in files.items():
        split = "test" if file.startswith("CRC-VAL") else "train"
        for match, read in _zipped(path, r"([A-Z]+)/([^/]+\.tif)"):
            label, name = match.groups()
            yield (
                PatchRecord(f"{split}/{label}/{name}", label, split, f"{split}/{name[:-4]}"),
                read,
            )


def read_kather(files: Mapping[str, Path]) -> Patches:
    """Kather 2016: ``01_TUMOR/10009_CRC-Prim-HE-03_009.tif_Row_301_Col_151.tif``; group: slide."""
    (path,) = files.values()
    for match, read in _zipped(path, r"\d\d_([A-Z]+)/([^/]*(CRC-Prim-HE-\d+)[^/]*\.tif)"):
        label, name, slide = match.groups()
        yield PatchRecord(f"{label}/{name}", label, "", slide), read


def read_bach(files: Mapping[str, Path]) -> Patches:
    """BACH: ``Photos/<class>/<name>.tif``."""
    (path,) = files.values()
    for match, read in _zipped(path, r"Photos/(Normal|Benign|InSitu|Invasive)/([^/]+\.tif)"):
        label, name = match.groups()
        yield PatchRecord(f"{label}/{name}", label, "", name[:-4]), read


def read_mhist(files: Mapping[str, Path]) -> Patches:
    """MHIST: ``images.zip``, and ``annotations.csv`` with majority vote, votes and partition."""
    with open(files["annotations.csv"], newline="", encoding="utf-8-sig") as stream:
        rows = {row["Image Name"]: row for row in csv.DictReader(stream)}
    for match, read in _zipped(files["images.zip"], r"(MHIST_[^/]+\.png)"):
        row = rows.get(match[1])
        if row is None:
            raise ValueError(f"annotations.csv must list every picture, got none for '{match[1]}'")
        votes = next((v for k, v in row.items() if k.startswith("Number of Annotators")), "")
        label, split = row["Majority Vote Label"], row["Partition"]
        extra = {"votes_for_SSA": votes}
        yield PatchRecord(f"{label}/{match[1]}", label, split, match[1][:-4], extra), read


def read_lc25000(files: Mapping[str, Path]) -> Patches:
    """LC25000: ``<class>/<name>.jpeg``; group: source tile, from LC25000-clean's table."""
    with open(files["lc25000_image_groups.csv"], newline="", encoding="utf-8-sig") as stream:
        groups = {row["stem"]: row["group_id"] for row in csv.DictReader(stream)}
    for match, read in _zipped(
        files["lung_colon_image_set.zip"], r"((?:lung|colon)_(?:n|aca|scc))/([^/]+)\.jpeg"
    ):
        label, stem = match.groups()
        if stem not in groups:
            raise ValueError(f"the table of groups must list every picture, got none for '{stem}'")
        yield PatchRecord(f"{label}/{stem}.jpeg", label, "", f"tile_{groups[stem]}"), read


def read_breakhis(magnification: int) -> Reader:
    """BreakHis at one magnification: ``SOB_B_A-14-22549AB-40-001.png``; group: patient."""

    def reader(files: Mapping[str, Path]) -> Patches:
        (path,) = files.values()
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                match = BREAKHIS_NAME.match(name)
                if member.isfile() and match and int(match[3]) == magnification:
                    label = BREAKHIS[match[1]]
                    record = PatchRecord(f"{label}/{name}", label, "", match[2])
                    yield record, lambda member=member: _content(archive, member)  # type: ignore[misc]

    return reader


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read() if stream else b""


def read_pathmnist(files: Mapping[str, Path]) -> Patches:
    """PathMNIST: arrays ``{train,val,test}_{images,labels}``; validation joins training."""
    (path,) = files.values()
    with path.open("rb") as stream, np.load(stream) as arrays:
        labels = {part: arrays[f"{part}_labels"].ravel() for part in ("train", "val", "test")}
    for part, numbers in labels.items():
        split = "test" if part == "test" else "train"
        pictures = _rows(path, f"{part}_images.npy")
        for i, (number, picture) in enumerate(zip(numbers.tolist(), pictures, strict=True)):
            label, name = PATHMNIST[number], f"{part}_{i:06}"
            record = PatchRecord(f"{label}/{name}.png", label, split, name)
            yield record, lambda picture=picture: picture  # type: ignore[misc]


def _rows(path: Path, member: str) -> Iterator[NDArray[np.uint8]]:
    """The pictures of an array in an ``npz``, one at a time: it may be larger than the memory."""
    with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        form = np.lib.format
        first = form.read_magic(stream) == (1, 0)
        header = form.read_array_header_1_0 if first else form.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        if fortran or dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise ValueError(
                f"pictures must be N x H x W x 3 of uint8, got {shape} of {dtype} in '{path}'"
            )
        size = int(np.prod(shape[1:]))
        for start in range(0, shape[0], ROWS):
            count = min(ROWS, shape[0] - start)
            yield from np.frombuffer(stream.read(count * size), np.uint8).reshape(
                count, *shape[1:]
            )


def _unpack(packed: Path, plain: Path) -> None:
    """Unpack a gzip file, or make sure that what lies there is what it holds."""
    if not plain.exists():
        with whole_file(plain) as draft, gzip.open(packed) as source, open(draft, "wb") as to:
            shutil.copyfileobj(source, to)
        return
    with packed.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        told = struct.unpack("<II", stream.read())  # check sum and size, at the end of the file
    found = 0
    with plain.open("rb") as stream:
        while block := stream.read(1 << 20):
            found = zlib.crc32(block, found)
    if told != (found, plain.stat().st_size % 2**32):
        raise ValueError(
            f"'{plain}' must be what '{packed.name}' holds, got another check sum or size: remove"
            " it, and it is unpacked again"
        )


def read_pcam(files: Mapping[str, Path]) -> Patches:
    """PatchCamelyon: HDF5 arrays ``x`` and ``y`` by split, and the slide of each in a table."""
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise ImportError("PatchCamelyon needs h5py to be read: pip install h5py") from error
    for part in ("train", "valid", "test"):
        base = f"camelyonpatch_level_2_split_{part}"
        opened = {}
        for kind in ("x", "y"):
            packed = files[f"{base}_{kind}.h5.gz"]
            plain = packed.with_suffix("")
            _unpack(packed, plain)
            opened[kind] = h5py.File(plain, "r")[kind]
        with open(files[f"{base}_meta.csv"], newline="", encoding="utf-8-sig") as stream:
            slides = [row["wsi"] for row in csv.DictReader(stream)]
        labels, pictures = np.asarray(opened["y"]).ravel(), opened["x"]
        if not len(labels) == len(pictures) == len(slides):
            counts = f"{len(pictures)}, {len(labels)} and {len(slides)}"
            raise ValueError(
                f"pictures, labels and slides must be as many, got {counts} in '{part}'"
            )
        split = "test" if part == "test" else "train"
        for i, (number, slide) in enumerate(zip(labels.tolist(), slides, strict=True)):
            label, name = "tumor" if number else "no_tumor", f"{part}_{i:06}"
            record = PatchRecord(f"{label}/{name}.png", label, split, slide)
            yield record, lambda i=i, pictures=pictures: np.asarray(pictures[i])  # type: ignore[misc]
