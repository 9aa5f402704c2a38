"""Pictures that show some of the same tissue, shifted: tiles that overlap, crops of one field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_histodiff.data.pixels import to_unit
from monai_histodiff.utils.progress import patient

__all__ = ["Marks", "joined", "marks", "overlapping"]

APART, MOST = 8, 20  # pixels between two marks, and marks of one picture
REACH, CELL = 12, 3  # a mark's surroundings: 24 x 24 pixels, in cells of 3
FLAT = 0.02  # deviation of the surroundings, below which they tell nothing
ALIKE = 0.95  # correlation of two marks that are one
AGREE, SLACK = 3, 1  # marks that must lie at one shift, and pixels by which it may vary
ROWS, COLUMNS = 512, 1024  # marks compared at once: what a core keeps at hand
LEADING = 20  # components by which marks are first told apart
ROUNDING = 1e-4  # of a correlation, or of a distance


@dataclass(frozen=True)
class Marks:
    """Places of pictures that are found again wherever they lie in another one.

    Attributes:
        picture: whose mark it is, ascending, shape ``M``.
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
    lowest = smooth == -_around(-smooth, torch.maximum, -torch.inf)
    # not on a plateau, as the black around a turned picture: its edge looks alike everywhere
    count = _around(lowest.float(), torch.add, 0.0)
    place = (lowest & (count < 1.5))[0, 0, REACH:-REACH, REACH:-REACH].nonzero() + REACH
    depth = smooth[0, 0, place[:, 0], place[:, 1]]
    place = place[depth.argsort(stable=True)[:MOST]]
    cells = F.avg_pool2d(level, CELL, 1)[0, 0]
    steps = torch.arange(-REACH, REACH, CELL, device=level.device)
    rows, columns = (place[:, k, None] + steps for k in (0, 1))
    look = cells[rows[:, :, None], columns[:, None, :]].flatten(1)
    look = look - look.mean(1, keepdim=True)
    told = look.square().mean(1).sqrt() >= FLAT
    look = F.normalize(look[told], dim=1)
    return Marks(
        torch.full((len(look),), picture, dtype=torch.long, device="cpu"), place[told], look
    )


def _around(level: Tensor, combined: Callable[[Tensor, Tensor], Tensor], outside: float) -> Tensor:
    """The largest value, or the sum, of all that lie at most ``APART``, a power of two, from each
    place: of 1, 2, 4, ... in a row, first up and down, then across.
    """
    for axis in (2, 3):
        sides = (0, 0, APART, APART) if axis == 2 else (APART, APART)
        row, length = F.pad(level, sides, value=outside), 1
        level = row.narrow(axis, 2 * APART, level.shape[axis])  # the last of each window
        while length <= APART:
            rest = row.shape[axis] - length
            row = combined(row.narrow(axis, 0, rest), row.narrow(axis, length, rest))
            length *= 2
        level = combined(row.narrow(axis, 0, level.shape[axis]), level)
    return level


def joined(parts: Sequence[Marks]) -> Marks:
    """Marks of several pictures."""
    whose = torch.zeros(0, dtype=torch.long, device="cpu")
    look = torch.zeros(0, (2 * REACH // CELL) ** 2, dtype=torch.float32, device="cpu")
    empty = Marks(whose, whose.new_zeros(0, 2), look)
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
    """Rows of marks that are one, part by part; of a set with itself each pair once.

    All pairs are found, though few are compared in full: two of them lie at most
    ``sqrt(2 - 2 ALIKE)`` apart along any component, and correlate no more than their leading
    components and the lengths of what these leave do.
    """
    if not len(first.look) or not len(second.look):
        return
    centred = first.look - first.look.mean(0)
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
    (these, own), (others, their) = (_leading(m.look @ components) for m in (first, second))
    far = (2 - 2 * ALIKE) ** 0.5 + ROUNDING
    for top in patient(range(0, len(these), ROWS), "compare", unit="part"):
        rows = these[top : top + ROWS]
        reach = torch.stack([rows[0, 0] - far, rows[-1, 0] + far])
        start, end = torch.searchsorted(others[:, 0].contiguous(), reach).tolist()
        for left in range(max(top, start) if second is first else start, end, COLUMNS):
            likeness = rows @ others[left : min(left + COLUMNS, end)].T
            near = (likeness.amax(1) >= ALIKE - ROUNDING).nonzero()[:, 0]
            if not len(near):
                continue
            i, j = (likeness[near] >= ALIKE - ROUNDING).nonzero().unbind(1)
            i, j = near[i] + top, j + left
            if second is first:
                i, j = i[i < j], j[i < j]
            i, j = own[i], their[j]
            kept = (first.look[i] * second.look[j]).sum(1) >= ALIKE
            if second is first:
                i, j = torch.minimum(i, j), torch.maximum(i, j)
                kept &= first.picture[i] < first.picture[j]
            yield i[kept], j[kept]


def _leading(look: Tensor) -> tuple[Tensor, Tensor]:
    """Leading components and the length of the rest, sorted by the first; and whose they are."""
    order = look[:, 0].argsort()
    rest = look[:, LEADING:].norm(dim=1, keepdim=True)
    return torch.cat([look[:, :LEADING], rest], 1)[order], order


def _most(shifts: list[tuple[int, int]]) -> int:
    """How many of the shifts are one, give or take a pixel."""
    return max(
        sum(abs(a - c) <= SLACK and abs(b - d) <= SLACK for c, d in shifts) for a, b in shifts
    )
