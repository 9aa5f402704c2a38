"""Classifiers of patches and encoders of their features."""

from monai_histodiff.classifiers.classifier import ClassifierTraining as ClassifierTraining
from monai_histodiff.classifiers.classifier import PatchClassifier as PatchClassifier
from monai_histodiff.classifiers.crops import over_crops as over_crops
from monai_histodiff.classifiers.discriminant import Scatter as Scatter
from monai_histodiff.classifiers.discriminant import adapted_encoder as adapted_encoder
from monai_histodiff.classifiers.encoder import PatchEncoder as PatchEncoder
from monai_histodiff.classifiers.encoder import linear_probe as linear_probe
from monai_histodiff.classifiers.encoder_names import EncoderStart as EncoderStart
from monai_histodiff.classifiers.encoder_names import NamedEncoder as NamedEncoder
from monai_histodiff.classifiers.encoder_names import named_encoder as named_encoder
from monai_histodiff.classifiers.encoder_names import named_features as named_features
from monai_histodiff.classifiers.fixmatch import BesideUnlabelled as BesideUnlabelled
from monai_histodiff.classifiers.fixmatch import FixMatchTraining as FixMatchTraining
from monai_histodiff.classifiers.probe import ProbeTraining as ProbeTraining
from monai_histodiff.classifiers.propagation import PropagatedProbe as PropagatedProbe
from monai_histodiff.classifiers.propagation import propagated_labels as propagated_labels
from monai_histodiff.classifiers.self_supervised import EncoderSaver as EncoderSaver
from monai_histodiff.classifiers.self_supervised import ViewContrast as ViewContrast
from monai_histodiff.classifiers.self_supervised import ViewProjection as ViewProjection
from monai_histodiff.classifiers.self_supervised import ViewsPrepareBatch as ViewsPrepareBatch
from monai_histodiff.classifiers.self_supervised import fit_discriminant as fit_discriminant
from monai_histodiff.classifiers.views import PatchViews as PatchViews
