from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from monai_histodiff import Candidates, SyntheticBank, sample_candidates
from monai_histodiff.candidates import check_new, save_outcome
from monai_histodiff.sampling import candidate_seed
from monai_histodiff.selection import Selection


def random_bank() -> SyntheticBank:
    g = torch.Generator().manual_seed(0)
    images = {k: torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=g) for k, n in ((0, 3), (1, 0), (2, 2))}
    score = {k: torch.rand(len(v), generator=g) for k, v in images.items()}
    seeds = {k: torch.randint(0, 2**32, (len(v),), generator=g) for k, v in images.items()}
    return SyntheticBank(images, score, seeds, classes=("a", "b", "c"), provenance={"weights": "x", "steps": 3})


def test_save_and_load_are_exact(tmp_path: Path) -> None:
    bank = random_bank()
    bank.save(tmp_path / "bank")
    twin = SyntheticBank.load(tmp_path / "bank")
    assert twin.classes == bank.classes and twin.provenance == bank.provenance and len(twin) == 5 and twin.size == (8, 8)
    for k in bank.images:
        assert torch.equal(twin.images[k].reshape(bank.images[k].shape), bank.images[k])
        assert torch.equal(twin.confidence[k], bank.confidence[k]) and torch.equal(twin.seeds[k], bank.seeds[k])
    with pytest.raises(FileExistsError, match="new folder"):
        bank.save(tmp_path / "bank")


def test_an_empty_bank_survives_saving(tmp_path: Path) -> None:
    empty = SyntheticBank(
        {0: torch.empty(0, 3, 8, 8, dtype=torch.uint8), 1: torch.empty(0, 3, 8, 8, dtype=torch.uint8)}, classes=("a", "b")
    )
    empty.save(tmp_path / "bank")
    twin = SyntheticBank.load(tmp_path / "bank")
    assert len(twin) == 0 and twin.count(0) == twin.count(9) == 0 and twin.size is None


def test_from_arrays_turns_channels() -> None:
    array = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    bank = SyntheticBank.from_arrays({5: array})
    assert torch.equal(bank.images[5], torch.from_numpy(array.transpose(0, 3, 1, 2).copy()))
    assert bank.confidence[5].tolist() == [1, 1] and bank.seeds[5].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SyntheticBank({}), "at least one class"),
        (lambda: SyntheticBank({0: torch.zeros(1, 3, 4, 4)}), "uint8 patches N x 3 x H x W"),
        (lambda: SyntheticBank.from_arrays({0: np.zeros((1, 3, 4, 4), np.uint8)}), "uint8 arrays N x H x W x 3"),
        (lambda: SyntheticBank.from_arrays({0: np.zeros((1, 4, 4, 3), np.uint8), 1: np.zeros((1, 5, 5, 3), np.uint8)}), "one size"),
        (lambda: SyntheticBank({0: torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, confidence={0: torch.ones(3)}), "one value"),
        (lambda: SyntheticBank.load("nowhere"), "bank.json"),
    ],
)
def test_errors(build: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build()


def _paint(bank: SyntheticBank) -> None:
    bank.images[0][1] = 77


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_see_the_same_memory(start: str) -> None:
    bank = random_bank()
    worker = multiprocessing.get_context(start).Process(target=_paint, args=(bank,))
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0 and bool((bank.images[0][1] == 77).all())


class StubSampler:
    """Patches whose first pixel is the seed's last byte, so that selection can be planned by seed."""

    progress = False
    settings = {"steps": 7}

    def __call__(self, labels: Any, seeds: Any) -> torch.Tensor:
        values = torch.as_tensor([int(s) % 256 for s in seeds]).float() / 255
        return values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


def stub_selector(images: torch.Tensor, labels: torch.Tensor) -> Selection:
    """Accept class 0 always, class 1 never, class 2 when the byte is even."""
    byte = images[:, 0, 0, 0].int()
    keep = (labels == 0) | ((labels == 2) & (byte % 2 == 0))
    zero = torch.zeros(len(labels))
    return Selection(keep, byte / 255, zero, zero.long(), ["accepted" if k else "low confidence" for k in keep.tolist()])


def gather(batch_size: int) -> Candidates:
    return sample_candidates(StubSampler(), stub_selector, 3, quota=5, max_candidates=20, batch_size=batch_size, seed=3)  # type: ignore[arg-type]


def test_sampling_stops_at_the_quota_or_the_last_attempt() -> None:
    candidates = gather(6)
    accepted = [int((candidates.accepted & (candidates.labels == k)).sum()) for k in range(3)]
    made = [int((candidates.labels == k).sum()) for k in range(3)]
    assert accepted == [5, 0, 5] and made[1] == 20 and made[0] <= 6 and made[2] < 20
    assert set(candidates.reasons) <= {"accepted", "low confidence", "over quota"}


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_accepted_candidates_do_not_depend_on_the_batches(batch_size: int) -> None:
    def accepted(c: Candidates) -> list[tuple[int, int, int]]:
        rows = c.accepted.nonzero()[:, 0].tolist()
        return sorted((int(c.labels[i]), int(c.seed[i]), int(c.images[i].max())) for i in rows)

    assert accepted(gather(batch_size)) == accepted(gather(6))
    first = candidate_seed(3, 0, 0)
    assert first in gather(batch_size).seed.tolist()


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        sample_candidates(StubSampler(), stub_selector, 3, quota=0, max_candidates=5)  # type: ignore[arg-type]


def test_candidates_survive_saving_and_make_the_bank(tmp_path: Path) -> None:
    candidates = gather(6)
    candidates.save(tmp_path / "candidates", ["a", "b", "c"])
    twin = Candidates.load(tmp_path / "candidates")
    order = torch.argsort(candidates.labels, stable=True)
    for name in ("images", "labels", "seed", "confidence", "nearest"):
        assert torch.equal(getattr(twin, name)[torch.argsort(twin.labels, stable=True)], getattr(candidates, name)[order]), name
    bank = candidates.bank(candidates.accepted, ["a", "b", "c"])
    assert [bank.count(k) for k in range(3)] == [5, 0, 5]
    assert all(int(s) % 256 == int(i[0, 0, 0]) for i, s in zip(bank.images[2], bank.seeds[2], strict=True))


def test_outcome_counts_every_candidate(tmp_path: Path) -> None:
    candidates = gather(6)
    critic: Any = SimpleNamespace(**{k: torch.tensor(0.5) for k in ("threshold", "target_precision", "precision", "temperature")})
    save_outcome(tmp_path, candidates, ["a", "b", "c"], critic, StubSampler(), {"quota": 5})  # type: ignore[arg-type]
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    selection = outcome["selection"]
    assert selection["accepted"] == 10 and selection["per_class"]["b"] == {"candidates": 20, "accepted": 0}
    assert selection["candidates"] == selection["accepted"] + sum(selection["reasons"].values())
    assert outcome["sampling"]["steps"] == 7 and outcome["settings"] == {"quota": 5}
    assert len(SyntheticBank.load(tmp_path / "bank")) == 10
    with pytest.raises(FileExistsError, match="output_dir must be new, got .* which holds 'candidates'"):
        check_new(tmp_path)
