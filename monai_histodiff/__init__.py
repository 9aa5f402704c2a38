"""Class-guided latent diffusion of histopathology patches for MONAI, with an honest verdict on whether it helps.

The pipeline in ten lines::

    patches = PatchSet.open("patches.zip").with_split()               # real patches, groups on one side of the split
    few = patches.select("train").few(labels_per_class=25)            # the labels that there are
    model = LatentDiffusion.from_bundle("bundles/histopathology_ldm") # pre-trained without labels
    guide = ...                                                       # LatentClassifier, see bundles/histopathology_guidance
    sampler = GuidedSampler(model, guide)                             # labels, seeds -> patches
    critic = fit_critic(...)                                          # independent, cross-fitted, calibrated
    candidates = sample_candidates(sampler, Selector(critic, few.images(), few.groups), ...)
    candidates.bank(candidates.accepted, few.classes).save("bank")    # what earned its place
    transform = SyntheticAugmentd("image", "bank", prob=0.5)          # one line in any MONAI Compose
    Evaluation(few, patches.select("test"), candidates, ...).run()    # does it help?
"""

from monai_histodiff._version import __version__ as __version__
from monai_histodiff.autoencoders import PatchAutoencoder as PatchAutoencoder
from monai_histodiff.bank import SyntheticBank as SyntheticBank
from monai_histodiff.candidates import Candidates as Candidates
from monai_histodiff.candidates import sample_candidates as sample_candidates
from monai_histodiff.classifiers import ClassifierTraining as ClassifierTraining
from monai_histodiff.classifiers import PatchClassifier as PatchClassifier
from monai_histodiff.critics import Critic as Critic
from monai_histodiff.critics import Selector as Selector
from monai_histodiff.critics import fit_critic as fit_critic
from monai_histodiff.encoders import PatchEncoder as PatchEncoder
from monai_histodiff.evaluation import Evaluation as Evaluation
from monai_histodiff.livebank import LiveBank as LiveBank
from monai_histodiff.networks import LatentClassifier as LatentClassifier
from monai_histodiff.networks import LatentDiffusion as LatentDiffusion
from monai_histodiff.patchsets import PatchSet as PatchSet
from monai_histodiff.refresh import BankRefresher as BankRefresher
from monai_histodiff.sampling import GuidedSampler as GuidedSampler
from monai_histodiff.stain import RandHEJitter as RandHEJitter
from monai_histodiff.stain import RandHEJitterD as RandHEJitterD
from monai_histodiff.stain import RandHEJitterd as RandHEJitterd
from monai_histodiff.stain import RandHEJitterDict as RandHEJitterDict
from monai_histodiff.transforms import SyntheticAugment as SyntheticAugment
from monai_histodiff.transforms import SyntheticAugmentD as SyntheticAugmentD
from monai_histodiff.transforms import SyntheticAugmentd as SyntheticAugmentd
from monai_histodiff.transforms import SyntheticAugmentDict as SyntheticAugmentDict
from monai_histodiff.transforms import even_weights as even_weights
from monai_histodiff.unets import FineUNet as FineUNet
