"""What the report shows of candidates, of their sources, and of test patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop
from monai_histodiff.evaluation.experiment import Evaluation
from monai_histodiff.report.gallery import Answer, Tile
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.selection.reasons import Reason

__all__ = ["answers", "by_kind", "gallery"]

KINDS = ("labelled", "unlabelled")
TILES = 8  # of each class, accepted and rejected, at the most
MOST = 12  # test patches put right, and lost, that are pictured
Answers = dict[str, tuple[int, list[Answer]]]


def _pixels(patches: PatchSet, row: int, size: int) -> np.ndarray:
    """The middle of a patch, uint8 ``size x size x 3``."""
    return centre_crop(patches[row]["image"], size).permute(1, 2, 0).numpy()


def by_kind(selection: Mapping[str, Any], candidates: Candidates, labelled: int) -> dict[str, Any]:
    """The counts of a selection, with those of the sources split by kind: how many labelled and
    how many unlabelled patches the accepted candidates come from, in all and of each class.

    Args:
        selection: of ``outcome.json``.
        candidates: that it counts; returned as it is where they have no sources.
        labelled: so many of the known patches, the first, are labelled.
    """
    if (origin := candidates.origin) is None:
        return dict(selection)

    def split(label: int | None) -> dict[str, int]:
        rows = candidates.accepted
        if label is not None:
            rows = rows & (candidates.labels == label)
        own = origin[rows].unique()
        few = int((own < labelled).sum())
        return dict(zip(KINDS, (few, len(own) - few), strict=True))

    per_class = {
        name: {**count, "sources": split(k)}
        for k, (name, count) in enumerate(selection["per_class"].items())
    }
    return {**selection, "sources": split(None), "per_class": per_class}


def gallery(
    candidates: Candidates,
    known: PatchSet,
    size: int,
    names: Sequence[str] = (),
    labelled: int | None = None,
) -> list[Tile]:
    """Tiles for the report: of each class accepted candidates over the whole range of their
    confidence, and rejected ones of every reason.

    Args:
        candidates: with their outcome.
        known: the real patches that their ``origin`` and ``nearest`` count in.
        size: height and width of the pictures.
        names: of the candidates, where they have some.
        labelled: so many of the known patches, the first, are labelled; ``None``: all.
    """
    count = len(known) if labelled is None else labelled
    tiles, varied = [], candidates.origin is not None
    beside = candidates.nearest if candidates.origin is None else candidates.origin
    for k, name in enumerate(known.classes):
        rows = (candidates.labels == k).nonzero()[:, 0].tolist()
        rows.sort(key=lambda i: -float(candidates.confidence[i]))
        accepted = [i for i in rows if candidates.reasons[i] == Reason.accepted]
        rejected = [i for i in rows if not candidates.reasons[i].passed]
        for i in [*_spread(accepted), *_spread(rejected)]:
            real = _pixels(known, int(beside[i]), size)
            reason = candidates.reasons[i]
            tiles.append(
                Tile(
                    image=candidates.images[i].permute(1, 2, 0).numpy(),
                    label=name,
                    confidence=float(candidates.confidence[i]),
                    seed=int(candidates.seed[i]),
                    reason="" if reason.passed else reason.value,
                    nearest=None if varied else real,
                    distance=float(candidates.distance[i]),
                    origin=real if varied else None,
                    source=KINDS[int(beside[i]) >= count],
                    name=names[i] if names else "",
                )
            )
    return tiles


def _spread(rows: list[int]) -> list[int]:
    """Some of them, over their whole range."""
    return rows[:: max(1, len(rows) // TILES)][:TILES]


def answers(evaluation: Evaluation) -> Answers:
    """Test patches that arm G gets right and arm C does not, or the other way round, in the mean
    of the seeds: of each the ones whose probability of the right class changed most.

    Args:
        evaluation: after it has run.

    Returns:
        ``{"right": (count, answers), "lost": (count, answers)}``; empty where an arm was not run.
    """
    if not {"C", "G"} <= set(evaluation.probabilities):
        return {}
    truth, names = evaluation.test.labels.numpy(), evaluation.material.classes
    before, after = (np.mean(evaluation.probabilities[arm], 0) for arm in "CG")
    rows = np.arange(len(truth))
    gain = after[rows, truth] - before[rows, truth]
    was, is_now = (made.argmax(1) == truth for made in (before, after))

    def shown(found: np.ndarray, order: np.ndarray) -> tuple[int, list[Answer]]:
        chosen = sorted(found.nonzero()[0].tolist(), key=lambda i: (order[i], i))[:MOST]
        told = []
        for i in chosen:
            first, second = (
                (names[int(made[i].argmax())], float(made[i, truth[i]]))
                for made in (before, after)
            )
            picture = _pixels(evaluation.test, i, evaluation.material.size)
            told.append(Answer(picture, names[int(truth[i])], first, second))
        return int(found.sum()), told

    return {"right": shown(~was & is_now, -gain), "lost": shown(was & ~is_now, gain)}
