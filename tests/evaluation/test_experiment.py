from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, COLOURS
from monai.transforms import (
    Compose,
    Identityd,
    RandAxisFlipd,
    RandSpatialCropd,
    ScaleIntensityRanged,
)

from monai_histodiff import (
    Candidates,
    ClassifierTraining,
    Evaluation,
    PatchClassifier,
    PatchCritic,
    PatchSet,
)
from monai_histodiff.bundle.pictures import answers, by_kind, gallery
from monai_histodiff.bundle.results import run_and_report
from monai_histodiff.bundle.run_folder import RunFolder
from monai_histodiff.classifiers import FixMatchTraining
from monai_histodiff.commands.judge import judge
from monai_histodiff.data.patch_files import PatchSource
from monai_histodiff.data.pixels import five_crops
from monai_histodiff.evaluation.arms import ARMS, Material
from monai_histodiff.evaluation.experiment import Recipe


@pytest.fixture(scope="module")
def parts(
    write_patch_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[PatchSet, PatchSet, PatchSet]:
    base = tmp_path_factory.mktemp("evaluation")
    train = write_patch_set(base / "train", per_class=6, split="train", seed=1)
    test = write_patch_set(base / "test", per_class=8, split="test", seed=2)
    whole = PatchSet.open([train, test])
    return whole, whole.select("train"), whole.select("test")


def evaluation(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates, **options: Any
) -> Evaluation:
    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    settings: dict[str, Any] = {
        "labelled": parts[1],
        "test": parts[2],
        "candidates": candidates,
        "training": ClassifierTraining(
            network=lambda num_classes: PatchClassifier(num_classes, width=8),
            steps=12,
            batch_size=8,
        ),
        "crop": Identityd("image"),
        "classical": Compose([RandAxisFlipd("image", 0.5), scale]),
        "plain": scale,
        "full_prob_at": 1,
        "size": 32,
    }
    given = {**settings, **options}
    test = given.pop("test")
    kinds = {kind: {f.name for f in dataclasses.fields(kind)} for kind in (Material, Recipe)}
    material, recipe = (
        kind(**{name: given.pop(name) for name in names & set(given)})
        for kind, names in kinds.items()
    )
    return Evaluation(material, test, recipe, **given)


def colours(patches: torch.Tensor) -> torch.Tensor:
    return patches.float().mean((2, 3)) / (255 if patches.dtype == torch.uint8 else 1)


class Judge(torch.nn.Module):
    """A member of a critic that knows the three colours."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return -50 * torch.cdist(colours(patches), torch.tensor(COLOURS) / 255)


def everything(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> dict[str, Any]:
    """Half of the labels, and all that any arm needs."""
    critic, labelled = PatchCritic([Judge()], 3), parts[1].few(3)
    critic.threshold.fill_(0.5)
    published = Candidates(
        **{
            **candidates.__dict__,
            "images": candidates.images.flip(3),
            "reasons": ["accepted"] * 18,
        }
    )
    pool = parts[1].without(labelled)
    return {
        "labelled": labelled,
        "pool": pool,
        "critic": critic,
        "second": candidates,
        "published": published,
        "features": colours,
    }


def test_five_crops_cover_centre_and_corners() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    crops = five_crops(x, 2)
    assert crops.shape == (5, 1, 1, 2, 2)
    assert [int(c[0, 0, 0, 0]) for c in crops] == [14, 0, 4, 24, 28]
    assert torch.equal(five_crops(x, 6), x[None])
    oblong = five_crops(torch.arange(24.0).view(1, 1, 4, 6), 4)
    assert oblong.shape == (5, 1, 1, 4, 4) and [int(c[0, 0, 0, 0]) for c in oblong] == [
        1,
        0,
        2,
        0,
        2,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ["C", "Z"]}, "arms must be among .* got \\['C', 'Z'\\]"),
        ({"arms": ["G"]}, "include 'C', got \\['G'\\]"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 2, 1]}, "seeds must differ, got \\[1, 2, 1\\]"),
        ({"seeds": [1, 1.5]}, "seeds must be whole numbers from 0 to 2\\^32 - 1, got 1.5"),
        ({"seeds": [0, 2**32]}, "seeds must be whole numbers .* got 4294967296"),
        ({"seeds": [2, -1]}, "seeds must be whole numbers .* got -1"),
        ({"arms": ["C", "E"]}, "arm E needs pool and critic, got no pool and no critic"),
        ({"arms": ["C", "G0"]}, "arm G0 needs published, got no published"),
        ({"arms": ["C", "J"]}, "arm J needs features, got no features"),
        ({"arms": ["C", "R"]}, "arm R needs pool and labels_of_pool, got no pool and"),
        ({"size": 16}, r"size of the material, 16, got \[\(32, 32\)\]: give the patch_size"),
    ],
)
def test_errors(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation(parts, candidates, **options)


def test_seeds_may_be_as_large_as_numpy_takes_them(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    assert evaluation(parts, candidates, seeds=[0, 2**32 - 1]) is not None


def test_patches_without_a_label_are_not_tested_on(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    for name, part in (("labelled", parts[1]), ("test", parts[2])):
        blind = PatchSet(
            part._sources,
            [replace(r, label="") if i == 0 else r for i, r in enumerate(part.records)],
            part.classes,
        )
        with pytest.raises(
            ValueError, match=f"every {name} patch must have a label, got 1 of {len(part)} without"
        ):
            evaluation(parts, candidates, **{name: blind})


def test_test_patches_opened_apart_are_matched_by_name(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates, tmp_path: Path
) -> None:
    last = parts[2].select(label=CLASSES[2])
    apart = PatchSet.open(last.write(tmp_path / "test"))
    found = evaluation(parts, candidates, test=apart, arms=["C"]).test
    assert torch.equal(found.labels, last.labels) and found.classes == CLASSES
    names = [replace(r, label="grey") for r in apart.records]
    with pytest.raises(ValueError, match=r"among the classes \['blue'.* got 'grey' of 8 patches"):
        evaluation(parts, candidates, test=PatchSet(apart._sources, names, ["grey"]))


def test_true_labels_must_be_there_before_any_training(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    given = everything(parts, candidates)
    pool = given.pop("pool")
    blind = PatchSet(pool._sources, [replace(r, label="") for r in pool.records], pool.classes)
    evaluation(parts, candidates, pool=blind, arms=["C", "E", "M"], **given)
    with pytest.raises(ValueError, match="arm R needs pool and labels_of_pool, got no labels_of"):
        evaluation(parts, candidates, pool=blind, arms=["C", "R"], **given)


def test_overlapping_groups_are_refused(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    with pytest.raises(
        ValueError, match="training and test groups must be disjoint, got 9 in both"
    ):
        evaluation(parts, candidates, test=parts[1])
    with pytest.raises(
        ValueError, match="training and test groups must be disjoint, got 12 in both"
    ):
        evaluation(parts, candidates, pool=parts[2])


def test_an_arm_that_would_repeat_the_selected_patches_is_not_trained(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    kept = ["accepted"] * 3 + ["low confidence"] * 15
    one = replace(candidates, reasons=kept)
    found = evaluation(parts, one, arms=["C", "G", "S"], seeds=[0])
    assert found.arms == ("C", "G") and list(found.left_out) == ["S"]
    found.run()
    results = found.results()
    assert list(results["arms"]) == ["C", "G"] and list(results["claims"]) == ["G-C"]
    assert evaluation(parts, candidates, arms=["C", "G", "S"]).left_out == {}


def test_all_arms_run_pair_by_seed_and_are_reproducible(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    first = evaluation(
        parts, candidates, arms=list(ARMS), seeds=[0, 1], **everything(parts, candidates)
    )
    first.run()
    results = json.loads(json.dumps(first.results()))
    assert list(results["arms"]) == list(ARMS) and all(
        len(v) == 2 for a in results["arms"].values() for v in a.values()
    )
    assert (
        set(results["differences"])
        == {"G-C", "G-F", "G-S", "G-K", "G-E", "G-M", "G-G0", "G-D", "G-B", "G-A", "P-C", "P-E"}
        | {"G2-C", "G-G2", "R-C"}
        == set(results["claims"])
    )
    assert set(results["recall"]["C"]) == set(CLASSES)
    assert set(results["differences"]["G-C"]["auc"]) == {"mean", "low", "high"}
    for arm, runs in first.probabilities.items():
        assert results["intervals"][arm]["accuracy"]["mean"] == pytest.approx(
            np.mean(results["arms"][arm]["accuracy"])
        )
        assert (
            sum(row["share"] for row in results["reliability"][arm]) == pytest.approx(1)
            and len(runs) == 2
        )
    gain = np.subtract(results["arms"]["G"]["macro_f1"], results["arms"]["C"]["macro_f1"]).mean()
    assert results["differences"]["G-C"]["macro_f1"]["mean"] == pytest.approx(gain)
    assert results["claim"] == "inconclusive"
    assert "needs at least 3 seeds, got 2" in results["verdict"]
    for runs in first.probabilities.values():
        for probabilities in runs:
            assert probabilities.shape == (24, 3) and np.allclose(probabilities.sum(1), 1)
    again = evaluation(
        parts, candidates, arms=["C", "G"], seeds=[1], **everything(parts, candidates)
    )
    for _ in range(2):
        again.run()
        assert len(again.probabilities["G"]) == 1, "a second run replaces the first"
    np.testing.assert_allclose(again.probabilities["G"][0], first.probabilities["G"][1], atol=1e-5)


def test_arms_see_the_data_that_they_are_named_after(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    seen: list[tuple[str, int, torch.Tensor]] = []
    recipes = {}

    class Recorder(ClassifierTraining):
        def __call__(
            self, data: Any, transform: Any, num_classes: int, seed: int, name: str = "fit"
        ) -> torch.nn.Module:
            transform.set_random_state(seed)
            arm = name.split()[1].rstrip(",")
            recipes[arm] = (self.steps, self.mixing)
            for item in [transform(data[i % len(data)]) for i in range(60)]:
                assert set(item) == {"image", "label"}
                seen.append((arm, item["label"], (item["image"] * 255).round().to(torch.uint8)))
            return PatchClassifier(num_classes, width=8).eval()

    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    given = everything(parts, candidates)
    run = evaluation(
        parts,
        candidates,
        training=Recorder(steps=50),
        arms=[arm for arm in ARMS if arm != "M"],
        seeds=[3],
        classical=scale,
        prob=0.4,
        **given,
    )
    run.run()
    assert recipes.pop("A") == (30, 0), "as many steps as G shows real patches"
    assert (
        recipes.pop("D") == (50, 1)
        and set(recipes.values()) == {(50, 0)}
        and set(recipes) == set(ARMS) - {"A", "D", "J", "M"}
    )
    real, pool = (
        {d["image"].numpy().tobytes(): d["label"] for d in part}
        for part in (given["labelled"], given["pool"])
    )
    accepted = candidates.accepted.tolist()
    made = {
        image.numpy().tobytes(): (int(k), ok)
        for image, k, ok in zip(candidates.images, candidates.labels, accepted, strict=True)
    }
    other = {
        image.numpy().tobytes(): int(k)
        for image, k in zip(given["published"].images, candidates.labels, strict=True)
    }
    for arm in set(ARMS) - {"J", "M"}:
        rows = [(label, image.numpy().tobytes()) for name, label, image in seen if name == arm]
        synthetic = [(label, *made[image]) for label, image in rows if image in made]
        added = [
            (label, source[image])
            for source in (pool, other)
            for label, image in rows
            if image in source
        ]
        assert len(rows) == 60 and all(
            label == real[image] for label, image in rows if image in real
        )
        assert len(synthetic) + len(added) + sum(image in real for _, image in rows) == 60
        assert bool(added) == (arm in ("E", "G0", "P", "R")) and all(
            label == k for label, k in added
        )
        if arm in ("A", "B", "C", "D", "E", "G0", "K", "R"):
            assert not synthetic
        elif arm == "I":
            assert len(synthetic) == 60
        if arm in "FGHSEG0R":
            assert 12 <= len(synthetic) + len(added) <= 36, "about 40 % of them"
        if arm in "GI":
            assert all(label == k and ok for label, k, ok in synthetic)
        if arm in "FH":
            assert all(label == k for label, k, _ in synthetic) and not all(
                ok for *_, ok in synthetic
            )
        if arm == "S":
            assert any(label != k for label, k, _ in synthetic) and all(ok for *_, ok in synthetic)


def test_fixmatch_sees_the_pool_without_its_labels(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, Any]] = []

    def record(
        self: Any, data: Any, transform: Any, num_classes: int, seed: int, name: str
    ) -> Any:
        transform.set_random_state(seed)
        seen.extend(transform(data[i % len(data)]) for i in range(40))
        assert self.steps == 50 and self.bfloat16 and self.threshold == 0.95
        return PatchClassifier(num_classes, width=8).eval()

    monkeypatch.setattr(FixMatchTraining, "__call__", record)
    given = everything(parts, candidates)
    hidden = [replace(r, label=None) for r in given["pool"].records]
    given["pool"] = given["pool"]._with(hidden)
    training = ClassifierTraining(steps=50, bfloat16=True)
    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    darker = Compose([ScaleIntensityRanged("image", 0, 255, 0.0, 0.5)])
    run = evaluation(parts, candidates, training=training, classical=darker, plain=scale, **given)
    run.arms, run._augmentation = ("M",), {"M": ""}
    run.run()
    pool = [patch["image"].float() / 255 for patch in given["pool"]]
    for item in seen:
        assert set(item) == {"image", "label", "weak", "strong"}
        # flips and quarter turns of the weak view keep every pixel
        (twin,) = [x for x in pool if torch.allclose(2 * item["strong"], x, atol=1e-6)]
        for k in range(3):
            assert torch.allclose(item["weak"][k].sort()[0].sum(), twin[k].sum(), atol=1e-2)
    assert len({float(item["weak"].sum()) for item in seen}) > 5, "many of the pool"


@pytest.mark.parametrize("full", [1, 400])
def test_a_class_with_few_synthetic_patches_shows_them_rarely(
    full: int, parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    """The rule of the transform; arm I, which has nothing else to show, is exempt."""
    shares = {}

    class Recorder(ClassifierTraining):
        def __call__(
            self, data: Any, transform: Any, num_classes: int, seed: int, name: str = "fit"
        ) -> torch.nn.Module:
            transform.set_random_state(seed)
            real = {d["image"].numpy().tobytes() for d in data}
            shown = [transform(data[i % len(data)])["image"] for i in range(300)]
            synthetic = [
                (image * 255).round().to(torch.uint8).numpy().tobytes() not in real
                for image in shown
            ]
            shares[name.split()[1].rstrip(",")] = sum(synthetic) / 300
            return PatchClassifier(num_classes, width=8).eval()

    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    options = {"arms": ["C", "G", "I"], "seeds": [0], "classical": scale, "full_prob_at": full}
    evaluation(parts, candidates, training=Recorder(), **options).run()
    accepted, classes = int(candidates.accepted.sum()), len(CLASSES)
    expected = 0.5 * min(1.0, accepted / classes / full)
    assert (
        shares["C"] == 0 and shares["I"] == 1 and shares["G"] == pytest.approx(expected, abs=0.08)
    )


def test_the_probe_sees_augmented_labelled_patches(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    run = evaluation(
        parts, candidates, arms=["C", "J"], seeds=[0, 1], **everything(parts, candidates)
    )
    run.run()
    assert run.results()["arms"]["J"]["balanced_accuracy"] == [1.0, 1.0], (
        "colour tells these classes apart"
    )


def test_a_claim_is_corrected_for_the_others(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    run = evaluation(parts, candidates, arms=["C", "F", "G"], seeds=[0, 1, 2])
    right = np.eye(3)[parts[2].labels]
    noise = np.random.default_rng(0).dirichlet(np.ones(3), 24)
    run.probabilities = {"C": [noise] * 3, "F": [right] * 3, "G": [right] * 3}
    found = run.results()
    assert (
        found["differences"]["G-C"]["balanced_accuracy"]["low"] > 0 and found["claim"] == "helps"
    )
    assert (
        found["claims"]["G-C"]["p_holm"] == pytest.approx(2 * found["claims"]["G-C"]["p"])
        and found["claims"]["G-F"]["p_holm"] == 1
    )
    assert (
        found["verdict"] == found["claims"]["G-C"]["sentence"]
        and found["claims"]["G-F"]["claim"] == "inconclusive"
    )


class Counted(ClassifierTraining):
    """Counts the trainings, and fails at the one that it is told to."""

    told = SimpleNamespace(log=[], fail_at=-1)  # beside the recipe: plain attributes belong to it

    def __call__(
        self, data: Any, transform: Any, num_classes: int, seed: int, name: str = "fit"
    ) -> torch.nn.Module:
        if len(self.told.log) == self.told.fail_at:
            raise KeyboardInterrupt
        self.told.log.append(name)
        return super().__call__(data, transform, num_classes, seed, name)


def tiny(num_classes: int) -> torch.nn.Module:
    return PatchClassifier(num_classes, width=8)


def test_an_interrupted_evaluation_resumes_and_a_change_costs_only_itself(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(**options: Any) -> list[str]:
        monkeypatch.setattr(Counted.told, "log", [])
        settings = {
            "training": Counted(network=tiny, steps=3, batch_size=4),
            "arms": ["C", "G"],
            "seeds": [0, 1],
        }
        run = evaluation(
            parts,
            options.pop("candidates", candidates),
            cache_dir=tmp_path / "cache",
            **{**settings, **options},
        )
        run.run()
        seconds = run.seconds
        assert all(np.isfinite(s) and s > 0 for v in seconds.values() for s in v)
        results.append(run.probabilities)
        return Counted.told.log

    results: list[Any] = []
    monkeypatch.setattr(Counted.told, "fail_at", 2)
    with pytest.raises(KeyboardInterrupt):
        trained()
    assert Counted.told.log == ["arm C, seed 0", "arm G, seed 0"]
    monkeypatch.setattr(Counted.told, "fail_at", -1)
    assert trained() == ["arm C, seed 1", "arm G, seed 1"]
    assert trained() == []
    other = Counted(network=tiny, steps=3, batch_size=4, device="cpu:0")
    assert trained(training=other) == [], "on whichever of several devices of a kind"
    fresh = evaluation(
        parts,
        candidates,
        training=Counted(network=tiny, steps=3, batch_size=4),
        arms=["C", "G"],
        seeds=[0, 1],
    )
    for arm, runs in fresh.run().items():
        np.testing.assert_allclose(results[-1][arm], runs, atol=1e-6)
    assert trained(arms=["C", "F", "G"]) == ["arm F, seed 0", "arm F, seed 1"]
    assert trained(seeds=[1, 2]) == ["arm C, seed 2", "arm G, seed 2"]
    fewer = Candidates(**{**candidates.__dict__, "reasons": ["accepted"] + ["near copy"] * 17})
    assert trained(candidates=fewer, seeds=[0]) == ["arm G, seed 0"], (
        "C does not depend on the candidates"
    )
    assert trained(prob=0.25, seeds=[0]) == ["arm G, seed 0"]
    for change in (
        {"training": Counted(network=tiny, steps=4, batch_size=4)},
        {
            "training": Counted(
                network=lambda num_classes: PatchClassifier(num_classes, width=16),
                steps=3,
                batch_size=4,
            )
        },
        {"classical": ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)},
        {"labelled": parts[1].few(4)},
        {"test": parts[2].few(7)},
    ):
        assert trained(seeds=[0], **change) == ["arm C, seed 0", "arm G, seed 0"], change
    assert trained(seeds=[0], plain=Identityd("image")) == [], "neither arm uses it"
    monkeypatch.setattr("monai_histodiff.evaluation.experiment.CACHE_VERSION", -1)
    assert len(trained(seeds=[0])) == 2


def test_the_weak_view_of_fixmatch_is_part_of_its_key(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates, tmp_path: Path
) -> None:
    """It was not: another ``plain`` read back the values of the first."""

    def trained(cache: Path | None, largest: float) -> np.ndarray:
        plain = ScaleIntensityRanged("image", 0, largest, 0.0, 255 / largest)
        given = {**everything(parts, candidates), "plain": plain, "seeds": [0]}
        run = evaluation(parts, candidates, arms=["C", "M"], cache_dir=cache, **given)
        return np.array(run.run()["M"][0])

    first, second = (trained(tmp_path, largest) for largest in (255.0, 510.0))
    assert not np.allclose(first, second, atol=1e-4)
    np.testing.assert_allclose(second, trained(None, 510.0), atol=1e-6)


@pytest.mark.parametrize("larger", ["labelled", "pool", "test"])
def test_every_arm_takes_patches_that_differ_in_size(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    write_patch_set: Callable[..., Path],
    tmp_path: Path,
    larger: str,
) -> None:
    """Arms E, K and R show whole real patches in the places of others: only after minutes they
    said that one was of another size.
    """
    given = {**everything(parts, candidates), "test": parts[2]}
    wide = write_patch_set(tmp_path / "wide", per_class=3, seed=7, side=40)
    sources = [*given[larger]._sources, PatchSource(wide)]
    records = [replace(r, source=len(sources) - 1) for r in PatchSet.open(wide).records]
    given[larger] = PatchSet(sources, [*given[larger].records, *records], CLASSES)
    crop = RandSpatialCropd("image", (32, 32), random_size=False)
    run = evaluation(parts, candidates, arms=list(ARMS), seeds=[0], crop=crop, **given)
    assert {arm: len(runs) for arm, runs in run.run().items()} == dict.fromkeys(ARMS, 1)


def test_larger_patches_are_judged_by_five_crops(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    small = Candidates(
        **{**candidates.__dict__, "images": candidates.images[..., :24, :24].contiguous()}
    )
    crop = RandSpatialCropd("image", (24, 24), random_size=False)
    run = evaluation(parts, small, crop=crop, size=24, seeds=[0], arms=["C", "G"])
    run.run()
    assert (
        run.results()["floors"]["mean colour"]["accuracy"] == 1.0
        and len(run.probabilities["G"][0]) == 24
    )


@pytest.mark.parametrize("size", [32, 24])
def test_the_critic_itself_is_measured_as_the_arms_are(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    size: int,
    tmp_path: Path,
) -> None:
    """Over the same crops, once for each state of it: another temperature is another critic."""
    cut = candidates.images[..., :size, :size].contiguous()
    given = {
        "candidates": Candidates(**{**candidates.__dict__, "images": cut}),
        "crop": RandSpatialCropd("image", (size, size), random_size=False),
        "critic": PatchCritic([Judge()], 3),
        "size": size,
    }
    options: dict[str, Any] = {"arms": ["C", "G"], "seeds": [0], "cache_dir": tmp_path}
    run = evaluation(parts, **given, **options)
    assert run.critic is None
    run.run()
    expected = given["critic"].of_patches(parts[2], size)
    np.testing.assert_allclose(run.critic, expected, atol=1e-4)
    told = run.results()["critic"]
    right = (expected.argmax(1) == parts[2].labels).double().mean()
    assert told["accuracy"] == pytest.approx(float(right)) == 1.0
    assert set(told) == set(run.results()["floors"]["mean colour"])
    given["critic"].temperature.fill_(30.0)
    again = evaluation(parts, **given, **options)
    again.run()
    np.testing.assert_allclose(again.critic, given["critic"].of_patches(parts[2], size), atol=1e-4)
    assert np.abs(again.critic - run.critic).max() > 0.01
    without = evaluation(parts, **{**given, "critic": None}, **options)
    without.run()
    assert without.critic is None and "critic" not in without.results()


def test_classes_that_differ_in_colour_are_learned_and_shuffled_labels_hurt(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    training = ClassifierTraining(
        network=lambda num_classes: PatchClassifier(num_classes, width=8), steps=40, batch_size=12
    )
    shuffled = Candidates(
        **{**candidates.__dict__, "labels": candidates.labels.roll(6)}
    )  # every label is wrong
    shuffled.reasons = ["accepted"] * 18
    run = evaluation(parts, shuffled, training=training, arms=["C", "I"], seeds=[0])
    run.run()
    arms = run.results()["arms"]
    assert arms["C"]["balanced_accuracy"][0] > 0.9 and arms["I"]["balanced_accuracy"][0] < 0.4


def test_nothing_accepted_is_a_stated_outcome(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    none = Candidates(**{**candidates.__dict__, "reasons": ["low confidence"] * 18})
    run = evaluation(parts, none, arms=["C", "F", "G"], seeds=[0])
    run.run()
    results = run.results()
    assert results["verdict"] == "Not tested: no synthetic patch was accepted, so arm G is arm C."
    assert results["shortfalls"][-1].startswith("A claim needs accepted synthetic patches, got no")
    assert {row["claim"] for row in results["claims"].values()} == {"inconclusive"}
    np.testing.assert_allclose(run.probabilities["G"][0], run.probabilities["F"][0], atol=1e-6)


OUTCOME = {
    "run": "0123",
    "options": {"train#strength": 0.4},
    "files": {},
    "selection": {
        "candidates": 18,
        "accepted": 6,
        "per_class": {name: {"candidates": 6, "accepted": 2} for name in CLASSES},
        "threshold": 0.7,
        "target_precision": 0.9,
        "reached_precision": 0.8,
        "temperature": 1.0,
        "reasons": {"low confidence": 9, "near copy": 3},
    },
    "sampling": {"steps": 4, "seconds": 2.5, "candidates_per_second": 7.2, "strength": 0.4},
    "settings": {"quota": 4, "labels_per_class": 6, "draw": 0},
}


def by_path(patches: PatchSet) -> list[int]:
    return sorted(
        range(len(patches)), key=lambda i: (patches.records[i].source, patches[i]["path"])
    )


def test_run_and_report_writes_results_and_a_page(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps(OUTCOME))
    RunFolder(tmp_path).split.write(parts[1], parts[1], parts[2])
    varied = Candidates(**{**candidates.__dict__, "origin": torch.arange(18) % 5})
    run = evaluation(parts, varied, seeds=[0, 1, 2], prob=0.25)
    report = run_and_report(run, parts[0], "/home/someone/secret/patches.zip", tmp_path)
    assert report == tmp_path / "report.html" and sorted(p.name for p in tmp_path.iterdir()) == [
        "outcome.json",
        "predictions.npz",
        "report.html",
        "results.json",
        "split.csv",
    ]
    results = json.loads((tmp_path / "results.json").read_text())

    assert results["arms"] == json.loads(json.dumps(run.results()))["arms"], (
        "the file holds what was measured"
    )
    assert list(results["arms"]) == ["C", "F", "G"] and results["seeds"] == [0, 1, 2]
    assert results["dataset"] == {
        "path": "patches.zip",
        "sha256": parts[0].take(by_path(parts[0])).digest(),
        "pictures": hashlib.sha256(" ".join(sorted(parts[0].file_hashes())).encode()).hexdigest(),
        "classes": list(CLASSES),
        "demo": False,
        "counts": {
            "train": dict.fromkeys(CLASSES, 6),
            "labelled": dict.fromkeys(CLASSES, 6),
            "test": dict.fromkeys(CLASSES, 8),
        },
        "unlabelled": {"train": 0, "labelled": 0, "test": 0},
        "groups": {"train": 9, "labelled": 9, "test": 12},
    }
    assert not set(parts[2].groups) & set(results["test"]["groups"]), "patients stay unnamed"
    again = judge(tmp_path)
    for key in ("arms", "intervals", "differences", "claims", "recall", "test", "hits", "verdict"):
        assert json.loads(json.dumps(again[key])) == results[key], f"{key}: to the bit"
    assert again["judged_by"] and again["notes"] == results["notes"]
    assert results["selection"] == by_kind(OUTCOME["selection"], varied, 18)
    sources = results["selection"]["sources"]
    assert 1 <= sources["labelled"] <= 5 and sources["unlabelled"] == 0
    sampling = {"steps": 4, "candidates_per_second": 7.2, "strength": 0.4}
    assert results["sampling"] == sampling and "generator" not in results
    assert results["seconds"]["sampling"] == 2.5
    expected = {
        "quota": 4,
        "labels_per_class": 6,
        "draw": 0,
        "classifier_steps": 12,
        "classifier_batch_size": 8,
        "classifier_bfloat16": False,
        "synthetic_probability": 0.25,
        "full_probability_at": 1,
        "backbone": "<lambda>, not ours",
    }
    assert results["settings"] == expected
    notes = " ".join(results["notes"])
    assert "precision of 0.80" in notes and "below the target of 0.90" in notes
    assert all(
        f"Class {name} is short of its quota: 2 of 4 accepted, from 6 candidates" in notes
        for name in CLASSES
    )
    assert "variations of their sources (strength 0.4)" in notes
    told = f"made from, or after, {sources['labelled']} of the 18 labelled patches."
    assert told in notes
    assert "With 12 test groups (24 patches), 3 seeds and 1 draw" in notes
    assert "cannot tell what another draw would give" in notes
    assert "own group" not in notes, "the labelled patches are in groups of two"

    page = report.read_text(encoding="utf-8")
    word, sentence = results["verdict"].split(": ", 1)
    assert (
        f"<strong>{word}</strong>" in page and escape(sentence[0].upper() + sentence[1:]) in page
    )
    assert results["verdict"] in capsys.readouterr().out
    assert "secret" not in page and "secret" not in (tmp_path / "results.json").read_text(), (
        "paths of the user stay private"
    )
    assert all(name in page for name in CLASSES) and "near copy" in page
    assert "Wrong without synthetic patches, right with them: " in page
    assert "made from this labelled patch" in page


def test_gallery_shows_accepted_over_their_range_and_every_reason(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("monai_histodiff.bundle.pictures.TILES", 2)
    tiles = gallery(candidates, parts[1], size=24)
    for k, name in enumerate(CLASSES):
        own = [t for t in tiles if t.label == name]
        assert [t.confidence for t in own if not t.reason] == pytest.approx([0.9, 0.8])
        assert 1 <= sum(bool(t.reason) for t in own) <= 2
        for tile in own:
            row = candidates.seed.tolist().index(tile.seed)
            assert (
                np.array_equal(tile.image, candidates.images[row].permute(1, 2, 0).numpy())
                and int(candidates.labels[row]) == k
            )
            assert tile.nearest is not None and tile.nearest.shape == (24, 24, 3)
            centre = (
                parts[1][int(candidates.nearest[row])]["image"][:, 4:28, 4:28]
                .permute(1, 2, 0)
                .numpy()
            )
            assert np.array_equal(tile.nearest, centre)
    varied = Candidates(**{**candidates.__dict__, "origin": candidates.labels * 2 + 1})
    for tile in gallery(varied, parts[1], size=24):
        centre = (
            parts[1][2 * CLASSES.index(tile.label) + 1]["image"][:, 4:28, 4:28]
            .permute(1, 2, 0)
            .numpy()
        )
        assert tile.nearest is None and np.array_equal(tile.origin, centre), (
            "a variation is shown beside what it is made from"
        )


def test_sources_are_told_by_their_kind(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates
) -> None:
    """Of the known patches the first are labelled: here three, then two, then all."""
    origin = torch.arange(len(candidates.labels)) % 5
    varied = Candidates(**{**candidates.__dict__, "origin": origin})
    counts = {name: varied.counts(varied.labels == k) for k, name in enumerate(CLASSES)}
    selection = {**varied.counts(varied.labels >= 0), "per_class": counts}
    for labelled in (3, 2, 5):
        found = by_kind(selection, varied, labelled)
        kept = set(origin[varied.accepted].tolist())
        few = len({row for row in kept if row < labelled})
        assert found["sources"] == {"labelled": few, "unlabelled": len(kept) - few}
        for name, count in found["per_class"].items():
            assert sum(count["sources"].values()) == counts[name]["sources"]
            assert count["candidates"] == counts[name]["candidates"]
        tiles = gallery(varied, parts[1], size=24, labelled=labelled)
        rows = {int(seed): int(row) for seed, row in zip(varied.seed, origin, strict=True)}
        assert {t.source for t in tiles} <= {"labelled", "unlabelled"}
        assert all((t.source == "labelled") == (rows[t.seed] < labelled) for t in tiles)
    assert by_kind(selection, candidates, 3) == selection, "patches from noise have no source"


def test_answers_that_changed_are_those_of_the_mean_of_the_seeds(
    parts: tuple[PatchSet, PatchSet, PatchSet],
    candidates: Candidates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("monai_histodiff.bundle.pictures.MOST", 1)
    run = evaluation(parts, candidates, arms=["C", "G"], seeds=[0, 1])
    truth = run.test.labels.numpy()
    classes = len(CLASSES)

    def probabilities(right: dict[int, float]) -> np.ndarray:
        """The right class has what is given, or 0.9; the next class has the rest."""
        made = np.zeros((len(truth), classes))
        for i, label in enumerate(truth):
            made[i, label] = right.get(i, 0.9)
            made[i, (label + 1) % classes] = 1 - made[i, label]
        return made

    before = [probabilities({0: 0.3, 1: 0.1, 2: 0.2}), probabilities({0: 0.3, 1: 0.3, 2: 0.2})]
    after = [probabilities({2: 0.4, 3: 0.2}), probabilities({2: 0.4, 3: 0.7})]
    run.probabilities = {"C": before, "G": after}
    found = answers(run)
    (right, shown), (lost, gone) = found["right"], found["lost"]
    assert (right, lost) == (2, 1), "patch 2 stays wrong; 3 is wrong in the mean of its seeds"
    wrong = CLASSES[(truth[1] + 1) % classes]
    assert len(shown) == 1 and shown[0].before == (wrong, pytest.approx(0.2))
    assert shown[0].after == (CLASSES[truth[1]], 0.9) and shown[0].label == CLASSES[truth[1]]
    assert gone[0].after == (CLASSES[(truth[3] + 1) % classes], pytest.approx(0.45))
    picture = run.test[1]["image"]
    edge = (picture.shape[1] - run.material.size) // 2
    side = slice(edge, edge + run.material.size)
    assert np.array_equal(shown[0].image, picture[:, side, side].permute(1, 2, 0).numpy())
    run.probabilities = {"C": before}
    assert answers(run) == {}


def test_the_generator_is_measured_where_there_are_features(
    parts: tuple[PatchSet, PatchSet, PatchSet], candidates: Candidates, tmp_path: Path
) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps(OUTCOME))
    RunFolder(tmp_path).split.write(parts[1], parts[1], parts[2])
    run = evaluation(
        parts,
        Candidates(**{**candidates.__dict__, "reasons": ["accepted"] * 18}),
        arms=["C"],
        seeds=[0],
        features=colours,
    )
    run_and_report(run, parts[0], "patches.zip", tmp_path, generator_metrics=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert (
        set(results["generator"]) == set(CLASSES)
        and results["generator"]["pink"]["numbers"]["accepted"] == 6
    )
    assert results["verdict"] == "Not tested: arm G was not run."
