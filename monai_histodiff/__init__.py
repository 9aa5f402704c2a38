"""Class-guided latent diffusion of histopathology patches for MONAI, with an honest verdict on
whether it helps.

The pipeline in ten lines::

    # real patches, groups on one side of the split
    patches = PatchSet.open("patches.zip").with_split()
    few = patches.select("train").few(labels_per_class=25)  # the labels that there are
    # pre-trained without labels; a guide is fitted on the few: bundles/histopathology_guidance
    model = LatentDiffusion.from_bundle("bundles/histopathology_ldm")
    sampler = GuidedSampler(model, guide)  # labels, seeds -> patches
    critic = fit_critic(...)  # independent, cross-fitted
    candidates = sample_candidates(sampler, Selector(critic, few.images(), few.groups), ...)
    candidates.bank(candidates.accepted, few.classes).save("bank")  # what earned its place
    transform = SyntheticAugmentd("image", "bank", prob=0.5)  # one line in any MONAI Compose
    Evaluation(Material(...), patches.select("test"), Recipe(...)).run()  # does it help?
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from monai_histodiff._version import __version__ as __version__

if TYPE_CHECKING:
    from monai_histodiff.augmentation import BankRefresher as BankRefresher
    from monai_histodiff.augmentation import LiveBank as LiveBank
    from monai_histodiff.augmentation import SyntheticAugment as SyntheticAugment
    from monai_histodiff.augmentation import SyntheticAugmentD as SyntheticAugmentD
    from monai_histodiff.augmentation import SyntheticAugmentd as SyntheticAugmentd
    from monai_histodiff.augmentation import SyntheticAugmentDict as SyntheticAugmentDict
    from monai_histodiff.augmentation import even_weights as even_weights
    from monai_histodiff.classifiers import ClassifierTraining as ClassifierTraining
    from monai_histodiff.classifiers import PatchClassifier as PatchClassifier
    from monai_histodiff.classifiers import PatchEncoder as PatchEncoder
    from monai_histodiff.data import PatchSet as PatchSet
    from monai_histodiff.data import RandHEJitter as RandHEJitter
    from monai_histodiff.data import RandHEJitterD as RandHEJitterD
    from monai_histodiff.data import RandHEJitterd as RandHEJitterd
    from monai_histodiff.data import RandHEJitterDict as RandHEJitterDict
    from monai_histodiff.data import SyntheticBank as SyntheticBank
    from monai_histodiff.diffusion import ExemplarEmbedding as ExemplarEmbedding
    from monai_histodiff.diffusion import FineUNet as FineUNet
    from monai_histodiff.diffusion import GuidedSampler as GuidedSampler
    from monai_histodiff.diffusion import LatentClassifier as LatentClassifier
    from monai_histodiff.diffusion import LatentDiffusion as LatentDiffusion
    from monai_histodiff.diffusion import PatchAutoencoder as PatchAutoencoder
    from monai_histodiff.diffusion import pretrained_sampler as pretrained_sampler
    from monai_histodiff.evaluation import Evaluation as Evaluation
    from monai_histodiff.selection import Candidates as Candidates
    from monai_histodiff.selection import PatchCritic as PatchCritic
    from monai_histodiff.selection import Selector as Selector
    from monai_histodiff.selection import fit_critic as fit_critic
    from monai_histodiff.selection import sample_candidates as sample_candidates

ROOMS = [module.name for module in iter_modules(__path__) if module.ispkg]

# What a name is imported from when it is first asked for: the transforms then pull in neither the
# generator nor a trainer.
WINGS = {
    "data": (
        "SyntheticBank",
        "PatchSet",
        "RandHEJitter",
        "RandHEJitterD",
        "RandHEJitterd",
        "RandHEJitterDict",
    ),
    "diffusion": (
        "PatchAutoencoder",
        "pretrained_sampler",
        "LatentClassifier",
        "LatentDiffusion",
        "GuidedSampler",
        "FineUNet",
        "ExemplarEmbedding",
    ),
    "classifiers": ("ClassifierTraining", "PatchClassifier", "PatchEncoder"),
    "selection": ("Candidates", "PatchCritic", "fit_critic", "sample_candidates", "Selector"),
    "augmentation": (
        "LiveBank",
        "BankRefresher",
        "SyntheticAugment",
        "SyntheticAugmentD",
        "SyntheticAugmentd",
        "SyntheticAugmentDict",
        "even_weights",
    ),
    "evaluation": ("Evaluation",),
}

__all__ = ["__version__", *(name for names in WINGS.values() for name in names)]


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f"{__name__}.{name}")
    for wing, names in WINGS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{wing}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *ROOMS, *(name for names in WINGS.values() for name in names)])
