"""``LiveBank``: a bank that is filled by a sampler and a selector in the main process, and renewed
while training runs.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_histodiff.augmentation.filling import Filling, Fresh
from monai_histodiff.data.bank import BankPatch, SyntheticBank
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.selection.selector import Selector
from monai_histodiff.utils.processes import (
    candidate_seed,
    first_rank,
    from_first_rank,
    is_distributed,
)
from monai_histodiff.utils.shared_memory import SharedTensors

__all__ = ["LiveBank"]

COLUMNS = ("images", "confidence", "seeds")
logger = logging.getLogger(__name__)


class LiveBank:
    """A bank that renews itself: sampled and selected in batches by a thread of this process, read
    by any worker.

    A refresh samples on the device of the model and then publishes all its patches at once:
    readers in any process, also workers that have been running since before, see either the old
    patches or the new ones. There are two buffers in shared memory; a refresh fills the one that
    is not read and then switches. The newest patches of a class come first; the oldest leave when
    ``capacity`` is reached.

    The patches of a refresh depend on ``(seed, refresh, class)`` and on sampler and selector
    alone. With several distributed processes, the first rank samples and the others receive: call
    :meth:`refresh` on every rank.

    Args:
        sampler: makes the candidates; its model gives the size of the patches.
        selector: judges them.
        classes: names, by class index.
        quota: accepted patches wanted of each class in a refresh.
        max_candidates: candidates of each class in a refresh, at the most.
        capacity: patches kept of each class; shared memory for twice as many is set aside, and
            taken as it is filled.
        batch_size: candidates between two judgements. A fork of the process, such as the start of
            a loader's workers, waits for the batch under way.
        seed: seed of all refreshes.
        surplus: accepted patches to collect in a refresh, as a multiple of the quota, of which the
            most diverse are kept; see :func:`monai_histodiff.sample_candidates`.

    Attributes:
        history: what each refresh accepted, by class, from how many candidates, in how many
            seconds.

    Raises:
        ValueError: there is no class, the quota is below 1 or exceeds the capacity, or the surplus
            is below 1.
    """

    def __init__(
        self,
        sampler: GuidedSampler,
        selector: Selector,
        classes: Sequence[str],
        quota: int = 64,
        max_candidates: int = 256,
        capacity: int = 256,
        batch_size: int = 64,
        seed: int = 0,
        surplus: float = 1.0,
    ) -> None:
        if not classes:
            raise ValueError("a bank needs at least one class, got none")
        if not 1 <= quota <= capacity:
            raise ValueError(
                f"quota must lie from 1 to capacity, got {quota} and capacity {capacity}"
            )
        self.classes, self.capacity, self.seed = tuple(classes), capacity, seed
        if not 1 <= surplus < math.inf:
            raise ValueError(f"surplus must be at least 1 and finite, got {surplus}")
        self.options = {
            "quota": quota,
            "max_candidates": max_candidates,
            "batch_size": batch_size,
            "surplus": surplus,
        }
        self.history: list[dict[str, Any]] = []
        n, side = len(self.classes), sampler.size
        self._memory = SharedTensors(
            {
                "images": ((2, n, capacity, 3, side, side), torch.uint8),
                "confidence": ((2, n, capacity), torch.float32),
                "seeds": ((2, n, capacity), torch.int64),
                "count": ((2, n), torch.int64),
                "version": ((1,), torch.int64),
            }
        )
        self._source: tuple[GuidedSampler, Selector] | None = (sampler, selector)
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._filling: list[Filling] = []  # the one under way, if any
        weakref.finalize(self, _stop, self._filling)

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the memory; model and thread stay here."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_source", "_lock", "_filling")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _source=None, _lock=threading.RLock(), _filling=[])

    @property
    def refreshes(self) -> int:
        """Times that the bank has been filled."""
        return int(self._memory["version"])

    @property
    def num_classes(self) -> int:
        """Class indices of the bank lie below this number."""
        return len(self.classes)

    def __len__(self) -> int:
        return int(self._memory["count"][self.refreshes % 2].sum())

    def count(self, label: int) -> int:
        """Number of patches of a class now; 0 for a class that the bank does not know. It fills a
        bank never filled.

        Raises:
            RuntimeError: the bank was never filled, and this process cannot do it.
        """
        self._fill_first()
        return (
            int(self._memory["count"][self.refreshes % 2, label])
            if 0 <= label < self.num_classes
            else 0
        )

    def draw(self, label: int, position: float) -> BankPatch | None:
        """As :meth:`monai_histodiff.SyntheticBank.draw`. It fills a bank never filled.

        Raises:
            RuntimeError: the bank was never filled, and this process cannot do it.
        """
        self._fill_first()
        while True:
            version = self.refreshes
            count = self.count(label)
            if not count:
                return None
            place = (version % 2, label, min(int(position * count), count - 1))
            image, confidence, seed = (self._memory[name][place].clone() for name in COLUMNS)
            if version == self.refreshes:  # else the buffer may have been written to meanwhile
                return BankPatch(image, label, float(confidence), int(seed))

    def prepare(self) -> None:
        """Start to sample the next refresh in the background, unless it is under way or ready;
        returns at once.

        Raises:
            RuntimeError: this process cannot sample.
        """
        with self._lock:
            if self._source is None or self._process != os.getpid():
                raise RuntimeError(
                    "a worker process cannot sample, and this live bank was never filled: fill it in the main process before the "
                    "workers start (LiveBank.refresh, or the handler BankRefresher), or prepare a bank (LiveBank.save) and give "
                    "SyntheticAugmentd its folder"
                )
            if not self._filling and first_rank():
                options = {**self.options, "seed": candidate_seed(self.seed, self.refreshes)}
                self._filling.append(Filling(*self._source, len(self.classes), options))

    def refresh(self, wait: bool = True) -> bool:
        """Publish what :meth:`prepare` has sampled, or sample now.

        Args:
            wait: wait for patches that are not ready; else leave the bank as it is.

        Returns:
            Whether the bank was renewed.

        Raises:
            RuntimeError: this process cannot sample.
            Exception: what sampling raised.
        """
        with self._lock:
            self.prepare()
            start = time.perf_counter()
            fresh = from_first_rank(lambda: self._result(wait))
            if fresh is None:
                return False
            self._publish(fresh)
            waited, accepted = (
                time.perf_counter() - start,
                [len(part["images"]) for part in fresh.patches],
            )
            self.history.append({"accepted": accepted, **fresh.about})
            logger.info(
                f"refresh {self.refreshes}: accepted {accepted} in {fresh.about['seconds']:.2f} s, waited {waited:.2f} s"
            )
            return True

    def close(self) -> None:
        """Stop sampling, at the latest after the batch under way. The patches stay, and sampling
        may start again.
        """
        _stop(self._filling)

    def snapshot(self) -> SyntheticBank:
        """A bank of the patches that there are now, with their provenance."""
        with self._lock:
            now = self.refreshes % 2
            counts = self._memory["count"][now].tolist()
            images, confidence, seeds = (
                {k: self._memory[name][now, k, :n] for k, n in enumerate(counts)}
                for name in COLUMNS
            )
            return SyntheticBank(images, confidence, seeds, self.classes, self.provenance)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write :meth:`snapshot` to a folder, from which ``SyntheticBank.load`` reads it.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """
        return self.snapshot().save(folder)

    @property
    def provenance(self) -> dict[str, Any]:
        """Plain values: settings, seed, :attr:`history` and, in the process that samples, SHA-256
        of the weights.
        """
        out: dict[str, Any] = {
            "settings": {**self.options, "capacity": self.capacity, "seed": self.seed},
            "refreshes": [dict(row) for row in self.history],
        }
        if self._source is not None:
            sampler, selector = self._source
            networks = {
                "model": sampler.model,
                "weak": sampler.weak,
                "guide": sampler.guide,
                "critic": selector.critic,
            }
            out["weights_sha256"] = {
                name: _digest(network) for name, network in networks.items() if network is not None
            }
            out |= {"sampling": asdict(sampler.settings), "selection": selector.settings}
        return out

    def _fill_first(self) -> None:
        if self.refreshes == 0:
            with self._lock:
                if self.refreshes == 0:
                    if is_distributed():
                        raise RuntimeError(
                            "distributed processes must fill a live bank before they train: call refresh on every rank"
                        )
                    self.refresh()

    def _result(self, wait: bool) -> Fresh | None:
        (filling,) = self._filling
        if not wait and not filling.result.done():
            return None
        try:
            return filling.result.result()
        finally:
            if filling.result.done():  # not so when waiting was interrupted
                _stop(self._filling)

    def _publish(self, fresh: Fresh) -> None:
        memory, old, new = self._memory, self.refreshes % 2, (self.refreshes + 1) % 2
        for k, part in enumerate(fresh.patches):
            count = len(part["images"])
            total = min(self.capacity, count + int(memory["count"][old, k]))
            for name in COLUMNS:
                memory[name][new, k, :count] = part[name]
                memory[name][new, k, count:total] = memory[name][old, k, : total - count]
            memory["count"][new, k] = total
        memory["version"].add_(1)


def _stop(filling: list[Filling]) -> None:
    while filling:
        filling.pop().stop()


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(
            name.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
