from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, DrawPatches, WritePatchSet

from monai_histodiff import Candidates, PatchSet
from monai_histodiff.data.pixels import recompressed, to_unit
from monai_histodiff.evaluation.feature_metrics import compare_features
from monai_histodiff.evaluation.synthetic import class_fidelity, overall_fidelity

Parts = tuple[PatchSet, PatchSet, PatchSet]


@pytest.fixture(scope="module")
def parts(write_patch_set: WritePatchSet, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    base = tmp_path_factory.mktemp("fidelity")
    train = PatchSet.open(write_patch_set(base / "train", per_class=12, split="train", seed=1))
    return (
        train,
        train.few(6),
        PatchSet.open(write_patch_set(base / "test", per_class=10, split="test", seed=2)),
    )


def thumbnails(patches: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(to_unit(patches), 2).flatten(1)


def samples(images: torch.Tensor, labels: torch.Tensor, accepted: list[bool]) -> Candidates:
    n = len(labels)
    reasons = ["accepted" if ok else "low confidence" for ok in accepted]
    return Candidates(
        images,
        labels,
        torch.arange(n),
        torch.ones(n),
        torch.ones(n),
        torch.zeros(n, dtype=torch.long),
        reasons,
    )


def drawn(draw_patches: DrawPatches, shift: int = 0) -> Candidates:
    """Eight patches of each class, as real ones are drawn, of the colour of the class ``shift``
    further on.
    """
    patches = np.concatenate([draw_patches((k + shift) % 3, 8, seed=9) for k in range(3)])
    return samples(
        torch.from_numpy(patches).permute(0, 3, 1, 2),
        torch.arange(3).repeat_interleave(8),
        [True] * 24,
    )


def test_samples_like_real_ones_reach_the_floor_and_others_do_not(
    parts: Parts, draw_patches: DrawPatches
) -> None:
    train, labelled, test = parts
    good, bad = (
        class_fidelity(drawn(draw_patches, shift), train, labelled, test, thumbnails, 32)
        for shift in (0, 1)
    )
    for name in CLASSES:
        assert good[name]["numbers"] == {"real": 10, "compared": 8, "accepted": 8}
        assert (
            abs(good[name]["samples"]["kid"] - good[name]["floor"]["kid"])
            < 0.1 * bad[name]["samples"]["kid"]
        )
        assert good[name]["samples"]["coverage"] > 0.4 and good[name]["samples"]["precision"] > 0.4
        assert bad[name]["samples"]["precision"] == bad[name]["samples"]["recall"] == 0
        assert bad[name]["floor"] == good[name]["floor"], (
            "the floor does not depend on the samples"
        )


def test_all_pictures_together_are_judged_whatever_their_labels(
    parts: Parts, draw_patches: DrawPatches
) -> None:
    train, _, test = parts
    good, relabelled = (
        overall_fidelity(drawn(draw_patches, shift), train, test, thumbnails, 32)
        for shift in (0, 1)
    )
    assert good["compared"] == relabelled["compared"] == 24 and good["floor"]["precision"] > 0.4
    assert relabelled["floor"] == good["floor"]
    assert relabelled["samples"] == pytest.approx(good["samples"], abs=1e-6)
    assert good["samples"]["precision"] > 0.4 and good["samples"]["recall"] > 0.4
    black = samples(torch.zeros(24, 3, 32, 32, dtype=torch.uint8), good_labels(), [True] * 24)
    far = overall_fidelity(black, train, test, thumbnails, 32)["samples"]
    assert far["precision"] == far["recall"] == 0
    few = samples(black.images[:5], torch.zeros(5, dtype=torch.long), [True] * 5)
    nothing = {"samples": None, "floor": None, "compared": 0}
    assert overall_fidelity(few, train, test, thumbnails, 32) == nothing


def good_labels() -> torch.Tensor:
    return torch.arange(3).repeat_interleave(8)


def test_the_floor_is_real_training_patches_of_the_class(
    parts: Parts, draw_patches: DrawPatches
) -> None:
    train, labelled, test = parts
    of_twelve = drawn(draw_patches)
    twelve = samples(
        of_twelve.images[:8].repeat(2, 1, 1, 1)[:12],
        torch.zeros(12, dtype=torch.long),
        [True] * 12,
    )
    found = class_fidelity(twelve, train, labelled, test, thumbnails, 32)["blue"]["floor"]
    own, others = (
        thumbnails(recompressed(part.select(label="blue").images())) for part in (test, train)
    )
    assert found == pytest.approx(compare_features(own, others), abs=1e-6)


def test_too_few_patches_give_no_figures(parts: Parts, draw_patches: DrawPatches) -> None:
    train, labelled, test = parts
    some = drawn(draw_patches)
    few = samples(some.images, some.labels, [i < 5 for i in range(8)] + [False] * 8 + [True] * 8)
    found = class_fidelity(few, train, labelled, test, thumbnails, 32)
    assert found["blue"]["samples"] is None and found["blue"]["floor"] is None
    assert (
        found["pink"]["numbers"] == {"real": 10, "compared": 0, "accepted": 0}
        and found["violet"]["samples"] is not None
    )


def test_copies_are_found(parts: Parts) -> None:
    train, labelled, test = parts
    turned = torch.rot90(labelled.select(label="pink").images(), 1, (2, 3))
    found = class_fidelity(
        samples(turned, torch.ones(6, dtype=torch.long), [True] * 6),
        train,
        labelled,
        test,
        thumbnails,
        32,
    )
    assert found["pink"]["copies"]["samples"] == 6 and found["blue"]["copies"]["samples"] == 0
    assert sum(found[name]["copies"]["held_out"] for name in CLASSES) == 1, (
        "one per cent of 30, rounded up"
    )


def test_real_and_synthetic_patches_pass_through_the_same_file_format(parts: Parts) -> None:
    seen: list[torch.Tensor] = []

    def note(patches: torch.Tensor) -> torch.Tensor:
        seen.append(patches)
        return thumbnails(patches)

    train, labelled, test = parts
    images = train.select(label="blue").images()
    class_fidelity(
        samples(images, torch.zeros(12, dtype=torch.long), [True] * 12),
        train,
        labelled,
        test,
        note,
        24,
    )
    crops = [part.images()[..., 4:28, 4:28] for part in (test, train.select(label="blue"))]
    assert torch.equal(seen[0], recompressed(crops[0]))
    for patches in seen[2:]:
        assert {p.numpy().tobytes() for p in patches} == {
            p.numpy().tobytes() for p in recompressed(crops[1])
        }


def test_recompression_keeps_the_picture_and_leaves_its_traces(draw_patches: DrawPatches) -> None:
    images = torch.from_numpy(draw_patches(0, 3)).permute(0, 3, 1, 2)
    once = recompressed(images)
    assert once.dtype == torch.uint8 and once.shape == images.shape
    assert 0 < (once.float() - images.float()).abs().mean() < 6 and recompressed(
        images[:0]
    ).shape == (0, 3, 32, 32)


def test_test_patches_opened_apart_are_matched_by_name(
    parts: Parts, draw_patches: DrawPatches, tmp_path: Path
) -> None:
    train, labelled, test = parts
    last = PatchSet.open(test.select(label=CLASSES[2]).write(tmp_path / "test"))
    found = class_fidelity(drawn(draw_patches), train, labelled, last, thumbnails, 32)
    assert [found[name]["numbers"]["real"] for name in CLASSES] == [0, 0, 10]
    other = replace(drawn(draw_patches), classes=("x", "y", "z"))
    with pytest.raises(ValueError, match="classes must be those of the candidates"):
        class_fidelity(other, train, labelled, test, thumbnails, 32)
    with pytest.raises(ValueError, match="classes must be those of the candidates"):
        overall_fidelity(other, train, test, thumbnails, 32)
