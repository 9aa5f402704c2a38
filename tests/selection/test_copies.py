from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_histodiff.data.pixels import appearance, recompressed, to_unit
from monai_histodiff.selection import copies
from monai_histodiff.selection.copies import (
    FLOOR,
    CopyGate,
    copy_distances,
    copy_gate,
    flag_copies,
    nearest_views,
)


def patches(count: int, seed: int = 0, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def orientations(x: Tensor) -> list[Tensor]:
    """The eight symmetries of the square, written out by transposition and reversal."""
    turned = []
    for y in (x, x.transpose(2, 3)):
        turned += [y, y.flip(2), y.flip(3), y.flip(2, 3)]
    return turned


@pytest.mark.parametrize(
    "count", [3, 60]
)  # few and many: distances to many are taken by matrix products
def test_a_copy_in_any_orientation_has_distance_zero_and_the_right_index(count: int) -> None:
    references = patches(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    for turned in orientations(references):
        distance, index = copy_distances(turned[order], references)
        assert torch.equal(index, order)
        assert distance.max() < 1e-6


def test_parts_of_a_large_set_are_compared_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    references, candidates = patches(40), patches(11, seed=1)
    groups = torch.arange(11) % 4, torch.arange(40) % 5
    whole = nearest_views(candidates, references, groups)
    monkeypatch.setattr(copies, "PAIRS", 120)  # 3 patches at a time
    seen: list[int] = []
    cdist = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b: (seen.append(a.shape[1]), cdist(a, b))[1])
    parts = nearest_views(candidates, references, groups)
    assert seen == [3, 3, 3, 2]
    torch.testing.assert_close(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1]) and bool((parts[1] % 5 != groups[0]).all())


def test_distances_do_not_depend_on_the_orientation() -> None:
    references, candidates = patches(7), patches(5, seed=1)
    distance, index = copy_distances(candidates, references)
    assert (distance > 0.01).all()
    for turned in orientations(candidates):
        again, place = copy_distances(turned, references)
        torch.testing.assert_close(again, distance, rtol=1e-5, atol=1e-6)
        assert torch.equal(place, index)
    for turned in orientations(references):
        torch.testing.assert_close(
            copy_distances(candidates, turned)[0], distance, rtol=1e-5, atol=1e-6
        )


def test_the_distance_is_the_root_mean_square_difference_of_intensity() -> None:
    """A patch brighter by 0.1 everywhere is at distance 0.1; the nearest reference is found among
    brighter ones.
    """
    base = 0.5 * patches(1)
    references = torch.cat([base + 0.3, base + 0.1, base + 0.2])
    distance, index = copy_distances(base, references)
    assert index.tolist() == [1]
    torch.testing.assert_close(distance, torch.tensor([0.1]), rtol=1e-4, atol=1e-6)
    half = base.clone()
    half[:, :, :16] += 0.2
    torch.testing.assert_close(
        copy_distances(half, base)[0], torch.tensor([0.2 / 2**0.5]), rtol=1e-4, atol=1e-6
    )


def test_brute_force_agrees() -> None:
    """Thumbnails are means of blocks, and the nearest is the nearest over references and
    orientations.
    """
    references, candidates = patches(40), patches(6, seed=1)
    blocks = [x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) for x in (references, candidates)]
    every = torch.stack(
        [(o[:, None] - blocks[0]).square().mean((2, 3, 4)).sqrt() for o in orientations(blocks[1])]
    ).amin(0)
    distance, index = copy_distances(candidates, references)
    torch.testing.assert_close(distance, every.amin(1), rtol=1e-5, atol=1e-6)
    assert torch.equal(index, every.argmin(1))


def test_other_sizes_and_bytes_are_comparable() -> None:
    small = (patches(4, size=16) * 255).round().to(torch.uint8)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    for a, b in (
        (large, small),
        (small, large),
        (small.float() / 255, large),
        (large, small.float() / 255),
    ):
        distance, index = copy_distances(a, b)
        assert index.tolist() == [0, 1, 2, 3] and distance.max() < 1e-6


def test_appearance_of_stripes() -> None:
    """Stripes of 4 pixels and amplitude 0.2 in red are all in the third octave: brightness 0.2 /
    3.
    """
    x = torch.full((2, 3, 32, 64), 0.5)
    x[:, 0] += 0.2 * (1 - 2.0 * (torch.arange(64) // 4 % 2))
    rows = appearance(x)
    assert rows.shape == (2, 11) and torch.allclose(
        rows[:, :3], torch.full((2, 3), 0.5), atol=1e-6
    )
    assert torch.allclose(rows[0, 3:6], torch.tensor([0.2, 0.0, 0.0]), atol=1e-3)
    assert torch.allclose(rows[0, 6:], torch.tensor([0.0, 0.0, 0.2 / 3, 0.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize(("side", "octaves"), [(128, 5), (16, 4), (100, 2), (7, 0)])
def test_appearance_has_as_many_octaves_as_the_size_allows(side: int, octaves: int) -> None:
    patches = torch.randint(
        0, 256, (3, 3, side, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    assert appearance(patches).shape == (3, 6 + octaves)
    assert torch.allclose(appearance(patches), appearance(patches / 255))


def test_to_unit() -> None:
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0.0, 0.2, 1.0]
    )
    assert to_unit(torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)).dtype == torch.float32
    assert to_unit(torch.tensor([0.0, 0.2, 1.0])).tolist() == pytest.approx([0.0, 0.2, 1.0])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_patch_that_is_not_finite_has_no_distance(value: str) -> None:
    candidates = patches(2)
    candidates[1, 0, 3, 3] = float(value)
    distance, _ = copy_distances(candidates, patches(40, seed=1))
    assert torch.isnan(distance).tolist() == [False, True]


def test_distances_need_a_reference() -> None:
    with pytest.raises(ValueError, match="copy distances need at least one reference, got none"):
        copy_distances(patches(2), patches(0))


# --- threshold ---


def levels(values: list[float]) -> Tensor:
    """Flat grey patches: the distance between two is the difference of their values."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 32, 32)


def threshold(references: Tensor, groups: list[str], percentile: float = 1.0) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_histodiff.selection.copies.PERCENTILE", percentile)
        return copy_gate(references, groups).threshold


def test_the_threshold_is_a_percentile_of_the_nearest_other_group() -> None:
    """Nearest in another group: 0.1 -> 0.3, 0.3 -> 0.1, 0.6 -> 0.3, 1.0 -> 0.6, at 0.2, 0.2, 0.3
    and 0.4.
    """
    references, groups = levels([0.1, 0.3, 0.6, 1.0]), ["a", "b", "c", "d"]
    assert threshold(references, groups, percentile=0) == pytest.approx(0.2, abs=1e-5)
    assert threshold(references, groups, percentile=50) == pytest.approx(0.25, abs=1e-5)
    assert threshold(references, groups, percentile=100) == pytest.approx(0.4, abs=1e-5)
    assert copy_gate(references, groups) == CopyGate(threshold(references, groups), 0, 4)


def test_neighbours_within_a_group_do_not_count() -> None:
    references = levels([0.1, 0.15, 0.5, 0.55])
    near, far = ["a", "a", "b", "b"], ["a", "b", "a", "b"]
    assert threshold(references, near, percentile=0) == pytest.approx(0.35, abs=1e-5)
    assert threshold(references, far, percentile=0) == pytest.approx(0.05, abs=1e-5)


def test_duplicates_across_groups_are_set_aside_and_told() -> None:
    """Every patch twice, turned, under another group: the gate is the one without them."""
    base = patches(30)
    groups = [f"g{i}" for i in range(30)]
    plain = copy_gate(base, groups)
    assert plain.threshold > FLOOR and (plain.twins, plain.compared) == (0, 30)
    doubled = torch.cat([base, base.rot90(1, (2, 3))])
    within = copy_gate(doubled, groups + groups)
    across = copy_gate(doubled, groups + [f"h{i}" for i in range(30)])
    assert within.threshold == pytest.approx(plain.threshold, rel=1e-3) and within.twins == 0
    assert across.threshold == pytest.approx(plain.threshold, rel=1e-3)
    assert (across.twins, across.compared) == (60, 60)
    assert bool((copy_distances(base, doubled)[0] < across.threshold).all())


def test_a_few_duplicates_do_not_switch_the_gate_off() -> None:
    """Two of a hundred are the first percentile."""
    base = patches(100)
    groups = [f"g{i}" for i in range(102)]
    gate = copy_gate(torch.cat([base, base[:2]]), groups)
    assert gate.twins == 4 and gate.threshold > 0.9 * copy_gate(base, groups[:100]).threshold


def test_blank_tiles_do_not_switch_the_gate_off_nor_make_everything_a_copy() -> None:
    """Background, in every group, of nearly one shade: as usual in slides."""
    blank = levels([0.93 + 0.001 * (i % 5) for i in range(40)])
    tissue = patches(60)
    references = torch.cat([tissue, blank])
    gate = copy_gate(references, [f"g{i}" for i in range(60)] + ["a", "b", "c", "d"] * 10)
    plain = copy_gate(tissue, [f"g{i}" for i in range(60)])
    assert gate.twins == 40 and gate.threshold == pytest.approx(plain.threshold, rel=0.2)
    new = copy_distances(patches(100, seed=1), references)[0] < gate.threshold
    assert float(new.float().mean()) < 0.05
    assert bool((copy_distances(references, references)[0] < gate.threshold).all())


def test_re_encoded_patches_are_copies() -> None:
    """What a JPEG of quality 75 changes is below the least threshold, whatever the groups."""
    grain = patches(20, size=64)
    smooth = torch.nn.functional.avg_pool2d(grain, 5, 1, 2)
    pictures = (smooth * 255).round().to(torch.uint8)
    moved, nearest = copy_distances(recompressed(pictures, 75), pictures)
    assert 0 < float(moved.max()) < FLOOR and nearest.tolist() == list(range(20))


def test_the_least_threshold_is_four_of_256_levels() -> None:
    grey = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    assert float(copy_distances(grey + 4, grey)[0]) == pytest.approx(FLOOR)


def test_all_tiles_alike_leave_the_least_threshold() -> None:
    assert copy_gate(levels([0.9] * 6), list("aabbcc")) == CopyGate(FLOOR, 6, 0)


def test_real_patches_of_another_group_are_no_copies_of_each_other() -> None:
    """By construction, at most about one per cent of held-out real patches fall below the
    threshold.
    """
    references = patches(100)
    limit = threshold(references, [f"g{i}" for i in range(100)])
    assert (copy_distances(patches(100, seed=1), references)[0] < limit).float().mean() < 0.05
    assert (copy_distances(references.flip(3), references)[0] < limit).all()


@pytest.mark.parametrize("count", [1, 5])
def test_a_single_group_has_the_least_threshold(count: int) -> None:
    """Nothing tells how near new patches come, but an exact copy is one."""
    gate = copy_gate(patches(count), ["a"] * count)
    assert gate == CopyGate(FLOOR, 0, 0) and gate.threshold > 0


def test_real_patches_are_finite_and_have_groups() -> None:
    spoilt = patches(3)
    spoilt[1, 0, 2, 2] = spoilt[1, 1, 3, 3] = float("nan")
    for call in (lambda: copy_gate(spoilt, list("abc")), lambda: copy_distances(spoilt, spoilt)):
        with pytest.raises(ValueError, match="real patches must be finite, got 1 that are not"):
            call()
    with pytest.raises(ValueError, match="each patch needs a group, got 3 and 2"):
        copy_gate(patches(3), ["a", "b"])


# --- flags ---


def test_copies_lie_nearer_than_nearly_all_held_out_patches() -> None:
    usual = torch.arange(1, 101.0)
    assert flag_copies(torch.tensor([0.5, 1.98, 2.0, 9.0]), usual).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_exact_copies_are_flagged_where_held_out_patches_are_duplicates() -> None:
    """Their distances, 0, would make the percentile 0, and nothing lies below it."""
    usual = torch.cat([torch.zeros(20), torch.arange(1, 101.0)])
    assert flag_copies(torch.tensor([0.0, 1.5, 3.0]), usual).tolist() == [True, True, False]
    assert flag_copies(torch.tensor([0.0, 0.1]), torch.zeros(3)).tolist() == [True, False]


def test_up_to_the_floor_two_patches_are_one() -> None:
    usual = torch.cat([torch.full((50,), 0.1), torch.arange(1, 101.0)])
    samples = torch.tensor([0.1, 0.2, 0.21, 1.5, 3.0])
    assert flag_copies(samples, usual, floor=0.2).tolist() == [True, True, True, True, False]
    assert flag_copies(samples, torch.full((9,), 0.1), floor=0.2).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_flags_need_numbers() -> None:
    nan = torch.tensor([1.0, float("nan")])
    for parts in ((nan, torch.ones(2)), (torch.ones(2), nan)):
        with pytest.raises(ValueError, match="distances must be numbers, got 1 that are NaN"):
            flag_copies(*parts)
    for floor in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="floor must be at least 0, got"):
            flag_copies(torch.ones(2), torch.ones(2), floor=floor)


def test_as_far_as_held_out_patches_are_is_no_copy() -> None:
    distances = torch.tensor([1.0, 0.999])
    assert flag_copies(distances, torch.ones(5)).tolist() == [False, True]
