"""The verdict on pictures of any origin, at toy size: what the page says of each set is true."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, DrawPatches, WritePatchSet
from monai.bundle import ConfigParser, run
from monai.transforms import Compose, Identityd, ScaleIntensityRanged
from PIL import Image, ImageFilter

from monai_histodiff import (
    ClassifierTraining,
    LatentDiffusion,
    PatchClassifier,
    PatchSet,
    SyntheticBank,
)
from monai_histodiff.bundle import VerdictFolder, judge_and_report, open_sets
from monai_histodiff.bundle.verdict import possible_arms
from monai_histodiff.bundle.verdict_rules import beyond, chance, is_far, lost_classes, misfits
from monai_histodiff.bundle.verdict_words import headline, reasons, warnings, withheld
from monai_histodiff.commands.judge import judge as judge_anew
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.evaluation.experiment import Recipe
from monai_histodiff.selection import Judge, fit_critic
from monai_histodiff.utils.files import write_json

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
NEXT = dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True))


@pytest.fixture(autouse=True)
def no_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """No diffusion model may be loaded."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a generator is loaded")

    for name in ("__init__", "from_bundle", "few_steps_from_bundle"):
        monkeypatch.setattr(LatentDiffusion, name, refuse)


def recipe() -> tuple[Recipe, ClassifierTraining]:
    scale = ScaleIntensityRanged("image", 0, 255, 0.0, 1.0)
    training = ClassifierTraining(
        network=lambda num_classes: PatchClassifier(num_classes, width=8), steps=25, batch_size=8
    )
    few = ClassifierTraining(network=training.network, steps=3, batch_size=4)
    return (
        Recipe(training=few, crop=Identityd("image"), classical=Compose([scale]), plain=scale),
        training,
    )


def features(patches: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(patches.float() / 255, 3).flatten(1)


@pytest.fixture(scope="module")
def real(write_patch_set: WritePatchSet, tmp_path_factory: pytest.TempPathFactory) -> PatchSet:
    base = tmp_path_factory.mktemp("real")
    parts = [
        write_patch_set(base / split, per_class=9, group_size=1, split=split, seed=seed)
        for seed, split in enumerate(("train", "test"))
    ]
    return PatchSet.open(parts)


@pytest.fixture(scope="module")
def judge(real: PatchSet) -> Judge:
    train, (arms, training) = real.select("train"), recipe()
    critic = fit_critic(train, training, Compose([arms.classical]), 32, 3, 0.8)
    return Judge(critic, train, train, real.select("test"), 32, features)


def write(folder: Path, images: Any, labels: Any, **columns: str) -> Path:
    items = [
        (PatchRecord(f"{label}/{i}.png", label, "", f"s{i}", columns), image)
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return write_patches(folder, items)


def told(
    judge: Judge, real: PatchSet, out: Path, *folders: Path, **options: Any
) -> tuple[dict[str, Any], str]:
    """Results and page of a verdict."""
    folder = VerdictFolder(out)
    folder.lock()
    sets = open_sets(str(folders[0]), str(folders[1]) if folders[1:] else "", real, 32)
    judge_and_report(
        folder,
        judge,
        sets,
        recipe()[0],
        real,
        "real.zip",
        options.get("arms", ["C", "F", "G", "K"]),
        [0],
        {"labels_per_class": "all", "draw": 0},
        options.get("found", ()),
    )
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Leaks cannot be seen from outside" in page
    results = json.loads((out / "results.json").read_text())
    again = json.loads(write_json(out / "again.json", judge_anew(out)).read_text())
    assert again.pop("judged_from") == "predictions" and again.pop("judged_by")
    assert again == results, "judged anew by the same version it is the same to the bit"
    return results, page


def new_pictures(draw: DrawPatches, seed: int = 70) -> tuple[list[np.ndarray], list[str]]:
    images = [image for k in range(3) for image in draw(k, 8, seed=seed)]
    return images, [name for name in CLASSES for _ in range(8)]


def test_copies_are_called_copies_and_nothing_is_kept(
    judge: Judge, real: PatchSet, tmp_path: Path
) -> None:
    train = real.select("train")
    images = [train[i]["image"].permute(1, 2, 0).numpy() for i in range(len(train))]
    given = write(tmp_path / "set", images, [r.label for r in train.records])
    results, page = told(judge, real, tmp_path / "out", given)
    assert results["selection"]["accepted"] == 0 and list(results["arms"]) == ["C"]
    assert results["selection"]["reasons"] == {"near copy": 27}
    assert results["claim"] == "inconclusive"
    assert "27 of 27 pictures are copies of real training patches" in results["verdict"]
    assert "Nothing to keep" in page and "Memorised." in page and "arms F, G, K" in page
    assert any("--refuse_copies False" in n for n in results["notes"]), "of variations"
    assert not (tmp_path / "out" / "accepted").exists()
    assert len((tmp_path / "out" / "accepted.csv").read_text().splitlines()) == 1


def test_wrong_labels_are_refused_by_the_critic(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    images, right = new_pictures(draw_patches)
    given = write(tmp_path / "set", images, [NEXT[name] for name in right])
    results, page = told(judge, real, tmp_path / "out", given)
    assert results["selection"]["accepted"] == 0
    assert results["selection"]["reasons"]["low confidence"] >= 20
    assert "the critic gives their label to 0% of the pictures" in results["verdict"]
    assert "Memorised." not in page and "Labels that do not fit." in page


def test_good_pictures_are_kept_and_listed(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    images, labels = new_pictures(draw_patches)
    given = write(tmp_path / "set", images, labels, seed="3", generator="a painter", confidence="")
    results, page = told(judge, real, tmp_path / "out", given, found=["9 patches are blank"])
    kept = results["selection"]["accepted"]
    assert kept >= 15 and list(results["arms"]) == ["C", "F", "G", "K"]
    assert set(results["claims"]) == {"G-C", "G-F", "G-K"}
    assert results["warnings"] == [["Look at this first:", "9 patches are blank."]]
    assert "a painter" in page and "<strong>Look at this first:</strong> 9 patches" in page
    accepted = PatchSet.open(tmp_path / "out" / "accepted")
    assert len(accepted) == kept and set(accepted.classes) <= set(CLASSES)
    shutil.copy(tmp_path / "out" / "accepted.csv", given / "manifest.csv")
    again = PatchSet.open(given)
    assert [r.path for r in again.records] == [r.path for r in accepted.records]
    assert torch.equal(again.images(), accepted.images())
    bank = SyntheticBank.load(tmp_path / "out" / "bank")
    assert len(bank) == kept and bank.classes == CLASSES and bank.provenance["pictures"] == "set"
    extra = again.records[0].extra
    assert extra["reason"] == "accepted" and extra["given_confidence"] == ""
    assert float(extra["confidence"]) >= judge.threshold - 1e-4
    with open(tmp_path / "out" / "judged.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 24 and sum(row["reason"] == "accepted" for row in rows) == kept
    whole = results["foreign"]["sets"][0]["whole"]["blue"]
    assert whole["numbers"]["accepted"] == 8 and whole["samples"]["kid"] is not None


def test_labels_of_one_class_are_not_shuffled_and_the_page_says_what_was_kept(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    images, right = new_pictures(draw_patches)
    swapped = {"blue": "blue", "pink": "violet", "violet": "pink"}
    given = write(tmp_path / "set", images, [swapped[name] for name in right])
    results, page = told(judge, real, tmp_path / "out", given, arms=["C", "F", "G", "S"])
    kept = results["selection"]["per_class"]
    assert [kept[name]["accepted"] > 0 for name in CLASSES] == [True, False, False]
    assert "S" not in results["arms"] and "G-S" not in results["claims"]
    (note,) = [note for note in results["notes"] if note.startswith("Arm S was not trained")]
    assert "of one class: labels shuffled among them are the same labels" in note
    assert "Classes without accepted pictures." in page and "0 of 8 pink" in page
    rows = results["foreign"]["sets"][0]["classes"]
    assert rows["pink"]["called"]["violet"] >= 6 and rows["pink"]["pictures"] == 8
    assert "Given labels, and what the critic calls these pictures" in page
    assert "no interval" in page and "– to –" not in page


def test_pictures_without_fine_detail_are_told_of(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    images, labels = new_pictures(draw_patches)
    soft = [np.array(Image.fromarray(a).filter(ImageFilter.GaussianBlur(1.5))) for a in images]
    given = write(tmp_path / "set", soft, labels)
    results, page = told(judge, real, tmp_path / "out", given, arms=["C"])
    assert results["foreign"]["sets"][0]["soft"] == 24 and "Soft." in page
    assert "24 of 24 pictures are softer than 99 in 100 of the real training patches" in page
    images[0] = np.pad(images[0], ((0, 8), (0, 0), (0, 0)), "reflect")
    good = write(tmp_path / "good", images, labels)
    results, page = told(judge, real, tmp_path / "out2", good, arms=["C"])
    assert "1 of 24 pictures of good is larger than 32 x 32: their centre is judged" in page
    assert results["foreign"]["sets"][0]["soft"] <= 4 and "Soft." not in page


def test_two_sets_stand_side_by_side(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    first = write(tmp_path / "one", *new_pictures(draw_patches))
    second = write(tmp_path / "two", *new_pictures(draw_patches, 90))
    results, page = told(judge, real, tmp_path / "out", first, second, arms=["C", "G"])
    assert list(results["arms"]) == ["C", "G", "G2"]
    assert set(results["claims"]) == {"G-C", "G2-C", "G-G2"}
    assert [part["name"] for part in results["foreign"]["sets"]] == ["one", "two"]
    assert "The sets side by side" in page and "Accepted of two" in page
    assert PatchSet.open(tmp_path / "out" / "second" / "accepted").classes
    shutil.copytree(first, tmp_path / "again")
    with pytest.raises(ValueError, match="second_dir must hold other pictures than synthetic_dir"):
        open_sets(str(first), str(tmp_path / "again"), real, 32)
    with pytest.raises(ValueError, match="second_dir must be another set"):
        open_sets(str(first), str(first), real, 32)


def test_copies_of_test_patches_void_the_claim(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    test = real.select("test")
    images, labels = new_pictures(draw_patches)
    leaked = [test[i]["image"].permute(1, 2, 0).numpy() for i in range(27)]
    names = [record.label for record in test.records]
    given = write(tmp_path / "set", [*images[::3], *leaked], [*labels[::3], *names])
    results, page = told(judge, real, tmp_path / "out", given, arms=["C", "G"])
    assert results["claim"] == "inconclusive" and "copies of test patches" in results["verdict"]
    assert "Leak." in page and results["selection"]["accepted"] > 0
    assert results["verdict"] in results["notes"]
    assert results["claims"]["G-C"]["withheld"] == results["verdict"], (
        "who reads no headline finds it there"
    )
    assert {row["claim"] for row in results["claims"].values()} == {"inconclusive"}


@pytest.mark.parametrize(
    ("pictures", "leaked", "word", "sentence"),
    [
        (50, 50, "Leak", "Not tested: 50 of 50 pictures are copies of test patches. Their gen"),
        (50, 20, "Leak", "Not tested: 20 of 50 pictures are copies of test patches. Their gen"),
        (2, 2, "Nothing to keep", "keeping: 2 of 2 pictures are copies of test patches."),
        (50, 0, "Nothing to keep", "keeping: the critic gives their label to 96% of the pict"),
    ],
)
def test_of_a_leak_that_leaves_nothing_the_leak_is_told(
    pictures: int, leaked: int, word: str, sentence: str
) -> None:
    told = {"pictures": pictures, "accepted": 0, "copies": 0, "test_copies": leaked, "unlike": 0}
    found = headline({**told, "usual": 0.02, "taught": 0.96, "expected": 0.97, "twins": 0}, "No.")
    assert found["word"] == word and found["claim"] == "inconclusive"
    assert sentence in found["verdict"]


@pytest.mark.parametrize(("exact", "leak"), [(0, False), (1, False), (2, True), (20, True)])
def test_two_exact_copies_of_test_patches_are_a_leak(exact: int, leak: bool) -> None:
    """20 of 400 are no more than chance gives by the wider rule, which real patches meet, too."""
    told = {"pictures": 400, "accepted": 90, "copies": 0, "test_copies": 20, "usual": 0.02}
    told |= {"exact_test_copies": exact, "unlike": 0, "classes": {}, "taught": 0.9}
    found = headline({**told, "expected": 0.9, "twins": 0}, "No.")
    assert (found.get("word") == "Leak") == leak
    claims = withheld({"G-C": {"claim": "helps"}}, [{**told, "expected": 0.9, "twins": 0}])
    assert (claims["G-C"]["claim"] == "inconclusive") == leak


def test_copies_that_were_not_refused_are_no_reason_that_nothing_is_kept() -> None:
    told = {"pictures": 50, "accepted": 0, "copies": 50, "test_copies": 0, "unlike": 0}
    told |= {"usual": 0.02, "taught": 0.1, "expected": 0.97, "twins": 0}
    assert "50 of 50 pictures are copies of real" in headline(told, "No.")["verdict"]
    assert (
        "the critic gives their label to 10%"
        in (headline({**told, "refused_copies": 0}, "No.")["verdict"])
    )


def test_a_leak_withholds_the_claims_of_the_arms_that_it_is_in() -> None:
    def part(test_copies: int) -> Any:
        told = {"pictures": 90, "copies": 0, "test_copies": test_copies, "accepted": 50}
        return {**told, "usual": 0.01, "taught": 1, "expected": 1, "unlike": 0}

    names = ("G-C", "G-F", "G2-C", "G-G2", "P-C", "P-E", "R-C", "F-C", "G2-K")
    results = {"claims": {n: {"claim": "helps", "p": 0.0} for n in names}, "shortfalls": ["a"]}
    for sets, void in (
        ((part(0), part(1)), ()),
        ((part(30), part(0)), ("G-C", "G-F", "G-G2", "P-C", "P-E", "F-C")),
        ((part(0), part(30)), ("G2-C", "G-G2", "G2-K")),
    ):
        found = withheld(results["claims"], sets)
        claimed = {n: row["claim"] for n, row in found.items()}
        assert claimed == {n: "inconclusive" if n in void else "helps" for n in names}
        assert {n for n, row in found.items() if "withheld" in row} == {*void}
        assert len(reasons(found)) == bool(void)
    assert results["claims"]["G-C"]["claim"] == "helps", "the results are not changed in place"


def of_labelled(pictures: int, *counts: int) -> dict[str, dict[str, int]]:
    """One class of pictures, and how many labelled patches it has and are told right."""
    names = "pictures", "accepted", "labelled", "right"
    return {"a": dict(zip(names, (pictures, 9, *counts), strict=True))}


def test_pictures_that_are_no_tissue_are_told_of() -> None:
    def told(made: float, unlike: int = 0, taught: float = 1.0) -> list[tuple[str, str]]:
        whole = {"samples": {"precision": made}, "floor": {"precision": 0.8}}
        counts = dict.fromkeys(("copies", "test_copies", "twins"), 0)
        shares = {"usual": 0.01, "usual_unlike": 0.01, "taught": taught, "expected": 0.9}
        part = {"name": "theirs", "pictures": 90, "unlike": unlike, **counts, **shares}
        part |= {"soft": 0, "usual_soft": 0.01, "accepted": 0, "classes": of_labelled(90, 30, 27)}
        part["whole"] = {"a": whole, "b": {"samples": None, "floor": None}}
        return warnings(part, made < 0.2)

    assert told(0.4) == [] == told(0.4, 5)
    ((word, sentence),) = told(0.1)
    assert word == "Unlike tissue (theirs)."
    assert "10% of the pictures lie among real" in sentence and "80% of real training" in sentence
    ((word, sentence),) = told(0.4, 12)
    assert word == "Unlike tissue." and "12 of 90 pictures are unlike all real" in sentence
    assert told(0.1, 12)[0][1] == sentence, "the plainer of two reasons"
    ((word, _),) = told(0.1, taught=0.1)
    assert word.startswith("Labels that do not fit"), "they may be tissue of another class"


def test_noise_is_not_worth_keeping(judge: Judge, real: PatchSet, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    given = write(tmp_path / "set", images, [name for name in CLASSES for _ in range(4)])
    results, page = told(judge, real, tmp_path / "out", given)
    assert results["selection"]["reasons"] == {"unlike real tissue": 12}
    assert results["verdict"] == (
        "None of the 12 pictures is worth keeping: 12 of 12 pictures are unlike all real training "
        "patches."
    )
    assert "Unlike tissue." in page and "unlike real tissue" in page


def test_labels_that_do_not_fit_are_the_first_that_is_told() -> None:
    counts = {"pictures": 90, "accepted": 20, "copies": 0, "test_copies": 0, "unlike": 0}
    told = {**counts, "usual": 0.01, "taught": 0.25, "expected": 0.75}
    told["classes"] = of_labelled(90, 60, 45)
    found = headline(told, "The comparison says no.")
    assert set(found) == {"verdict"}, "the claim stays the comparison's"
    assert found["verdict"] == (
        "The labels do not fit: the critic gives their label to 25% of the pictures, and to 75% "
        "of real patches of the same classes that it has not seen. Of the 20 of 90 pictures "
        "that are kept: The comparison says no."
    )
    assert headline({**told, "taught": 0.72}, "The comparison says no.") == {}


def judged_labels(
    rng: np.random.Generator, pictures: tuple[int, ...], labelled: int, rates: tuple[float, ...]
) -> dict[str, Any]:
    """Counts of a set whose labels are as those of the labelled patches of each class."""
    classes = {
        str(k): {"pictures": m, "labelled": labelled, "right": int(rng.binomial(labelled, q))}
        for k, (m, q) in enumerate(zip(pictures, rates, strict=True))
    }
    right, total = sum(map(rng.binomial, pictures, rates)), sum(pictures)
    return {"pictures": total, "taught": right / total, "classes": classes}


@pytest.mark.parametrize(
    ("pictures", "labelled", "rates"),
    [
        ((134, 133, 133), 5, (0.9, 0.9, 0.9)),
        ((134, 133, 133), 30, (0.95, 0.95, 0.95)),
        ((0, 0, 400), 5, (1.0, 1.0, 0.5)),
        ((200, 200), 8, (0.95, 0.6)),
    ],
)
def test_labels_as_good_as_those_of_few_labelled_patches_fit(
    pictures: tuple[int, ...], labelled: int, rates: tuple[float, ...]
) -> None:
    """Up to version 0.26 a third of such sets did not, as if the share of the few were known."""
    rng = np.random.default_rng(0)
    alarms = sum(misfits(judged_labels(rng, pictures, labelled, rates)) for _ in range(1000))
    assert alarms <= 4, "1 in 1000 is what a rule may say"


def test_labels_at_random_do_not_fit_though_few_patches_are_labelled() -> None:
    rights = {"a": 5, "b": 5, "c": 4}
    classes = {k: {"pictures": 50, "labelled": 5, "right": n} for k, n in rights.items()}
    told = {"pictures": 150, "taught": 0.33, "classes": classes}
    assert misfits(told) and not misfits({**told, "taught": 0.7})
    for row in classes.values():
        del row["labelled"]
    assert not misfits(told), "an earlier version did not tell"
    assert not misfits({"pictures": 150, "taught": 0.33})


def overall(precision: float, recall: float, compared: int = 90) -> dict[str, Any]:
    """Counts of a set whose real patches have a precision of 0.8 and a recall of 0.9."""
    real = {"precision": 0.8, "recall": 0.9, "kid": 21.46}
    made = {"precision": precision, "recall": recall, "kid": 1716.18}
    counts = {"pictures": compared, "accepted": 20, "copies": 0, "test_copies": 0, "unlike": 0}
    told = {**counts, "usual": 0.01, "taught": 0.7, "expected": 0.75, "twins": 0}
    told["classes"] = of_labelled(compared, 60, 45)
    return {**told, "overall": {"samples": made, "floor": real, "compared": compared}}


def test_pictures_far_from_real_ones_are_called_so_first() -> None:
    found = headline(overall(0.01, 0.0), "The comparison says no.")
    assert set(found) == {"verdict"} and found["verdict"] == (
        "They do not look like your tissue: in the features of the encoder 1% of the pictures lie "
        "among real test patches, and 80% of as many real training patches do (KID, where 0 is "
        "equal: 1,716, of real ones 21.46). Of the 20 of 90 pictures that are kept: The "
        "comparison says no."
    )
    wrong = headline({**overall(0.01, 0.0), "taught": 0.1}, "No.")["verdict"]
    assert "your tissue: " in wrong and " The labels do not fit: the critic" in wrong
    nothing = headline({**overall(0.01, 0.0), "accepted": 0}, "No.")["verdict"]
    assert nothing.startswith("None of the 90 pictures is worth keeping: in the features of the")


@pytest.mark.parametrize(
    ("told", "far"),
    [
        (overall(0.01, 0.0), True),
        (overall(0.19, 0.2), True),
        (overall(0.8, 0.9), False),  # real patches
        (overall(0.42, 0.26), False),  # what our own generator makes of EBHI
        (overall(0.1, 0.5), False),  # odd ones among good ones
        (overall(0.8, 0.0), False),  # real, but all alike: told elsewhere
        (overall(0.0, 0.0, 12), False),  # few pictures: it may be chance
        (overall(0.0, 0.0, 16), True),
        ({**overall(0.01, 0.0), "twins": 45}, False),  # one odd picture, again and again
        ({**overall(0.01, 0.0), "overall": {"samples": None, "floor": None}}, False),
        ({k: v for k, v in overall(0.01, 0.0).items() if k != "overall"}, False),  # older results
    ],
)
def test_only_what_is_far_beyond_chance_is_called_unlike(told: dict[str, Any], far: bool) -> None:
    assert is_far(told) == far
    assert ("your tissue" in headline(told, "No.").get("verdict", "")) == far


def test_classes_of_which_nothing_is_kept_are_named() -> None:
    def told(*rows: tuple[int, int]) -> str:
        names = ("a", "b", "c")
        classes = {
            n: {"pictures": p, "accepted": a} for n, (p, a) in zip(names, rows, strict=True)
        }
        return lost_classes({"accepted": sum(a for _, a in rows), "classes": classes})

    assert told((40, 22), (40, 2), (0, 0)) == "" == told((40, 0), (40, 0), (40, 0))
    assert told((40, 0), (40, 22), (40, 1)) == (
        "Of the 23 pictures that are kept 22 are b. Of others hardly any is kept (0 of 40 a, 1 of "
        "40 c): what is found here says nothing of them."
    )


def test_more_than_chance_is_told_by_the_binomial() -> None:
    exact = sum(math.comb(90, k) * 0.03**k * 0.97 ** (90 - k) for k in range(5, 91))
    assert chance(5, 90, 90, 0.03) == pytest.approx(exact, rel=1e-9) and 0.13 < exact < 0.15
    assert chance(0, 100_000, 100_000, 0.3) == pytest.approx(1, abs=1e-6), "no overflow"
    assert not beyond(0, 50, 0.03) and not beyond(5, 90, 0.03) and beyond(12, 90, 0.03)


def test_arms_that_would_be_arm_c_are_left_out(
    judge: Judge, real: PatchSet, tmp_path: Path
) -> None:
    train = real.select("train")
    nothing = judge(train, "copies")
    assert possible_arms(["C", "F", "G", "E", "K"], [nothing]) == ["C", "E"]
    assert possible_arms(["C", "G"], [nothing, nothing]) == ["C"]


@pytest.mark.parametrize("left", ["report.html", "results.json"])
def test_a_folder_is_not_written_over(left: str, tmp_path: Path) -> None:
    folder = VerdictFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "outcome.json").write_text("{}")
    with pytest.raises(FileExistsError, match="must not be that of a training run"):
        folder.lock(True)
    (tmp_path / "run" / "outcome.json").unlink()
    for name in (left, "accepted.csv"):
        (tmp_path / "run" / name).write_text("")
    (tmp_path / "run" / "run.json").write_text('{"stage": "verdict"}')
    with pytest.raises(FileExistsError, match="output_dir must be new"):
        folder.lock()
    draft = tmp_path / "run" / f".accepted.{'0' * 32}.part"
    draft.mkdir()
    folder.lock(True)
    folder.release()
    assert not (tmp_path / "run" / left).exists() and not draft.exists()


def test_the_recipe_is_that_of_the_guidance_bundle() -> None:
    """So that a verdict on our own patches and one on others' are one verdict."""

    def parts(*names: str) -> dict[str, Any]:
        parser = ConfigParser()
        parser.read_config([str(BUNDLES / name) for name in names])
        parser.resolve_macro_and_relative_ids()
        return dict(parser.get())

    ours = parts("verdict.json")
    guidance = "histopathology_guidance/configs"
    evaluate, train = parts(f"{guidance}/evaluate.yaml"), parts(f"{guidance}/train.yaml")
    for name in ("classical", "plain", "crop", "classifier", "training"):
        assert ours[name] == evaluate[name], name
    for name in ("augmentation", "critic_views", "critic_folds", "target_precision", "critic"):
        assert ours[name] == train[name], name


def test_the_bundle_runs_with_an_encoder_alone(
    write_patch_set: WritePatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    parts = [
        write_patch_set(tmp_path / s, per_class=6, group_size=1, side=96, split=s, seed=i)
        for i, s in enumerate(("train", "test"))
    ]
    real = PatchSet.open(parts).write(tmp_path / "real")
    ldm = tmp_path / "bundles" / "histopathology_ldm"
    (ldm / "models").mkdir(parents=True)
    shutil.copy(BUNDLES / "histopathology_ldm" / "models" / "encoder.pt", ldm / "models")
    (ldm / "configs").mkdir()  # whose metadata tell the scale
    shutil.copy(BUNDLES / "histopathology_ldm" / "configs" / "metadata.json", ldm / "configs")
    images = [image for k in range(3) for image in draw_patches(k, 3, 96, seed=70)]
    given = write(tmp_path / "set", images, [name for name in CLASSES for _ in range(3)])
    run(
        config_file=str(BUNDLES / "verdict.json"),
        bundle_root=str(tmp_path / "bundles"),
        dataset_dir=str(real),
        synthetic_dir=str(given),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        patch_size=96,
        critic_views=2,
        critic_folds=2,
        classifier_steps=1,
        batch_size=4,
        seeds=[0],
        arms=["C", "G"],
        tensorboard=True,
    )
    assert len([*(tmp_path / "out" / "tensorboard").iterdir()]) == 1
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["foreign"]["sets"][0]["pictures"] == 9
    assert (tmp_path / "out" / "report.html").is_file()
