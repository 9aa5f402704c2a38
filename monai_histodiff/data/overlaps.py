"""Pictures that show some of the same tissue, shifted: tiles that overlap, crops of one field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_histodiff.data.pixels import to_unit
from monai_histodiff.utils.progress import patient

__all__ = ["Marks", "joined", "marks", "overlapping"]

APART, MOST = 8, 20  # pixels between two marks, and marks of one picture
WIDTH = 2 * APART + 1
REACH, CELL = 12, 3  # a mark's surroundings: 24 x 24 pixels, in cells of 3
FLAT = 0.02  # deviation of the surroundings, below which they tell nothing
ALIKE = 0.95  # correlation of two marks that are one
AGREE, SLACK = 3, 1  # marks that must lie at one shift, and pixels by which it may vary
ROWS, COLUMNS = 512, 1024  # marks compared at once: what a core keeps at hand


@dataclass(frozen=True)
class Marks:
    """Places of pictures that are found again wherever they lie in another one.

    Attributes:
        picture: whose mark it is, shape ``M``.
        place: row and column in pixels, ``M x 2``.
        look: surroundings, of mean 0 and length 1, ``M x 64``.
    """

    picture: Tensor
    place: Tensor
    look: Tensor

    def of(self, chosen: Tensor) -> Marks:
        """Those of some pictures.

        Args:
            chosen: whether each picture is one of them, bool, by its number.
        """
        kept = chosen[self.picture]
        return Marks(self.picture[kept], self.place[kept], self.look[kept])


def marks(image: Tensor, picture: int = 0) -> Marks:
    """The darkest places of a patch, such as nuclei: local minima of the smoothed brightness.

    Args:
        image: ``3 x H x W``, uint8 or in [0, 1].
        picture: its number.
    """
    level = to_unit(image).mean(0)[None, None]
    if min(level.shape[2:]) <= 2 * REACH:
        return joined([])
    smooth = F.avg_pool2d(F.avg_pool2d(level, 5, 1, 2), 5, 1, 2)
    lowest = smooth == -_highest(-smooth)
    # not on a plateau, as the black around a turned picture: its edge looks alike everywhere
    rows = F.avg_pool2d(lowest.float(), (WIDTH, 1), 1, (APART, 0))
    count = F.avg_pool2d(rows, (1, WIDTH), 1, (0, APART)) * WIDTH**2
    place = (lowest & (count < 1.5))[0, 0, REACH:-REACH, REACH:-REACH].nonzero() + REACH
    depth = smooth[0, 0, place[:, 0], place[:, 1]]
    place = place[depth.argsort(stable=True)[:MOST]]
    cells = F.avg_pool2d(level, CELL, 1)[0, 0]
    steps = torch.arange(-REACH, REACH, CELL)
    rows, columns = (place[:, k, None] + steps for k in (0, 1))
    look = cells[rows[:, :, None], columns[:, None, :]].flatten(1)
    look = look - look.mean(1, keepdim=True)
    told = look.square().mean(1).sqrt() >= FLAT
    look = F.normalize(look[told], dim=1)
    return Marks(torch.full((len(look),), picture, dtype=torch.long), place[told], look)


def _highest(level: Tensor) -> Tensor:
    """The largest value around each place."""
    rows = F.max_pool2d(level, (WIDTH, 1), 1, (APART, 0))
    return F.max_pool2d(rows, (1, WIDTH), 1, (0, APART))


def joined(parts: Sequence[Marks]) -> Marks:
    """Marks of several pictures."""
    whole = torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long)
    empty = Marks(*whole, torch.zeros(0, (2 * REACH // CELL) ** 2, dtype=torch.float32))
    every = [empty, *parts]
    return Marks(
        *(torch.cat([getattr(p, name) for p in every]) for name in ("picture", "place", "look"))
    )


def overlapping(first: Marks, second: Marks) -> dict[tuple[int, int], int]:
    """Pairs of pictures, one of each side, that share three marks or more at one shift.

    Args:
        first: of one side.
        second: of the other; the same ones compare a set with itself, each pair once.

    Returns:
        ``(first picture, second picture)`` -> number of marks that agree.
    """
    votes: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i, j in _alike(first, second):
        pairs = zip(first.picture[i].tolist(), second.picture[j].tolist(), strict=True)
        shifts = (first.place[i] - second.place[j]).tolist()
        for pair, (down, right) in zip(pairs, shifts, strict=True):
            votes[pair].append((down, right))
    agreed = {pair: _most(shifts) for pair, shifts in votes.items() if len(shifts) >= AGREE}
    return {pair: count for pair, count in agreed.items() if count >= AGREE}


def _alike(first: Marks, second: Marks) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of marks that are one, part by part; of a set with itself each pair once."""
    for top in patient(range(0, len(first.look), ROWS), "compare", unit="part"):
        for left in range(top if second is first else 0, len(second.look), COLUMNS):
            rows, columns = first.look[top : top + ROWS], second.look[left : left + COLUMNS]
            likeness = rows @ columns.T
            if likeness.max() < ALIKE:
                continue
            i, j = (likeness >= ALIKE).nonzero().unbind(1)
            i, j = i + top, j + left
            kept = first.picture[i] < first.picture[j] if second is first else slice(None)
            yield i[kept], j[kept]


def _most(shifts: list[tuple[int, int]]) -> int:
    """How many of the shifts are one, give or take a pixel."""
    return max(
        sum(abs(a - c) <= SLACK and abs(b - d) <= SLACK for c, d in shifts) for a, b in shifts
    )
