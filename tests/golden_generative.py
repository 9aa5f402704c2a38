"""What networks of MONAI Generative Models compute, recorded once, for ``test_generative.py``.

    pip install --no-deps --target OLD monai-generative==0.2.3
    PYTHONPATH=OLD python tests/golden_generative.py

writes ``golden_generative.json``. Weights are not stored: each follows from its name, by a stream
of random numbers that NumPy promises to keep.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).with_name("golden_generative.json")
COMMON = {"spatial_dims": 2, "norm_num_groups": 4, "num_res_blocks": 1}
HEADS = {"channels": [8, 16], "attention_levels": [False, True], "num_head_channels": 8}
UNET = {**COMMON, **HEADS, "in_channels": 4, "out_channels": 4}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": (
        "AutoencoderKL",
        {
            **COMMON,
            "in_channels": 3,
            "out_channels": 3,
            "channels": [8, 16],
            "attention_levels": [False, True],
            "latent_channels": 4,
        },
    ),
    "unet": ("DiffusionModelUNet", UNET),
    "classes": ("DiffusionModelUNet", {**UNET, "num_class_embeds": 3, "resblock_updown": True}),
    "context": (
        "DiffusionModelUNet",
        {**UNET, "with_conditioning": True, "cross_attention_dim": 6},
    ),
    "vqvae": (
        "VQVAE",
        {
            "spatial_dims": 2,
            "in_channels": 3,
            "out_channels": 3,
            "channels": [8, 8],
            "num_res_layers": 1,
            "num_res_channels": [8, 8],
            "downsample_parameters": [[2, 4, 1, 1], [2, 4, 1, 1]],
            "upsample_parameters": [[2, 4, 1, 1, 0], [2, 4, 1, 1, 0]],
            "num_embeddings": 16,
            "embedding_dim": 4,
        },
    ),
}


def drawn(name: str, shape: Sequence[int]) -> Tensor:
    """Normal numbers that follow from a name."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return torch.from_numpy(values.astype(np.float32))


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights of those names and shapes, about as large as trained ones."""
    found = {}
    for name, shape in shapes.items():
        spread = 1.0 if len(shape) > 1 else 0.1
        fan = max(1, int(np.prod(shape[1:]))) ** 0.5
        centre = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        found[name] = centre + spread / fan * drawn(name, shape)
    return found


def outputs(name: str, network: nn.Module) -> dict[str, Tensor]:
    """What a network makes of inputs that follow from its name."""
    net: Any = network.eval()
    with torch.no_grad():
        if name == "autoencoder":
            mean, deviation = net.encode(drawn("patches", (1, 3, 8, 8)))
            decoded = net.decode(drawn("latents", (1, 4, 4, 4)))
            return {"mean": mean, "deviation": deviation, "decoded": decoded}
        if name == "vqvae":
            latents = net.encode_stage_2_inputs(drawn("patches", (1, 3, 16, 16)))
            decoded = net.decode_stage_2_outputs(drawn("latents", (1, 4, 4, 4)))
            return {"latents": latents, "decoded": decoded}
        known = {"classes": {"class_labels": torch.tensor([2, 0])}}
        known["context"] = {"context": drawn("context", (2, 3, 6))}
        z, t = drawn("latents", (2, 4, 4, 4)), torch.tensor([7, 600])
        return {"prediction": net(z, t, **known.get(name, {}))}


def record() -> None:
    """Write what the old package computes."""
    nets = import_module("generative.networks.nets")
    found: dict[str, Any] = {}
    for name, (kind, arguments) in NETWORKS.items():
        renamed = {"num_channels" if k == "channels" else k: v for k, v in arguments.items()}
        network = getattr(nets, kind)(**renamed)
        shapes = {k: list(v.shape) for k, v in network.state_dict().items()}
        network.load_state_dict(weights(shapes))
        made = outputs(name, network)
        rounded = {k: [float(f"{x:.7g}") for x in v.flatten().tolist()] for k, v in made.items()}
        found[name] = {"shapes": shapes, "outputs": rounded}
    GOLDEN.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
