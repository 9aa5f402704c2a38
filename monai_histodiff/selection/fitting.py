"""What sampler, selector and classes must agree on before anything is made; and what is said of a
class that falls short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.selection.reasons import Reason

__all__ = [
    "check_agreement",
    "check_critic_classes",
    "check_fitted",
    "checked_labels",
    "checked_origins",
    "shortfall",
]


def check_agreement(
    sampler: Any, selector: Any, num_classes: int, classes: Sequence[str] = ()
) -> None:
    """Refuse parts of which some candidates could not be judged, or would be judged by the rule
    for others. A rule of one's own that has no critic, or none for variations, is not asked.

    Args:
        sampler: makes the candidates.
        selector: judges them.
        num_classes: classes that are to be filled.
        classes: their names; empty: not known.

    Raises:
        ValueError: there are more or fewer names than classes, the critic knows another number of
            classes, or the selector expects variations where the sampler makes none, or the other
            way round.
    """
    if classes and len(classes) != num_classes:
        raise ValueError(f"classes must be {num_classes} names, got {len(classes)}: name each")
    check_critic_classes(getattr(selector, "critic", None), num_classes)
    expected = getattr(selector, "variations", None)
    if expected is None:
        return
    strength = float(sampler.settings.strength)
    if expected != (varied := strength < 1):
        lost = "all would be refused as copies" if varied else "copies would be accepted"
        other = "of 1" if varied else "below 1"
        raise ValueError(
            f"variations of a selector must be {varied} at the sampler's strength, {strength:g}, "
            f"got {expected}, by which {lost}: make the selector with variations={varied}, or the "
            f"sampler with a strength {other}"
        )


def check_critic_classes(critic: Any, num_classes: int) -> None:
    """Refuse a critic that is of another number of classes; ``None`` passes.

    Raises:
        ValueError: the numbers differ.
    """
    if (known := getattr(critic, "num_classes", num_classes)) != num_classes:
        raise ValueError(
            f"classes must be as many as the critic's, {known}, got {num_classes}: give all that "
            "it was fitted on, in their order, or fit it on these"
        )


def check_fitted(critic: Any, labelled: PatchSet) -> None:
    """Refuse a critic that was fitted on others than the labelled patches, as far as numbers tell.

    Raises:
        ValueError: the number of classes or of patches differs.
    """
    check_critic_classes(critic, len(labelled.classes))
    folds = getattr(critic, "folds", None)
    if folds is not None and len(folds) != len(labelled):
        raise ValueError(
            f"labelled must be the {len(folds)} patches that the critic was fitted on, in "
            f"their order, got {len(labelled)}: give these, or fit the critic on those"
        )


def checked_labels(labels: Any, count: int, num_classes: int) -> Tensor:
    """Class indices, one for each patch, as an int64 tensor on the CPU.

    Args:
        labels: a tensor, an array or a sequence.
        count: of the patches.
        num_classes: classes that there are.

    Raises:
        ValueError: they are names, other in number, not whole, or none of the classes.
    """
    given = _whole(labels)
    if given is not None and given.dtype == torch.bool:
        given = None
    if given is None or given.shape != (count,):
        got = f"{labels!r:.60}" if given is None else f"shape {tuple(given.shape)}"
        raise ValueError(
            f"labels must be {count} class indices, whole numbers, one for each patch, got {got}: "
            "give the place of each name among the classes, as by patches.classes.index(...)"
        )
    found = given.to(torch.long)
    if count and not 0 <= int(found.min()) <= int(found.max()) < num_classes:
        span = f"{int(found.min())} to {int(found.max())}"
        raise ValueError(f"labels must lie from 0 to {num_classes - 1}, got {span}")
    return found


def checked_origins(origins: Any, count: int) -> Tensor:
    """Rows of the patches that others were made from, one for each, int64, on the CPU.

    Raises:
        ValueError: they are negative, not whole, or other in number.
    """
    given = _whole(origins)
    found = None if given is None or given.ndim != 1 else given.to(torch.long)
    if found is None or len(found) != count or bool((found < 0).any()):
        got = f"{origins!r:.60}"
        if found is not None and len(found):
            got = f"{len(found)} from {int(found.min())}"
        raise ValueError(
            f"origins must name a patch, counted from 0, for each, got {got} for {count} patches"
        )
    return found


def _whole(given: Any) -> Tensor | None:
    """As a tensor on the CPU; ``None`` where these are names, ragged, or not whole."""
    try:
        found = torch.as_tensor(given, device="cpu")
        return found if bool((found.double() % 1 == 0).all()) else None
    except (TypeError, ValueError, RuntimeError):
        return None


def shortfall(outcomes: Sequence[Reason], quota: int) -> str:
    """What is said of a class that falls short, with the most frequent reason of refusal.

    Args:
        outcomes: of its candidates, at least one.
        quota: accepted patches wanted.
    """
    refused = Counter(str(r) for r in outcomes if not r.passed).most_common(1)
    why = "".join(f"; most refused: {reason} ({count})" for reason, count in refused)
    found = outcomes.count(Reason.accepted)
    rate = f"with {found / len(outcomes):.1%} of {len(outcomes)} candidates accepted"
    return f"{found} of {quota} patches found, {rate}{why}"
