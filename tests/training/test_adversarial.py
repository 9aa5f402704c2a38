"""The decoder's loss in closed form; the discriminator learns what can be learned, and no more."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from monai_histodiff import PatchEncoder
from monai_histodiff.training import AutoencoderLoss, DecoderLoss, DiscriminatorStep


class Opinion(nn.Module):
    """Logits ``a * mean + b`` of each patch, as the last of a list, as MONAI's discriminator."""

    def __init__(self, a: float = 0.0, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, self.a * x.mean((1, 2, 3)) + self.b]


def pictures(x: Tensor) -> list[Tensor]:
    """Maps that are the patches themselves, and their double."""
    return [x, 2 * x]


def pair(n: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, 16, 16, generator=g), torch.rand(n, 3, 16, 16, generator=g)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    out, image = pair()
    pixels = float(AutoencoderLoss(0.5)(out, image))
    none = DecoderLoss(Opinion(b=3.0), pictures, 0.0, 0.0, 0.5)
    assert float(none(out, image)) == pytest.approx(pixels)
    opposed = DecoderLoss(Opinion(b=3.0), pictures, 0.0, 1.0, 0.5)(out, image)
    assert float(opposed) - pixels == pytest.approx(math.log1p(math.exp(-3)), abs=1e-6)
    distant = DecoderLoss(Opinion(), pictures, 1.0, 0.0, 0.5)(out, image)
    # a map is measured in its own deviation, so that its scale does not count
    expected = 2 * float(F.l1_loss(out, image) / image.std())
    assert float(distant) - pixels == pytest.approx(expected, rel=1e-5)


def test_the_loss_asks_for_patches_that_are_taken_for_real_and_leaves_its_judges_alone() -> None:
    out, image = pair()
    loss = DecoderLoss(Opinion(a=2.0), pictures, 0.0, 1.0, 0.0)
    out.requires_grad_(True)
    (loss(out, image) - AutoencoderLoss(0.0)(out, image)).backward()
    assert out.grad is not None
    assert bool((out.grad < 0).all())  # brighter is more real
    assert loss.discriminator.a.grad is None
    assert loss.discriminator.a.requires_grad


def test_what_is_frozen_of_the_discriminator_stays_so_and_the_rest_is_trained() -> None:
    out, image = pair()
    loss = DecoderLoss(Opinion(a=2.0), pictures, 0.0, 1.0, 0.0)
    loss.discriminator.b.requires_grad_(False)
    loss(out, image)
    loss.discriminator.forward = lambda x: None  # type: ignore[method-assign]
    with pytest.raises(TypeError):
        loss(out, image)  # also after an error
    assert loss.discriminator.a.requires_grad and not loss.discriminator.b.requires_grad


def test_under_bfloat16_it_is_nearly_the_same() -> None:
    out, image = pair()
    torch.manual_seed(0)
    judge = PatchDiscriminator(2, 8, 3, num_layers_d=2)
    encoder = PatchEncoder((4, 8, 8), 8, 2).eval()
    exact, rounded = (
        float(DecoderLoss(judge, encoder.maps, 1.0, 1.0, bfloat16=b)(out, image).detach())
        for b in (False, True)
    )
    assert rounded == pytest.approx(exact, rel=0.02)


def engine_of(real: Tensor, made: Tensor, decollated: bool) -> Engine:
    engine = Engine(lambda e, b: None)
    engine.state.iteration, engine.state.epoch_length = 1, 1
    whole: Any = {"image": real, "pred": made}
    items = [{"image": a, "pred": b} for a, b in zip(real, made, strict=True)]
    engine.state.output = items if decollated else whole
    return engine


@pytest.mark.parametrize("decollated", [False, True])
def test_the_discriminator_learns_the_odds(decollated: bool) -> None:
    """Its optimum is the logarithm of the ratio of densities (Goodfellow et al. 2014): for means
    of N(m, s^2) and N(-m, s^2) that is 2 m x / s^2.
    """
    torch.manual_seed(0)
    m, s, n = 0.25, 0.5, 20000
    real = ((m + s * torch.randn(n)) / 2 + 0.5).view(n, 1, 1, 1)  # patches in [0, 1]
    made = ((-m + s * torch.randn(n)) / 2 + 0.5).view(n, 1, 1, 1)
    judge = Opinion()
    loss = DecoderLoss(judge, pictures)
    step = DiscriminatorStep(loss, torch.optim.AdamW(judge.parameters(), 0.1, weight_decay=0.0))
    engine = engine_of(
        real[: 2000 if decollated else n], made[: 2000 if decollated else n], decollated
    )
    for _ in range(80):
        step(engine)
    assert float(judge.a.detach()) == pytest.approx(2 * m / s**2, rel=0.12 if decollated else 0.05)
    assert float(judge.b.detach()) == pytest.approx(0, abs=0.1 if decollated else 0.03)
    item: Any = engine.state.output[0] if decollated else engine.state.output
    assert item["discriminator_loss"] < 2 * math.log(2)


def test_what_cannot_be_told_apart_costs_two_log_two() -> None:
    same = pair()[0]
    judge = Opinion(a=0.3)
    engine = engine_of(same, same, False)
    step = DiscriminatorStep(
        DecoderLoss(judge, pictures), torch.optim.AdamW(judge.parameters(), 0.05, weight_decay=0.0)
    )
    for _ in range(200):
        step(engine)
    output: Any = engine.state.output
    assert output["discriminator_loss"] == pytest.approx(2 * math.log(2), abs=1e-3)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    judge = Opinion(a=0.3)
    engine = engine_of(torch.full((2, 3, 4, 4), math.nan), pair(2)[0][..., :4, :4], False)
    step = DiscriminatorStep(DecoderLoss(judge, pictures), torch.optim.AdamW(judge.parameters()))
    with pytest.raises(RuntimeError, match="discriminator's loss must be finite, got nan at it"):
        step(engine)
    assert float(judge.a.detach()) == pytest.approx(0.3)


def test_only_steps_of_the_trainer_count() -> None:
    judge = Opinion(a=0.3)
    engine = engine_of(*pair(), False)
    engine.state.epoch_length = 4
    engine.accumulation_steps = 2  # type: ignore[attr-defined]
    step = DiscriminatorStep(DecoderLoss(judge, pictures), torch.optim.AdamW(judge.parameters()))
    step(engine)
    assert float(judge.a.detach()) == pytest.approx(0.3)
    engine.state.iteration = 2
    step(engine)
    assert float(judge.a.detach()) != pytest.approx(0.3, abs=1e-6)
