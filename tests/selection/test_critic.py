from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAxisFlipd, ScaleIntensityRanged
from torch import Tensor, nn

from monai_histodiff import ClassifierTraining, PatchCritic, PatchSet, Selector, fit_critic
from monai_histodiff.classifiers.classifier import PatchClassifier, predict
from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.classifiers.probe import ProbeTraining
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.selection.copies import FLOOR, copy_distances, copy_gate
from monai_histodiff.selection.folds import group_folds, torn_classes
from monai_histodiff.selection.selector import select
from monai_histodiff.utils.weights import save_weights


def small(num_classes: int) -> nn.Module:
    return PatchClassifier(num_classes, width=8)


TRAINING = ClassifierTraining(network=small, steps=25, batch_size=12, learning_rate=3e-3)


def transform() -> Compose:
    return Compose([RandAxisFlipd("image", 0.5), ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)])


@pytest.fixture(scope="module")
def labelled(
    write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> PatchSet:
    return PatchSet.open(write_patch_set(tmp_path_factory.mktemp("critic") / "set", per_class=12))


@pytest.fixture(scope="module")
def critic(labelled: PatchSet) -> PatchCritic:
    return fit_critic(labelled, TRAINING, transform(), size=32, folds=3, target_precision=0.9)


def test_folds_keep_groups_together_and_spread_classes() -> None:
    labels = [k for k in range(3) for _ in range(12)]
    groups = [f"{k}-{i // 2}" for k in range(3) for i in range(12)]
    folds = group_folds(labels, groups, 3, seed=1)
    for group in set(groups):
        assert len({int(f) for f, g in zip(folds, groups, strict=True) if g == group}) == 1
    counts = Counter(zip(labels, folds.tolist(), strict=True))
    assert set(counts.values()) == {4}


def test_folds_with_patients_of_several_classes() -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{rng.integers(25)}" for _ in range(150)]
    labels = [i % 3 for i in range(150)]
    folds = group_folds(labels, groups, 3)
    assert all(
        len({int(f) for f, g in zip(folds, groups, strict=True) if g == name}) == 1
        for name in set(groups)
    )
    for k in range(3):
        share = np.bincount(folds[torch.tensor(labels) == k].numpy(), minlength=3)
        assert share.min() >= 8


def test_no_class_lies_in_one_fold_where_that_can_be_helped() -> None:
    labels, groups = [0, 0, 0, 0, 1, 1, 1, 1], ["g0", "g0", "g0", "g1", "g1", "g2", "g2", "g2"]
    for seed in range(20):
        folds = group_folds(labels, groups, 2, seed)
        assert folds[3] != folds[0] and folds[3] != folds[5], (
            "g1, which alone has both classes, against the others"
        )


def test_a_class_of_too_few_groups_is_spread_patch_by_patch_and_no_other() -> None:
    labels = [0] * 6 + [1] * 6
    groups = [f"{i // 2}" for i in range(6)] + ["one"] * 5 + ["two"]
    assert torn_classes(labels, groups, 3) == [1] and torn_classes(labels, groups, 2) == []
    folds = group_folds(labels, groups, 3)
    assert np.bincount(folds[6:].numpy()).tolist() == [2, 2, 2]
    assert all(folds[i] == folds[i + 1] for i in (0, 2, 4)), "the groups of the other stay whole"


def test_folds_follow_from_the_seed() -> None:
    labels, groups = [0, 1] * 10, [f"g{i}" for i in range(20)]
    draws = [tuple(group_folds(labels, groups, 4, seed=s).tolist()) for s in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1] and len(set(draws)) == 4


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        ([0, 0, 1, 1], ["a", "b", "c", "d"], 1, "a whole number from 2 on, got 1"),
        ([0, 0, 1], ["a", "b", "c"], 2, "at least 2 patches for 2 folds, got 1 of class 1"),
        (
            [0, 0, 1, 1, 2, 2],
            [*"abbcca"],
            2,
            "must lie in at least 2 of 2 folds, or a member would not know it, "
            "got 1 for class [012]",
        ),
    ],
)
def test_fold_errors(labels: list[int], groups: list[str], folds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_folds(labels, groups, folds)
    named = re.sub(r"class (.+)$", "class '[abc]'", message)
    with pytest.raises(ValueError, match=named):
        group_folds(labels, groups, folds, classes="abc")


def test_training_is_reproducible_by_seed_and_learns(labelled: PatchSet) -> None:
    items = [labelled[i] for i in range(len(labelled))]
    data = [{"image": d["image"], "label": d["label"]} for d in items]
    first, again, other = (TRAINING(data, transform(), 3, seed) for seed in (0, 0, 1))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )
    assert (predict(first, labelled.images()).argmax(1) == labelled.labels).float().mean() > 0.9


def test_training_takes_the_same_steps_whatever_the_data(labelled: PatchSet) -> None:
    seen = []

    class Note:
        def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
            seen.append(1)
            return {"image": data["image"] / 255, "label": data["label"]}

    for part in (labelled[:5], labelled):
        seen.clear()
        ClassifierTraining(network=small, steps=3, batch_size=4)(
            list(part), Compose([Note()]), 3, 0
        )
        assert len(seen) == 12


def test_training_stops_at_a_loss_that_is_not_finite(labelled: PatchSet) -> None:
    data = [{"image": torch.full((3, 32, 32), float("nan")), "label": 0}] * 4
    with pytest.raises(RuntimeError, match="the loss must be finite, got nan at iteration 1"):
        TRAINING(data, Compose([]), 3, 0)


def test_predictions_do_not_depend_on_batches_or_type(labelled: PatchSet) -> None:
    torch.manual_seed(0)
    network, images = small(3).eval(), labelled.images()
    truth = predict(network, images)
    torch.testing.assert_close(predict(network, images, batch_size=7), truth)
    torch.testing.assert_close(predict(network, images / 255), truth)


def test_members_never_saw_the_patches_that_calibrate_them(labelled: PatchSet) -> None:
    """Each member is fitted on the groups of all folds but one."""
    fitted: list[set[str]] = []

    class Recorder(ClassifierTraining):
        def __call__(self, data: Any, *args: Any, **kwargs: Any) -> nn.Module:
            prints = [d["image"].numpy().tobytes() for d in data]
            fitted.append(
                {
                    g
                    for g, image in zip(labelled.groups, labelled.images(), strict=True)
                    if image.numpy().tobytes() in prints
                }
            )
            return small(3).eval()

    fit_critic(labelled, Recorder(), transform(), size=32, folds=3, seed=4)
    everyone = set(labelled.groups)
    unseen = [everyone - seen for seen in fitted]
    assert (
        len(fitted) == 3
        and set.union(*unseen) == everyone
        and sum(map(len, unseen)) == len(everyone)
    )


def test_critic_reaches_its_target_on_separable_classes(
    critic: PatchCritic, labelled: PatchSet
) -> None:
    assert (
        len(critic.members) == 3
        and 0.05 <= float(critic.temperature) <= 20
        and not critic.training
    )
    assert float(critic.precision) >= 0.9 - 1e-6 and float(
        critic.target_precision
    ) == pytest.approx(0.9)
    probabilities = critic.probabilities(labelled.images())
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(labelled)))
    assert (probabilities.argmax(1) == labelled.labels).float().mean() > 0.9
    torch.testing.assert_close(
        probabilities, critic.probabilities(labelled.images(), batch_size=5)
    )


def test_a_variation_is_judged_by_the_member_that_has_not_seen_its_origin(
    critic: PatchCritic, labelled: PatchSet
) -> None:
    images, origins = labelled.images(), torch.arange(len(labelled)).flip(0)
    found = critic.probabilities(images, origins, batch_size=5)
    folds = group_folds(labelled.labels.tolist(), labelled.groups, 3)
    assert torch.equal(critic.folds, folds)
    for i, origin in enumerate(origins.tolist()):
        member = critic.members[int(folds[origin])]
        truth = torch.softmax(predict(member, images[i : i + 1]) / critic.temperature, 1)[0]
        torch.testing.assert_close(found[i], truth)
    outcome = Selector(critic, images, labelled.groups, variations=True)(
        images, labelled.labels, origins
    )
    torch.testing.assert_close(
        outcome.confidence, found[torch.arange(len(images)), labelled.labels]
    )


def test_what_members_know_by_heart_does_not_count(labelled: PatchSet) -> None:
    """Labels that mean nothing: members that saw a patch give it its label, the one that did not
    cannot.
    """
    generator = torch.Generator().manual_seed(0)
    means_nothing = torch.randint(3, (len(labelled),), generator=generator).tolist()
    known = {
        image.numpy().tobytes(): k
        for image, k in zip(labelled.images(), means_nothing, strict=True)
    }

    class ByHeart(nn.Module):
        def __init__(self, seen: dict[bytes, int]) -> None:
            super().__init__()
            self.seen, self.unused = seen, nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            prints = [(patch * 255).round().to(torch.uint8).numpy().tobytes() for patch in x]
            return torch.stack(
                [
                    8 * nn.functional.one_hot(torch.tensor(self.seen.get(p, 0)), 3).float()
                    for p in prints
                ]
            )

    class Memory(ClassifierTraining):
        def __call__(self, data: Any, *args: Any, **kwargs: Any) -> nn.Module:
            return ByHeart({p: known[p] for p in (d["image"].numpy().tobytes() for d in data)})

    random = fit_critic(labelled, Memory(), transform(), size=32, folds=3)
    labels = torch.tensor([known[image.numpy().tobytes()] for image in labelled.images()])
    images, origins = labelled.images(), torch.arange(len(labelled))
    everyone, unseen = random.probabilities(images), random.probabilities(images, origins)
    assert bool((everyone.argmax(1) == labels).all()), (
        "two of three members know each patch by heart"
    )
    assert bool((unseen.argmax(1) == 0).all())


@pytest.mark.parametrize(
    ("origins", "message"),
    [
        ([0, 1], "got 2 from 0 for 3 patches"),
        ([0, 1, -1], "got 3 from -1 for 3"),
        ([0, 1, 1.5], r"got tensor\(\[0.0000, 1.0000, 1.5000\]\) for 3"),
    ],
)
def test_origins_must_be_patches(
    origins: list[int], message: str, critic: PatchCritic, labelled: PatchSet
) -> None:
    with pytest.raises(
        ValueError,
        match=f"origins must name a patch, counted from 0, for each, {message}",
    ):
        critic.probabilities(labelled.images()[:3], torch.tensor(origins))


def test_what_no_member_has_seen_is_judged_by_all(critic: PatchCritic, labelled: PatchSet) -> None:
    """Origins beyond the fitted patches: unlabelled ones, which follow them."""
    images, first = labelled.images()[:3], len(labelled)
    found = critic.probabilities(images, torch.tensor([first, 0, first + 7]))
    everyone = critic.probabilities(images)
    torch.testing.assert_close(found[[0, 2]], everyone[[0, 2]])
    own = critic.probabilities(images[1:2], torch.tensor([0]))
    torch.testing.assert_close(found[1:2], own)


def test_critic_survives_saving(critic: PatchCritic, labelled: PatchSet, tmp_path: Path) -> None:
    critic.save(tmp_path / "critic.pt")
    twin = PatchCritic.load(tmp_path / "critic.pt", small, 3)
    torch.testing.assert_close(
        twin.probabilities(labelled.images()),
        critic.probabilities(labelled.images()),
        atol=0.02,
        rtol=0,
    )
    assert float(twin.threshold) == float(critic.threshold) and float(twin.temperature) == float(
        critic.temperature
    )
    origins = torch.arange(len(labelled)).flip(0)
    judged = (each.probabilities(labelled.images(), origins) for each in (critic, twin))
    torch.testing.assert_close(*judged, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="weights must fit the network"):
        PatchCritic.load(tmp_path / "critic.pt", small, 2)
    with pytest.raises(FileNotFoundError, match="weights must exist"):
        PatchCritic.load(tmp_path / "none.pt", small, 3)


def test_a_critic_without_folds_judges_no_variations(
    critic: PatchCritic, labelled: PatchSet, tmp_path: Path
) -> None:
    """As the files of earlier versions: they load, and all else works."""
    state = {name: value for name, value in critic.state_dict().items() if name != "folds"}
    save_weights(tmp_path / "old.pt", state)
    old = PatchCritic.load(tmp_path / "old.pt", small, 3)
    assert old.folds is None and old.probabilities(labelled.images()[:2]).shape == (2, 3)
    with pytest.raises(
        ValueError, match="the critic must know its folds \\(fit_critic tells them\\), got none"
    ):
        old.probabilities(labelled.images(), torch.arange(len(labelled)))


def test_selector_rejects_copies_and_wrong_classes(
    critic: PatchCritic, labelled: PatchSet, draw_patches: Callable[..., np.ndarray]
) -> None:
    real = labelled.images()
    fresh = torch.from_numpy(draw_patches(0, 6, 32, seed=99)).permute(0, 3, 1, 2)
    selector = Selector(critic, real, labelled.groups, threshold=0.5)
    outcome = selector(
        torch.cat([fresh, fresh, real[:1].flip(3)]), [0] * 6 + [1] * 6 + [int(labelled.labels[0])]
    )
    assert outcome.reasons[6:12] == ["low confidence"] * 6
    assert (
        outcome.reasons[12] == "near copy"
        and int(outcome.nearest[12]) == 0
        and float(outcome.distance[12]) < 1e-6
    )
    assert outcome.reasons[:6].count("accepted") >= 4
    assert outcome.keep.tolist() == [r == "accepted" for r in outcome.reasons]


def test_copies_are_found_in_every_orientation(critic: PatchCritic, labelled: PatchSet) -> None:
    real = labelled.images()
    turned = torch.stack(
        [torch.rot90(real[i], i % 4, (1, 2)).flip(2 if i % 2 else 1) for i in range(8)]
    )
    outcome = Selector(critic, real, labelled.groups, threshold=0.0)(
        turned / 255, labelled.labels[:8]
    )
    assert outcome.reasons == ["near copy"] * 8 and outcome.nearest.tolist() == list(range(8))
    allowed = Selector(critic, real, labelled.groups, variations=True)(
        turned / 255, labelled.labels[:8]
    )
    assert bool(allowed.keep.all()) and torch.equal(allowed.nearest, outcome.nearest), (
        "variations are judged by the critic alone"
    )


def test_a_candidate_is_refused_where_another_class_is_more_probable() -> None:
    found = torch.tensor([[0.2, 0.45, 0.35], [0.4, 0.4, 0.2], [0.2, 0.45, 0.35], [0.1, 0.1, 0.8]])
    labels, far = torch.tensor([1, 1, 2, 2]), torch.full((4,), 9.0)
    nearest = torch.zeros(4, dtype=torch.long)

    def reasons(threshold: float) -> list[str]:
        chosen = select(found, labels, far, nearest, threshold)
        assert chosen.keep.tolist() == [r == "accepted" for r in chosen.reasons]
        return [str(reason) for reason in chosen.reasons]

    other = "another class is more probable"
    assert reasons(0.0) == reasons(0.3) == ["accepted", "accepted", other, "accepted"]
    assert reasons(0.5) == ["low confidence"] * 3 + ["accepted"]
    assert reasons(0.42) == ["accepted", *["low confidence"] * 2, "accepted"]


def test_variations_need_no_confidence_and_noise_needs_the_critics(
    critic: PatchCritic, labelled: PatchSet
) -> None:
    for strength, least in ((0.99, 0.0), (1.0, float(critic.threshold))):
        made = Selector.for_patches(critic, labelled, 32, strength)
        assert made.threshold == least and made.variations == (strength < 1)
        assert made.settings["source_threshold"] == float(critic.threshold)


def test_selector_says_what_it_applies(critic: PatchCritic, labelled: PatchSet) -> None:
    settings = Selector(critic, labelled.images(), labelled.groups, threshold=0.25).settings
    assert (
        settings["threshold"] == 0.25
        and settings["temperature"] == float(critic.temperature)
        and settings["copy_threshold"] > 0
    )
    one_group = Selector(critic, labelled.images(), ["g"] * len(labelled))
    assert one_group.copy_threshold == FLOOR, "an exact copy is one whatever the groups"
    assert settings["copy_twins"] == 0 and settings["copy_compared"] == len(labelled)
    assert one_group.settings["copy_compared"] == 0


def test_selector_tells_of_real_patches_with_twins(
    critic: PatchCritic, labelled: PatchSet, caplog: pytest.LogCaptureFixture
) -> None:
    """Duplicates in another group, as are usual: copies of them are refused all the same."""
    real = torch.cat([labelled.images(), labelled.images()[:5]])
    groups = [*labelled.groups, *[f"twin {i}" for i in range(5)]]
    selector = Selector(critic, real, groups, threshold=0.0)
    assert selector.settings["copy_twins"] == 10 and selector.copy_threshold > FLOOR
    assert f"10 of {len(real)} real patches have a twin in another group" in caplog.text
    outcome = selector(real[:3] / 255, labelled.labels[:3])
    assert outcome.reasons == ["near copy"] * 3


@pytest.mark.parametrize("name", ["threshold", "temperature"])
def test_a_critic_whose_numbers_are_spoilt_selects_nothing(
    name: str, critic: PatchCritic, labelled: PatchSet
) -> None:
    spoilt = copy.deepcopy(critic)
    getattr(spoilt, name).fill_(math.nan)
    with pytest.raises(ValueError, match=f"{name} must .*, got nan"):
        Selector(spoilt, labelled.images(), labelled.groups)


def test_the_threshold_is_lowered_until_a_share_of_unlabelled_patches_reach_it(
    labelled: PatchSet, critic: PatchCritic, tmp_path: Path
) -> None:
    """Blended patches, of which a critic is less sure than of those that it was fitted on."""
    images = labelled.images(32).float()
    blend = (0.55 * images + 0.45 * images.flip(0)).round().byte()
    pictures = zip(labelled.records, blend.permute(0, 2, 3, 1).numpy(), strict=True)
    pool = PatchSet.open(write_patches(tmp_path / "pool", pictures))
    judged = critic.probabilities(blend)
    confidence = judged.amax(1)

    def fitted(share: float, patches: PatchSet | None = pool) -> PatchCritic:
        return fit_critic(
            labelled, TRAINING, transform(), 32, 3, 0.9, unlabelled=patches, trusted_share=share
        )

    before = float(critic.threshold)
    assert float((confidence >= before).float().mean()) < 0.8, "there is something to lower"
    for share in (0.8, 1.0):
        lowered = fitted(share)
        wanted = float(torch.quantile(confidence, 1 - share))
        assert float(lowered.threshold) == pytest.approx(wanted, abs=1e-6)
        assert float(lowered.threshold) < before
        assert float((confidence >= lowered.threshold - 1e-6).float().mean()) >= share
        assert float(lowered.precision) <= float(critic.precision), "it is told what that costs"
        assert float(lowered.temperature) == float(critic.temperature)
        torch.testing.assert_close(lowered.of_patches(pool, 32), judged)
    for same in (fitted(0.0), fitted(0.5, None), fitted(0.01)):
        assert float(same.threshold) == before
    with pytest.raises(ValueError, match=r"trusted_share must lie in \[0, 1\], got 1.5"):
        fitted(1.5)


def large_patches(folder: Path) -> PatchSet:
    """Five patches of noise, larger than the crops that the critic sees."""
    rng = np.random.default_rng(0)
    made = [
        (PatchRecord(f"{i}.png", "", "", group=str(i)), rng.integers(0, 256, (48, 48, 3), "uint8"))
        for i in range(5)
    ]
    return PatchSet.open(write_patches(folder, made))


def test_of_a_larger_patch_the_mean_over_its_crops_counts(
    critic: PatchCritic, tmp_path: Path
) -> None:
    patches = large_patches(tmp_path / "large")
    expected = sum(critic.probabilities(crops) for crops in patches.five_crops(32)) / 5
    torch.testing.assert_close(critic.of_patches(patches, 32), expected)
    assert float((expected - critic.probabilities(patches.images(32))).abs().max()) > 1e-3


def test_the_set_that_was_judged_last_is_not_judged_again(
    critic: PatchCritic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = large_patches(tmp_path / "large")
    fresh = copy.deepcopy(critic)
    judged = fresh.of_patches(patches, 32)
    fresh.of_patches(patches, 32).zero_()
    fresh.threshold.fill_(0.5)
    with monkeypatch.context() as patched:
        patched.setattr(fresh, "probabilities", None)
        assert torch.equal(fresh.of_patches(patches[:], 32), judged)
        for other, size in ((patches[::-1], 32), (patches[1:], 32), (patches, 40)):
            with pytest.raises(TypeError, match="not callable"):
                fresh.of_patches(other, size)
    assert torch.equal(fresh.of_patches(patches[::-1], 32), judged.flip(0))
    fresh.temperature.mul_(4)
    softer = fresh.of_patches(patches[::-1], 32)
    assert float((softer - judged.flip(0)).abs().max()) > 1e-3
    other = {name: -value for name, value in fresh.members.state_dict().items() if "fc" in name}
    fresh.members.load_state_dict(other, strict=False)
    assert float((fresh.of_patches(patches[::-1], 32) - softer).abs().max()) > 1e-3


def test_classifiers_from_scratch_are_read_without_an_encoder(
    critic: PatchCritic, labelled: PatchSet, tmp_path: Path
) -> None:
    critic.save(tmp_path / "critic.pt")
    twin = PatchCritic.load_probes(tmp_path / "critic.pt", tmp_path / "no-encoder", 3)
    found, wanted = (judge.probabilities(labelled.images(32)) for judge in (twin, critic))
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)  # saved in half precision


@pytest.mark.parametrize("features", [512, 40])
def test_probes_are_read_on_their_encoder_and_on_an_adapted_one(
    features: int, labelled: PatchSet, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    own = PatchEncoder().eval()
    save_weights(tmp_path / "models" / "encoder.pt", own.state_dict())
    encoder = own
    if features != own.num_features:
        encoder = own.with_discriminant(nn.Linear(own.discriminant.in_features, features))
    probes = ProbeTraining(encoder.requires_grad_(False))
    made = PatchCritic([probes.network(3) for _ in range(2)], 3)
    made.save(tmp_path / "critic.pt")
    twin = PatchCritic.load_probes(tmp_path / "critic.pt", tmp_path, 3)
    found, wanted = (judge.probabilities(labelled.images(32)) for judge in (twin, made))
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)  # saved in half precision


def test_a_critic_of_another_precision_is_refused(labelled: PatchSet) -> None:
    critic = PatchCritic([small(3)], 3).half()
    with pytest.raises(ValueError, match="a critic must be float32, got torch.float16: call its"):
        critic.probabilities(labelled.images(32))


def test_few_patches_cannot_be_cross_fitted(labelled: PatchSet) -> None:
    message = "each class needs at least 3 patches for 3 folds, got 2 of class 'blue'"
    with pytest.raises(ValueError, match=message):
        fit_critic(labelled[:2], TRAINING, transform(), size=32, folds=3)


def test_every_class_must_have_labelled_patches(labelled: PatchSet) -> None:
    one, blind = (
        labelled.select(label="pink"),
        [replace(r, label="") for r in labelled.records[:6]],
    )
    unlabelled = PatchSet(labelled._sources, [*labelled.records, *blind], labelled.classes)
    for patches, size, folds, message in (
        (one, 32, 3, "at least 3 patches for 3 folds, got 0 of class 'blue'"),
        (labelled[:0], 32, 3, "folds need labelled patches of each class, got no patch"),
        (unlabelled, 32, 3, "the index of a class, from 0 on, got -1 of 6 patches and 3 classes"),
        (labelled, 0, 3, "size must be a whole number from 1 on, got 0"),
        (labelled, 32, 2.5, "folds must be a whole number from 2 on, got 2.5"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_critic(patches, TRAINING, transform(), size, folds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:0], "patches must be at least one, got none"),
        (lambda x: x[0], r"a tensor N x 3 x H x W, .* got Tensor \(3, 32, 32\)"),
        (lambda x: x[:, :1], r"a tensor N x 3 x H x W, .* got Tensor \(2, 1, 32, 32\)"),
        (lambda x: x.permute(0, 2, 3, 1), r"got Tensor \(2, 32, 32, 3\)"),
        (list, "got list"),
        (lambda x: x.numpy(), "got ndarray"),
    ],
)
def test_what_is_no_batch_of_patches_is_not_judged(
    spoil: Callable[[Tensor], Any], message: str, critic: PatchCritic, labelled: PatchSet
) -> None:
    selector, patches = Selector.for_patches(critic, labelled, 32), labelled.images(32)[:2]
    for judge in (critic.probabilities, lambda x: selector(x, [0, 0])):
        with pytest.raises(ValueError, match=message):
            judge(spoil(patches))
    with pytest.raises(ValueError, match="patches must be at least one, got none"):
        Selector(critic, patches[:0], [])


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ([0.9, 1], r"labels must be 2 class indices, .* got \[0.9, 1\]: give"),
        (["blue", "pink"], r"got \['blue', 'pink'\]: give the place"),
        (None, "got None: give"),
        ([0, 1, 2], r"got shape \(3,\): give"),
        ([0, 3], "labels must lie from 0 to 2, got 0 to 3"),
    ],
)
def test_labels_are_class_indices(
    labels: Any, got: str, critic: PatchCritic, labelled: PatchSet
) -> None:
    selector, patches = Selector.for_patches(critic, labelled, 32), labelled.images(32)[:2]
    with pytest.raises(ValueError, match=got):
        selector(patches, labels)
    wanted = selector(patches, torch.tensor([0, 1])).confidence
    assert torch.equal(selector(patches, [0.0, 1.0]).confidence, wanted)


def test_selector_threshold_must_be_a_probability(critic: PatchCritic, labelled: PatchSet) -> None:
    with pytest.raises(ValueError, match="threshold must lie in"):
        Selector(critic, labelled.images(), labelled.groups, threshold=1.2)
    assert Selector(critic, labelled.images(), labelled.groups).threshold == float(
        critic.threshold
    )


@pytest.mark.parametrize("name", ["temperature", "threshold"])
def test_a_critic_without_a_number_is_not_loaded(
    critic: PatchCritic, tmp_path: Path, name: str
) -> None:
    """A NaN threshold would accept nothing, or everything, without a word."""
    broken = copy.deepcopy(critic)
    getattr(broken, name).fill_(math.nan)
    with pytest.raises(ValueError, match=f"weights must be finite, got 1 of 1 .* '{name}'"):
        broken.save(tmp_path / "critic.pt")
    torch.save(broken.state_dict(), tmp_path / "critic.pt")  # by something else
    with pytest.raises(
        ValueError, match="a temperature above 0 and a threshold in .* fit it anew"
    ):
        PatchCritic.load(tmp_path / "critic.pt", small, 3)


def test_patches_of_another_range_are_refused_by_all_that_judges(
    critic: PatchCritic, labelled: PatchSet
) -> None:
    patches = labelled.images(32).float()  # of 0 to 255
    selector = Selector.for_patches(critic, labelled, 32)
    for judge in (
        critic.probabilities,
        lambda x: selector(x, labelled.labels),
        lambda x: copy_distances(x, labelled.images(32)),
        lambda x: copy_distances(labelled.images(32), x),
        lambda x: copy_gate(x, labelled.groups),
        PatchEncoder().descriptors,
        PatchEncoder().features,
    ):
        for other in (patches, patches / 127.5 - 1):
            with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got .*: load it as"):
                judge(other)
