"""``predictions.npz``: what every arm and seed said of every test patch, so that a later version
can judge a finished run anew, without a training.

===================== ============ ================================================================
array                 shape
===================== ============ ================================================================
``labels``            ``N``        class indices of the test patches
``groups``            ``N``        pseudonyms of their groups
``classes``           ``K``        names
``seeds``             ``S``        of the trainings
``arms``              ``A``        names
``probabilities``     A x S x N x K  float64
===================== ============ ================================================================

``files`` in ``results.json`` has its size and SHA-256.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from monai_histodiff.evaluation.experiment import Evaluation
from monai_histodiff.evaluation.verdict import pseudonym
from monai_histodiff.utils.files import whole_file

__all__ = ["read_predictions", "write_predictions"]

SHAPES = {
    "labels": "N",
    "groups": "N",
    "classes": "K",
    "seeds": "S",
    "arms": "A",
    "probabilities": "ASNK",
}


def write_predictions(path: str | os.PathLike[str], evaluation: Evaluation) -> Path:
    """Write the outcomes of an evaluation that was run.

    Raises:
        OSError: the file cannot be written.
    """
    found, stream = evaluation.probabilities, io.BytesIO()
    np.savez_compressed(
        stream,
        labels=evaluation.test.labels.numpy(),
        groups=np.array([pseudonym(group) for group in evaluation.test.groups]),
        classes=np.array(evaluation.material.classes),
        seeds=np.array(evaluation.seeds),
        arms=np.array(list(found)),
        probabilities=np.stack([np.stack(runs) for runs in found.values()]),
    )
    with whole_file(path) as draft:
        draft.write_bytes(stream.getvalue())
    return Path(path)


def read_predictions(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of such a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or its arrays do not fit one another.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"predictions must be a file, got none at '{path}': evaluate.yaml writes it from "
            "version 0.11 on"
        )
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(
            f"predictions must be whole, got '{path}' ({type(error).__name__}: {error}): run "
            "evaluate.yaml again"
        ) from error
    sizes: dict[str, int] = {}
    for name, axes in SHAPES.items():
        shape = arrays[name].shape if name in arrays else None
        if shape is None or len(shape) != len(axes):
            raise ValueError(
                f"predictions must hold '{name}' of {len(axes)} axes, got {shape} in '{path}'"
            )
        for axis, size in zip(axes, shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"predictions must fit one another, got {shape} for '{name}' beside "
                    f"{sizes} in '{path}'"
                )
    return arrays
