"""Which patches ``inference.json`` accepts: the rule of the selector, as in a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff import PatchSet
from monai_histodiff.bundle.inference import PatchWriter

FOUND = torch.tensor([[0.2, 0.45, 0.35], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])


class Known:
    """A critic with a threshold of 0.6."""

    threshold = torch.tensor(0.6)

    def probabilities(self, patches: Tensor, origins: Tensor | None = None) -> Tensor:
        return FOUND[: len(patches)]


@pytest.mark.parametrize(
    ("strength", "kept", "told"),
    [(0.5, [0, 1], "whose class is most probable"), (1.0, [1], "at threshold 0.60")],
)
def test_a_variation_needs_its_class_to_be_most_probable_and_noise_the_threshold(
    strength: float, kept: list[int], told: str, tmp_path: Path, capsys: Any
) -> None:
    sampler: Any = SimpleNamespace(
        settings=SimpleNamespace(strength=strength, scale=0.0), origins=lambda *_: None
    )
    critic: Any = Known()
    writer = PatchWriter(tmp_path, ["a", "b", "c"], critic, True, sampler)
    batch = {"image": torch.arange(3), "label": torch.tensor([1, 2, 1])}
    output = {"pred": torch.rand(3, 3, 16, 16)}
    engine: Any = SimpleNamespace(state=SimpleNamespace(output=output, batch=batch))
    writer.gather(engine)
    writer.write()
    samples = PatchSet.open(tmp_path / "samples")
    assert [int(record.extra["seed"]) for record in samples.records] == kept
    assert f"Accepted {len(kept)} of 3 {told}." in capsys.readouterr().out
