"""What unlabelled patches are taken for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import WritePatchSet
from torch import Tensor

from monai_histodiff import PatchSet
from monai_histodiff.selection import assumed_labels


class Judge:
    """Sure of the first half of what it is shown, of class 2."""

    threshold = torch.tensor(0.7)
    seen: PatchSet | None = None

    def of_patches(self, images: PatchSet, size: int) -> Tensor:
        self.seen = images
        found = torch.full((len(images), 3), 0.2)
        found[:, 2] = torch.where(torch.arange(len(images)) < len(images) // 2, 0.7, 0.6)
        return found


@pytest.fixture
def known(write_patch_set: WritePatchSet, tmp_path: Path) -> PatchSet:
    patches = PatchSet.open(write_patch_set(tmp_path / "set"))
    return patches.few(2, seed=0).extend(patches, 8, seed=0)


def test_labelled_patches_keep_their_label_and_others_need_a_sure_critic(known: PatchSet) -> None:
    judge = Judge()
    found = assumed_labels(known, 6, judge, 32)  # type: ignore[arg-type]
    assert torch.equal(found[:6], known[:6].labels)
    assert found[6:].tolist() == [2] * 4 + [-1] * 4
    assert judge.seen is not None and judge.seen.records == known[6:].records
    assert assumed_labels(known, 6, None, 32)[6:].tolist() == [-1] * 8
