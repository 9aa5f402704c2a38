"""The embedded demonstration set: patches sampled from our own model, so that the first run needs
no data.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.selection.candidates import Candidates

__all__ = ["write_demo"]


def write_demo(
    candidates: Candidates,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    train_per_class: int = 80,
    test_per_class: int = 80,
    seed: int = 0,
) -> Path:
    """Write candidates whose critic agrees with the intended class as a labelled patch set in a
    zip.

    Every patch is its own group (its seed), and the column ``synthetic`` says ``true``: a verdict
    on such a set is a demonstration, and the report says so.

    Args:
        candidates: candidates of all classes; those with a confidence of at least one half are
            used, and of several that have one source the first.
        classes: class names.
        path: the zip to write.
        train_per_class: training patches of each class.
        test_per_class: test patches of each class.
        seed: of the draw.

    Raises:
        ValueError: the candidates are of other classes, or a class has too few.
    """
    candidates.check_classes(classes)
    rng, rows = np.random.default_rng(seed), []
    for k, name in enumerate(classes):
        usable = _usable(candidates, k)
        if len(usable) < train_per_class + test_per_class:
            raise ValueError(
                f"class '{name}' needs {train_per_class + test_per_class} usable candidates, "
                f"got {len(usable)}"
            )
        chosen = rng.permutation(usable)[: train_per_class + test_per_class]
        rows += [
            (k, int(i), "train" if n < train_per_class else "test") for n, i in enumerate(chosen)
        ]

    def items() -> list[tuple[PatchRecord, bytes]]:
        out = []
        for k, i, split in rows:
            stream = io.BytesIO()
            Image.fromarray(candidates.images[i].permute(1, 2, 0).numpy()).save(
                stream, "JPEG", quality=90, subsampling=0
            )
            extra = {
                "seed": str(int(candidates.seed[i])),
                "synthetic": "true",
                "source": "monai-histodiff histopathology_ldm",
            }
            group = f"synthetic_{int(candidates.seed[i])}"
            out.append(
                (
                    PatchRecord(f"{classes[k]}/{i:05d}.jpg", classes[k], split, group, extra),
                    stream.getvalue(),
                )
            )
        return out

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = write_patches(Path(scratch) / "demo", items())
        draft = Path(scratch) / target.name
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.writestr(
                    zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes()
                )
        draft.replace(target)
    return target


def _usable(candidates: Candidates, k: int) -> NDArray[np.int64]:
    """Rows of candidates that their critic takes for class ``k``, each of another source, so that
    training and test patches have none in common.
    """
    sure = (candidates.labels == k) & (candidates.confidence >= 0.5)
    rows = sure.nonzero()[:, 0].numpy()
    if candidates.origin is None:
        return rows
    return np.sort(rows[np.unique(candidates.origin.numpy()[rows], return_index=True)[1]])
