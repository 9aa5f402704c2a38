"""Writes the demonstration set of a bundle, ``data/demo.zip``, from the candidates of a run:

    python tests/benchmarks/make_demo.py RUN ZIP

Every patch is its own group (its seed), and the column ``synthetic`` says ``true``: a verdict on
such a set is a demonstration, and the report says so.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_histodiff import Candidates
from monai_histodiff.data.patch_files import PatchRecord, write_patches


def usable(candidates: Candidates, k: int) -> NDArray[np.int64]:
    """Rows of candidates that their critic takes for class ``k``, each of another source, so that
    training and test patches have none in common.
    """
    sure = (candidates.labels == k) & (candidates.confidence >= 0.5)
    rows = sure.nonzero()[:, 0].numpy()
    if candidates.origin is None:
        return rows
    return np.sort(rows[np.unique(candidates.origin.numpy()[rows], return_index=True)[1]])


def items(candidates: Candidates, per_class: int) -> Iterator[tuple[PatchRecord, bytes]]:
    """Of each class ``per_class`` patches for training, and as many for the test."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(candidates.classes):
        rows = usable(candidates, k)
        if len(rows) < 2 * per_class:
            raise SystemExit(f"'{name}' needs {2 * per_class} usable candidates, got {len(rows)}")
        for n, i in enumerate(rng.permutation(rows)[: 2 * per_class]):
            stream, seed = io.BytesIO(), int(candidates.seed[i])
            picture = Image.fromarray(candidates.images[i].permute(1, 2, 0).numpy())
            picture.save(stream, "JPEG", quality=90, subsampling=0)
            source = "monai-histodiff histopathology_ldm"
            extra = {"seed": str(seed), "synthetic": "true", "source": source}
            split = "train" if n < per_class else "test"
            record = PatchRecord(f"{name}/{i:05d}.jpg", name, split, f"synthetic_{seed}", extra)
            yield record, stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="output_dir of a run of train.yaml")
    parser.add_argument("zip", type=Path, help="written anew")
    parser.add_argument("--per_class", type=int, default=80, help="for training, and for the test")
    args = parser.parse_args()
    made = items(Candidates.load(args.run / "candidates"), args.per_class)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_patches(Path(scratch) / "demo", made)
        with zipfile.ZipFile(args.zip, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                name = file.relative_to(folder).as_posix()
                archive.writestr(zipfile.ZipInfo(name), file.read_bytes())


if __name__ == "__main__":
    main()
