"""Muon on matrices and kernels, AdamW on the rest."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from monai_histodiff.training import GradientNorm, MuonAdamW, muon


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(288, 4)
    )


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for i in range(start, start + steps):
        torch.manual_seed(100 + i)
        optimizer.zero_grad()
        net(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("native", [True, False])
def test_steps_are_those_of_torch_on_flattened_kernels(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the rounding of bfloat16, where a device emulates it."""
    monkeypatch.setattr(muon, "native_bfloat16", lambda device: native)
    net = network()
    twin, before = copy.deepcopy(net), copy.deepcopy(net)
    train(net, MuonAdamW(net.parameters(), 0.01, 0.003, 0.1, 0.9, (0.8, 0.95)), 3)
    matrices = [twin[0].weight, twin[4].weight]
    flat = [nn.Parameter(p.detach().flatten(1).clone()) for p in matrices]
    matrix = torch.optim.Muon(
        flat, lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    others = [twin[0].bias, *twin[1].parameters(), twin[4].bias]
    adamw = torch.optim.AdamW(others, lr=0.003, weight_decay=0.1, betas=(0.8, 0.95))
    for i in range(3):
        torch.manual_seed(100 + i)
        twin.zero_grad()
        twin(torch.randn(4, 3, 8, 8)).square().mean().backward()
        for own, kernel in zip(flat, matrices, strict=True):
            own.grad = kernel.grad.flatten(1)
        matrix.step()
        adamw.step()
        with torch.no_grad():
            for own, kernel in zip(flat, matrices, strict=True):
                kernel.copy_(own.view_as(kernel))
    for a, b, start in zip(*(n.parameters() for n in (net, twin, before)), strict=True):
        if native:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        else:
            moved, apart = (b - start).detach().norm(), (a - b).detach().norm()
            assert 0 < float(apart) < 0.02 * float(moved)


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5)])
def test_a_matrix_becomes_nearly_orthogonal(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    found = muon._orthogonal(
        torch.randn(shape, generator=generator), (3.4445, -4.775, 2.0315), 5, 1e-7
    )
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and 0.5 < float(values.min()) and float(values.max()) < 1.4


def test_a_schedule_reaches_both() -> None:
    optimizer = MuonAdamW(network().parameters(), 0.1, 0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.01]
    optimizer.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.05, 0.01]


def test_a_resumed_training_is_the_uninterrupted_one() -> None:
    whole, parts = network(), network()
    train(whole, MuonAdamW(whole.parameters()), 4)
    first = MuonAdamW(parts.parameters())
    train(parts, first, 2)
    resumed = network(1)
    resumed.load_state_dict(parts.state_dict())
    second = MuonAdamW(resumed.parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(resumed, second, 2, start=2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_are_seen_and_clipped_as_those_of_the_network() -> None:
    """By ``GradientNorm`` and a gradient scaler, which ask the optimiser."""
    net, seen = network(), []
    optimizer = MuonAdamW(net.parameters())
    mine = [p for group in optimizer.param_groups for p in group["params"]]
    assert {*map(id, mine)} == {*map(id, net.parameters())}

    def stepped(engine: Any) -> None:
        seen.append(torch.nn.utils.get_total_norm([p.grad for p in net.parameters()]))

    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.randn(4, 3, 8, 8), "label": torch.zeros(4, 4)}],
        network=net,
        optimizer=optimizer,
        loss_function=lambda output, target: 1e3 * output.square().mean(),
        train_handlers=[GradientNorm(max_norm=0.5)],
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, stepped)
    trainer.run()
    assert float(seen[0]) == pytest.approx(0.5, rel=1e-3)
    assert float(trainer.state.output["gradient_norm"]) > 5


def test_a_kernel_whose_gradient_is_not_finite_stops_the_training() -> None:
    net = network()
    net[0].weight.register_hook(lambda gradient: gradient * float("nan"))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.randn(4, 3, 8, 8), "label": torch.zeros(4, 4)}],
        network=net,
        optimizer=MuonAdamW(net.parameters()),
        loss_function=nn.MSELoss(),
        train_handlers=[GradientNorm()],
    )
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(RuntimeError, match="the gradient must be finite, got norm nan"):
        trainer.run()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_what_cannot_be_optimised_is_refused() -> None:
    with pytest.raises(ValueError, match="needs parameters that require a gradient, got none"):
        MuonAdamW([nn.Parameter(torch.zeros(2), requires_grad=False)])
    net = network()
    optimizer = MuonAdamW(net.parameters())
    net[4].weight.data = net[4].weight.data.clone()
    with pytest.raises(ValueError, match="must be made after the network is moved"):
        train(net, optimizer, 1)
    last = network().to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"must be contiguous in memory, got one \(8, 3, 3, 3\)"):
        MuonAdamW(last.parameters())


def test_what_it_is_made_of_is_given_once_and_as_parameters() -> None:
    net = network()
    with pytest.raises(ValueError, match="params must be .*, got a dict: give .parameters"):
        MuonAdamW([{"params": net.parameters()}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="params must be .*, got a tuple: give .parameters"):
        MuonAdamW(net.named_parameters())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be given once, got one \(8, 3, 3, 3\) twice"):
        MuonAdamW([net[0].weight, net[0].bias, net[0].weight])
    optimizer = MuonAdamW(net.parameters())
    with pytest.raises(ValueError, match="must be given when it is made, got another group"):
        optimizer.add_param_group({"params": network(1).parameters()})
    train(net, optimizer, 1)


def test_a_copy_is_refused() -> None:
    """Its views would share memory with no network."""
    optimizer = MuonAdamW(network().parameters())
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="got a copy or a pickle of it: make one of"):
            copied(optimizer)


def test_a_state_of_others_is_refused_and_changes_nothing() -> None:
    net, wide = network(), nn.Sequential(nn.Conv2d(3, 8, 5), nn.GroupNorm(2, 8))
    wide.append(nn.Flatten()).append(nn.Linear(128, 4))  # as many parameters
    mine, theirs = MuonAdamW(net.parameters()), MuonAdamW(wide.parameters())
    adamw, fewer = torch.optim.AdamW(net.parameters()), MuonAdamW(net[0].parameters())
    for own, optimizer in ((net, mine), (wide, theirs), (net, adamw)):
        train(own, optimizer, 1)
    before = copy.deepcopy(mine.state_dict())
    for other in (theirs, adamw, fewer, MuonAdamW([net[0].weight])):
        with pytest.raises(ValueError, match="must be one of this optimiser and these parameters"):
            mine.load_state_dict(other.state_dict())
    after = mine.state_dict()
    for old, new in zip(before["parts"], after["parts"], strict=True):
        for i, kept in old["state"].items():
            assert all(torch.equal(value, new["state"][i][key]) for key, value in kept.items())
