"""The exemplars of unconditional sampling: stored ones, or your own patches."""

from __future__ import annotations

import os

import numpy as np
import torch

from monai_histodiff.bundle.metadata import scale_of
from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.sizes import crop_size
from monai_histodiff.diffusion.sources import DESCRIPTOR, LABEL, Sources

__all__ = ["exemplars_of"]

MOST = 2048  # patches, as many as are stored


def exemplars_of(
    dataset_dir: str | os.PathLike[str],
    stored: str | os.PathLike[str],
    bundle_dir: str | os.PathLike[str],
    device: str | torch.device = "cpu",
) -> Sources | None:
    """What samples are made after: the descriptors of up to 2,048 patches of a set, drawn at
    random by seed 0, or, where none is given, stored ones. Where a split is recorded, its training
    patches are taken: what is made after a test patch spoils the test.

    Args:
        dataset_dir: a patch set, labelled or not; empty: the stored ones. Patches without a scale
            are taken to be at the bundle's.
        stored: a file that :meth:`Sources.save` wrote; empty as well: none, ``None`` is returned.
        bundle_dir: the bundle of the generator, whose encoder describes patches.
        device: where to compute.

    Raises:
        FileNotFoundError: a file, the set or the encoder is missing.
        ValueError: the file or the set cannot be read, or a patch is smaller than 96 pixels at the
            bundle's scale.
    """
    if not dataset_dir:
        return Sources.load(stored, 1) if stored else None
    patches = PatchSet.open(dataset_dir).at(scale_of(bundle_dir))
    if any(r.split for r in patches.records):
        patches = patches.select("train")
    for note in patches.notes:
        print(note)
    if len(patches) > MOST:
        print(f"{MOST} of {len(patches)} training patches are exemplars, drawn at random.")
    size = crop_size(patches)
    chosen = np.random.default_rng(0).permutation(len(patches))[:MOST]
    images = patches.take(sorted(chosen.tolist())).images(size)
    found = PatchEncoder.from_bundle(bundle_dir, device).descriptors(images)
    return Sources.of([{LABEL: 0, DESCRIPTOR: row} for row in found], 1)
