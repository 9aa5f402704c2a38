"""Do synthetic patches help? Arms, the experiment, its statistics and verdict; and how good a
generator is.
"""

from monai_histodiff.evaluation.arms import ARMS as ARMS
from monai_histodiff.evaluation.arms import Arm as Arm
from monai_histodiff.evaluation.arms import Material as Material
from monai_histodiff.evaluation.comparisons import COMPARISONS as COMPARISONS
from monai_histodiff.evaluation.denoising import denoising_error as denoising_error
from monai_histodiff.evaluation.exemplars import exemplar_fidelity as exemplar_fidelity
from monai_histodiff.evaluation.experiment import Evaluation as Evaluation
from monai_histodiff.evaluation.experiment import Recipe as Recipe
from monai_histodiff.evaluation.generator import evaluate_generator as evaluate_generator
from monai_histodiff.evaluation.generator import probe_reconstructions as probe_reconstructions
from monai_histodiff.evaluation.generator import write_evaluation as write_evaluation
from monai_histodiff.evaluation.generator_sizes import evaluate_sizes as evaluate_sizes
from monai_histodiff.evaluation.synthetic import class_fidelity as class_fidelity
from monai_histodiff.evaluation.synthetic import label_agreement as label_agreement
from monai_histodiff.evaluation.two_sample import two_sample_test as two_sample_test
from monai_histodiff.evaluation.verdict import compare_arms as compare_arms
