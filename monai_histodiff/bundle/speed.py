"""How fast this machine is, and a network on it."""

from __future__ import annotations

import os
import time

import torch

from monai_histodiff.classifiers.classifier import PatchClassifier
from monai_histodiff.training.steps import bfloat16_autocast
from monai_histodiff.utils.global_state import kept_random_state

__all__ = ["PROBE_SIZE", "measure_speed", "relative_cost"]

PROBE_BATCH, PROBE_SIZE = 8, 128
BUSY = 1.5  # times as long by the clock as computed, from which on it is told


def measure_speed(device: str | torch.device, bfloat16: bool = False) -> tuple[float, str]:
    """Seconds of one training step of a classifier on 8 patches, under bfloat16 autocast if that
    is asked for, and a hint where one thread would be faster than all, or other work slows it
    down. Takes about a second; random numbers are left as they were.

    On a CPU the seconds are those that the step computes, whether or not the machine lets it:
    other work comes and goes, and a plan for hours must not rest on one moment.
    """
    threads = torch.get_num_threads()
    with kept_random_state():
        torch.manual_seed(0)
        network = PatchClassifier(2).to(device)
        shape = (PROBE_BATCH, 3, PROBE_SIZE, PROBE_SIZE)
        images = torch.rand(shape, dtype=torch.float32).to(device)
    own, several = _seconds(network, images, bfloat16)
    if torch.device(device).type != "cpu":
        return several, ""
    busy = ""
    if several > BUSY * own:
        busy = (
            f"Hint: other work slows this machine down: at this moment all takes "
            f"{several / own:.1f} times as long as the plan says."
        )
    if threads == 1:
        return own, busy
    try:
        torch.set_num_threads(1)
        alone = _seconds(network, images, bfloat16)[1]
    finally:
        torch.set_num_threads(threads)
    if alone > 0.8 * several:
        return own, busy
    return own, (
        f"Hint: on this machine, now, one thread is {several / alone:.1f} times as fast as "
        f"{threads}: other work keeps the cores busy. Put OMP_NUM_THREADS=1 before the command."
        if "OMP_NUM_THREADS" not in os.environ
        else f"Hint: OMP_NUM_THREADS=1 would be {several / alone:.1f} times as fast here, now."
    )


def relative_cost(
    network: torch.nn.Module, size: int, device: str | torch.device, bfloat16: bool = False
) -> float:
    """How many times as long a training step of a network, on patches of a size, takes as one of a
    :class:`~monai_histodiff.PatchClassifier`: 1 for such a one, if it is no wider or deeper.
    Random numbers are left as they were.
    """
    with kept_random_state():
        usual = PatchClassifier(2).to(device)
        if isinstance(network, PatchClassifier) and _parameters(network) <= _parameters(usual):
            return 1.0
        images = torch.rand((PROBE_BATCH // 4, 3, size, size), dtype=torch.float32).to(device)
        clock = int(images.is_cuda)  # else what the processors compute, whatever else they do
        both = (network.to(device).train(), usual)
        own, ours = (_seconds(made, images, bfloat16, 6)[clock] for made in both)
    return own / ours


def _parameters(network: PatchClassifier) -> int:
    return sum(p.numel() for name, p in network.resnet.named_parameters() if "fc" not in name)


def _seconds(
    network: torch.nn.Module, images: torch.Tensor, bfloat16: bool, steps: int = 7
) -> tuple[float, float]:
    """Seconds of a training step by the processors' time, shared by the threads, and by the
    clock: the fastest, and the median, of the steps after a third that warm up.
    """
    computed, taken = [], []
    for _ in range(steps):
        start, used = time.perf_counter(), time.process_time()
        with bfloat16_autocast(images, bfloat16):
            loss = network(images).square().mean()
        loss.backward()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        computed.append((time.process_time() - used) / torch.get_num_threads())
        taken.append(time.perf_counter() - start)
    first = steps // 3
    clock = sorted(taken[first:])
    return min(*computed[first:], clock[0]), clock[len(clock) // 2]
