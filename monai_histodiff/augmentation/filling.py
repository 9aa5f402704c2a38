"""``Filling``: one refresh of a live bank, sampled in a thread; and the agreement of distributed
processes on it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.selection.quotas import sample_candidates
from monai_histodiff.selection.selector import Selector
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.fingerprint import fingerprint

__all__ = [
    "Filling",
    "Fresh",
    "cannot_sample",
    "checked_options",
    "guard_forks",
    "made_with",
    "stop_all",
]

# Held while a batch is sampled. A fork waits for it: a lock that another thread holds would stay
# locked in the child.
_sampling = threading.RLock()


def checked_options(
    quota: int, max_candidates: int, batch_size: int, surplus: float, capacity: int, seed: int
) -> dict[str, Any]:
    """The options of each refresh of a live bank, refused before anything is sampled.

    Returns:
        Further arguments of :func:`monai_histodiff.sample_candidates`, but for the seed.

    Raises:
        ValueError: one is out of its range; the message names it.
    """
    if not 1 <= quota <= capacity:
        raise ValueError(f"quota must lie from 1 to capacity, got {quota} and capacity {capacity}")
    if not 1 <= surplus < math.inf:
        raise ValueError(f"surplus must be at least 1 and finite, got {surplus}")
    check_from(0, seed=seed)
    check_from(
        1, capacity=capacity, quota=quota, max_candidates=max_candidates, batch_size=batch_size
    )
    return {
        "quota": quota,
        "max_candidates": max_candidates,
        "batch_size": batch_size,
        "surplus": surplus,
    }


def cannot_sample(filled: bool) -> str:
    """Why a worker, or a pickled copy of a live bank, does not sample, and what to do."""
    why = "a worker process cannot sample, nor can a pickled copy of a live bank"
    if filled:
        return f"{why}: call refresh and prepare where the bank was made"
    return (
        f"{why}, and this live bank was never filled: fill it in the main process before the "
        "workers start (LiveBank.refresh, or the handler BankRefresher), or prepare a bank "
        "(LiveBank.save) and give SyntheticAugmentd its folder"
    )


@cache
def guard_forks() -> None:
    """From now on, let a fork of this process wait for the batch under way; the first live bank
    asks for it.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_sampling.acquire,
            after_in_parent=_sampling.release,
            after_in_child=_sampling.release,
        )


class Fresh(NamedTuple):
    """The accepted patches of a refresh.

    Attributes:
        patches: for each class its ``images`` (uint8 ``N x 3 x H x W``), ``confidence`` and
            ``seeds``.
        about: plain values: number of candidates and seconds.
    """

    patches: list[dict[str, Tensor]]
    about: dict[str, Any]


class Filling:
    """A thread that samples and selects the patches of one refresh.

    Args:
        sampler: makes the candidates. On a CUDA device it works on a stream of its own, beside the
            training.
        selector: judges them.
        classes: names of the classes to fill, by index.
        options: further arguments of :func:`monai_histodiff.sample_candidates`.

    Attributes:
        result: the future :class:`Fresh`.
        failed: whether it has ended with an error; to ask it takes no lock, which a fork could
            leave locked.
    """

    def __init__(
        self,
        sampler: GuidedSampler,
        selector: Selector,
        classes: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        self.result: Future[Fresh] = Future()
        self.failed = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(sampler, selector, classes, options),
            name="LiveBank",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread, at the latest after the batch under way."""
        self._stopped.set()
        self._thread.join()

    def _run(
        self,
        sampler: GuidedSampler,
        selector: Selector,
        classes: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        try:
            with _own_stream(sampler.device):
                guarded: list[Any] = [
                    _Guarded(part, self._stopped) for part in (sampler, selector)
                ]
                judged = sample_candidates(
                    guarded[0],
                    guarded[1],
                    len(classes),
                    progress=False,
                    classes=classes,
                    **options,
                )
            rows = [
                (judged.accepted & (judged.labels == k)).nonzero()[:, 0]
                for k in range(len(classes))
            ]
            columns = {
                "images": judged.images,
                "confidence": judged.confidence,
                "seeds": judged.seed,
            }
            patches = [{name: column[i] for name, column in columns.items()} for i in rows]
            self.result.set_result(
                Fresh(patches, {"candidates": len(judged.labels), "seconds": judged.seconds})
            )
        except BaseException as error:
            self.result.set_exception(error)
            self.failed = True


def stop_all(filling: list[Filling]) -> None:
    """Stop the thread of a list, and empty it."""
    while filling:
        filling.pop().stop()


class _Guarded:
    """A sampler or selector, no call of which is under way while the process is forked, nor begins
    once it is stopped.
    """

    def __init__(self, function: Callable[..., Any], stopped: threading.Event) -> None:
        self.function, self.stopped = function, stopped

    def __call__(self, *args: Any) -> Any:
        time.sleep(0.001)  # a fork that waits goes first
        if self.stopped.is_set():
            raise InterruptedError("the live bank was closed")
        with _sampling:
            return self.function(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


def _own_stream(device: torch.device) -> Any:
    if device.type != "cuda":
        return nullcontext()
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for the life of the process: what a stream has freed is kept for that stream alone."""
    return torch.cuda.Stream(device)


def made_with(sampler: GuidedSampler, selector: Selector) -> dict[str, Any]:
    """Plain values that say what patches are made with: SHA-256 of the weights, and the settings
    of sampler and selector.
    """
    networks = {"model": sampler.model, "guide": sampler.guide, "critic": selector.critic}
    hashes = {k: fingerprint(dict(n.state_dict())) for k, n in networks.items() if n is not None}
    return {
        "weights_sha256": hashes,
        "sampling": asdict(sampler.settings),
        "selection": selector.settings,
    }
