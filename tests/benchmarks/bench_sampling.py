"""Guided samplers side by side, on the same networks, labels and seeds: patches and accepted
patches per second.

    python tests/benchmarks/bench_sampling.py --patches 192 --dataset_dir lung_lc25000_128.zip
    --ours '{"stop": 4, "strength": 0.5, "scale": 0}' '{"few_steps": true, "scale": 0}'

The samplers take turns at every batch, so that whatever else the machine does slows all of them.
Accepted are the patches whose intended class the bundle's critic gives at least its threshold.
Ours are made after the bundle's stored exemplars, unless "exemplar_scale" is 0; with a "strength"
below 1 they are variations of patches of the dataset; with "few_steps" the student makes them.
With a dataset of the same classes, and an encoder in the bundle of the diffusion model, the kernel
distance (KID) to its patches is printed beside that of one half of them to the other.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.inferers import LatentDiffusionInferer
from monai.networks.schedulers import DDIMScheduler
from torch import Tensor, nn

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion, PatchCritic, PatchSet
from monai_histodiff.classifiers.encoder import PatchEncoder
from monai_histodiff.diffusion import SamplingSettings, Sources, encode_latents
from monai_histodiff.evaluation.feature_metrics import kid
from monai_histodiff.utils.seeds import candidate_seed

try:
    from diffusers import DPMSolverMultistepScheduler
except ImportError:
    DPMSolverMultistepScheduler = None

BUNDLES = Path(__file__).parents[2] / "bundles"
PAPER = "paper: DDIM, eta 1, clean guide, scale 10"

Sample = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass
class Row:
    """What one sampler did: its time, and its patches on the CPU."""

    seconds: float = 0.0
    patches: list[Tensor] = field(default_factory=list)


class GuidedNoise(nn.Module):
    """What a user of MONAI or diffusers writes by hand: the predicted noise, less the guide's
    gradient at every step.
    """

    def __init__(
        self, model: LatentDiffusion, guide: LatentClassifier, labels: Tensor, scale: float
    ) -> None:
        super().__init__()
        self.model, self.guide, self.labels, self.scale = model, guide, labels, scale

    def forward(self, z: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
        t = (timesteps.float() / 1000).to(z.device).expand(len(z))
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in self.model.schedule.alpha_sigma(t))
        eps = (z - alpha * self.model.denoise(z, t)) / sigma
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            own = torch.log_softmax(self.guide(leaf, t), 1).gather(1, self.labels[:, None])
            gradient = torch.autograd.grad(own.sum(), leaf)[0]
        return eps - self.scale * sigma * gradient


def noise(model: LatentDiffusion, seeds: Sequence[int]) -> Tensor:
    """The noise that our sampler starts from."""
    drawn = [
        torch.randn(model.latent_shape, generator=torch.Generator().manual_seed(int(s)))
        for s in seeds
    ]
    return torch.stack(drawn).to(model.latent_mean.device)


def signal_power(model: LatentDiffusion) -> Tensor:
    """``alpha^2`` at the 1000 times of a discrete scheduler, for a schedule that preserves the
    variance.
    """
    if bool(model.schedule.is_flow):
        raise ValueError(
            "the peers' schedulers need a schedule that preserves the variance, got a flow"
        )
    return (
        model.schedule.alpha_sigma(torch.arange(1000, device=model.latent_mean.device) / 1000)[0]
        .square()
        .cpu()
    )


def monai_ddim(
    model: LatentDiffusion, guide: LatentClassifier, steps: int, scale: float
) -> Sample:
    """MONAI's ``LatentDiffusionInferer`` and ``DDIMScheduler``, with our schedule and a guide
    written by hand.
    """
    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    scheduler.alphas_cumprod = signal_power(model)
    scheduler.set_timesteps(steps)
    inferer = LatentDiffusionInferer(scheduler, scale_factor=1.0)
    autoencoder = type("Decoder", (), {"decode_stage_2_outputs": staticmethod(model.decode)})()

    def sample(labels: Tensor, seeds: Sequence[int]) -> Tensor:
        network = GuidedNoise(model, guide, labels.to(model.latent_mean.device), scale)
        return (
            inferer.sample(noise(model, seeds), autoencoder, network, scheduler, verbose=False)
            .float()
            .cpu()
        )

    return sample


def diffusers_dpm(
    model: LatentDiffusion, guide: LatentClassifier, steps: int, scale: float
) -> Sample:
    """diffusers' ``DPMSolverMultistepScheduler`` as it comes, with our schedule and the same
    guide.
    """
    power = signal_power(model).double()
    betas = 1 - power / torch.cat([torch.ones(1), power[:-1]])

    @torch.no_grad()
    def sample(labels: Tensor, seeds: Sequence[int]) -> Tensor:
        network, z = (
            GuidedNoise(model, guide, labels.to(model.latent_mean.device), scale),
            noise(model, seeds),
        )
        scheduler = DPMSolverMultistepScheduler(trained_betas=betas.tolist())
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            z = scheduler.step(network(z, t), t, z).prev_sample
        return model.decode(z).float().cpu()

    return sample


def samplers(
    model: LatentDiffusion,
    guide: LatentClassifier,
    ours: Sequence[Mapping[str, Any]] = ({},),
    scale: float = 3.0,
    ddim_steps: int = 50,
    dpm_steps: int = 20,
    batch: int = 32,
    student: LatentDiffusion | None = None,
    exemplars: Sources | None = None,
    variations: Sources | None = None,
) -> dict[str, Sample]:
    """The rows of the table: the paper's, the peers' and ours, the last one for each of some
    settings; with "few_steps", of the student.
    """
    paper = GuidedSampler(
        model,
        guide,
        steps=50,
        scale=10.0,
        interval=(-math.inf, math.inf),
        cap=math.inf,
        mode="clean",
        solver="ddim",
        eta=1.0,
    )
    rows: dict[str, Sample] = {
        PAPER: paper,
        f"MONAI: LatentDiffusionInferer, DDIM, {ddim_steps} steps": monai_ddim(
            model, guide, ddim_steps, scale
        ),
    }
    if DPMSolverMultistepScheduler is not None:
        rows[f"diffusers: DPM-Solver++, {dpm_steps} steps"] = diffusers_dpm(
            model, guide, dpm_steps, scale
        )
    for settings in ours:
        own = dict(settings)
        network, chosen = model, SamplingSettings()
        if own.pop("few_steps", False):
            network, chosen = student or model, SamplingSettings.pretrained()
        own["sources"] = variations if own.get("strength", 1) < 1 else exemplars
        sampler = GuidedSampler(network, guide, settings=chosen, **own)
        told = ", ".join(f"{name} {value}" for name, value in settings.items()) or "as it comes"
        rows[f"ours: {told} ({sampler.network_evaluations} evaluations)"] = sampler
    for row in rows.values():
        if isinstance(row, GuidedSampler):
            row.max_batch, row.progress = batch, False
    return rows


def run(
    samplers: Mapping[str, Sample], labels: Tensor, seeds: Sequence[int], batch: int
) -> dict[str, Row]:
    """Let the samplers take turns at every batch, after one patch each that is not timed."""
    rows = {name: Row() for name in samplers}
    for sample in samplers.values():
        sample(labels[:1], seeds[:1])
    for start in range(0, len(seeds), batch):
        part = slice(start, start + batch)
        for name, sample in samplers.items():
            before = time.perf_counter()
            rows[name].patches.append(sample(labels[part], seeds[part]))
            rows[name].seconds += time.perf_counter() - before
    return rows


def table(
    rows: Mapping[str, Row],
    labels: Tensor,
    critic: PatchCritic,
    real: Tensor | None = None,
    encoder: PatchEncoder | None = None,
) -> str:
    """The rows as Markdown; speed and yield are also given as multiples of the paper's."""
    head = ["sampler", "patches/s", "accepted", "mean confidence", "accepted/s", "x paper"]
    lines, base = [], None
    known = None if real is None or encoder is None else encoder.features(real)
    for name, row in rows.items():
        patches = torch.cat(row.patches)
        confidence = critic.probabilities(patches).gather(1, labels[:, None])[:, 0]
        share = float((confidence >= float(critic.threshold)).float().mean())
        speed = len(labels) / row.seconds
        base = speed * share if base is None else base
        ratio = f"{speed * share / base:.1f}" if base > 0 else "-"
        cells = [
            name,
            f"{speed:.2f}",
            f"{share:.0%}",
            f"{float(confidence.mean()):.2f}",
            f"{speed * share:.2f}",
            ratio,
        ]
        lines.append(
            cells if known is None else [*cells, f"{kid(known, encoder.features(patches))[0]:.3f}"]
        )
    if known is not None:
        head.append("KID")
        lines.append(
            [
                "real, one half to the other",
                *["-"] * (len(head) - 2),
                f"{kid(known[::2], known[1::2])[0]:.3f}",
            ]
        )
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines]
    )


def add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """Which bundles, on which device: what :func:`bundle_parts` reads."""
    parser.add_argument("--ldm_dir", default=str(BUNDLES / "histopathology_ldm"))
    parser.add_argument("--guidance_dir", default=str(BUNDLES / "histopathology_guidance"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def bundle_parts(options: argparse.Namespace) -> tuple[Any, ...]:
    """Model, its student, guide, critic, stored exemplars and class names of the bundles."""
    bundle = ConfigParser()
    bundle.read_config(str(Path(options.guidance_dir) / "configs" / "inference.json"))
    bundle.update(
        {"bundle_root": options.guidance_dir, "ldm_dir": options.ldm_dir, "device": options.device}
    )
    generator, *others = (
        bundle.get_parsed_content(name)
        for name in ("generator", "network", "critic", "sources", "classes")
    )
    student = LatentDiffusion.few_steps_from_bundle(options.ldm_dir, options.device)
    return generator, student, *others


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patches", type=int, default=96, help="of each sampler")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--ours",
        type=json.loads,
        nargs="+",
        default=[{}],
        help="settings of our sampler, as JSON, one for each row",
    )
    parser.add_argument("--scale", type=float, default=3.0, help="guidance scale of the peers")
    parser.add_argument("--ddim_steps", type=int, default=50, help="of MONAI's DDIM")
    parser.add_argument("--dpm_steps", type=int, default=20, help="of diffusers' DPM-Solver++")
    add_bundle_options(parser)
    parser.add_argument("--dataset_dir", help="real patches of the guide's classes, for KID")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    model, student, guide, critic, exemplars, classes = bundle_parts(options)
    labels = torch.arange(options.patches) % len(classes)
    seeds = [candidate_seed(options.seed, int(c), i) for i, c in enumerate(labels)]
    real = encoder = variations = None
    if options.dataset_dir and (Path(options.ldm_dir) / "models" / "encoder.pt").is_file():
        patches = PatchSet.open(options.dataset_dir)
        if list(patches.classes) != list(classes):
            raise ValueError(
                f"the dataset must have the guide's classes {classes}, got {patches.classes}"
            )
        least = min(int((patches.labels == k).sum()) for k in range(len(classes)))
        few = patches.few(min(least, 200), seed=options.seed)
        real = few.images(model.patch_size)
        encoder = PatchEncoder.from_bundle(options.ldm_dir, options.device)
        items = [
            {"image": image / 255, "label": int(k)}
            for image, k in zip(real, few.labels, strict=True)
        ]
        latents = encode_latents(model, Dataset(items), describe=encoder)
        variations = Sources.of(latents, len(classes))
    entries = samplers(
        model,
        guide,
        options.ours,
        options.scale,
        options.ddim_steps,
        options.dpm_steps,
        options.batch,
        student,
        exemplars,
        variations,
    )
    rows = run(entries, labels, seeds, options.batch)
    print(
        f"{options.patches} patches each, batches of {options.batch}, {options.device}, "
        f"{torch.get_num_threads()} threads,"
    )
    print(
        f"{platform.machine()}, torch {torch.__version__}, critic's threshold "
        f"{float(critic.threshold):.2f}\n"
    )
    print(table(rows, labels, critic, real, encoder))


if __name__ == "__main__":
    main()
