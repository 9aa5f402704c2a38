from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from monai_histodiff.commands.power import main
from monai_histodiff.evaluation.power import foresee, measure
from monai_histodiff.evaluation.worlds import (
    ALIKE,
    APART,
    Noise,
    make_groups,
    simulate,
    with_draws,
)

RNG = np.random.default_rng


def test_expected_accuracy_is_as_stated() -> None:
    rng = RNG(0)
    labels, groups = make_groups(rng, 60)
    world = simulate(rng, labels, groups, Noise(arm_draw=0.01), (0.0, 0.1), (200, 2, 2), 0.7)
    assert world.control.mean() == pytest.approx(0.7, abs=0.01)
    assert world.treated[0.1].mean() == pytest.approx(0.8, abs=0.01)
    assert world.truth[0.1].mean() == pytest.approx(0.1, abs=0.01)
    assert world.truth[0.1].std() == pytest.approx(0.37 * 2**0.5 * 0.1, rel=0.2)


@pytest.mark.parametrize("noise", [ALIKE, APART, with_draws(ALIKE), with_draws(APART)])
def test_the_parts_of_the_noise_add_up_to_one(noise: Noise) -> None:
    assert sum(astuple(noise)) + noise.rest == pytest.approx(1) and noise.rest > 0


def test_shared_difficulty_makes_arms_agree() -> None:
    labels, groups = make_groups(RNG(0), 60)
    agreed = []
    for noise in (ALIKE, Noise(patch=0.0, arm_patch=0.68)):
        world = simulate(RNG(1), labels, groups, noise, (0.0,), (50, 1, 1))
        agreed.append((world.treated[0.0] == world.control).mean())
    assert agreed[0] > 0.75 > agreed[1]


def test_test_sets_have_two_groups_of_each_class_at_least() -> None:
    for seed in range(20):
        labels, groups = make_groups(RNG(seed), 12)
        assert len(np.unique(groups)) == 12
        assert (np.diff(groups) >= 0).all() and set(labels) == {0, 1, 2}


@pytest.mark.parametrize(
    ("noise", "accuracy", "message"),
    [
        (Noise(patch=0.9), 0.6, "variances must sum to less than 1, got 1.1"),
        (ALIKE, 0.97, "accuracies must lie in \\(0, 1\\), got 0.97 and changes"),
    ],
)
def test_impossible_worlds_are_refused(noise: Noise, accuracy: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(RNG(0), *make_groups(RNG(0), 12), noise, (0.06,), (2, 1, 2), accuracy)


def test_more_groups_seeds_and_draws_see_more() -> None:
    changes = []
    for count, seeds, draws in ((20, 3, 3), (80, 3, 3), (80, 10, 3), (80, 10, 10)):
        labels, groups = make_groups(RNG(0), count)
        found = foresee(labels, [str(g) for g in groups], seeds, draws, worlds=30)
        changes.append(found.detectable)
    assert changes[0] > changes[1] > changes[2] > changes[3] > 0.01
    assert found.sentence.startswith(
        f"With 80 test groups ({len(labels)} patches), 10 seeds and 1"
    )
    again = foresee(labels, [str(g) for g in groups], seeds, draws, worlds=30)
    assert again == found, "no chance in it"


def test_a_forecast_is_told_in_seeds_and_draws() -> None:
    labels, groups = make_groups(RNG(0), 200)
    found = foresee(labels, [str(g) for g in groups], 5, worlds=20)
    assert found.seeds[0.06] in (3, 5) and "for 6 points take " in found.sentence
    labels, groups = make_groups(RNG(0), 12)
    few = foresee(labels, [str(g) for g in groups], 5, worlds=20)
    assert few.seeds[0.03] == 0
    assert "for 3 or 6 points neither 20 seeds nor 10 draws suffice: test on" in few.sentence


def test_a_forecast_counts_all_seeds() -> None:
    labels, groups = np.arange(400) % 2, np.arange(400)

    def least(seeds: int) -> float:
        return foresee(labels, groups, seeds, 1, worlds=40).detectable

    assert least(3) > least(12) > least(60)


def test_a_forecast_counts_the_comparisons() -> None:
    labels, groups = make_groups(RNG(0), 40)
    names = [str(g) for g in groups]
    one, two = (foresee(labels, names, 5, worlds=20, claims=claims) for claims in (1, 2))
    assert 1.05 < two.detectable / one.detectable < 1.25
    assert ", with this draw, corrected for 2 comparisons; for" in two.sentence
    assert "corrected" not in one.sentence


def test_a_run_may_have_nothing_to_compare() -> None:
    given = (np.repeat([0, 1], 6), list("abcdefghijkl"), 3)
    assert foresee(*given, worlds=10, claims=0) == foresee(*given, worlds=10)


def test_with_one_group_of_a_class_nothing_can_be_told() -> None:
    found = foresee(np.repeat([0, 1], 6), ["a"] * 6 + ["b"] * 6, 3, worlds=10)
    assert np.isnan(found.detectable) and set(found.seeds.values()) == {0}
    assert found.sentence.endswith(
        "no change could be told from chance, however large: test on several groups of each class."
    )


@pytest.mark.parametrize(("seeds", "draws"), [(1, 1), (3, 0)])
def test_a_forecast_needs_a_design(seeds: int, draws: int) -> None:
    with pytest.raises(
        ValueError, match=f"got 4 patches, 4 groups, {seeds} seeds and {draws} dra"
    ):
        foresee(np.arange(4), list("abcd"), seeds, draws)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 2.5}, "seeds must be a whole number from 1 on, got 2.5"),
        ({"draws": 1.5}, "draws must be a whole number from 1 on, got 1.5"),
        ({"worlds": 0}, "worlds must be a whole number from 1 on, got 0"),
        ({"claims": -1}, "claims must be a whole number from 0 on, got -1"),
    ],
)
def test_a_forecast_takes_whole_numbers(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        foresee(np.arange(4), list("abcd"), **{"seeds": 3, **given})  # type: ignore[arg-type]


def test_cells_hold_what_was_measured() -> None:
    cells = list(measure(ALIKE, [12, 60], [1, 2], [3], (0.0, 0.1), worlds=80))
    assert [(c.groups, c.draws, c.seeds) for c in cells] == [
        (12, 1, 3),
        (12, 2, 3),
        (60, 1, 3),
        (60, 2, 3),
    ]
    for cell in cells:
        assert 0.9 < cell.coverage < 0.995 and cell.found[0.0] < 0.1
        assert 0 < cell.oracle[0.0] < 0.15, "it knows the variance: one in twenty"
    assert cells[3].found[0.1] > cells[0].found[0.1] and cells[3].oracle[0.1] > 0.8


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main("--worlds 8 --groups 12 --seeds 3 --draws 1 2 --effects 6".split())
    printed = capsys.readouterr().out
    assert printed.count("### ") == 4 and printed.count("\n| 12 | ") == 8
    assert "| groups | draws | seeds | coverage, % | false alarms, % | +6 found (oracle), % |" in (
        printed
    )
    with pytest.raises(SystemExit):
        main(["--groups", "5"])
    assert "at least 6 groups, 2 seeds, 1 draw and 8 worlds" in capsys.readouterr().err
