"""What combined evaluations do not say: why nothing is claimed, and in what runs differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["beside", "left_out", "limits", "of_each"]

NONE = (
    "Nothing is compared: no two arms of one comparison, as G and C are, are in all of the runs."
)


def limits(runs: Iterable[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences on what the differences do not say: which comparisons are not in all runs, or that
    there is none, and why nothing is claimed.
    """
    every = dict.fromkeys(why for row in found.values() for why in row["unmet"])
    unmet = {why: [name for name, row in found.items() if why in row["unmet"]] for why in every}
    said = [left_out(runs), *(_unclaimed(names, len(found), why) for why, names in unmet.items())]
    return list(filter(None, said)) or ([] if found else [NONE])


def of_each(said: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Sentences, each once, behind the names of what it is said of, if not of all.

    Args:
        said: names, and the sentences on each.
    """
    where: dict[str, list[str]] = {}
    for name, sentences in said:
        for sentence in sentences:
            where.setdefault(sentence, []).append(name)
    return [
        sentence if len(names) == len(said) else f"{'; '.join(names)}: {sentence}"
        for sentence, names in where.items()
    ]


def beside(runs: Sequence[Mapping[str, Any]], differing: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences on what is not the same in all runs that stand beside one another.

    Args:
        runs: of all draws, label counts and data sets.
        differing: what of their method is not the same, and its values, in words.
    """
    versions = {str(run.get("versions", {}).get("monai-histodiff", "?")) for run in runs}
    sets = [[part.get("sha256") for part in r.get("foreign", {}).get("sets", ())] for r in runs]
    said = []
    if differing:
        each = "; ".join(f"{key} {' or '.join(values)}" for key, values in differing.items())
        said.append(
            f"The runs are not of one method ({each}): what changes with the labels, or from one "
            "data set to another, may come of that."
        )
    if len(versions) > 1:
        said.append(f"Runs of several versions of this program: {', '.join(sorted(versions))}.")
    if len(runs) > 1 and not all(run.get("options") for run in runs):
        said.append("Options are not recorded in all runs, nor compared.")
    if any(other != sets[0] for other in sets[1:]):
        said.append("The synthetic sets hold other pictures in other runs.")
    return said


def _unclaimed(names: Sequence[str], among: int, why: str) -> str:
    what = "Nothing is claimed" + (f" of {', '.join(names)}" if len(names) < among else "")
    return f"{what}. {why}"


def left_out(runs: Iterable[Mapping[str, Any]]) -> str:
    """Which comparisons are not in all runs; empty if all are."""
    runs = list(runs)
    every = dict.fromkeys(name for run in runs for name in run["claims"])
    lacking = [name for name in every if not all(name in run["claims"] for run in runs)]
    return f"Not in every run, and so not combined: {', '.join(lacking)}." if lacking else ""
