"""Candidates: every synthetic patch of a run, accepted or not, with its score and the reason."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from monai_histodiff.bank import SyntheticBank
from monai_histodiff.critics import Selector
from monai_histodiff.distances import to_unit
from monai_histodiff.patchfiles import PatchRecord, write_json, write_patches
from monai_histodiff.patchsets import PatchSet
from monai_histodiff.sampling import GuidedSampler, candidate_seed
from monai_histodiff.selection import ACCEPTED, best_scale, farthest_first

__all__ = ["Candidates", "check_new", "sample_candidates", "save_outcome", "tune_scale"]

logger = logging.getLogger(__name__)


@dataclass
class Candidates:
    """All candidates of a run, row by row, with what became of them.

    Attributes:
        images: uint8, ``N x 3 x H x W``.
        labels: intended classes, int64.
        seed: int64.
        confidence: critic's probability of the intended class.
        distance: distance to the nearest real training patch.
        nearest: index of that patch.
        reasons: ``"accepted"`` or why not.
        seconds: time that sampling and judging took.
        origin: of variations, the labelled patch that each was made from; ``None`` for patches made from noise.
    """

    images: Tensor
    labels: Tensor
    seed: Tensor
    confidence: Tensor
    distance: Tensor
    nearest: Tensor
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0
    origin: Tensor | None = None

    @property
    def accepted(self) -> Tensor:
        """Bool, shape ``N``."""
        return torch.tensor([r == ACCEPTED for r in self.reasons], dtype=torch.bool)

    def counts(self, rows: Tensor) -> dict[str, int]:
        """``candidates`` and ``accepted`` among the rows (bool mask); of variations also the ``sources`` of the accepted ones:
        from how many labelled patches they come.
        """
        kept = self.accepted & rows
        found = {"candidates": int(rows.sum()), "accepted": int(kept.sum())}
        return found if self.origin is None else {**found, "sources": len(self.origin[kept].unique())}

    def save(self, folder: str | os.PathLike[str], classes: Sequence[str]) -> Path:
        """Write all candidates as a patch set of PNG files whose manifest tells what became of each.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """

        def items() -> Iterator[tuple[PatchRecord, np.ndarray]]:
            columns = ["seed", "confidence", "distance", "nearest"] + ["origin"] * (self.origin is not None)
            for i, label in enumerate(self.labels.tolist()):
                row = {name: repr(getattr(self, name)[i].item()) for name in columns}
                extra = {"index": str(label), **row, "reason": self.reasons[i]}
                record = PatchRecord(f"{label}/{i:06d}.png", classes[label], "", f"candidate/{i}", extra)
                yield record, self.images[i].permute(1, 2, 0).numpy()

        return write_patches(folder, items())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Candidates:
        """Read candidates written by :meth:`save`.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        patches = PatchSet.open(folder)
        rows = [r.extra for r in patches.records]
        labels, seed, nearest = (torch.tensor([int(r[name]) for r in rows]) for name in ("index", "seed", "nearest"))
        confidence, distance = (torch.tensor([float(r[name]) for r in rows]) for name in ("confidence", "distance"))
        origin = torch.tensor([int(r["origin"]) for r in rows]) if rows and "origin" in rows[0] else None
        return cls(patches.images(), labels, seed, confidence, distance, nearest, [r["reason"] for r in rows], origin=origin)

    def bank(self, chosen: Tensor, classes: Sequence[str], provenance: Mapping[str, Any] | None = None) -> SyntheticBank:
        """The bank of the chosen candidates (bool mask or indices)."""
        index = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        rows = {k: index[self.labels[index] == k] for k in range(len(classes))}
        images, score, seeds = ({k: v[i] for k, i in rows.items()} for v in (self.images, self.confidence, self.seed))
        return SyntheticBank(images, score, seeds, classes, provenance)


def sample_candidates(
    sampler: GuidedSampler,
    selector: Selector,
    num_classes: int,
    quota: int,
    max_candidates: int,
    batch_size: int = 64,
    seed: int = 0,
    surplus: float = 1.0,
    progress: bool = True,
) -> Candidates:
    """Sample and select until each class has its quota or has used up its attempts; a class that falls short is warned of.

    Args:
        sampler: makes candidates. Variations of patches whose ``source_rows`` it has are judged by what has not seen them.
        selector: judges them.
        num_classes: classes ``0 .. num_classes - 1`` are filled.
        quota: accepted patches wanted of each class.
        max_candidates: candidates of each class, at the most.
        batch_size: candidates between two judgements, shared by the classes that still need some.
        seed: candidate ``j`` of class ``c`` has the seed ``candidate_seed(seed, c, j)``, whatever the batches.
        surplus: accepted patches to collect, as a multiple of the quota. Beyond 1, those that make up the most diverse
            quota are kept, by :func:`farthest_first` on 8 x 8 thumbnails; at 1 the first ones are.
        progress: show a progress bar.

    Returns:
        Every candidate. Accepted ones beyond the quota are marked ``"over quota"``.

    Raises:
        ValueError: a number is below 1.
    """
    if min(num_classes, quota, max_candidates, batch_size) < 1 or not 1 <= surplus < math.inf:
        numbers = (num_classes, quota, max_candidates, batch_size, surplus)
        raise ValueError(f"classes, quota, candidates, batch and surplus must be at least 1, got {numbers}")
    pool = math.ceil(quota * surplus)
    made, kept = [0] * num_classes, [0] * num_classes
    parts: list[Candidates] = []
    start = time.perf_counter()
    bar = tqdm(total=num_classes * max_candidates, desc="candidates", disable=not progress)
    while open_classes := [c for c in range(num_classes) if kept[c] < pool and made[c] < max_candidates]:
        share = max(1, batch_size // len(open_classes))
        plan = [(c, j) for c in open_classes for j in range(made[c], min(made[c] + share, max_candidates))]
        labels = torch.tensor([c for c, _ in plan])
        seeds = torch.tensor([candidate_seed(seed, c, j) for c, j in plan])
        images = (sampler(labels, seeds) * 255).round().to(torch.uint8)
        origin = sampler.origins(labels, seeds)
        outcome = selector(images, labels, origin)
        for i, (c, _) in enumerate(plan):
            made[c] += 1
            if outcome.reasons[i] == ACCEPTED:
                kept[c] += 1
                if kept[c] > pool:
                    outcome.reasons[i] = "over quota"
        judged = (outcome.confidence, outcome.distance, outcome.nearest, outcome.reasons)
        parts.append(Candidates(images, labels, seeds, *judged, origin=origin))
        bar.update(len(plan))
        bar.set_postfix(accepted=sum(min(k, quota) for k in kept))
    bar.close()
    images, labels, seeds, score, distance, nearest = (
        torch.cat([getattr(p, name) for p in parts]) for name in ("images", "labels", "seed", "confidence", "distance", "nearest")
    )
    varied = [p.origin for p in parts if p.origin is not None]
    reasons = [r for p in parts for r in p.reasons]
    for c in range(num_classes):
        rows = [i for i, r in enumerate(reasons) if r == ACCEPTED and labels[i] == c]
        if len(rows) < quota:
            rate = f"{kept[c] / made[c]:.1%}"
            logger.warning("class %d: %d of %d patches found, with %s of %d candidates accepted", c, len(rows), quota, rate, made[c])
        elif len(rows) > quota:
            thumbnails = adaptive_avg_pool2d(to_unit(images[rows]), 8).flatten(1)
            for i in set(range(len(rows))) - set(farthest_first(thumbnails, quota).tolist()):
                reasons[rows[i]] = "over quota"
    seconds, origin = time.perf_counter() - start, torch.cat(varied) if varied else None
    return Candidates(images, labels, seeds, score, distance, nearest, reasons, seconds, origin)


def tune_scale(
    sampler: GuidedSampler,
    selector: Selector,
    num_classes: int,
    scales: Sequence[float] = (1.5, 3.0, 6.0),
    trials: int = 8,
    quota: int = 50,
    max_candidates: int = 100,
    seed: int = 0,
) -> float:
    """Try guidance scales on a few candidates of each class, and return the best; see :func:`best_scale`.

    The critic that judges the trial was calibrated on real patches that its members did not see. Every scale is tried on
    the same seeds, which no candidate of the run has. A single scale is returned untried.

    Args:
        sampler: makes the trial, whatever its own scale.
        selector: judges it.
        num_classes: classes ``0 .. num_classes - 1`` are tried.
        scales: what to choose from.
        trials: candidates of each class at each scale.
        quota: accepted patches that the run wants of each class.
        max_candidates: candidates of each class in the run, at the most.
        seed: the run's seed.

    Raises:
        ValueError: a scale is out of range, there is none, or a number is below 1.
    """
    if min(len(scales), num_classes, trials, quota, max_candidates) < 1:
        numbers = (len(scales), num_classes, trials, quota, max_candidates)
        raise ValueError(f"scales, classes, trials, quota and candidates must be at least 1, got {numbers}")
    samplers = [sampler.replace(scale=float(scale)) for scale in scales]
    if len(samplers) == 1:
        return samplers[0].scale
    labels = torch.arange(num_classes).repeat_interleave(trials)
    seeds = [candidate_seed(seed, int(c), i % trials, 1) for i, c in enumerate(labels)]
    origins, outcomes = sampler.origins(labels, seeds), []
    for each in tqdm(samplers, desc="guidance scale"):
        outcomes.append(selector((each(labels, seeds) * 255).round().to(torch.uint8), labels, origins))
    accepted, confidence = (
        torch.stack([getattr(o, name) for o in outcomes]).view(-1, num_classes, trials) for name in ("keep", "confidence")
    )
    best = best_scale([each.scale for each in samplers], accepted, confidence, quota, max_candidates)
    for each, kept, sure in zip(samplers, accepted, confidence, strict=True):
        chosen = " (chosen)" if each.scale == best else ""
        logger.info(
            "scale %g: %s of %d accepted in each class, mean confidence %.2f%s",
            each.scale,
            kept.sum(1).tolist(),
            trials,
            float(sure.mean()),
            chosen,
        )
    return best


def check_new(output_dir: str | os.PathLike[str], names: Sequence[str] = ("candidates", "bank", "outcome.json")) -> None:
    """Refuse an output folder that holds results already, before any work is done.

    Raises:
        FileExistsError: it holds one of the names.
    """
    for name in names:
        if (Path(output_dir) / name).exists():
            raise FileExistsError(f"output_dir must be new, got '{output_dir}', which holds '{name}' already")


def save_outcome(
    output_dir: str | os.PathLike[str],
    candidates: Candidates,
    classes: Sequence[str],
    selector: Any,
    sampler: GuidedSampler,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``candidates/``, ``bank/`` (the accepted ones) and ``outcome.json`` (counts, thresholds, speed, settings).

    Args:
        output_dir: where they go.
        candidates: with their outcome.
        classes: class names.
        selector: the :class:`Selector`, or another rule with a ``critic`` and ``settings``, that judged them.
        sampler: made them.
        settings: further plain values.

    Returns:
        The path of ``outcome.json``, whose ``selection`` and ``sampling`` entries the report repeats.
    """
    root, accepted = Path(output_dir), candidates.accepted
    counts = candidates.counts(torch.ones_like(accepted))
    chosen, made = counts["accepted"], counts["candidates"]
    calibrated = {"target_precision": selector.critic.target_precision, "reached_precision": selector.critic.precision}
    rule = {**calibrated, **selector.settings}
    selection = {
        **counts,
        "per_class": {name: candidates.counts(candidates.labels == k) for k, name in enumerate(classes)},
        **{name: value if isinstance(value, str) else round(float(value), 6) for name, value in rule.items()},
        "reasons": {r: candidates.reasons.count(r) for r in sorted(set(candidates.reasons)) if r != ACCEPTED},
    }
    sampling = {
        **sampler.settings,
        "candidates_per_second": made / max(candidates.seconds, 1e-9),
        "accepted_per_second": chosen / max(candidates.seconds, 1e-9),
        "seconds": candidates.seconds,
        "network_evaluations": made * sampler.network_evaluations,
    }
    candidates.save(root / "candidates", classes)
    provenance = {"sampling": sampling, "selection": selection, "settings": dict(settings or {})}
    candidates.bank(accepted, classes, provenance).save(root / "bank")
    return write_json(root / "outcome.json", provenance)
