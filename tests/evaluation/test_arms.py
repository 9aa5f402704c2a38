from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, WritePatchSet

from monai_histodiff import Candidates, PatchCritic, PatchSet, SyntheticBank
from monai_histodiff.evaluation.arms import (
    ARMS,
    Material,
    repeats_selected,
)
from monai_histodiff.evaluation.comparisons import COMPARISONS, USUAL, compared
from monai_histodiff.evaluation.real_banks import pseudo_labels, true_labels


def arm_bank(
    arm: str, candidates: Candidates, classes: Sequence[str], seed: int = 0
) -> SyntheticBank:
    """The bank of an arm that trains on candidates."""
    labelled = PatchSet((), (), classes)
    material = Material(labelled=labelled, candidates=candidates, published=candidates)
    make = ARMS[arm].bank
    assert make is not None
    return make(material, seed)


def test_every_synthetic_arm_has_as_many_patches_as_were_accepted(candidates: Candidates) -> None:
    for arm in ("F", "G", "G0", "H", "I"):
        bank = arm_bank(arm, candidates, CLASSES)
        assert [bank.count(k) for k in range(3)] == [2, 2, 2], arm
    shuffled = arm_bank("S", candidates, CLASSES, seed=1)
    assert len(shuffled) == 6
    selected = arm_bank("G", candidates, CLASSES)
    assert selected.confidence[0].tolist() == pytest.approx([0.9, 0.8])
    assert sorted(int(s) for k in range(3) for s in shuffled.seeds[k]) == sorted(
        int(s) for k in range(3) for s in selected.seeds[k]
    )
    assert any(shuffled.seeds[k].tolist() != selected.seeds[k].tolist() for k in range(3))


def test_shuffled_patches_are_the_selected_ones_under_other_labels(candidates: Candidates) -> None:
    selected, shuffled = (arm_bank(arm, candidates, CLASSES, seed=2) for arm in "GS")
    own = {
        int(s): (k, v)
        for k in range(3)
        for s, v in zip(selected.seeds[k], selected.images[k], strict=True)
    }
    moved = 0
    for k in range(3):
        assert shuffled.count(k) == 2, "as many of each class as were accepted"
        for seed, image in zip(shuffled.seeds[k].tolist(), shuffled.images[k], strict=True):
            assert torch.equal(image, own[seed][1])
            moved += own[seed][0] != k
    assert moved >= 2
    assert candidates.labels.tolist() == [k for k in range(3) for _ in range(6)], (
        "the candidates themselves keep their labels"
    )


def test_classes_with_unequal_numbers_of_accepted_patches(candidates: Candidates) -> None:
    reasons = (
        ["accepted"] * 4
        + ["near copy"] * 2
        + ["low confidence"] * 6
        + ["over quota"] * 5
        + ["accepted"]
    )
    uneven = Candidates(**{**candidates.__dict__, "reasons": reasons})
    for arm in "FGHSI":
        bank = arm_bank(arm, uneven, CLASSES, seed=5)
        assert [bank.count(k) for k in range(3)] == [4, 0, 1], arm
    low = arm_bank("H", uneven, CLASSES)
    assert low.confidence[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.8])


def test_no_arm_is_shown_a_copy_of_a_test_patch(candidates: Candidates) -> None:
    reasons = [r for _ in range(3) for r in ["accepted"] * 2 + ["copy of a test patch"] * 4]
    leaked = Candidates(**{**candidates.__dict__, "reasons": reasons})
    selected = arm_bank("G", leaked, CLASSES)
    for arm in "FH":
        bank = arm_bank(arm, leaked, CLASSES, seed=5)
        for k in range(3):
            assert sorted(bank.seeds[k].tolist()) == sorted(selected.seeds[k].tolist())
    assert list(repeats_selected(("C", "F", "G", "H"), leaked)) == ["F", "H"]


def test_arms_that_would_repeat_the_selected_patches_are_known(candidates: Candidates) -> None:
    def kept(*numbers: int) -> Candidates:
        """The first so many of six candidates of each class are accepted."""
        reasons = [r for n in numbers for r in ["accepted"] * n + ["low confidence"] * (6 - n)]
        return replace(candidates, reasons=reasons)

    arms = ("C", "F", "G", "H", "S")
    assert repeats_selected(arms, candidates) == {} == repeats_selected(arms, kept(6, 3, 0))
    one = kept(0, 4, 0)
    assert list(repeats_selected(arms, one)) == ["S"]
    assert "of one class: labels shuffled" in repeats_selected(arms, one)["S"]
    shuffled, selected = (arm_bank(arm, one, CLASSES, 3).seeds[1] for arm in "SG")
    assert sorted(shuffled.tolist()) == sorted(selected.tolist()), "they do repeat it"
    assert "of no class" in repeats_selected(arms, kept(0, 0, 0))["S"]
    every = kept(6, 6, 0)
    assert list(repeats_selected(arms, every)) == ["F", "H"]
    for arm in "FH":
        again = arm_bank(arm, every, CLASSES, 3)
        for k in range(3):
            theirs = arm_bank("G", every, CLASSES).seeds[k].tolist()
            assert sorted(again.seeds[k].tolist()) == sorted(theirs), arm
    assert repeats_selected(("C", "F"), every) == {}, "there is no arm G to repeat"
    assert list(repeats_selected(arms, kept(6, 0, 0))) == ["S", "F", "H"]


def test_lowest_scored_are_the_lowest_and_random_depends_on_the_seed(
    candidates: Candidates,
) -> None:
    low = arm_bank("H", candidates, CLASSES)
    assert sorted(low.confidence[1].tolist()) == pytest.approx([0.1, 0.2])
    draws = {
        tuple(arm_bank("F", candidates, CLASSES, seed=s).seeds[0].tolist()) for s in range(10)
    }
    assert len(draws) > 3


def test_only_the_baselines_before_augmentation_go_without_it() -> None:
    assert {name for name, arm in ARMS.items() if not arm.augmented} == {"A", "B"}
    assert {name for name, arm in ARMS.items() if arm.shortened} == {"A"}


def test_the_comparisons_of_arms_are_those_whose_two_arms_are_there() -> None:
    assert compared(["C", "G", "F", "G0"]) == ["G-C", "G-F", "G-G0"] and compared(["C"]) == []
    bundle = Path(__file__).parents[2] / "bundles" / "finetune.json"
    assert list(USUAL) == json.loads(bundle.read_text(encoding="utf-8"))["arms"]


def test_records_of_arms_hold_together(candidates: Candidates) -> None:
    assert {arm for pair in COMPARISONS for arm in pair.split("-")} <= set(ARMS)
    parts = {field.name for field in fields(Material)} | {*dir(Material)}
    for name, arm in ARMS.items():
        assert arm.words and set(arm.needs) <= parts, name
        assert not arm.uncropped or "pool" in arm.needs or name == "K", (
            "only real patches are whole"
        )
        assert not (arm.probe or arm.unlabelled or not arm.augmented) or arm.bank is None, name
    assert [name for name, arm in ARMS.items() if arm.bank] == "E F G G0 G2 H S P I K R".split()
    unable = Material(labelled=PatchSet((), (), CLASSES), candidates=candidates)
    for name in ("E", "R"):
        make = ARMS[name].bank
        with pytest.raises(ValueError, match="need a pool.*, got none"):
            assert make is not None and make(unable, 0)


def test_the_control_shows_labelled_patches_as_often_as_synthetic_ones(
    candidates: Candidates, patch_set: PatchSet
) -> None:
    reasons = ["accepted"] * 2 + ["near copy"] * 4 + ["low confidence"] * 6 + ["accepted"] * 6
    uneven = replace(candidates, reasons=reasons)
    two = patch_set.few(4)  # of class 2, six are wanted
    material = Material(labelled=two, candidates=uneven, size=32)
    make = ARMS["K"].bank
    assert make is not None and ARMS["K"].uncropped and ARMS["K"].drawn
    bank = make(material, 0)
    assert [bank.count(k) for k in range(3)] == [2, 0, 6]
    real = {two[i]["image"].numpy().tobytes(): int(two.labels[i]) for i in range(len(two))}
    shown = [image.numpy().tobytes() for image in bank.images[2]]
    assert {real[image] for image in shown} == {2} and len(set(shown)) == 4
    assert max(shown.count(image) for image in shown) == 2, "each once, then once more"
    again = make(material, 1)
    assert not torch.equal(again.images[2], bank.images[2])


@pytest.mark.parametrize("part", ["candidates", "published", "second"])
def test_candidates_of_other_classes_are_refused(
    candidates: Candidates, patch_set: PatchSet, part: str
) -> None:
    other = replace(candidates, classes=("x", "y", "z"))
    given = {"candidates": candidates, part: other}
    with pytest.raises(ValueError, match="classes must be those of the candidates"):
        Material(labelled=patch_set, size=32, **given)  # type: ignore[arg-type]


def test_a_critic_of_another_number_of_classes_is_refused(
    candidates: Candidates, patch_set: PatchSet
) -> None:
    with pytest.raises(ValueError, match="as many as the critic's, 2, got 3: give all"):
        critic = PatchCritic([], 2)
        Material(labelled=patch_set, candidates=candidates, size=32, critic=critic)


def test_the_labels_of_a_pool_opened_apart_are_counted_by_name(
    candidates: Candidates, patch_set: PatchSet, tmp_path: Path
) -> None:
    pool = PatchSet.open(patch_set.select(label=CLASSES[2]).write(tmp_path / "pool"))
    assert [true_labels(pool, CLASSES).count(k) for k in range(3)] == [0, 0, 6]
    rest = PatchSet(pool._sources, [replace(r, label="grey") for r in pool.records], ["grey"])
    material = Material(labelled=patch_set, candidates=candidates, size=32, pool=rest)
    assert len(material.unlabelled) == 6, "whose labels are not read"
    for read in (lambda: material.lacks("labels_of_pool"), lambda: true_labels(rest, CLASSES)):
        with pytest.raises(ValueError, match="labels must be among the classes .* got 'grey'"):
            read()


def test_the_second_set_is_an_arm_of_its_own(candidates: Candidates, patch_set: PatchSet) -> None:
    other = replace(candidates, reasons=["accepted"] + ["low confidence"] * 17)
    material = Material(labelled=patch_set, candidates=candidates, second=other, size=32)
    make = ARMS["G2"].bank
    assert make is not None and ARMS["G2"].needs == ("second",)
    assert [make(material, 0).count(k) for k in range(3)] == [1, 0, 0]


def mean_colour(patches: torch.Tensor) -> torch.Tensor:
    """A judge that knows the three colours."""
    colours = torch.tensor([[90, 110, 200], [230, 150, 190], [130, 60, 150]]) / 255
    return torch.softmax(-50 * torch.cdist(patches.float().mean((2, 3)) / 255, colours), 1)


def test_pseudo_labels_are_the_judge_s_and_whole_patches(patch_set: PatchSet) -> None:
    bank = pseudo_labels(patch_set, mean_colour, 0.9, CLASSES, size=24)
    assert bank.classes == CLASSES and bank.size == (32, 32) and len(bank) >= 12
    images, labels = patch_set.images(), patch_set.labels
    for k in range(3):
        for image, row, confidence in zip(
            bank.images[k], bank.seeds[k], bank.confidence[k], strict=True
        ):
            assert torch.equal(image, images[row]) and labels[row] == k and confidence >= 0.9
    sure = pseudo_labels(patch_set, mean_colour, 1.1, CLASSES, size=24)
    assert len(sure) == 0 and [sure.count(k) for k in range(3)] == [0, 0, 0]


def test_the_judge_sees_five_crops(patch_set: PatchSet) -> None:
    seen: list[torch.Tensor] = []

    def judge(patches: torch.Tensor) -> torch.Tensor:
        seen.append(patches)
        return torch.full((len(patches), 3), 1 / 3)

    pseudo_labels(patch_set, judge, 0.5, CLASSES, size=20)
    whole, crops = patch_set.images(), seen[0].unflatten(0, (5, -1))
    assert torch.equal(crops[0], whole[..., 6:26, 6:26]), "the centre"
    assert torch.equal(crops[1], whole[..., :20, :20]) and torch.equal(
        crops[4], whole[..., 12:, 12:]
    )


def test_the_labels_of_the_pool_are_not_read(
    write_patch_set: WritePatchSet, tmp_path: Path
) -> None:
    known = PatchSet.open(write_patch_set(tmp_path / "known", per_class=3, split="train"))
    turned = PatchSet(known._sources, known.records, known.classes[::-1])
    one, other = (pseudo_labels(pool, mean_colour, 0.5, CLASSES, 32) for pool in (known, turned))
    assert all(torch.equal(one.seeds[k], other.seeds[k]) for k in range(3)) and len(one) == 9


def test_an_empty_pool_is_refused(patch_set: PatchSet) -> None:
    with pytest.raises(
        ValueError, match="arm E needs training patches that were not drawn as labelled, got none"
    ):
        pseudo_labels(patch_set.without(patch_set), mean_colour, 0.5, CLASSES, 32)


def test_true_labels_are_those_of_all_whole_patches(patch_set: PatchSet) -> None:
    images, labels = patch_set.images(), patch_set.labels
    bank = true_labels(patch_set, CLASSES)
    assert bank.classes == CLASSES and bank.size == (32, 32) and len(bank) == len(patch_set)
    for k in range(3):
        rows = bank.seeds[k]
        assert (labels[rows] == k).all() and torch.equal(bank.images[k], images[rows])


def test_true_labels_need_a_pool(patch_set: PatchSet) -> None:
    with pytest.raises(
        ValueError, match="arm R needs labels of training patches that .*, got none on 0 patches"
    ):
        true_labels(patch_set.without(patch_set), CLASSES)


def test_true_labels_need_labels_and_leave_the_others_out(patch_set: PatchSet) -> None:
    records = [replace(r, label="" if r.label == "pink" else r.label) for r in patch_set.records]
    bank = true_labels(PatchSet(patch_set._sources, records, CLASSES), CLASSES)
    pink = CLASSES.index("pink")
    assert bank.count(pink) == 0 and len(bank) == len(patch_set) - patch_set.counts()["pink"]
    first = [replace(r, label="" if r.label != CLASSES[0] else r.label) for r in records]
    bank = true_labels(PatchSet(patch_set._sources, first, CLASSES), CLASSES)
    assert len(bank) == bank.count(0) == patch_set.counts()[CLASSES[0]], "index 0 is a label"
    blind = PatchSet(patch_set._sources, [replace(r, label="") for r in records], CLASSES)
    with pytest.raises(
        ValueError,
        match=f"arm R needs labels of training .*, got none on {len(patch_set)} patches",
    ):
        true_labels(blind, CLASSES)


def test_both_is_the_accepted_and_the_pseudo_labelled(
    patch_set: PatchSet, candidates: Candidates
) -> None:
    class Judge:
        threshold = torch.tensor(0.6)

        def probabilities(self, images: torch.Tensor) -> torch.Tensor:
            sure = torch.zeros(len(images), 3)
            sure[:, 1] = torch.linspace(0, 1, len(images))
            return sure

    material = Material(
        labelled=PatchSet((), (), CLASSES),
        candidates=candidates,
        size=candidates.images.shape[-1],
        pool=patch_set,
        critic=Judge(),  # type: ignore[arg-type]
    )
    made = {arm: ARMS[arm].bank(material, 0) for arm in "GEP"}  # type: ignore[misc]
    for k in range(3):
        parts = [made[arm].images[k] for arm in "GE"]
        assert torch.equal(made["P"].images[k], torch.cat(parts))
        sure = [made[arm].confidence[k] for arm in "GE"]
        assert torch.equal(made["P"].confidence[k], torch.cat(sure))
    assert made["E"].count(1) == int((torch.linspace(0, 1, len(patch_set)) >= 0.6).sum())
