"""Galleries: accepted patches by class, rejected ones by reason, and test patches that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monai_histodiff.report.blocks import Gallery, TableCell, TileView, Words, share
from monai_histodiff.report.html import picture
from monai_histodiff.report.values import number, percent

__all__ = ["Answer", "Tile", "accepted_tiles", "answer_tiles", "rejected_tiles"]

MANY = 8  # from so many galleries on, all but the first ones are folded
OPEN = 3
SHOWN = 8  # patches of a gallery, at the most
PICTURES = (
    "Left: the synthetic patch. Right: the real training patch nearest to it, to see whether it "
    "is a copy; of a variation, the middle of the patch that it is made from, seen from any side. "
    "The bar is the critic’s confidence in the class. Those shown run evenly from the most to the "
    "least confident: not only the best. Choose a picture to enlarge it, and once more to go back."
)
ANSWERS = (
    "Real test patches on which arms C (without synthetic patches) and G (with the selected ones) "
    "differ, in the mean of all seeds. The verdict counts both kinds."
)


@dataclass(frozen=True)
class Tile:
    """One synthetic patch for a gallery.

    Attributes:
        image: uint8 ``H x W x 3``.
        label: intended class.
        confidence: the critic's probability of that class, 0 to 1.
        seed: makes this patch again.
        reason: why it was rejected; empty: accepted.
        nearest: uint8 ``H x W x 3``, the nearest real training patch.
        distance: the distance to it.
        origin: uint8 ``H x W x 3``, the patch that it is a variation of, shown instead of the
            nearest.
        source: what that patch is, ``"labelled"`` or ``"unlabelled"``.
        name: of its file, shown instead of the seed.
    """

    image: np.ndarray
    label: str
    confidence: float
    seed: int
    reason: str = ""
    nearest: np.ndarray | None = None
    distance: float | None = None
    origin: np.ndarray | None = None
    source: str = "labelled"
    name: str = ""


@dataclass(frozen=True)
class Answer:
    """A test patch that one arm gets right and another does not.

    Attributes:
        image: uint8 ``H x W x 3``.
        label: its class.
        before: the class that arm C takes it for, and the probability that it gives the right one.
        after: likewise of arm G.
    """

    image: np.ndarray
    label: str
    before: tuple[str, float]
    after: tuple[str, float]


def answer_tiles(answers: Mapping[str, tuple[int, Sequence[Answer]]]) -> list[Words | Gallery]:
    """Test patches that synthetic patches put right, and those that they lost."""
    if not answers:
        return []
    words = {
        "right": "Wrong without synthetic patches, right with them",
        "lost": "Right without synthetic patches, wrong with them",
    }
    galleries = []
    for key, title in words.items():
        count, shown = answers[key]
        note = "none" if not count else ""
        if len(shown) < count:
            note = f"the {len(shown)} of which the probability changed most"
        views = [_answer(answer) for answer in shown]
        galleries.append(Gallery(f"{title}: {number(count, 0)}", views, note=note))
    return [Words(ANSWERS), *galleries]


def _answer(answer: Answer) -> TileView:
    (first, low), (second, high) = answer.before, answer.after
    told = (
        f"{answer.label}, taken for {first} without synthetic patches and for {second} with "
        f"them; probability of {answer.label} {percent(low)} and {percent(high)}"
    )
    notes = [
        TableCell(f"C: {first}", f"{percent(low)} for {answer.label}"),
        TableCell(f"G: {second}", f"{percent(high)} for {answer.label}"),
        TableCell(f"truth: {answer.label}"),
    ]
    return TileView([picture(answer.image, f"Test patch: {told}")], told, notes)


def accepted_tiles(tiles: Sequence[Tile], classes: Sequence[str]) -> list[Words | Gallery]:
    """A gallery for each class of its accepted patches, :data:`SHOWN` at the most."""
    groups = {name: [t for t in tiles if t.label == name and not t.reason] for name in classes}
    if not groups:
        return [Words("No patch to show.")]
    return [Words(PICTURES), *_galleries(groups)]


def rejected_tiles(tiles: Sequence[Tile]) -> list[Gallery]:
    """A gallery for each reason of the patches rejected for it, :data:`SHOWN` at the most."""
    reasons = dict.fromkeys(tile.reason for tile in tiles if tile.reason)
    return _galleries({r: [t for t in tiles if t.reason == r] for r in reasons})


def _galleries(groups: dict[str, list[Tile]]) -> list[Gallery]:
    found = []
    for i, (name, tiles) in enumerate(groups.items()):
        ranked = sorted(tiles, key=lambda tile: -np.nan_to_num(tile.confidence, nan=-1.0))
        places = np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked)))
        shown = [_view(ranked[round(place)]) for place in places]
        found.append(Gallery(name, shown, folded=len(groups) > MANY and i >= OPEN))
    return found


def _view(tile: Tile) -> TileView:
    state = f"rejected: {tile.reason}" if tile.reason else "accepted"
    which = tile.name or f"seed {tile.seed}"
    told = f"{tile.label}, {state}, confidence {percent(tile.confidence)}, {which}"
    pictures, beside = [picture(tile.image, f"Synthetic patch: {told}")], []
    if tile.origin is not None:
        alt = (
            f"{tile.source.capitalize()} patch that the synthetic patch is a variation of: {told}"
        )
        pictures.append(picture(tile.origin, alt))
        beside = [TableCell(f"made from this {tile.source} patch")]
    elif tile.nearest is not None:
        alt = f"Real training patch nearest to the synthetic patch: {told}"
        pictures.append(picture(tile.nearest, alt))
        beside = [TableCell("nearest real", f"distance {number(tile.distance, 3)}")]
    confidence = share(tile.confidence, 1)
    name = f"{tile.label}: " if tile.reason else ""
    sure = TableCell(name + confidence.text, plot=confidence.plot)
    return TileView(pictures, told, [sure, *beside, TableCell(which)])
