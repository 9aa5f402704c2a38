"""The verdict's experiment: the same classifier, trained by the same recipe, on arms that differ
only in their data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop, Compose
from torch import Tensor

from monai_histodiff.augmentation.transforms import SyntheticAugmentd
from monai_histodiff.classifiers.classifier import ClassifierTraining, predict
from monai_histodiff.classifiers.encoder import linear_probe
from monai_histodiff.data.bank import SyntheticBank
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.pixels import five_crops
from monai_histodiff.evaluation.arms import (
    ARMS,
    COMPARISONS,
    NEEDS,
    SYNTHETIC,
    arm_bank,
    pseudo_labels,
    true_labels,
)
from monai_histodiff.evaluation.baselines import colour_floors
from monai_histodiff.evaluation.verdict import PRIMARY, compare_arms
from monai_histodiff.selection.candidates import Candidates
from monai_histodiff.selection.critic import PatchCritic
from monai_histodiff.utils.cache import cached, fingerprint

__all__ = ["Evaluation"]

PROBE_VIEWS = 8  # augmented views of each labelled patch that the linear probe is fitted on
MIXING = 1.0
CACHE_VERSION = (
    1  # to be raised with every change of code that changes the probabilities of an arm
)
LIBRARIES = tuple(version(name) for name in ("monai", "torch", "numpy"))
WHOLE = (
    "E",
    "R",
    # arms whose banks hold whole real patches, to be cropped; synthetic ones are of the size already
)


class Evaluation:
    """Trains every arm with every seed and compares them.

    Optimiser, schedule, batch size and number of steps are those of ``training`` in every arm but
    A, whose steps are the share ``1 - prob`` of them: it sees real patches as often as G does, and
    stops. B goes on to the full number.

    Args:
        labelled: the real labelled training patches.
        test: test patches, of other groups.
        candidates: synthetic candidates with their outcome.
        training: the recipe, the same for every arm.
        crop: brings real training patches to ``size`` (it may be random).
        classical: the strong classical augmentation, ending in floating-point patches in [0, 1].
        plain: brings a patch to floating point in [0, 1] and nothing else (arms A and B).
        arms: keys of :data:`~monai_histodiff.evaluation.arms.ARMS`; ``"C"`` must be among them.
        seeds: one training of each arm for each.
        prob: probability of a patch from the bank in arms E, F, G, G0, H, R and S.
        full_prob_at: in these arms, patches of a class in the bank from which on it is replaced
            with that probability; with fewer it is replaced less often, see
            :class:`~monai_histodiff.SyntheticAugment`.
        size: height and width that the classifier sees.
        pool: training patches that were not drawn as labelled (arms E and R). Only R reads their
            labels: it is the ceiling, not a method.
        critic: pseudo-labels the pool, at its threshold (arm E).
        published: candidates of the published method, with their outcome (arm G0).
        features: patches ``N x 3 x size x size``, uint8 or in [0, 1], to features ``N x D`` (arm
            J).
        cache_dir: keeps the test probabilities of each arm and seed, under the hash of all that
            they depend on: an interrupted run resumes, and another arm or seed costs only itself.

    Raises:
        ValueError: an arm is unknown or lacks what it needs, C is missing, no seed is given, a
            labelled or test patch has no label, or training and test groups overlap.
    """

    def __init__(
        self,
        labelled: PatchSet,
        test: PatchSet,
        candidates: Candidates,
        training: ClassifierTraining,
        crop: Any,
        classical: Any,
        plain: Any,
        arms: Sequence[str] = ("C", "F", "G"),
        seeds: Sequence[int] = (0, 1, 2),
        prob: float = 0.5,
        full_prob_at: int = 25,
        size: int = 128,
        pool: PatchSet | None = None,
        critic: PatchCritic | None = None,
        published: Candidates | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if any(a not in ARMS for a in arms) or "C" not in arms:
            raise ValueError(
                f"arms must be among {sorted(ARMS)} and include 'C', got {list(arms)}"
            )
        if not seeds:
            raise ValueError("at least one seed is needed, got none")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must differ, got {list(seeds)}")
        given = {"pool": pool, "critic": critic, "published": published, "features": features}
        for arm in arms:
            if missing := [name for name in NEEDS.get(arm, ()) if given[name] is None]:
                raise ValueError(
                    f"arm {arm} needs {' and '.join(NEEDS[arm])}, got no {' and no '.join(missing)}"
                )
        for name, part in (("labelled", labelled), ("test", test)):
            if blind := int((part.labels < 0).sum()):
                raise ValueError(
                    f"every {name} patch must have a label, got {blind} of {len(part)} without"
                )
        real = set(labelled.groups) | (set(pool.groups) if pool is not None else set())
        if shared := sorted(real & set(test.groups)):
            raise ValueError(
                f"training and test groups must be disjoint, got {len(shared)} in both, such as '{shared[0]}'"
            )
        self.labelled, self.test, self.candidates, self.training = (
            labelled,
            test,
            candidates,
            training,
        )
        self.crop, self.classical, self.plain, self.size = crop, classical, plain, size
        self.prob, self.full_prob_at = prob, full_prob_at
        self.arms, self.seeds = tuple(dict.fromkeys(arms)), tuple(int(s) for s in seeds)
        self.pool, self.critic, self.published, self.features = pool, critic, published, features
        self.cache_dir = cache_dir
        self.probabilities: dict[str, list[np.ndarray]] = {}
        self.seconds: dict[str, list[float]] = {}
        self._pseudo: SyntheticBank | None = None
        self._augmentation = {name: fingerprint(crop, self._augment(name)) for name in self.arms}

    def run(self) -> dict[str, list[np.ndarray]]:
        """Train all arms and return their test probabilities, one array for each seed; also in
        :attr:`probabilities`.
        """
        items = [
            {"image": d["image"], "label": d["label"]}
            for d in (self.labelled[i] for i in range(len(self.labelled)))
        ]
        test = five_crops(self.test.images(self.size), self.size)
        data = fingerprint(items, test, self.labelled.classes, CACHE_VERSION, *LIBRARIES)
        self.probabilities, self.seconds = {}, {}
        for seed in self.seeds:
            for arm in self.arms:
                bank = self._bank(arm, seed)
                content = None if bank is None else (bank.images, self._share(arm), arm in WHOLE)
                features = self.features if arm == "J" else None
                key = fingerprint(
                    data, self._augmentation[arm], self._recipe(arm), content, features, seed
                )

                fit = (
                    partial(self._train, arm, bank)
                    if features is None
                    else partial(self._probe, features)
                )
                found = cached(
                    self.cache_dir,
                    f"{arm}-{seed}-{key[:40]}",
                    partial(_timed, fit, items, test, seed),
                )
                self.probabilities.setdefault(arm, []).append(found["probabilities"])
                self.seconds.setdefault(arm, []).append(float(found["seconds"]))
        return self.probabilities

    def results(
        self, comparisons: Sequence[str] = COMPARISONS, draws: int = 1000
    ) -> dict[str, Any]:
        """Metrics of every arm and seed, differences with intervals, claims, recall, floors and
        the verdict, as plain values.

        The claims are the ``comparisons`` whose arms were run, in balanced accuracy; their
        p-values are corrected for one another by Holm's method.
        """
        found = compare_arms(
            self.probabilities,
            self.test.labels.numpy(),
            self.test.groups,
            self.labelled.classes,
            comparisons,
            draws,
        )
        crop = CenterSpatialCrop(self.size)
        train, test = (
            torch.stack([torch.as_tensor(crop(x)) for x in p.images()])
            for p in (self.labelled, self.test)
        )
        outcome, sentence = "soft", "Not tested: arm G was not run."
        if not self.candidates.accepted.any():
            sentence = "Not tested: no synthetic patch was accepted, so arm G is arm C."
        elif PRIMARY in found["claims"]:
            outcome, sentence = (found["claims"][PRIMARY][key] for key in ("outcome", "sentence"))
        return {
            **found,
            "arm_names": {arm: ARMS[arm] for arm in self.probabilities},
            "floors": colour_floors(
                train, self.labelled.labels, test, self.test.labels, len(self.labelled.classes)
            ),
            "seeds": list(self.seeds),
            "outcome": outcome,
            "verdict": sentence,
        }

    def _augment(self, arm: str) -> Any:
        return self.plain if arm in ("A", "B") else self.classical

    def _recipe(self, arm: str) -> ClassifierTraining:
        if arm == "A":
            return replace(
                self.training, steps=max(1, round((1 - self.prob) * self.training.steps))
            )
        return replace(self.training, mixing=MIXING) if arm == "D" else self.training

    def _share(self, arm: str) -> tuple[float, int]:
        """``prob`` and ``full_prob_at`` of the transform; arm I shows nothing real."""
        return (1.0, 1) if arm == "I" else (self.prob, self.full_prob_at)

    def _bank(self, arm: str, seed: int) -> SyntheticBank | None:
        if arm == "E" and self.pool is not None and self.critic is not None:
            if self._pseudo is None:
                threshold, classes = float(self.critic.threshold), self.labelled.classes
                self._pseudo = pseudo_labels(
                    self.pool, self.critic.probabilities, threshold, classes, self.size
                )
            return self._pseudo
        if arm == "R" and self.pool is not None:
            return true_labels(self.pool, self.labelled.classes)
        if arm not in SYNTHETIC:
            return None
        source = self.published if arm == "G0" and self.published is not None else self.candidates
        return arm_bank(arm, source, self.labelled.classes, seed)

    def _train(
        self, arm: str, bank: SyntheticBank | None, items: Sequence[Any], test: Tensor, seed: int
    ) -> Tensor:
        """Test probabilities ``views x N x K`` of a classifier trained on an arm."""
        prob, full = self._share(arm)
        mix = (
            []
            if bank is None
            else [SyntheticAugmentd("image", bank, prob=prob, full_prob_at=full)]
        )
        first = [*mix, self.crop] if arm in WHOLE else [self.crop, *mix]
        transform = Compose([*first, _KeepPair(), self._augment(arm)])
        network = self._recipe(arm)(
            items, transform, len(self.labelled.classes), seed, f"arm {arm}, seed {seed}"
        )
        return torch.stack([torch.softmax(predict(network, view), 1) for view in test])

    def _probe(
        self, features: Callable[[Tensor], Tensor], items: Sequence[Any], test: Tensor, seed: int
    ) -> Tensor:
        """Test probabilities ``views x N x K`` of a linear probe, fitted on augmented views of the
        labelled patches.
        """
        transform = Compose([self.crop, _KeepPair(), self.classical]).set_random_state(seed)
        views: list[Any] = [transform(item) for item in items for _ in range(PROBE_VIEWS)]
        train = features(torch.stack([torch.as_tensor(view["image"]) for view in views]).float())
        labels = torch.tensor([int(view["label"]) for view in views])
        probe = linear_probe(train, labels)
        return torch.stack([torch.softmax(probe(features(view)), 1) for view in test])


def _timed(
    fit: Callable[..., Tensor], items: Sequence[Any], test: Tensor, seed: int
) -> dict[str, np.ndarray]:
    start = time.perf_counter()
    probabilities = fit(items, test, seed).mean(0).double().numpy()
    return {"probabilities": probabilities, "seconds": np.array(time.perf_counter() - start)}


class _KeepPair:
    """Drops all but image and label, so that every arm collates the same items."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": data["image"], "label": data["label"]}
