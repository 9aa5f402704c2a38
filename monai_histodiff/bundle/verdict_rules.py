"""What counts are told of on the page on synthetic sets: each rule, and its words."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import torch
from torch.distributions import Binomial

__all__ = [
    "agreement",
    "beyond",
    "chance",
    "distance",
    "is_far",
    "leaks",
    "lost_classes",
    "misfits",
    "usual_rate",
]

CHANCE = 0.001  # so unlikely must a number be to be told as more than chance
FAR = 0.25  # of precision and recall of real patches, below which pictures do not look real
EXACT = 2  # pictures that are test patches: one may be a file astray
FEW = 0.05  # share of the pictures of a class that is almost none


def chance(low: int, high: int, total: int, rate: float) -> float:
    """Probability of ``low`` to ``high`` of a total, each with the rate (binomial)."""
    share = torch.tensor(min(max(rate, 0.01), 0.99), dtype=torch.float64, device="cpu")
    numbers = torch.arange(low, high + 1, dtype=torch.float64, device="cpu")
    return float(Binomial(total, share).log_prob(numbers).exp().sum())


def beyond(count: int, total: int, rate: float) -> bool:
    """Whether chance gives so many of a total less often than :data:`CHANCE`."""
    return chance(count, total, total, rate) < CHANCE


def leaks(told: Mapping[str, Any]) -> bool:
    """Whether the generator saw the test part: more pictures than chance gives are like test
    patches, or some are these themselves, which no chance gives (not told before 0.27).
    """
    exact = told.get("exact_test_copies", 0)
    return exact >= EXACT or beyond(told["test_copies"], told["pictures"], usual_rate(told))


def usual_rate(told: Mapping[str, Any], usual: str = "usual") -> float:
    """The share that chance gives, at the most, where real test patches have the ``usual`` one: of
    copies, or of what is unlike.
    """
    return max(0.03, 2 * float(told[usual]))


def agreement(told: Mapping[str, Any]) -> str:
    """What the critic says of the labels, beside what it says of real ones."""
    rows = told.get("classes", {}).values()  # before 0.27 all labelled patches counted alike
    alike = " of the same classes" * all("labelled" in row for row in rows) if rows else ""
    return (
        f"critic gives their label to {told['taught']:.0%} of the pictures, and to "
        f"{told['expected']:.0%} of real patches{alike} that it has not seen"
    )


def misfits(told: Mapping[str, Any]) -> bool:
    """Whether the critic gives the pictures their labels more rarely than chance lets it, were the
    share of real patches of the same classes the lowest that the few labelled ones allow. Results
    before version 0.27 do not tell how many these are: of them it is not said.
    """
    rows = [row for row in told.get("classes", {}).values() if row["pictures"]]
    if not rows or not all(row.get("labelled") for row in rows):
        return False
    right, total = round(told["pictures"] * told["taught"]), sum(row["pictures"] for row in rows)
    shares = [(row["pictures"] / total, *_lowest(row["right"], row["labelled"])) for row in rows]
    mean = sum(weight * share for weight, share, _ in shares)
    below = sum((weight * (share - least)) ** 2 for weight, share, least in shares) ** 0.5
    return chance(0, right, told["pictures"], mean - below) < CHANCE


def _lowest(right: int, total: int) -> tuple[float, float]:
    """A share, and the lowest true one that :data:`CHANCE` allows: Wilson's bound (JASA 1927)."""
    z = NormalDist().inv_cdf(1 - CHANCE)
    share, extra = right / total, z * z / total
    half = z * (share * (1 - share) / total + extra / (4 * total)) ** 0.5
    return share, (share + extra / 2 - half) / (1 + extra)


def is_far(told: Mapping[str, Any]) -> bool:
    """Whether pictures, taken together, are far from the real test patches, beside as many real
    training patches: precision and recall are at most a quarter of theirs, and that the precision
    is half of theirs is refuted, so that few pictures do not alarm. Nor does a set that repeats
    itself, whose pictures are no independent evidence.
    """
    found = told.get("overall") or {}  # of no verdict before version 0.20
    made, real = found.get("samples"), found.get("floor")
    if not made or not real or 2 * told["twins"] >= told["pictures"]:
        return False
    inside = round(found["compared"] * made["precision"])
    unlikely = chance(0, inside, found["compared"], real["precision"] / 2) < CHANCE
    return unlikely and all(made[key] <= FAR * real[key] for key in ("precision", "recall"))


def distance(told: Mapping[str, Any]) -> str:
    """How far pictures are from real test patches, beside real training patches."""
    made, real = (told["overall"][side] for side in ("samples", "floor"))
    return (
        f"in the features of the encoder {made['precision']:.0%} of the pictures lie among real "
        f"test patches, and {real['precision']:.0%} of as many real training patches do (KID, "
        f"where 0 is equal: {made['kid']:,.4g}, of real ones {real['kid']:,.4g})"
    )


def lost_classes(told: Mapping[str, Any]) -> str:
    """A sentence where some classes kept nothing, or almost nothing, and others did not."""
    shown = {name: row for name, row in told["classes"].items() if row["pictures"]}
    lost = {n: r for n, r in shown.items() if r["accepted"] < FEW * r["pictures"]}
    if not lost or not told["accepted"]:
        return ""
    most = ", ".join(f"{row['accepted']} are {n}" for n, row in shown.items() if n not in lost)
    gone = ", ".join(f"{row['accepted']} of {row['pictures']} {n}" for n, row in lost.items())
    return (
        f"Of the {told['accepted']} pictures that are kept {most or 'few are of any class'}. Of "
        f"others hardly any is kept ({gone}): what is found here says nothing of them."
    )
