"""From candidates to accepted patches: the critic, its calibration, the check for copies,
quotas.
"""

from monai_histodiff.selection.candidates import Candidates as Candidates
from monai_histodiff.selection.critic import PatchCritic as PatchCritic
from monai_histodiff.selection.critic import fit_critic as fit_critic
from monai_histodiff.selection.folds import group_folds as group_folds
from monai_histodiff.selection.folds import torn_classes as torn_classes
from monai_histodiff.selection.foreign import Judge as Judge
from monai_histodiff.selection.foreign_set import open_synthetic as open_synthetic
from monai_histodiff.selection.quotas import sample_candidates as sample_candidates
from monai_histodiff.selection.quotas import tune_scale as tune_scale
from monai_histodiff.selection.selector import CentroidSelector as CentroidSelector
from monai_histodiff.selection.selector import Selection as Selection
from monai_histodiff.selection.selector import Selector as Selector
from monai_histodiff.selection.sourcing import assumed_labels as assumed_labels
from monai_histodiff.selection.sourcing import known_sources as known_sources
