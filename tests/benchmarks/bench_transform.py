"""What the transform costs: epochs with and without it, side by side, a refresh under way, memory,
and sampling per item.

    python tests/benchmarks/bench_transform.py --items 512 --workers 0 --device cpu

The items are PNG patches of 128 pixels, decoded in every epoch, jittered in stain and flipped; a
small residual network is trained on them. Epochs of all kinds take turns, and ratios are medians
over the turns, so that whatever else the machine does slows all of them. The diffusion model is
that of the bundle; speed does not depend on its weights.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandFlipd
from PIL import Image

from monai_histodiff import (
    GuidedSampler,
    LatentClassifier,
    LatentDiffusion,
    LiveBank,
    PatchClassifier,
    PatchCritic,
    RandHEJitterd,
    Selector,
    SyntheticAugmentd,
)
from monai_histodiff.data.pictures import decode_patch

BUNDLE = Path(__file__).parents[2] / "bundles" / "histopathology_ldm"


class Decode:
    """A file name becomes a patch."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        patch = decode_patch(Path(item["image"]).read_bytes(), item["image"])
        return {
            "image": torch.from_numpy(patch).permute(2, 0, 1).contiguous(),
            "label": item["label"],
        }


class Scale:
    """Bytes become floating point in [0, 1]."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "image": torch.as_tensor(item["image"]) / 255}


def write_items(folder: Path, count: int, side: int) -> list[dict[str, Any]]:
    """Smooth random pictures, about as hard to decode as tissue."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        coarse = rng.integers(90, 240, (side // 4, side // 4, 3)).astype(np.uint8)
        picture = np.asarray(
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        )
        path = folder / f"{i}.png"
        Image.fromarray((picture + rng.integers(0, 8, picture.shape)).astype(np.uint8)).save(path)
        out.append({"image": str(path), "label": i % 2})
    return out


def epoch_of(loader: DataLoader, train: Callable[[Any], None] | None) -> float:
    """Seconds of one epoch."""
    start = time.perf_counter()
    for batch in loader:
        if train is not None:
            train(batch)
    return time.perf_counter() - start


def trainer(device: torch.device) -> Callable[[Any], None]:
    """One optimiser step of a small residual network."""
    network = PatchClassifier(2, width=16).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)

    def step(batch: Any) -> None:
        loss = torch.nn.functional.cross_entropy(
            network(torch.as_tensor(batch["image"]).to(device)), batch["label"].to(device)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def bank_memory() -> float:
    """MiB of bank memory that this process has touched."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if "memfd:monai_histodiff" in line]
    return (
        sum(int(next(x for x in lines[i:] if x.startswith("Rss:")).split()[1]) for i in starts)
        / 1024
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=512)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quota", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)

    model = LatentDiffusion.from_bundle(BUNDLE, device)
    sampler = GuidedSampler(
        model,
        LatentClassifier(model.latent_shape[0], 2).to(device),
        steps=args.steps,
        progress=False,
    )
    critic = PatchCritic([PatchClassifier(2, width=16)], 2).to(device).eval()
    real = torch.randint(0, 256, (8, 3, model.patch_size, model.patch_size), dtype=torch.uint8)
    selector = Selector(critic, real, list("aabbccdd"), threshold=0.0)
    bank = LiveBank(
        sampler,
        selector,
        ["a", "b"],
        args.quota,
        args.quota,
        capacity=4 * args.quota,
        batch_size=args.quota,
    )
    before = bank_memory()
    start = time.perf_counter()
    bank.refresh()
    fill = time.perf_counter() - start
    memory = (bank_memory() - before) * 1000 / len(bank)

    with tempfile.TemporaryDirectory() as folder:
        items = write_items(Path(folder), args.items, model.patch_size)
        augment = SyntheticAugmentd("image", bank, prob=0.5, full_prob_at=1)
        rest = [RandHEJitterd("image"), RandFlipd("image", prob=0.5), Scale()]
        loaders = {
            name: DataLoader(
                Dataset(items, Compose([Decode(), *own, *rest])),
                batch_size=32,
                num_workers=args.workers,
                persistent_workers=args.workers > 0,
            )
            for name, own in (("without", []), ("with", [augment]))
        }
        step = trainer(device)
        for loader in loaders.values():
            epoch_of(loader, step)
        times: dict[tuple[str, str], list[float]] = {}
        waits: list[float] = []
        for _ in range(args.turns):
            for kind, train in (("loading", None), ("training", step)):
                for name, loader in loaders.items():
                    times.setdefault((kind, name), []).append(epoch_of(loader, train))
            bank.prepare()
            times.setdefault(("training", "sampling beside"), []).append(
                epoch_of(loaders["with"], step)
            )
            ready = False
            while not ready:
                time.sleep(0.01)
                start = time.perf_counter()
                ready = bank.refresh(wait=False)
            waits.append(time.perf_counter() - start)
        item = {"image": real[0], "label": 0}
        start = time.perf_counter()
        for _ in range(1000):
            augment(item)
        per_item = (time.perf_counter() - start) / 1000
        start = time.perf_counter()
        for i in range(5):
            sampler([i % 2], [i])
        naive = (time.perf_counter() - start) / 5

    def ratio(kind: str, name: str) -> float:
        return statistics.median(
            a / b for a, b in zip(times[kind, name], times[kind, "without"], strict=True)
        )

    plain = min(times["training", "without"])
    chip = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{len(os.sched_getaffinity(0))} CPU cores"
    )
    rows = [
        ("epoch with / without the transform, loading only", f"{ratio('loading', 'with'):.3f}"),
        ("epoch with / without the transform, training", f"{ratio('training', 'with'):.3f}"),
        (
            "the same while a refresh is sampled beside",
            f"{ratio('training', 'sampling beside'):.2f}",
        ),
        ("publishing a refresh that is ready", f"{1000 * statistics.median(waits):.1f} ms"),
        (f"sampling and judging one refresh of {2 * args.quota} patches, alone", f"{fill:.1f} s"),
        ("bank memory per 1,000 patches", f"{memory:.1f} MiB"),
        ("the transform, one item", f"{1e6 * per_item:.0f} us"),
        ("naive: sampling one patch per item", f"{1000 * naive:.0f} ms"),
        (
            "naive epoch, every second item sampled / epoch without",
            f"{1 + naive * args.items / 2 / plain:.0f}",
        ),
    ]
    setting = f"{args.items} items of {model.patch_size} pixels, {args.steps} steps"
    setting += f", {args.workers} workers"
    print(f"\n{chip}, {platform.machine()}, torch {torch.__version__}; {setting}")
    print("\n| | |\n|---|---|")
    print("\n".join(f"| {name} | {value} |" for name, value in rows))


if __name__ == "__main__":
    main()
