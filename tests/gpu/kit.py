"""All that a GPU is wanted for, in one command with a deadline:

    python tests/gpu/kit.py --minutes 12 --dataset_dir DATA --out OUT

runs the CUDA tests, the benchmarks, and with what time is left the pre-training of the generator
from the shipped weights, whose averaged weights are written in pieces of at most 16 MiB (put
together again by ``--join OUT``). ``--device cpu --toy`` rehearses all of it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
LDM = ROOT / "bundles" / "histopathology_ldm"
PIECE = 15 * 2**20  # bytes
END = 45.0  # seconds kept for writing the pieces


def logged(command: list[str], log: Path, seconds: float, **environment: str) -> int:
    """Run a command of the repository, write what it says, and return its exit status."""
    with open(log, "w", encoding="utf-8") as stream:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    return done.returncode


def tests(device: str, out: Path, seconds: float) -> dict[str, Any]:
    """The CUDA subset of the tests."""
    here = str(Path(__file__).parent)
    command = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", here]
    status = logged(command, out / "tests.txt", seconds, HISTODIFF_DEVICE=device)
    return {"passed": status == 0}


def speed(device: str, toy: bool) -> dict[str, Any]:
    """Patches a second, unconditional and by exemplars, at two sizes in bfloat16; and the largest
    matrix product beside, as a measure of the machine.
    """
    from monai_histodiff import GuidedSampler, LatentDiffusion, PatchEncoder

    model = LatentDiffusion.from_bundle(LDM, device)
    encoder = PatchEncoder.from_bundle(LDM, device)
    count = 4 if toy else 512
    exemplars = encoder.descriptors(torch.rand(count, 3, 128, 128))
    found: dict[str, Any] = {"matrix_tflops": _matrix(device, 512 if toy else 8192)}
    for size in (128, 256):
        for name, given in (("unconditional", None), ("exemplars", exemplars)):
            sampler = GuidedSampler(
                model, steps=8, stop=4.0, size=size, bfloat16=True, progress=False
            )
            sampler(None, range(count), given)  # warm
            start = time.perf_counter()
            sampler(None, range(count), given)
            found[f"{name} {size}"] = count / (time.perf_counter() - start)
    if device != "cpu":
        found["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        found["device"] = torch.cuda.get_device_name()
    return found


def _matrix(device: str, side: int) -> float:
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    rounds = 3 if device == "cpu" else 30
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(rounds):
            a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        taken = time.perf_counter() - start
    return rounds * 2 * side**3 / taken / 1e12


def transform_cost(device: str, out: Path, seconds: float) -> dict[str, Any]:
    """What the transform with a live bank costs a loader, by the repository's benchmark."""
    command = ["tests/benchmarks/bench_transform.py", "--device", device]
    return {"returned": logged(command, out / "transform.txt", seconds)}


def train(arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Pre-training by the bundle's own config until the deadline."""
    out, toy = Path(arguments.out), arguments.toy
    configs = [str(LDM / "configs" / f"train_{name}.yaml") for name in ("base", "diffusion")]
    options: dict[str, Any] = {
        "bundle_root": LDM,
        "dataset_dir": Path(arguments.dataset_dir).resolve(),
        "output_dir": (out / "training").resolve(),
        "initial_weights": (LDM / "models" / "model.pt").resolve(),
        "device": arguments.device,
        "steps": arguments.steps,
        "batch_size": 4 if toy else 256,
        "encodings": 1 if toy else 8,
        "epoch_length": 2 if toy else 100,
        "save_interval": 1,
        "num_workers": 0 if toy else 8,
        "learning_rate": 0.002,
    }
    if arguments.sources:
        options["sources"] = arguments.sources
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs)]
    command += flags
    with open(out / "training.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the last weights are whole
            process.wait()
    weights = out / "training" / "model.pt"
    return {"weights": split(weights, out) if weights.is_file() else 0}


def split(path: Path, out: Path) -> int:
    """Write a file in pieces; their number."""
    content = path.read_bytes()
    pieces = [content[i : i + PIECE] for i in range(0, len(content), PIECE)]
    for i, piece in enumerate(pieces):
        (out / f"model.pt.{i}").write_bytes(piece)
    return len(pieces)


def join(out: Path) -> Path:
    """The file of the pieces."""
    pieces = sorted(out.glob("model.pt.[0-9]*"), key=lambda path: int(path.suffix[1:]))
    if not pieces:
        raise SystemExit(f"there must be pieces model.pt.0, ..., got none in '{out}'")
    (out / "model.pt").write_bytes(b"".join(path.read_bytes() for path in pieces))
    return out / "model.pt"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--dataset_dir", default="")
    parser.add_argument("--sources", default="", help="as of train_base.yaml")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--join", action="store_true", help="only put the pieces together")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if arguments.join:
        print(join(out))
        return
    out.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + 60 * arguments.minutes, {}
    parts = {
        "tests": lambda left: tests(arguments.device, out, min(240.0, left)),
        "speed": lambda left: speed(arguments.device, arguments.toy),
        "transform": lambda left: transform_cost(arguments.device, out, min(120.0, left)),
        "training": lambda left: train(arguments, left - END),
    }
    for name, run in parts.items():
        left, start = end - time.monotonic(), time.monotonic()
        if left < END or (name == "training" and not arguments.dataset_dir):
            continue
        try:
            results[name] = run(left)
        except Exception as error:  # one part must not cost the others
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        results[name]["seconds"] = round(time.monotonic() - start, 1)
        (out / "kit.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
        print(name, json.dumps(results[name]), flush=True)


if __name__ == "__main__":
    main()
