"""Classifiers of patches and encoders of their features."""

from monai_histodiff.classifiers.classifier import ClassifierTraining as ClassifierTraining
from monai_histodiff.classifiers.classifier import PatchClassifier as PatchClassifier
from monai_histodiff.classifiers.contrastive import PairLoss as PairLoss
from monai_histodiff.classifiers.contrastive import PatchViews as PatchViews
from monai_histodiff.classifiers.contrastive import ViewPairPrepareBatch as ViewPairPrepareBatch
from monai_histodiff.classifiers.contrastive import projection_head as projection_head
from monai_histodiff.classifiers.encoder import EncoderStart as EncoderStart
from monai_histodiff.classifiers.encoder import PatchEncoder as PatchEncoder
from monai_histodiff.classifiers.encoder import bundle_features as bundle_features
from monai_histodiff.classifiers.encoder import linear_probe as linear_probe
