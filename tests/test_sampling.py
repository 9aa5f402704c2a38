"""A patch follows from its label and seed alone; the guide leads where it is told to; errors name time and class."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion
from monai_histodiff.sampling import candidate_seed

LABELS, SEEDS = [0, 1, 2, 0, 1, 2, 2], [11, 5, 7, 2**31, 3, 7, 0]
VARIANTS: list[dict[str, Any]] = [{}, {"solver": "ddim"}, {"solver": "ddim", "eta": 1.0}, {"mode": "x0"}, {"mode": "clean"}]


@pytest.fixture
def make_sampler(model: LatentDiffusion, guide: LatentClassifier) -> Callable[..., GuidedSampler]:
    return lambda **options: GuidedSampler(model, guide, **{"steps": 4, "progress": False, **options})


MakeSampler = Callable[..., GuidedSampler]


# --------------------------------------------------------------------------------------------------- a patch is its own seed


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_patch_does_not_depend_on_its_neighbours(options: dict[str, Any], make_sampler: MakeSampler) -> None:
    truth = make_sampler(**options)(LABELS, SEEDS)
    assert truth.shape == (7, 3, 32, 32) and truth.dtype == torch.float32 and truth.device.type == "cpu"
    assert 0 <= float(truth.min()) < float(truth.max()) <= 1 and not truth.requires_grad
    for chunk in (1, 2, 3):
        assert torch.allclose(make_sampler(max_batch=chunk, **options)(LABELS, SEEDS), truth, atol=1e-5), f"max_batch={chunk}"
    sampler, order = make_sampler(**options), [6, 2, 0, 5, 1, 4, 3]
    shuffled = sampler([LABELS[i] for i in order], [SEEDS[i] for i in order])
    assert torch.allclose(shuffled, truth[order], atol=1e-5)
    assert torch.allclose(sampler(LABELS[3:4], SEEDS[3:4]), truth[3:4], atol=1e-5)


def test_seed_and_label_both_matter(make_sampler: MakeSampler) -> None:
    sampler = make_sampler(scale=6.0, cap=1.0)
    patches = sampler([0, 0, 0, 1], [1, 2, 1, 1])
    assert torch.allclose(patches[0], patches[2], atol=1e-6), "the same label and seed"
    assert float((patches[0] - patches[1]).abs().mean()) > 0.02, "another seed"
    assert float((patches[0] - patches[3]).abs().mean()) > 0.002, "another label"


def test_global_random_state_is_neither_used_nor_changed(make_sampler: MakeSampler) -> None:
    sampler = make_sampler(solver="ddim", eta=1.0)
    torch.manual_seed(1)
    first, state = sampler([0], [5]), torch.get_rng_state()
    assert torch.equal(torch.random.manual_seed(1).get_state(), state)
    torch.manual_seed(2)
    assert torch.equal(sampler([0], [5]), first)


def test_stochastic_steps_depend_on_the_seed_too(make_sampler: MakeSampler) -> None:
    ancestral, plain = (make_sampler(solver="ddim", eta=eta)([0, 1], [1, 2]) for eta in (1.0, 0.0))
    assert float((ancestral - plain).abs().mean()) > 1e-3


def test_seeds_and_labels_may_be_tensors(make_sampler: MakeSampler) -> None:
    sampler = make_sampler()
    assert torch.equal(sampler(torch.tensor(LABELS), torch.tensor(SEEDS)), sampler(LABELS, SEEDS))
    assert torch.equal(sampler(torch.tensor(LABELS, dtype=torch.int32), SEEDS), sampler(LABELS, SEEDS))


def test_latents_are_those_of_the_patches(make_sampler: MakeSampler, model: LatentDiffusion) -> None:
    sampler = make_sampler(max_batch=3)
    latents = sampler.latents(LABELS, SEEDS)
    assert latents.shape == (7, 4, 8, 8) and not latents.requires_grad
    with torch.no_grad():
        assert torch.allclose(model.decode(latents), sampler(LABELS, SEEDS), atol=1e-5)


def test_more_steps_converge(make_sampler: MakeSampler) -> None:
    """Two solvers, one trajectory: what they share is the schedule, the grid's ends and the meaning of the prediction."""
    many = make_sampler(steps=80).latents(None, SEEDS[:2])
    for options in ({"steps": 40}, {"steps": 80, "solver": "ddim"}):
        assert float((make_sampler(**options).latents(None, SEEDS[:2]) - many).abs().mean()) < 0.1, options


def test_sampling_works_within_inference_mode_and_leaves_no_gradient(
    make_sampler: MakeSampler, model: LatentDiffusion, guide: LatentClassifier
) -> None:
    truth = make_sampler()([0, 1], [1, 2])
    with torch.inference_mode():
        assert torch.equal(make_sampler()([0, 1], [1, 2]), truth)
    model.train()
    guide.train()
    assert torch.equal(make_sampler()([0, 1], [1, 2]), truth), "dropout is off while sampling"
    assert all(p.grad is None and p.requires_grad for net in (model, guide) for p in net.parameters())


# ----------------------------------------------------------------------------------------------------------------- guidance


def test_unconditional_samples(model: LatentDiffusion, make_sampler: MakeSampler) -> None:
    alone = GuidedSampler(model, steps=4)
    truth = alone(None, SEEDS)
    assert torch.equal(make_sampler()(None, SEEDS), truth), "without labels the guide is not asked"
    assert torch.allclose(make_sampler(scale=0)(LABELS, SEEDS), truth, atol=1e-6), "a scale of zero changes nothing"
    assert float((make_sampler()(LABELS, SEEDS) - truth).abs().mean()) > 1e-3
    nowhere = make_sampler(interval=(20.0, 30.0))  # beyond the schedule
    assert torch.allclose(nowhere(LABELS, SEEDS), truth, atol=1e-6)


class Zero(nn.Module):
    """A UNet that answers zero: as a velocity, the exact denoiser of latents that are standard normal."""

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(z)


class ChannelMeans(nn.Module):
    """A guide whose logit of class ``k`` is proportional to the mean of channel ``k``."""

    in_channels, num_classes = 4, 3

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return 4 * z.mean((2, 3))[:, :3]


def log_probabilities(guide: nn.Module, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.log_softmax(guide(latents, torch.zeros(len(latents))), 1)


@pytest.mark.parametrize("mode", ["noisy", "x0", "clean"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim"])
def test_guide_raises_the_probability_of_its_own_class(mode: str, solver: str, model: LatentDiffusion) -> None:
    unet, guide = Zero(), ChannelMeans()
    model.unet = unet  # type: ignore
    labels, seeds = torch.arange(12) % 3, list(range(12))
    own = []
    for scale in (0.0, 0.1, 0.5):
        sampler = GuidedSampler(model, guide, 8, scale, (-3, 10), 1.0, mode=mode, solver=solver, progress=False)  # type: ignore
        own.append(log_probabilities(guide, sampler.latents(labels, seeds)).gather(1, labels[:, None])[:, 0])
    assert bool((own[1] > own[0]).all()) and bool((own[2] > own[1]).all()), "more scale, more guidance, for every sample"
    assert float((own[2] - own[0]).mean()) > 0.05


def test_trained_guide_leads_samples_to_their_class(model: LatentDiffusion, guide: LatentClassifier) -> None:
    """A guide that learned classes from noisy latents makes an unconditional model draw them."""
    unet, judge = Zero(), ChannelMeans()
    model.unet = unet  # type: ignore
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(guide.parameters(), 3e-3)
    for _ in range(80):
        clean, t = torch.randn(64, 4, 8, 8) + torch.randn(64, 4, 1, 1) * 0.5, torch.rand(64)
        noisy = model.target(clean, torch.randn_like(clean), t)[0]
        loss = nn.functional.cross_entropy(guide(noisy, t), judge(clean, t).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    labels, seeds = torch.arange(24) % 3, list(range(24))
    hits = []
    for scale in (0.0, 6.0):
        latents = GuidedSampler(model, guide, 8, scale, cap=1.0, progress=False).latents(labels, seeds)
        hits.append(float((judge(latents, labels).argmax(1) == labels).float().mean()))
    assert hits[0] < 0.6 and hits[1] > 0.9


def test_temperature_and_cap_reach_the_guide(make_sampler: MakeSampler) -> None:
    truth = make_sampler(scale=0).latents(LABELS, SEEDS)
    moved = [
        float((make_sampler(scale=8.0, **options).latents(LABELS, SEEDS) - truth).norm()) for options in ({}, {"temperature": 10.0})
    ]
    assert 0 < moved[1] < 0.5 * moved[0], "flatter logits guide less"
    moved = [float((make_sampler(scale=1e3, cap=cap).latents(LABELS, SEEDS) - truth).norm()) for cap in (0.01, 0.5)]
    assert 0 < moved[0] < 0.2 * moved[1], "a lower cap guides less"


def test_settings_make_the_same_sampler_again(model: LatentDiffusion, guide: LatentClassifier) -> None:
    options: dict[str, Any] = {
        "steps": 3,
        "scale": 2.5,
        "interval": [-4, 5],
        "cap": 0.7,
        "temperature": 1.5,
        "mode": "x0",
        "solver": "ddim",
        "eta": 0.5,
    }
    sampler = GuidedSampler(model, guide, progress=False, max_batch=2, **options)
    stored = json.loads(json.dumps(sampler.settings))
    assert stored == options
    assert torch.allclose(
        GuidedSampler(model, guide, progress=False, **stored)([1, 2, 0], [1, 2, 3]), sampler([1, 2, 0], [1, 2, 3]), atol=1e-5
    )


# ------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps and max_batch must be at least 1, got 0 and 64"),
        ({"max_batch": 0}, "steps and max_batch must be at least 1, got 4 and 0"),
        ({"solver": "euler"}, "solver must be one of .* got 'euler'"),
        ({"mode": "latent"}, "mode one of .* and 'latent'"),
    ],
)
def test_argument_out_of_range(options: dict[str, Any], message: str, make_sampler: MakeSampler) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler(**options)


@pytest.mark.parametrize(
    "options", [{"scale": -1.0}, {"cap": 0.0}, {"interval": (2.0, 1.0)}], ids=["negative scale", "no cap", "empty interval"]
)
def test_guidance_out_of_range(options: dict[str, Any], make_sampler: MakeSampler) -> None:
    with pytest.raises(ValueError, match="scale must be >= 0, cap > 0 and interval rising"):
        make_sampler(**options)([0], [1])


def test_guide_of_other_latents_is_refused(model: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="the guide must read 4 latent channels, got one for 8"):
        GuidedSampler(model, LatentClassifier(8, 3, (32, 32)))


@pytest.mark.parametrize(
    ("labels", "seeds", "message"),
    [
        ([0, 1], [1], r"each seed needs one label, got 1 seeds and labels of shape \(2,\)"),
        (torch.zeros(2, 1), [1, 2], r"labels of shape \(2, 1\)"),
        ([0, 3], [1, 2], "labels must lie from 0 to 2, got 0 to 3"),
        ([-1, 2], [1, 2], "labels must lie from 0 to 2, got -1 to 2"),
        ([], [], "at least one seed is needed, got none"),
        (None, [], "at least one seed is needed, got none"),
    ],
)
def test_labels_and_seeds_that_do_not_fit(labels: Any, seeds: list[int], message: str, make_sampler: MakeSampler) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler()(labels, seeds)


def test_labels_need_a_guide(model: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="labels need a guide, got labels and guide=None"):
        GuidedSampler(model)([0], [1])


class Faulty(nn.Module):
    """A UNet whose answer for the latent at place ``row`` of a batch holds one NaN at times below 0.6."""

    def __init__(self, unet: nn.Module, row: int) -> None:
        super().__init__()
        self.unet, self.row = unet, row

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        out = self.unet(z, timesteps).clone()
        if float(timesteps[0]) < 600:
            out[self.row, 1, 2, 3] = float("nan")
        return out


def test_value_that_is_not_finite_is_named_by_time_and_class(make_sampler: MakeSampler, model: LatentDiffusion) -> None:
    unet: Any = Faulty(model.unet, row=2)
    model.unet = unet
    sampler = make_sampler(solver="ddim", steps=4)  # at times 1, 0.75, 0.5, 0.25
    with pytest.raises(FloatingPointError, match=r"must be finite, .* at t = 0\.5000, class 1$"):
        sampler([0, 2, 1, 0], [1, 2, 3, 4])
    with pytest.raises(FloatingPointError, match=r"at t = 0\.5000, unconditional$"):
        sampler(None, [1, 2, 3])


def test_guide_that_is_not_finite_is_named(make_sampler: MakeSampler, guide: LatentClassifier) -> None:
    with torch.no_grad():
        guide.stem.weight[0, 0, 0, 0] = float("inf")
    for cap in (0.5, float("inf")):
        with pytest.raises(FloatingPointError, match=r"must be finite, got a value that is not at t = \d\.\d{4}, class 2"):
            make_sampler(cap=cap)([2, 2], [1, 2])


# -------------------------------------------------------------------------------------------------------------------- seeds


def test_candidate_seeds_are_apart_and_stay_what_they_are() -> None:
    seeds = {candidate_seed(run, label, j) for run in range(4) for label in range(6) for j in range(200)}
    assert len(seeds) == 4 * 6 * 200 and all(0 <= s < 2**32 for s in seeds)
    assert candidate_seed(0, 1) != candidate_seed(1, 0)
    # banks and reports name these: they must not change between versions
    assert [candidate_seed(0, 0, 0), candidate_seed(7, 2, 31)] == [2968811710, 2031635820]
