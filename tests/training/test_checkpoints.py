"""Long trainings: the same epochs after a kill, checkpoints that survive, gradients that are
measured before the step.
"""

from __future__ import annotations

import gc
import math
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.transforms import RandGaussianNoised
from monai.utils import set_determinism
from torch import Tensor, nn

from monai_histodiff.training.checkpoints import (
    EMAHandler,
    EpochSeed,
    TrainingCheckpoint,
    WeightsSaver,
)
from monai_histodiff.training.monitoring import FiniteLoss, GradientNorm, training_scalars
from monai_histodiff.training.steps import AutoencoderPrepareBatch
from monai_histodiff.utils.global_state import kept_random_state
from monai_histodiff.utils.weights import load_weights, save_weights, write_state

EPOCHS, LENGTH = 4, 3


class Killed(BaseException):
    """Not an ``Exception``: nothing may catch it, as nothing catches a signal."""


class Training:
    """A small stock training with every kind of state: momentum, schedule, average, dropout,
    random data and transforms.
    """

    def __init__(
        self,
        folder: Path,
        seed: int = 0,
        kill_at: int = 0,
        workers: int = 0,
        loss: Any = None,
        **options: Any,
    ) -> None:
        set_determinism(99)  # what came before must not matter
        self.folder, self.losses = folder, []
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 4))
        data = [{"image": torch.full((4,), float(i))} for i in range(12)]
        dataset = Dataset(data, RandGaussianNoised("image", prob=1.0, std=0.5))
        sampler = torch.utils.data.WeightedRandomSampler(torch.arange(1.0, 13), LENGTH * 4)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        self.ema = EMAHandler(self.network, decay=0.5)
        objects = {
            "network": self.network,
            "optimizer": optimizer,
            "lr_scheduler": schedule,
            "ema": self.ema,
        }
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=options.pop("epochs", EPOCHS),
            train_data_loader=DataLoader(
                dataset, batch_size=4, sampler=sampler, num_workers=workers
            ),
            network=self.network,
            optimizer=optimizer,
            loss_function=loss or nn.MSELoss(),
            prepare_batch=AutoencoderPrepareBatch(),
            decollate=False,
            train_handlers=[
                EpochSeed(seed),
                LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
                FiniteLoss(),
                GradientNorm(),
                self.ema,
                WeightsSaver(self.network, folder, ema=self.ema),
                TrainingCheckpoint(folder, objects, made_with=options.pop("made_with", None)),
            ],
            **options,
        )
        self.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: self.losses.append(e.state.output["loss"].item())
        )
        if kill_at:
            self.trainer.add_event_handler(Events.ITERATION_STARTED(once=kill_at), self.kill)

    def kill(self) -> None:
        raise Killed

    def run(self) -> list[float]:
        self.trainer.run()
        return self.losses


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(tmp_path_factory.mktemp("whole"))
    assert len(set(training.run())) == EPOCHS * LENGTH
    return training


@pytest.mark.parametrize("kill_at", [2, 4, 8, 12])
def test_a_training_killed_at_any_step_and_resumed_has_the_curve_of_the_whole_one(
    whole: Training, tmp_path: Path, kill_at: int
) -> None:
    with pytest.raises(Killed):
        Training(tmp_path, kill_at=kill_at).run()
    resumed = Training(tmp_path)
    saved = (kill_at - 1) // LENGTH * LENGTH  # the last end of an epoch
    assert resumed.run() == whole.losses[saved:]
    for name, value in torch.load(whole.folder / "model.pt", weights_only=True).items():
        assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)[name], value)
    torch.testing.assert_close(resumed.ema.state_dict(), whole.ema.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_other_patches_or_options_is_refused(tmp_path: Path) -> None:
    """It was gone on from, or, where it was complete, taken for the new one without a step."""
    made_with = {"learning_rate": 0.01, "betas": [0.9, 0.99], "the digest of the patches": "ab"}
    Training(tmp_path, made_with=made_with).run()
    assert Training(tmp_path, made_with=dict(made_with)).run() == []
    for change, told in (
        ({"learning_rate": 0.1}, "learning_rate is 0.1, and was 0.01"),
        ({"the digest of the patches": "cd"}, "the digest of the patches is 'cd', and was 'ab'"),
    ):
        before = (tmp_path / "model.pt").read_bytes()
        with pytest.raises(ValueError, match=f"one of this training, got .*training.pt' .{told}"):
            Training(tmp_path, made_with={**made_with, **change}).run()
        assert (tmp_path / "model.pt").read_bytes() == before
    assert Training(tmp_path, made_with={"of a later version": 1}).run() == []


def test_a_training_killed_twice_and_in_workers_has_the_same_curve(tmp_path: Path) -> None:
    expected = Training(tmp_path / "whole", workers=1).run()
    losses = []
    for kill_at in (5, 8, 0):
        training = Training(tmp_path / "torn", kill_at=kill_at, workers=1)
        try:
            training.run()
        except Killed:
            training.losses = training.losses[
                : len(training.losses) // LENGTH * LENGTH
            ]  # whole epochs
        losses += training.losses
    assert losses == expected


def test_what_is_left_of_a_killed_training_changes_nothing_of_the_next(
    whole: Training, tmp_path: Path
) -> None:
    killed = Training(tmp_path / "killed", kill_at=5)
    with pytest.raises(Killed):
        killed.run()
    del killed
    after = Training(tmp_path / "next")
    after.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=1), lambda: gc.collect()
    )  # the collector runs when it likes
    assert after.run() == whole.losses


def test_the_seeds_of_epochs_give_the_random_state_back_when_all_is_done() -> None:
    engine = Engine(lambda e, b: torch.rand(()))
    EpochSeed(1).attach(engine)
    with kept_random_state():
        torch.manual_seed(5)
        expected = torch.rand(2)
        torch.manual_seed(5)
        engine.run([0, 1], max_epochs=2)
        assert torch.equal(torch.rand(2), expected)


def test_workers_that_stay_are_refused(tmp_path: Path) -> None:
    """They are not seeded anew, and an epoch would differ from the resumed one."""
    training = Training(tmp_path, workers=1)
    training.trainer.data_loader = DataLoader([0], num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="got a loader with persistent_workers=True: set it to F"):
        training.run()
    assert not training.losses


def test_more_epochs_continue_a_finished_training_and_fewer_are_refused(
    whole: Training, tmp_path: Path
) -> None:
    Training(tmp_path, epochs=2).run()
    assert Training(tmp_path).run() == whole.losses[2 * LENGTH :]
    assert Training(tmp_path).run() == []
    with pytest.raises(ValueError, match="at least the 4 that this training has had, got 3"):
        Training(tmp_path, epochs=3).run()


def test_epochs_differ_from_each_other_and_between_seeds(whole: Training, tmp_path: Path) -> None:
    drawn: dict[Any, float] = {}
    for seed in (0, 1):
        engine = Engine(lambda e, b: None)
        EpochSeed(seed).attach(engine)
        engine.add_event_handler(
            Events.ITERATION_STARTED,
            lambda e, s=seed: drawn.update({(s, e.state.epoch): float(torch.rand(()))}),
        )
        engine.run([0], max_epochs=3)
    assert len(set(drawn.values())) == 6
    assert Training(tmp_path, seed=1).run() != whole.losses


# -------------------------------------------------------------------------------------------------
# --------------- damage


def test_a_damaged_or_foreign_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Training(tmp_path, kill_at=5).run()
    path = tmp_path / "training.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match="the checkpoint must be one of this training, got '.*training.pt' "
    ):
        Training(tmp_path).run()
    torch.save({"network": {}}, path)
    with pytest.raises(
        ValueError, match="the checkpoint must be one of this training, got '.*training.pt' "
    ):
        Training(tmp_path).run()


def fail_at(step: int, gradient_only: bool = False) -> Any:
    """A loss that is NaN, or whose gradient alone is, from a step on."""
    calls = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        value = (output - target).square().mean()
        if len(calls) < step:
            return value
        return (
            value + (output - output.detach()).abs().sqrt().sum()
            if gradient_only
            else value * math.nan
        )

    return loss


@pytest.mark.parametrize(
    ("gradient_only", "message"),
    [
        (False, "the loss must be finite, got nan at iteration 6"),
        (True, r"gradient must be finite, got norm nan, loss \d.* at iteration 6"),
    ],
)
def test_a_step_that_is_not_finite_stops_and_spoils_nothing(
    whole: Training, tmp_path: Path, gradient_only: bool, message: str
) -> None:
    failing = Training(
        tmp_path, loss=fail_at(2 * LENGTH, gradient_only)
    )  # the last step before a checkpoint
    with pytest.raises(RuntimeError, match=message):
        failing.run()
    for state in (
        failing.network.state_dict(),
        failing.ema.state_dict(),
        torch.load(tmp_path / "model.pt", weights_only=True),
    ):
        assert all(bool(v.isfinite().all()) for v in state.values())
    assert (
        Training(tmp_path).run() == whole.losses[LENGTH:]
    )  # and the last good checkpoint goes on


def test_a_kill_during_a_save_leaves_the_previous_checkpoint(
    whole: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def torn(content: Any, stream: Any) -> None:
        calls.append(1)
        if len(calls) == 4:  # weights and checkpoint of the second epoch: killed within the latter
            stream.write(b"half a checkpoint")
            raise Killed
        save(content, stream)

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        Training(tmp_path).run()
    monkeypatch.undo()
    assert Training(tmp_path).run() == whole.losses[LENGTH:]


@pytest.mark.parametrize("previous", [True, False])
def test_a_full_disk_is_one_clear_error_and_the_previous_file_survives(
    tmp_path: Path, previous: bool
) -> None:
    path = tmp_path / "model.pt"
    if previous:
        save_weights(path, {"weight": torch.ones(3)})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4096, limit[1])
    )  # no file may grow beyond: writes fail as on a full disk
    try:
        kept = "the previous file is kept" if previous else "there is no previous file"
        with pytest.raises(OSError, match=f"model.pt' must be writable, got .*; {kept}"):
            save_weights(path, {"weight": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [p.name for p in tmp_path.iterdir()] == (["model.pt"] if previous else [])
    if previous:
        assert torch.equal(
            load_weights(nn.Linear(1, 3, bias=False), _as_layer(path)).weight, torch.ones(3, 1)
        )


def _as_layer(path: Path) -> Path:
    write_state(path, {"weight": torch.load(path, weights_only=True)["weight"].view(3, 1)})
    return path


# -------------------------------------------------------------------------------------------------
# ------------- gradients


def test_the_norm_is_that_of_all_gradients_before_the_step(tmp_path: Path) -> None:
    training, norms = Training(tmp_path, epochs=1), []

    def compare(engine: Any) -> None:
        truth = torch.cat([p.grad.flatten() for p in training.network.parameters()]).norm()
        norms.append((float(engine.state.output["gradient_norm"]), float(truth)))
        assert training_scalars(engine.optimizer)(engine.state.output) == {
            "learning_rate": engine.optimizer.param_groups[0]["lr"],
            "loss": training_scalars(engine.optimizer)([engine.state.output])["loss"],
            "gradient_norm": norms[-1][0],
        }

    training.trainer.add_event_handler(Events.ITERATION_COMPLETED, compare)
    training.run()
    assert len(norms) == LENGTH and all(a == pytest.approx(b, rel=1e-5) for a, b in norms)


def test_large_gradients_are_scaled_down_to_the_norm() -> None:
    weight = nn.Parameter(torch.zeros(2))
    gradient = torch.tensor([3.0, 4.0])

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * gradient

    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.zeros(1)}],
        network=Network(),
        optimizer=torch.optim.SGD([weight], lr=1.0),
        loss_function=lambda output, target: output.sum(),
        prepare_batch=AutoencoderPrepareBatch(),
        train_handlers=[GradientNorm(max_norm=2.0)],
    )
    trainer.run()
    torch.testing.assert_close(weight.detach(), -gradient * 2 / 5, rtol=1e-4, atol=0)


def test_accumulated_gradients_are_measured_once_a_step(tmp_path: Path) -> None:
    measured: list[bool] = []
    training = Training(tmp_path, epochs=2, accumulation_steps=2)
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: measured.append("gradient_norm" in e.state.output)
    )
    training.run()
    assert (
        measured == [False, True, True] * 2
    )  # of three batches: two together, and the last alone at the end of the epoch
    assert int(training.ema.average.n_averaged) == 4  # the average counts steps, too
