"""A patch follows from its label and seed alone; the guide leads where it is told to; errors name
step and class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from warm import FORKS

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion
from monai_histodiff.diffusion.batches import CPU_BATCH, CUDA_BATCH, batch_from_memory
from monai_histodiff.diffusion.guidance import Watched, class_log_prob
from monai_histodiff.diffusion.guidance import guide as guided
from monai_histodiff.diffusion.schedules import NoiseSchedule, log_snr_grid, uniform_grid
from monai_histodiff.diffusion.solvers import ddim, dpmpp_2m
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.diffusion.wanted import Wanted
from monai_histodiff.utils.seeds import candidate_seed

LABELS, SEEDS = [0, 1, 2, 0, 1, 2, 2], [11, 5, 7, 2**31, 3, 7, 0]
NAN = float("nan")
VARIANTS: list[dict[str, Any]] = [
    {},
    {"solver": "ddim"},
    {"solver": "ddim", "eta": 1.0},
    {"mode": "x0"},
    {"mode": "clean"},
    {"stop": 2.0},
    {"stop": 2.0, "solver": "ddim", "eta": 1.0},
]


@pytest.fixture
def make_sampler(model: LatentDiffusion, guide: LatentClassifier) -> Callable[..., GuidedSampler]:
    return lambda **options: GuidedSampler(
        model, guide, **{"steps": 4, "progress": False, **options}
    )


MakeSampler = Callable[..., GuidedSampler]


# -------------------------------------------------------------------------------------------------
# -- a patch is its own seed


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_patch_does_not_depend_on_its_neighbours(
    options: dict[str, Any], make_sampler: MakeSampler
) -> None:
    truth = make_sampler(**options)(LABELS, SEEDS)
    assert (
        truth.shape == (7, 3, 32, 32)
        and truth.dtype == torch.float32
        and truth.device.type == "cpu"
    )
    assert 0 <= float(truth.min()) < float(truth.max()) <= 1 and not truth.requires_grad
    for chunk in (1, 2, 3):
        assert torch.allclose(
            make_sampler(max_batch=chunk, **options)(LABELS, SEEDS), truth, atol=1e-5
        ), f"max_batch={chunk}"
    sampler, order = make_sampler(**options), [6, 2, 0, 5, 1, 4, 3]
    shuffled = sampler([LABELS[i] for i in order], [SEEDS[i] for i in order])
    assert torch.allclose(shuffled, truth[order], atol=1e-5)
    assert torch.allclose(sampler(LABELS[3:4], SEEDS[3:4]), truth[3:4], atol=1e-5)


def levels(patches: Tensor) -> Tensor:
    return (patches * 255).round().int()


def test_patches_are_the_same_bits_within_a_batch_and_a_rounding_apart_across(
    make_sampler: MakeSampler,
) -> None:
    """What the sampler promises, and no more: a matrix product rounds by its size."""
    labels, seeds = [i % 3 for i in range(12)], list(range(12))
    sampler = make_sampler(max_batch=4)
    truth = sampler(labels, seeds)
    assert torch.equal(sampler(labels, seeds), truth)
    assert torch.equal(make_sampler(max_batch=4)(labels[4:8], seeds[4:8]), truth[4:8])
    for batch in (1, 12):
        other = make_sampler(max_batch=batch)(labels, seeds)
        assert float((other - truth).abs().max()) < 1e-5
        apart = (levels(other) - levels(truth)).abs()
        assert int(apart.max()) <= 1 and float(apart.float().mean()) < 1e-3


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
    assert torch.equal(
        sampler(torch.tensor(LABELS, dtype=torch.int32), SEEDS), sampler(LABELS, SEEDS)
    )


def test_latents_are_those_of_the_patches(
    make_sampler: MakeSampler, model: LatentDiffusion
) -> None:
    sampler = make_sampler(max_batch=3)
    latents = sampler.latents(LABELS, SEEDS)
    assert latents.shape == (7, 4, 8, 8) and not latents.requires_grad
    with torch.no_grad():
        assert torch.allclose(model.decode(latents), sampler(LABELS, SEEDS), atol=1e-5)


def test_more_steps_converge(make_sampler: MakeSampler) -> None:
    """Two solvers, one trajectory: what they share is the schedule, the grid's ends and the
    meaning of the prediction.
    """
    many = make_sampler(steps=80).latents(None, SEEDS[:2])
    for options in ({"steps": 40}, {"steps": 80, "solver": "ddim"}):
        assert (
            float((make_sampler(**options).latents(None, SEEDS[:2]) - many).abs().mean()) < 0.1
        ), options


class Scaled(nn.Module):
    """A UNet that predicts the sample of standard normal latents, whatever the schedule: z0 =
    alpha / (alpha^2 + sigma^2) z.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha_sigma(timesteps / 1000)
        return (alpha / (alpha**2 + sigma**2)).view(-1, 1, 1, 1) * z


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
def test_start_has_the_standard_deviation_of_the_noisiest_latents(
    schedule: str, make_model: Callable[..., LatentDiffusion]
) -> None:
    """The flow keeps ``z / sqrt(alpha^2 + sigma^2)``, so standard normal latents come out as the
    seed's own noise.
    """
    model = make_model(schedule=schedule, prediction="sample")
    model.unet = Scaled(model.schedule)  # type: ignore
    noise = torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(5))
    latents = GuidedSampler(model, steps=100).latents(None, [5])[0]
    torch.testing.assert_close(
        latents, noise, rtol=4e-3, atol=1e-3
    )  # unit noise would be 1 % off under the flow schedule


def test_no_step_waits_for_the_device(
    model: LatentDiffusion, guide: LatentClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device nothing can be read back, so a trajectory that runs there never asks a
    device for a value.
    """
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # which does not know the meta device
    schedule, (model, guide) = (
        NoiseSchedule.named("cosine"),
        (net.to("meta") for net in (model, guide)),
    )

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        return model.denoise(z, t.to("meta"))

    for mode in ("noisy", "x0"):
        log_prob = class_log_prob(
            guide, torch.zeros(2, dtype=torch.long, device="meta"), mode, denoise
        )
        watched = Watched(guided(denoise, log_prob, schedule, 3.0, (-6.0, 6.0), 0.5))
        for solver in (ddim, dpmpp_2m):
            out = solver(
                watched,
                torch.empty(2, *model.latent_shape, device="meta"),
                schedule,
                log_snr_grid(schedule, 5),
            )
            assert out.device.type == "meta" and out.shape == (2, *model.latent_shape)


def test_sampling_works_within_inference_mode_and_leaves_no_gradient(
    make_sampler: MakeSampler, model: LatentDiffusion, guide: LatentClassifier
) -> None:
    truth = make_sampler()([0, 1], [1, 2])
    with torch.inference_mode():
        assert torch.equal(make_sampler()([0, 1], [1, 2]), truth)
    model.train()
    guide.train()
    assert torch.equal(make_sampler()([0, 1], [1, 2]), truth), "dropout is off while sampling"
    assert all(
        p.grad is None and p.requires_grad for net in (model, guide) for p in net.parameters()
    )


# -------------------------------------------------------------------------------------------------
# ----- memory and processes


class Small(nn.Module):
    """A UNet on a device that has memory for ``room`` latents; notes the sizes of the batches it
    is asked for.
    """

    def __init__(self, unet: nn.Module, room: int) -> None:
        super().__init__()
        self.unet, self.room, self.asked = unet, room, []

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        self.asked.append(len(z))
        if len(z) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.unet(z, timesteps)


class Full(Small):
    """As torch and the libraries under it say it in a plain RuntimeError."""

    told = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tri"

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        self.asked.append(len(z))
        if len(z) > self.room:
            raise RuntimeError(self.told)
        return self.unet(z, timesteps)


def test_a_full_memory_of_the_processor_is_one_too(
    make_sampler: MakeSampler, model: LatentDiffusion
) -> None:
    truth, unet = make_sampler()(LABELS, SEEDS), Full(model.unet, room=2)
    model.unet = unet  # type: ignore
    assert torch.allclose(make_sampler()(LABELS, SEEDS), truth, atol=1e-5)
    unet.room = 0
    rule = "not even one patch fits into the memory: .*can't allocate memory.*; make smaller ones"
    with pytest.raises(torch.OutOfMemoryError, match=rule):
        make_sampler()(LABELS, SEEDS)
    unet.room = 2
    for words in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 5 GB)",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
    ):
        unet.told = words
        assert torch.allclose(make_sampler()(LABELS, SEEDS), truth, atol=1e-5)
    unet.told = "mat1 and mat2 shapes cannot be multiplied"
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        make_sampler()(LABELS, SEEDS)


def test_seeds_and_exemplars_of_another_kind_are_told(make_sampler: MakeSampler) -> None:
    sampler = make_sampler()
    for odd in (3, "12", None):
        with pytest.raises(ValueError, match="seeds must be several whole numbers, got"):
            sampler(LABELS, odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("max_batch", [None, 6])
def test_batch_is_halved_when_memory_runs_out(
    max_batch: int | None,
    make_sampler: MakeSampler,
    model: LatentDiffusion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    truth, unet = make_sampler()(LABELS, SEEDS), Small(model.unet, room=2)
    model.unet = unet  # type: ignore
    sampler = make_sampler(max_batch=max_batch)
    assert torch.allclose(sampler(LABELS, SEEDS), truth, atol=1e-5)
    assert unet.asked[0] == (max_batch or 7) and unet.asked[1] == 3 and sampler.max_batch == 1
    assert "ran out of memory: from now on 3 patches are sampled at once" in caplog.text
    unet.asked.clear()
    assert torch.allclose(
        sampler.latents(LABELS, SEEDS), make_sampler(max_batch=1).latents(LABELS, SEEDS), atol=1e-5
    )
    assert set(unet.asked) == {1}, "the next call begins with what did fit"


def test_memory_that_holds_no_patch_is_an_error(
    make_sampler: MakeSampler, model: LatentDiffusion
) -> None:
    model.unet = Small(model.unet, room=0)  # type: ignore
    with pytest.raises(torch.cuda.OutOfMemoryError):
        make_sampler()(LABELS, SEEDS)


def test_batch_follows_from_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch_from_memory(torch.device("cpu"), 128) == CPU_BATCH
    sizes = []
    for free in (0, 2**28, 2**29, 2**40):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2**41))
        sizes.append(batch_from_memory(torch.device("cuda"), 32))
    assert sizes[0] == 1 and sizes[-1] == CUDA_BATCH and 1 < sizes[1] < CUDA_BATCH
    assert sizes[2] in (2 * sizes[1], 2 * sizes[1] + 1)


def sample_into(path: str, sampler: GuidedSampler, rows: slice) -> None:
    torch.set_num_threads(1)
    torch.save(sampler(LABELS[rows], SEEDS[rows]), path)


def test_processes_share_the_work_and_the_patches_are_the_same(
    make_sampler: MakeSampler, tmp_path: Path
) -> None:
    sampler = make_sampler()
    process = FORKS.Process(
        target=sample_into, args=(str(tmp_path / "part.pt"), sampler, slice(3, 7))
    )
    process.start()
    first = sampler(LABELS[:3], SEEDS[:3])
    process.join(120)
    assert process.exitcode == 0
    together = torch.cat([first, torch.load(tmp_path / "part.pt", weights_only=True)])
    assert torch.allclose(together, sampler(LABELS, SEEDS), atol=1e-5)


# -------------------------------------------------------------------------------------------------
# ---------------- guidance


def test_unconditional_samples(model: LatentDiffusion, make_sampler: MakeSampler) -> None:
    alone = GuidedSampler(model, steps=4)
    truth = alone(None, SEEDS)
    assert torch.equal(make_sampler()(None, SEEDS), truth), "without labels the guide is not asked"
    assert torch.allclose(make_sampler(scale=0)(LABELS, SEEDS), truth, atol=1e-6), (
        "a scale of zero changes nothing"
    )
    assert float((make_sampler()(LABELS, SEEDS) - truth).abs().mean()) > 1e-3
    nowhere = make_sampler(interval=(20.0, 30.0))  # beyond the schedule
    assert torch.allclose(nowhere(LABELS, SEEDS), truth, atol=1e-6)


class Zero(nn.Module):
    """A UNet that answers zero: as a velocity, the exact denoiser of latents that are standard
    normal.
    """

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
def test_guide_raises_the_probability_of_its_own_class(
    mode: str, solver: str, model: LatentDiffusion
) -> None:
    unet, guide = Zero(), ChannelMeans()
    model.unet = unet  # type: ignore
    labels, seeds = torch.arange(12) % 3, list(range(12))
    own = []
    for scale in (0.0, 0.1, 0.5):
        sampler = GuidedSampler(
            model,
            guide,
            steps=8,
            scale=scale,
            interval=(-3, 10),
            cap=1.0,
            mode=mode,
            solver=solver,
            progress=False,
        )  # type: ignore
        own.append(
            log_probabilities(guide, sampler.latents(labels, seeds)).gather(1, labels[:, None])[
                :, 0
            ]
        )
    assert bool((own[1] > own[0]).all()) and bool((own[2] > own[1]).all()), (
        "more scale, more guidance, for every sample"
    )
    assert float((own[2] - own[0]).mean()) > 0.05


def test_trained_guide_leads_samples_to_their_class(
    model: LatentDiffusion, guide: LatentClassifier
) -> None:
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
        latents = GuidedSampler(
            model, guide, steps=8, scale=scale, cap=1.0, progress=False
        ).latents(labels, seeds)
        hits.append(float((judge(latents, labels).argmax(1) == labels).float().mean()))
    assert hits[0] < 0.6 and hits[1] > 0.9


def test_temperature_and_cap_reach_the_guide(make_sampler: MakeSampler) -> None:
    truth = make_sampler(scale=0).latents(LABELS, SEEDS)
    moved = [
        float((make_sampler(scale=8.0, **options).latents(LABELS, SEEDS) - truth).norm())
        for options in ({}, {"temperature": 10.0})
    ]
    assert 0 < moved[1] < 0.5 * moved[0], "flatter logits guide less"
    moved = [
        float((make_sampler(scale=1e3, cap=cap).latents(LABELS, SEEDS) - truth).norm())
        for cap in (0.01, 0.5)
    ]
    assert 0 < moved[0] < 0.2 * moved[1], "a lower cap guides less"


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim"])
def test_after_the_stop_the_estimate_is_taken(model: LatentDiffusion, solver: str) -> None:
    found = GuidedSampler(model, steps=4, solver=solver, stop=1.5, progress=False).latents(
        None, [5]
    )
    noise = (
        torch.randn((1, *model.latent_shape), generator=torch.Generator().manual_seed(5))
        * model.schedule.start_std
    )
    solve, grid = (ddim, uniform_grid) if solver == "ddim" else (dpmpp_2m, log_snr_grid)
    times = grid(model.schedule, 3, stop=1.5)
    with torch.no_grad():
        truth = model.denoise(solve(model.denoise, noise, model.schedule, times), times[-1:])
    assert torch.allclose(found, truth, atol=1e-4)


def test_settings_make_the_same_sampler_again(
    model: LatentDiffusion, guide: LatentClassifier
) -> None:
    options: dict[str, Any] = {
        "steps": 3,
        "scale": 2.5,
        "interval": [-4, 5],
        "cap": 0.7,
        "temperature": 1.5,
        "mode": "x0",
        "solver": "ddim",
        "eta": 0.5,
        "stop": 4.0,
        "strength": 1.0,
        "exemplar_scale": 2.0,
        "exemplar_mix": 0.5,
        "exemplar_noise": 0.25,
        "bfloat16": True,
    }
    sampler = GuidedSampler(model, guide, progress=False, max_batch=2, **options)
    stored = json.loads(json.dumps(asdict(sampler.settings)))
    assert stored == {**options, "class_scale": 1.0, "size": 32}, (
        "all of them are said, and what they are here"
    )
    assert torch.allclose(
        GuidedSampler(model, guide, progress=False, **stored)([1, 2, 0], [1, 2, 3]),
        sampler([1, 2, 0], [1, 2, 3]),
        atol=1e-5,
    )
    assert sampler.replace(steps=4).guide is guide


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_bfloat16_changes_patches_by_rounding(
    options: dict[str, Any], make_sampler: MakeSampler
) -> None:
    full, half = (
        make_sampler(bfloat16=chosen, **options)(LABELS, SEEDS) for chosen in (False, True)
    )
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert float((half - full).abs().mean()) < 0.02 * float(full.std())


def test_networks_see_bfloat16_where_asked(make_sampler: MakeSampler) -> None:
    for chosen in (None, False, True):
        sampler = make_sampler(bfloat16=chosen)
        seen = types_of(sampler)
        assert seen == [torch.bfloat16 if chosen else torch.float32] * len(seen) and len(seen) == 4
        assert sampler.settings.bfloat16 is bool(chosen), "none is asked for on a CPU"


@pytest.mark.parametrize(
    "options",
    [*VARIANTS, {"mode": "x0", "scale": 0.0}, {"mode": "x0", "scale": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("interval", [(-3.0, 2.0), (-99.0, 99.0), (50.0, 60.0)])
def test_evaluations_are_counted(
    options: dict[str, Any], interval: tuple[float, float], make_sampler: MakeSampler
) -> None:
    sampler = make_sampler(steps=6, interval=interval, **options)
    assert len(types_of(sampler)) == sampler.network_evaluations


def types_of(sampler: GuidedSampler) -> list[torch.dtype]:
    """The type of each output of a UNet while one patch is sampled."""
    seen: list[torch.dtype] = []
    unet = sampler.model.unet
    hook = unet.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    sampler([0], [0])
    hook.remove()
    return seen


# -------------------------------------------------------------------------------------------------
# ------------------ errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 1, "stop": 4.0}, "steps must be at least 2 with a stop, .*, got 1"),
        (
            {"stop": NAN},
            "stop must lie between the log-SNR of the start, -9.00, and 12.00, got nan",
        ),
        (
            {"stop": 12.0},
            "stop must lie between the log-SNR of the start, -9.00, and 12.00, got 12.0",
        ),
        ({"max_batch": 0}, "max_batch must be a whole number from 1 on, got 0"),
        ({"solver": "euler"}, "solver must be one of .* got 'euler'"),
        ({"mode": "latent"}, "mode must be one of .* got 'latent'"),
        (
            {"eta": 0.5},
            r"eta must lie in \[0, 1\], and be 0 for a deterministic solver, "
            r"got 0.5 for 'dpmpp_2m'",
        ),
        ({"eta": 1.5, "solver": "ddim"}, "eta must lie .* got 1.5 for 'ddim'"),
        ({"eta": NAN, "solver": "ddim"}, "eta must lie .* got nan for 'ddim'"),
        ({"scale": -1.0}, "guidance scale must be at least 0 and finite, got -1.0"),
        ({"scale": NAN}, "guidance scale must be at least 0 and finite, got nan"),
        ({"scale": math.inf}, "guidance scale must be at least 0 and finite, got inf"),
        ({"cap": 0.0}, "guidance cap must be positive, got 0.0"),
        ({"cap": NAN}, "guidance cap must be positive, got nan"),
        ({"interval": (2.0, 1.0)}, r"guidance interval must rise, got \(2.0, 1.0\)"),
        ({"interval": (NAN, 1.0)}, r"guidance interval must rise, got \(nan, 1.0\)"),
        (
            {"interval": (-1.0, 0.0, 1.0)},
            r"guidance interval must be two log-SNRs, got \(-1.0, 0.0, 1.0\)",
        ),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": NAN}, "temperature must be positive and finite, got nan"),
        ({"bfloat16": "yes"}, "bfloat16 must be True, False or None, got 'yes'"),
        ({"bfloat16": 1}, "bfloat16 must be True, False or None, got 1"),
    ],
)
def test_argument_out_of_range(
    options: dict[str, Any], message: str, make_sampler: MakeSampler
) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler(**options)


@pytest.mark.parametrize("most", [1.5, True, "2"])
def test_patches_at_once_are_a_whole_number(most: Any, make_sampler: MakeSampler) -> None:
    with pytest.raises(ValueError, match="max_batch must be a whole number from 1 on, got"):
        make_sampler(max_batch=most)


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_networks_of_another_precision_are_refused(
    change: Callable[[Any], Any], model: LatentDiffusion, guide: LatentClassifier
) -> None:
    with pytest.raises(ValueError, match="the guide must be float32, got torch.* call its .float"):
        GuidedSampler(model, change(guide))
    with pytest.raises(ValueError, match="the model must be float32, got torch.*bfloat16=True"):
        GuidedSampler(change(model))


def test_a_wrapped_network_is_refused(model: LatentDiffusion, guide: LatentClassifier) -> None:
    with pytest.raises(ValueError, match=r"the model .* got DataParallel: give its \.module"):
        GuidedSampler(nn.DataParallel(model))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the guide .* got DataParallel: give its \.module"):
        GuidedSampler(model, nn.DataParallel(guide))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [np.int64(24), np.int32(32)])
def test_a_size_may_be_one_of_numpy(size: Any, make_sampler: MakeSampler) -> None:
    made = make_sampler(size=size, steps=2)([0], [1])
    assert torch.equal(made, make_sampler(size=int(size), steps=2)([0], [1]))


@pytest.mark.parametrize("options", [{}, {"solver": "ddim", "eta": 1.0}, {"strength": 0.5}])
def test_another_default_device_changes_nothing(
    options: dict[str, Any], make_sampler: MakeSampler, model: LatentDiffusion
) -> None:
    """``meta`` stands for any."""
    sampler = make_sampler(sources=sources(model) if "strength" in options else None, **options)
    plain = sampler([0, 1], [3, 4])
    with torch.device("meta"):
        own = GuidedSampler(model, sampler.guide, sources=sampler.sources, progress=False)
        assert torch.equal(own.replace(settings=sampler.settings)([0, 1], [3, 4]), plain)


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
def test_labels_and_seeds_that_do_not_fit(
    labels: Any, seeds: list[int], message: str, make_sampler: MakeSampler
) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler()(labels, seeds)


def test_variations_of_no_class_start_from_any_source(make_sampler: MakeSampler) -> None:
    real = Sources(tuple(torch.full((1, 4, 8, 8), 4.0 * k) for k in range(3)))
    sampler = make_sampler(strength=1e-6, sources=real, progress=False)
    means = sampler.latents(None, range(60)).mean((1, 2, 3))
    torch.testing.assert_close(means, (means / 4).round() * 4, rtol=0, atol=0.1)
    counts = torch.bincount((means / 4).round().long(), minlength=3)
    assert int(counts.min()) > 8, "each about as often"


def test_labels_need_a_guide(model: LatentDiffusion) -> None:
    with pytest.raises(
        ValueError,
        match="labels need a guide, a model of classes, or sources.*, got none",
    ):
        GuidedSampler(model)([0], [1])


class Faulty(nn.Module):
    """A UNet whose answer for the latent at place ``row`` of a batch holds one NaN at times below
    0.6.
    """

    def __init__(self, unet: nn.Module, row: int) -> None:
        super().__init__()
        self.unet, self.row = unet, row

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        out = self.unet(z, timesteps).clone()
        if float(timesteps[0]) < 600:
            out[self.row, 1, 2, 3] = float("nan")
        return out


def test_value_that_is_not_finite_is_named_by_step_and_class(
    make_sampler: MakeSampler, model: LatentDiffusion
) -> None:
    unet: Any = Faulty(model.unet, row=2)
    model.unet = unet
    sampler = make_sampler(solver="ddim", steps=4)  # at times 1, 0.75, 0.5, 0.25
    with pytest.raises(
        FloatingPointError, match=r"must be finite, .* at step 3 of 4, t = 0\.5000, class 1$"
    ):
        sampler([0, 2, 1, 0], [1, 2, 3, 4])
    with pytest.raises(FloatingPointError, match=r"at step 3 of 4, t = 0\.5000, unconditional$"):
        sampler(None, [1, 2, 3])


def test_guide_that_is_not_finite_is_named(
    make_sampler: MakeSampler, guide: LatentClassifier
) -> None:
    with torch.no_grad():
        guide.stem.weight[0, 0, 0, 0] = float("inf")
    for cap in (0.5, float("inf")):
        with pytest.raises(
            FloatingPointError,
            match=r"got a value that is not at step \d of 4, t = \d\.\d{4}, class 2",
        ):
            make_sampler(cap=cap)([2, 2], [1, 2])


# -------------------------------------------------------------------------------------------------
# ------------------- seeds


def test_candidate_seeds_are_apart_and_stay_what_they_are() -> None:
    seeds = {
        candidate_seed(run, label, j) for run in range(4) for label in range(6) for j in range(200)
    }
    assert len(seeds) == 4 * 6 * 200 and all(0 <= s < 2**32 for s in seeds)
    assert candidate_seed(0, 1) != candidate_seed(1, 0)
    # banks and reports name these: they must not change between versions
    assert [candidate_seed(0, 0, 0), candidate_seed(7, 2, 31)] == [2968811710, 2031635820]


# -------------------------------------------------------------------------------------------------
# --------------- variations


def sources(model: LatentDiffusion) -> Sources:
    generator = torch.Generator().manual_seed(4)
    drawn = [torch.randn(2 + k, *model.latent_shape, generator=generator) for k in range(3)]
    return Sources(tuple(drawn))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim"])
def test_a_variation_of_no_strength_is_its_source(
    solver: str, model: LatentDiffusion, guide: LatentClassifier
) -> None:
    real = sources(model)
    sampler = GuidedSampler(model, guide, steps=2, solver=solver, strength=1e-6, sources=real)
    labels = torch.tensor([0, 1, 2, 2])
    latents = sampler.latents(labels, range(4))
    for label, z in zip(labels.tolist(), latents, strict=True):
        assert min(float((z - r).abs().max()) for r in real.latents[label]) < 0.1, (
            "one of its own class"
        )
    different = {
        int((sampler.latents([2], [s]) - real.latents[2]).flatten(1).norm(dim=1).argmin())
        for s in range(20)
    }
    assert different == {0, 1, 2, 3}, "the seed draws the source"


def test_variation_depends_on_seed_and_label_alone(
    model: LatentDiffusion, guide: LatentClassifier
) -> None:
    sampler = GuidedSampler(model, guide, steps=3, strength=0.6, sources=sources(model))
    together = sampler.latents([0, 1, 2], [5, 6, 7])
    assert torch.allclose(
        sampler.replace(max_batch=1).latents([2, 0], [7, 5]), together[[2, 0]], atol=1e-5
    )


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9])
def test_a_variation_starts_from_its_source_noised_to_the_strength(
    strength: float, schedule: str, make_model: Callable[..., LatentDiffusion]
) -> None:
    """z_t = alpha z_0 + sigma eps, at t = strength: what the denoiser is first shown."""
    model, seen = make_model(schedule=schedule), []
    guide = LatentClassifier(4, 3, channels=(8, 8)).eval()
    real = Sources(tuple(torch.full((1, *model.latent_shape), v) for v in (3.0, -2.0, 5.0)))
    sampler = GuidedSampler(model, guide, steps=3, scale=0.0, strength=strength, sources=real)
    denoise = model.denoise
    model.denoise = lambda z, t: (seen.append((z, t)), denoise(z, t))[1]  # type: ignore
    sampler.latents([2], [7])
    alpha, sigma = model.schedule.alpha_sigma(torch.tensor(strength))
    noise = torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(7))
    first, time = seen[0]
    assert float(time) == pytest.approx(strength)
    torch.testing.assert_close(first[0], alpha * 5.0 + sigma * noise, rtol=1e-5, atol=1e-5)


def test_full_strength_is_pure_noise(model: LatentDiffusion, guide: LatentClassifier) -> None:
    plain = GuidedSampler(model, guide, steps=3)
    assert torch.equal(
        plain.latents([1], [3]), plain.replace(sources=sources(model)).latents([1], [3])
    )


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, math.nan])
def test_strength_out_of_range(
    strength: float, model: LatentDiffusion, guide: LatentClassifier
) -> None:
    with pytest.raises(ValueError, match=r"strength must lie in \(0, 1\], got"):
        GuidedSampler(model, guide, strength=strength, sources=sources(model))


@pytest.mark.parametrize("counts", [[], [1, 1], [1, 0, 1]])
def test_variations_need_sources_of_every_class(
    counts: list[int], model: LatentDiffusion, guide: LatentClassifier
) -> None:
    real = Sources(tuple(torch.zeros(n, *model.latent_shape) for n in counts))
    with pytest.raises(
        ValueError,
        match=r"strength below 1, .*, need sources of each class of the guide's 3, got \[",
    ):
        GuidedSampler(model, guide, strength=0.5, sources=real)


def test_latents_are_sorted_by_class() -> None:
    items = [
        {"image": torch.full((1, 2, 2), float(i)), "label": i % 2, "row": i + 7} for i in range(5)
    ]
    found = Sources.of(items, 3)
    first, second, none = found.latents
    assert (
        first[:, 0, 0, 0].tolist() == [0, 2, 4]
        and second[:, 0, 0, 0].tolist() == [1, 3]
        and len(none) == 0
    )
    assert [rows.tolist() for rows in found.rows] == [[7, 9, 11], [8, 10], []]
    with pytest.raises(ValueError, match="labels of sources must lie from 0 to 0, got 0 to 1"):
        Sources.of(items, 1)
    with pytest.raises(
        ValueError, match=r"descriptors must be of one shape .* \[\(4,\), \(5,\)\]"
    ):
        Sources(descriptors=(torch.zeros(2, 4), torch.zeros(3, 5)))


@pytest.mark.parametrize("missing", ["image", "row", "descriptor"])
def test_sources_are_read_back(missing: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    items = [
        {
            "image": torch.randn(1, 2, 2, generator=generator).half(),
            "descriptor": torch.randn(5, generator=generator).half(),
            "label": i % 2,
            "row": i + 7,
        }
        for i in range(5)
    ]
    kept = Sources.of([{k: v for k, v in d.items() if k != missing} for d in items], 2)
    kept.save(tmp_path / "sources.pt")
    found = Sources.load(tmp_path / "sources.pt", 2)
    for name in ("latents", "rows", "descriptors"):
        parts = zip(getattr(found, name), getattr(kept, name), strict=True)
        assert all(torch.equal(a, b) for a, b in parts)
    with pytest.raises(ValueError, match=r"some of each of 3 classes, got \[3, 2, 0\]"):
        Sources.load(tmp_path / "sources.pt", 3)


@pytest.mark.parametrize("max_batch", [1, 8])
def test_the_origin_of_a_variation_is_told(
    max_batch: int, model: LatentDiffusion, guide: LatentClassifier
) -> None:
    real = sources(model).latents
    rows = tuple(100 * k + torch.arange(len(v)) for k, v in enumerate(real))
    sampler = GuidedSampler(
        model, guide, steps=2, strength=1e-6, sources=Sources(real, rows), max_batch=max_batch
    )
    labels, seeds = torch.tensor([2, 0, 1, 2, 2, 1]), [3, 4, 5, 6, 7, 3]
    found = sampler.latents(labels, seeds)
    for origin, label, z in zip(
        sampler.origins(labels, seeds).tolist(), labels.tolist(), found, strict=True
    ):
        nearest = int((z - real[label]).flatten(1).norm(dim=1).argmin())
        assert origin == 100 * label + nearest
    assert torch.equal(
        sampler.replace(scale=1.0).origins(labels, seeds), sampler.origins(labels, seeds)
    )
    assert sampler.replace(strength=1.0).origins(labels, seeds) is None, "pure noise has no origin"
    assert sampler.replace(sources=Sources(real)).origins(labels, seeds) is None


def test_every_source_needs_its_row(model: LatentDiffusion, guide: LatentClassifier) -> None:
    rows = (torch.arange(2),) * 3
    with pytest.raises(
        ValueError,
        match=r"rows must be one for each source of each class, got \[2, 2, 2\] for \[2, 3, 4\]",
    ):
        Sources(sources(model).latents, rows)


def test_sources_are_of_the_size_that_is_sampled(
    model: LatentDiffusion, guide: LatentClassifier
) -> None:
    with pytest.raises(
        ValueError,
        match=r"sources must be latents of shape \(4, 12, 12\) for .*, got \(4, 8, 8\)",
    ):
        GuidedSampler(model, guide, strength=0.5, sources=sources(model), size=48)


# ----------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [1, 30, 31, 32, 33, 47, 48])
def test_patches_of_any_size(size: int, model: LatentDiffusion, guide: LatentClassifier) -> None:
    """They are the middle of what a multiple of the network's step gives."""
    sampler = GuidedSampler(model, guide, steps=2, size=size, progress=False)
    patches = sampler([0, 1], [3, 4])
    assert patches.shape == (2, 3, size, size)
    whole = sampler.replace(size=-(-size // model.size_step) * model.size_step)([0, 1], [3, 4])
    top = (whole.shape[2] - size) // 2
    assert torch.equal(patches, whole[..., top : top + size, top : top + size])


@pytest.mark.parametrize("size", [0, -1, 5000])
def test_a_size_out_of_range(size: int, model: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match=f"size must lie from 1 to 4096 pixels, got {size}"):
        GuidedSampler(model, size=size)


def test_a_reflected_patch_is_in_the_middle(model: LatentDiffusion) -> None:
    x = torch.rand(1, 3, 13, 22)
    padded = model.padded(x)
    assert padded.shape == (1, 3, 16, 24)
    assert torch.equal(padded[..., 1:14, 1:23], x)
    assert torch.equal(padded[..., 0, 1:23], x[..., 1, :]), "reflected"
    assert model.padded(padded) is padded
    with pytest.raises(ValueError, match=r"patches must be larger than 2 pixels, got \(2, 8\)"):
        model.padded(torch.rand(1, 3, 2, 8))


@pytest.mark.parametrize("seeds", [[0, 0.5], torch.tensor([0.2, 0.9]), [-1], [5, 5 + 2**32]])
def test_seeds_are_whole_numbers_that_a_generator_tells_apart(seeds: Any) -> None:
    with pytest.raises(ValueError, match=r"seeds must be whole numbers from 0 to 2\^32 - 1, got"):
        Wanted.checked(None, seeds, None, 0)


def test_labels_are_not_rounded() -> None:
    for labels in ([0.6, 0.99], torch.tensor([0.0, 1.7])):
        with pytest.raises(ValueError, match="class indices, whole numbers, got"):
            Wanted.checked(labels, [0, 1], None, 3)
    assert Wanted.checked([0.0, 1.0], [0, 1], None, 3).labels.tolist() == [0, 1]  # type: ignore[union-attr]
