"""What stock MONAI trainers need to train our networks, to survive a kill, and to be watched."""

from monai_histodiff.training.adversarial import DecoderLoss as DecoderLoss
from monai_histodiff.training.adversarial import DiscriminatorStep as DiscriminatorStep
from monai_histodiff.training.batches import GroupBatches as GroupBatches
from monai_histodiff.training.batches import RandomBatches as RandomBatches
from monai_histodiff.training.checkpoints import EMAHandler as EMAHandler
from monai_histodiff.training.checkpoints import EpochSeed as EpochSeed
from monai_histodiff.training.checkpoints import TrainingCheckpoint as TrainingCheckpoint
from monai_histodiff.training.checkpoints import WeightsSaver as WeightsSaver
from monai_histodiff.training.distillation import (
    DistillationPrepareBatch as DistillationPrepareBatch,
)
from monai_histodiff.training.monitoring import FiniteLoss as FiniteLoss
from monai_histodiff.training.monitoring import GradientNorm as GradientNorm
from monai_histodiff.training.monitoring import PatchGridLogger as PatchGridLogger
from monai_histodiff.training.monitoring import training_scalars as training_scalars
from monai_histodiff.training.muon import MuonAdamW as MuonAdamW
from monai_histodiff.training.steps import AutocastInferer as AutocastInferer
from monai_histodiff.training.steps import AutoencoderLoss as AutoencoderLoss
from monai_histodiff.training.steps import AutoencoderPrepareBatch as AutoencoderPrepareBatch
from monai_histodiff.training.steps import DenoisingPrepareBatch as DenoisingPrepareBatch
from monai_histodiff.training.steps import NoisyLatentPrepareBatch as NoisyLatentPrepareBatch
from monai_histodiff.training.steps import warmup_cosine as warmup_cosine
