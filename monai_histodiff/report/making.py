"""Sections about the synthetic patches: selection, generator, and the data they are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_histodiff.report.blocks import Block, Side, Table, TableCell, Words, share
from monai_histodiff.report.values import finite, number, percent

__all__ = ["dataset", "generator", "passed", "selection"]

ACCEPTED, SURPLUS = "accepted", "over quota"
WORDS = {"train": "Training patches", "labelled": "Labels used", "test": "Test patches"}
GENERATOR = (
    "Accepted patches against real test patches of the class; in small print, as many real "
    "training patches against the same: what a perfect generator would reach. All passed through "
    "the same JPEG compression."
)
FIDELITY = {  # key: (name and meaning; decimals)
    "kid": ("KID\n0 is equal, lower is better", 3),
    "precision": ("Precision\nshare that looks real", 2),
    "recall": ("Recall\nshare of the real ones reached", 2),
    "density": ("Density\n1 is as real", 2),
    "coverage": ("Coverage\nshare of real neighbourhoods hit", 2),
}
ASKED = {  # key of the agreement: whose patches
    "accepted": "Accepted candidates",
    "candidates": "All candidates",
    "labelled": "Labelled real patches",
    "test": "Test patches",
}


def passed(counts: Mapping[str, Any]) -> float:
    """How many candidates passed every test of the selection: the accepted ones, and those that
    found their class's quota full.
    """
    return float(counts["accepted"]) + (_surplus(counts) or 0)


def _surplus(counts: Mapping[str, Any]) -> float | None:
    """Candidates over the quota, ``None`` where nobody counted them."""
    if SURPLUS.replace(" ", "_") in counts:
        return float(counts[SURPLUS.replace(" ", "_")])
    return float(counts["reasons"].get(SURPLUS, 0)) if "reasons" in counts else None


def selection(chosen: Mapping[str, Any], agreement: Mapping[str, Any] | None) -> list[Block]:
    """The threshold, candidates and accepted ones by class, why others were rejected, and what a
    further classifier says of their labels.
    """
    tables: list[Block] = []
    why: list[list[TableCell | str]] = [
        [reason, number(n, 0), share(n, chosen.get("candidates"))]
        for reason, n in chosen.get("reasons", {}).items()
        if reason not in (ACCEPTED, SURPLUS)
    ]
    if why:
        heads = ["Reason", "Patches", "Of all candidates"]
        tables.append(Table("Reasons for rejection", heads, why, css="plotted"))
    if agreement:
        heads = ["Patches", "Same class"]
        told = (
            "Share of patches to which a further classifier, fitted on others, gives their class"
        )
        asked: list[list[TableCell | str]] = [
            [words, share(agreement[k], 1)] for k, words in ASKED.items() if k in agreement
        ]
        tables.append(Table(told, heads, asked, css="plotted"))
    return [Words(_threshold(chosen)), _by_class(chosen), *([Side(tables)] if tables else [])]


def _threshold(chosen: Mapping[str, Any]) -> str:
    least, reached, aim = (
        float(finite(chosen.get(key))[0])
        for key in ("threshold", "reached_precision", "target_precision")
    )
    met = (
        "is reached"
        if reached >= aim
        else "is not reached"
        if reached < aim
        else "cannot be checked"
    )
    known = (
        "On held-out real patches, the labels that the critic gives at this threshold have a "
        f"precision of {percent(reached)}; the target, {percent(aim)}, {met}."
    )
    if least or "source_threshold" not in chosen:
        return (
            f"A candidate needs a confidence of at least {percent(least)}, and no other class may "
            f"be more probable to the critic. {known}"
        )
    sure = percent(float(finite(chosen["source_threshold"])[0]))
    return (
        f"An unlabelled patch is a source of the class that the critic gives at least {sure}. "
        f"{known} A variation of a source is accepted unless the critic finds another class more "
        "probable."
    )


def _by_class(chosen: Mapping[str, Any]) -> Table:
    counts = {**chosen.get("per_class", {}), "All classes": chosen}
    surplus = any(_surplus(count) for count in counts.values())
    sources = list(_sources(chosen))
    heads = [
        "Class",
        "Candidates",
        "Accepted",
        *(f"{kind.capitalize()} sources\npatches they vary" for kind in sources),
    ]
    heads += ["Over quota\npassed, not needed"] * surplus + ["Rate\npassed of candidates"]
    rows: list[list[TableCell | str]] = []
    for name, count in counts.items():
        over = _surplus(count)
        row: list[TableCell | str] = [name]
        row += [number(count.get(key), 0) for key in ("candidates", "accepted")]
        row += [number(_sources(count).get(kind), 0) for kind in sources]
        row += [number(over, 0)] * surplus
        through = None if count.get("accepted") is None else passed(count)
        rows.append([*row, share(through, count.get("candidates"), surplus and over is None)])
    return Table("Candidates by intended class", heads, rows, cards=len(heads) > 4, css="plotted")


def _sources(count: Mapping[str, Any]) -> Mapping[str, Any]:
    """From how many real patches accepted variations come, by kind of patch."""
    found = count.get("sources", {})
    return found if isinstance(found, Mapping) else {"labelled": found}


def generator(
    classes: Mapping[str, Any], caption: str = "Accepted patches beside real ones"
) -> list[Block]:
    """Figures of the generator for each class, beside those of real patches."""

    def beside(ours: Any, real: Any, of: Sequence[Any] = (), digits: int = 0) -> TableCell:
        shown = [number(value, digits) for value in (ours, real)]
        if of:
            shown = [f"{a} of {number(b, 0)}" for a, b in zip(shown, of, strict=True)]
        return TableCell(shown[0], f"real {shown[1]}")

    rows: list[list[TableCell | str]] = []
    for name, found in classes.items():
        copies, numbers = found["copies"], found["numbers"]
        ours, real = found["samples"] or {}, found["floor"] or {}
        note = f"{number(numbers['compared'], 0)} against {number(numbers['real'], 0)} patches"
        figures = [
            beside(ours.get(key), real.get(key), digits=d) for key, (_, d) in FIDELITY.items()
        ]
        of = (numbers["accepted"], numbers["real"])
        copied = beside(copies["samples"], copies["held_out"], of)
        rows.append([TableCell(name, note), *figures, copied])
    heads = ["Class", *(head for head, _ in FIDELITY.values()), "Copies\nof a real patch"]
    table = Table(caption, heads, rows, cards=True)
    return [Words(GENERATOR), table] if rows else []


def dataset(data: Mapping[str, Any], classes: Sequence[str]) -> list[Block]:
    """How many patches and groups each part of the data has."""
    if not (counts := data.get("counts")):
        return []
    groups = data.get("groups", {})
    rows: list[list[TableCell | str]] = [
        [name, *(number(part.get(name, 0), 0) for part in counts.values())] for name in classes
    ]
    rows.append(["All classes", *(number(sum(part.values()), 0) for part in counts.values())])
    if any((bare := data.get("unlabelled", {})).values()):
        rows.append(["Without a label", *(number(bare.get(key, 0), 0) for key in counts)])
    each = [number(groups.get(key), 0) for key in counts]
    rows.append([TableCell("Groups", "patients, slides or tiles"), *each])
    heads = ["Class", *(WORDS.get(key, key) for key in counts)]
    return [Table(f"Patches in {data.get('path', 'the data set')}", heads, rows)]
