"""What unconditional samples are made after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DrawPatches

from monai_histodiff import PatchEncoder
from monai_histodiff.bundle import exemplars, exemplars_of
from monai_histodiff.data.patch_files import PatchRecord, write_patches

LDM = Path(__file__).parents[2] / "bundles/histopathology_ldm"


def test_training_patches_alone_are_exemplars(
    draw_patches: DrawPatches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is made after a test patch, and trained with, spoils the test."""
    parts = ("train", "test", "val", "train", "train")
    items = [
        (PatchRecord(f"{i}.png", "", part, f"g{i}"), picture)
        for i, (part, picture) in enumerate(
            zip(parts, draw_patches(0, len(parts), 96, 0), strict=True)
        )
    ]
    root = write_patches(tmp_path / "set", items)
    found = exemplars_of(root, "", LDM)
    assert found is not None and found.counts == [3]
    pictures = np.stack([picture for record, picture in items if record.split == "train"])
    own = PatchEncoder.from_bundle(LDM).descriptors(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert (found.descriptors[0] - own).abs().max() < 1e-5
    monkeypatch.setattr(exemplars, "MOST", 2)
    capsys.readouterr()
    found = exemplars_of(root, "", LDM)
    assert found is not None and found.counts == [2]
    assert "2 of 3 training patches are exemplars, drawn at random." in capsys.readouterr().out
    assert exemplars_of("", "", LDM) is None
