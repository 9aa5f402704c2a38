from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import (
    Compose,
    LoadImaged,
    MapTransform,
    RandomizableTransform,
    ScaleIntensityRanged,
)
from PIL import Image

import monai_histodiff
from monai_histodiff import SyntheticAugment, SyntheticAugmentd, SyntheticBank, even_weights
from monai_histodiff.augmentation import transforms
from monai_histodiff.utils import processes
from monai_histodiff.utils.fingerprint import fingerprint

SIDE = 8


@pytest.fixture
def bank() -> SyntheticBank:
    """Patch i of class k is the constant 100 k + i, so that a value tells which patch it is."""
    arrays = {
        k: np.stack([np.full((SIDE, SIDE, 3), 100 * k + i, np.uint8) for i in range(25)])
        for k in range(2)
    }
    out = SyntheticBank.from_arrays(arrays, classes=["a", "b"])
    for k in range(2):
        out.confidence[k][:] = torch.linspace(0.5, 0.9, 25)
        out.seeds[k][:] = torch.arange(25) + 1000 * k
    return out


def real(label: Any = 0) -> dict[str, Any]:
    return {"image": torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8), "label": label}


def test_names_and_types_follow_monai() -> None:
    assert (
        monai_histodiff.SyntheticAugmentD
        is monai_histodiff.SyntheticAugmentDict
        is SyntheticAugmentd
    )
    assert issubclass(SyntheticAugmentd, RandomizableTransform) and issubclass(
        SyntheticAugmentd, MapTransform
    )
    assert issubclass(SyntheticAugment, RandomizableTransform)


def test_prob_zero_is_the_identity(bank: SyntheticBank) -> None:
    item = real(1)
    out = SyntheticAugmentd("image", bank, prob=0.0)(item)
    assert out["image"] is item["image"] and out["label"] == 1
    assert out["synthetic"] is False and out["synthetic_seed"] == -1
    assert bool(torch.isnan(out["synthetic_confidence"]))


def test_prob_one_gives_a_patch_of_the_class_with_its_record(bank: SyntheticBank) -> None:
    transform = SyntheticAugmentd("image", bank, prob=1.0).set_random_state(0)
    for label in (0, 1):
        out = transform(real(label))
        index = int(out["image"][0, 0, 0]) - 100 * label
        assert 0 <= index < 25 and out["label"] == label and out["synthetic"] is True
        assert out["synthetic_seed"] == 1000 * label + index
        expected = float(torch.linspace(0.5, 0.9, 25)[index])
        assert float(out["synthetic_confidence"]) == pytest.approx(expected)


def test_the_input_is_not_changed_nor_the_bank(bank: SyntheticBank) -> None:
    item = real(0)
    image = item["image"]
    out = SyntheticAugmentd("image", bank, prob=1.0)(item)
    out["image"].zero_()
    assert (
        set(item) == {"image", "label"} and item["image"] is image and bool((image == 255).all())
    )
    assert sorted(int(p[0, 0, 0]) for p in bank.images[0]) == list(range(25))


@pytest.mark.parametrize("label", [1, np.int64(1), torch.tensor(1), torch.tensor([1])])
def test_label_types_are_kept(bank: SyntheticBank, label: Any) -> None:
    out = SyntheticAugmentd("image", bank, prob=1.0, balance=[1, 0])(real(label))
    assert type(out["label"]) is type(label) and int(out["label"]) == 0
    assert int(label) == 1
    if isinstance(label, torch.Tensor):
        assert out["label"].shape == label.shape and out["label"].dtype == label.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_floating_point_patches_get_the_unit_range(
    bank: SyntheticBank, dtype: torch.dtype
) -> None:
    img, _ = SyntheticAugment(bank, prob=1.0)(torch.ones(3, SIDE, SIDE, dtype=dtype), 1)
    assert img.dtype == dtype and 100 / 255 - 1e-3 <= float(img.max()) <= 124 / 255 + 1e-3


def test_metatensors_stay_metatensors(bank: SyntheticBank) -> None:
    img = MetaTensor(torch.zeros(3, SIDE, SIDE), meta={"filename_or_obj": "a.png"})
    out, _ = SyntheticAugment(bank, prob=1.0)(img, 0)
    assert isinstance(out, MetaTensor) and out.meta["filename_or_obj"] == "synthetic"
    kept = SyntheticAugment(bank, prob=0.0)(img, 0)[0]
    assert isinstance(kept, MetaTensor) and kept.meta["filename_or_obj"] == "a.png"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_numpy_patches_stay_numpy_patches(bank: SyntheticBank, dtype: Any) -> None:
    out: Any = SyntheticAugment(bank, prob=1.0)(np.zeros((3, SIDE, SIDE), dtype), 1)[0]  # type: ignore[arg-type]
    assert isinstance(out, np.ndarray) and out.dtype == dtype and out.shape == (3, SIDE, SIDE)
    unit = 1 if dtype == np.uint8 else 255
    assert 100 / unit - 1e-6 <= out.max() <= 124 / unit + 1e-6
    out[:] = 0
    assert sorted(int(p[0, 0, 0]) for p in bank.images[1]) == list(range(100, 125)), (
        "the bank is not written to"
    )


KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "metatensor": lambda x: MetaTensor(
        x, meta={"filename_or_obj": "a.png", "affine": torch.eye(4)}
    ),
    "float": lambda x: x.float() / 255,
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_real_and_synthetic_patches_collate(bank: SyntheticBank, kind: str) -> None:
    items = [{"image": KINDS[kind](real()["image"]), "label": i % 2} for i in range(32)]
    data = Dataset(items, SyntheticAugmentd("image", bank, prob=0.5))
    torch.manual_seed(0)
    (batch,) = DataLoader(data, batch_size=32)
    assert {bool(s) for s in batch["synthetic"]} == {True, False}
    assert batch["synthetic"].dtype == torch.bool
    assert batch["synthetic_confidence"].dtype == torch.float32
    assert batch["synthetic_seed"].dtype == torch.int64
    for i in range(32):
        value = round(float(batch["image"][i].max()) * (255 if kind == "float" else 1))
        if batch["synthetic"][i]:
            assert (
                value == int(batch["synthetic_seed"][i]) - 900 * (i % 2)
                and 0.5 <= float(batch["synthetic_confidence"][i]) <= 0.9
            )
        else:
            assert (
                value == 255
                and int(batch["synthetic_seed"][i]) == -1
                and bool(torch.isnan(batch["synthetic_confidence"][i]))
            )


@pytest.mark.parametrize("label", [np.array(1), np.array([1]), np.int32(1)])
def test_numpy_labels_are_kept(bank: SyntheticBank, label: Any) -> None:
    out = SyntheticAugmentd("image", bank, prob=1.0, balance=[1, 0])(real(label))["label"]
    assert (
        type(out) is type(label)
        and out.dtype == label.dtype
        and out.shape == label.shape
        and out.max() == 0
        and label.max() == 1
    )


def values(transform: Any, n: int = 30, label: int = 0) -> list[int]:
    return [int(transform(real(label))["image"][0, 0, 0]) for _ in range(n)]


def test_a_seed_fixes_the_draws_and_compose_passes_it_on(bank: SyntheticBank) -> None:
    def make() -> SyntheticAugmentd:
        return SyntheticAugmentd("image", bank, prob=0.5)

    assert values(make().set_random_state(3)) == values(make().set_random_state(3))
    assert values(make().set_random_state(3)) != values(make().set_random_state(4))
    first, second = (Compose([make()]).set_random_state(5) for _ in range(2))
    assert values(first) == values(second)


def test_the_fraction_replaced_is_prob_and_all_patches_are_used(bank: SyntheticBank) -> None:
    drawn = np.array(values(SyntheticAugmentd("image", bank, prob=0.3).set_random_state(0), 3000))
    replaced = drawn[drawn != 255]
    assert len(replaced) / 3000 == pytest.approx(0.3, abs=0.03)
    counts = np.bincount(replaced, minlength=25)
    assert counts.min() > 15 and len(counts) == 25


def test_balance_draws_the_class(bank: SyntheticBank) -> None:
    transform = SyntheticAugmentd("image", bank, prob=1.0, balance=[1, 3]).set_random_state(0)
    labels = np.array([transform(real(0))["label"] for _ in range(2000)])
    assert labels.mean() == pytest.approx(0.75, abs=0.03)


def test_no_class_takes_the_share_of_one_without_patches() -> None:
    """A bank that lacks the rare class: its patches stay, and the others become no more."""
    images = {
        k: torch.full((n, 3, SIDE, SIDE), k, dtype=torch.uint8)
        for k, n in ((0, 40), (1, 40), (2, 0))
    }
    counts, prob = (100, 20, 10), 0.5
    transform = SyntheticAugmentd(
        "image", SyntheticBank(images), prob=prob, balance=even_weights(counts, prob)
    ).set_random_state(0)
    drawn = [transform(real(k)) for _ in range(40) for k, n in enumerate(counts) for _ in range(n)]
    assert not any(d["synthetic"] and d["label"] == 2 for d in drawn)
    assert np.mean([d["label"] == 2 for d in drawn]) == pytest.approx(10 / 130)
    wanted = prob * even_weights(counts, prob)[1] * 120 / 130
    assert np.mean([d["synthetic"] for d in drawn]) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize(
    ("options", "probability"),
    [({}, 0.5 * 3 / 25), ({"full_prob_at": 6}, 0.25), ({"full_prob_at": 3}, 0.5)],
)
@pytest.mark.parametrize("balance", [None, [1, 0]])
def test_a_class_with_few_patches_is_replaced_less_often(
    options: dict[str, int], probability: float, balance: Any
) -> None:
    images = {
        k: torch.full((n, 3, SIDE, SIDE), k, dtype=torch.uint8) for k, n in ((0, 3), (1, 40))
    }
    transform = SyntheticAugmentd(
        "image", SyntheticBank(images), prob=0.5, balance=balance, **options
    ).set_random_state(0)

    def share(label: int) -> float:
        return float(np.mean([transform(real(label))["synthetic"] for _ in range(3000)]))

    assert share(0) == pytest.approx(probability, abs=0.03)
    assert share(1) == pytest.approx(0.5 if balance is None else probability, abs=0.03)


def test_no_synthetic_patch_is_shown_more_often_than_a_real_one() -> None:
    """What the documentation says of ``full_prob_at``, for 10 real patches of the class and a bank
    of 1 to 40.
    """
    for n in (1, 4, 10, 40):
        bank = SyntheticBank(
            {0: torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, SIDE, SIDE)}
        )
        transform = SyntheticAugment(bank, prob=0.5, full_prob_at=10).set_random_state(0)
        drawn = [
            transform(torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8), 0)[0]
            for _ in range(4000)
        ]
        shown = np.bincount([int(img[0, 0, 0]) for img in drawn], minlength=256)
        assert shown[:n].mean() == pytest.approx(4000 * 0.5 * min(1, n / 10) / n, rel=0.2)
        assert shown[:n].mean() <= 1.1 * shown[255] / 10


def test_even_weights_level_the_classes() -> None:
    for counts, prob in (
        ([50, 30, 20], 0.5),
        ([7, 7], 0.3),
        ([1, 0, 0, 9], 1.0),
        ([80, 15, 5], 0.9),
    ):
        weights = even_weights(counts, prob)
        mixed = (1 - prob) * np.array(counts) / sum(counts) + prob * np.array(weights)
        assert np.allclose(mixed, 1 / len(counts)) and sum(weights) == pytest.approx(1)
    # 90 : 8 : 2 at prob 0.1: the two rare classes share 0.1 + 0.9 * 0.10 = 0.19 of the items
    assert even_weights([90, 8, 2], 0.1) == pytest.approx(
        [0, (0.095 - 0.072) / 0.1, (0.095 - 0.018) / 0.1]
    )
    assert even_weights([90, 8, 2], 0.01) == pytest.approx([0, 0, 1])


def test_even_weights_even_out_what_a_loader_gives(bank: SyntheticBank) -> None:
    counts = [90, 10]
    transform = SyntheticAugmentd(
        "image", bank, prob=0.5, balance=even_weights(counts, 0.5)
    ).set_random_state(0)
    labels = [transform(real(k))["label"] for k, n in enumerate(counts) for _ in range(20 * n)]
    assert np.mean(labels) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("counts", "prob", "message"),
    [
        ([1, 2], 0.0, r"prob must lie in \(0, 1\], got 0.0"),
        ([1, -2], 0.5, "counts must not be negative, nor all zero, got "),
        ([0, 0], 0.5, "nor all zero"),
        ([], 0.5, "nor all zero"),
    ],
)
def test_even_weights_of_nothing(counts: list[int], prob: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        even_weights(counts, prob)


def test_loss_weight_and_soft_label_follow_the_confidence(bank: SyntheticBank) -> None:
    transform = SyntheticAugmentd(
        "image", bank, prob=0.5, weight_key="weight", soft_label_key="soft"
    ).set_random_state(0)
    items = [transform(real(1)) for _ in range(40)]
    assert {d["synthetic"] for d in items} == {True, False}
    for d in items:
        confidence = float(d["synthetic_confidence"]) if d["synthetic"] else 1.0
        assert d["weight"] == confidence and d["weight"].dtype == d["soft"].dtype == torch.float32
        assert d["soft"].tolist() == pytest.approx([1 - confidence, confidence])
    three = SyntheticAugmentd(
        "image",
        SyntheticBank(bank.images, bank.confidence, classes=list("abc")),
        prob=1.0,
        soft_label_key="soft",
    )
    soft = three(real(0))
    sure = float(soft["synthetic_confidence"])
    assert soft["soft"].tolist() == pytest.approx([sure, (1 - sure) / 2, (1 - sure) / 2])
    assert "weight" not in soft and "soft" not in SyntheticAugmentd("image", bank)(real(0))


def test_ranks_with_one_seed_draw_differently(
    bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    for rank in ("", "0", "1", "2"):
        if rank:
            monkeypatch.setenv("RANK", rank)
        drawn[rank] = values(SyntheticAugmentd("image", bank, prob=0.5).set_random_state(0))
    assert drawn[""] == drawn["0"] and drawn["0"] != drawn["1"] != drawn["2"] != drawn["0"]


def joined(monkeypatch: pytest.MonkeyPatch, rank: int | None) -> None:
    """This process has a rank in a process group; ``None``: there is no group."""
    for module in (processes, transforms):
        monkeypatch.setattr(module, "is_distributed", lambda: rank is not None)
    monkeypatch.setattr(processes.distributed, "get_rank", lambda: rank or 0)


def test_what_was_seeded_before_the_process_group_draws_by_its_rank(
    bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for rank in (None, 0, 1, 2):
        joined(monkeypatch, None)
        early = SyntheticAugmentd("image", bank, prob=0.5).set_random_state(0)
        joined(monkeypatch, rank)
        drawn.append(values(early))
        assert drawn[-1] == values(SyntheticAugmentd("image", bank, prob=0.5).set_random_state(0))
    assert drawn[0] == drawn[1] and len(set(map(repr, drawn))) == 3


def test_a_spawned_worker_draws_by_the_rank_of_its_parent(
    bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is pickled in a process of a group, and belongs to none itself."""
    drawn = []
    for rank in (0, 1, 2):
        joined(monkeypatch, None)
        transform = SyntheticAugmentd("image", bank, prob=0.5)  # before there is a group
        joined(monkeypatch, rank)
        sent = pickle.dumps(transform)
        expected = values(transform.set_random_state(7))
        with monkeypatch.context() as worker:
            joined(worker, None)
            worker.setattr(transforms, "get_worker_info", lambda: SimpleNamespace(seed=7))
            drawn.append(values(pickle.loads(sent).set_random_state(7)))
        assert drawn[-1] == expected
    assert len(set(map(repr, drawn))) == 3


@pytest.mark.parametrize("kind", [SyntheticAugment, SyntheticAugmentd])
def test_prob_is_what_is_drawn_by(kind: Any, bank: SyntheticBank) -> None:
    keys = ("image",) if kind is SyntheticAugmentd else ()
    transform = kind(*keys, bank, prob=0.25, full_prob_at=1)
    assert transform.prob == 0.25

    def replaced() -> set[bool]:
        if keys:
            return {transform(real(0))["synthetic"] for _ in range(20)}
        return {transform.replaced(real(0)["image"], 0)[2]["synthetic"] for _ in range(20)}

    for prob in (0, 1):
        transform.prob = prob
        assert transform.prob == prob and replaced() == {bool(prob)}
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"prob must lie in \[0, 1\], got .*: give"):
            transform.prob = wrong
    assert transform.prob == 1


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_prob_that_is_set_holds_in_running_workers(bank: SyntheticBank, start: str) -> None:
    steps = Compose([SyntheticAugmentd("image", bank, prob=0.0, full_prob_at=1)])
    data = Dataset([real(i % 2) for i in range(8)], steps)
    loader = DataLoader(
        data,
        num_workers=1,
        batch_size=4,
        persistent_workers=True,
        multiprocessing_context=start,
    )
    for prob in (0.0, 1.0, 0.0):
        steps.transforms[0].prob = prob
        assert {bool(made) for batch in loader for made in batch["synthetic"]} == {bool(prob)}


@pytest.mark.parametrize("kind", [SyntheticAugment, SyntheticAugmentd])
def test_a_copy_has_a_prob_of_its_own_and_fingerprints_depend_on_it(
    kind: Any, bank: SyntheticBank
) -> None:
    transform = kind(*(("image",) if kind is SyntheticAugmentd else ()), bank, prob=0.25)
    before, pickled = fingerprint(transform), pickle.dumps(transform)
    for twin in (copy.deepcopy(transform), pickle.loads(pickled)):
        twin.prob = 0.75
        assert (twin.prob, transform.prob) == (0.75, 0.25)
        assert fingerprint(twin) != before == fingerprint(transform)
        assert pickle.dumps(twin) != pickled == pickle.dumps(transform)
        twin.prob = 0.25
        assert fingerprint(twin) == before


def test_an_empty_bank_is_refused_where_it_would_replace(tmp_path: Path) -> None:
    empty = SyntheticBank({k: torch.empty(0, 3, 4, 4, dtype=torch.uint8) for k in range(2)})
    for given in (empty, empty.save(tmp_path / "bank")):
        with pytest.raises(
            ValueError, match="must hold patches .*, got prob 0.5 and a bank without any: give one"
        ):
            SyntheticAugmentd("image", given)
    transform = SyntheticAugmentd("image", empty, prob=0.0)
    item = real(0)
    assert transform(item)["image"] is item["image"]
    with pytest.raises(ValueError, match="must hold patches where prob is above 0, got prob 1"):
        transform.prob = 1
    assert transform.prob == 0


def test_classes_without_patches_are_warned_of_once(
    bank: SyntheticBank, caplog: pytest.LogCaptureFixture
) -> None:
    four = SyntheticBank(bank.images, classes=["a", "b", "rare", "none"])
    transform = SyntheticAugmentd("image", four, prob=0.5)
    [transform(real(2)) for _ in range(5)]
    SyntheticAugment(SyntheticBank({0: bank.images[0], 1: bank.images[0][:0]}), prob=0.5)
    SyntheticAugment(four, prob=0.5, classes=["b", "a"])
    SyntheticAugment(four, prob=0.0)
    classes = ["['rare', 'none']", "[1]"]
    assert caplog.messages == [
        f"the bank has no patch of the classes {k}: they stay real" for k in classes
    ]


def test_without_randomize_the_last_draw_is_repeated(bank: SyntheticBank) -> None:
    transform = SyntheticAugment(bank, prob=1.0).set_random_state(0)
    img = real()["image"]
    first = transform(img, 0)[0]
    assert all(torch.equal(transform(img, 0, randomize=False)[0], first) for _ in range(5))


def test_a_class_without_patches_is_left_alone(bank: SyntheticBank) -> None:
    three = SyntheticBank(bank.images, classes=["a", "b", "none accepted"])
    item = real(2)
    out = SyntheticAugmentd("image", three, prob=1.0)(item)
    assert out["image"] is item["image"] and out["synthetic"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prob": 1.5}, "prob must lie in"),
        ({"balance": [-1, 2]}, "balance must not be negative"),
        ({"balance": [0, 0]}, r"must favour a class in the bank, got \[0.0, 0.0\]"),
        (
            {"balance": np.array([0.0, 0.0, 1.0])},
            r"one weight for each of the 2 classes, got \[0.0, 0.0, 1.0\]",
        ),
        ({"balance": [1.0]}, r"one weight for each of the 2 classes, got \[1.0\]"),
        ({"balance": [float("inf"), 1]}, r"balance must not be negative .*, got \[inf, 1.0\]"),
        ({"balance": [float("nan"), 1]}, r"balance must not be negative .*, got \[nan, 1.0\]"),
        ({"full_prob_at": 0}, "full_prob_at must be at least 1 and finite, got 0"),
        ({"full_prob_at": math.inf}, "full_prob_at must be at least 1 and finite, got inf"),
        ({"full_prob_at": math.nan}, "full_prob_at must be at least 1 and finite, got nan"),
        (
            {"classes": ["b", "c"]},
            r"classes must be names of the bank's, \['a', 'b'\], in the order of your class "
            r"indices, each once, got \['b', 'c'\]",
        ),
    ],
)
def test_bad_options(bank: SyntheticBank, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticAugment(bank, **options)


def test_what_is_no_bank_is_refused() -> None:
    with pytest.raises(TypeError, match="bank must be a SyntheticBank, .*, got NoneType"):
        SyntheticAugmentd("image", None)  # type: ignore[arg-type]


def test_what_balance_cannot_have_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    images = {
        k: torch.zeros(n, 3, SIDE, SIDE, dtype=torch.uint8) for k, n in ((0, 40), (1, 5), (2, 0))
    }
    bank = SyntheticBank(images, classes=["a", "b", "c"])
    SyntheticAugment(bank, balance=[1, 0, 1])
    SyntheticAugment(bank, balance=[1, 1, 1])
    none = "the bank has no patch of the classes ['c']: they stay real, and their share of"
    assert [told.startswith(none) for told in caplog.messages] == [True, True, False]
    assert caplog.messages[-1] == (
        "the bank has 5 patches of class 'b', fewer than full_prob_at, 25: it is drawn in 20% of "
        "the cases that balance gives it"
    )
    with pytest.raises(ValueError, match=r"must favour a class in the bank, got \[0.0, 0.0, 1.0"):
        SyntheticAugment(bank, balance=even_weights([100, 100, 10], 0.3))


def test_bad_items(bank: SyntheticBank, tmp_path: Path) -> None:
    transform = SyntheticAugmentd("image", bank, prob=1.0)
    with pytest.raises(KeyError, match="under 'label'"):
        transform({"image": torch.zeros(3, SIDE, SIDE)})
    with pytest.raises(KeyError):
        transform({"label": 0})
    lenient = SyntheticAugmentd("image", bank, prob=1.0, allow_missing_keys=True)
    for item in ({"label": 0}, {"image": torch.zeros(3, SIDE, SIDE)}):
        assert lenient(item).keys() == item.keys()
    with pytest.raises(FileNotFoundError, match="bank.json"):
        SyntheticAugment(tmp_path)


@pytest.mark.parametrize("make", [torch.as_tensor, np.asarray])
@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (
            200,
            np.float32,
            r"a floating-point patch must lie in \[0, 1\], got 200 to 200 .*: load it as uint8",
        ),
        (
            0.9 / 255,
            np.float32,
            r"must lie .* got 0.0035\d+ to 0.0035.* as if it was scaled twice",
        ),
        (
            -0.2,
            np.float32,
            r"must lie in \[0, 1\], got -0.2 to -0.2 under 'image', and 100.0% bel",
        ),
        (-1.8, np.float64, r"must lie in \[0, 1\].*, got -1.8 to -1.8"),
        (float("nan"), np.float32, r"must lie in \[0, 1\].*, got nan to nan"),
    ],
)
def test_patches_of_another_range_are_refused(
    bank: SyntheticBank, make: Any, value: float, dtype: Any, message: str
) -> None:
    item = {"image": make(np.full((3, SIDE, SIDE), value, dtype)), "label": 0}
    with pytest.raises(ValueError, match=message):
        SyntheticAugmentd("image", bank, prob=1.0)(item)
    kept = SyntheticAugmentd("image", bank, prob=0.0)(item)
    assert kept["image"] is item["image"], "where nothing is replaced, nothing is looked at"


def test_what_monai_loads_is_refused_as_floats_and_taken_as_uint8(tmp_path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE, 3), 180, np.uint8)).save(tmp_path / "patch.png")
    bank = SyntheticBank.from_arrays(
        {0: np.full((30, SIDE, SIDE, 3), 90, np.uint8)}, classes=["a"]
    )
    item = {"image": str(tmp_path / "patch.png"), "label": 0}
    rest = [
        SyntheticAugmentd("image", bank, prob=1.0, classes=["a"]),
        ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
    ]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 180 to 180 .*dtype=np.uint8"):
        SyntheticAugmentd("image", bank, prob=1.0)(
            LoadImaged("image", ensure_channel_first=True)(item)
        )
    out = Compose([LoadImaged("image", ensure_channel_first=True, dtype=np.uint8), *rest])(item)
    assert out["synthetic"] is True and float(out["image"].min()) == float(
        out["image"].max()
    ) == pytest.approx(90 / 255)


def test_two_patches_of_one_item_are_refused(bank: SyntheticBank) -> None:
    with pytest.raises(
        ValueError, match=r"an item has one patch, .*, got keys \['image', 'other'\]"
    ):
        SyntheticAugmentd(["image", "other"], bank)


def test_a_class_order_that_is_the_banks_is_taken(bank: SyntheticBank) -> None:
    assert SyntheticAugmentd("image", bank, prob=1.0, classes=("a", "b"))(real(1))["label"] == 1


def test_deepcopy_shares_the_bank_but_not_the_random_state(bank: SyntheticBank) -> None:
    transform = SyntheticAugmentd("image", bank, prob=1.0).set_random_state(0)
    twin = copy.deepcopy(transform)
    assert twin.augment.bank.images[0].data_ptr() == bank.images[0].data_ptr()
    assert values(twin, 10) == values(transform, 10)
    assert Compose([transform])(real(0), threading=True)["synthetic"] is True


def test_copies_of_an_unseeded_transform_go_on_drawing(bank: SyntheticBank) -> None:
    """They share one random state, as MONAI's unseeded transforms do."""
    transform = SyntheticAugmentd("image", bank, prob=1.0)
    assert len({values(copy.deepcopy(transform), 1)[0] for _ in range(40)}) > 5


def test_threaded_call_of_a_pipeline_draws_on_a_copy(bank: SyntheticBank) -> None:
    """``threading=True`` copies every random transform for every call: it draws what the next
    plain call will draw.
    """
    pipeline = Compose([SyntheticAugmentd("image", bank, prob=1.0)]).set_random_state(3)
    for _ in range(5):
        ahead = pipeline(real(0), threading=True)
        assert ahead["synthetic"] is True
        assert ahead["synthetic_seed"] == pipeline(real(0))["synthetic_seed"]


def test_pickle_round_trip(bank: SyntheticBank) -> None:
    transform = SyntheticAugmentd("image", bank, prob=0.5).set_random_state(1)
    twin = pickle.loads(pickle.dumps(transform))
    assert values(twin, 20) == values(transform, 20)


def test_cache_dataset_caches_nothing_random(bank: SyntheticBank) -> None:
    transform = SyntheticAugmentd("image", bank, prob=1.0).set_random_state(0)
    calls = []

    class Note(MapTransform):
        def __call__(self, data: Any) -> Any:
            calls.append(1)
            return dict(data)

    data = CacheDataset([real(0)], Compose([Note("image"), transform]), progress=False)
    assert len({int(data[0]["image"][0, 0, 0]) for _ in range(30)}) > 5
    assert len(calls) == 1, "what comes before is cached"


def test_it_works_from_a_config_with_a_saved_bank(bank: SyntheticBank, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank")
    config = {
        "_target_": "monai_histodiff.SyntheticAugmentd",
        "keys": "image",
        "bank": str(tmp_path / "bank"),
        "prob": 1.0,
    }
    transform = ConfigParser({"transform": config}).get_parsed_content("transform")
    out = transform(real(1))
    assert out["synthetic"] is True and int(out["image"][0, 0, 0]) == out["synthetic_seed"] - 900


def test_nothing_is_drawn_for_weights_of_classes_that_are_still_empty() -> None:
    """A bank that is being filled: the class that is favoured has no patches yet."""
    images = {
        k: torch.full((4 if k else 0, 3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(3)
    }
    live = SyntheticBank(images)
    transform = SyntheticAugmentd("image", live, prob=1.0, balance=[0, 1, 0], full_prob_at=1)
    assert transform(real(2))["label"] == 1
    transform.augment.balance = np.array([1.0, 0.0, 0.0])
    out = transform(real(1))
    assert out["label"] == 1 and not out["synthetic"] and int(out["image"].max()) == 255


@pytest.mark.parametrize("weights", [[1, 0, 0], [0.7, 0.1, 0], [0, 0.3, 0], [0, 0.1, 0.2]])
def test_only_classes_with_a_weight_are_drawn(weights: list[float]) -> None:
    images = {k: torch.full((1, 3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(3)}
    augment = SyntheticAugment(SyntheticBank(images), 1.0, balance=weights, full_prob_at=1)
    places = [0.0, *np.linspace(0, 1, 30, endpoint=False), np.nextafter(1.0, 0.0), 1.0]
    drawn = {augment._draw_class(place) for place in places}
    assert drawn == {k for k, weight in enumerate(weights) if weight}


def test_values_are_looked_at_in_every_item(bank: SyntheticBank) -> None:
    image = torch.full((3, SIDE, SIDE), 200.0)
    with pytest.raises(ValueError, match="must lie in .0, 1., got 200 to 200"):
        SyntheticAugmentd("image", bank, prob=1e-9)({"image": image, "label": 0})


def test_threads_do_not_mix_their_draws(
    bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a draw and its use another thread draws: each item has its own patch and record."""
    transform = SyntheticAugmentd("image", bank, prob=1.0, full_prob_at=1).set_random_state(0)
    both, of_synthetic = threading.Barrier(2), transform.augment.scale.of_synthetic

    def waits(*given: Any) -> Any:
        both.wait(10)
        patch = of_synthetic(*given)
        both.wait(10)
        return patch

    monkeypatch.setattr(transform.augment.scale, "of_synthetic", waits)
    with ThreadPoolExecutor(2) as pool:
        items = list(pool.map(transform, [real(0), real(1)] * 10))
    for k, item in enumerate(items):
        seed, shown = int(item["synthetic_seed"]), int(item["image"].max())
        assert item["label"] == shown // 100 == seed // 1000 == k % 2
        assert shown % 100 == seed % 1000
