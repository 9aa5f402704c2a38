"""Copies of training patches among the test patches, whatever their groups are called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import thumbnails

__all__ = ["Leaks", "find_leaks"]

# Root-mean-square difference of 16 x 16 thumbnails, in units of the intensity range. On colorectal
# patches of two data sets JPEG at quality 50 changed them by 0.020 at most; the nearest patch of
# another group was at 0.056 at least.
NEAR = 0.03
FLAT = 0.02  # standard deviation of a thumbnail below which it shows nothing to compare
COARSE = 8  # side of the thumbnails that are searched first
AT_ONCE = 256


@dataclass(frozen=True)
class Leaks:
    """Test patches that the training patches hold already.

    Attributes:
        patches: number of test patches.
        exact: how many have the very pixels of a training patch.
        blank: how many of the exact ones are of one colour, as empty glass is: alike by nature.
        near: how many further ones differ from a training patch, flipped or turned as may be, by
            no more than compression does.
        pairs: ``(test path, training path)`` of each.
    """

    patches: int
    exact: int
    blank: int
    near: int
    pairs: tuple[tuple[str, str], ...]

    @property
    def notes(self) -> list[str]:
        """Plain sentences; none where there is no copy."""
        found = []
        if self.exact:
            blank = f" ({self.blank} of them blank)" if self.blank else ""
            found.append(f"{self.exact}{blank} are exact copies of training patches")
        if self.near:
            found.append(f"{self.near} are nearly copies (re-encoded, flipped or turned)")
        if not found:
            return []
        return [
            f"Leak across the split: of {self.patches} test patches {' and '.join(found)}, such as"
            f" '{self.pairs[0][0]}' of '{self.pairs[0][1]}'. What is claimed of new patients does"
            " not hold for them: take them out, or give both one group."
        ]


def find_leaks(train: PatchSet, test: PatchSet) -> Leaks:
    """Look for exact and near copies across a split. Every patch is read once.

    Args:
        train: all patches that anything is trained on, unlabelled ones too.
        test: patches that must be new.

    Returns:
        Counts, pairs of paths, and notes.
    """
    known, small = _described(train)
    unseen, views = _described(test)
    places = {digest: i for i, digest in reversed(list(enumerate(known)))}
    level = views.flatten(2)
    spread = (level - level.mean(2, keepdim=True)).square().mean(2).sqrt()
    flat = spread.amax(1) < FLAT
    exact = {j: places[digest] for j, digest in enumerate(unseen) if digest in places}
    rest = torch.tensor([j not in exact for j in range(len(unseen))], dtype=torch.bool) & ~flat
    near = _near(views, rest.nonzero()[:, 0], small) if len(small) else {}
    pairs = [
        (test.records[j].path, train.records[i].path) for j, i in [*exact.items(), *near.items()]
    ]
    blank = sum(bool(flat[j]) for j in exact)
    return Leaks(len(test), len(exact), blank, len(near), tuple(pairs))


def _described(patches: PatchSet) -> tuple[list[bytes], Tensor]:
    """SHA-256 of the pixels, and 16 x 16 thumbnails, ``N x 3 x 16 x 16``."""
    digests, small = [], [torch.empty(0, 3, 16, 16, dtype=torch.float32)]
    for i in range(len(patches)):
        image = patches[i]["image"]
        shape = str(tuple(image.shape)).encode()
        digests.append(hashlib.sha256(shape + image.numpy().tobytes()).digest())
        small.append(thumbnails(image[None]))
    return digests, torch.cat(small)


def _near(views: Tensor, rows: Tensor, known: Tensor) -> dict[int, int]:
    """The row of ``known`` that a view nearly is, for those of the rows that have one."""
    coarse = adaptive_avg_pool2d(known, COARSE).flatten(1)
    centre = coarse.mean(0)
    coarse = coarse - centre
    squares = coarse.square().sum(1)
    found: dict[int, int] = {}
    for part in rows.split(AT_ONCE):
        for flip in (False, True):
            for turns in range(4):
                turned = views[part].flip(3) if flip else views[part]
                turned = torch.rot90(turned, turns, (2, 3))
                x = adaptive_avg_pool2d(turned, COARSE).flatten(1) - centre
                nearest = (squares - 2 * x @ coarse.T).argmin(1)
                distance = (turned - known[nearest]).square().mean((1, 2, 3)).sqrt()
                for j in (distance <= NEAR).nonzero()[:, 0].tolist():
                    found.setdefault(int(part[j]), int(nearest[j]))
    return dict(sorted(found.items()))
