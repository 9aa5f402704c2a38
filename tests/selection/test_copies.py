from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_histodiff.data.pixels import appearance, to_unit
from monai_histodiff.selection.copies import copy_distances, copy_threshold


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


def test_a_patch_that_is_not_finite_has_no_distance() -> None:
    candidates = patches(2)
    candidates[1, 0, 3, 3] = float("nan")
    distance, _ = copy_distances(candidates, patches(40, seed=1))
    assert torch.isfinite(distance).tolist() == [True, False]


def test_distances_need_a_reference() -> None:
    with pytest.raises(ValueError, match="copy distances need at least one reference, got none"):
        copy_distances(patches(2), patches(0))


# --- threshold ---


def levels(values: list[float]) -> Tensor:
    """Flat grey patches: the distance between two is the difference of their values."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 32, 32)


def test_the_threshold_is_a_percentile_of_the_nearest_other_group() -> None:
    """Nearest in another group: 0.1 -> 0.3, 0.3 -> 0.1, 0.6 -> 0.3, 1.0 -> 0.6, at 0.2, 0.2, 0.3
    and 0.4.
    """
    references, groups = levels([0.1, 0.3, 0.6, 1.0]), ["a", "b", "c", "d"]
    assert copy_threshold(references, groups, percentile=0) == pytest.approx(0.2, abs=1e-5)
    assert copy_threshold(references, groups, percentile=50) == pytest.approx(0.25, abs=1e-5)
    assert copy_threshold(references, groups, percentile=100) == pytest.approx(0.4, abs=1e-5)


def test_neighbours_within_a_group_do_not_count() -> None:
    references = levels([0.1, 0.101, 0.5, 0.501])
    assert copy_threshold(references, ["a", "a", "b", "b"], percentile=0) == pytest.approx(
        0.399, abs=1e-5
    )
    assert copy_threshold(references, ["a", "b", "a", "b"], percentile=0) == pytest.approx(
        0.001, abs=1e-5
    )


def test_duplicates_lower_the_threshold_only_across_groups() -> None:
    base = patches(30)
    groups = [f"g{i}" for i in range(30)]
    plain = copy_threshold(base, groups)
    turned = torch.cat([base, base.rot90(1, (2, 3))])
    assert plain > 0.01
    assert copy_threshold(turned, groups + groups) == pytest.approx(plain, rel=1e-3)
    assert copy_threshold(turned, groups + [f"h{i}" for i in range(30)]) < 1e-6


def test_real_patches_of_another_group_are_no_copies_of_each_other() -> None:
    """By construction, at most about one per cent of held-out real patches fall below the
    threshold.
    """
    references = patches(100)
    groups = [f"g{i}" for i in range(100)]
    threshold = copy_threshold(references, groups)
    assert (copy_distances(patches(100, seed=1), references)[0] < threshold).float().mean() < 0.05
    assert (copy_distances(references.flip(3), references)[0] < threshold).all()


def test_a_single_group_has_no_threshold() -> None:
    assert copy_threshold(patches(5), ["a"] * 5) == 0.0
    assert copy_threshold(patches(1), ["a"]) == 0.0
