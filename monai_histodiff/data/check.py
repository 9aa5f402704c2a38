"""The look before work: what a patch set holds, and what would spoil a result.

:func:`check` reads each patch once. What needs a classifier (the accuracy of colour alone) is
added where the bundles are put together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monai_histodiff.data.looking import likeness, looked
from monai_histodiff.data.overlaps import Marks, joined
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import centre_crop, resampled, sharpness, to_unit
from monai_histodiff.data.shortcuts import foreign_colours, shortcuts
from monai_histodiff.data.sizes import MODEL, SMALLEST
from monai_histodiff.data.twins import ACROSS, Twins, find_overlaps, find_twins

__all__ = ["Findings", "check"]

BLANK = 0.03  # standard deviation of the brightness, of 1, below which there is nothing to see
FEW_COLOURS = 8  # at the most: of a mask, not of tissue
LOOKED = 1024  # pixels: of larger pictures the middle is looked at
BLURRED = 0.55  # detail of 1 pixel over detail of 2: a ramp has 0.5, sharp tissue 0.6 to 1.2
PATCH = 128  # pixels of a picture on the page
FOLDS = 3  # of the main job's critic: each needs a group of each class


@dataclass(frozen=True)
class Findings:
    """What a patch set holds.

    Attributes:
        patches: number of patches.
        unlabelled: of these, those without a label.
        classes: patches of each class by split (``train``, ``test``, or ``""`` where none is
            recorded).
        groups: groups of each class by split.
        all_groups: number of groups.
        sizes: patches by width and height.
        spacings: patches by micrometres per pixel, as recorded; ``""`` where none is.
        twins: copies that are not blank, those across splits first, then those across groups;
            exact ones first.
        overlaps: pairs across the split, or, without one, across groups, that are no copies, but
            show some of the same tissue, shifted.
        blank: names, by :meth:`PatchSet.names`, of patches with nothing to see.
        blurred: of patches without fine detail at the model's scale.
        masks: of pictures of so few colours that they are no patches.
        most_labels: the largest ``labels_per_class``: training patches of the rarest class.
        rarest: the name of that class; empty where there is none.
        problems: what to look at before work, in words, the worst first.
    """

    patches: int
    unlabelled: int
    classes: Mapping[str, Mapping[str, int]]
    groups: Mapping[str, Mapping[str, int]]
    all_groups: int
    sizes: Mapping[tuple[int, int], int]
    spacings: Mapping[str, int]
    twins: tuple[Twins, ...]
    overlaps: tuple[Twins, ...]
    blank: tuple[str, ...]
    blurred: tuple[str, ...]
    masks: tuple[str, ...]
    most_labels: int
    rarest: str
    problems: tuple[str, ...]


def check(
    patches: PatchSet, test_fraction: float = 0.3, draw: int = 0, progress: bool = False
) -> Findings:
    """Look at every patch of a set, as its file is.

    Args:
        patches: the set. Of one that was brought to a scale (:meth:`PatchSet.at`), for a run, few
            groups, sizes and scales are no problems: the plan of the run tells of them.
        test_fraction: held out for testing where no split is recorded.
        draw: seed of that.
        progress: show a bar.

    Raises:
        ValueError: the set is empty, or a picture cannot be read.
    """
    if not len(patches):
        raise ValueError("a patch set must hold at least one patch, got none")
    fine = patches.at(patches.um_per_px or MODEL).sizes()
    seen = looked(patches.at(None), lambda image, i: _look(image, i, fine[i]), "look", progress)
    prints, small, places, shapes, contrasts, details, drawn = zip(*seen, strict=True)
    plain = [c < BLANK and not mask for c, mask in zip(contrasts, drawn, strict=True)]
    soft = [c >= BLANK and d < BLURRED for c, d in zip(contrasts, details, strict=True)]
    records, names = patches.records, patches.names()
    classes: dict[str, Counter[str]] = {name: Counter() for name in patches.classes}
    members: dict[str, defaultdict[str, set[str]]] = {
        name: defaultdict(set) for name in patches.classes
    }
    for r in (r for r in records if r.label):
        classes[r.label][r.split] += 1
        members[r.label][r.split].add(r.group)
    groups = {
        name: {split: len(found) for split, found in sides.items()}
        for name, sides in members.items()
    }
    most, rarest, split_problem = _most_labels(patches, test_fraction, draw)
    twins = find_twins(patches, prints, plain, torch.cat(small))
    findings = Findings(
        len(records),
        sum(not r.label for r in records),
        {name: dict(counts) for name, counts in classes.items()},
        groups,
        len(set(patches.groups)),
        dict(Counter(shapes).most_common()),
        dict(Counter(r.extra.get("um_per_px", "") for r in records).most_common()),
        twins,
        find_overlaps(patches, joined(places), twins),
        tuple(name for name, bad in zip(names, plain, strict=True) if bad),
        tuple(name for name, bad in zip(names, soft, strict=True) if bad),
        tuple(name for name, bad in zip(names, drawn, strict=True) if bad),
        most,
        rarest,
        (),
    )
    blank = patches.take(plain)
    told = _problems(findings, split_problem, _blank_words(blank, patches.counts()))
    shown = [s for s, bare, mask in zip(small, plain, drawn, strict=True) if not (bare or mask)]
    told += (*shortcuts(records, shapes), *(foreign_colours(torch.cat(shown)) if shown else ()))
    if patches.um_per_px is None:
        told += _plan_problems(findings, patches)
    return replace(findings, problems=told)


def _least(sides: Sequence[int]) -> tuple[int, int]:
    """Height and width of the middle that is looked at."""
    return min(sides[0], LOOKED), min(sides[1], LOOKED)


def _is_mask(image: Tensor, contrast: float) -> bool:
    """Whether a picture has a few colours, not one, and is no bright glass."""
    step = max(1, max(image.shape[1:]) // PATCH)
    r, g, b = image[:, ::step, ::step].int()
    colours = (r * 65536 + g * 256 + b).unique()
    bright = float(image[:, ::step, ::step].float().mean()) > 127
    return 1 < len(colours) <= FEW_COLOURS and not (bright and contrast < BLANK)


def _look(
    image: Tensor, index: int, size: tuple[int, int]
) -> tuple[bytes, Tensor, Marks, tuple[int, int], float, float, bool]:
    """Of one picture: its :func:`~monai_histodiff.data.looking.likeness`, width and height,
    standard deviation of the brightness, sharpness, at ``size`` if that is less, and whether it is
    a mask.
    """
    seen = middle = centre_crop(image, _least(image.shape[1:]))
    if (shrunk := size[0] / image.shape[1]) < 1:
        low, wide = (max(1, round(side * shrunk)) for side in middle.shape[1:])
        seen = resampled(middle, (low, wide))
    height, width = (side // 4 * 4 for side in middle.shape[1:])
    level = to_unit(middle[:, :height, :width]).mean(0)
    contrast = float(level.std(correction=0)) if level.numel() else 0.0
    return (
        *likeness(image, index),
        (image.shape[2], image.shape[1]),
        contrast,
        float(sharpness(seen[None])),
        _is_mask(image, contrast),
    )


def _most_labels(patches: PatchSet, fraction: float, draw: int) -> tuple[int, str, str]:
    """Training patches of the rarest class once a split is drawn, its name, and why none can be
    drawn.
    """
    labelled = patches.with_labels()
    if not len(labelled):
        return 0, "", ""
    try:
        train = labelled.with_split(fraction, draw).select("train")
    except ValueError as error:
        return 0, "", f"no test part can be drawn: {error}"
    most, rarest = min((count, name) for name, count in train.counts().items())
    return most, rarest, ""


def _blank_words(blank: PatchSet, counts: Mapping[str, int]) -> str:
    """What blank patches have in common, in words: transparency, or a class."""
    told = ""
    if clear := sum(blank.transparent()):
        many = "it is" if len(blank) == 1 else "they are"
        of = many if clear == len(blank) else f"{clear} of them are"
        told = f"; {of} transparent, which is read over white: save them without an alpha channel"
    labels = {r.label for r in blank.records}
    if len(blank) > 1 and len(labels) == 1 and len(counts) > 1 and (name := labels.pop()):
        told += f"; all of class '{name}', which has {counts[name]}"
    return told


def _problems(found: Findings, split_problem: str, of_blank: str) -> tuple[str, ...]:
    """What would spoil a result, in words, the worst first."""
    told = []
    kinds = Counter(t.across for t in found.twins)
    for kind, words in (
        ("splits", "of different splits are copies: the test is not of new patches"),
        ("groups", "of different groups are copies: groups are not apart"),
    ):
        if n := kinds[kind]:
            pair = next(t for t in found.twins if t.across == kind)
            pairs = "pair" if n == 1 else "pairs"
            told.append(f"{n} {pairs} {words}, such as '{pair.first}' and '{pair.second}'")
    for kind in ACROSS[:2]:
        if alike := [t for t in found.overlaps if t.across == kind]:
            pairs = "1 pair" if len(alike) == 1 else f"{len(alike)} pairs"
            told.append(
                f"{pairs} of different {kind} show some of the same tissue, shifted, such as "
                f"'{alike[0].first}' and '{alike[0].second}': tiles that overlap are of one group"
            )
    if n := sum(t.labels[0] != t.labels[1] for t in found.twins if all(t.labels)):
        pair = next(t for t in found.twins if all(t.labels) and t.labels[0] != t.labels[1])
        told.append(
            f"{n} {'pair' if n == 1 else 'pairs'} of copies have two labels, such as "
            f"'{pair.first}' and '{pair.second}': one of them is wrong"
        )
    if split_problem:
        told.append(split_problem)
    if len(found.classes) < 2:
        got = f"{len(found.classes)}: add labelled patches of another"
        told.append(f"at least 2 classes are needed, got {got}")
    splits = {split for counts in found.classes.values() for split in counts} - {"val"}
    for name, counts in found.classes.items():
        missing = [split for split in sorted(splits) if not counts.get(split)]
        if missing:
            told.append(f"class '{name}' has no patch in {' and '.join(missing)}")
    if found.all_groups == found.patches and found.patches > 1:
        told.append(
            "every patch is its own group: right only if no two are of one patient; otherwise "
            "every accuracy is too high and every interval too narrow"
        )
    for name, paths in (
        (f"of at most {FEW_COLOURS} colours (masks?)", found.masks),
        ("blank", found.blank),
        ("blurred", found.blurred),
    ):
        if paths:
            many = "1 patch is" if len(paths) == 1 else f"{len(paths)} patches are"
            more = of_blank if paths is found.blank else ""
            told.append(f"{many} {name}, such as '{paths[0]}'{more}")
    return tuple(told)


def _plan_problems(found: Findings, patches: PatchSet) -> tuple[str, ...]:
    """What few groups, sizes and scales ask for, in words."""
    told = []
    for name, counts in found.groups.items():
        trained = counts.get("train", counts.get("", 0))
        if 0 < trained < FOLDS:
            groups = "1 group" if trained == 1 else f"{trained} groups"
            told.append(
                f"class '{name}' has {groups}: the critic, which needs {FOLDS}, will be too sure "
                "of it"
            )
    if len(found.sizes) > 1:
        least, most = min(found.sizes), max(found.sizes)
        told.append(
            f"patches differ in size, from {least[0]} x {least[1]} to {most[0]} x {most[1]}"
        )
    small = min(min(size) for size in patches.at(MODEL).sizes())
    if small < SMALLEST:
        told.append(
            f"patches are as small as {small} px at {MODEL:g} um per pixel, and the shipped "
            f"generator needs {SMALLEST}"
        )
    if not any(found.spacings):
        told.append("no um_per_px is recorded: see that the patches are at about 1 um per pixel")
    elif len(found.spacings) > 1:
        rest = ", ".join(sorted(um or "none" for um in found.spacings))
        told.append(f"patches differ in um_per_px: {rest}")
    return tuple(told)
