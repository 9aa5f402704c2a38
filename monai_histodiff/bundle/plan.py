"""The plan of a run: its steps, how long they will take on this machine, and how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monai_histodiff.bundle.speed import PROBE_SIZE
from monai_histodiff.evaluation.arms import ARMS

__all__ = [
    "RunPlan",
    "Step",
    "critic_step",
    "evaluation_steps",
    "training_steps",
]

# Costs in units of one training step of a PatchClassifier on a batch of 8 patches of 128 x 128, as
# measured on one CPU core (x86-64, AVX-512, float32); they grow with the area of a patch
READING = 0.01  # a patch, from its file
VIEW = 0.02  # a random view of it, for a critic
CLASSIFIER_STEP = 1 / 8  # for each patch of the batch
AUGMENTATION = 0.015  # of it, with reading and cropping
BESIDE = 2.4  # times as much where a strong and a weak view of an unlabelled patch come with it
PREDICTION = 0.01  # of a classifier, for each patch
ADAPTATION_STEP = 1.2  # for each latent
OPTIMISER_STEP = 4.0  # of Muon: for each step, whatever the batch and the area
GUIDE_STEP = 0.045
FEATURES = 0.12  # of the encoder, for each patch
ENCODING = 0.035
EVALUATION = 0.3  # of the UNet, for each patch; one without its condition takes as much again
DECODING = 0.3  # and judging
ACCEPTED = 0.75  # share of the candidates, as a guess
FIVE_CROPS = 5  # of a test patch, or of an unlabelled one
ADAPTING = 2  # views of each patch that the critic's encoder is adapted to
STAGE, REPORT = 3.0, 2.5  # seconds to start a stage and to write what it found, on any device
LOOK = "Look at this first:"


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: short.
        text: what it does.
        cost: in units of :func:`measure_speed`.
        seconds: further ones, which no faster device shortens.
    """

    name: str
    text: str
    cost: float
    seconds: float = 0.0


class RunPlan:
    """Steps with their costs; tells how far a run is, from the time that it has taken so far.

    Args:
        steps: in order.
        unit: seconds of one unit of cost, as measured beforehand.
        hint: a further line for the beginning.
        notes: what was assumed or foreseen, told before the plan.
        found: what would spoil a result, as the look before work found it; told after the notes,
            and on the page of the results.
    """

    def __init__(
        self,
        steps: list[Step],
        unit: float = 0.0,
        hint: str = "",
        notes: Sequence[str] = (),
        found: Sequence[str] = (),
    ) -> None:
        self.steps, self.unit, self.hint = steps, unit, hint
        self.notes, self.found = tuple(notes), tuple(found)
        self._start: float | None = None
        self._told = False

    def __deepcopy__(self, _: Any) -> RunPlan:
        """The same plan: a configuration copies its values, and a run has one."""
        return self

    def __contains__(self, name: str) -> bool:
        """Whether a step of that name is to be done."""
        return any(step.name == name for step in self.steps)

    def announce(self) -> None:
        """Print the notes, what was found, and one line: the steps, and about how long they take;
        once.
        """
        if self._told:
            return
        self._told = True
        for note in (*self.notes, *(f"{LOOK} {problem}." for problem in self.found)):
            print(note, flush=True)
        if self.steps:
            texts = ", ".join(step.text for step in self.steps)
            print(f"Plan: {texts}: about {_spoken(self._cost())}.", flush=True)
        if self.hint:
            print(self.hint, flush=True)

    def begin(self, name: str) -> None:
        """Print that a step begins, the share of the whole that is done, and about how much time
        is left. A name that is not in the plan is passed over.
        """
        place = next((i for i, step in enumerate(self.steps) if step.name == name), None)
        if place is None:
            return
        now = time.perf_counter()
        self._start = now if self._start is None else self._start
        done, whole = self._cost(place), self._cost()
        slower = (now - self._start) / done if done else 1.0
        print(
            f"[{place + 1}/{len(self.steps)}] {self.steps[place].text}: {done / whole:.0%} done, "
            f"about {_spoken(slower * (whole - done))} left",
            flush=True,
        )

    def _cost(self, count: int | None = None) -> float:
        """Seconds of the first steps, or of all."""
        return sum(self.unit * step.cost + step.seconds for step in self.steps[:count])


def training_steps(
    values: Mapping[str, Any],
    classes: int,
    labelled: int,
    known: int,
    size: int = PROBE_SIZE,
    crops: int = FIVE_CROPS,
) -> list[Step]:
    """The steps of ``train.yaml`` that cost time, from its options and the numbers of classes, of
    labelled patches, of all that the generator is adapted to, of pixels of a patch's side, and of
    crops of that size of an unlabelled patch.
    """
    area = (size / PROBE_SIZE) ** 2
    steps = []
    if adaptation := values["adaptation_steps"]:
        cost = adaptation * (values["batch_size"] // 2) * ADAPTATION_STEP
        cost += known * values["adaptation_encodings"] * (ENCODING + VIEW + FEATURES)
        cost = cost * area + adaptation * OPTIMISER_STEP
        steps.append(Step("adapt", f"adapt the generator ({adaptation} steps)", cost))
    guide = values["guide_steps"] * values["batch_size"] * GUIDE_STEP
    guide += labelled * values["encodings"] * (ENCODING + VIEW)
    steps.append(Step("guide", f"fit the guide ({values['guide_steps']} steps)", guide * area))
    unlabelled = known - labelled
    steps.append(critic_step(values, labelled, unlabelled, 0, size, crops))
    wanted = min(values["max_candidates"], values["quota"] * values["surplus"] / ACCEPTED)
    scales = values.get("guidance_scales", []) if "guidance_scale" not in values else []
    tried = values["scale_trials"] * len(scales) if len(scales) > 1 else 0
    scale = (
        values["class_scale"] if values["class_scale"] not in (0, 1) else values["exemplar_scale"]
    )
    networks = 1 if scale in (0, 1) else 2
    taken = math.ceil(values["solver_steps"] * values["strength"])
    one = taken * networks * EVALUATION + DECODING
    most = classes * values["max_candidates"]
    sampling = classes * (wanted + tried) * one * area
    if values["pseudo_labels"] and (values["strength"] < 1 or values["exemplar_scale"]):
        shown = min(unlabelled * values["adaptation_encodings"], classes * values["max_sources"])
        sampling += shown * DECODING * area
    steps.append(Step("sample", f"sample and judge up to {most} candidates", sampling))
    first = replace(steps[0], seconds=STAGE, cost=steps[0].cost + known * READING * area)
    return [first, *steps[1:]]


def critic_step(
    values: Mapping[str, Any],
    labelled: int,
    unlabelled: int,
    judged: int = 0,
    size: int = PROBE_SIZE,
    crops: int = FIVE_CROPS,
) -> Step:
    """The fit of a critic on so many labelled patches, beside unlabelled ones of which it sees so
    many crops each, and its judgement of further pictures.
    """
    seen = (values["critic_folds"] - 1) * labelled
    views = seen * values["critic_views"]
    shown = ADAPTING * (labelled + unlabelled) + labelled + judged
    if unlabelled:
        shown += crops * (seen + 2 * unlabelled)  # learned from, and judged
    cost = views * (FEATURES + VIEW) + shown * FEATURES
    told = f"fit the critic ({views} views)"
    return Step("critic", told, cost * (size / PROBE_SIZE) ** 2)


def evaluation_steps(
    values: Mapping[str, Any], tested: int = 0, size: int = PROBE_SIZE, relative: float = 1.0
) -> list[Step]:
    """The step of ``evaluate.yaml`` that costs time, with so many test patches, of that many
    pixels a side, and classifiers of a :func:`relative_cost`; those in the cache cost none.
    """
    arms = [arm for arm in values["arms"] if not ARMS[arm].probe]
    count, fitting = len(arms) * len(values["seeds"]), values["classifier_steps"]
    shown = len(values["seeds"]) * sum(BESIDE if ARMS[arm].unlabelled else 1.0 for arm in arms)
    step, further = values["batch_size"], values["further_steps"]
    cost = step * shown * fitting * (CLASSIFIER_STEP * relative + AUGMENTATION)
    cost += step * further * (CLASSIFIER_STEP + AUGMENTATION)
    cost += tested * (READING + FIVE_CROPS * (count * PREDICTION * relative + FEATURES))
    cost *= (size / PROBE_SIZE) ** 2
    text = f"train {count} classifiers ({fitting} steps each)"
    return [Step("evaluate", text, cost, STAGE + REPORT)]


def _spoken(seconds: float) -> str:
    """``40 s``, ``3 minutes``, ``1.5 hours``."""
    if seconds < 90:
        return f"{max(1, round(seconds)):d} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
