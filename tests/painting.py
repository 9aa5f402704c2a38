"""Stand-ins for a sampler and a selector, as fast as a test needs: a patch is one colour that
tells seed and class.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.selection.selector import Selection

SIDE = 8


class Painter:
    """Stands for a sampler: red tells the seed (modulo 251), green the class. It samples only
    while ``gate`` is set.
    """

    guide = None
    progress = False
    device = torch.device("cpu")

    def __init__(self, side: int = SIDE) -> None:
        self.model: Any = torch.nn.Linear(2, 2)
        self.settings, self.size = SamplingSettings(steps=1, size=side), side
        self.gate, self.inside = threading.Event(), threading.Event()
        self.gate.set()
        self.calls: list[list[int]] = []

    def origins(self, labels: Tensor, seeds: Tensor) -> None:
        """Nothing that it paints is a variation."""

    def __call__(self, labels: Tensor, seeds: Tensor) -> Tensor:
        self.inside.set()
        self.gate.wait(60)
        self.calls.append(seeds.tolist())
        images = torch.zeros(len(seeds), 3, self.size, self.size)
        images[:, 0] = (seeds % 251)[:, None, None] / 255
        images[:, 1] = labels[:, None, None] / 255
        self.inside.clear()
        return images


class Judge:
    """Stands for a selector: accepts patches whose red is not a multiple of three, of all classes
    but ``never``.
    """

    critic = None
    settings = {"threshold": 0.5}

    def __init__(self, never: int | None = None) -> None:
        self.never = never

    def __call__(self, images: Tensor, labels: Tensor, origins: None = None) -> Selection:
        red = images[:, 0, 0, 0].long()
        keep = (red % 3 != 0) & (
            labels != self.never
            if self.never is not None
            else torch.ones_like(red, dtype=torch.bool)
        )
        reasons = ["accepted" if k else "low confidence" for k in keep.tolist()]
        return Selection(red.float() / 255, red.float(), red, reasons)
