"""``RunFolder``: what a run's folder holds, who may write into it, and what of it may be trusted.

Nothing that made the candidates of a run is tested on, and nothing of another run is taken for its
own.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_histodiff._version import __version__
from monai_histodiff.bundle.provenance import (
    check_files,
    describe_files,
    need,
    outcome_of,
    settings_of,
)
from monai_histodiff.bundle.results_folder import RESULTS, ResultsFolder
from monai_histodiff.bundle.split_file import SplitFile
from monai_histodiff.bundle.task import Task
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.diffusion.sources import Sources
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.utils.files import read_json, sweep_drafts, write_json

__all__ = ["RunFolder"]

STAGE = "train"  # that makes a run
MODELS = tuple(f"models/{name}.pt" for name in ("model", "critic", "generator", "sources"))
# what the training stage writes, the outcome last
MADE = ("candidates", "bank", "split.csv", *MODELS)
logger = logging.getLogger(__name__)


class RunFolder(ResultsFolder):
    """The folder of one run: the training stage fills it, the evaluation adds to it.

    Args:
        root: the folder, ``output_dir`` of the configs. Nothing is made before :meth:`lock`.

    Attributes:
        split: which patches were used for what, a ``SplitFile``.
        outcome: of the sampling, and the files of the run; the training stage's last file.
        candidates: all candidates.
        bank: the accepted ones.
        models: the folder of the weights: ``guide``, ``critic``, the adapted ``generator``, and
            the latents of real patches, ``sources``, that variations start from.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self.split = SplitFile(self.root / "split.csv")
        self.outcome = self.root / "outcome.json"
        self.candidates, self.bank = self.root / "candidates", self.root / "bank"
        self.models = self.root / "models"
        self.guide, self.critic, self.generator, self.sources = (self.root / m for m in MODELS)

    # ---------------------------------------------------------------------------- who may write

    def check_new(self) -> None:
        """Refuse a folder in which a run works, or that holds one already; changes nothing.

        What a run left that did not come to its end is no run: see :meth:`lock`.

        Raises:
            FileExistsError: another process works there, or there are files of a run.
        """
        self._lock.check()
        found = [name for name in (*MADE, "outcome.json") if (self.root / name).exists()]
        if found and (self.outcome.exists() or self._lock.content.get("stage") != STAGE):
            raise FileExistsError(
                f"output_dir must be new, got '{self.root}', which holds '{found[0]}' already: "
                "choose another, or judge its candidates anew: --replace True, of the evaluation"
            )

    def check_unevaluated(self, replace: bool = False) -> None:
        """Refuse a folder that holds results, unless they are to be replaced.

        Raises:
            FileExistsError: another process works there, or there are results.
        """
        self._lock.check()
        found = [path.name for path in (self.results, self.report) if path.exists()]
        if found and not replace:
            held = " and ".join(found)
            held += f" alone, of an evaluation that was stopped after {held}" * (len(found) == 1)
            raise FileExistsError(
                f"output_dir must be new to the evaluation, got '{self.root}', which holds "
                f"{held}: add --replace True (nothing is trained again)"
            )

    def lock(self, stage: str = STAGE, replace: bool = False) -> str:
        """Lock the folder for this process, until :meth:`release` or its end.

        The training stage starts with a folder of its own: what an unfinished run left is
        removed, down to drafts, but for the cache, whose files tell what they depend on. The
        evaluation removes drafts, and the results that it is to ``replace``, and nothing else.

        Returns:
            The run's identity, which all that it writes repeats.

        Raises:
            FileExistsError: as :meth:`check_new`, or :meth:`check_unevaluated`.
        """
        if stage == STAGE:
            self.check_new()
            run, own = uuid.uuid4().hex, MADE
        else:
            self.check_unevaluated(replace)
            run, own = str(self.read_outcome()["run"]), RESULTS
        before = self._lock.content
        left = self._take({"run": run, "stage": stage}, own)
        swept = (sweep_drafts(folder) for folder in (self.root, self.models, self.cache))
        drafts = [draft for found in swept for draft in found]
        if left or drafts:
            logger.warning(
                "removed from '%s' what the run of %s left: %s",
                self.root,
                before.get("started", "an unknown time"),
                ", ".join([*left, *([f"{len(drafts)} drafts"] if drafts else [])]),
            )
        return run

    # ---------------------------------------------------------------------- what came out of it

    def check(self, task: Task) -> None:
        """Refuse to judge the candidates by another task than they were made for: see
        :meth:`check_settings`, ``SplitFile`` and :meth:`check_files`.
        """
        self.check_settings(**task.settings)
        self.split.check(task.labelled, task.test)
        self.split.known(task.train)
        self.check_files()

    def finish(
        self,
        task: Task,
        candidates: Candidates,
        selector: Any,
        sampler: GuidedSampler,
        settings: Mapping[str, Any],
        found: Sequence[str] = (),
    ) -> Path:
        """Write what came out of a training stage, but for the weights that its trainers wrote:
        ``split.csv``, the selector's critic, the sampler's sources, and all that :meth:`save`
        writes.

        Args:
            task: the patches of the run.
            candidates: as for :meth:`save`, like the rest.
            selector: see there.
            sampler: see there.
            settings: further plain values, beside those of the task.
            found: :meth:`Task.problems`; the report repeats them.
        """
        sources = sampler.sources or Sources()
        self.split.write(task.known, task.labelled, task.test)
        selector.critic.save(self.critic)
        sources.save(self.sources)
        recorded = {**settings_of(task, sources), **settings}
        return self.save(candidates, task.patches.classes, selector, sampler, recorded, found)

    def save(
        self,
        candidates: Candidates,
        classes: Sequence[str],
        selector: Any,
        sampler: GuidedSampler,
        settings: Mapping[str, Any] | None = None,
        found: Sequence[str] = (),
    ) -> Path:
        """Write ``candidates/``, ``bank/`` (the accepted ones) and, last, ``outcome.json``:
        counts, thresholds, speed, settings, and the hashes of all files of the run. The lock
        ends.

        Args:
            candidates: with their outcome.
            classes: class names.
            selector: the :class:`Selector`, or another rule with a ``critic`` and ``settings``,
                that judged them.
            sampler: made them.
            settings: further plain values; ``model_um_per_px``, where it is among them, is the
                bank's ``um_per_px``.
            found: as for :meth:`finish`.

        Returns:
            The path of ``outcome.json``, of which the report repeats a part.
        """
        provenance = {
            "run": str(self._lock.content.get("run", "")),
            "version": __version__,
            **outcome_of(candidates, classes, selector, sampler),
            **{"settings": dict(settings or {}), "found": list(found)},
        }
        scale = provenance["settings"].get("model_um_per_px")
        candidates.save(self.candidates, classes, scale)
        candidates.bank(candidates.accepted, classes, provenance, scale).save(self.bank)
        files = describe_files(self.root, MADE)
        write_json(self.outcome, {**provenance, "files": files})
        self.release()
        return self.outcome

    def read_outcome(self) -> dict[str, Any]:
        """What :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        needed = ("run", "sampling", "selection", "options", "settings", "files")
        return read_json(need(self.outcome), needed)

    def check_files(self, names: Sequence[str] = MADE) -> None:
        """Refuse files that are not those of the run, before any work is done.

        Raises:
            FileNotFoundError: there is no outcome.
            ValueError: a file is missing, damaged, or of another run; the message names it.
        """
        check_files(self.root, self.read_outcome()["files"], names)

    def check_settings(self, **settings: Any) -> None:
        """Refuse to judge candidates by other patches than those they were made for, before any
        work is done.

        Args:
            settings: what must be as it was in the training stage: those that decide which
                patches are labelled, and which are for test.

        Raises:
            FileNotFoundError: there is no outcome.
            ValueError: a setting differs: patches that the generator, guide or critic saw could
                be among the test patches.
        """
        made = self.read_outcome()["settings"]
        for key, value in settings.items():
            if key in made and made[key] != value:
                raise ValueError(
                    f"{key} must be what the candidates were made with, {made[key]}, got {value}: "
                    f"give --{key} {made[key]}"
                )
