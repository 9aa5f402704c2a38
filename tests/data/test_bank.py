"""The bank keeps patches exactly and shares them between processes; candidates fill it by quota,
whatever the batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from monai_histodiff import (
    Candidates,
    GuidedSampler,
    LatentClassifier,
    LatentDiffusion,
    PatchCritic,
    PatchSet,
    SyntheticBank,
    sample_candidates,
)
from monai_histodiff.bundle.run_folder import RunFolder
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.selection.selector import Selection
from monai_histodiff.utils.seeds import candidate_seed


def noise(count: int, side: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(
        0,
        256,
        (count, 3, side, side),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.uint8,
    )


@pytest.fixture
def bank() -> SyntheticBank:
    """Three classes, of which the second is empty."""
    return SyntheticBank(
        {0: noise(3, seed=0), 1: noise(0), 2: noise(2, seed=2)},
        {0: torch.tensor([0.1, 1 / 3, 1.0]), 1: torch.empty(0), 2: torch.tensor([0.9, 1e-7])},
        {
            0: torch.tensor([5, 2**32 - 1, 2**40]),
            1: torch.empty(0, dtype=torch.long),
            2: torch.tensor([0, 7]),
        },
        ("adeno", "normal", "squamous é"),
        {"sampling": {"scale": 3.0, "interval": [-6, 6]}, "note": None},
        um_per_px=0.5,
    )


def same(a: SyntheticBank, b: SyntheticBank) -> None:
    assert a.classes == b.classes and a.provenance == b.provenance and a.size == b.size
    assert a.um_per_px == b.um_per_px
    assert list(a.images) == list(b.images)
    for name in ("images", "confidence", "seeds"):
        for label, value in getattr(a, name).items():
            other = getattr(b, name)[label]
            assert value.dtype == other.dtype and torch.equal(value, other), (name, label)


# -------------------------------------------------------------------------------------------------
# -------------------- bank


def test_saved_bank_comes_back_exactly(bank: SyntheticBank, tmp_path: Path) -> None:
    assert bank.save(tmp_path / "new" / "bank") == tmp_path / "new" / "bank"
    loaded = SyntheticBank.load(tmp_path / "new" / "bank")
    assert (
        len(loaded) == 5
        and [loaded.count(i) for i in range(4)] == [3, 0, 2, 0]
        and loaded.size == (8, 8)
    )
    same(loaded, bank)
    again = loaded.save(tmp_path / "again")
    same(SyntheticBank.load(str(again)), bank)


def test_saved_bank_is_a_patch_set(bank: SyntheticBank, tmp_path: Path) -> None:
    patches = PatchSet.open(bank.save(tmp_path / "bank"))
    assert patches.counts() == {"adeno": 3, "squamous é": 2}
    assert torch.equal(patches[1]["image"], bank.images[0][1])
    assert patches.records[1].extra["seed"] == str(2**32 - 1)


def test_empty_bank_comes_back(tmp_path: Path) -> None:
    empty = SyntheticBank(
        {0: noise(0), 3: noise(0)},
        classes=["a", "b", "c", "d"],
        provenance={"why": "nothing accepted"},
    )
    assert len(empty) == 0 and empty.size is None
    loaded = SyntheticBank.load(empty.save(tmp_path / "bank"))
    assert (
        len(loaded) == 0
        and loaded.size is None
        and list(loaded.images) == [0, 3]
        and loaded.count(3) == 0
    )
    assert loaded.classes == ("a", "b", "c", "d") and loaded.provenance == {
        "why": "nothing accepted"
    }


def test_bank_without_names_confidence_or_seeds(tmp_path: Path) -> None:
    bank = SyntheticBank({4: noise(2)})
    assert (
        bank.confidence[4].tolist() == [1.0, 1.0]
        and bank.seeds[4].tolist() == [-1, -1]
        and bank.classes == ()
    )
    same(SyntheticBank.load(bank.save(tmp_path / "bank")), bank)


def test_bank_of_arrays() -> None:
    array = noise(4).permute(0, 2, 3, 1).numpy()
    bank = SyntheticBank.from_arrays({0: array, 1: array[:1]}, classes=["a", "b"])
    assert torch.equal(bank.images[0], noise(4)) and bank.classes == ("a", "b")
    array[:] = 0
    assert torch.equal(bank.images[0], noise(4)), "the bank has its own memory"
    for bad in (array.astype(np.float32), array.transpose(0, 3, 1, 2), array[0]):
        with pytest.raises(
            ValueError, match="made of uint8 arrays N x H x W x 3, got .* for class 0"
        ):
            SyntheticBank.from_arrays({0: bad})


BAD_BANKS: list[tuple[Callable[[], Any], str]] = [
    (lambda: SyntheticBank({}), "at least one class, got none"),
    (
        lambda: SyntheticBank({2: noise(2).float()}),
        r"uint8 patches N x 3 x H x W, got torch.float32 \(2, 3, 8, 8\) for class 2",
    ),
    (lambda: SyntheticBank({0: noise(2)[0]}), r"got torch.uint8 \(3, 8, 8\) for class 0"),
    (lambda: SyntheticBank({0: noise(2)[:, :1]}), r"got torch.uint8 \(2, 1, 8, 8\)"),
    (
        lambda: SyntheticBank({0: noise(2), 1: noise(2, 16)}),
        r"one size, got \[\(8, 8\), \(16, 16\)\]",
    ),
    (
        lambda: SyntheticBank({0: noise(2)}, confidence={0: torch.ones(3)}),
        r"one value, got \(3,\) for 2 patches of class 0",
    ),
    (
        lambda: SyntheticBank({0: noise(2)}, seeds={0: torch.ones(2, 1, dtype=torch.long)}),
        r"one value, got \(2, 1\) for 2 patches",
    ),
    (
        lambda: SyntheticBank({0: noise(2), 1: noise(1)}, confidence={0: torch.ones(2)}),
        "one value, got none for class 1",
    ),
    (
        lambda: SyntheticBank({0: noise(2), 1: noise(1)}, classes=["a"]),
        "needs its name, got 1 names and class 1",
    ),
    (lambda: SyntheticBank({-1: noise(2), 0: noise(1)}), "start at 0, got -1"),
    (
        lambda: SyntheticBank({0: noise(2)}, confidence={0: torch.tensor([0.5, 1.5])}),
        r"a probability, in \[0, 1\], got 1.5 for class 0",
    ),
    (
        lambda: SyntheticBank({3: noise(1)}, confidence={3: torch.tensor([float("nan")])}),
        "got nan for class 3",
    ),
    (lambda: SyntheticBank({0: noise(1)}, classes=["a", "a"]), "distinct, got 'a' more than once"),
    (lambda: SyntheticBank({0: noise(1)}, classes=[" "]), "printable text, not empty, .* got ' '"),
    (lambda: SyntheticBank({0: noise(1)}, classes=["a\x1b[31m"]), r"got 'a\\x1b\[31m'"),
    (lambda: SyntheticBank({0: noise(1)}, classes=["a "]), "without blanks around it, got 'a '"),
    (lambda: SyntheticBank({0: noise(1)}, um_per_px=0.0), "a number of micrometres .*, got 0.0"),
    (
        lambda: SyntheticBank({0: noise(1)}, um_per_px=float("nan")),
        "number of micrometres .*, got nan",
    ),
    (lambda: SyntheticBank({0: noise(1)}, um_per_px=True), "number of micrometres .*, got True"),
    (
        lambda: SyntheticBank({0: noise(1)}, provenance={"run": {"at": Path("out")}}),
        "provenance must be of plain values .*PosixPath.*: turn it into text",
    ),
    (
        lambda: SyntheticBank({0: noise(1)}, confidence={0: torch.ones(1), 7: torch.ones(1)}),
        "got values of class 7, no patch",
    ),
    (lambda: SyntheticBank({1.5: noise(1)}), "must be whole numbers, got 1.5"),  # type: ignore[dict-item]
    (lambda: SyntheticBank({True: noise(1)}), "must be whole numbers, got True"),
    (
        lambda: SyntheticBank({0: noise(1)}, seeds={0: torch.tensor([1.5])}),
        "seeds must be whole numbers, got torch.float32 for class 0",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD_BANKS, ids=[m for _, m in BAD_BANKS])
def test_bank_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bank_is_made_of_tensors_by_class() -> None:
    with pytest.raises(TypeError, match="patches by class index, got list: give"):
        SyntheticBank([noise(1)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got ndarray for class 0: give torch\.as_tensor of it"):
        SyntheticBank({0: noise(1).numpy()})  # type: ignore[dict-item]


@pytest.mark.parametrize("told", ["0.25", "null"])
def test_a_scale_that_its_patches_deny_is_refused(
    told: str, bank: SyntheticBank, tmp_path: Path
) -> None:
    about = bank.save(tmp_path / "bank") / "bank.json"
    about.write_text(about.read_text().replace('"um_per_px": 0.5', f'"um_per_px": {told}'))
    with pytest.raises(ValueError, match=r"um_per_px must be that in bank.json, .*got '?0.5"):
        SyntheticBank.load(tmp_path / "bank")


@pytest.mark.parametrize("scale", [0.1234567891, 1 / 3, 1.0, None])
def test_a_scale_of_many_digits_comes_back(
    scale: float | None, bank: SyntheticBank, tmp_path: Path
) -> None:
    made = SyntheticBank({0: noise(2)}, um_per_px=scale)
    found = SyntheticBank.load(made.save(tmp_path / "bank"))
    assert found.um_per_px == scale


def test_folder_that_is_no_bank_or_is_taken(bank: SyntheticBank, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="a bank must hold 'bank.json', got none in '.*nowhere'"
    ):
        SyntheticBank.load(tmp_path / "nowhere")
    folder = bank.save(tmp_path / "bank")
    with pytest.raises(FileExistsError, match="a new folder is needed, got"):
        bank.save(folder)
    same(SyntheticBank.load(folder), bank)


def test_failing_save_leaves_nothing(
    bank: SyntheticBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.provenance["tensor"] = torch.zeros(1)
    with pytest.raises(TypeError):
        bank.save(tmp_path / "bank")
    assert not list(tmp_path.iterdir())


def overwrite(bank: SyntheticBank, ready: Any) -> None:
    """In another process: see what the parent wrote, and answer in the same memory."""
    assert int(bank.images[0][0, 0, 0, 0]) == 77, "what the parent has written since"
    bank.images[0][1].fill_(99)
    bank.confidence[2][0] = 0.5
    bank.seeds[2][1] = 4321
    ready.set()


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_processes_share_the_memory_of_a_bank(context: str, bank: SyntheticBank) -> None:
    processes = mp.get_context(context)
    bank.images[0][0].fill_(77)
    ready = processes.Event()
    process = processes.Process(target=overwrite, args=(bank, ready))
    process.start()
    process.join(120)
    assert process.exitcode == 0 and ready.is_set()
    assert (
        bool((bank.images[0][1] == 99).all())
        and float(bank.confidence[2][0]) == 0.5
        and int(bank.seeds[2][1]) == 4321
    )


# -------------------------------------------------------------------------------------------------
# -------------- candidates


class Painter:
    """Stands for a sampler: the first two pixels of a patch tell its seed and label."""

    progress = False

    def __init__(self) -> None:
        self.calls: list[int] = []

    def origins(self, labels: Tensor, seeds: Tensor) -> None:
        """Nothing that it paints is a variation."""

    def __call__(self, labels: Tensor, seeds: Tensor) -> Tensor:
        self.calls.append(len(seeds))
        images = torch.zeros(len(seeds), 3, 4, 4)
        images[:, 0, 0, 0] = (seeds % 251) / 255
        images[:, 0, 0, 1] = labels / 255
        return images


class Judge:
    """Stands for a selector: accepts by what the painter painted."""

    def __init__(self, accepts: Callable[[int, int], bool]) -> None:
        self.accepts = accepts

    def __call__(self, images: Tensor, labels: Tensor, origins: None) -> Selection:
        assert images.dtype == torch.uint8 and images[:, 0, 0, 1].tolist() == labels.tolist()
        values = images[:, 0, 0, 0].tolist()
        keep = torch.tensor([self.accepts(v, int(k)) for v, k in zip(values, labels, strict=True)])
        score = torch.tensor(values) / 255
        reasons = [
            "accepted" if k else "near copy" if v % 3 == 1 else "low confidence"
            for k, v in zip(keep.tolist(), values, strict=True)
        ]
        return Selection(score, score + 1, torch.tensor(values), reasons)


def painted(accepts: Callable[[int, int], bool], **options: Any) -> tuple[Candidates, Painter]:
    painter: Any = Painter()
    judge: Any = Judge(accepts)
    return sample_candidates(
        painter,
        judge,
        **{"num_classes": 3, "quota": 5, "max_candidates": 40, "batch_size": 6, **options},
    ), painter


def outcomes(candidates: Candidates) -> dict[tuple[int, int], tuple[float, str]]:
    rows = zip(
        candidates.labels.tolist(),
        candidates.seed.tolist(),
        candidates.confidence.tolist(),
        candidates.reasons,
        strict=True,
    )
    return {(label, seed): (score, reason) for label, seed, score, reason in rows}


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64, 1000])
def test_accepted_candidates_do_not_depend_on_the_batches(batch_size: int) -> None:
    def accepts(value: int, label: int) -> bool:
        return value % 3 == 0 and label != 2

    candidates, painter = painted(accepts, batch_size=batch_size, seed=9)
    seeds = {(c, j): candidate_seed(9, c, j) for c in range(3) for j in range(40)}
    accepted = {k: v for k, v in outcomes(candidates).items() if v[1] == "accepted"}
    expected = {}
    for c in (0, 1):
        good = [j for j in range(40) if seeds[c, j] % 251 % 3 == 0][:5]
        expected |= {
            (c, seeds[c, j]): (pytest.approx(seeds[c, j] % 251 / 255), "accepted") for j in good
        }
    assert accepted == expected
    assert candidates.accepted.tolist() == [r == "accepted" for r in candidates.reasons]
    made = [candidates.seed[candidates.labels == c].tolist() for c in range(3)]
    assert all(made[c] == [seeds[c, j] for j in range(len(made[c]))] for c in range(3)), (
        "each class takes its seeds in order"
    )
    assert len(made[2]) == 40, "a class without luck ends at its last candidate"
    assert max(painter.calls) <= max(batch_size, 3) and sum(painter.calls) == len(
        candidates.reasons
    )


def test_candidates_beyond_the_quota_say_so() -> None:
    candidates, painter = painted(lambda *_: True, batch_size=64, quota=5)
    assert painter.calls == [63], "one batch, shared by three classes, was enough"
    for c in range(3):
        reasons = [
            r
            for r, k in zip(candidates.reasons, candidates.labels.tolist(), strict=True)
            if k == c
        ]
        assert reasons == ["accepted"] * 5 + ["over quota"] * 16


def test_filled_classes_leave_the_batch_to_the_others() -> None:
    candidates, painter = painted(
        lambda _, label: label == 0, quota=2, max_candidates=10, batch_size=6
    )
    assert painter.calls == [
        6,
        6,
        6,
        4,
    ]  # two of each, then three of each of the two that still need some, then their last
    assert [int((candidates.labels == c).sum()) for c in range(3)] == [2, 10, 10]


def test_every_candidate_keeps_its_row(tmp_path: Path) -> None:
    candidates, _ = painted(lambda value, _: value % 2 == 0)
    for i, seed in enumerate(candidates.seed.tolist()):
        value = seed % 251
        assert candidates.images[i, 0, 0, :2].tolist() == [value, int(candidates.labels[i])]
        assert float(candidates.confidence[i]) == pytest.approx(value / 255) and float(
            candidates.distance[i]
        ) == pytest.approx(1 + value / 255)
        assert int(candidates.nearest[i]) == value
        rejected = "near copy" if value % 3 == 1 else "low confidence"
        assert candidates.reasons[i] in (
            ("accepted", "over quota") if value % 2 == 0 else (rejected,)
        )
    assert candidates.seconds > 0
    loaded = Candidates.load(candidates.save(tmp_path / "candidates", ["a", "b", "c"]))
    assert loaded.origin is None
    varied = replace(candidates, origin=torch.arange(len(candidates.labels)) + 5)
    assert torch.equal(
        Candidates.load(varied.save(tmp_path / "varied", ["a", "b", "c"])).origin, varied.origin
    )
    for name in ("images", "labels", "seed", "confidence", "distance", "nearest"):
        assert torch.equal(getattr(loaded, name), getattr(candidates, name)), name
    assert loaded.reasons == candidates.reasons


@pytest.mark.parametrize("name", ["num_classes", "quota", "max_candidates", "batch_size"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number from 1 on, got 0"):
        painted(lambda *_: True, **{name: 0})


@pytest.mark.parametrize("known", [("a", "b", "c"), ()])
@pytest.mark.parametrize("other", [["b", "a", "c"], ["a", "b"]])
def test_candidates_keep_the_classes_that_they_were_made_for(
    known: tuple[str, ...], other: list[str], tmp_path: Path
) -> None:
    candidates = replace(painted(lambda *_: True)[0], classes=known)
    rule = (
        "must be those of the candidates" if known else "labels must lie from 0 to 1, got 0 to 2"
    )
    for use in (
        lambda: candidates.bank(candidates.accepted, other),
        lambda: candidates.save(tmp_path / "made", other),
    ):
        if known or len(other) < 3:
            with pytest.raises(ValueError, match=rule):
                use()
    assert not (tmp_path / "made").exists()


def test_parts_of_candidates_have_one_length_and_pictures_are_bytes(tmp_path: Path) -> None:
    candidates, _ = painted(lambda *_: True)
    for part in ("images", "labels", "seed", "confidence", "distance", "nearest", "reasons"):
        with pytest.raises(ValueError, match=f"one row of each part, got .*'{part}': 1[,}}]"):
            replace(candidates, **{part: getattr(candidates, part)[:1]})
    with pytest.raises(ValueError, match="one row of each part, got .*'origin': 2}"):
        replace(candidates, origin=torch.arange(2))
    with pytest.raises(ValueError, match="images of candidates must be uint8, got torch.float32"):
        floats = replace(candidates, images=candidates.images / 255)
        floats.save(tmp_path / "floats", ["a", "b", "c"])


def test_seeds_of_candidates_are_not_negative() -> None:
    with pytest.raises(ValueError, match="seed must be a whole number from 0 on, got -1"):
        painted(lambda *_: True, seed=-1)


def test_bank_of_chosen_candidates() -> None:
    candidates, _ = painted(lambda value, label: value % 2 == 0 and label != 1)
    bank = candidates.bank(candidates.accepted, ["a", "b", "c"], {"from": "a test"})
    assert (
        [bank.count(k) for k in range(3)] == [5, 0, 5]
        and bank.classes == ("a", "b", "c")
        and bank.provenance == {"from": "a test"}
        and bank.um_per_px is None
    )
    assert candidates.bank(candidates.accepted, ["a", "b", "c"], um_per_px=0.5).um_per_px == 0.5
    unsure = replace(candidates, confidence=torch.full_like(candidates.confidence, math.nan))
    kept = unsure.bank(unsure.accepted, ["a", "b", "c"])
    assert kept.confidence[0].tolist() == [0.0] * 5, "what is not finite counts as 0"
    for k in (0, 2):
        rows = (candidates.accepted & (candidates.labels == k)).nonzero()[:, 0]
        assert torch.equal(bank.images[k], candidates.images[rows]) and torch.equal(
            bank.seeds[k], candidates.seed[rows]
        )
        assert torch.equal(bank.confidence[k], candidates.confidence[rows])
    some = candidates.bank(torch.tensor([4, 0]), ["a", "b", "c"])
    assert len(some) == 2
    assert sorted(s for v in some.seeds.values() for s in v.tolist()) == sorted(
        candidates.seed[[0, 4]].tolist()
    )


def test_real_sampler_gives_the_same_candidates_in_any_batches(
    model: LatentDiffusion, guide: LatentClassifier
) -> None:
    def half(images: Tensor, labels: Tensor, origins: None) -> Selection:
        score = images.float().mean((1, 2, 3)) / 255
        keep = images[:, 0, 0, 0] > 128
        reasons = ["accepted" if k else "low confidence" for k in keep.tolist()]
        return Selection(score, score, torch.zeros(len(labels), dtype=torch.long), reasons)

    runs = []
    for batch_size, max_batch in ((4, 64), (9, 2)):
        sampler, selector = (
            GuidedSampler(model, guide, steps=2, max_batch=max_batch, progress=False),
            half,
        )
        runs.append(sample_candidates(sampler, selector, 3, 8, 8, batch_size, seed=1))  # type: ignore
    order = [run.seed.argsort() for run in runs]
    assert len(runs[0].seed) == 24 and torch.equal(runs[0].seed[order[0]], runs[1].seed[order[1]])
    images = [run.images[i].int() for run, i in zip(runs, order, strict=True)]
    assert int((images[0] - images[1]).abs().max()) <= 1, "the same patches, up to rounding"


# -------------------------------------------------------------------------------------------------
# ----------------- outcome


class Settings:
    """Stands for a sampler of which only the settings are asked."""

    settings = SamplingSettings(steps=4, scale=3.0, interval=(-6.0, 6.0))
    network_evaluations = 6


def saved(
    root: Path, accepts: Callable[[int, int], bool], classes: Sequence[str] = ("a", "b", "c")
) -> tuple[Candidates, dict[str, Any]]:
    candidates, _ = painted(accepts, quota=4, max_candidates=12, batch_size=64)
    critic = PatchCritic([torch.nn.Identity()], 3)
    for name, value in (
        ("threshold", 0.7),
        ("precision", 0.85),
        ("target_precision", 0.9),
        ("temperature", 1.5),
    ):
        getattr(critic, name).fill_(value)
    sampler: Any = Settings()
    judge: Any = SimpleNamespace(
        critic=critic, settings={"threshold": 0.8, "copy_threshold": 0.1, "temperature": 1.5}
    )
    path = RunFolder(root).save(candidates, classes, judge, sampler, {"quota": 4, "draw": 3})
    assert path == root / "outcome.json"
    return candidates, json.loads(path.read_text())


def test_outcome_counts_what_happened(tmp_path: Path) -> None:
    candidates, outcome = saved(
        tmp_path / "run", lambda value, label: value % 2 == 0 and label < 2
    )
    selection, sampling = outcome["selection"], outcome["sampling"]
    made, kept = len(candidates.reasons), candidates.reasons.count("accepted")
    assert (selection["candidates"], selection["accepted"]) == (made, kept) and 0 < kept < made
    assert selection["over_quota"] == candidates.reasons.count("over quota") > 0
    assert sum(selection["reasons"].values()) == made - kept - selection["over_quota"]
    assert set(selection["reasons"]) <= {"low confidence", "near copy"}, "why they were rejected"
    assert [row["accepted"] for row in selection["per_class"].values()] == [4, 4, 0] and list(
        selection["per_class"]
    ) == [
        "a",
        "b",
        "c",
    ]
    assert sum(row["candidates"] for row in selection["per_class"].values()) == made
    rule = {
        "threshold": 0.8,
        "copy_threshold": 0.1,
        "reached_precision": 0.85,
        "target_precision": 0.9,
        "temperature": 1.5,
    }
    for name, value in rule.items():  # what was in force, not what the critic would have had
        assert math.isclose(selection[name], value, rel_tol=1e-6), name
    assert sampling["interval"] == [-6.0, 6.0] and math.isclose(
        sampling["candidates_per_second"] * sampling["seconds"], made, rel_tol=1e-6
    )
    passed = kept + selection["over_quota"]
    assert math.isclose(
        sampling["accepted_per_second"] * sampling["seconds"], passed, rel_tol=1e-6
    )
    assert (
        outcome["settings"] == {"quota": 4, "draw": 3}
        and sampling["network_evaluations"] == 6 * made
    )

    loaded, bank = (
        Candidates.load(tmp_path / "run" / "candidates"),
        SyntheticBank.load(tmp_path / "run" / "bank"),
    )
    assert outcomes(loaded) == outcomes(candidates)
    assert [bank.count(k) for k in range(3)] == [4, 4, 0] and outcome == {
        **bank.provenance,
        "files": outcome["files"],
    }
    assert sorted(s for v in bank.seeds.values() for s in v.tolist()) == sorted(
        candidates.seed[candidates.accepted].tolist()
    )


def test_counts_of_variations_tell_from_how_many_patches_they_come() -> None:
    labels, reasons = (
        torch.tensor([0, 0, 0, 0, 1, 1, 0]),
        [*["accepted"] * 3, "low confidence", "accepted", "near copy", "over quota"],
    )
    zeros, images = torch.zeros(7), torch.zeros(7, 3, 4, 4, dtype=torch.uint8)
    origin = torch.tensor([3, 3, 5, 7, 9, 9, 8])
    made = Candidates(images, labels, labels, zeros, zeros, labels, reasons, origin=origin)

    def counted(rows: Tensor, *numbers: int) -> bool:
        names = ("candidates", "accepted", "over_quota", "sources")
        return made.counts(rows) == dict(zip(names, numbers, strict=True))

    assert counted(labels == 0, 5, 3, 1, 2) and counted(labels >= 0, 7, 4, 1, 3)
    assert counted(labels > 1, 0, 0, 0, 0)
    plain = replace(made, origin=None).counts(labels == 1)
    assert plain == {"candidates": 2, "accepted": 1, "over_quota": 0}
    assert made.rejections() == {"low confidence": 1, "near copy": 1}


def test_outcome_of_a_run_that_accepted_nothing(tmp_path: Path) -> None:
    _, outcome = saved(tmp_path, lambda *_: False)
    assert (
        outcome["selection"]["accepted"] == 0 and outcome["sampling"]["accepted_per_second"] == 0
    )
    assert (
        len(SyntheticBank.load(tmp_path / "bank")) == 0
        and len(Candidates.load(tmp_path / "candidates").reasons) == 36
    )


def test_run_that_has_results_is_not_overwritten(tmp_path: Path) -> None:
    RunFolder(tmp_path / "nowhere").check_new()
    (tmp_path / "models").mkdir()
    RunFolder(tmp_path).check_new()
    saved(tmp_path, lambda *_: True)
    with pytest.raises(
        FileExistsError, match="output_dir must be new, got '.*', which holds 'candidates' already"
    ):
        RunFolder(tmp_path).check_new()
    before = (tmp_path / "outcome.json").read_bytes()
    with pytest.raises(FileExistsError):
        saved(tmp_path, lambda *_: False)
    assert (tmp_path / "outcome.json").read_bytes() == before


def test_a_position_draws_its_share_of_the_list() -> None:
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2)
    bank = SyntheticBank(
        {0: images, 1: images[:0]},
        seeds={0: torch.tensor([7, 8, 9]), 1: torch.empty(0, dtype=torch.long)},
    )
    drawn = [bank.draw(0, position) for position in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)]
    assert [patch.seed for patch in drawn if patch] == [7, 7, 8, 8, 9, 9]
    assert [int(patch.image.max()) for patch in drawn if patch] == [0, 0, 1, 1, 2, 2]
    assert bank.draw(1, 0.5) is None is bank.draw(2, 0.5)


def test_the_size_is_height_and_width() -> None:
    bank = SyntheticBank({0: torch.zeros(1, 3, 2, 5, dtype=torch.uint8)})
    assert bank.size == (2, 5)


def test_the_home_of_the_user_is_expanded_when_a_bank_is_read(
    bank: SyntheticBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bank.save("~/b") == tmp_path / "b"
    assert torch.equal(SyntheticBank.load("~/b").images[0], bank.images[0])
