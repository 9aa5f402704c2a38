"""The evaluation of a generator, on generators and autoencoders whose faults are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_histodiff import ClassifierTraining, PatchEncoder
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.evaluation.denoising import denoising_error
from monai_histodiff.evaluation.generator import (
    evaluate_generator,
    probe_reconstructions,
    write_evaluation,
)
from monai_histodiff.utils.global_state import kept_random_state


def items(count: int, seed: int, label: int | None = None) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    images = (
        torch.rand(count, 3, 4, 4, generator=generator)
        .repeat_interleave(4, 2)
        .repeat_interleave(4, 3)
    )
    images = (images * 255).round() / 255
    return [
        {"image": x if label is None else x * 0.3 + 0.35 * label, "label": label or 0}
        for x in images
    ]


class Autoencoder(torch.nn.Module):
    """An ideal autoencoder, or one that forgets everything but the size of a patch."""

    latent_mean = torch.zeros(1)

    def __init__(self, ideal: bool = True) -> None:
        super().__init__()
        self.ideal = ideal

    def padded(self, x: Tensor) -> Tensor:
        return x

    def encode(self, x: Tensor) -> Tensor:
        return x if self.ideal else torch.full_like(x, 0.2)

    def decode(self, z: Tensor) -> Tensor:
        return z


def sampler(images: Tensor, ideal: bool = True) -> SimpleNamespace:
    class Fixed:
        model = Autoencoder(ideal)

        def __call__(self, labels: None, seeds: range, exemplars: Tensor | None = None) -> Tensor:
            return images[list(seeds)]

    return Fixed()


@pytest.fixture
def encoder() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(widths=(4, 4, 8, 8, 8), features=16).eval()


def evaluate(encoder: PatchEncoder, images: Tensor, folder: Path, ideal: bool = True) -> dict:
    train, held_out = items(40, 0), items(24, 1)
    return evaluate_generator(
        sampler(images, ideal),
        encoder,
        train,
        held_out,
        torch.ones(40),
        folder,
        len(images),
        batch_size=7,
        training=ClassifierTraining(steps=1),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 9}, "num_samples must be a whole number from 10 on, got 9"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, got 0"),
        ({"held_out": items(5, 1)}, "more than 5 patches each, got 40 and 5"),
        (
            {"held_out": [{"image": torch.zeros(3, 8, 8)}] * 9},
            r"of one size, got \(3, 16, 16\) and \(3, 8, 8\): crop them",
        ),
        ({"weights": torch.ones(10)}, r"must be 40 finite numbers.* got shape \(10,\), 10 above"),
        ({"weights": -torch.ones(40)}, r"got shape \(40,\), 0 above 0"),
        ({"weights": torch.full((40,), torch.nan)}, r"got shape \(40,\), 0 above 0"),
    ],
)
def test_nothing_is_sampled_for_figures_that_cannot_be(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {
        "train": items(40, 0),
        "held_out": items(24, 1),
        "weights": torch.ones(40),
        "num_samples": 40,
        "output_dir": tmp_path,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        evaluate_generator(None, None, **given)  # type: ignore[arg-type]


def stack(patches: list[dict]) -> Tensor:
    return torch.stack([p["image"] for p in patches])


def test_a_generator_that_repeats_the_training_set_is_caught(
    encoder: PatchEncoder, tmp_path: Path
) -> None:
    found = evaluate(encoder, stack(items(40, 0))[:20], tmp_path)
    assert found["copies"] == {
        "percentile": 1.0,
        "features": {"samples": 20, "held_out": 1},
        "thumbnails": {"samples": 20, "held_out": 1},
    }
    assert found["numbers"] == {"samples": 20, "floor": 20, "held_out": 24, "train": 40}
    assert (tmp_path / "samples.png").is_file()


def test_as_many_samples_are_compared_as_the_floor_has(
    encoder: PatchEncoder, tmp_path: Path
) -> None:
    """Figures depend on their number; there are 40 training patches."""
    images = stack(items(60, 5))
    more, as_many = (evaluate(encoder, part, tmp_path) for part in (images, images[:40]))
    assert more["samples"] == as_many["samples"] and more["floor"] == as_many["floor"]
    assert more["numbers"]["samples"] == 60 and more["numbers"]["floor"] == 40


def test_turned_training_patches_are_caught_by_their_thumbnails(
    encoder: PatchEncoder, tmp_path: Path
) -> None:
    found = evaluate(encoder, stack(items(40, 0)).rot90(1, (2, 3)), tmp_path)
    assert found["copies"]["thumbnails"]["samples"] == 40


def test_a_perfect_generator_scores_as_the_floor_and_a_flat_one_does_not(
    encoder: PatchEncoder, tmp_path: Path
) -> None:
    perfect = evaluate(encoder, stack(items(40, 5)), tmp_path)
    flat = evaluate(encoder, torch.full((40, 3, 16, 16), 0.5), tmp_path)
    assert perfect["copies"]["thumbnails"]["samples"] <= 4
    assert perfect["samples"]["fid"] < 3 * perfect["floor"]["fid"] < flat["samples"]["fid"]
    assert flat["floor"] == perfect["floor"]
    assert flat["samples"]["coverage"] <= 1 / 24 < 0.5 < perfect["samples"]["coverage"]


@pytest.mark.parametrize("ideal", [True, False])
def test_the_cost_of_the_autoencoder_is_told_apart(
    encoder: PatchEncoder, tmp_path: Path, ideal: bool
) -> None:
    found = evaluate(encoder, stack(items(40, 5)), tmp_path, ideal)
    assert (found["reconstructions"] == pytest.approx(found["floor"], rel=1e-4, abs=1e-6)) is ideal


def test_the_probe_measures_what_reconstruction_loses(encoder: PatchEncoder) -> None:
    train, test = items(12, 0, 0) + items(12, 1, 1), items(10, 2, 0) + items(30, 3, 1)
    ideal = probe_reconstructions(Autoencoder(), encoder, train, test)
    assert (
        ideal["accuracy"] == 1.0
        and ideal["accuracy_lost"] == ideal["balanced_accuracy_lost"] == 0.0
    )
    flat = probe_reconstructions(Autoencoder(ideal=False), encoder, train, test)
    assert flat["accuracy"] == 1.0 and flat["balanced_accuracy_reconstructed"] == 0.5
    assert flat["accuracy_lost"] == pytest.approx(1 - flat["accuracy_reconstructed"])


def test_an_evaluation_leaves_no_trace_in_the_random_state(
    encoder: PatchEncoder, tmp_path: Path
) -> None:
    with kept_random_state():
        torch.manual_seed(3)
        before = torch.get_rng_state()
        evaluate(encoder, stack(items(20, 0)), tmp_path)
        probe_reconstructions(Autoencoder(), encoder, items(6, 0, 0) + items(6, 1, 1), items(4, 2))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_wrong_stain_or_blur_is_seen_in_the_appearance(
    encoder: PatchEncoder, tmp_path: Path
) -> None:
    perfect = evaluate(encoder, stack(items(40, 5)), tmp_path)
    pale = evaluate(encoder, 0.5 + 0.5 * stack(items(40, 5)), tmp_path)
    smooth = evaluate(
        encoder, torch.nn.functional.avg_pool2d(stack(items(40, 5)), 5, 1, 2), tmp_path
    )
    found = [each["samples"]["appearance"] for each in (perfect, pale, smooth)]
    assert found[0] < 3 * perfect["floor"]["appearance"] and min(found[1:]) > 10 * found[0]


class Known(Autoencoder):
    """The exact denoiser of independent values -1 and 1, or the best linear one, for either
    schedule.
    """

    def __init__(self, name: str, linear: bool = False) -> None:
        super().__init__()
        self.schedule, self.linear = NoiseSchedule.named(name), linear

    def denoise(self, z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in self.schedule.alpha_sigma(t))
        return (
            alpha * z / (alpha**2 + sigma**2) if self.linear else torch.tanh(alpha * z / sigma**2)
        )


def signs(count: int) -> list[dict]:
    generator = torch.Generator().manual_seed(2)
    return [
        {"image": torch.randint(0, 2, (3, 8, 8), generator=generator) * 2.0 - 1}
        for _ in range(count)
    ]


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
def test_the_denoising_error_is_that_of_theory(schedule: str) -> None:
    ratios = (-2.0, 0.0, 1.0)
    noise = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-(noise**2) / 2) / (2 * torch.pi) ** 0.5
    expected = []
    for value in ratios:
        snr = torch.tensor(value, dtype=torch.float64).exp()
        exact = torch.trapezoid(density * (1 - torch.tanh(snr + snr.sqrt() * noise)) ** 2, noise)
        expected.append(
            float(exact * (1 + snr))
        )  # beside 1 / (1 + snr), the error of the linear denoiser
    found = denoising_error(Known(schedule), signs(300), ratios, batch_size=37)
    assert found["log_snr"] == list(ratios)
    assert found["relative_error"] == pytest.approx(expected, rel=0.02)
    assert found["mean"] == pytest.approx(sum(found["relative_error"]) / 3)
    linear = denoising_error(Known(schedule, linear=True), signs(300), ratios)["relative_error"]
    assert linear == pytest.approx([1.0] * 3, rel=0.01)


def test_the_denoising_error_repeats_whatever_the_batches() -> None:
    first, second = (
        denoising_error(Known("cosine"), signs(20), batch_size=size) for size in (3, 20)
    )
    assert first["relative_error"] == pytest.approx(second["relative_error"], rel=1e-5)
    assert denoising_error(Known("cosine"), signs(20), seed=1) != second


@pytest.mark.parametrize(
    ("patches", "ratios", "message"),
    [
        (signs(4), (-50.0, 0.0), r"within the schedule's, from -9 to 12, got \[-50.0, 0.0\]"),
        (signs(4), (float("nan"),), r"got \[nan\]"),
        (signs(4), (), r"got \[\]"),
        ([], (0.0,), "patches must be a whole number from 1 on, got 0"),
    ],
)
def test_a_denoising_error_is_of_ratios_that_the_schedule_has(
    patches: list[dict], ratios: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        denoising_error(Known("cosine"), patches, ratios)


def test_the_figures_are_written_as_json(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path / "new", one={"psnr": torch.tensor(27.5)}, none=None)
    assert json.loads(path.read_text()) == {"one": {"psnr": 27.5}, "none": None}
