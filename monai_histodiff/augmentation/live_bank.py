"""``LiveBank``: a bank that a sampler and a selector fill, and renew while training runs."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_histodiff.augmentation.buffers import Buffers
from monai_histodiff.augmentation.filling import (
    Filling,
    Fresh,
    cannot_sample,
    checked_options,
    guard_forks,
    made_with,
    stop_all,
)
from monai_histodiff.data.bank import BankPatch, SyntheticBank
from monai_histodiff.data.bank_files import check_classes
from monai_histodiff.data.scale import check_scale
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.selection.fitting import check_agreement
from monai_histodiff.selection.selector import Selector
from monai_histodiff.utils.processes import (
    first_rank,
    from_first_rank,
    is_distributed,
)
from monai_histodiff.utils.seeds import candidate_seed

__all__ = ["LiveBank"]

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

    A copy within the process, deep or not, is the bank itself; a pickled one holds the patches,
    and cannot sample.

    Args:
        sampler: makes the candidates; its model gives the size of the patches.
        selector: judges them, by the rule for variations where the sampler's ``strength`` is below
            1.
        classes: names, by class index: all that the critic knows.
        quota: accepted patches wanted of each class in a refresh.
        max_candidates: candidates of each class in a refresh, at the most.
        capacity: patches kept of each class; shared memory for twice as many is set aside, and
            taken as it is filled.
        batch_size: candidates between two judgements. A fork of the process, such as the start of
            a loader's workers, waits for the batch under way.
        seed: seed of all refreshes.
        surplus: accepted patches to collect in a refresh, as a multiple of the quota, of which the
            most diverse are kept; see :func:`monai_histodiff.sample_candidates`.
        um_per_px: micrometres that a pixel of its patches shows; ``None``: not known.

    Attributes:
        history: what each refresh accepted, by class, from how many candidates, in how many
            seconds.

    Raises:
        ValueError: there is no class, names are not distinct, the quota exceeds the capacity, a
            number is below 1 (the seed below 0) or not whole but for the surplus, the scale is not
            positive, or sampler, selector and classes do not fit one another.
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
        um_per_px: float | None = None,
    ) -> None:
        if not classes:
            raise ValueError("a bank needs at least one class, got none")
        check_classes(classes)
        check_scale(um_per_px)
        check_agreement(sampler, selector, len(classes))
        self.options = checked_options(
            quota, max_candidates, batch_size, surplus, capacity=capacity, seed=seed
        )
        self.classes, self.capacity, self.seed = tuple(classes), capacity, seed
        self.history: list[dict[str, Any]] = []
        self.um_per_px, side = um_per_px, sampler.size
        self._buffers = Buffers(len(self.classes), capacity, (side, side))
        guard_forks()
        self._source: tuple[GuidedSampler, Selector] | None = (sampler, selector)
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._filling: list[Filling] = []  # the one under way, if any
        weakref.finalize(self, stop_all, self._filling)

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the memory; model and thread stay here."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_source", "_lock", "_filling")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _source=None, _lock=threading.RLock(), _filling=[])

    def __deepcopy__(self, memo: object = None) -> LiveBank:
        return self

    __copy__ = __deepcopy__

    @property
    def refreshes(self) -> int:
        """Times that the bank has been filled."""
        return self._buffers.version

    @property
    def num_classes(self) -> int:
        """Class indices of the bank lie below this number."""
        return len(self.classes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the patches."""
        return self._buffers.size

    def __len__(self) -> int:
        return sum(self._buffers.counts())

    def count(self, label: int) -> int:
        """Number of patches of a class now; 0 for a class that the bank does not know. It fills a
        bank never filled.

        Raises:
            RuntimeError: the bank was never filled, and this process cannot do it.
            Exception: what sampling ahead has raised meanwhile, see :meth:`check`.
        """
        self._ready()
        return self._buffers.count(label)

    def draw(self, label: int, position: float) -> BankPatch | None:
        """As :meth:`monai_histodiff.SyntheticBank.draw`. It fills a bank never filled.

        Raises:
            RuntimeError: the bank was never filled, and this process cannot do it.
            Exception: what sampling ahead has raised meanwhile, see :meth:`check`.
        """
        self._ready()
        return self._buffers.draw(label, position)

    def check(self) -> None:
        """Raise what sampling ahead has raised, if it has, once: else the bank would never be
        renewed, and nobody would know. Workers cannot tell; the handler asks at every epoch.

        Raises:
            Exception: what sampling raised. The patches stay, and sampling may start again.
        """
        if any(filling.failed for filling in self._filling):  # costs no lock
            with self._lock:
                if any(filling.failed for filling in self._filling):
                    self._result(wait=False)

    def prepare(self) -> None:
        """Start to sample the next refresh in the background, unless it is under way or ready;
        returns at once.

        Raises:
            RuntimeError: this process cannot sample.
            Exception: what sampling the one under way has raised, see :meth:`check`.
        """
        with self._lock:
            self.check()
            self._start()

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
            self._start()
            start = time.perf_counter()
            fresh = from_first_rank(lambda: self._result(wait))
            if fresh is None:
                return False
            self._buffers.publish(fresh.patches)
            waited = time.perf_counter() - start
            accepted = [len(part["images"]) for part in fresh.patches]
            self.history.append({"accepted": accepted, **fresh.about})
            told = (self.refreshes, accepted, fresh.about["seconds"], waited)
            logger.info("refresh %d: accepted %s in %.2f s, waited %.2f s", *told)
            return True

    def close(self) -> None:
        """Stop sampling, at the latest after the batch under way. The patches stay, and sampling
        may start again. What sampling ahead has raised is logged.
        """
        for filling in self._filling:
            if filling.failed:
                logger.warning("sampling ahead had failed: %r", filling.result.exception())
        stop_all(self._filling)

    def snapshot(self) -> SyntheticBank:
        """A bank of the patches that there are now, with their provenance.

        Raises:
            RuntimeError: the bank was never filled.
        """
        if self.refreshes == 0:
            raise RuntimeError(
                "a live bank must be filled before it is kept, got 0 refreshes: call refresh"
            )
        with self._lock:
            return SyntheticBank(
                **self._buffers.content(),
                classes=self.classes,
                provenance=self.provenance,
                um_per_px=self.um_per_px,
            )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write :meth:`snapshot` to a folder, from which ``SyntheticBank.load`` reads it.

        Raises:
            RuntimeError: the bank was never filled.
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
        return out if self._source is None else {**out, **made_with(*self._source)}

    def _ready(self) -> None:
        self.check()
        if self.refreshes == 0:
            with self._lock:
                if self.refreshes == 0:
                    if is_distributed():
                        raise RuntimeError(
                            "distributed processes must fill a live bank before they train: "
                            "call refresh on every rank"
                        )
                    self.refresh()

    def _start(self) -> None:
        with self._lock:
            if self._source is None or self._process != os.getpid():
                raise RuntimeError(cannot_sample(filled=self.refreshes > 0))
            if not self._filling and first_rank():
                options = {**self.options, "seed": candidate_seed(self.seed, self.refreshes)}
                self._filling.append(Filling(*self._source, self.classes, options))

    def _result(self, wait: bool) -> Fresh | None:
        (filling,) = self._filling
        if not wait and not filling.result.done():
            return None
        try:
            return filling.result.result()
        finally:
            if filling.result.done():  # not so when waiting was interrupted
                stop_all(self._filling)
