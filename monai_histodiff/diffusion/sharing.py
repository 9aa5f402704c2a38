"""What networks share: an autoencoder taken from another model, the latents, the classes."""

from __future__ import annotations

import os

from torch import Tensor

from monai_histodiff.diffusion.autoencoder import PatchAutoencoder
from monai_histodiff.diffusion.guide import LatentClassifier
from monai_histodiff.diffusion.model import LatentDiffusion
from monai_histodiff.diffusion.settings import SamplingSettings, check_taught
from monai_histodiff.diffusion.unet import FineUNet
from monai_histodiff.utils.bfloat16 import check_float32
from monai_histodiff.utils.weights import load_fitting, read_state

__all__ = ["check_exemplars", "check_parts", "load_autoencoder"]


def load_autoencoder(model: LatentDiffusion, path: str | os.PathLike[str]) -> LatentDiffusion:
    """Load the autoencoder alone from a latent diffusion model's ``state_dict`` file, and return
    the model.

    UNet, latent statistics, schedule and prediction stay those of ``model``: what a training of
    the UNet starts from. A :class:`~monai_histodiff.FineUNet` is shown the autoencoder's
    components.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable ``state_dict``, or its autoencoder is another.
    """
    prefix = "autoencoder."
    state = {
        k.removeprefix(prefix): v for k, v in read_state(path).items() if k.startswith(prefix)
    }
    load_fitting(model.autoencoder, state, path)
    if isinstance(model.unet, FineUNet) and isinstance(model.autoencoder, PatchAutoencoder):
        model.unet.see(model.autoencoder)
    return model


def check_parts(
    model: LatentDiffusion,
    guide: LatentClassifier | None,
    settings: SamplingSettings,
) -> None:
    """Refuse networks that do not fit one another, or settings that they cannot follow.

    Raises:
        ValueError: a network is wrapped or not float32, a setting is not as the model was taught
            it, the guide reads other latents or knows other classes than the model draws, or the
            model cannot leave its classes aside.
    """
    for name, network in (("model", model), ("guide", guide)):
        if isinstance(getattr(network, "module", None), LatentDiffusion | LatentClassifier):
            got = type(network).__name__
            raise ValueError(f"the {name} must be the network itself, got {got}: give its .module")
        if network is not None:
            check_float32(f"the {name}", *(p.dtype for p in network.parameters()))
    check_taught(vars(settings), model.taught)
    channels, drawn = model.latent_shape[0], model.num_classes if settings.class_scale else 0
    if guide is not None and guide.in_channels != channels:
        got = f"got one for {guide.in_channels}"
        raise ValueError(f"the guide must read {channels} latent channels, {got}")
    if guide is not None and drawn and guide.num_classes != drawn:
        rule = f"the guide must know the {drawn} classes that the model draws"
        raise ValueError(f"{rule}, got one of {guide.num_classes}")
    if settings.class_scale != 1 and model.null_class is None:
        rule = "class_scale other than 1 needs a model that draws classes, and also none"
        raise ValueError(f"{rule}, got {settings.class_scale} for another: leave it 1")


def check_exemplars(
    model: LatentDiffusion, settings: SamplingSettings, descriptors: Tensor
) -> None:
    """Refuse exemplars that a model, or a sampler of these settings, would not draw after.

    Raises:
        ValueError: the model was trained without, their scale is 0, or the descriptors are not as
            those that it was trained with.
    """
    if model.exemplar is None:
        rule = "exemplars need a model that was trained with them"
        raise ValueError(f"{rule}, got another: leave them out, or set exemplar_scale to 0")
    if not settings.exemplar_scale:
        rule = "exemplars need an exemplar_scale above 0"
        raise ValueError(f"{rule}, got 0: set it to 1, or leave the exemplars out")
    model.exemplar.checked(descriptors)
