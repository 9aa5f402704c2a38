"""The transform in every MONAI dataset and loader, in a bundle configuration, a trainer, a plain
loop and two processes.
"""

from __future__ import annotations

import copy
import gc
import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    PersistentDataset,
    SmartCacheDataset,
    ThreadDataLoader,
)
from monai.data.utils import set_rnd
from monai.transforms import Compose, EnsureTyped, RandFlipd
from monai.utils import set_determinism
from painting import SIDE, Judge, Painter
from torch.utils.data import DataLoader as TorchLoader
from warm import FORKS

from monai_histodiff import LiveBank, SyntheticAugmentd

ITEMS = 64
BATCH = 8


@pytest.fixture(autouse=True)
def no_determinism_left() -> Iterator[None]:
    yield
    set_determinism(None)


def live(**options: Any) -> LiveBank:
    """Two classes of thirty patches, all of them replaced by each refresh."""
    painter: Any = Painter()
    judge: Any = Judge()
    options = {"quota": 30, "max_candidates": 90, "capacity": 30, **options}
    return LiveBank(painter, judge, ["a", "b"], **options)


def items(count: int = ITEMS) -> list[dict[str, Any]]:
    return [
        {"image": torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8), "label": i % 2}
        for i in range(count)
    ]


def pipeline(bank: LiveBank, prob: float = 0.6) -> Compose:
    return Compose(
        [
            EnsureTyped("image", dtype=torch.uint8),
            SyntheticAugmentd("image", bank, prob=prob),
            RandFlipd("image", prob=0.5),
        ]
    )


DATASETS: dict[str, Callable[[Any, Path], Any]] = {
    "Dataset": lambda t, _: Dataset(items(), t),
    "CacheDataset": lambda t, _: CacheDataset(items(), t, progress=False),
    "PersistentDataset": lambda t, folder: PersistentDataset(items(), t, cache_dir=folder),
    "SmartCacheDataset": lambda t, _: SmartCacheDataset(
        items(96), t, replace_rate=0.25, cache_num=ITEMS, progress=False
    ),
}
WORKERS: dict[str, Any] = {
    "batch_size": BATCH,
    "num_workers": 2,
    "multiprocessing_context": "fork",
}
LOADERS: dict[str, Callable[[Any], Any]] = {
    "monai": lambda d: DataLoader(d, batch_size=BATCH),
    "monai, workers": lambda d: DataLoader(d, **WORKERS),
    "monai, persistent": lambda d: DataLoader(d, **WORKERS, persistent_workers=True),
    "threads": lambda d: ThreadDataLoader(d, batch_size=BATCH),
    "threads, workers": lambda d: ThreadDataLoader(d, **WORKERS),
    "torch": lambda d: TorchLoader(d, batch_size=BATCH),
    "torch, workers": lambda d: TorchLoader(d, **WORKERS),
    "torch, persistent": lambda d: TorchLoader(d, **WORKERS, persistent_workers=True),
}


def epoch(loader: Any, bank: LiveBank) -> list[int]:
    """Go through a loader once, check every item, and return the seed of each (-1 for a real
    patch).
    """
    snapshot = bank.snapshot()
    now = {int(s) for column in snapshot.seeds.values() for s in column}
    out = []
    for batch in loader:
        for image, label, seed, synthetic in zip(
            batch["image"],
            batch["label"],
            batch["synthetic_seed"],
            batch["synthetic"],
            strict=True,
        ):
            out.append(int(seed))
            if synthetic:
                assert int(seed) in now, (
                    "a patch of the refresh that is published, not of an earlier one"
                )
                assert bool((image[0] == int(seed) % 251).all()) and bool(
                    (image[1] == int(label)).all()
                )
            else:
                assert int(seed) == -1 and bool((image == 255).all())
    return out


def two_epochs(make_data: Any, make_loader: Any, folder: Path) -> list[list[int]]:
    """Everything from one seed; the bank is renewed between the epochs, while persistent workers
    go on.
    """
    set_determinism(3)
    bank = live()
    bank.refresh()
    data = make_data(pipeline(bank).set_random_state(3), folder)
    loader = make_loader(data)
    seen = []
    for _ in range(2):
        if isinstance(data, SmartCacheDataset):
            data.update_cache() if data.is_started() else data.start()
        seen.append(epoch(loader, bank))
        bank.refresh()
    if isinstance(data, SmartCacheDataset):
        data.shutdown()
    return seen


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_in_every_loader(dataset: str, loader: str, tmp_path: Path) -> None:
    first, second = two_epochs(DATASETS[dataset], LOADERS[loader], tmp_path / "a")
    assert len(first) == len(second) == ITEMS
    for seeds in (first, second):
        assert 0.35 < sum(s != -1 for s in seeds) / ITEMS < 0.85
        batches = [seeds[i : i + BATCH] for i in range(0, ITEMS, BATCH)]
        assert all(batches[i] != batches[i + 1] for i in range(0, len(batches), 2)), (
            "two workers, two streams"
        )
    assert [s != -1 for s in first] != [s != -1 for s in second], "two epochs, two draws"
    if dataset == "Dataset":
        assert [first, second] == two_epochs(DATASETS[dataset], LOADERS[loader], tmp_path / "b"), (
            "one seed, one run"
        )


SENT: dict[str, Any] = {
    **WORKERS,
    "multiprocessing_context": FORKS,
    "persistent_workers": True,
}


@pytest.mark.parametrize(
    ("dataset", "loader"),
    [
        ("Dataset", ThreadDataLoader),
        ("CacheDataset", DataLoader),
        ("PersistentDataset", TorchLoader),
    ],
)
def test_workers_to_which_the_pipeline_is_sent(dataset: str, loader: Any, tmp_path: Path) -> None:
    """``SmartCacheDataset`` is not among them: MONAI's own holds a lock, which cannot be sent."""
    bank = live()
    bank.refresh()
    sent = loader(DATASETS[dataset](pipeline(bank), tmp_path), **SENT)
    for _ in range(2):
        seeds = epoch(sent, bank)
        assert (
            len(seeds) == ITEMS
            and seeds[:BATCH] != seeds[BATCH : 2 * BATCH]
            and len(set(seeds)) > 5
        )
        bank.refresh()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: Compose(t.transforms)])
def test_copies_of_a_pipeline_follow_the_bank(copied: Any) -> None:
    bank = live()
    twin = copied(pipeline(bank, prob=1.0))
    for _ in range(3):
        bank.refresh()
        epoch(DataLoader(Dataset(items(16), twin), batch_size=BATCH), bank)
        assert twin(items()[0], threading=True)["synthetic"] is True


def test_a_pickled_pipeline_holds_the_patches() -> None:
    bank = live()
    bank.refresh()
    transform = SyntheticAugmentd("image", bank, prob=0.5).set_random_state(1)
    twin = pickle.loads(pickle.dumps(transform))
    assert [twin(d)["synthetic_seed"] for d in items()] == [
        transform(d)["synthetic_seed"] for d in items()
    ]


def test_a_worker_that_would_need_the_model_says_what_to_do() -> None:
    loader = DataLoader(Dataset(items(), pipeline(live())), **{**WORKERS, "num_workers": 1})
    with pytest.raises(
        RuntimeError,
        match="a worker process cannot sample(.|\n)*LiveBank.refresh(.|\n)*LiveBank.save",
    ):
        list(loader)


def test_monai_seeds_the_transform_wherever_it_is() -> None:
    """MONAI's ``set_rnd`` finds it through the attributes of any object, and one seed for all
    transforms repeats a run.
    """
    bank = live()
    bank.refresh()
    runs = []
    for _ in range(2):
        data = Dataset(items(), pipeline(bank))
        assert set_rnd(data, seed=5) > 5
        runs.append([data[i]["synthetic_seed"] for i in range(ITEMS)])
    assert runs[0] == runs[1] and -1 in runs[0] and len(set(runs[0])) > 10


def test_trainer_of_a_bundle_configuration(tmp_path: Path) -> None:
    config = {
        "sampler": {"_target_": "painting.Painter"},
        "selector": {"_target_": "painting.Judge"},
        "bank": {
            "_target_": "monai_histodiff.LiveBank",
            "sampler": "@sampler",
            "selector": "@selector",
            "classes": ["a", "b"],
            "quota": 30,
            "capacity": 30,
        },
        "transform": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "monai_histodiff.SyntheticAugmentd",
                    "keys": "image",
                    "bank": "@bank",
                    "weight_key": "weight",
                },
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": 0,
                    "a_max": 255,
                    "b_min": 0.0,
                    "b_max": 1.0,
                },
            ],
        },
        "items": (
            "$[{'image': torch.full((3, 8, 8), 255, dtype=torch.uint8), 'label': i % 2}"
            " for i in range(64)]"
        ),
        "dataset": {
            "_target_": "CacheDataset",
            "data": "@items",
            "transform": "@transform",
            "progress": False,
        },
        "loader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 8,
            "num_workers": 2,
            "persistent_workers": True,
            "multiprocessing_context": "fork",
        },
        "network": (
            "$torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),"
            " torch.nn.Linear(3, 2))"
        ),
        "train": {
            "_target_": "SupervisedTrainer",
            "device": "cpu",
            "max_epochs": 3,
            "train_data_loader": "@loader",
            "network": "@network",
            "optimizer": "$torch.optim.SGD(@network.parameters(), 0.1)",
            "loss_function": "$torch.nn.CrossEntropyLoss()",
            "train_handlers": [
                {
                    "_target_": "monai_histodiff.BankRefresher",
                    "bank": "@bank",
                    "max_reuse": 1,
                    "wait": True,
                }
            ],
        },
    }
    (tmp_path / "train.json").write_text(json.dumps(config))
    parser = ConfigParser({"imports": ["$import torch"]})
    parser.read_config(tmp_path / "train.json")
    parser["imports"] = ["$import torch"]
    trainer, bank = parser.get_parsed_content("train"), parser.get_parsed_content("bank")
    seen: list[set[int]] = [set(), set(), set()]

    def note(engine: Any) -> None:
        batch = engine.state.batch
        assert torch.equal(
            batch["weight"], torch.where(batch["synthetic"], batch["synthetic_confidence"], 1.0)
        )
        seen[engine.state.epoch - 1] |= set(batch["synthetic_seed"].tolist()) - {-1}

    trainer.add_event_handler(Events.ITERATION_STARTED, note)
    trainer.run()
    assert (
        bank.refreshes == 3
        and all(len(s) > 5 for s in seen)
        and not seen[0] & seen[1]
        and not seen[1] & seen[2]
    )
    assert not [t for t in threading.enumerate() if t.name == "LiveBank"]


def test_plain_loop() -> None:
    """Sampling ahead, between the epochs of a loop without ignite."""
    set_determinism(0)
    bank = live()
    bank.refresh()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, 2))
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    loader = TorchLoader(Dataset(items(), pipeline(bank)), batch_size=BATCH, shuffle=True)
    for k in range(3):
        bank.prepare()
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(network(batch["image"] / 255), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert bank.refresh() and bank.refreshes == k + 2
    assert bool(torch.isfinite(loss))


def train_as_rank(rank: int, folder: str, answers: Any) -> None:
    """What ``torchrun`` starts: all is the same in both processes but the rank."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    set_determinism(0)
    bank = live()
    message = ""
    try:
        bank.count(0)
    except RuntimeError as error:
        message = str(error)
    seen = []
    for _ in range(2):
        bank.refresh()
        seen.append(epoch(DataLoader(Dataset(items(), pipeline(bank)), **WORKERS), bank))
    painter: Any = bank._source[0] if bank._source else None
    snapshot = bank.snapshot()
    if rank == 0:
        painter.size = "broken"
    error_seen = ""
    try:
        bank.refresh()
    except Exception as error:
        error_seen = type(error).__name__
    answers.put(
        (
            rank,
            len(painter.calls),
            {k: v.tolist() for k, v in snapshot.seeds.items()},
            seen,
            message,
            error_seen,
        )
    )
    dist.destroy_process_group()


def test_two_processes_share_one_filling_and_draw_for_themselves(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    answers = processes.Queue()
    ranks = [
        processes.Process(target=train_as_rank, args=(r, str(tmp_path), answers)) for r in range(2)
    ]
    for process in ranks:
        process.start()
    first, second = sorted(answers.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(60)
    assert first[1] > 0 == second[1], "the first rank samples, the second does not"
    assert first[2] == second[2] and all(len(v) == 30 for v in first[2].values()), (
        "both have the same patches"
    )
    assert first[3] != second[3] and first[3][0] != first[3][1], "each draws for itself"
    assert "call refresh on every rank" in first[4] and "call refresh on every rank" in second[4]
    assert first[5] == second[5] == "TypeError", "an error of the first rank ends both"


def resident(process: int) -> float:
    """Resident memory of a process, in MiB."""
    return (
        int(Path(f"/proc/{process}/statm").read_text().split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        / 2**20
    )


def test_ten_thousand_items_take_no_more_memory_than_a_thousand() -> None:
    """Kept patches would take 30 MiB."""
    painter: Any = Painter(side=32)
    judge: Any = Judge()
    bank = LiveBank(painter, judge, ["a", "b"], quota=32, max_candidates=64, capacity=32)
    bank.refresh()
    data = [
        {"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "label": i % 2} for i in range(500)
    ]
    transform = SyntheticAugmentd("image", bank, prob=1.0)
    loader = DataLoader(
        Dataset(data, transform), **{**WORKERS, "batch_size": 50}, persistent_workers=True
    )
    used, files = [], []
    for k in range(20):
        bank.prepare()
        assert sum(int(batch["synthetic"].sum()) for batch in loader) == 500
        bank.refresh()
        if k in (1, 19):
            gc.collect()
            processes = (os.getpid(), *(p.pid for p in multiprocessing.active_children() if p.pid))
            used.append(sum(resident(p) for p in processes))
            files.append(len(os.listdir("/proc/self/fd")))
    assert bank.refreshes == 21 and used[1] - used[0] < 10
    assert files[1] <= files[0] + 2  # the loader's own come and go
    assert [t.name for t in threading.enumerate()].count("LiveBank") == 0
