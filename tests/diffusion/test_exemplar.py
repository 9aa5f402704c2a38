"""Exemplars: a denoiser that is told which patch to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from monai_histodiff import ExemplarEmbedding, FineUNet, GuidedSampler, LatentDiffusion
from monai_histodiff.diffusion.guidance import condition_guide
from monai_histodiff.diffusion.latents import describe_exemplars, encode_latents, fit_exemplars
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.training.steps import DenoisingPrepareBatch
from monai_histodiff.utils.weights import write_state

D = 5


def network(exemplar: ExemplarEmbedding | None, seed: int = 0) -> FineUNet:
    torch.manual_seed(seed)
    plain = DiffusionModelUNet(2, 4, 4, (1, 1), (16, 16), (False, False), norm_num_groups=4)
    return FineUNet(plain, block=4, factor=2, channels=8, num_res_blocks=1, exemplar=exemplar)


@pytest.fixture
def conditional(make_model: Callable[..., LatentDiffusion]) -> LatentDiffusion:
    """A model whose exemplars matter."""
    model = make_model()
    exemplar = ExemplarEmbedding(D, 64)
    model.unet = network(exemplar)
    with torch.no_grad():  # many a layer starts at zero, which would hide what is before it
        for parameter in model.unet.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def sources(model: LatentDiffusion, counts: tuple[int, ...] = (3, 2, 4)) -> Sources:
    torch.manual_seed(5)
    latents = tuple(torch.randn(n, *model.latent_shape) for n in counts)
    rows = tuple(torch.arange(n) + 10 * k for k, n in enumerate(counts))
    return Sources(latents, rows, tuple(torch.randn(n, D) for n in counts))


# ------------------------------------------------------------------------------------- embedding


def test_a_fresh_embedding_changes_nothing() -> None:
    """A denoiser that was trained without exemplars goes on as it was."""
    plain, told = network(None), network(ExemplarEmbedding(D, 64))
    told.load_state_dict(plain.state_dict(), strict=False)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([0.0, 400.0, 990.0])
    plain.eval(), told.eval()
    truth = plain(x, t)
    torch.testing.assert_close(told(x, t), truth)
    torch.testing.assert_close(told(x, t, torch.randn(3, D)), truth)


def test_embedding_is_of_standardised_descriptors() -> None:
    exemplar = ExemplarEmbedding(D, 8).eval()
    nn.init.normal_(exemplar.out.weight)
    x = torch.randn(50, D)
    scaled = x * torch.tensor([1.0, 10.0, 0.1, 3.0, 7.0]) + 5
    exemplar.fit(x)
    truth = exemplar(x, 50)
    exemplar.fit(scaled)
    torch.testing.assert_close(exemplar(scaled, 50), truth, rtol=1e-4, atol=1e-4)


def test_null_takes_the_place_of_exemplars_as_often_as_asked() -> None:
    exemplar = ExemplarEmbedding(D, 8, dropout=0.2, noise=0.0).train()
    nn.init.normal_(exemplar.out.weight)
    nn.init.normal_(exemplar.null)
    torch.manual_seed(0)
    found = exemplar(torch.ones(4000, D), 4000)
    dropped = (found == exemplar.null).all(1)
    assert abs(float(dropped.float().mean()) - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5
    kept = found[~dropped]
    torch.testing.assert_close(kept, exemplar.eval()(torch.ones(1, D), 1).expand_as(kept))


def test_noise_of_training_is_uniform_in_its_deviation() -> None:
    """Var = noise^2 E[u^2] = noise^2 / 3, in standardised units; none in evaluation."""
    exemplar = ExemplarEmbedding(1, 1, dropout=0.0, noise=0.6)
    exemplar.fit(torch.tensor([[-1.0], [1.0]]) * 3)
    seen: list[Tensor] = []
    exemplar.hidden.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    exemplar.train()(torch.zeros(40000, 1), 40000)
    assert float(seen[0].var()) == pytest.approx(0.36 / 3, rel=0.05)
    assert float(seen[0].mean()) == pytest.approx(0, abs=0.01)
    exemplar.eval()(torch.zeros(4, 1), 4)
    assert float(seen[1].abs().max()) == 0


def test_perturbation_is_in_deviations_of_the_descriptors() -> None:
    exemplar = ExemplarEmbedding(2, 8)
    exemplar.fit(torch.tensor([[-1.0, -10.0], [1.0, 10.0]]))
    generators = [torch.Generator().manual_seed(i) for i in range(3000)]
    moved = exemplar.perturbed(torch.zeros(3000, 2), 0.5, generators)
    torch.testing.assert_close(moved.std(0), 0.5 * exemplar.std, rtol=0.05, atol=0)
    same = torch.randn(2, 2)
    assert exemplar.perturbed(same, 0.0, generators[:2]) is same


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExemplarEmbedding(0), "descriptors and features must be at least 1, got 0"),
        (lambda: ExemplarEmbedding(D, dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (lambda: ExemplarEmbedding(D, noise=-1.0), "noise must be at least 0 and finite, got -1"),
        (lambda: ExemplarEmbedding(D).fit(torch.zeros(1, D)), "at least 2 descriptors N x D"),
        (lambda: ExemplarEmbedding(D).fit(torch.zeros(4, 3)), r"N x 5, got Tensor \(4, 3\)"),
        (
            lambda: ExemplarEmbedding(D).fit(torch.full((4, D), torch.nan)),
            "descriptors of exemplars must be finite, got others in row 0",
        ),
        (lambda: network(ExemplarEmbedding(D, 32)), "must have length 64, .*, got 32"),
    ],
)
def test_numbers_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -------------------------------------------------------------------------------------- guidance


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_between_null_and_exemplar(scale: float) -> None:
    """The combination of Ho & Salimans, in the interval; the exemplar's denoiser outside it."""
    schedule = NoiseSchedule.named("cosine")
    guided = condition_guide(lambda z, t: z + 2, lambda z, t: z - 1, scale, schedule, (-2.0, 2.0))
    z = torch.randn(3, 4, 2, 2)
    times = schedule.time(torch.tensor([5.0, 0.0, -5.0]))
    expected = torch.stack([z[0] + 2, z[1] - 1 + 3 * scale, z[2] + 2])
    torch.testing.assert_close(guided(z, times), expected)


def test_guidance_without_labels_by_given_exemplars(conditional: LatentDiffusion) -> None:
    sampler = GuidedSampler(conditional, steps=3, progress=False)
    exemplars = torch.randn(4, D)
    told, plain = sampler(None, range(4), exemplars), sampler(None, range(4))
    assert float((told - plain).abs().max()) > 1e-3
    aside = sampler.replace(exemplar_scale=0.0)
    torch.testing.assert_close(aside(None, range(4)), plain)
    with pytest.raises(ValueError, match="an exemplar_scale above 0, got 0: set it to 1, or leav"):
        aside(None, range(4), exemplars)
    # each patch follows its own exemplar, whatever the batch
    turned = sampler(None, [3, 2, 1, 0], exemplars.flip(0)).flip(0)
    torch.testing.assert_close(turned, told, rtol=0, atol=1e-5)
    single = sampler.replace(max_batch=1)(None, range(4), exemplars)
    torch.testing.assert_close(single, told, rtol=0, atol=1e-5)


def test_the_denoiser_is_what_the_equation_says(conditional: LatentDiffusion) -> None:
    """One step of DDIM to t = 0 is the denoised latent itself."""
    sampler = GuidedSampler(
        conditional,
        steps=1,
        solver="ddim",
        exemplar_scale=2.5,
        interval=(-100, 100),
        progress=False,
    )
    exemplar = torch.randn(1, D)
    noise = torch.randn(conditional.latent_shape, generator=torch.Generator().manual_seed(3))[None]
    t = torch.ones(1)
    with torch.no_grad():
        told, plain = (conditional.denoise(noise, t, *v) for v in ((exemplar,), ()))
    alpha, sigma = conditional.schedule.alpha_sigma(torch.zeros(1))
    start = conditional.schedule.alpha_sigma(t)
    z0 = plain + 2.5 * (told - plain)
    expected = alpha * z0 + sigma * (noise - start[0] * z0) / start[1]
    torch.testing.assert_close(
        sampler.latents(None, [3], exemplar), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [({}, 4), ({"exemplar_scale": 0.0}, 4), ({"exemplar_scale": 2.0}, 8)],
)
def test_evaluations_are_counted(
    settings: dict[str, float], evaluations: int, conditional: LatentDiffusion
) -> None:
    calls: list[int] = []
    conditional.unet.register_forward_hook(lambda *_: calls.append(1))
    sampler = GuidedSampler(
        conditional,
        steps=4,
        interval=(-100, 100),
        sources=sources(conditional),
        progress=False,
        **settings,
    )
    assert sampler.network_evaluations == evaluations
    if settings.get("exemplar_scale") != 0:
        sampler([0, 1], [4, 5])
        assert len(calls) == evaluations


# ------------------------------------------------------------------------- exemplars of the class


def test_a_class_draws_its_exemplars_from_its_sources(conditional: LatentDiffusion) -> None:
    """Without a guide: the label chooses among sources, the seed one of them, which origins
    tell.
    """
    real = sources(conditional)
    sampler = GuidedSampler(conditional, steps=2, sources=real, progress=False)
    labels, seeds = [0, 1, 2, 2, 2, 0], [4, 5, 6, 7, 8, 9]
    origins = sampler.origins(labels, seeds)
    assert origins is not None and (origins // 10).tolist() == labels
    drawn = torch.stack(
        [real.descriptors[k][int(row) % 10] for k, row in zip(labels, origins, strict=True)]
    )
    torch.testing.assert_close(
        sampler(labels, seeds), GuidedSampler(conditional, steps=2)(None, seeds, drawn)
    )


def test_given_exemplars_go_before_drawn_ones(conditional: LatentDiffusion) -> None:
    sampler = GuidedSampler(conditional, steps=2, sources=sources(conditional), progress=False)
    given = torch.randn(2, D)
    torch.testing.assert_close(
        sampler([0, 1], [1, 2], given), GuidedSampler(conditional, steps=2)(None, [1, 2], given)
    )


def test_a_mix_lies_between_two_exemplars_of_the_class(conditional: LatentDiffusion) -> None:
    real = sources(conditional, (2, 2, 2))

    def shares(mix: float) -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(400)]
        drawn = real.draw([1] * 400, generators)
        mixed = real.exemplars(drawn, generators, mix)
        assert {k for k, _ in drawn} == {1}
        drawn = [i for _, i in drawn]
        first = torch.stack([real.descriptors[1][i] for i in drawn])
        span = real.descriptors[1][1] - real.descriptors[1][0]
        share = (mixed - first) @ span / span.square().sum()
        share = torch.where(torch.tensor(drawn) == 1, -share, share)
        sign = 1 - 2 * torch.tensor(drawn)[:, None]
        torch.testing.assert_close(mixed, first + sign * share[:, None] * span, atol=1e-5, rtol=0)
        return share

    assert float(shares(0.0).abs().max()) == 0
    share = shares(0.4)
    assert -1e-6 <= float(share.min()) and 0.35 < float(share.max()) <= 0.4 + 1e-6
    assert 0.35 < float((share < 1e-6).float().mean()) < 0.65  # the second may be the first again


def test_variations_take_the_exemplar_of_their_source(conditional: LatentDiffusion) -> None:
    real = sources(conditional, (1, 1, 1))
    sampler = GuidedSampler(conditional, steps=2, strength=0.5, sources=real, progress=False)
    plain = GuidedSampler(
        conditional, steps=2, strength=0.5, sources=Sources(real.latents), progress=False
    )
    torch.testing.assert_close(
        sampler([2], [5]), plain([2], [5], real.descriptors[2]), rtol=0, atol=1e-6
    )
    assert float((sampler([2], [5]) - plain([2], [5])).abs().max()) > 1e-4


def test_sources_in_float16_serve_a_sampler_in_bfloat16(conditional: LatentDiffusion) -> None:
    """As they are encoded, and as a processor with bfloat16 samples."""
    real = sources(conditional)
    halves = Sources(
        tuple(v.half() for v in real.latents), real.rows, tuple(v.half() for v in real.descriptors)
    )
    made = [
        GuidedSampler(
            conditional, steps=2, strength=0.5, sources=own, bfloat16=fast, progress=False
        )([0, 1, 2], [4, 5, 6])
        for own, fast in ((real, False), (halves, True))
    ]
    assert float((made[0] - made[1]).abs().mean()) < 0.05


def test_sources_keep_their_descriptors(conditional: LatentDiffusion, tmp_path: Path) -> None:
    real = sources(conditional)
    real.save(tmp_path / "sources.pt")
    read = Sources.load(tmp_path / "sources.pt", 3)
    for name in ("latents", "rows", "descriptors"):
        for a, b in zip(getattr(real, name), getattr(read, name), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_labels_alone_are_no_sources(tmp_path: Path) -> None:
    write_state(tmp_path / "sources.pt", {"label": torch.zeros(3, dtype=torch.long)})
    with pytest.raises(
        ValueError, match=r"must hold label, and image or descriptor, got \['label'\]"
    ):
        Sources.load(tmp_path / "sources.pt", 3)


def test_samples_of_no_class_are_made_after_any_source(
    conditional: LatentDiffusion, tmp_path: Path
) -> None:
    """Each of them equally often, whatever its class; told by the rows."""
    real, seeds = sources(conditional, (1, 3, 2)), range(600)
    sampler = GuidedSampler(conditional, steps=2, sources=real, progress=False)
    rows = torch.cat(real.rows)
    origins = sampler.origins(None, seeds)
    assert origins is not None
    counts = torch.bincount(origins, minlength=int(rows.max()) + 1)[rows]
    assert int(counts.sum()) == 600 and int(counts.min()) > 70 and int(counts.max()) < 135
    own = torch.cat(real.descriptors)[[int((rows == r).nonzero()) for r in origins[:4]]]
    torch.testing.assert_close(
        sampler(None, seeds[:4]), GuidedSampler(conditional, steps=2)(None, seeds[:4], own)
    )
    with torch.device("meta"):
        assert sampler.replace(exemplar_mix=0.5, exemplar_noise=0.1)(None, [1]).isfinite().all()
    null = GuidedSampler(conditional, steps=2, progress=False)(None, seeds[:4])
    assert torch.equal(sampler.replace(exemplar_scale=0.0)(None, seeds[:4]), null)
    (tmp_path / "models").mkdir()
    Sources(descriptors=real.descriptors).save(tmp_path / "models" / "exemplars.pt")
    merged = Sources.load(tmp_path / "models" / "exemplars.pt", 3)
    assert merged.latents == () and merged.rows == () and merged.counts == [1, 3, 2]
    with pytest.raises(ValueError, match="labels of sources must lie from 0 to 0, got 0 to 2"):
        Sources.from_bundle(tmp_path)
    with pytest.raises(ValueError, match="needs latents of the sources, got descriptors alone"):
        GuidedSampler(conditional, strength=0.5, sources=merged)


@dataclass(frozen=True)
class Describes:
    """Stands for an encoder of which only the descriptors are asked."""

    descriptors: Callable[[Tensor], Tensor]


def test_stored_exemplars_are_drawn_by_weights(conditional: LatentDiffusion) -> None:
    patches = [{"image": torch.full((3, 4, 4), i / 10)} for i in range(8)]
    weights = torch.tensor([0.0, 1, 1, 1e-6, 1, 0, 1, 1])

    describe = Describes(lambda x: x.mean((1, 2, 3))[:, None].expand(-1, D))

    def kept(count: int) -> list[int]:
        found = describe_exemplars(patches, describe, weights, count)
        assert found.counts == [min(count, 6)] and found.descriptors[0].dtype == torch.float16
        return sorted((found.descriptors[0][:, 0] * 10).round().int().tolist())

    assert kept(5) == [1, 2, 4, 6, 7], "each once, and the improbable one last"
    assert kept(100) == [1, 2, 3, 4, 6, 7], "what has no weight is never drawn"
    with pytest.raises(ValueError, match="number of exemplars must be at least 1, got 0"):
        describe_exemplars(patches, describe, weights, 0)
    made = GuidedSampler(
        conditional,
        steps=2,
        sources=describe_exemplars(patches, describe, weights),
        progress=False,
    )
    assert made(None, [1, 2]).shape == (2, 3, *made(None, [1]).shape[2:])


def test_what_does_not_fit_is_refused(
    conditional: LatentDiffusion, model: LatentDiffusion
) -> None:
    with pytest.raises(ValueError, match="exemplars need a model that was trained with them"):
        GuidedSampler(model, sources=sources(model))
    GuidedSampler(model, sources=sources(model), exemplar_scale=0)
    with pytest.raises(ValueError, match="exemplars need a model that was trained with them"):
        GuidedSampler(model)(None, [1], torch.zeros(1, D))
    sampler = GuidedSampler(conditional, progress=False)
    with pytest.raises(ValueError, match="each seed needs one exemplar, got 2 seeds and 1"):
        sampler(None, [1, 2], torch.zeros(1, D))
    with pytest.raises(
        ValueError, match=r"must be descriptors, a tensor N x 5, got Tensor \(1, 6\)"
    ):
        sampler(None, [1], torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"a tensor N x 5, got ndarray \(1, 5\): PatchEncoder"):
        sampler(None, [1], torch.zeros(1, 5).numpy())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be finite, got others in row 1"):
        sampler(None, [1, 2], torch.tensor([[0.0] * D, [torch.inf] * D]))
    with pytest.raises(ValueError, match="labels need a guide, a model of classes, or sources"):
        sampler([0], [1])
    with pytest.raises(ValueError, match="descriptors must be one for each source"):
        Sources(sources(conditional).latents, (), (torch.zeros(1, D),) * 3)
    with pytest.raises(ValueError, match=r"need sources of each class, got \[1, 0\]"):
        GuidedSampler(conditional, sources=sources(conditional, (1, 0)))
    for name, value in (("exemplar_scale", -1), ("exemplar_mix", 2), ("exemplar_noise", -0.1)):
        with pytest.raises(ValueError, match=f"{name} must .*, got {value}"):
            GuidedSampler(conditional, **{name: value})


# -------------------------------------------------------------------------------------- training


def test_training_learns_to_follow_its_exemplars(
    make_model: Callable[..., LatentDiffusion],
) -> None:
    """Latents that are constant, and descriptors that name the constant: the told denoiser finds
    it under any noise, the untold one can only guess.
    """
    torch.manual_seed(0)
    model = make_model()
    exemplar = ExemplarEmbedding(1, 64, dropout=0.2, noise=0.0)
    model.unet = network(exemplar)
    level = torch.tensor([-1.0, 1.0])[torch.randint(2, (256,))]
    items = {"image": level[:, None, None, None].expand(-1, *model.latent_shape)}
    items = {**items, "descriptor": level[:, None]}
    rows = [{k: v[i] for k, v in items.items()} for i in range(256)]
    fit_exemplars(model, rows)
    torch.testing.assert_close(exemplar.mean, level.mean()[None])
    step, optimizer = (
        DenoisingPrepareBatch(model),
        torch.optim.AdamW(model.unet.parameters(), 3e-3),
    )
    for i in range(250):
        batch = {k: v[(i * 32) % 256 :][:32] for k, v in items.items()}
        noisy, target, given, _ = step(batch)
        optimizer.zero_grad()
        (model.unet(noisy, *given) - target).square().mean().backward()
        optimizer.step()
    model.eval()
    noise, t = torch.randn(32, *model.latent_shape), torch.full((32,), 0.999)
    truth = torch.tensor([-1.0, 1.0]).repeat(16)
    with torch.no_grad():
        told = model.denoise(noise, t, truth[:, None]).mean((1, 2, 3))
        guess = model.denoise(noise, t).mean((1, 2, 3))
    assert float((told.sign() == truth).float().mean()) == 1.0
    assert float((told - truth).abs().mean()) < 0.4 < float((guess - truth).abs().mean())


def test_training_needs_descriptors(conditional: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="is trained on latents with descriptors, got none"):
        DenoisingPrepareBatch(conditional)({"image": torch.zeros(2, *conditional.latent_shape)})


def test_descriptors_are_those_of_the_encoded_patches(
    model: LatentDiffusion, write_patch_set: Callable[..., Path], tmp_path: Path
) -> None:
    """Of the very patch that a random transform gave, and kept with its latent."""
    from monai.data import Dataset
    from monai.transforms import Compose, RandFlipd, ScaleIntensityRanged, ToTensord

    from monai_histodiff import PatchSet

    patches = PatchSet.open(write_patch_set(tmp_path / "set"))
    transform = Compose(
        [
            RandFlipd("image", prob=0.5, spatial_axis=0),
            ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
            ToTensord("image", track_meta=False),
        ]
    )
    transform.set_random_state(0)

    describe = Describes(lambda images: images[:, :, :8].mean((2, 3)))
    items = encode_latents(
        model,
        Dataset(patches, transform),
        repeats=2,
        cache=tmp_path / "z.pt",
        describe=describe,
    )
    decoded = model.decode(torch.stack([v["image"] for v in items]).float())
    reencoded = model.encode(decoded).half()
    assert len(items) == 2 * len(patches) and reencoded.shape[0] == len(items)
    described = torch.stack([v["descriptor"] for v in items])
    top = described[: len(patches)], described[len(patches) :]
    images = patches.images().float() / 255
    ends = images[:, :, :8].mean((2, 3)), images[:, :, -8:].mean((2, 3))
    for found in top:
        nearest = torch.minimum((found - ends[0]).abs().amax(1), (found - ends[1]).abs().amax(1))
        assert float(nearest.max()) < 1e-6
    assert float((top[0] - top[1]).abs().max()) > 0, "some are flipped in one of the two"
    again = encode_latents(
        model, Dataset(patches, transform), repeats=2, cache=tmp_path / "z.pt", describe=describe
    )
    torch.testing.assert_close(torch.stack([v["descriptor"] for v in again]), described)
