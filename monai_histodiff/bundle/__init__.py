"""What the configs of the bundles call: checks and plan, stages, the folder of a run, results,
inference.
"""

from monai_histodiff.bundle.exemplars import exemplars_of as exemplars_of
from monai_histodiff.bundle.generator import check_generator as check_generator
from monai_histodiff.bundle.inference import PatchWriter as PatchWriter
from monai_histodiff.bundle.inference import ReconstructionInferer as ReconstructionInferer
from monai_histodiff.bundle.inference import SamplingInferer as SamplingInferer
from monai_histodiff.bundle.inference import SeedPrepareBatch as SeedPrepareBatch
from monai_histodiff.bundle.inference import seed_items as seed_items
from monai_histodiff.bundle.made import adapted_weights as adapted_weights
from monai_histodiff.bundle.made import chosen_settings as chosen_settings
from monai_histodiff.bundle.made import sampling_of as sampling_of
from monai_histodiff.bundle.metadata import scale_of as scale_of
from monai_histodiff.bundle.preparation import prepare as prepare
from monai_histodiff.bundle.pretraining import made_with as made_with
from monai_histodiff.bundle.results import run_and_report as run_and_report
from monai_histodiff.bundle.run_folder import RunFolder as RunFolder
from monai_histodiff.bundle.running import run_stage as run_stage
from monai_histodiff.bundle.task import Task as Task
from monai_histodiff.bundle.tracking import track_results as track_results
from monai_histodiff.bundle.verdict import judge_and_report as judge_and_report
from monai_histodiff.bundle.verdict import open_sets as open_sets
from monai_histodiff.bundle.verdict_folder import VerdictFolder as VerdictFolder
