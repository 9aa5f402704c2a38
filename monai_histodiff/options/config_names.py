"""The names of the configs in the table of options, and ranges that several options share."""

from __future__ import annotations

from typing import Any

FINETUNE, TRAIN, EVALUATE, INFERENCE = "finetune", "train", "evaluate", "inference"
LDM_INFERENCE, LDM_EVALUATE = "ldm inference", "ldm evaluate"
AUTOENCODER, DECODER = "ldm train_autoencoder", "ldm train_decoder"
DIFFUSION, FEW_STEPS, ENCODER = "ldm train_diffusion", "ldm train_few_steps", "ldm train_encoder"
UNETS = (DIFFUSION, FEW_STEPS)
LDM_TRAIN = (AUTOENCODER, DECODER, *UNETS, ENCODER)
STAGES = (FINETUNE, TRAIN, EVALUATE)
SAMPLING = (INFERENCE, LDM_INFERENCE)
GUIDANCE = (TRAIN, INFERENCE)
PRETRAINED = (*LDM_TRAIN, LDM_EVALUATE)
GENERATORS = (AUTOENCODER, DECODER, *UNETS, LDM_EVALUATE)
EVERY = (*STAGES, *SAMPLING, *PRETRAINED)

SEED: dict[str, Any] = {"low": 0, "high": 2**32 - 1}
SHARE: dict[str, Any] = {"low": 0, "high": 1}
LESS: dict[str, Any] = {**SHARE, "below": True}  # than 1
INNER: dict[str, Any] = {"low": 0, "high": 1, "above": True}
