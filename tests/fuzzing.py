"""Damage to whatever is read: a clean error or a right result, and nothing else.

``python tests/fuzzing.py --minutes 10`` flips, cuts, repeats, swaps and inserts bytes in pictures,
zips, tables, banks, weights, caches and results, and reads them. What counts as a fault: an error
that is not ours, other content than was written where the format has check sums, a read of over
ten seconds, more than a gigabyte of memory, a crash. Each is printed with its kind and number;
``--case 17 png`` repeats one. Only the standard library and what the package needs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from making import encoded, gradient, nifti

from monai_histodiff import Candidates, PatchSet, SyntheticBank
from monai_histodiff.bundle.predictions import read_predictions
from monai_histodiff.bundle.split_file import SplitFile
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pictures import Limits, decode_patch
from monai_histodiff.evaluation.results_files import read_results
from monai_histodiff.utils.cache import cached
from monai_histodiff.utils.files import read_json
from monai_histodiff.utils.weights import read_state, write_state

SECONDS, MEMORY = 10, 2**30
LIMITS = Limits(pixels=2**20, bytes=2**22)
OURS = (ValueError, OSError)
TRUTH = np.tile(gradient(8, 8), (2, 2, 1))
BANK = torch.from_numpy(TRUTH).permute(2, 0, 1).repeat(3, 1, 1, 1)


class Kind:
    """Something that is read.

    Args:
        make: writes it into a folder.
        read: reads it, to what can be compared.
        files: patterns of the files in which bytes are damaged.
        summed: whether the format has check sums, so that damage must show.
    """

    def __init__(
        self, make: Callable[[Path], Any], read: Callable[[Path], Any], files: str, summed: bool
    ) -> None:
        self.make, self.read, self.files, self.summed = make, read, files, summed


def picture(name: str, content: Callable[[Path], bytes], summed: bool = False) -> Kind:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content(folder))

    def read(folder: Path) -> Any:
        return digest(decode_patch((folder / name).read_bytes(), name, LIMITS))

    return Kind(make, read, name, summed)


def digest(array: np.ndarray) -> str:
    """Shape and bytes of a picture, which is one of RGB bytes."""
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3, array.shape
    return f"{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def patches(folder: Path) -> Path:
    rows = [(f"{k}/{i}.png", k, "train" if i else "test") for k in "AB" for i in range(2)]
    items = [(PatchRecord(p, k, s, f"g{p}", {"um_per_px": "1"}), TRUTH) for p, k, s in rows]
    return write_patches(folder / "set", items)


def read_set(path: Path) -> Any:
    found = PatchSet.open(path, limits=LIMITS)
    return [(r.path, r.label, r.split, r.group) for r in found.records], [
        digest(found[i]["image"].permute(1, 2, 0).numpy()) for i in range(len(found))
    ]


def zipped(folder: Path) -> None:
    root = patches(folder)
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            archive.writestr(path.relative_to(root).as_posix(), path.read_bytes())
    shutil.rmtree(root)


def bank(folder: Path) -> None:
    SyntheticBank({0: BANK, 1: BANK[:1]}, classes=["a", "b"], um_per_px=0.5).save(folder / "bank")


def read_bank(folder: Path) -> Any:
    found = SyntheticBank.load(folder / "bank", max_bytes=2**22)
    return (  # scale and provenance may be written by hand
        (found.classes, sorted(found.images)),
        [found.images[k].tolist() for k in sorted(found.images)],
        [(found.seeds[k].tolist(), found.confidence[k].tolist()) for k in sorted(found.images)],
    )


def candidates(folder: Path) -> None:
    rows, score = torch.arange(3), torch.tensor([0.5, 0.25, 1.0])
    reasons: Any = ["accepted", "low confidence", "near copy"]
    made = Candidates(BANK, torch.tensor([0, 1, 1]), rows, score, score, rows, reasons)
    made.save(folder / "candidates", ["a", "b"])


def read_candidates(folder: Path) -> Any:
    found = Candidates.load(folder / "candidates", max_bytes=2**22)
    columns = (found.images, found.labels, found.seed, found.confidence, found.nearest)
    return [c.tolist() for c in columns], [r.value for r in found.reasons], found.classes


def read_weights(folder: Path) -> Any:
    state = read_state(folder / "a.pt")
    return {k: (v.dtype, v.tolist()) if torch.is_tensor(v) else v for k, v in state.items()}


def weights(folder: Path) -> None:
    state = {"weight": torch.arange(64.0).view(8, 8), "label": [1, 2], "name": "a"}
    write_state(folder / "a.pt", state)


def cache(folder: Path) -> Any:
    made = cached(folder, "x", lambda: {"a": np.arange(30.0), "b": np.array(["c", "d"])})
    return {name: array.tolist() for name, array in made.items()}


def predictions(folder: Path) -> None:
    shapes = {"labels": (4,), "groups": (4,), "classes": (2,), "seeds": (2,), "arms": (1,)}
    arrays = {name: np.arange(shape[0]) for name, shape in shapes.items()}
    np.savez_compressed(folder / "p.npz", **arrays, probabilities=np.full((1, 2, 4, 2), 0.5))


def read_arrays(folder: Path) -> Any:
    return {k: v.tolist() for k, v in read_predictions(folder / "p.npz").items()}


def results(folder: Path) -> None:
    content = {
        "arms": {},
        "claims": {"G-C": {}},
        "differences": {"G-C": {"balanced_accuracy": {"mean": 0.1, "low": 0.0, "high": 0.2}}},
        "dataset": {"path": "set", "classes": ["a", "b"]},
        "settings": {"labels_per_class": 5, "draw": 0},
        "hits": {"G": ["0101"], "C": ["1100"]},
        "test": {"labels": [0, 1, 0, 1], "groups": ["a", "b", "c", "d"]},
        "shortfalls": [],
    }
    (folder / "results.json").write_text(json.dumps(content))


def split(folder: Path) -> None:
    found = PatchSet.open(patches(folder))
    train, test = found.select("train"), found.select("test")
    SplitFile(folder / "split.csv").write(train, train[:1], test)


def read_split(folder: Path) -> Any:
    known = SplitFile(folder / "split.csv").known(PatchSet.open(folder / "set", limits=LIMITS))
    return [r.path for r in known.records]


def gzipped(folder: Path) -> bytes:
    return nifti(TRUTH.swapaxes(0, 1), "x.nii.gz", folder)


KINDS = {
    "png": picture("a.png", lambda _: encoded(TRUTH, "PNG"), summed=True),
    "jpeg": picture("a.jpg", lambda _: encoded(TRUTH, "JPEG", quality=90)),
    "tiff": picture("a.tif", lambda _: encoded(TRUTH, "TIFF")),
    "lzw": picture("a.tif", lambda _: encoded(TRUTH, "TIFF", compression="tiff_lzw")),
    "bmp": picture("a.bmp", lambda _: encoded(TRUTH, "BMP")),
    "webp": picture("a.webp", lambda _: encoded(TRUTH, "WEBP", lossless=True)),
    "jp2": picture("a.jp2", lambda _: encoded(TRUTH, "JPEG2000")),
    "nifti": picture("a.nii", lambda p: nifti(TRUTH.swapaxes(0, 1), "x.nii", p)),
    "gzip": picture("a.nii.gz", gzipped, summed=True),
    "zip": Kind(zipped, lambda f: read_set(f / "set.zip"), "set.zip", True),
    "manifest": Kind(patches, lambda f: read_set(f / "set"), "set/manifest.csv", False),
    "split": Kind(split, read_split, "split.csv", False),
    "bank": Kind(bank, read_bank, "bank/**/*", True),
    "candidates": Kind(candidates, read_candidates, "candidates/**/*", True),
    "weights": Kind(weights, read_weights, "a.pt", True),
    "cache": Kind(cache, cache, "x.npz", True),
    "predictions": Kind(predictions, read_arrays, "p.npz", True),
    "results": Kind(
        results, lambda f: len(read_results([f / "results.json"])), "results.json", False
    ),
    "json": Kind(results, lambda f: bool(read_json(f / "results.json")), "results.json", False),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three changes, of the kinds that disks, networks, editors and enemies make."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(data) + 1), rng.randint(1, 40)
        other = rng.randrange(len(data) + 1)
        odd = struct.pack(
            rng.choice("<>") + "I", rng.choice((0, 1, 2**15, 2**16 + 1, 2**31 - 1, 2**32 - 1))
        )
        match rng.randrange(8):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[other : other + length]
            case 5:
                data[at : at + len(odd)] = odd
            case 6:
                data[at:at] = rng.randbytes(length)
            case _:
                data[at : at + length] = data[other : other + length]
    return bytes(data)


def try_case(kind: str, case: int, folder: Path, truth: Any) -> str | None:
    """Damage a copy of what lies in the folder, and read it: what is wrong, or ``None``."""
    rng, made = random.Random(f"{kind} {case}"), KINDS[kind]
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    targets = sorted(p for p in copy.glob(made.files) if p.is_file())
    target = targets[rng.randrange(len(targets))]
    content = target.read_bytes()
    target.write_bytes(changed := damaged(content, rng))
    try:
        found = made.read(copy)
    except OURS:
        return None
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if made.summed and found != truth and changed != content:
        return f"other content passes for whole, in {target.name}"
    return None


def try_kind(kind: str, seconds: float, first: int, most: int = 10**9) -> tuple[int, list[str]]:
    """Cases of a kind, one after another, in a child that may hang or crash: how many were tried,
    and what was wrong.
    """
    end, faults, tried = time.monotonic() + seconds, [], 0
    place = mmap.mmap(-1, 8)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "whole"
        folder.mkdir()
        KINDS[kind].make(folder)
        case = first
        while case < first + most and time.monotonic() < end:
            reader, writer = os.pipe()
            if (child := os.fork()) == 0:
                os.close(reader)
                try:
                    run_child(
                        kind, case, min(first + most, case + 10**9), end, folder, place, writer
                    )
                finally:  # it must not go on as its parent, whatever happens
                    os._exit(1)
            os.close(writer)
            with os.fdopen(reader, encoding="utf-8", errors="replace") as stream:
                faults += stream.read().splitlines()
            _, status = os.waitpid(child, 0)
            last = struct.unpack("q", place[:8])[0]
            if status:
                how = "hangs" if os.WTERMSIG(status) == signal.SIGALRM else f"ends by {status}"
                faults.append(f"{kind} {last}: {how}")
            tried, case = tried + last - case + 1, last + 1
    return tried, faults


def run_child(
    kind: str, first: int, last: int, end: float, folder: Path, place: mmap.mmap, writer: int
) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    logging.disable()
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    truth = KINDS[kind].read(folder)
    for case in range(first, last):
        place[:8] = struct.pack("q", case)
        signal.alarm(SECONDS)
        if fault := try_case(kind, case, folder, truth):
            os.write(writer, f"{kind} {case}: {' '.join(fault.split())[:200]}\n".encode())
        signal.alarm(0)
        if time.monotonic() > end:
            break
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help="such as png")
    parser.add_argument("--minutes", type=float, default=10.0, help="in all")
    parser.add_argument("--case", type=int, help="the number of the only case to try")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    if unknown := sorted(set(options.kinds) - set(KINDS)):
        parser.error(f"kinds must be among {sorted(KINDS)}, got {unknown}")
    total = 0
    for kind in options.kinds:
        if options.case is not None:
            tried, faults = try_kind(kind, 60, options.case, 1)
        else:
            share = 60 * options.minutes / len(options.kinds)
            tried, faults = try_kind(kind, share, options.first)
        print("\n".join([*faults, f"{kind}: {len(faults)} faults in {tried} cases"]), flush=True)
        total += len(faults)
    sys.exit(f"in all: {total} faults" if total else 0)


if __name__ == "__main__":
    main()
