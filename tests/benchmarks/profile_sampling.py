"""Where guided sampling spends its time: the share of each network, forward and backward, and of
all that is left.

    python tests/benchmarks/profile_sampling.py --patches 64 --ours '{"steps": 12, "stop": 4}'

The device is waited for before and after each call, so that the time is its own. What is left is
solver, noise, checks, transfers and Python.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import torch
from bench_sampling import add_bundle_options, bundle_parts

from monai_histodiff import GuidedSampler
from monai_histodiff.diffusion import SamplingSettings


class Clock:
    """Adds up the time of calls by name. Calls within a timed call count for the outer one."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.calls, self._inside = (
            device,
            dict[str, float](),
            dict[str, int](),
            False,
        )

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start
                self.calls[name] = self.calls.get(name, 0) + 1

        return call

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument(
        "--ours", type=json.loads, default={}, help="settings of the sampler, as JSON"
    )
    add_bundle_options(parser)
    options = parser.parse_args(arguments)
    model, student, guide, _, exemplars, classes = bundle_parts(options)
    own, settings = dict(options.ours), SamplingSettings()
    if own.pop("few_steps", False):
        model, settings = student, SamplingSettings.pretrained()
    sampler = GuidedSampler(
        model, guide, sources=exemplars, settings=settings, progress=False, **own
    )
    labels = torch.arange(options.patches) % len(classes)
    sampler(labels[:2], [0, 1])

    clock = Clock(sampler.device)
    model.unet.forward = clock.timed("UNet", model.unet.forward)
    model.decode = clock.timed("decoder", model.decode)
    guide.forward = clock.timed("guide, forward", guide.forward)
    with patch.object(torch.autograd, "grad", clock.timed("guide, backward", torch.autograd.grad)):
        start = time.perf_counter()
        sampler(labels, range(options.patches))
        total = time.perf_counter() - start
    rows = [
        *sorted(clock.seconds.items(), key=lambda row: -row[1]),
        ("the rest", total - sum(clock.seconds.values())),
    ]
    machine = f"{options.device}, {torch.get_num_threads()} threads, {platform.machine()}"
    machine += f", torch {torch.__version__}"
    print(f"{options.patches} patches, {machine}")
    print(json.dumps(asdict(sampler.settings)))
    print(f"\n| | share of {total:.1f} s | calls |\n|---|---|---|")
    print(
        "\n".join(
            f"| {name} | {seconds / total:.1%} | {clock.calls.get(name, '')} |"
            for name, seconds in rows
        )
    )


if __name__ == "__main__":
    main()
