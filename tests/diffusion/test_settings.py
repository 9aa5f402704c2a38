"""Settings of the shipped model and of its student."""

from __future__ import annotations

from typing import Any

import pytest

from monai_histodiff.diffusion import SamplingSettings


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
    rule += rf"\(solver ddim, steps 4, stop None, exemplar_scale 1.0\), got {told}: set few_steps"
    with pytest.raises(ValueError, match=rule):
        SamplingSettings.pretrained(**changes)
    assert SamplingSettings.pretrained(False, **changes)
