"""The verdict's experiment: the same classifier, trained by the same recipe, on arms that differ
only in their data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandAxisFlipd, RandRotate90d
from torch import Tensor

from monai_histodiff.augmentation.dictionary import SyntheticAugmentd
from monai_histodiff.classifiers.classifier import ClassifierTraining, predict
from monai_histodiff.classifiers.encoder import linear_probe
from monai_histodiff.classifiers.encoder_names import features_of
from monai_histodiff.classifiers.fixmatch import BesideUnlabelled, FixMatchTraining
from monai_histodiff.classifiers.probe import features_of_views
from monai_histodiff.data.bank import SyntheticBank
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.evaluation.arms import ARMS, Material, repeats_selected
from monai_histodiff.evaluation.baselines import colour_floors
from monai_histodiff.evaluation.comparisons import COMPARISONS, USUAL
from monai_histodiff.evaluation.metrics import classification_metrics
from monai_histodiff.evaluation.real_banks import fitted
from monai_histodiff.evaluation.verdict import compare_arms, last_word, pseudonym
from monai_histodiff.utils.cache import cached
from monai_histodiff.utils.fingerprint import fingerprint
from monai_histodiff.utils.global_state import untracked
from monai_histodiff.utils.seeds import checked_seeds

__all__ = ["Evaluation", "Recipe"]

PROBE_VIEWS = 8  # augmented views of each labelled patch that the linear probe is fitted on
CACHE_VERSION = 2  # raised with every change of code that changes the probabilities of an arm
LIBRARIES = tuple(version(name) for name in ("monai", "torch", "numpy"))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every arm is trained: optimiser, schedule, batch size and number of steps are the same.

    Args:
        training: the classifier and its training.
        crop: brings real training patches to the size of the material (it may be random).
        classical: the strong classical augmentation, ending in floating-point patches in [0, 1].
        plain: brings a patch to floating point in [0, 1] and nothing else (arms A and B).
        prob: probability that a patch is replaced by one from the bank, in arms that have a bank.
        full_prob_at: patches of a class in the bank from which on it is replaced with that
            probability; with fewer it is replaced less often, see
            :class:`~monai_histodiff.SyntheticAugment`.

    Raises:
        ValueError: ``prob`` does not lie in [0, 1].
    """

    training: ClassifierTraining
    crop: Any
    classical: Any
    plain: Any
    prob: float = 0.5
    full_prob_at: int = 25

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {self.prob}")

    def augmentation(self, arm: str) -> Any:
        """What follows the crop in an arm."""
        return self.classical if ARMS[arm].augmented else self.plain

    def weak(self, arm: str) -> tuple[Any, ...]:
        """What the weak view of an unlabelled patch is made with, in an arm that has one."""
        return (self.plain,) if ARMS[arm].unlabelled else ()

    def beside(self, images: Tensor) -> BesideUnlabelled:
        """What adds two views of unlabelled patches to each item: cropped, flipped and turned the
        weak one, cropped and augmented as in arm C the strong one.
        """
        moved = [RandAxisFlipd("image", prob=0.5), RandRotate90d("image", prob=0.75)]
        weak = Compose([self.crop, *moved, self.plain])
        return BesideUnlabelled(images, weak, Compose([self.crop, self.classical]))

    def training_of(self, arm: str) -> ClassifierTraining:
        """The training of an arm: it differs in arm A, which stops early, D, which mixes, and M,
        which learns from unlabelled patches besides.
        """
        if ARMS[arm].shortened:
            return replace(
                self.training, steps=max(1, round((1 - self.prob) * self.training.steps))
            )
        if ARMS[arm].unlabelled:
            own = {f.name: getattr(self.training, f.name) for f in fields(self.training)}
            return FixMatchTraining(**own)
        mixing = ARMS[arm].mixing
        return replace(self.training, mixing=mixing) if mixing else self.training

    def share(self, arm: str) -> tuple[float, int]:
        """``prob`` and ``full_prob_at`` of the transform in an arm."""
        return (1.0, 1) if ARMS[arm].synthetic_only else (self.prob, self.full_prob_at)


class Evaluation:
    """Trains every arm with every seed and compares them.

    Args:
        material: what the arms train on.
        test: test patches, of other groups.
        recipe: how they are trained.
        arms: keys of :data:`~monai_histodiff.evaluation.ARMS`; ``"C"`` must be among them.
        seeds: one training of each arm for each.
        cache_dir: keeps the test probabilities of each arm and seed, under the hash of all that
            they depend on: an interrupted run resumes, and another arm or seed costs only itself.

    Attributes:
        left_out: arms that are asked for and not trained, as they would repeat arm G, and why, see
            :func:`~monai_histodiff.evaluation.arms.repeats_selected`.
        probabilities: after :meth:`run`, arm to test probabilities ``N x K``, one for each seed.
        seconds: likewise, what each training took (of a cached one: what it once took).
        critic: likewise, what the material's critic gives them, ``N x K``, if there is one.

    Raises:
        ValueError: an arm is unknown or lacks what it needs, C is missing, no seed is given, one
            is no whole number (two could be one training), a test patch has no label of the
            material's classes, training and test groups overlap, or candidates have another size.
    """

    def __init__(
        self,
        material: Material,
        test: PatchSet,
        recipe: Recipe,
        arms: Sequence[str] = USUAL,
        seeds: Sequence[int] = (0, 1, 2),
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if any(a not in ARMS for a in arms) or "C" not in arms:
            got = f"got {list(arms)}"
            raise ValueError(f"arms must be among {sorted(ARMS)} and include 'C', {got}")
        if len(set(checked_seeds(seeds))) < len(seeds):
            raise ValueError(f"seeds must differ, got {list(seeds)}")
        for arm in arms:
            needs = ARMS[arm].needs
            if missing := [name for name in needs if material.lacks(name)]:
                got = f"got no {' and no '.join(missing)}"
                raise ValueError(f"arm {arm} needs {' and '.join(needs)}, {got}")
        test = test.with_classes(material.classes)
        if blind := int((test.labels < 0).sum()):
            got = f"got {blind} of {len(test)} without"
            raise ValueError(f"every test patch must have a label, {got}")
        pool = () if material.pool is None else material.pool.groups
        if shared := sorted({*material.labelled.groups, *pool} & set(test.groups)):
            got = f"got {len(shared)} in both, such as '{shared[0]}'"
            raise ValueError(f"training and test groups must be disjoint, {got}")
        made = (material.candidates, material.published, material.second)
        sides = {tuple(c.images.shape[2:]) for c in made if c is not None and len(c.images)}
        if sides - {(material.size, material.size)}:
            rule = f"candidates must have the size of the material, {material.size}"
            raise ValueError(f"{rule}, got {sorted(sides)}: give the patch_size of their run")
        self.material, self.test, self.recipe, self.cache_dir = material, test, recipe, cache_dir
        self.left_out = repeats_selected(arms, material.candidates)
        self.arms = tuple(a for a in dict.fromkeys(arms) if a not in self.left_out)
        self.seeds = tuple(int(s) for s in seeds)
        self.probabilities: dict[str, list[np.ndarray]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.critic: np.ndarray | None = None
        self._banks: dict[str, SyntheticBank] = {}  # of arms whose bank every seed shares
        # Hashed before they are used: random transforms keep the outcome of their last draw.
        self._augmentation = {
            arm: fingerprint(recipe.crop, recipe.augmentation(arm), *recipe.weak(arm))
            for arm in self.arms
        }

    def run(self) -> dict[str, list[np.ndarray]]:
        """Train all arms and return :attr:`probabilities`."""
        labelled, size = self.material.labelled, self.material.size
        items = [_pair(labelled[i]) for i in range(len(labelled))]
        test = self.test.five_crops(size)
        data = fingerprint(items, test, self.material.classes, CACHE_VERSION, *LIBRARIES)
        self.probabilities, self.seconds = {}, {}
        for seed in self.seeds:
            for arm in self.arms:
                bank = self._bank(arm, seed)
                share = (self.recipe.share(arm), ARMS[arm].uncropped)
                content: Any = None if bank is None else (bank.images, *share)
                if ARMS[arm].unlabelled:
                    content = (self.material.unlabelled,)
                features = self.material.features if ARMS[arm].probe else None
                training = self.recipe.training_of(arm)  # on whichever of several devices
                kind = replace(training, device=torch.device(training.device).type)
                key = fingerprint(data, self._augmentation[arm], kind, content, features, seed)
                fit = partial(self._train, arm, bank)
                if features is not None:
                    fit = partial(self._probe, features)
                name, compute = f"{arm}-{seed}-{key[:40]}", partial(_timed, fit, items, test, seed)
                found = cached(self.cache_dir, name, compute)
                self.probabilities.setdefault(arm, []).append(found["probabilities"])
                self.seconds.setdefault(arm, []).append(float(found["seconds"]))
        if (critic := self.material.critic) is not None:
            name = f"critic-{fingerprint(data, critic.state_dict())[:40]}"

            def told() -> dict[str, np.ndarray]:
                each = torch.stack([critic.probabilities(view) for view in test])
                return {"probabilities": each.mean(0).double().numpy()}

            self.critic = cached(self.cache_dir, name, told)["probabilities"]
        return self.probabilities

    def results(self) -> dict[str, Any]:
        """Metrics of every arm and seed, of colour alone and of the critic, differences with
        intervals, claims, recall and the verdict, as plain values.

        The claims are those of :data:`COMPARISONS` whose arms were run, in balanced accuracy;
        their p-values are corrected for one another by Holm's method.
        """
        accepted, labels = int(self.material.candidates.accepted.sum()), self.test.labels.numpy()
        found = compare_arms(
            self.probabilities,
            labels,
            [pseudonym(group) for group in self.test.groups],
            self.material.classes,
            COMPARISONS,
            accepted,
        )
        size, parts = self.material.size, (self.material.labelled, self.test)
        train, test = (part.images(size) for part in parts)
        claim, sentence = last_word(found["claims"], accepted)
        if self.critic is not None:
            found["critic"] = classification_metrics(self.critic, labels)
        known = (train, self.material.labelled.labels, test, self.test.labels)
        return {
            **found,
            "arm_names": {arm: ARMS[arm].words for arm in self.probabilities},
            "floors": colour_floors(*known, len(self.material.classes)),
            "seeds": list(self.seeds),
            "claim": claim,
            "verdict": sentence,
        }

    def _bank(self, arm: str, seed: int) -> SyntheticBank | None:
        make = ARMS[arm].bank
        if make is None or ARMS[arm].drawn:
            return None if make is None else make(self.material, seed)
        if arm not in self._banks:
            self._banks[arm] = make(self.material, seed)
        return self._banks[arm]

    @untracked()
    def _train(
        self, arm: str, bank: SyntheticBank | None, items: Sequence[Any], test: Tensor, seed: int
    ) -> Tensor:
        """Test probabilities ``views x N x K`` of a classifier trained on an arm."""
        prob, full = self.recipe.share(arm)
        steps: list[Any] = [self.recipe.crop]
        if bank is not None:
            names, prob = self.material.classes, prob if len(bank) else 0.0
            mix = SyntheticAugmentd("image", bank, prob=prob, full_prob_at=full, classes=names)
            steps = [*fitted(items, bank), mix, *steps] if ARMS[arm].uncropped else [*steps, mix]
        steps += [_pair, self.recipe.augmentation(arm)]
        if ARMS[arm].unlabelled:
            steps.append(self.recipe.beside(self.material.unlabelled))
        transform = Compose(steps)
        training, classes = self.recipe.training_of(arm), len(self.material.classes)
        network = training(items, transform, classes, seed, f"arm {arm}, seed {seed}")
        return torch.stack([torch.softmax(predict(network, view), 1) for view in test])

    def _probe(
        self, features: Callable[[Tensor], Tensor], items: Sequence[Any], test: Tensor, seed: int
    ) -> Tensor:
        """Test probabilities ``views x N x K`` of a linear probe, fitted on augmented views of the
        labelled patches.
        """
        transform = Compose([self.recipe.crop, _pair, self.recipe.classical])
        transform.set_random_state(seed)
        every = [item for item in items for _ in range(PROBE_VIEWS)]
        classes = len(self.material.classes)
        seen, labels = features_of_views(features, transform, every, classes)
        probe = linear_probe(seen, labels, 0.1, scaling="common")
        return torch.stack([torch.softmax(probe(features_of(features, v)), 1) for v in test])


def _timed(
    fit: Callable[..., Tensor], items: Sequence[Any], test: Tensor, seed: int
) -> dict[str, np.ndarray]:
    start = time.perf_counter()
    probabilities = fit(items, test, seed).mean(0).double().numpy()
    return {"probabilities": probabilities, "seconds": np.array(time.perf_counter() - start)}


def _pair(data: Mapping[str, Any]) -> dict[str, Any]:
    """Image and label alone, so that every arm collates the same items."""
    return {"image": data["image"], "label": data["label"]}
