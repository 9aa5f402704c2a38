"""Sample until each class has its quota; and the guidance scale that promises to fill it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from monai_histodiff.data.pixels import thumbnails, to_bytes
from monai_histodiff.diffusion.sampler import GuidedSampler
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.selection.fitting import check_agreement, shortfall
from monai_histodiff.selection.reasons import Reason
from monai_histodiff.selection.selector import Selection, Selector
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.seeds import candidate_seed

__all__ = ["best_scale", "farthest_first", "sample_candidates", "tune_scale"]

logger = logging.getLogger(__name__)


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
    classes: Sequence[str] = (),
) -> Candidates:
    """Sample and select until each class has its quota or has used up its attempts; a class that
    falls short is warned of, with the most frequent reason of refusal.

    Args:
        sampler: makes candidates. Variations of patches whose sources' rows it knows are judged by
            what has not seen them.
        selector: judges them, by the rule for variations if that is what the sampler makes.
        num_classes: classes ``0 .. num_classes - 1`` are filled: all that the critic knows.
        quota: accepted patches wanted of each class.
        max_candidates: candidates of each class, at the most.
        batch_size: candidates between two judgements, shared by the classes that still need some.
        seed: candidate ``j`` of class ``c`` has the seed ``candidate_seed(seed, c, j)``, whatever
            the batches.
        surplus: accepted patches to collect, as a multiple of the quota. Beyond 1, those that make
            up the most diverse quota are kept, by :func:`farthest_first` on 8 x 8 thumbnails; at 1
            the first ones are.
        progress: show a progress bar.
        classes: their names, for warnings and for what is returned; empty: not known.

    Returns:
        Every candidate. Accepted ones beyond the quota are marked :attr:`Reason.over_quota`.

    Raises:
        ValueError: a number is below 1 or, but for the surplus, not whole; the critic knows
            another number of classes; the selector judges variations where the sampler makes none,
            or the other way round; or there are more or fewer names than classes.
    """
    if not 1 <= surplus < math.inf:
        raise ValueError(f"surplus must be at least 1 and finite, got {surplus}")
    check_from(1, num_classes=num_classes, quota=quota)
    check_from(1, max_candidates=max_candidates, batch_size=batch_size)
    check_agreement(sampler, selector, num_classes, classes)
    pool = math.ceil(quota * surplus)
    made, kept = [0] * num_classes, [0] * num_classes
    parts: list[Candidates] = []
    start = time.perf_counter()
    bar = tqdm(total=num_classes * max_candidates, desc="candidates", disable=not progress)
    while open_classes := [
        c for c in range(num_classes) if kept[c] < pool and made[c] < max_candidates
    ]:
        share = max(1, batch_size // len(open_classes))
        plan = [
            (c, j)
            for c in open_classes
            for j in range(made[c], min(made[c] + share, max_candidates))
        ]
        labels = torch.tensor([c for c, _ in plan], dtype=torch.long)
        seeds = torch.tensor([candidate_seed(seed, c, j) for c, j in plan], dtype=torch.long)
        origin = sampler.origins(labels, seeds)
        images, outcome = _judged(sampler, selector, labels, seeds, origin)
        for i, (c, _) in enumerate(plan):
            made[c] += 1
            if outcome.reasons[i] == Reason.accepted:
                kept[c] += 1
                if kept[c] > pool:
                    outcome.reasons[i] = Reason.over_quota
        judged = (outcome.confidence, outcome.distance, outcome.nearest, outcome.reasons)
        parts.append(Candidates(images, labels, seeds, *judged, origin=origin))
        bar.update(len(plan))
        bar.set_postfix(accepted=sum(min(k, quota) for k in kept))
    bar.close()
    images, labels, seeds, score, distance, nearest = (
        torch.cat([getattr(p, name) for p in parts])
        for name in ("images", "labels", "seed", "confidence", "distance", "nearest")
    )
    varied = [p.origin for p in parts if p.origin is not None]
    reasons = [r for p in parts for r in p.reasons]
    for c in range(num_classes):
        own = (labels == c).nonzero()[:, 0].tolist()
        rows = [i for i in own if reasons[i] == Reason.accepted]
        if len(rows) < quota:
            name = f"'{classes[c]}'" if classes else str(c)
            logger.warning("class %s: %s", name, shortfall([reasons[i] for i in own], quota))
        elif len(rows) > quota:
            small = thumbnails(images[rows], 8).flatten(1)
            for i in set(range(len(rows))) - set(farthest_first(small, quota).tolist()):
                reasons[rows[i]] = Reason.over_quota
    seconds, origin = time.perf_counter() - start, torch.cat(varied) if varied else None
    judged = (score, distance, nearest, reasons)
    return Candidates(images, labels, seeds, *judged, seconds, origin, tuple(classes))


def _judged(
    sampler: GuidedSampler,
    selector: Selector,
    labels: Tensor,
    seeds: Tensor,
    origins: Tensor | None,
) -> tuple[Tensor, Selection]:
    """Sampled patches as bytes, as they are kept, and their outcome. Bytes hold no NaN: a patch
    that is not finite is marked as such, whatever the selector makes of its bytes.
    """
    patches = sampler(labels, seeds)
    images = to_bytes(patches.nan_to_num(0, 0, 0))
    outcome = selector(images, labels, origins)
    for i in (~patches.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist():
        outcome.reasons[i] = Reason.not_finite
        outcome.confidence[i] = outcome.distance[i] = math.nan
    return images, outcome


def tune_scale(
    sampler: GuidedSampler,
    selector: Selector,
    num_classes: int,
    scales: Sequence[float] = (0.0, 1.5, 3.0, 6.0),
    trials: int = 8,
    quota: int = 200,
    max_candidates: int = 400,
    seed: int = 0,
) -> float:
    """Try guidance scales on a few candidates of each class, from the lowest on, and return the
    best; see :func:`best_scale`. Where one promises to fill all quotas, no higher one is tried.

    The critic that judges the trial was calibrated on real patches that its members did not see.
    Every scale is tried on the same seeds, which no candidate of the run has. A single scale is
    returned untried.

    Args:
        sampler: makes the trial, whatever its own scale.
        selector: judges it.
        num_classes: classes ``0 .. num_classes - 1`` are tried: all that the critic knows.
        scales: what to choose from.
        trials: candidates of each class at each scale.
        quota: accepted patches that the run wants of each class.
        max_candidates: candidates of each class in the run, at the most.
        seed: the run's seed.

    Raises:
        ValueError: a scale is out of range, there is none, a number is below 1 or not whole, or
            the parts do not fit, as for :func:`sample_candidates`.
    """
    if not scales:
        raise ValueError("there must be at least one of scales, got none")
    check_from(1, num_classes=num_classes, trials=trials)
    check_from(1, quota=quota, max_candidates=max_candidates)
    check_agreement(sampler, selector, num_classes)
    samplers = [sampler.replace(scale=scale) for scale in sorted(float(s) for s in scales)]
    if len(samplers) == 1:
        return samplers[0].settings.scale
    labels = torch.arange(num_classes).repeat_interleave(trials)
    seeds = torch.tensor(
        [candidate_seed(seed, int(c), i % trials, 1) for i, c in enumerate(labels)],
        dtype=torch.long,
    )
    origins = sampler.origins(labels, seeds)
    outcomes: list[Selection] = []
    for each in tqdm(samplers, desc="guidance scale"):
        outcomes.append(_judged(each, selector, labels, seeds, origins)[1])
        for other in (sampler, *samplers):  # halved, where the device ran out of memory
            other.max_batch = each.max_batch
        kept = outcomes[-1].keep.view(num_classes, trials)
        if float(_filled(kept, quota, max_candidates)) == 1:
            break
    tried = [each.settings.scale for each in samplers[: len(outcomes)]]
    accepted, confidence = (
        torch.stack([getattr(o, name) for o in outcomes]).view(-1, num_classes, trials)
        for name in ("keep", "confidence")
    )
    best = best_scale(tried, accepted, confidence, quota, max_candidates)
    for scale, kept, sure in zip(tried, accepted, confidence, strict=True):
        logger.info(
            "scale %g: %s of %d accepted in each class, mean confidence %.2f%s",
            scale,
            kept.sum(1).tolist(),
            trials,
            float(sure.mean()),
            " (chosen)" if scale == best else "",
        )
    return best


def best_scale(
    scales: Sequence[float], accepted: Tensor, confidence: Tensor, quota: int, max_candidates: int
) -> float:
    """The guidance scale that promises the fullest quotas, from a trial of ``n`` candidates of
    each class at each scale.

    A class of which a share ``r`` was accepted will fill ``min(1, r * max_candidates / quota)`` of
    its quota. The mean over the classes decides, so that what one class has beyond its quota does
    not make up for another that has none; among equals the lowest scale, for a guide that is not
    needed only makes patches more alike. Where no scale promises any, the mean confidence decides.

    Args:
        scales: ``S`` scales.
        accepted: bool, shape ``S x K x n``.
        confidence: the critic's probability of the intended class, of the same shape; not finite
            counts as 0.
        quota: accepted patches wanted of each class.
        max_candidates: candidates of each class, at the most.

    Raises:
        ValueError: there is no scale, one is not finite, the trial is not ``S x K x n``, or quota
            or candidates are below 1.
    """
    if not all(math.isfinite(scale) for scale in scales):
        raise ValueError(f"scales must be finite, got {[float(scale) for scale in scales]}")
    if not (quota >= 1 and max_candidates >= 1):
        raise ValueError(
            f"quota and candidates must be at least 1, got {quota} and {max_candidates}"
        )
    if (
        not scales
        or accepted.ndim != 3
        or len(accepted) != len(scales)
        or accepted.shape != confidence.shape
        or not accepted.numel()
    ):
        shapes = f"{tuple(accepted.shape)} and {tuple(confidence.shape)}"
        raise ValueError(
            f"a trial must be S x K x n for S scales, got {shapes} for {len(scales)} scales"
        )
    filled = _filled(accepted, quota, max_candidates)
    sure = confidence.double().nan_to_num(0, 0, 0).mean((1, 2))
    ranked = filled if bool(filled.any()) else sure
    return -max(zip(ranked.tolist(), [-scale for scale in scales], strict=True))[1]


def _filled(accepted: Tensor, quota: int, max_candidates: int) -> Tensor:
    """The share of the quotas that trials ``... x K x n`` promise to fill, shape ``...``."""
    rate = accepted.double().mean(-1)
    return (rate * max_candidates / quota).clamp(max=1).mean(-1)


def farthest_first(features: Tensor, count: int) -> Tensor:
    """Indices of the rows that cover all others best: greedy k-centre (Gonzalez 1985), from the
    row nearest to the mean.

    Each next row is the one farthest from those chosen so far, so that of two that are alike one
    comes late.

    Args:
        features: shape ``N x D``.
        count: rows wanted, from 1 to ``N``.

    Returns:
        Indices in the order of choice, int64, shape ``count``.

    Raises:
        ValueError: ``count`` is not from 1 to ``N``, or a feature is not finite.
    """
    if not 1 <= count <= len(features):
        raise ValueError(f"count must lie from 1 to the {len(features)} rows, got {count}")
    if rows := int((~features.isfinite()).any(1).sum()):
        raise ValueError(f"features must be finite, got {rows} rows with others")
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    distance = torch.full((len(features),), math.inf, dtype=features.dtype, device=features.device)
    while len(chosen) < count:
        distance = torch.minimum(distance, (features - features[chosen[-1]]).square().sum(1))
        distance[chosen[-1]] = -1  # twins of a chosen row remain eligible, the row itself does not
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, dtype=torch.long)
