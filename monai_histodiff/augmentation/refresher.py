"""``BankRefresher``: the ignite handler that renews a live bank while a trainer runs."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events

from monai_histodiff.augmentation.live_bank import LiveBank
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.processes import from_first_rank

__all__ = ["BankRefresher"]


class BankRefresher:
    """Fills a live bank before training and renews it between epochs, with the next patches
    sampled ahead of need.

    While the trainer runs, a thread samples the next refresh. It is published at the start of an
    epoch, once it is due by either rule. In distributed training every rank attaches the handler,
    and the first rank decides.

    Args:
        bank: the live bank.
        refresh_every: due after so many epochs; ``None``: never by this rule.
        max_reuse: due once synthetic patches were shown so many times, on average over the bank;
            after one epoch, if nothing was accepted. The items of the trainer's batches must hold
            ``synthetic``. With several distributed processes, those that the first rank has shown
            count. ``None``: never by this rule.
        wait: wait for a refresh that is due and not ready, so that training is reproducible
            whatever the speed; else training goes on with the old patches, and the refresh is
            published at the next epoch after it is ready.

    Raises:
        ValueError: a rule is not positive and finite, both are ``None``, or ``refresh_every`` is
            no whole number.
    """

    def __init__(
        self,
        bank: LiveBank,
        refresh_every: int | None = 1,
        max_reuse: float | None = None,
        wait: bool = False,
    ) -> None:
        rules = [rule for rule in (refresh_every, max_reuse) if rule is not None]
        if not rules or not all(0 < rule < math.inf for rule in rules):
            raise ValueError(
                "refresh_every or max_reuse must be given, and positive and finite, got "
                f"{refresh_every} and {max_reuse}: None switches one of them off"
            )
        if refresh_every is not None:
            check_from(1, refresh_every=refresh_every)
        self.bank, self.refresh_every, self.max_reuse, self.wait = (
            bank,
            refresh_every,
            max_reuse,
            wait,
        )
        self._epochs = self._shown = 0

    def attach(self, engine: Engine) -> None:
        """Follow a trainer's epochs and, for ``max_reuse``, its batches; stop sampling when it has
        completed, or raised an error.

        Of several handlers of an error, ignite calls no further one once one raises: attach this
        one before MONAI's ``StatsHandler`` and ``CheckpointSaver``.
        """
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.end_epoch)
        engine.add_event_handler(Events.COMPLETED, self.stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)
        if self.max_reuse is not None:
            engine.add_event_handler(Events.ITERATION_STARTED, self.count)

    def start(self, engine: Engine) -> None:
        """Fill a bank never filled."""
        if self.bank.refreshes == 0:
            self.bank.refresh()

    def __call__(self, engine: Engine) -> None:
        """Publish what is due, and sample the next.

        Raises:
            Exception: what sampling has raised meanwhile, on every rank.
        """
        if from_first_rank(self._due) and self.bank.refresh(self.wait):
            self._epochs = self._shown = 0
        self.bank.prepare()

    def count(self, engine: Engine) -> None:
        """Add up the synthetic patches shown.

        Raises:
            KeyError: the batch does not tell which they are.
        """
        if "synthetic" not in engine.state.batch:
            raise KeyError(
                "max_reuse needs 'synthetic' in the trainer's batches, got "
                f"{sorted(map(str, engine.state.batch))}: keep that key of SyntheticAugmentd"
            )
        self._shown += int(sum(engine.state.batch["synthetic"]))

    def end_epoch(self, engine: Engine) -> None:
        """Count an epoch."""
        self._epochs += 1

    def stop(self, engine: Engine) -> None:
        """Stop sampling."""
        self.bank.close()

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Stop sampling, and let the error go on.

        Raises:
            BaseException: the trainer's error.
        """
        self.bank.close()
        raise error

    def _due(self) -> bool:
        self.bank.check()
        old = self.refresh_every is not None and self._epochs >= self.refresh_every
        worn = (
            self.max_reuse is not None
            and self._epochs > 0
            and self._shown >= self.max_reuse * len(self.bank)
        )
        return old or worn
