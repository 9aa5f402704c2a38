"""Ranks and seeds, in one process and in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from monai_histodiff.utils.processes import (
    barrier,
    first_rank,
    from_first_rank,
    is_distributed,
    process_rank,
)
from monai_histodiff.utils.seeds import candidate_seed


def test_alone_a_process_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert process_rank() == 0 and first_rank() and not is_distributed()
    barrier()
    monkeypatch.setenv("RANK", "3")
    assert process_rank() == 3 and first_rank(), "the launcher's rank, and no group yet"
    assert from_first_rank(lambda: {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("rank", ["", "first", "-1", "1.5"])
def test_a_rank_that_is_no_whole_number_is_named(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(ValueError, match=f"RANK must be a whole number, got '{rank}': unset it"):
        process_rank()


def test_seeds_are_those_of_numpy() -> None:
    assert candidate_seed(5, 2, 1) == int(np.random.SeedSequence((5, 2, 1)).generate_state(1)[0])


def raising() -> Any:
    raise KeyError("only the first rank knows")


def process(rank: int, folder: Path) -> None:
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    assert process_rank() == rank and is_distributed() and first_rank() == (rank == 0)
    assert from_first_rank(lambda: (rank, torch.ones(1).tolist())) == (0, [1.0])
    with pytest.raises(KeyError, match="only the first rank knows"):
        from_first_rank(raising)
    barrier()
    (folder / str(rank)).touch()
    distributed.destroy_process_group()


def test_two_processes_agree(tmp_path: Path) -> None:
    mp.start_processes(process, (tmp_path,), nprocs=2, start_method="fork")
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()
