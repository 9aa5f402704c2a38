"""Memory that processes share; on Windows by the name of a mapping."""

from __future__ import annotations

import mmap
import pickle
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import pytest
import torch

from monai_histodiff.utils import shared_memory
from monai_histodiff.utils.shared_memory import SharedTensors

LAYOUT = {"a": ((2, 3), torch.float32), "b": ((5,), torch.uint8)}


@pytest.mark.parametrize("windows", [False, True])
def test_a_passed_block_is_the_memory_itself_and_a_pickled_one_a_copy(
    windows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, mmap.mmap] = {}

    def mapping(file: int, size: int, tagname: str) -> mmap.mmap:
        """As Windows maps: the same name is the same memory."""
        assert file == -1
        return named.setdefault(tagname, mmap.mmap(-1, size))

    if windows:
        monkeypatch.setattr(shared_memory, "WINDOWS", True)
        monkeypatch.setattr(shared_memory, "mmap", SimpleNamespace(mmap=mapping))
    shared, other = SharedTensors(LAYOUT), SharedTensors(LAYOUT)
    shared["a"].fill_(1.5)
    assert not other["a"].any(), "each block is one of its own"
    if windows:
        passed = pickle.loads(bytes(ForkingPickler.dumps(shared)))
        assert passed._block == shared._block and len(named) == 2
        shared["b"][3] = 7
        assert passed["b"].tolist() == [0, 0, 0, 7, 0] and float(passed["a"].sum()) == 9
    copy = pickle.loads(pickle.dumps(shared))
    shared["a"].zero_()
    assert float(copy["a"].sum()) == 9
