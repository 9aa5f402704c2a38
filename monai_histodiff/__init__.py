from monai_histodiff.stain import RandHEJitter, RandHEJitterD, RandHEJitterd, RandHEJitterDict
from monai_histodiff.networks import LatentClassifier, LatentDiffusion, PatchAutoencoder
from monai_histodiff.patchsets import PatchSet
