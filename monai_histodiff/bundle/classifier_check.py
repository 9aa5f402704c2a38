"""The ``classifier`` of a config, which may be anybody's network: made and tried before any
work.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from monai_histodiff.classifiers.classifier import PatchClassifier
from monai_histodiff.utils.global_state import float32_default, kept_random_state

__all__ = ["checked_classifier", "told_backbone"]

RULE = "classifier must take num_classes= and give logits N x K of patches N x 3 x H x W in [0, 1]"
REMEDY = "see 'Your own classifier' in docs/verdict.md"


def checked_classifier(
    config: Mapping[str, Any], classes: int, size: int, device: str | torch.device = "cpu"
) -> nn.Module:
    """A network of the ``classifier`` of a config, shown two patches of a size, and their
    gradient.

    Args:
        config: with overrides.
        classes: their number.
        size: height and width of a patch.
        device: where it will be trained.

    Raises:
        ValueError: it cannot be made or trained, or gives something else than a logit for each
            class.
    """
    try:
        with kept_random_state(), float32_default():
            make = ConfigParser(deepcopy(dict(config))).get_parsed_content("classifier")
            network = make(num_classes=classes).to(device).eval()
            patches = torch.rand(2, 3, size, size, dtype=torch.float32, device=device)
            with torch.no_grad():
                found = network(patches)
            if right := isinstance(found, Tensor) and tuple(found.shape) == (2, classes):
                network.train()(patches).square().mean().backward()
    except Exception as error:  # a network of anybody's can raise anything
        cause = error.__cause__ or error
        raise ValueError(f"{RULE}, got {type(cause).__name__}: {cause}: {REMEDY}") from error
    if not right:
        got = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"{RULE}, got {got} of 2 patches and {classes} classes: {REMEDY}")
    return network


def told_backbone(make: Any) -> str:
    """What classifiers start from, in words: ``from scratch`` is said of our own alone."""
    made = getattr(make, "func", make)  # of a functools.partial
    if made is PatchClassifier:
        return "from scratch"
    name = getattr(made, "__name__", type(made).__name__)
    return str(getattr(make, "backbone", f"{name}, not ours"))
