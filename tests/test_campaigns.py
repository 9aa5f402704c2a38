"""The short forms of the campaigns: ``tests/fuzzing.py`` and ``tests/killing.py`` run longer."""

from __future__ import annotations

import random

import pytest
from fuzzing import KINDS, damaged, try_kind
from killing import campaign


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_a_clean_error_or_changes_nothing(kind: str) -> None:
    tried, faults = try_kind(kind, 30, 0, 25)
    assert tried == 25 and not faults


def test_damage_is_of_many_kinds_and_repeats_by_its_number() -> None:
    content = bytes(range(200))
    found = [damaged(content, random.Random(i)) for i in range(60)]
    assert found == [damaged(content, random.Random(i)) for i in range(60)]
    assert len(set(found)) > 55 and min(map(len, found)) < 100 < 210 < max(map(len, found))


@pytest.mark.slow  # three runs of the main job
def test_a_killed_run_is_resumed_to_the_bit() -> None:
    kills, faults = campaign(600, most=2)
    assert kills and not faults
