"""What a generator is put together from: networks, and the files of a bundle; and what is told
where something else is given.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_histodiff.utils.files import file_sha256, read_json

__all__ = [
    "PIXELS",
    "check_networks",
    "check_student",
    "checked_decoded",
    "diffusers_hint",
    "files_of_bundle",
    "latent_statistics",
    "scale_of_diffusers",
]

PIXELS = (
    "a generator of pixels has no door here; what it made can be judged all the same "
    "(bundles/verdict.json)"
)


def check_networks(autoencoder: Any, unet: Any) -> None:
    """Refuse what is no network: the path of one, or none.

    Raises:
        ValueError: one of the two is none.
    """
    for name, part in (("autoencoder", autoencoder), ("unet", unet)):
        if isinstance(part, nn.Module):
            continue
        remedy = (
            PIXELS
            if part is None and name == "autoencoder"
            else f"load it first, as by diffusers.AutoencoderKL.from_pretrained({str(part)!r})"
            if name == "autoencoder"
            else f"load it first, as by diffusers.UNet2DModel.from_pretrained({str(part)!r})"
        )
        got = repr(part) if part is None or isinstance(part, (str, Path)) else type(part).__name__
        raise ValueError(f"{name} must be a network, a torch.nn.Module, got {got}: {remedy}")


def latent_statistics(scale_factor: Any, shift: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of latents, float64, that were normalised by
    ``(latent - shift) * scale_factor``: each of the two one number, or one for each channel.

    Raises:
        ValueError: one of the two is not, or out of range.
    """
    found = []
    for name, given, low, rule in (
        ("shift", shift, -math.inf, "finite"),
        ("scale_factor", scale_factor, 0.0, "positive and finite"),
    ):
        try:
            value = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach().flatten()
        except (TypeError, ValueError, RuntimeError):
            value = torch.empty(0, dtype=torch.float64, device="cpu")
        within = bool(((low < value) & (value < math.inf)).all())
        if name == "scale_factor":
            within &= bool((1 / value).isfinite().all())
        if len(value) not in (1, channels) or not within:
            remedy = f"give one number, or one for each of the {channels} latent channels"
            raise ValueError(f"{name} must be {rule}, got {given}: {remedy}")
        found.append(value)
    return found[0], 1 / found[1]


def checked_decoded(patches: Tensor) -> Tensor:
    """Patches that an autoencoder has decoded.

    Raises:
        FloatingPointError: a value is not finite.
    """
    finite = patches.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise FloatingPointError(
            f"decoded patches must be finite, got {int((~finite).sum())} of {len(finite)} that "
            "are not: check the latents, the autoencoder, and its scale_factor, shift and pixels"
        )
    return patches


def scale_of_diffusers(autoencoder: Any, unet: Any) -> dict[str, Any]:
    """``scale_factor`` and ``shift`` that an autoencoder of diffusers knows, of each channel where
    it has ``latents_mean`` and ``latents_std``.

    Raises:
        ValueError: one of the two is no network, or the autoencoder tells no scale, or a mean
            beside another one or without a deviation.
    """
    check_networks(autoencoder, unet)
    own = getattr(autoencoder, "config", {})
    if "scaling_factor" not in own:
        raise ValueError(
            "an autoencoder of diffusers must tell its scaling_factor, got "
            f"{type(autoencoder).__name__} without: give LatentDiffusion.from_monai its "
            "scale_factor and pixels=(-1, 1)"
        )
    scale, shift = own["scaling_factor"], own.get("shift_factor") or 0.0
    mean, std = own.get("latents_mean"), own.get("latents_std")
    if mean is None and std is None:
        return {"scale_factor": scale, "shift": shift}
    if mean is None or std is None or shift or not all(std):
        raise ValueError(
            "an autoencoder of diffusers must tell latents_mean and latents_std, no 0 among them, "
            f"or neither and a shift_factor, got {mean}, {std} and {shift}: give scale_factor and "
            "shift yourself"
        )
    return {"scale_factor": [scale / value for value in std], "shift": list(mean)}


def diffusers_hint(folder: str | os.PathLike[str]) -> str:
    """A remedy for a folder that is no bundle but what diffusers has saved; otherwise empty."""
    root = Path(folder)
    if (root / "model_index.json").is_file() or any(root.glob("*/diffusion_pytorch_model*")):
        return (
            ", but parts of diffusers: load them and give them to LatentDiffusion.from_diffusers, "
            "or make a bundle of them (docs/generators.md)"
        )
    return ""


def files_of_bundle(bundle_dir: str | os.PathLike[str], *names: str) -> list[Path]:
    """Paths of files of a bundle.

    Raises:
        FileNotFoundError: one is missing.
    """
    for name in names:
        if not (Path(bundle_dir) / name).is_file():
            hint = diffusers_hint(bundle_dir)
            raise FileNotFoundError(
                f"a bundle must hold '{name}', got none in '{bundle_dir}'{hint}"
            )
    return [Path(bundle_dir) / name for name in names]


def check_student(bundle_dir: str | os.PathLike[str]) -> None:
    """Refuse the student of a bundle, ``models/few_steps.pt``, where the bundle's model is not the
    one that it was distilled from: its patches would not be those of the model.

    Raises:
        ValueError: ``few_steps_of`` in ``configs/metadata.json`` is not the SHA-256 of
            ``models/model.pt``.
    """
    path = Path(bundle_dir) / "configs" / "metadata.json"
    told = read_json(path).get("few_steps_of") if path.is_file() else None
    if told != (own := file_sha256(Path(bundle_dir) / "models" / "model.pt")):
        raise ValueError(
            f"the student must be of the bundle's model, got {told!r} as few_steps_of in '{path}',"
            f" and a models/model.pt of SHA-256 {own}: set few_steps to False, or distill a "
            "student of this model (train_few_steps.yaml) and write that hash there"
        )
