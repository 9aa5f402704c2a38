"""Guidance against Bayes' rule: with an exact prior and an exact classifier the posterior is known
in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from oracles import gaussian_denoiser
from torch import Tensor, nn

from monai_histodiff.diffusion.guidance import Watched, class_log_prob, condition_guide, guide
from monai_histodiff.diffusion.schedules import NoiseSchedule, log_snr_grid
from monai_histodiff.diffusion.settings import MODES
from monai_histodiff.diffusion.solvers import Denoiser, dpmpp_2m

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
MEANS = torch.tensor([[0.0, 1.0], [-0.8, -0.5], [1.2, -0.6]])
STDS = torch.tensor([0.4, 0.5, 0.3])


def amplitudes(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha[:, None], sigma[:, None]


class MixtureClassifier(nn.Module):
    """The exact noisy posterior ``p(class | z_t)`` of a mixture of Gaussians, as logits; counts
    its calls.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.times: list[Tensor] = []

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        alpha, sigma = amplitudes(self.schedule, t)
        variance = alpha**2 * STDS**2 + sigma**2
        away = z[:, None] - alpha[:, :, None] * MEANS
        return (
            WEIGHTS.log() - z.shape[1] / 2 * variance.log() - away.square().sum(2) / (2 * variance)
        )


def component_denoiser(schedule: NoiseSchedule, labels: Tensor) -> Denoiser:
    """The exact denoiser of each sample's own component."""
    return gaussian_denoiser(schedule, MEANS[labels], STDS[labels][:, None])


def mixture_denoiser(schedule: NoiseSchedule) -> Denoiser:
    classifier = MixtureClassifier(schedule)

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        probabilities = torch.softmax(classifier(z, t), 1)
        each = [component_denoiser(schedule, torch.full((len(z),), k))(z, t) for k in range(3)]
        return sum(probabilities[:, k, None] * each[k] for k in range(3))

    return denoise


def latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["cosine", "flow"])
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return NoiseSchedule.named(request.param)


COSINE = NoiseSchedule.named("cosine")


# --- Bayes' rule ---


def test_the_exact_classifier_turns_the_mixture_into_its_component(
    schedule: NoiseSchedule,
) -> None:
    """score(z) + grad log p(y | z) = score(z | y), at every time and place."""
    z, labels = latents(60), torch.arange(60) % 3
    t = torch.linspace(0.02, 0.97, 60)
    guided = guide(
        mixture_denoiser(schedule), class_log_prob(MixtureClassifier(schedule), labels), schedule
    )
    torch.testing.assert_close(
        guided(z, t), component_denoiser(schedule, labels)(z, t), rtol=1e-3, atol=1e-3
    )


def test_guided_samples_have_the_mean_and_std_of_their_class(schedule: NoiseSchedule) -> None:
    labels = torch.arange(3000) % 3
    guided = guide(
        mixture_denoiser(schedule), class_log_prob(MixtureClassifier(schedule), labels), schedule
    )
    out = dpmpp_2m(guided, latents(3000), schedule, log_snr_grid(schedule, 30))
    for k in range(3):
        torch.testing.assert_close(out[labels == k].mean(0), MEANS[k], rtol=0, atol=0.05)
        torch.testing.assert_close(out[labels == k].std(0), STDS[k].expand(2), rtol=0.08, atol=0)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_scale_interpolates_and_extrapolates_scores(scale: float) -> None:
    """The guided z0 is linear in the scale, from the mixture (0) through the component (1)."""
    z, t, labels = latents(30), torch.linspace(0.05, 0.95, 30), torch.arange(30) % 3
    guided = guide(
        mixture_denoiser(COSINE), class_log_prob(MixtureClassifier(COSINE), labels), COSINE, scale
    )
    prior, component = mixture_denoiser(COSINE)(z, t), component_denoiser(COSINE, labels)(z, t)
    torch.testing.assert_close(
        guided(z, t), prior + scale * (component - prior), rtol=1e-3, atol=2e-3
    )


def test_a_gaussian_likelihood_gives_the_conjugate_posterior(schedule: NoiseSchedule) -> None:
    """Prior N(0, 1), observation a = z0 + N(0, b^2): the posterior is N(a / (1 + b^2), b^2 / (1 +
    b^2)).
    """
    a, b = 1.3, 0.6

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = amplitudes(schedule, t)
        return alpha / (alpha**2 + sigma**2) * z

    def log_likelihood(z: Tensor, t: Tensor) -> Tensor:
        """The mean over ``z0 | z_t``: a Gaussian of the denoised mean and of variance
        ``sigma^2 / (alpha^2 + sigma^2)``.
        """
        alpha, sigma = amplitudes(schedule, t)
        variance = b**2 + sigma**2 / (alpha**2 + sigma**2)
        return (-((a - denoise(z, t)) ** 2) / (2 * variance) - variance.log() / 2).sum(1)

    z = torch.tensor([[-1.0], [0.0], [1.0]])
    grid = log_snr_grid(schedule, 200)
    out = dpmpp_2m(guide(denoise, log_likelihood, schedule), z, schedule, grid)
    alpha, sigma = schedule.alpha_sigma(grid[[0, -1]])
    mean, variance = a / (1 + b**2), b**2 / (1 + b**2)
    total = torch.sqrt(alpha**2 * variance + sigma**2)
    exact = alpha[1] * mean + total[1] / total[0] * (z - alpha[0] * mean)
    torch.testing.assert_close(out, exact, rtol=0, atol=2e-3)
    assert float(out[1]) == pytest.approx(mean, abs=0.02)
    assert float(out[2] - out[0]) / 2 == pytest.approx(variance**0.5, abs=0.02)


def test_noise_form_and_signal_form_agree(schedule: NoiseSchedule) -> None:
    """eps - s sigma grad, turned back into z0, is z0 + s sigma^2 / alpha grad."""
    z, t, labels = latents(20), torch.linspace(0.05, 0.95, 20), torch.arange(20) % 3
    log_prob = class_log_prob(MixtureClassifier(schedule), labels)
    leaf = z.clone().requires_grad_()
    gradient = torch.autograd.grad(log_prob(leaf, t).sum(), leaf)[0]
    alpha, sigma = amplitudes(schedule, t)
    eps = (z - alpha * mixture_denoiser(schedule)(z, t)) / sigma
    expected = (z - sigma * (eps - 2.0 * sigma * gradient)) / alpha
    torch.testing.assert_close(
        guide(mixture_denoiser(schedule), log_prob, schedule, 2.0)(z, t),
        expected,
        rtol=1e-3,
        atol=1e-3,
    )


# --- scale, interval, cap ---


def test_scale_zero_is_the_same_denoiser() -> None:
    denoise = mixture_denoiser(COSINE)
    assert (
        guide(
            denoise,
            class_log_prob(MixtureClassifier(COSINE), torch.zeros(2, dtype=torch.long)),
            COSINE,
            scale=0,
        )
        is denoise
    )


def test_outside_the_interval_the_classifier_is_not_called() -> None:
    classifier, denoise = MixtureClassifier(COSINE), mixture_denoiser(COSINE)
    guided = guide(
        denoise,
        class_log_prob(classifier, torch.tensor([0, 1])),
        COSINE,
        3.0,
        interval=(-1.0, 1.0),
    )
    z = latents(2)
    for ratio in (-1.01, 1.01, -8.0, 11.0):
        t = COSINE.time(torch.full((2,), ratio))
        assert torch.equal(guided(z, t), denoise(z, t))
    assert not classifier.times
    t = COSINE.time(torch.full((2,), 0.99))
    assert not torch.equal(guided(z, t), denoise(z, t))
    assert len(classifier.times) == 1


def test_both_ends_of_the_interval_are_inside() -> None:
    t = torch.tensor([0.3])
    ratio = float(COSINE.log_snr(t))
    for interval in ((ratio, math.inf), (-math.inf, ratio), (ratio, ratio)):
        classifier = MixtureClassifier(COSINE)
        guide(
            mixture_denoiser(COSINE),
            class_log_prob(classifier, torch.tensor([0])),
            COSINE,
            interval=interval,
        )(latents(1), t)
        assert len(classifier.times) == 1


def test_each_sample_has_its_own_interval_test() -> None:
    denoise = mixture_denoiser(COSINE)
    guided = guide(
        denoise,
        class_log_prob(MixtureClassifier(COSINE), torch.tensor([1, 1])),
        COSINE,
        interval=(-2.0, 2.0),
    )
    z, t = latents(2), COSINE.time(torch.tensor([0.0, 5.0]))
    changed = (guided(z, t) != denoise(z, t)).all(1)
    assert changed.tolist() == [True, False]
    assert torch.equal(guided(z, t)[1], denoise(z, t)[1])


@pytest.mark.parametrize("interval", [(-6.0, 6.0), (-2.0, 1.0)])
def test_an_interval_calls_the_classifier_at_its_steps_only(interval: tuple[float, float]) -> None:
    classifier, grid = MixtureClassifier(COSINE), log_snr_grid(COSINE, 20)
    guided = guide(
        mixture_denoiser(COSINE),
        class_log_prob(classifier, torch.tensor([0])),
        COSINE,
        interval=interval,
    )
    dpmpp_2m(guided, latents(1), COSINE, grid)
    inside = [t for t in grid[:-1] if interval[0] <= float(COSINE.log_snr(t)) <= interval[1]]
    assert [float(t) for t in classifier.times] == [float(t) for t in inside]
    assert 0 < len(inside) < 20


def noise_of(schedule: NoiseSchedule, z: Tensor, t: Tensor, z0: Tensor) -> Tensor:
    alpha, sigma = amplitudes(schedule, t)
    return (z - alpha * z0) / sigma


@pytest.mark.parametrize("cap", [0.05, 0.5])
def test_the_cap_bounds_the_change_of_the_predicted_noise(
    schedule: NoiseSchedule, cap: float
) -> None:
    z, t, labels = latents(90), torch.linspace(0.05, 0.95, 90), torch.arange(90) % 3
    log_prob, denoise = (
        class_log_prob(MixtureClassifier(schedule), labels),
        mixture_denoiser(schedule),
    )
    eps = noise_of(schedule, z, t, denoise(z, t))
    full = noise_of(schedule, z, t, guide(denoise, log_prob, schedule, 8.0)(z, t)) - eps
    capped = noise_of(schedule, z, t, guide(denoise, log_prob, schedule, 8.0, cap=cap)(z, t)) - eps
    bound = cap * eps.norm(dim=1)
    assert (capped.norm(dim=1) <= bound * 1.001 + 1e-4).all()
    over = full.norm(dim=1) > bound
    assert over.any() and not over.all()
    torch.testing.assert_close(capped.norm(dim=1)[over], bound[over], rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(capped[~over], full[~over], rtol=1e-3, atol=1e-3)
    cosine = torch.cosine_similarity(capped, full, dim=1)
    assert (cosine[bound > 0.02] > 0.999).all()  # shorter, but in the same direction


def test_a_wide_cap_changes_nothing() -> None:
    z, t, labels = latents(30), torch.linspace(0.05, 0.95, 30), torch.arange(30) % 3
    log_prob, denoise = class_log_prob(MixtureClassifier(COSINE), labels), mixture_denoiser(COSINE)
    capped, free = (guide(denoise, log_prob, COSINE, cap=c)(z, t) for c in (1e6, math.inf))
    torch.testing.assert_close(capped, free, rtol=1e-6, atol=1e-6)


def test_a_cap_survives_a_vanishing_gradient() -> None:
    denoise, z, t = mixture_denoiser(COSINE), latents(2), torch.full((2,), 0.5)
    guided = guide(denoise, lambda z, t: 0 * z.sum(1), COSINE, 3.0, cap=0.5)
    assert torch.equal(guided(z, t), denoise(z, t))


def test_samples_do_not_depend_on_their_neighbours() -> None:
    """The cap and the sum over the batch must not mix samples, in latents of any shape."""
    z = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    t, labels = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.tensor([0, 1, 2, 1])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.Tanh(), nn.Linear(8, 3))

    def guided(rows: slice) -> Tensor:
        log_prob = class_log_prob(_Timeless(network), labels[rows])
        return guide(lambda z, t: z * 0.9, log_prob, COSINE, 5.0, (-3.0, 3.0), cap=0.1)(
            z[rows], t[rows]
        )

    together = guided(slice(None))
    torch.testing.assert_close(
        together, torch.cat([guided(slice(i, i + 1)) for i in range(4)]), rtol=1e-5, atol=1e-6
    )
    assert not torch.allclose(together, z * 0.9)


class _Timeless(nn.Module):
    """A network of the latent alone; notes what it is called with."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.calls: list[tuple[Tensor, Tensor, bool]] = []

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls.append((z, t, torch.is_autocast_enabled("cpu")))
        return self.network(z)


# --- modes ---


def test_log_probability_of_each_sample_s_own_label() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
    log_prob = class_log_prob(_Timeless(lambda z: logits), torch.tensor([2, 0]))
    expected = torch.stack(
        [torch.log_softmax(logits[0], 0)[2], torch.log_softmax(logits[1], 0)[0]]
    )
    torch.testing.assert_close(log_prob(torch.zeros(2, 1), torch.zeros(2)), expected)


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    log_prob = class_log_prob(_Timeless(lambda z: logits), torch.tensor([0]), temperature=4.0)
    torch.testing.assert_close(
        log_prob(torch.zeros(1, 1), torch.zeros(1)), torch.log_softmax(logits / 4, 1)[:, 0]
    )


def test_noisy_mode_passes_latent_and_time() -> None:
    classifier = _Timeless(lambda z: z)
    z, t = latents(3), torch.tensor([0.1, 0.5, 0.9])
    class_log_prob(classifier, torch.tensor([0, 1, 1]), "noisy")(z, t)
    assert torch.equal(classifier.calls[0][0], z) and torch.equal(classifier.calls[0][1], t)


def test_clean_mode_passes_the_noisy_latent_at_time_zero() -> None:
    classifier = _Timeless(lambda z: z)
    z, t = latents(3), torch.tensor([0.1, 0.5, 0.9])
    class_log_prob(classifier, torch.tensor([0, 1, 1]), "clean")(z, t)
    assert torch.equal(classifier.calls[0][0], z) and torch.equal(
        classifier.calls[0][1], torch.zeros(3)
    )


def test_x0_mode_passes_the_denoised_latent_at_time_zero() -> None:
    classifier, denoise = _Timeless(lambda z: z), mixture_denoiser(COSINE)
    z, t = latents(3), torch.tensor([0.1, 0.5, 0.9])
    class_log_prob(classifier, torch.tensor([0, 1, 1]), "x0", denoise)(z, t)
    assert torch.equal(classifier.calls[0][0], denoise(z, t)) and torch.equal(
        classifier.calls[0][1], torch.zeros(3)
    )


def test_x0_mode_s_gradient_passes_through_the_denoiser() -> None:
    """By the chain rule, with a linear classifier W on z0: the Jacobian of the denoiser,
    transposed, times W^T (onehot - p).
    """
    weights = torch.tensor([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.2]])
    denoise, labels = mixture_denoiser(COSINE), torch.tensor([2])
    z, t = latents(1), torch.tensor([0.6])
    guided = guide(
        denoise,
        class_log_prob(_Timeless(lambda z: z @ weights.T), labels, "x0", denoise),
        COSINE,
        1.5,
    )
    jacobian = torch.autograd.functional.jacobian(lambda v: denoise(v[None], t)[0], z[0])
    z0 = denoise(z, t)
    gradient = (
        jacobian.T
        @ weights.T
        @ (nn.functional.one_hot(labels, 3)[0] - torch.softmax(z0 @ weights.T, 1)[0])
    )
    alpha, sigma = COSINE.alpha_sigma(t)
    torch.testing.assert_close(
        guided(z, t)[0], z0[0] + 1.5 * sigma**2 / alpha * gradient, rtol=1e-4, atol=1e-5
    )
    straight = weights.T @ (
        nn.functional.one_hot(labels, 3)[0] - torch.softmax(z0 @ weights.T, 1)[0]
    )
    assert not torch.allclose(gradient, straight, rtol=0.05)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_raises_the_probability_of_its_class(mode: str) -> None:
    labels, denoise = torch.arange(3), mixture_denoiser(COSINE)
    classifier = MixtureClassifier(COSINE)
    log_prob = class_log_prob(classifier, labels, mode, denoise)
    out, free = (
        dpmpp_2m(d, latents(3, 4), COSINE, log_snr_grid(COSINE, 25))
        for d in (guide(denoise, log_prob, COSINE, 2.0), denoise)
    )
    final = [torch.softmax(classifier(x, torch.zeros(3)), 1).diagonal() for x in (out, free)]
    assert final[0].sum() > final[1].sum() + 0.3


# --- gradients and precision ---


def test_the_gradient_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    classifier = _Timeless(nn.Linear(2, 3))
    z, t, labels = latents(4), torch.full((4,), 0.6), torch.arange(4) % 3
    guided = guide(mixture_denoiser(COSINE), class_log_prob(classifier, labels), COSINE, 2.0)
    plain = guided(z, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = guided(z.bfloat16().float(), t)
        assert nn.functional.linear(z, torch.ones(1, 2)).dtype == torch.bfloat16
    assert torch.equal(cast, guided(z.bfloat16().float(), t))
    assert plain.dtype == cast.dtype == torch.float32
    assert all(call[0].dtype == torch.float32 and not call[2] for call in classifier.calls)


def test_a_half_precision_latent_is_differentiated_in_float32() -> None:
    classifier = _Timeless(lambda z: z)
    guided = guide(lambda z, t: z, class_log_prob(classifier, torch.tensor([0, 1])), COSINE)
    guided(latents(2).bfloat16(), torch.full((2,), 0.5))
    assert classifier.calls[0][0].dtype == torch.float32


def test_guidance_works_without_gradients_and_leaves_none() -> None:
    classifier = _Timeless(nn.Linear(2, 3))
    z, t = latents(2), torch.full((2,), 0.5)
    guided = guide(
        mixture_denoiser(COSINE), class_log_prob(classifier, torch.tensor([0, 1])), COSINE
    )
    with torch.no_grad():
        out = guided(z, t)
    assert not out.requires_grad and not z.requires_grad
    assert all(p.grad is None for p in classifier.parameters())
    assert not torch.equal(out, mixture_denoiser(COSINE)(z, t))


# --- errors ---


def test_unknown_mode() -> None:
    with pytest.raises(
        ValueError, match=r"mode must be one of \('noisy', 'x0', 'clean'\), got 'pure'"
    ):
        class_log_prob(nn.Identity(), torch.tensor([0]), "pure")


def test_x0_needs_a_denoiser() -> None:
    with pytest.raises(ValueError, match="mode 'x0' needs the unguided denoiser, got none"):
        class_log_prob(nn.Identity(), torch.tensor([0]), "x0")


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(
        ValueError, match=f"temperature must be positive and finite, got {temperature}"
    ):
        class_log_prob(nn.Identity(), torch.tensor([0]), temperature=temperature)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": -1.0}, "guidance scale must be at least 0 and finite, got -1.0"),
        ({"scale": math.nan}, "guidance scale must be at least 0 and finite, got nan"),
        ({"scale": math.inf}, "guidance scale must be at least 0 and finite, got inf"),
        ({"cap": 0.0}, "guidance cap must be positive, got 0.0"),
        ({"cap": -0.5}, "guidance cap must be positive, got -0.5"),
        ({"cap": math.nan}, "guidance cap must be positive, got nan"),
        ({"interval": (1.0, -1.0)}, r"guidance interval must rise, got \(1.0, -1.0\)"),
        ({"interval": (-1.0, math.nan)}, r"guidance interval must rise, got \(-1.0, nan\)"),
    ],
)
def test_guide_checks_its_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guide(mixture_denoiser(COSINE), lambda z, t: z.sum(1), COSINE, **arguments)


# -------------------------------------------------------------------------------------------------
# ------------ guidance without a classifier


@pytest.mark.parametrize("weight", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_the_score_is_that_of_the_weighted_densities(name: str, weight: float) -> None:
    """At each noise level it follows ``p^w q^(1 - w)``: for Gaussians, precisions add with the
    weights ``w`` and ``1 - w``.
    """
    schedule = NoiseSchedule.named(name)
    denoise = condition_guide(
        gaussian_denoiser(schedule, 0.0, 0.5),
        gaussian_denoiser(schedule, 0.0, 0.9),
        weight,
        schedule,
    )
    t, z = (
        torch.linspace(0.05, 0.95, 10),
        torch.randn(10, 3, generator=torch.Generator().manual_seed(0)),
    )
    alpha, sigma = amplitudes(schedule, t)
    precision = weight / (alpha**2 * 0.5**2 + sigma**2) + (1 - weight) / (
        alpha**2 * 0.9**2 + sigma**2
    )
    assert torch.allclose(denoise(z, t), (z - sigma**2 * precision * z) / alpha, atol=1e-4)


@pytest.mark.parametrize("weight", [1.5, 2.0])
def test_samples_of_a_too_wide_model_are_nearer_to_the_data(weight: float) -> None:
    """Data of width 0.5; a model that makes it 0.6 wide, and, without its condition, 0.7."""
    schedule = NoiseSchedule.named("cosine")
    better, plain = gaussian_denoiser(schedule, 0.0, 0.6), gaussian_denoiser(schedule, 0.0, 0.7)
    start = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1)) * schedule.start_std
    widths = [
        float(dpmpp_2m(denoise, start, schedule, log_snr_grid(schedule, 50)).std())
        for denoise in (better, condition_guide(better, plain, weight, schedule))
    ]
    assert widths[0] == pytest.approx(0.6, abs=0.02) and abs(widths[1] - 0.5) < 0.75 * abs(
        widths[0] - 0.5
    )


def test_a_scale_of_one_does_not_evaluate_the_plain_model() -> None:
    def never(z: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("evaluated")

    denoise = gaussian_denoiser(COSINE, 0.0, 1.0)
    assert condition_guide(denoise, never, 1.0, COSINE) is denoise


def test_the_plain_model_is_not_evaluated_outside_the_interval() -> None:
    times: list[float] = []
    better, plain = gaussian_denoiser(COSINE, 0.0, 0.5), gaussian_denoiser(COSINE, 0.0, 0.9)

    def watched(z: Tensor, t: Tensor) -> Tensor:
        times.extend(t.tolist())
        return plain(z, t)

    denoise, z = condition_guide(better, watched, 2.0, COSINE, (-2.0, 3.0)), torch.ones(1, 3)
    grid = log_snr_grid(COSINE, 42)[:, None]
    for t in grid:
        inside = -2.0 <= float(COSINE.log_snr(t)) <= 3.0
        expected = 2 * better(z, t) - plain(z, t) if inside else better(z, t)
        assert torch.allclose(denoise(z, t), expected, atol=1e-5)
    assert (
        times == [float(t) for t in grid if -2.0 <= float(COSINE.log_snr(t)) <= 3.0]
        and 5 < len(times) < 15
    )
    mixed = torch.cat([grid[3], grid[21]])  # one sample outside, one inside
    rows = denoise(z.expand(2, 3), mixed)
    assert torch.allclose(rows[0], better(z, grid[3])[0]) and not torch.allclose(
        rows[1], better(z, grid[21])[0]
    )


def test_the_first_step_and_sample_that_is_not_finite_is_named() -> None:
    """By any value of it, in a trajectory of three steps; and nothing is said of finite ones."""
    odd = torch.zeros(3, 2, 2, 2)
    odd[1, 1, 0, 1] = math.nan
    steps = iter([torch.zeros(3, 2, 2, 2), odd, odd])
    watched = Watched(lambda z, t: next(steps))
    z = torch.zeros(3, 2, 2, 2)
    watched(z, torch.full((3,), 0.9))
    watched.check(torch.tensor([0, 4, 0]))
    for t in (0.5, 0.1):
        watched(z, torch.full((3,), t))
    with pytest.raises(FloatingPointError, match="at step 2 of 3, t = 0.5000, class 4$"):
        watched.check(torch.tensor([0, 4, 0]))
