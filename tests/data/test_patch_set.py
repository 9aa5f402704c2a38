"""Splits and draws keep their promises; images are crops of one size; MONAI's datasets and workers
take a patch set as data.
"""

from __future__ import annotations

import json
import math
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import zipped
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.transforms import Transform

from monai_histodiff import PatchSet
from monai_histodiff.data import find_leaks, reading
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pictures import decode_patch
from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.data.reading import patch_hash
from monai_histodiff.utils.files import write_json


def records(sizes: dict[str, list[int]], shared: bool = False) -> list[PatchRecord]:
    """One record for each patch of groups of the given sizes by class; groups of all classes share
    their names if wanted.
    """
    return [
        PatchRecord(f"{label}/{g}-{i}.png", label, "", f"{'' if shared else label}{g}")
        for label, groups in sizes.items()
        for g, size in enumerate(groups)
        for i in range(size)
    ]


def paths(patches: PatchSet) -> list[str]:
    return [r.path for r in patches.records]


# -------------------------------------------------------------------------------------------------
# -------- splits and draws


SIZES = {"A": [3] * 12, "B": [1, 9, 2, 2, 5, 1, 1], "C": [4, 4], "": [2] * 9}

PUBLISHED = [
    "A10 A12 A18 A19 A23 A28 A3 A6 A8 B12 B15 B16 B17 B21 B23 B27 B3 B33 B35 B38 B5 C2".split(),
    "A1 A11 A15 A19 A22 A23 A28 A5 A8 B19 B2 B23 B24 B29 B30 B37 B38 B4 B6 B7 B9 C0".split(),
]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.7])
def test_hold_out_is_disjoint_stratified_and_reproducible(fraction: float, shared: bool) -> None:
    patches = PatchSet([], records(SIZES, shared), ["A", "B", "C"])
    draws = []
    for seed in range(20):
        kept, held = patches.hold_out(fraction, seed)
        assert not set(kept.groups) & set(held.groups)
        assert (
            sorted(paths(kept) + paths(held)) == sorted(paths(patches))
            and kept.classes == held.classes == patches.classes
        )
        for label, groups in SIZES.items():
            n = sum(r.label == label for r in held.records)
            assert 0 < n < sum(groups), f"class '{label}' must be on both sides"
            if not shared:  # as many as asked for, up to one group
                assert n < fraction * sum(groups) + max(groups)
                assert (
                    n >= fraction * sum(groups)
                    or len({r.group for r in kept.records if r.label == label}) == 1
                )
        assert [paths(p) for p in patches.hold_out(fraction, seed)] == [paths(kept), paths(held)]
        draws.append(tuple(paths(held)))
    assert len(set(draws)) > 5, "another seed must give another draw"


@pytest.mark.parametrize("shared", [False, True])
def test_a_large_group_waits_where_others_suffice(shared: bool) -> None:
    sizes = {"A": [8] * 20 + [300], "B": [8] * 20 + [300]}
    patches = PatchSet([], records(sizes, shared), "AB")
    for seed in range(30):
        held = patches.hold_out(0.3, seed)[1]
        assert held.counts() == {"A": 144, "B": 144}, "eighteen of eight hold 138 of 460"


def test_a_group_that_is_small_in_one_class_and_large_in_another_waits() -> None:
    mixed = [PatchRecord(f"{i}.png", "AB"[i > 1], "", "big") for i in range(200)]
    patches = PatchSet([], [*records({"A": [2] * 12, "B": [9] * 20}), *mixed], "AB")
    for seed in range(30):
        held = patches.hold_out(0.3, seed)[1]
        assert "big" not in held.groups and held.counts() == {"A": 8, "B": 117}, seed


def test_a_group_that_others_cannot_replace_is_taken_as_it_comes() -> None:
    """Equal groups, of which one too many is taken, and large ones that must be."""
    for sizes, held in (([1, 1, 1, 1], {2}), ([8] * 3 + [300] * 2, {300, 308, 316, 324})):
        patches = PatchSet([], records({"A": sizes, "B": [1] * 10}), "AB")
        draws = [patches.hold_out(0.3, seed)[1] for seed in range(40)]
        assert {d.counts()["A"] for d in draws} == held
        assert {d.counts()["B"] for d in draws} == {3}


def test_draws_of_equal_groups_are_those_that_were_published() -> None:
    patches = PatchSet([], records({"A": [4] * 30, "B": [1] * 40, "C": [2] * 3}), "ABC")
    drawn = [sorted(set(patches.hold_out(0.3, seed)[1].groups)) for seed in (0, 1)]
    assert drawn == PUBLISHED


def test_hold_out_leaves_no_class_without_a_group() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = [
            PatchRecord(
                f"{i}.png",
                str(rng.choice(["A", "B", "C"], p=[0.7, 0.2, 0.1])),
                "",
                f"g{rng.integers(8)}",
            )
            for i in range(60)
        ]
        if min(len({r.group for r in rows if r.label == c}) for c in "ABC") < 2:
            continue
        for part in PatchSet([], rows, "ABC").hold_out(0.3, seed):
            assert min(part.counts().values()) > 0, (seed, part.counts())


def test_hold_out_that_cannot_be_is_refused() -> None:
    rows = [
        PatchRecord(f"{i}.png", label, "", group)
        for i, (label, group) in enumerate(["A1", "A2", "B1", "B3", "C2", "C3"])
    ]
    # whichever group is held out for A, one of its classes keeps a single group; the last class
    # then has none to give
    with pytest.raises(
        ValueError, match="leaves some of every class, got none in '.', whose groups"
    ):
        PatchSet([], rows, "ABC").hold_out(0.5)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction must lie between 0 and 1, got {fraction}"):
        PatchSet([], records(SIZES), "ABC").hold_out(fraction)


def test_class_with_one_group_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="2 groups .* to be split, got 1 in 'B': record"):
        PatchSet([], records({"A": [1, 1], "B": [5]}), "AB").with_split()


def test_with_split_names_both_sides_and_respects_a_recorded_split() -> None:
    patches = PatchSet([], records(SIZES), "ABC")
    split = patches.with_split(0.3, seed=4)
    kept, held = patches.with_labels().hold_out(0.3, seed=4)
    for side, part in (("train", kept), ("test", held)):
        assert sorted(paths(split.select(side).with_labels())) == sorted(paths(part))
    assert not split.select("")
    assert split.with_split(0.5, seed=9) is split
    assert [len(split.select("test", c)) for c in "ABC"] == [held.counts()[c] for c in "ABC"]


def test_unlabelled_patches_go_where_their_group_goes() -> None:
    labelled = records({"A": [2, 2, 2, 2], "B": [2, 2, 2, 2]})
    beside = [PatchRecord(f"u{i}.png", "", "", r.group) for i, r in enumerate(labelled)]
    alone = [PatchRecord(f"slide{i}.png", "", "", "one slide") for i in range(40)]
    split = PatchSet([], [*labelled, *beside, *alone], "AB").with_split(0.25, seed=1)
    assert len(split) == 72 and not split.select("")
    test, train = split.select("test"), split.select("train")
    assert test.counts() == {"A": 2, "B": 2} and len(test) == 8, (
        "two of each class, and as many unlabelled ones of their groups"
    )
    assert not set(test.groups) & set(train.groups) and "one slide" in train.groups
    assert int(test.with_labels().labels.min()) == 0 and len(test.with_labels()) == 4
    blind = PatchSet([], [replace(r, label="") for r in labelled], "AB").with_split(0.25, seed=1)
    assert len(blind.select("test")) == 4, "without any label all patches count alike"


@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_few_is_exact_and_spread_over_groups(k: int) -> None:
    sizes = {"A": [1] * 30, "B": [9, 1, 1, 9], "C": [20]}
    patches = PatchSet([], records(sizes), "ABC")
    draws = set()
    for seed in range(8):
        few = patches.few(k, seed)
        assert few.counts() == {"A": k, "B": k, "C": k} and len(set(paths(few))) == 3 * k
        assert paths(few) == paths(patches.few(k, seed))
        for label, groups in sizes.items():
            taken = Counter(int(r.group[1:]) for r in few.records if r.label == label)
            left = [
                taken[g] for g, size in enumerate(groups) if taken[g] < size
            ]  # groups that had more to give
            assert not left or max(taken.values()) <= min(left) + 1, (
                "a group gives a second patch only after all gave one"
            )
        draws.add(tuple(paths(few)))
    assert len(draws) == 8, "another seed must give another draw"


def test_few_refuses_what_cannot_be() -> None:
    patches = PatchSet([], records({"A": [4], "B": [3, 3]}), ["A", "B", "C"])
    both = PatchSet([], patches.records, ["A", "B"])
    wrong: list[tuple[Any, str]] = [
        (0, "must be 'all', a share such as '5%', or at least 1, got 0"),
        (1.5, "got 1.5"),
        ("25", "got '25'"),
        (7, "'A' has 4 patches to train on: ask for at most 4, or leave the class out"),
    ]
    for number, message in wrong:
        with pytest.raises(ValueError, match=f"^labels_per_class .*{message}"):
            both.few(number)
    with pytest.raises(ValueError, match=r"at least 2 classes .* got 1: \['B'\]: add labelled"):
        patches.select(label="B").few(1)
    with pytest.raises(ValueError, match="class 'C' has 0 patches to train on: label some, or"):
        patches.few(1)
    with pytest.raises(ValueError, match=r"at least 2 classes are needed, got 0: \[\]"):
        PatchSet([], [], []).few("all")


def test_few_all_keeps_every_labelled_patch() -> None:
    patches = PatchSet([], records(SIZES), ["A", "B", "C"])
    few = patches.few("all")
    assert (
        paths(few) == [r.path for r in patches.records if r.label] and int(few.labels.min()) == 0
    )


def test_weights_keep_large_groups_from_drowning_small_ones() -> None:
    patches = PatchSet([], records({"A": [4, 1]}), "A")
    assert patches.weights().tolist() == [0.5] * 4 + [1.0]
    assert patches.weights(1.0).tolist() == [0.25] * 4 + [1.0]
    assert patches.weights(0.0).tolist() == [1.0] * 5


def of_sizes(folder: Path, *sizes: tuple[int, int], **extra: str) -> PatchSet:
    """One picture of each size, whose pixels tell row, column and index."""
    items = []
    for i, (height, width) in enumerate(sizes):
        y, x = np.mgrid[:height, :width]
        picture = np.stack([y, x, np.full_like(x, i)], 2).astype(np.uint8)
        items.append((PatchRecord(f"{i}.png", "A", "", f"{i}", extra), picture))
    return PatchSet.open(write_patches(folder, items))


def test_whole_images_are_of_one_size(tmp_path: Path) -> None:
    patches = of_sizes(tmp_path / "set", (8, 12), (8, 12), (10, 12))
    stack = patches[:2].images()
    assert stack.dtype == torch.uint8 and stack.shape == (2, 3, 8, 12)
    assert stack[:, 2, 0, 0].tolist() == [0, 1]
    message = r"one size, got \(8, 12\) in '0.png' and \(10, 12\) in '2.png': give a size to crop"
    with pytest.raises(ValueError, match=message):
        patches.images()
    with pytest.raises(ValueError, match="at least one patch, got none"):
        patches[:0].images()


def test_crops_come_from_the_centres_of_mixed_sizes(tmp_path: Path) -> None:
    patches = of_sizes(tmp_path / "set", (8, 12), (9, 9), (20, 6))
    assert patches.sizes() == [(8, 12), (9, 9), (20, 6)]
    crops = patches.images(5)
    assert crops.dtype == torch.uint8 and crops.shape == (3, 3, 5, 5)
    assert crops[:, :, 0, 0].tolist() == [[1, 3, 0], [2, 2, 1], [7, 0, 2]]
    for i in range(3):
        assert torch.equal(crops[i], centre_crop(patches[i]["image"], 5))


def test_centres_and_corners(tmp_path: Path) -> None:
    patches = of_sizes(tmp_path / "set", (8, 12), (5, 5))
    crops = patches.five_crops(5)
    assert crops.shape == (5, 2, 3, 5, 5)
    corners = [(1, 3), (0, 0), (0, 7), (3, 0), (3, 7)]
    assert [tuple(v) for v in crops[:, 0, :2, 0, 0].tolist()] == corners
    assert bool((crops[:, 1] == patches[1]["image"]).all()), "all five of a patch of that size"
    assert torch.equal(patches[1:].five_crops(5), patches[1:].images(5)[None])


def test_patches_that_are_too_small_are_counted_and_named(tmp_path: Path) -> None:
    patches = of_sizes(tmp_path / "set", (8, 12), (12, 7), (6, 6), (9, 9))
    message = (
        r"patches must be at least 8 x 8, got 2 of 4 that are smaller, such as '1.png' \(12 x 7\):"
        " set size to at most 6, or leave them out"
    )
    for ask in (patches.images, patches.five_crops, patches.check_size):
        with pytest.raises(ValueError, match=message):
            ask(8)
    patches.check_size(6)


def test_sizes_are_told_by_headers(tmp_path: Path) -> None:
    patches = of_sizes(tmp_path / "set", (8, 12), (90, 90))
    file = tmp_path / "set" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    assert patches.sizes() == [(8, 12), (90, 90)]
    with pytest.raises(ValueError, match="got 1 of 2 that are smaller"):
        patches.check_size(9)


def test_memory_grows_with_the_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def decode(*arguments: Any) -> np.ndarray:
        nonlocal alive, most
        array = decode_patch(*arguments)
        alive, most = alive + 1, max(most, alive + 1)
        weakref.finalize(array, gone)
        return array

    patches = of_sizes(tmp_path / "set", *[(40, 40)] * 9)
    monkeypatch.setattr(reading, "decode_patch", decode)
    crops = patches.images(8)
    assert most <= 2 and crops.untyped_storage().nbytes() == 9 * 3 * 8 * 8


def test_parts_go_by_the_names_that_manifests_take() -> None:
    rows = [replace(r, split="train") for r in records({"A": [2] * 3, "B": [2] * 3})]
    patches = PatchSet([], rows, "AB")
    assert len(patches.select("Training")) == 12 and not patches.select("validation")
    assert not patches.select(label="") and not patches[:6].select(label="B")
    with pytest.raises(ValueError, match="split must be .* got 'tests': name one of them"):
        patches.select("tests")
    with pytest.raises(ValueError, match="one of the classes .* got 'a': name one of them"):
        patches.select(label="a")


def test_a_mask_takes_the_patches_where_it_is_true() -> None:
    patches = PatchSet([], records({"A": [1] * 3, "B": [1] * 3}), "AB")
    mask = patches.labels == 1
    for chosen in (mask, mask.numpy(), mask.tolist(), mask.nonzero()[:, 0], range(3, 6)):
        assert paths(patches.take(chosen)) == paths(patches.select(label="B"))
    assert not patches.take([]) and paths(patches.take([4, 1])) == paths(patches)[4:0:-3]
    for wrong in (mask[:5], torch.ones(0, dtype=torch.bool)):
        with pytest.raises(ValueError, match="one value for each of the 6 rows, got shape"):
            patches.take(wrong)
    with pytest.raises(ValueError, match="a list of whole numbers, got float32"):
        patches.take(mask.float())
    for blind in (mask.long(), mask.to(torch.uint8), mask.long().tolist()):
        with pytest.raises(ValueError, match="a mask must be of bool, got .*: make it bool"):
            patches.take(blind)
    for outside in ([99], [0, -1]):
        with pytest.raises(ValueError, match="indices must lie from 0 to 5, got "):
            patches.take(outside)


def test_a_class_of_the_test_part_alone_is_refused() -> None:
    rows = [replace(r, split="train") for r in records({"A": [2] * 3, "B": [2] * 3})]
    rows.append(PatchRecord("C/1.png", "C", "test", "c"))
    train = PatchSet([], rows, "ABC").select("train")
    for wanted in ("all", "5%", 1):
        with pytest.raises(ValueError, match=f"is {wanted}, but class 'C' has 0 patches to train"):
            train.few(wanted)


@pytest.mark.parametrize(
    ("splits", "parts"),
    [
        (["train"] * 4, "{'train': 4}"),
        (["val", "val", "test", "val"], "{'test': 1, 'val': 3}"),
        (["test"] * 4, "{'test': 4}"),
        (["train", "test", "", "train"], "{'none': 1, 'test': 1, 'train': 2}"),
    ],
)
def test_a_recorded_split_is_whole_or_refused(splits: list[str], parts: str) -> None:
    rows = [PatchRecord(f"{i}.png", "AB"[i % 2], s, f"{i}") for i, s in enumerate(splits)]
    with pytest.raises(ValueError, match=f"and every patch's part, got {parts}: complete it"):
        PatchSet([], rows, "AB").with_split()


def test_a_split_of_train_and_val_alone_has_its_own_remedy() -> None:
    rows = [PatchRecord(f"{i}.png", "AB"[i % 2], ("train", "val")[i > 1], "g") for i in range(4)]
    told = "got {'train': 2, 'val': 2}: rename 'val' to 'test' if .*, or record no split, in fold"
    with pytest.raises(ValueError, match=told):
        PatchSet([], rows, "AB").with_split()


def test_write_json_is_all_or_nothing(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "a.json", {"a": [1, 2.5], "é": None})
    assert json.loads(path.read_text()) == {"a": [1, 2.5], "é": None}
    with pytest.raises(TypeError):
        write_json(path, {"a": torch.zeros(1)})
    assert json.loads(path.read_text())["a"] == [1, 2.5] and [
        p.name for p in path.parent.iterdir()
    ] == ["a.json"]


# -------------------------------------------------------------------------------------------------
# MONAI's datasets, workers


@pytest.fixture(scope="module")
def zip_set(
    write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> PatchSet:
    root = tmp_path_factory.mktemp("zip")
    return PatchSet.open(zipped(write_patch_set(root / "set", per_class=16), root / "set.zip"))


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_two_workers_read_one_zip(context: str, zip_set: PatchSet) -> None:
    truth = [
        zip_set[i] for i in range(len(zip_set))
    ]  # the zip is open here before the workers start
    loader = DataLoader(
        Dataset(zip_set), batch_size=3, num_workers=2, multiprocessing_context=context
    )
    seen = 0
    for batch in loader:
        for image, label, path in zip(batch["image"], batch["label"], batch["path"], strict=True):
            assert path == truth[seen]["path"] and int(label) == truth[seen]["label"]
            assert torch.equal(torch.as_tensor(image), truth[seen]["image"])
            seen += 1
    assert seen == len(truth) == 48


def test_cached_datasets_over_a_patch_set(zip_set: PatchSet, tmp_path: Path) -> None:
    reads = []

    class Note(Transform):  # MONAI caches the results of its own kind only
        def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
            reads.append(data["path"])
            return data

    part = zip_set[:5]
    for make in (
        lambda: CacheDataset(part, Note(), num_workers=1, progress=False),
        lambda: PersistentDataset(
            part, Note(), cache_dir=tmp_path / "cache", hash_func=patch_hash
        ),
    ):
        reads.clear()
        cached = make()
        for _ in range(2):
            for i in range(5):
                truth, item = part[i], cached[i]
                assert torch.equal(torch.as_tensor(item["image"]), truth["image"])
                assert [item[k] for k in ("label", "group", "path")] == [
                    truth[k] for k in ("label", "group", "path")
                ]
        assert sorted(reads) == sorted(paths(part)), "each patch is read once"


def test_patch_hash_tells_content_apart(zip_set: PatchSet) -> None:
    item = zip_set[0]
    assert patch_hash(item) == patch_hash(zip_set[0])
    changed = item["image"].clone()
    changed[0, 0, 0] ^= 1
    others = [
        {**item, "image": changed},
        {**item, "image": item["image"].flatten(1)},
        {**item, "label": 2},
        {**item, "path": "x"},
    ]
    assert len({patch_hash(other) for other in [item, *others]}) == 5


def test_slices_and_negative_indices(zip_set: PatchSet) -> None:
    assert paths(zip_set[2:8:3]) == [paths(zip_set)[i] for i in (2, 5)]
    assert zip_set[-1]["path"] == paths(zip_set)[-1]
    assert len(list(zip_set[:4])) == 4
    with pytest.raises(IndexError):
        zip_set[len(zip_set)]
    assert math.isclose(len(zip_set.select(label="pink")), len(zip_set) / 3)


def test_without_is_the_rest(patch_set: PatchSet) -> None:
    drawn = patch_set.few(2)
    rest = patch_set.without(drawn)
    assert {r.path for r in rest.records} == {r.path for r in patch_set.records} - {
        r.path for r in drawn.records
    }
    assert (
        len(rest) == 12
        and rest.classes == patch_set.classes
        and len(patch_set.without(patch_set)) == 0
    )


def test_labels_are_counted_by_name_in_the_classes_of_another_set() -> None:
    part = PatchSet([], records({"B": [2], "": [1]}), ["B"])
    assert part.labels.tolist() == [0, 0, -1]
    found = part.with_classes(["A", "B"])
    assert found.labels.tolist() == [1, 1, -1] and found.classes == ("A", "B")
    rule = r"among the classes \['A', 'C'\], got 'B' of 2 patches in a set of \['B'\]: give each"
    with pytest.raises(ValueError, match=rule):
        part.with_classes(["A", "C"])
    with pytest.raises(ValueError, match="got 'A' of 1 patches in a set of .*'A', 'B'"):
        part.extend(PatchSet([], records({"A": [1]}), ["A", "B"]), 3)
    assert part.extend(PatchSet([], records({"A": [1]}), ["A", "B"]), 0).records == part.records


def test_what_is_written_can_be_opened_and_counted_again(
    patch_set: PatchSet, tmp_path: Path
) -> None:
    last = patch_set.select(label=patch_set.classes[2])
    opened = PatchSet.open(last.write(tmp_path / "part"))
    assert opened.labels.unique().tolist() == [0]
    assert torch.equal(opened.with_classes(patch_set.classes).labels, last.labels)
    for wrong, rule in (([], "at least one patch, got none"), ([3, 3], "'.*' 2 times: take it")):
        with pytest.raises(ValueError, match=rule):
            patch_set.take(wrong).write(tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_patches_of_other_sources_are_neither_taken_off_nor_added(
    patch_set: PatchSet, write_patch_set: Any, tmp_path: Path
) -> None:
    other = PatchSet.open(write_patch_set(tmp_path / "other", seed=5))
    for act in (patch_set.without, lambda o: patch_set[:4].extend(o, 3)):
        with pytest.raises(ValueError, match=r"same folders or zips, got .*other'.*: open"):
            act(other)


def test_extension_keeps_the_order_and_draws_only_what_is_new() -> None:
    patches = PatchSet([], records(SIZES), ["A", "B", "C"])
    first = patches.few(2, seed=1)
    more = first.extend(patches, 5, seed=3)
    assert more.records[: len(first)] == first.records and len(more) == len(first) + 5
    assert len({r.path for r in more.records}) == len(more)
    assert (
        more.records
        == first.extend(patches, 5, seed=3).records
        != first.extend(patches, 5, seed=4).records
    )
    assert (
        len(first.extend(patches, 10**6)) == len(patches)
        and first.extend(patches, 0).records == first.records
    )


def test_a_share_of_each_class_is_rounded_up() -> None:
    patches = PatchSet([], records(SIZES), ["A", "B", "C"])
    for share, text in ((0.05, "5%"), (0.125, "12.5%"), (1.0, "100%")):
        assert patches.few(text).counts() == {
            name: math.ceil(share * n) for name, n in patches.counts().items()
        }


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7%"), (14, "14%"), (28, "28%"), (55, "55%"), (56, "56%"), (58, "57.1%")],
)
def test_a_share_is_exact_before_it_is_rounded(number: int, text: str) -> None:
    patches = PatchSet([], records({"A": [1] * 100, "B": [1] * 100}), "AB")
    assert patches.few(text).counts() == {"A": number, "B": number}


def test_no_source_is_refused() -> None:
    with pytest.raises(ValueError, match="a patch set needs at least one folder or zip, got none"):
        PatchSet.open([])


@pytest.mark.parametrize("wanted", ["0%", "101%", "five", "5 %", "%", 0, -1])
def test_impossible_shares_are_refused(wanted: int | str) -> None:
    with pytest.raises(
        ValueError,
        match=r"labels_per_class must be 'all', a share such as '5%', or at least 1, got",
    ):
        PatchSet([], records(SIZES), ["A", "B", "C"]).few(wanted)


def test_bad_numbers_are_refused_before_anything_is_read(patch_set: PatchSet) -> None:
    for size in (0, -5, True, "64", 64.0):
        with pytest.raises(ValueError, match="size must be a whole number of pixels, from 1, got"):
            patch_set.images(size)  # type: ignore[arg-type]
    for label in (0, 1, ["pink"]):
        with pytest.raises(ValueError, match="label must be one of the classes"):
            patch_set.select(label=label)  # type: ignore[arg-type]
    for seed in (-1, 1.5, "3", None, True, 2**32):
        for draw in (lambda s: patch_set.few(1, s), lambda s: patch_set.hold_out(0.3, s)):
            with pytest.raises(ValueError, match="seeds must be whole numbers from 0 to"):
                draw(seed)
    with pytest.raises(ValueError, match="labels_per_class must be 'all', a share"):
        patch_set.few(True)
    assert patch_set.few(np.int64(1)).records == patch_set.few(1).records


def test_the_default_device_does_not_take_patches_along(patch_set: PatchSet) -> None:
    with torch.device("meta"):
        images, labels = patch_set.images(), patch_set.labels
        assert images.device.type == labels.device.type == patch_set.weights().device.type == "cpu"
        leaks = find_leaks(patch_set.take(range(9)), patch_set.take(range(9, 18)))
    assert leaks == find_leaks(patch_set.take(range(9)), patch_set.take(range(9, 18)))
