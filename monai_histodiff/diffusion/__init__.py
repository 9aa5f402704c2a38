"""The generator: latents, noise, denoisers, guidance, solvers, and the sampler that puts them
together.
"""

from monai_histodiff.diffusion.autoencoder import PatchAutoencoder as PatchAutoencoder
from monai_histodiff.diffusion.exemplar import ExemplarEmbedding as ExemplarEmbedding
from monai_histodiff.diffusion.generative import load_generative as load_generative
from monai_histodiff.diffusion.guide import LatentClassifier as LatentClassifier
from monai_histodiff.diffusion.latents import describe_exemplars as describe_exemplars
from monai_histodiff.diffusion.latents import encode_latents as encode_latents
from monai_histodiff.diffusion.latents import fit_exemplars as fit_exemplars
from monai_histodiff.diffusion.latents import fit_latent_statistics as fit_latent_statistics
from monai_histodiff.diffusion.model import LatentDiffusion as LatentDiffusion
from monai_histodiff.diffusion.pretrained import pretrained_sampler as pretrained_sampler
from monai_histodiff.diffusion.sampler import GuidedSampler as GuidedSampler
from monai_histodiff.diffusion.schedules import NoiseSchedule as NoiseSchedule
from monai_histodiff.diffusion.settings import SamplingSettings as SamplingSettings
from monai_histodiff.diffusion.sharing import load_autoencoder as load_autoencoder
from monai_histodiff.diffusion.solvers import SOLVERS as SOLVERS
from monai_histodiff.diffusion.solvers import Solver as Solver
from monai_histodiff.diffusion.sources import Sources as Sources
from monai_histodiff.diffusion.unet import FineUNet as FineUNet
