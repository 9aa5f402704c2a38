"""A live bank shows its readers whole refreshes, in any process, repeats them by seed, and leaves
nothing behind.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from painting import SIDE, Judge, Painter
from torch.utils.data import get_worker_info

from monai_histodiff import (
    BankRefresher,
    GuidedSampler,
    LatentClassifier,
    LatentDiffusion,
    LiveBank,
    PatchCritic,
    Selector,
    SyntheticAugment,
    SyntheticAugmentd,
    SyntheticBank,
    sample_candidates,
)
from monai_histodiff.augmentation import filling, live_bank
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.utils.seeds import candidate_seed


def live(painter: Any = None, judge: Any = None, **options: Any) -> LiveBank:
    options = {
        "classes": ["a", "b", "c"],
        "quota": 4,
        "max_candidates": 24,
        "capacity": 10,
        "batch_size": 12,
        **options,
    }
    return LiveBank(painter or Painter(), judge or Judge(), **options)


def seeds_of(bank: LiveBank, label: int) -> list[int]:
    count = bank.count(label)
    patches = [bank.draw(label, i / count) for i in range(count)]
    return [p.seed for p in patches if p is not None]


def accepted_of(refresh: int, label: int, quota: int = 4, seed: int = 0) -> list[int]:
    """The definition: candidate j of a class has the seed (seed of the refresh, class, j), and the
    first good ones stay.
    """
    seeds = [candidate_seed(candidate_seed(seed, refresh), label, j) for j in range(24)]
    return [s for s in seeds if s % 251 % 3][:quota]


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "LiveBank"]


def test_a_refresh_depends_on_seed_refresh_and_class_alone() -> None:
    for seed, batch_size in ((0, 12), (7, 5)):
        bank = live(seed=seed, batch_size=batch_size, capacity=4)
        for refresh in range(3):
            assert bank.refresh() and bank.refreshes == refresh + 1
            assert [seeds_of(bank, k) for k in range(3)] == [
                accepted_of(refresh, k, seed=seed) for k in range(3)
            ]


def test_newest_come_first_and_the_oldest_leave() -> None:
    bank = live(judge=Judge(never=1))
    for refresh in range(5):
        bank.refresh()
        expected = [s for r in range(refresh, -1, -1) for s in accepted_of(r, 2)][:10]
        assert seeds_of(bank, 2) == expected and bank.count(2) == len(expected)
    assert (
        bank.count(1) == 0
        and bank.draw(1, 0.5) is None
        and bank.count(3) == bank.count(-1) == 0
        and len(bank) == 20
    )


def test_of_a_surplus_the_most_diverse_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the first eight good candidates of each class, the four that spread the most: what
    ``sample_candidates`` keeps.
    """
    bank = live(surplus=2.0)
    bank.refresh()
    expected = sample_candidates(
        Painter(), Judge(), 3, 4, 24, 12, candidate_seed(0, 0), 2.0, progress=False
    )  # type: ignore[arg-type]
    kept = [expected.seed[expected.accepted & (expected.labels == k)].tolist() for k in range(3)]
    assert [seeds_of(bank, k) for k in range(3)] == kept
    assert any(set(seeds) != set(accepted_of(0, k)) for k, seeds in enumerate(kept))
    assert all(set(seeds) <= set(accepted_of(0, k, quota=8)) for k, seeds in enumerate(kept))
    assert capsys.readouterr().err == "", "no progress bar in the midst of a training"


def test_patches_come_with_their_own_values() -> None:
    bank = live()
    for label in range(3):
        for i in range(bank.count(label)):
            patch = bank.draw(label, i / 4)
            assert patch is not None and patch.label == label
            assert patch.image.shape == (3, SIDE, SIDE) and bool(
                (patch.image[0] == patch.seed % 251).all()
            )
            assert int(patch.image[1, 0, 0]) == label and patch.confidence == pytest.approx(
                patch.seed % 251 / 255
            )
            patch.image.zero_()
    assert seeds_of(bank, 0) == accepted_of(0, 0) and int(bank.draw(0, 0.0).image[0].max()) > 0, (
        "a drawn patch is a copy"
    )  # type: ignore[union-attr]


def test_the_first_draw_fills_the_bank() -> None:
    bank = live()
    assert len(bank) == 0 == bank.refreshes
    img, label = SyntheticAugment(bank, prob=1.0, full_prob_at=1)(
        torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), 2
    )
    assert bank.refreshes == 1 and int(img[1, 0, 0]) == label == 2


def read_for_a_while(bank: LiveBank, started: Any, bad: Any) -> None:
    started.set()
    while bank.refreshes < 60:
        for label in range(3):
            patch = bank.draw(label, 0.3)
            if (
                patch is None
                or bool((patch.image[0] != patch.seed % 251).any())
                or int(patch.image[1, 3, 3]) != label
            ):
                bad.set()


def test_a_reader_never_sees_half_a_refresh() -> None:
    bank = live(quota=2, capacity=2, max_candidates=12)
    bank.refresh()
    processes = multiprocessing.get_context("fork")
    started, bad = processes.Event(), processes.Event()
    reader = processes.Process(target=read_for_a_while, args=(bank, started, bad))
    reader.start()
    assert started.wait(120)
    while bank.refreshes < 60:
        bank.refresh()
    reader.join(60)
    assert reader.exitcode == 0 and not bad.is_set()


def test_preparing_goes_on_beside_and_is_published_when_asked() -> None:
    painter = Painter()
    bank = live(painter)
    bank.refresh()
    painter.gate.clear()
    state = torch.get_rng_state()
    bank.prepare()
    bank.prepare()  # it is under way: nothing to do
    assert painter.inside.wait(30) and threads() == ["LiveBank"]
    assert bank.refresh(wait=False) is False and seeds_of(bank, 0) == accepted_of(0, 0), (
        "readers are served meanwhile"
    )
    painter.gate.set()
    while not bank.refresh(wait=False):
        time.sleep(0.01)
    assert seeds_of(bank, 0)[:4] == accepted_of(1, 0) and bank.refreshes == 2
    assert torch.equal(torch.get_rng_state(), state), (
        "sampling does not touch the random state of the training"
    )


def test_an_error_of_the_sampler_is_raised_and_the_patches_stay() -> None:
    painter = Painter()
    bank = live(painter)
    bank.refresh()
    painter.settings, broken = {}, Painter.__call__

    def fail(*_: Any) -> Any:
        raise FloatingPointError("the denoised latent must be finite")

    try:
        Painter.__call__ = fail  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(FloatingPointError, match="must be finite"):
                bank.refresh()
    finally:
        Painter.__call__ = broken  # type: ignore[method-assign]
    assert bank.refreshes == 1 and seeds_of(bank, 1) == accepted_of(0, 1)
    assert bank.refresh() and bank.refreshes == 2


class Breaks(Painter):
    """Fails in its n-th call and after, until it is mended."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    def __call__(self, labels: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        if len(self.calls) >= self.good:
            raise FloatingPointError("the denoised latent must be finite")
        return super().__call__(labels, seeds)


def failed_ahead() -> tuple[LiveBank, Breaks]:
    """A bank that is filled, and whose next refresh has failed in the background."""
    painter = Breaks(10**6)
    bank = live(painter)
    bank.refresh()
    painter.good = 0
    bank.prepare()
    while not bank._filling[0].failed:
        time.sleep(0.01)
    return bank, painter


ASKED: dict[str, Any] = {
    "draw": lambda bank: bank.draw(0, 0.5),
    "count": lambda bank: bank.count(0),
    "prepare": lambda bank: bank.prepare(),
    "refresh": lambda bank: bank.refresh(wait=False),
    "check": lambda bank: bank.check(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_an_error_of_sampling_ahead_is_told_at_the_next_question(asked: str) -> None:
    """Once; then the patches that there are serve again, and sampling may start anew."""
    bank, painter = failed_ahead()
    with pytest.raises(FloatingPointError, match="must be finite"):
        ASKED[asked](bank)
    assert threads() == [] and seeds_of(bank, 0) == accepted_of(0, 0)
    painter.good = 10**6
    assert bank.refresh() and seeds_of(bank, 0)[:4] == accepted_of(1, 0)


def test_closing_a_bank_whose_sampling_failed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bank, _ = failed_ahead()
    bank.close()
    assert "sampling ahead had failed: FloatingPointError" in caplog.messages[0]


def test_an_error_of_sampling_reaches_the_training_long_before_a_refresh_is_due() -> None:
    painter, epochs = Breaks(10**6), []
    bank = live(painter)
    bank.refresh()
    painter.good = 0

    def step(engine: Engine, _: Any) -> None:
        epochs.append(engine.state.epoch)
        while threads():
            time.sleep(0.01)

    engine = Engine(step)
    BankRefresher(bank, refresh_every=10).attach(engine)
    with pytest.raises(FloatingPointError, match="must be finite"):
        engine.run([0], max_epochs=10)
    assert epochs == [1]


def test_sampling_ends_when_the_training_raises() -> None:
    painter = Painter()
    bank = live(painter, batch_size=1)
    bank.refresh()
    painter.gate.clear()
    before = len(painter.calls)

    def step(engine: Engine, _: Any) -> None:
        assert painter.inside.wait(30)
        threading.Timer(0.05, painter.gate.set).start()
        raise ZeroDivisionError("the loss")

    engine = Engine(step)
    BankRefresher(bank).attach(engine)
    with pytest.raises(ZeroDivisionError, match="the loss"):
        engine.run([0], max_epochs=2)
    assert threads() == [] and len(painter.calls) == before + 1, "no further batch was begun"


def test_forks_are_hooked_by_the_first_live_bank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by who imports the module: a copy of it is executed anew."""
    hooks: list[Any] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hook: hooks.append(hook))
    spec = importlib.util.spec_from_file_location("filling_anew", filling.__file__)
    assert spec is not None and spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    assert not hooks
    monkeypatch.setattr(live_bank, "guard_forks", anew.guard_forks)
    for _ in range(2):
        live()
        assert [hook["before"] for hook in hooks] == [anew._sampling.acquire]


def test_a_live_bank_tells_size_and_scale() -> None:
    bank = live(um_per_px=0.5)
    assert bank.size == (SIDE, SIDE) and bank.um_per_px == 0.5
    bank.refresh()
    assert bank.snapshot().um_per_px == 0.5 and live().um_per_px is None
    with pytest.raises(ValueError, match=r"not tell its own: make it with LiveBank\(.*\.\.\)$"):
        SyntheticAugment(live(), um_per_px=0.5)
    cropped = SyntheticAugment(bank, 1.0, full_prob_at=1, um_per_px=0.5)
    assert cropped(torch.zeros(3, 4, 4, dtype=torch.uint8), 1)[0].shape == (3, 4, 4)


@pytest.mark.parametrize("end", ["close", "drop"])
def test_the_thread_ends_with_its_bank(end: str) -> None:
    painter = Painter()
    bank = live(painter)
    painter.gate.clear()
    bank.prepare()
    assert painter.inside.wait(30)
    (filling,) = (t for t in threading.enumerate() if t.name == "LiveBank")
    assert filling.daemon, "a script may end meanwhile"
    threading.Timer(0.05, painter.gate.set).start()
    if end == "close":
        bank.close()
    else:
        del bank
        gc.collect()
    assert threads() == [] and len(painter.calls) == 1, "no batch was begun any more"
    if end == "close":
        assert bank.refresh() and seeds_of(bank, 0) == accepted_of(0, 0), "it may start again"


def test_a_snapshot_tells_of_its_own_refreshes_only() -> None:
    bank = live()
    bank.refresh()
    snapshot = bank.snapshot()
    bank.refresh()
    assert len(snapshot.provenance["refreshes"]) == 1 and len(bank.provenance["refreshes"]) == 2


def test_a_bank_never_filled_is_not_kept(tmp_path: Path) -> None:
    bank = live(judge=Judge(never=0), classes=["a"])
    for keep in (bank.snapshot, lambda: bank.save(tmp_path / "bank")):
        with pytest.raises(RuntimeError, match="must be filled .*, got 0 refreshes: call refresh"):
            keep()
    assert not list(tmp_path.iterdir()) and bank.refreshes == 0
    bank.refresh()
    assert len(SyntheticBank.load(bank.save(tmp_path / "bank"))) == 0, "what was found is told"


def test_many_refreshes_leak_nothing() -> None:
    bank = live()

    def held() -> tuple[int, int]:
        gc.collect()
        tensors = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
        return len(os.listdir("/proc/self/fd")), tensors

    bank.refresh()
    before = held()
    for _ in range(30):
        bank.prepare()
        bank.refresh()
    assert held() == before and threads() == [] and len(bank.history) == 31


def test_a_dropped_bank_gives_its_memory_back() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:monai_histodiff")

    gc.collect()
    before, files = mapped(), len(os.listdir("/proc/self/fd"))
    bank = live(capacity=4000)
    assert mapped() == before + 1, "the bank lies in a file of its own, not in /dev/shm"
    bank.refresh()
    del bank
    gc.collect()
    assert mapped() == before and len(os.listdir("/proc/self/fd")) == files


def test_without_memfd_a_deleted_temporary_file_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bank = live()
    bank.refresh()
    assert str(tmp_path) in Path("/proc/self/maps").read_text() and not list(tmp_path.iterdir())
    assert seeds_of(bank, 0) == accepted_of(0, 0)


def draw_in_worker(bank: LiveBank, answers: Any) -> None:
    try:
        answers.put(bank.draw(0, 0.0).seed)  # type: ignore[union-attr]
    except RuntimeError as error:
        answers.put(str(error))


@pytest.mark.parametrize("filled", [False, True])
def test_a_worker_reads_a_filled_bank_and_cannot_fill_one(filled: bool) -> None:
    bank = live()
    if filled:
        bank.refresh()
    processes = multiprocessing.get_context("fork")
    answers = processes.Queue()
    process = processes.Process(target=draw_in_worker, args=(bank, answers))
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    if filled:
        assert answer == accepted_of(0, 0)[0]
    else:
        for way in (
            "never filled",
            "LiveBank.refresh",
            "BankRefresher",
            "LiveBank.save",
            "its folder",
        ):
            assert way in answer


def test_a_pickled_copy_holds_the_patches_but_no_model() -> None:
    bank = live()
    with pytest.raises(RuntimeError, match="a worker process cannot sample"):
        pickle.loads(pickle.dumps(bank)).count(0)
    bank.refresh()
    sent = pickle.loads(pickle.dumps(bank))
    assert seeds_of(sent, 1) == accepted_of(0, 1) and sent.classes == ("a", "b", "c")
    bank.refresh()
    assert sent.refreshes == 1 and seeds_of(sent, 1) == accepted_of(0, 1)
    with pytest.raises(RuntimeError, match="cannot sample, nor can a pickled copy of .*: call re"):
        sent.refresh()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_bank_itself_and_samples(copied: Any) -> None:
    bank = live()
    transform = SyntheticAugmentd("image", bank, prob=1.0, full_prob_at=1)
    item = {"image": torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), "label": 1}
    assert copied(bank) is bank and copied(transform)(item)["synthetic"] is True
    assert bank.refreshes == 1 and copied(bank).refresh() and bank.refreshes == 2


def exit_with(painter: Painter) -> None:
    os._exit(3 if painter.inside.is_set() else 0)


def test_a_fork_waits_for_the_batch_under_way() -> None:
    painter = Painter()
    bank = live(painter)
    painter.gate.clear()
    bank.prepare()
    assert painter.inside.wait(30)
    threading.Timer(0.2, painter.gate.set).start()
    process = multiprocessing.get_context("fork").Process(target=exit_with, args=(painter,))
    process.start()
    process.join(60)
    assert process.exitcode == 0 and bank.refresh()


def test_saved_bank_tells_where_it_comes_from(tmp_path: Path) -> None:
    painter = Painter()
    bank = live(painter, seed=5)
    for _ in range(2):
        bank.refresh()
    loaded = SyntheticBank.load(bank.save(tmp_path / "bank"))
    assert loaded.classes == ("a", "b", "c") and len(loaded) == len(bank) == 24
    assert [loaded.seeds[k].tolist() for k in range(3)] == [seeds_of(bank, k) for k in range(3)]
    about = json.loads((tmp_path / "bank" / "bank.json").read_text())["provenance"]
    assert about["settings"] == {
        "quota": 4,
        "max_candidates": 24,
        "batch_size": 12,
        "surplus": 1.0,
        "capacity": 10,
        "seed": 5,
    }
    assert about["sampling"] == json.loads(json.dumps(asdict(painter.settings))) and about[
        "selection"
    ] == {"threshold": 0.5}
    assert [r["accepted"] for r in about["refreshes"]] == [[4, 4, 4]] * 2 and all(
        r["candidates"] >= 12 for r in about["refreshes"]
    )
    before = about["weights_sha256"]["model"]
    assert len(before) == 64 and bank.provenance["weights_sha256"] == {"model": before}
    with torch.no_grad():
        painter.model.weight[0, 0] += 1e-3
    assert bank.provenance["weights_sha256"]["model"] != before


def test_real_sampler_and_selector(model: LatentDiffusion, guide: LatentClassifier) -> None:
    class Grey(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) * 20

    critic = PatchCritic([Grey()], 3)
    real = torch.randint(
        0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    selector = Selector(critic, real, ["p", "p", "q", "q", "r", "r", "s", "s"], threshold=0.3)
    sampler = GuidedSampler(model, guide, steps=2, progress=False)
    bank = LiveBank(
        sampler, selector, ["a", "b", "c"], quota=3, max_candidates=8, capacity=6, seed=2
    )
    assert bank.refresh()
    expected = sample_candidates(sampler, selector, 3, 3, 8, 64, seed=candidate_seed(2, 0))
    assert 0 < len(bank) == int(expected.accepted.sum())
    snapshot = bank.snapshot()
    for k in range(3):
        rows = expected.accepted & (expected.labels == k)
        assert torch.equal(snapshot.images[k], expected.images[rows]) and torch.equal(
            snapshot.seeds[k], expected.seed[rows]
        )
        torch.testing.assert_close(snapshot.confidence[k], expected.confidence[rows])
    assert set(snapshot.provenance["weights_sha256"]) == {"model", "guide", "critic"}


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]])
def test_a_bank_has_the_classes_of_the_critic(names: list[str]) -> None:
    judge = Judge()
    judge.critic = PatchCritic([torch.nn.Identity()], 3)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=f"the critic's, 3, got {len(names)}: give all that it"):
        live(judge=judge, classes=names)
    assert live(judge=judge).num_classes == 3


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_bank_of_variations_has_a_selector_of_variations(strength: float) -> None:
    painter, judge = Painter(), Judge()
    painter.settings = SamplingSettings(strength=strength)
    for varied in (True, False):
        judge.variations = varied  # type: ignore[attr-defined]
        if varied == (strength < 1):
            assert live(painter, judge).refresh()
        else:
            with pytest.raises(ValueError, match=f"must be {not varied} at the sampler's strengt"):
                live(painter, judge)


def test_a_refresh_that_falls_short_names_the_class(caplog: pytest.LogCaptureFixture) -> None:
    live(judge=Judge(never=1), classes=["a", "tumour", "c"]).refresh()
    assert caplog.messages == [
        "class 'tumour': 0 of 4 patches found, with 0.0% of 24 candidates accepted; most refused: "
        "low confidence (24)"
    ]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"classes": []}, "a bank needs at least one class, got none"),
    ({"classes": ["a", "a"]}, "class names must be distinct, got 'a' more than once"),
    ({"um_per_px": -1.0}, "um_per_px must be a number of micrometres"),
    ({"quota": 0}, "quota must lie from 1 to capacity, got 0 and capacity 10"),
    ({"quota": 11}, "quota must lie from 1 to capacity, got 11 and capacity 10"),
    ({"quota": 2.5}, "quota must be a whole number from 1 on, got 2.5"),
    ({"capacity": 9.5}, "capacity must be a whole number from 1 on, got 9.5"),
    ({"surplus": 0.5}, "surplus must be at least 1 and finite, got 0.5"),
    ({"max_candidates": 0}, "max_candidates must be a whole number from 1 on, got 0"),
    ({"batch_size": 0}, "batch_size must be a whole number from 1 on, got 0"),
    ({"batch_size": 2.5}, "batch_size must be a whole number from 1 on, got 2.5"),
    ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
    ({"surplus": float("nan")}, "surplus must be at least 1 and finite, got nan"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_live_bank_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        live(**options)


def test_the_least_live_bank_holds_one_patch_of_each_class() -> None:
    least = live(quota=1, capacity=1, max_candidates=1, batch_size=1, surplus=1.0, seed=0)
    assert least.options["quota"] == 1 and least.capacity == 1


# -------------------------------------------------------------------------------------------------
# ----------------- handler


def run(bank: LiveBank, epochs: int, batch: Any = None, **rules: Any) -> list[int]:
    """Refreshes seen in each epoch of three iterations."""
    seen = []
    engine = Engine(lambda e, _: seen.append(bank.refreshes))
    BankRefresher(bank, **rules).attach(engine)
    engine.run([batch] * 3, max_epochs=epochs)
    assert threads() == []
    return seen[::3]


def test_handler_refreshes_every_few_epochs() -> None:
    assert run(live(), 5, refresh_every=2, wait=True) == [1, 1, 2, 2, 3]
    bank = live()
    bank.refresh()
    assert run(bank, 3, wait=True) == [1, 2, 3], "a bank that is filled is used first"


def test_handler_refreshes_when_the_patches_are_worn() -> None:
    """Twelve patches, six synthetic ones shown in each epoch: each was shown once after two
    epochs, 24 of them after four.
    """
    batch = {"synthetic": torch.tensor([True, False, True])}
    assert run(live(), 6, batch, refresh_every=None, max_reuse=1, wait=True) == [1, 1, 2, 2, 2, 2]
    assert run(live(capacity=4), 6, batch, refresh_every=None, max_reuse=1, wait=True) == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert run(live(), 4, batch, refresh_every=1, max_reuse=100, wait=True) == [1, 2, 3, 4], (
        "whichever comes first"
    )
    nothing = live(judge=Judge(never=0), classes=["a"])
    assert (
        run(nothing, 3, batch, refresh_every=None, max_reuse=1, wait=True) == [1, 2, 3]
        and len(nothing) == 0
    )


def test_handler_does_not_wait_unless_told_to() -> None:
    painter = Painter()
    bank = live(painter)
    bank.refresh()
    painter.gate.clear()
    threading.Timer(0.3, painter.gate.set).start()
    assert run(bank, 4) == [1, 1, 1, 1]
    assert run(bank, 2, wait=True) == [1, 2]


@pytest.mark.parametrize(
    "rules",
    [
        {"refresh_every": None},
        {"refresh_every": 0},
        {"refresh_every": math.nan},
        {"refresh_every": math.inf},
        {"max_reuse": -1.0},
        {"max_reuse": math.nan},
        {"refresh_every": None, "max_reuse": math.inf},
    ],
)
def test_handler_needs_a_rule(rules: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="refresh_every or max_reuse must be given, and positive and finite, got "
    ):
        BankRefresher(live(), **rules)


def test_handler_needs_to_know_what_was_synthetic() -> None:
    with pytest.raises(
        KeyError, match=r"max_reuse needs 'synthetic' in the trainer's batches, got \['image'\]"
    ):
        run(live(), 1, {"image": 0}, max_reuse=2)


# -------------------------------------------------------------------------------------------------
# --------------- processes


class SlowPainter(Painter):
    def __call__(self, labels: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return super().__call__(labels, seeds)


def train_for_ever(pipe: int) -> None:
    """With a batch under way and two workers, all of which hold the pipe open."""
    bank = live(SlowPainter(), quota=8, batch_size=3, max_candidates=10**6)
    bank.refresh()
    bank.options["quota"] = 10**6
    items = [
        {"image": torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), "label": i % 2} for i in range(8)
    ]
    data = Dataset(items, SyntheticAugmentd("image", bank, prob=1.0))
    loader = DataLoader(
        data, batch_size=2, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    list(loader)
    bank.prepare()
    os.write(pipe, b"ready")
    while True:
        list(loader)


def end_of(pipe: int) -> bytes:
    """What is still written to a pipe until the last process that could write to it has ended."""
    return b"".join(iter(lambda: os.read(pipe, 100), b""))


def start_training(preparation: str = "pass") -> tuple[subprocess.Popen[str], int]:
    """A fresh interpreter that trains for ever, and the pipe that it and all its processes hold
    open.

    Not a fork: killed while its progress bar is written, that would keep the lock of ``tqdm`` in
    this process for ever.
    """
    reading, writing = os.pipe()
    here = f"import sys; sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}"
    script = f"{preparation}; {here}; import test_live_bank as t; t.train_for_ever({writing})"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, pass_fds=[writing]
    )
    os.close(writing)
    assert os.read(reading, 5) == b"ready", process.communicate()[1]
    return process, reading


def test_no_process_is_left_when_training_is_killed() -> None:
    process, reading = start_training()
    process.kill()
    assert end_of(reading) == b""
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    os.close(reading)


def test_interrupting_a_script_ends_all_of_it_at_once() -> None:
    """The interpreter shuts down while a batch is under way: no hang, no crash, nothing left in
    shared memory.
    """
    shared = set(os.listdir("/dev/shm"))
    # tests in the background inherit a shell's neglect of SIGINT
    process, reading = start_training(
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)  # a hang fails; a slow machine does not
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors
    assert end_of(reading) == b"" and "Fatal" not in errors and "leaked" not in errors
    assert not {
        name for name in set(os.listdir("/dev/shm")) - shared if f"_{process.pid}_" in name
    }
    os.close(reading)


class DiesAtItem(Dataset):
    """A worker that reads the item ``fatal`` is killed, at a moment when all that it sent has long
    been received.

    Killed in the middle of sending, it would leave half a message, for which torch's loader waits
    for ever.
    """

    fatal = 100

    def __getitem__(self, index: Any) -> Any:
        if index == self.fatal and get_worker_info() is not None:
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_worker_is_an_error_and_the_bank_lives_on() -> None:
    bank = live()
    bank.refresh()
    items = [
        {"image": torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), "label": i % 2}
        for i in range(400)
    ]
    data = SyntheticAugmentd("image", bank, prob=1.0)
    batches = iter(
        DataLoader(
            DiesAtItem(items, data), batch_size=100, num_workers=2, multiprocessing_context="fork"
        )
    )
    assert len(next(batches)["label"]) == 100
    with pytest.raises(RuntimeError, match="worker .* exited unexpectedly|killed by signal"):
        next(batches)
    assert bank.refresh() and seeds_of(bank, 0)[:4] == accepted_of(1, 0)
    del batches
    assert (
        len(
            list(
                DataLoader(
                    Dataset(items, data),
                    batch_size=100,
                    num_workers=1,
                    multiprocessing_context="fork",
                )
            )
        )
        == 4
    )
