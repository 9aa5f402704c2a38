"""What the page on synthetic sets says in words: the headline, warnings and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_histodiff.bundle.notes import forecast_note, precision_note, precision_warning
from monai_histodiff.bundle.verdict_rules import (
    agreement,
    beyond,
    distance,
    is_far,
    leaks,
    lost_classes,
    misfits,
    usual_rate,
)
from monai_histodiff.evaluation.arms import ARMS
from monai_histodiff.evaluation.comparisons import compared
from monai_histodiff.evaluation.power import foresee
from monai_histodiff.selection.foreign import Judge, Judged

__all__ = ["headline", "notes", "reasons", "warnings", "withheld"]

LEAK = "Leak"
LIMITS = (
    "Leaks cannot be seen from outside. Whether the generator of these pictures was trained on "
    "patients of the test part is not to be seen from the pictures, unless it copied them: if it "
    "was, what is found here is too good. Ask who made them which patients it saw.",
    "A copy is found whatever its colours, flipped or turned, and where it is the middle or a "
    "corner of a real patch; not where it is cropped elsewhere, zoomed or warped.",
    "The intervals are for new test groups and new trainings, with this one draw of the labelled "
    "patches.",
)


def headline(told: Mapping[str, Any], comparison: str) -> dict[str, Any]:
    """The claim, its word and its sentence, where they are not the comparison's own.

    Args:
        told: of the first set, :meth:`~monai_histodiff.selection.foreign.Judged.counts`.
        comparison: its sentence.
    """
    pictures, copies, tested = told["pictures"], told["copies"], told["test_copies"]
    refused = told.get("refused_copies", copies)  # versions before 0.22 do not tell
    labels = f"the {agreement(told)}"
    if leaks(told):
        sentence = (
            f"Not tested: {tested} of {pictures} pictures are copies of test patches. Their "
            "generator saw the test part, and nothing can be claimed."
        )
        return {"claim": "inconclusive", "word": LEAK, "verdict": sentence}
    if not told["accepted"]:
        why = (
            f"{copies} of {pictures} pictures are copies of real training patches"
            if 2 * refused >= pictures
            else f"{tested} of {pictures} pictures are copies of test patches"
            if 2 * tested >= pictures
            else f"{told['unlike']} of {pictures} pictures are unlike all real training patches"
            if 2 * told["unlike"] >= pictures
            else distance(told)
            if is_far(told)
            else labels
        )
        sentence = f"None of the {pictures} pictures is worth keeping: {why}."
        return {"claim": "inconclusive", "word": "Nothing to keep", "verdict": sentence}
    faults = []
    if is_far(told):
        faults.append(f"They do not look like your tissue: {distance(told)}.")
    faults += [f"The labels do not fit: {labels}."] * misfits(told)
    if not faults:
        return {}
    kept = f"Of the {told['accepted']} of {pictures} pictures that are kept: {comparison}"
    return {"verdict": " ".join([*faults, kept])}


def withheld(
    claims: Mapping[str, Mapping[str, Any]], sets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The claims of results once leaks are known: who reads them in place of the headline, such as
    a summary of several draws, must not find a claim that the page denies.

    Args:
        claims: of the comparisons.
        sets: the counts of the sets, in order: the candidates, and the second ones.

    Returns:
        The claims; one whose arms show pictures of a set that leaks is ``inconclusive``, and has
        the reason in ``withheld``.
    """
    found = {
        name: {k: v for k, v in row.items() if k != "withheld"} for name, row in claims.items()
    }
    for part, counts in zip(("candidates", "second"), sets, strict=False):
        if (told := headline(counts, "")).get("word") != LEAK:
            continue
        for name, row in found.items():
            if any(ARMS[arm].shows == part for arm in name.split("-")):
                why = {"claim": "inconclusive", "withheld": told["verdict"]}
                row.update(why, **({"sentence": told["verdict"]} if "sentence" in row else {}))
    return found


def reasons(claims: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why claims are withheld, each reason once."""
    return list(dict.fromkeys(row["withheld"] for row in claims.values() if "withheld" in row))


def warnings(told: Mapping[str, Any], named: bool) -> list[tuple[str, str]]:
    """What must not be overlooked in a set, each a word and a sentence.

    Args:
        told: the counts of the set, and its ``whole`` fidelity by class: ``precision`` of
            ``samples`` and of the ``floor``, the same of real training patches.
        named: whether its name is told: there are two.
    """
    found: list[tuple[str, str]] = []
    total, of = told["pictures"], f" ({told['name']})" if named else ""
    if beyond(told["copies"], total, usual_rate(told)):
        found.append(
            (
                f"Memorised{of}.",
                f"{told['copies']} of {total} pictures are copies of real training patches, in "
                f"these or other colours; by the same rule {told['usual']:.0%} of real test "
                "patches are. They are no new tissue, and may show patients.",
            )
        )
    if leaks(told):
        found.append(
            (
                f"Leak{of}.",
                f"{told['test_copies']} of {total} pictures are copies of test patches: their "
                "generator saw the test part. They are refused, but what else it learned from "
                "there cannot be taken back.",
            )
        )
    found += _unlike(told, of)
    if 2 * told["soft"] >= total and beyond(told["soft"], total, usual_rate(told, "usual_soft")):
        found.append(
            (
                f"Soft{of}.",
                f"{told['soft']} of {total} pictures are softer than 99 in 100 of the real "
                f"training patches; by the same rule {told['usual_soft']:.0%} of real test "
                "patches are. They are enlarged or blurred, or fine detail was never learned.",
            )
        )
    if lost := lost_classes(told):
        found.append((f"Classes without accepted pictures{of}.", lost))
    if misfits(told):
        found.append(
            (
                f"Labels that do not fit{of}.",
                f"The {agreement(told)}: the labels are wrong, or the pictures do not show them.",
            )
        )
    if beyond(told["twins"], total, usual_rate(told)):
        found.append(
            (
                f"Repeated{of}.",
                f"{told['twins']} of {total} pictures repeat another one of the set.",
            )
        )
    return found


def _unlike(told: Mapping[str, Any], of: str) -> list[tuple[str, str]]:
    """A warning where more pictures than chance gives are unlike all real ones, or else where few
    lie among the real patches of their class.
    """
    total, word = told["pictures"], f"Unlike tissue{of}."
    if beyond(told["unlike"], total, usual_rate(told, "usual_unlike")):
        sentence = (
            f"{told['unlike']} of {total} pictures are unlike all real training patches, in the "
            f"features of the encoder; by the same rule {told['usual_unlike']:.0%} of real test "
            "patches are. They are refused: look at them."
        )
        return [(word, sentence)]
    if is_far(told):
        sentence = f"{distance(told)}: look at them before anything is made of what they change."
        return [(word, sentence[0].upper() + sentence[1:])]
    known = [v for v in told["whole"].values() if v.get("samples") and v.get("floor")]
    made, real = (
        sum(float(v[side]["precision"]) for v in known) / max(1, len(known))
        for side in ("samples", "floor")
    )
    if made >= real / 2 or misfits(told):  # among those of another class, maybe
        return []
    sentence = (
        f"In the features of the encoder {made:.0%} of the pictures lie among real test "
        f"patches of their class, and {real:.0%} of real training patches do: look at them "
        "before anything is made of what they change."
    )
    return [(word, sentence)]


def notes(
    results: Mapping[str, Any],
    arms: Sequence[str],
    trained: Sequence[str],
    judge: Judge,
    judged: Sequence[Judged],
) -> list[str]:
    """Plain sentences that limit what the results say.

    Args:
        results: with ``shortfalls``, ``claims`` and ``seeds``.
        arms: that were asked for.
        trained: those that were trained.
        judge: of the sets.
        judged: the sets.
    """
    found = [*results["shortfalls"], *reasons(results["claims"]), *LIMITS]
    if left := [arm for arm in arms if arm not in trained]:
        found.append(f"Not trained, as nothing was accepted: arms {', '.join(left)}.")
    if (seeds := len(results["seeds"])) > 1 and len(trained) > 1:
        labels, claims = judge.test.labels.numpy(), len(compared(trained))
        foreseen = foresee(labels, judge.test.groups, seeds, claims=claims).sentence
        found.append(forecast_note(foreseen, results["claims"]))
    precision = float(judge.critic.precision), float(judge.critic.target_precision)
    if not precision_warning(*precision):
        found += precision_note(*precision)
    if not judge.refuse_copies:
        found.append("Copies of training patches were not refused: refuse_copies is False.")
    for part in judged:
        if judge.refuse_copies and 2 * int(part.known.copy.sum()) >= len(part.pictures):
            found.append(
                f"Most pictures of {part.name} copy training patches, and are refused. If "
                "they are meant to be near them, as variations are, --refuse_copies False judges "
                "what else they are."
            )
        counts = part.pictures_by_class()
        if missing := [name for name, count in counts.items() if not count]:
            found.append(f"{part.name} has no picture of {', '.join(missing)}.")
        own, every = (judge.size, judge.size), len(part.pictures)
        if larger := sum(size != own for size in part.pictures.sizes()):
            found.append(
                f"{larger} of {every} pictures of {part.name} {'is' if larger == 1 else 'are'} "
                f"larger than {judge.size} x {judge.size}: their centre is judged and used."
            )
        aside = ("No group", "kept apart")  # of a split, too, which no picture here is of
        found += [n for n in part.pictures.notes if not any(words in n for words in aside)]
    return list(dict.fromkeys(found))
