"""Settings of the shipped model and of its student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monai_histodiff import GuidedSampler, LatentDiffusion
from monai_histodiff.diffusion import SamplingSettings
from monai_histodiff.diffusion.schedules import uniform_grid
from monai_histodiff.diffusion.settings import TAUGHT
from monai_histodiff.diffusion.solvers import SOLVERS

MakeModel = Callable[..., LatentDiffusion]


def test_the_student_has_the_settings_that_it_was_taught() -> None:
    own = SamplingSettings.pretrained(size=96, steps=None)
    assert (own.solver, own.steps, own.stop, own.exemplar_scale) == ("ddim", 4, None, 1.0)
    assert own.size == 96 and own == SamplingSettings.pretrained(True, size=96, solver="ddim")


def test_the_teacher_has_others_that_can_be_changed() -> None:
    own = SamplingSettings.pretrained(False, steps=20, exemplar_scale=None)
    assert own == SamplingSettings(steps=20, stop=4.0, exemplar_scale=1.5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 20}, "steps 20"),
        ({"steps": 4, "exemplar_scale": 1.5}, "exemplar_scale 1.5"),
        ({"solver": "dpmpp_2m", "stop": 3.0}, "solver dpmpp_2m, stop 3.0"),
    ],
)
def test_what_the_student_was_not_taught_is_refused(changes: dict[str, Any], told: str) -> None:
    rule = "few steps must be those that the student was taught "
    rule += r"\(solver ddim, eta 0.0, steps 4, stop None, exemplar_scale 1.0\), "
    rule += f"got {told}: set few_steps"
    with pytest.raises(ValueError, match=rule):
        SamplingSettings.pretrained(**changes)
    assert SamplingSettings.pretrained(False, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 20}, "steps 20"),
        ({"solver": "dpmpp_2m", "steps": 12, "stop": 4.0}, "solver dpmpp_2m, steps 12, stop 4.0"),
        ({"exemplar_scale": 3.0}, "exemplar_scale 3.0"),
    ],
)
def test_a_sampler_of_the_student_takes_no_others(
    changes: dict[str, Any], told: str, make_model: MakeModel
) -> None:
    student = make_model(0)
    student.taught = dict(TAUGHT)
    sampler = GuidedSampler(student, settings=SamplingSettings.pretrained())
    rule = rf"few steps must be those that the student was taught \(.+\), got {told}: set few"
    for made in (sampler, copy.deepcopy(sampler)):
        with pytest.raises(ValueError, match=rule):
            made.replace(**changes)
    assert sampler.replace(size=24, exemplar_noise=0.1).settings.steps == 4
    with pytest.raises(ValueError, match="got solver dpmpp_2m, steps 20: set few_steps to False"):
        GuidedSampler(student)
    assert GuidedSampler(make_model(0), **changes)


@pytest.mark.parametrize(
    ("strength", "near"), [(0.6, "0.5 or 0.75"), (0.1, "0.25"), (0.99, "0.75 or 1.0")]
)
def test_a_variation_of_the_student_starts_at_a_time_that_it_was_taught(
    strength: float, near: str, make_model: MakeModel
) -> None:
    rule = "strength must leave whole steps of the 4 that the student was taught, got "
    with pytest.raises(ValueError, match=f"{rule}{strength}: set it to {near}, or few_steps"):
        SamplingSettings.pretrained(strength=strength)
    student = make_model(0)
    student.taught = dict(TAUGHT)
    with pytest.raises(ValueError, match=f"{rule}{strength}"):
        GuidedSampler(student, settings=SamplingSettings.pretrained(), strength=strength)
    assert SamplingSettings.pretrained(False, strength=strength)
    taught = uniform_grid(student.schedule, 4).tolist()
    for own in (0.25, 0.5, 0.75, 1.0):
        assert SamplingSettings.pretrained(strength=own).strength == own
        grid = SOLVERS["ddim"].grid(student.schedule, 4, own, None)
        assert all(min(abs(t - k) for k in taught) < 1e-6 for t in grid.tolist())


@pytest.mark.parametrize("name", ["steps", "size"])
@pytest.mark.parametrize("value", [2.7, 8.0, True, "8"])
def test_counts_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number, got {value!r}: round"):
        SamplingSettings(**{name: value})
    assert vars(SamplingSettings(**{name: np.int64(8)}))[name] == 8
