from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, DrawPatches, WritePatchSet
from PIL import Image, ImageFilter
from torch import Tensor, nn

from monai_histodiff import PatchCritic, PatchSet
from monai_histodiff.data.patch_files import PatchRecord, write_patches
from monai_histodiff.data.pixels import resampled
from monai_histodiff.selection.foreign import Judge, Judged
from monai_histodiff.selection.foreign_set import check_pictures, open_synthetic
from monai_histodiff.selection.reasons import Reason

COLOURS = torch.tensor([[90, 110, 200], [230, 150, 190], [130, 60, 150]]) / 255.0


class ByColour(nn.Module):
    """Knows the three classes of ``draw_patches`` by their mean colour; its one weight only tells
    the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(40.0))

    def forward(self, x: Tensor) -> Tensor:
        return -self.scale * torch.cdist(x.mean((2, 3)), COLOURS)


def colours(patches: Tensor) -> Tensor:
    """Features: mean and deviation of each colour."""
    x = patches.float() / 255
    return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


@pytest.fixture(scope="module")
def real(write_patch_set: WritePatchSet, tmp_path_factory: pytest.TempPathFactory) -> PatchSet:
    base = tmp_path_factory.mktemp("real")
    parts = [
        write_patch_set(base / split, per_class=8, group_size=1, split=split, seed=seed)
        for seed, split in enumerate(("train", "test"))
    ]
    return PatchSet.open(parts)


@pytest.fixture(scope="module")
def judge(real: PatchSet) -> Judge:
    train, test = real.select("train"), real.select("test")
    critic = PatchCritic([ByColour(), ByColour()], 3).eval()
    critic.folds = torch.arange(len(train)) % 2
    critic.threshold.fill_(0.8)
    return Judge(critic, train, train, test, 32, colours)


def test_the_critic_must_be_fitted_on_the_labelled_patches(judge: Judge, real: PatchSet) -> None:
    with pytest.raises(ValueError, match="labelled must be the 24 patches .* got 20: give these"):
        Judge(judge.critic, judge.train[:20], judge.train, judge.test, 32, colours)
    with pytest.raises(ValueError, match="classes must be as many as the critic's, 2, got 3"):
        Judge(PatchCritic([ByColour()], 2), judge.train, judge.train, judge.test, 32, colours)


def made(
    folder: Path,
    images: Sequence[np.ndarray],
    labels: Sequence[str],
    columns: Sequence[dict[str, str]] | None = None,
) -> Path:
    rows = columns or [{}] * len(images)
    return write_patches(
        folder,
        [
            (PatchRecord(f"{i}.png", label, "", f"s{i}", row), image)
            for i, (image, label, row) in enumerate(zip(images, labels, rows, strict=True))
        ],
    )


def judged(judge: Judge, real: PatchSet, folder: Path, *given: Any, size: int = 32) -> Judged:
    return judge(open_synthetic(made(folder, *given), real, size), "set")


def arrays(patches: PatchSet) -> list[np.ndarray]:
    return [patches[i]["image"].permute(1, 2, 0).numpy() for i in range(len(patches))]


@pytest.mark.parametrize("said", ["nothing", "manifest", "option"])
def test_pictures_are_read_at_the_scale_of_the_real_set(
    real: PatchSet, tmp_path: Path, said: str
) -> None:
    fine = PatchSet.open([s.root for s in real._sources], um_per_px=0.5).at(1.0)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    row = {"um_per_px": "0.5"} if said == "manifest" else {}
    folder = made(tmp_path / "s", [image], [CLASSES[0]], [row])
    found = open_synthetic(folder, fine, 32, um_per_px=0.5 if said == "option" else None)
    wanted = resampled(torch.from_numpy(image).permute(2, 0, 1), (32, 32))
    assert torch.equal(found[0]["image"], wanted)
    assumed = [note for note in found.notes if "taken to be at 0.5 um per pixel, as the" in note]
    assert len(assumed) == (said == "nothing")
    coarse = open_synthetic(folder, fine, 32, um_per_px=1.0)
    assert coarse[0]["image"].shape[1] == (32 if said == "manifest" else 64)


def test_pictures_too_small_at_the_scale_name_what_was_assumed(
    real: PatchSet, tmp_path: Path
) -> None:
    fine = PatchSet.open([s.root for s in real._sources], um_per_px=0.5).at(1.0)
    folder = made(tmp_path / "s", [np.zeros((32, 32, 3), np.uint8)], [CLASSES[0]])
    with pytest.raises(
        ValueError,
        match=r"32 x 32 at 1 um.*smallest '0.png' \(16 x 16 of a file of 32 x 32\) \(1 of 1 "
        r"synthetic .*at 0.5 um .*synthetic_um",
    ):
        open_synthetic(folder, fine, 32)


@pytest.mark.parametrize(("side", "offered"), [(95, False), (96, True), (100, True)])
def test_no_patch_size_is_offered_that_is_refused(
    real: PatchSet, tmp_path: Path, side: int, offered: bool
) -> None:
    folder = made(tmp_path / "s", [np.zeros((side, side, 3), np.uint8)], [CLASSES[0]])
    remedy = f", or --patch_size {side}, or make" if offered else "if it is another, or make"
    with pytest.raises(ValueError, match=f"at least 128 x 128.*{remedy} them larger$"):
        open_synthetic(folder, real, 128)


def test_a_copy_of_a_training_patch_that_a_test_patch_is_like_is_no_leak(
    judge: Judge, real: PatchSet, tmp_path: Path
) -> None:
    train = real.select("train")
    rng = np.random.default_rng(0)
    alike = [
        (a + rng.integers(0, 9, a.shape)).clip(0, 255).astype(np.uint8) for a in arrays(train)
    ]
    labels = [r.label for r in train.records]
    near = PatchSet.open(made(tmp_path / "alike", alike, labels))
    strict = Judge(judge.critic, train, train, near, 32, colours)
    told = judged(strict, real, tmp_path / "train", arrays(train), labels).counts()
    assert bool(strict.tested(train).copy.any()), "they look alike"
    assert told["copies"] == len(train) and told["test_copies"] == 0
    told = judged(strict, real, tmp_path / "test", arrays(near), labels).counts()
    assert told["test_copies"] == len(near)


def test_exact_copies_are_refused_as_copies(judge: Judge, real: PatchSet, tmp_path: Path) -> None:
    train = real.select("train")
    found = judged(judge, real, tmp_path / "s", arrays(train), [r.label for r in train.records])
    told = found.counts()
    assert set(found.candidates.reasons) == {Reason.near_copy}
    assert told["copies"] == told["pictures"] == 24 and told["accepted"] == 0
    assert told["taught"] == 1 and told["expected"] == 1
    assert {n: (row["labelled"], row["right"]) for n, row in told["classes"].items()} == {
        name: (count, count) for name, count in train.counts().items()
    }
    assert {name: (row["pictures"], row["accepted"]) for name, row in told["classes"].items()} == {
        name: (count, 0) for name, count in train.counts().items()
    }
    assert found.nearest_names() == [r.path for r in train.records]


def test_copies_are_kept_where_that_is_asked_for(judge: Judge, real: PatchSet) -> None:
    train = real.select("train")
    test = real.select("test")
    allowed = Judge(judge.critic, train, train, test, 32, colours, refuse_copies=False)
    found = allowed(train, "set")
    assert Reason.near_copy not in found.candidates.reasons and found.counts()["copies"] == 24
    assert int(found.candidates.accepted.sum()) >= 18, "but for those that a test patch is like"


def test_copies_of_test_patches_are_a_leak(judge: Judge, real: PatchSet, tmp_path: Path) -> None:
    test = real.select("test")
    labels = [r.label for r in test.records]
    found = judged(judge, real, tmp_path / "s", arrays(test), labels)
    reasons = found.candidates.reasons
    assert set(reasons) <= {Reason.test_copy, Reason.near_copy}
    assert reasons.count(Reason.test_copy) >= 12 and found.counts()["test_copies"] == 24
    assert found.counts()["exact_test_copies"] == 24
    soft = [np.asarray(Image.fromarray(a).filter(ImageFilter.BoxBlur(9))) for a in arrays(test)]
    assert judged(judge, real, tmp_path / "soft", soft, labels).counts()["exact_test_copies"] == 0
    blank = [np.full_like(a, 250) for a in arrays(test)[:2]]
    both = PatchSet.open(made(tmp_path / "blank", blank, labels[:2]))
    strict = Judge(judge.critic, real.select("train"), both, both, 32, colours)
    assert not strict(both, "set").exact.any(), "they may be from the training part"
    rng = np.random.default_rng(0)
    glass = [np.clip(a + rng.normal(0, 3, a.shape), 0, 255).astype(np.uint8) for a in blank]
    unseen = PatchSet.open(made(tmp_path / "glass", glass, labels[:2]))
    strict = Judge(judge.critic, real.select("train"), real.select("train"), both, 32, colours)
    assert not strict(unseen, "set").exact.any(), "background of any slide is alike"


def test_new_pictures_are_judged_by_their_labels(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    images = [image for k in range(3) for image in draw_patches(k, 10, seed=77)]
    right = [name for name in CLASSES for _ in range(10)]
    found = judged(judge, real, tmp_path / "right", images, right)
    kept = found.counts()["accepted"]
    assert kept >= 22 and found.taught == 1, "some are copies, or unlike, by chance"
    counts = {"labelled": torch.tensor([8, 8, 8]), "right": torch.tensor([8, 8, 2])}
    assert replace(found, **counts).expected == pytest.approx(0.75)
    hard = judged(judge, real, tmp_path / "hard", images[20:], right[20:])
    assert replace(hard, **counts).expected == pytest.approx(0.25), "of the classes of the set"
    wrong = [CLASSES[(CLASSES.index(name) + 1) % 3] for name in right]
    for name, row in found.by_class().items():
        own = [i for i, label in enumerate(right) if label == name]
        told = [CLASSES[int(found.called[i])] for i in own]
        assert row["called"] == {other: told.count(other) for other in CLASSES}
        assert row["pictures"] == 10 and row["called"][name] >= 8
        assert row["accepted"] == int(found.candidates.accepted[own].sum())
    found = judged(judge, real, tmp_path / "wrong", images, wrong)
    assert found.counts()["accepted"] == 0 and found.taught == 0
    assert found.candidates.reasons.count(Reason.low_confidence) >= 22


def test_what_is_unlike_all_real_patches_is_refused(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    """Black, white and noise, which a critic that must choose can be sure of."""
    good = [image for k in range(3) for image in draw_patches(k, 4, seed=77)]
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    odd = [np.zeros_like(noise), np.full_like(noise, 255), noise]
    labels = [name for name in CLASSES for _ in range(4)] + ["violet", "pink", "violet"]
    found = judged(judge, real, tmp_path / "s", [*good, *odd], labels)
    assert found.unlike == 3 == found.counts()["unlike"] and found.usual_unlike <= 0.1
    assert found.candidates.reasons[-3:] == [Reason.unlike] * 3
    assert Reason.unlike not in found.candidates.reasons[:-3]
    confident = judge.critic.probabilities(torch.from_numpy(np.stack(odd)).permute(0, 3, 1, 2))
    assert float(confident.max()) > judge.threshold, "the critic alone would keep one"


def test_likeness_is_measured_to_so_many_patches_at_the_most(
    judge: Judge, real: PatchSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = real.select("train"), real.select("test")
    assert torch.equal(judge.tissue.real, colours(train.images(32)))
    monkeypatch.setattr("monai_histodiff.selection.foreign.REFERENCE", 10)
    few = [Judge(judge.critic, train, train, test, 32, colours).tissue.real for _ in range(2)]
    assert len(few[0]) == 10 and torch.equal(*few)


def test_what_comes_twice_is_kept_once(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    some = list(draw_patches(0, 12, seed=78))
    kept = judged(judge, real, tmp_path / "first", some, ["blue"] * 12).candidates.accepted
    one, other = (some[i] for i in kept.nonzero()[:2, 0].tolist())  # no copies by chance
    images = [one, np.rot90(one).copy(), other, one[:, ::-1].copy()]
    found = judged(judge, real, tmp_path / "s", images, ["blue"] * 4)
    assert found.twins == 2
    reasons = found.candidates.reasons
    assert sum(r is Reason.duplicate for r in reasons) == 2 and reasons[2] is Reason.accepted


def test_the_columns_of_a_manifest_are_read(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    columns = [
        {"seed": "7", "generator": "a", "confidence": "0.99"},
        {"seed": "", "generator": "b", "confidence": ""},
    ]
    images = list(draw_patches(1, 2, seed=79))
    found = judged(judge, real, tmp_path / "s", images, ["pink"] * 2, columns)
    assert found.candidates.seed.tolist() == [7, 1], "where none is told, the row"
    made_by = found.counts()["generators"]
    assert set(made_by) == {"a", "b"} and made_by["a"]["pictures"] == 1
    assert found.pictures_by_class() == {"blue": 0, "pink": 2, "violet": 0}
    columns[1]["generator"] = ""
    found = judged(judge, real, tmp_path / "some", images, ["pink"] * 2, columns)
    assert set(found.counts()["generators"]) == {"a", "not named"}


def test_variations_are_judged_by_a_member_that_has_not_seen_their_source(
    judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    train = real.select("train")

    class Sure(nn.Module):
        """Gives one class always."""

        def __init__(self, label: int) -> None:
            super().__init__()
            self.answer = nn.Parameter(20.0 * torch.eye(3)[label])

        def forward(self, x: Tensor) -> Tensor:
            return self.answer.expand(len(x), 3)

    critic = PatchCritic([Sure(0), Sure(1)], 3).eval()
    critic.folds = torch.arange(len(train)) % 2
    own = Judge(critic, train, train, real.select("test"), 32, colours)
    columns = [{"origin": train.records[i].path} for i in (2, 3)] + [{"origin": ""}]
    images = list(draw_patches(0, 3, seed=80))
    found = judged(own, real, tmp_path / "s", images, ["blue"] * 3, columns)
    assert found.candidates.confidence.tolist() == pytest.approx([1, 0, 0.5], abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "columns", "size", "message"),
    [
        (["blue", "pinc"], {}, 32, r"got 'pinc': did you mean 'pink'\?"),
        (["blue", "lung"], {}, 32, "must be classes of the real set, blue, pink, violet, got"),
        (["blue", ""], {}, 32, "every picture of synthetic_dir must have a label, got 1 of 2"),
        (["blue", "pink"], {"seed": "-1"}, 32, "a seed in synthetic_dir must be a whole number"),
        (["blue", "pink"], {"seed": "1.5"}, 32, "got '1.5' for '0.png'"),
        (["blue", "pink"], {}, 64, "must be at least 64 x 64, got 2 of 2 that are smaller"),
        (["blue", "pink"], {"confidence": "1.7"}, 32, r"must lie in \[0, 1\], .*, got '1.7' for"),
        (["blue", "pink"], {"confidence": "high"}, 32, "got 'high' for '0.png': correct it, or"),
        (
            ["blue", "pink"],
            {"origin": "x.jpg"},
            32,
            "got 'x.jpg' for '0.png', which is none: corr",
        ),
        (["blue", "pink"], {"origin": "a/0-0.png"}, 32, "did you mean 'blue/0-0.png'"),
        (["blue", "pink"], {"origin": "TEST"}, 32, "must not be made from test patches, got 2"),
    ],
)
def test_a_bad_set_is_refused(
    labels: list[str],
    columns: dict[str, str],
    size: int,
    message: str,
    real: PatchSet,
    draw_patches: DrawPatches,
    tmp_path: Path,
) -> None:
    name = real.select("test").records[0].path
    row = {key: name if value == "TEST" else value for key, value in columns.items()}
    folder = made(tmp_path / "s", list(draw_patches(0, 2)), labels, [row, row])
    with pytest.raises(ValueError, match=message):
        open_synthetic(folder, real, size)


def test_what_is_no_set_is_told_by_its_option(real: PatchSet, tmp_path: Path) -> None:
    for path in ("", "nowhere"):
        with pytest.raises(FileNotFoundError, match="second_dir must exist, got"):
            open_synthetic(path, real, 32, "second_dir")
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match="second_dir must be a folder, a zip or a table .*, got the picture"
    ):
        open_synthetic(tmp_path / "one.png", real, 32, "second_dir")
    (tmp_path / "flat").mkdir()
    for held in ("0 other files", "1 pictures that lie in no folder"):
        with pytest.raises(ValueError, match=f"synthetic_dir must hold a manifest.*{held}"):
            open_synthetic(tmp_path / "flat", real, 32)
        (tmp_path / "flat" / "one.png").write_bytes(b"")


def test_origins_are_paths_of_the_real_set(
    real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    path = real.select("train").records[0].path
    told = [{"origin": o} for o in (path, f"./{path}", path.replace("/", "\\"), "", "12", "-1")]
    folder = made(tmp_path / "s", list(draw_patches(0, 6)), ["blue"] * 6, told)
    found = open_synthetic(folder, real, 32)
    assert [r.extra["origin"] for r in found.records] == [path] * 3 + ["", "12", "-1"]
    assert "The origin of 2 of 6 synthetic pictures is a number, no path: unread." in found.notes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda file: file.write_bytes(file.read_bytes()[:-40]),
            "must be a readable picture, got",
        ),
        (
            lambda file: Image.fromarray(np.zeros((32, 32), np.uint16)).save(file),
            "must have 8 bits per channel, got 16-bit",
        ),
    ],
)
def test_pictures_that_cannot_be_read_are_found_before_work(
    spoil: Any, message: str, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    folder = made(tmp_path / "s", list(draw_patches(0, 3)), ["blue"] * 3)
    check_pictures(open_synthetic(folder, real, 32))
    spoil(folder / "1.png")
    with pytest.raises(ValueError, match=f"{message}.*{tmp_path}.*1.png"):
        check_pictures(open_synthetic(folder, real, 32))


@pytest.mark.parametrize("given", ["blurred", "sharp", "real"])
def test_softer_pictures_than_real_ones_are_counted(
    given: str, judge: Judge, real: PatchSet, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    images = [image for k in range(3) for image in draw_patches(k, 8, seed=77)]
    labels = [name for name in CLASSES for _ in range(8)]
    if given == "blurred":
        images = [
            np.array(Image.fromarray(a).filter(ImageFilter.GaussianBlur(1.5))) for a in images
        ]
    if given == "real":
        test = real.select("test")
        images, labels = arrays(test), [r.label for r in test.records]
    found = judged(judge, real, tmp_path / "s", images, labels)
    assert found.soft == 24 if given == "blurred" else found.soft <= 3
    assert found.usual_soft <= 0.13 and found.counts()["soft"] == found.soft
