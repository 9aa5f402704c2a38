"""Which patches ``inference.json`` accepts: the rule of the selector, as in a run."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor
from warm import FORKS

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
    [
        (0.5, [0, 1], ": no other class is more probable"),
        (1.0, [1], ": confidence of at least 0.60, and no other class is more probable"),
    ],
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
    assert f"Accepted {len(kept)} of 3{told}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("um_per_px", "got"), [(500.0, "0,"), (17.1, "7,"), (0.001, "128000,"), (0.0312, "4103,")]
)
def test_pictures_of_a_few_pixels_or_very_many_are_refused_before_sampling(
    um_per_px: float, got: str, tmp_path: Path
) -> None:
    sampler: Any = SimpleNamespace(size=128)
    with pytest.raises(ValueError, match=f"8 to 4096 pixels a side, got {got}.+ 0.03125 to 16"):
        PatchWriter(tmp_path, sampler=sampler, um_per_px=um_per_px, model_um_per_px=1.0)
    for least in (16.0, 0.03125):
        PatchWriter(tmp_path, sampler=sampler, um_per_px=least, model_um_per_px=1.0)
    writer = PatchWriter(tmp_path, um_per_px=um_per_px, model_um_per_px=1.0)
    writer._parts.append((torch.rand(1, 3, 128, 128), torch.arange(1), torch.tensor([-1])))
    with pytest.raises(ValueError, match=f"8 to 4096 pixels a side, got {got}"):
        writer.write()
    assert len(writer._parts) == 1, "what was sampled is kept"


def sampling(folder: Path, step: Any = None) -> Engine:
    """An engine that samples one patch into a folder; ``step`` happens meanwhile."""

    def sample(engine: Engine, batch: Any) -> Any:
        if step is not None:
            step()
        return {"pred": torch.rand(1, 3, 16, 16)}

    engine = Engine(sample)
    PatchWriter(folder).attach(engine)
    return engine


BATCHES = [{"image": torch.arange(1), "label": torch.tensor([-1])}]


def check(folder: Path, told: Any) -> None:
    try:
        PatchWriter(folder).check()
    except FileExistsError as error:
        told.put(str(error))
    else:
        told.put("")


def sample_beside(folder: Path) -> str:
    """What another process is told that samples into a folder."""
    told = FORKS.SimpleQueue()
    process = FORKS.Process(target=check, args=(folder, told))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return str(told.get())


def test_one_process_at_a_time_samples_into_a_folder(tmp_path: Path) -> None:
    told: list[str] = []
    sampling(tmp_path, lambda: told.append(sample_beside(tmp_path))).run(BATCHES)
    assert f"output_dir must be free, got '{tmp_path}', where process {os.getpid()}" in told[0]
    assert len(PatchSet.open(tmp_path / "samples")) == 1
    assert "which holds 'samples' already: choose another" in sample_beside(tmp_path)


def test_a_folder_is_free_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("memory")

    with pytest.raises(KeyError, match="memory"):
        sampling(tmp_path, fail).run(BATCHES)
    assert sample_beside(tmp_path) == ""
    sampling(tmp_path).run(BATCHES)
    assert len(PatchSet.open(tmp_path / "samples")) == 1
