"""Generators of another make: autoencoder, denoiser and noise scheduler of MONAI or diffusers, put
in the places of ours.

Three things differ from maker to maker, and one adapter stands for each: the range of pixels and
what an autoencoder returns (:class:`ForeignAutoencoder`); the count of timesteps, the sign of what
is predicted and how a class is told (:class:`ForeignDenoiser`); and how a scheduler keeps its
noise levels (:func:`read_scheduler`). Sampling is ours: of a scheduler only its noise levels and
what the network predicts are taken, never its steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from torch import Tensor, nn

from monai_histodiff.diffusion.parts import PIXELS
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.utils.counts import check_from
from monai_histodiff.utils.files import first_line

__all__ = [
    "ForeignAutoencoder",
    "ForeignDenoiser",
    "Noising",
    "read_scheduler",
    "side_step",
]

PREDICTED = {"epsilon": "epsilon", "v_prediction": "velocity", "sample": "sample"}
ATTENDS = "attn2.to_k"  # the layer that reads a context, in both makers' networks
DROPPED = 0.1  # share of the classes that a training leaves out
FLOW_TABLE, FLOW_END = 2**14, 14.0  # entries; log-SNR of both ends: sigma from 0.0009 to 0.9991


@dataclass(frozen=True)
class Noising:
    """What of a scheduler a denoiser depends on.

    Attributes:
        schedule: its noise levels.
        prediction: what its network predicts, one of ours.
        timesteps: what its network is told at ``t = 0`` and at ``t = 1``.
        sign: of its prediction, beside ours.
    """

    schedule: NoiseSchedule
    prediction: str
    timesteps: tuple[float, float]
    sign: float = 1.0


def read_scheduler(scheduler: Any) -> Noising:
    """The noise levels of a scheduler of MONAI or diffusers, of any betas, or of flow matching;
    or of the arguments of MONAI's ``DDPMScheduler``.

    The log-SNR of a last step without signal (Lin et al. 2024, arXiv:2305.08891), which would not
    be finite, goes on from the two before it.

    Raises:
        ValueError: it predicts something else, or is neither a discrete DDPM's nor a flow's.
    """
    if isinstance(scheduler, Mapping):
        try:
            scheduler = DDPMScheduler(**scheduler)
        except (TypeError, ValueError) as error:
            rule = "arguments that stand for a scheduler must be those of MONAI's DDPMScheduler"
            raise ValueError(f"{rule}, got {dict(scheduler)}: {first_line(error)}") from error
    config, name = getattr(scheduler, "config", scheduler), type(scheduler).__name__
    predicted = str(getattr(config, "prediction_type", "epsilon"))
    backward = isinstance(scheduler, RFlowScheduler)  # it predicts data minus noise
    if backward or name.startswith("FlowMatch") or predicted == "flow_prediction":
        low, high = (1 / (1 + math.exp(v / 2)) for v in (FLOW_END, -FLOW_END))
        sigma = torch.linspace(low, high, FLOW_TABLE, dtype=torch.float64)
        count = float(config.num_train_timesteps)
        schedule = NoiseSchedule(2 * torch.log((1 - sigma) / sigma), flow=True)
        return Noising(schedule, "flow", (low * count, high * count), -1.0 if backward else 1.0)
    betas = getattr(scheduler, "betas", None)
    if not isinstance(betas, Tensor) or not hasattr(scheduler, "alphas_cumprod"):
        rule = "a scheduler must have betas, as that of DDPM, or be one of flow matching"
        raise ValueError(f"{rule}, got {name}: give the DDPM scheduler that it was trained with")
    if predicted not in PREDICTED:
        raise ValueError(f"a scheduler must predict one of {[*PREDICTED]}, got '{predicted}'")
    schedule = NoiseSchedule.from_betas(betas.cpu())
    return Noising(schedule, PREDICTED[predicted], (0.0, float(len(betas) - 1)))


class ForeignAutoencoder(nn.Module):
    """An autoencoder of MONAI or diffusers in the place of
    :class:`~monai_histodiff.PatchAutoencoder`.

    A patch has one latent: where the network gives a distribution, it is the mean.

    Args:
        network: MONAI's ``AutoencoderKL`` or ``VQVAE``, diffusers' ``AutoencoderKL`` or
            ``VQModel``, or a module with their ``encode`` and ``decode``.
        size: height and width of the patches that it was trained on. One black patch of this size
            tells the number of its channels and its reduction.
        pixels: what it takes for black and for white.

    Raises:
        ValueError: the range is empty, its latents are not ``N x C x h x w`` at a whole reduction,
            or what it decodes is not RGB of that size.
    """

    def __init__(self, network: nn.Module, size: int, pixels: tuple[float, float]) -> None:
        super().__init__()
        low, high = (float(v) for v in pixels)
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"pixels must be the values of black and white, got {tuple(pixels)}")
        check_from(1, patch_size=size)
        self.network: Any = network.float().eval()
        self.low, self.span = low, high - low
        device = next((p.device for p in network.parameters()), None)
        black = torch.zeros(1, 3, size, size, dtype=torch.float32, device=device)
        with torch.no_grad():
            latent = self.encode(black)
            if latent.ndim != 4 or size % latent.shape[2] or latent.shape[2] != latent.shape[3]:
                rule = "the latent of a patch must be C x h x h, at a whole reduction of its size"
                raise ValueError(f"{rule}, got {tuple(latent.shape[1:])} of {size} pixels")
            decoded = tuple(self.decode(latent).shape)
        if decoded != tuple(black.shape):
            raise ValueError(
                f"an autoencoder must decode RGB patches of {size} pixels, got {decoded[1:]}"
            )
        self.latent_channels, self.factor = latent.shape[1], size // latent.shape[2]

    def encode(self, x: Tensor) -> Tensor:
        """Patches in [0, 1], ``N x 3 x H x W``, to latents as the network has them."""
        x = x * self.span + self.low
        if hasattr(self.network, "quantizer"):  # MONAI's VQVAE, whose latents are quantised
            return self.network.encode_stage_2_inputs(x)
        found = self.network.encode(x)
        if hasattr(found, "latent_dist"):
            return found.latent_dist.mode()
        found = getattr(found, "latents", found)
        return found[0] if isinstance(found, tuple) else found

    def decode(self, raw: Tensor) -> Tensor:
        """Latents to patches, about [0, 1] and not clamped."""
        network = self.network
        decode = getattr(network, "decode_stage_2_outputs", network.decode)
        return (_tensor(decode(raw)) - self.low) / self.span


class ForeignDenoiser(nn.Module):
    """A denoiser of MONAI or diffusers in the place of :class:`~monai_histodiff.FineUNet`.

    In training mode one class in ten gives way to none, where there is a row for that, so that it
    learns both (Ho & Salimans 2022, arXiv:2207.12598).

    Args:
        unet: called ``(latents, timesteps)``, with ``class_labels`` or a context where it is
            conditional.
        channels: of the latents.
        noising: what it is told of time, and the sign of its prediction.
        classes: which row of its table of embeddings each class is; all but ``null_class`` by
            default.
        null_class: the row that stands for no class; ``None``: that of a DiT, or it has not
            learned to do without a class.
        context: that table, ``K x L x D``, where it is not the network's own: the network attends
            to its rows.

    Attributes:
        num_classes: classes that it draws; 0 where it is not conditional.

    Raises:
        ValueError: it takes or gives other latents, rows are not those of the table, or a context
            is missing, or given to a network that takes none.
    """

    rows: Tensor
    context: Tensor | None

    def __init__(
        self,
        unet: nn.Module,
        channels: int,
        noising: Noising,
        classes: Sequence[int] | None = None,
        null_class: int | None = None,
        context: Tensor | None = None,
    ) -> None:
        super().__init__()
        config = getattr(unet, "config", {})  # diffusers keeps a network's arguments there
        taken, given = (
            config.get(key) or getattr(unet, key, channels)
            for key in ("in_channels", "out_channels")
        )
        if taken != channels or given not in (channels, 2 * channels):  # twice: with variances
            rule = f"the denoiser must take and give the {channels} channels of the latents"
            remedy = "give the autoencoder that it was trained with"
            remedy = PIXELS if taken == 3 else remedy
            raise ValueError(f"{rule}, got one for {taken} and {given}: {remedy}")
        attends = bool(getattr(unet, "with_conditioning", "cross_attention_dim" in config))
        if attends != (context is not None):
            got = "none" if attends else "one for a network that attends to none"
            raise ValueError(f"a context must be given where a network attends to it, got {got}")
        self.unet, self.timesteps, self.sign = unet, noising.timesteps, noising.sign
        width = next((m.in_features for k, m in unet.named_modules() if k.endswith(ATTENDS)), None)
        if context is not None and (context.ndim != 3 or width not in (None, context.shape[2])):
            rule = f"a context must be embeddings of the classes, K x L x {width}"
            raise ValueError(f"{rule}, got {tuple(context.shape)}: give a table for each class")
        rows, learned = _table(unet) if context is None else (len(context), None)
        null_class = learned if null_class is None else null_class
        chosen = [k for k in range(rows) if k != null_class] if classes is None else list(classes)
        chosen = [k if isinstance(k, str) else int(k) for k in chosen]
        if classes is not None and not chosen:
            raise ValueError("classes must be at least one row, got none: leave them out for all")
        named = chosen if null_class is None else [*chosen, null_class]
        if wrong := [k for k in named if not isinstance(k, int) or not 0 <= k < rows]:
            rule = f"classes must be rows of the {rows} embeddings that the network has"
            numbers = "give their numbers, in the order of the class names"
            raise ValueError(f"{rule}, got {wrong[0]!r}: {numbers}")
        self.num_classes, self.null_class = len(chosen), null_class
        self.register_buffer("rows", torch.tensor(chosen, dtype=torch.long), persistent=False)
        self.register_buffer("context", None if context is None else context.detach().clone())
        self.context_name = "encoder_hidden_states" if config else "context"

    def forward(self, z: Tensor, timesteps: Tensor, classes: Tensor | None = None) -> Tensor:
        """What it predicts, of the shape of ``z``, ``N x C x h x w``, at timesteps in [0, 1000],
        shape ``N``, of classes, shape ``N``, or of none, which is also -1.

        Raises:
            ValueError: it has not learned to draw no class, and there is none.
        """
        first, last = self.timesteps
        told = first + (last - first) / 1000 * timesteps
        out = _tensor(self.unet(z, told, **self._condition(classes, len(z))))
        return self.sign * out[:, : z.shape[1]]  # a transformer's further channels are variances

    def _condition(self, classes: Tensor | None, count: int) -> dict[str, Tensor]:
        if not self.num_classes:
            return {}
        named = self.rows.new_full((count,), -1) if classes is None else classes
        rows = self.rows[named.clamp(min=0)]
        if self.null_class is not None:
            rows = rows.masked_fill(named < 0, self.null_class)
            if self.training:
                drawn = torch.rand(count, dtype=torch.float32, device=rows.device)
                rows = rows.masked_fill(drawn < DROPPED, self.null_class)
        elif classes is None or (self.training and bool((named < 0).any())):
            rule = "a generator of classes without a null class needs a label for each patch"
            raise ValueError(f"{rule}, got none: give labels, or its null_class")
        if self.context is None:
            return {"class_labels": rows}
        return {self.context_name: self.context[rows]}


def side_step(unet: nn.Module) -> int:
    """Sides of latents must be multiples of this: of the halvings of a UNet, or of the side of a
    transformer's tokens.
    """
    if isinstance(own := getattr(unet, "unet", None), nn.Module):  # an adapter, or a FineUNet
        return side_step(own)
    levels = len(getattr(unet, "down_blocks", (None,)))
    return 2 ** (levels - 1) * int(getattr(unet, "config", {}).get("patch_size") or 1)


def _table(unet: nn.Module) -> tuple[int, int | None]:
    """Rows of a network's table of classes, and the one that its architecture has for no class."""
    config = getattr(unet, "config", {})
    if "num_embeds_ada_norm" in config:  # a DiT, whose last row stands for no class
        return int(config["num_embeds_ada_norm"]) + 1, int(config["num_embeds_ada_norm"])
    own = config.get("num_class_embeds") or getattr(unet, "num_class_embeds", None)
    return int(own or 0), None


def _tensor(found: Any) -> Tensor:
    """A network's output, which diffusers wraps."""
    return found if isinstance(found, Tensor) else found.sample
