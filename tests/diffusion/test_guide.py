"""The block of the guide in closed form."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_histodiff import LatentClassifier
from monai_histodiff.diffusion.guide import _TimeBlock


def test_time_scales_and_shifts_what_is_normalised() -> None:
    """With a first convolution of zeros the shift alone passes, with its sign."""
    block = _TimeBlock(8, 8, 4, down=True)
    with torch.no_grad():
        for part in (block.conv1, block.conv2, block.modulate):
            part.weight.zero_()
            part.bias.zero_()  # type: ignore[union-attr]
        block.conv2.weight[:, :, 1, 1] = torch.eye(8)
        block.modulate.bias[8:] = torch.arange(8) - 3.5
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    found = block(x, torch.zeros(2, 4))
    shift = F.silu(torch.arange(8) - 3.5)[None, :, None, None]
    torch.testing.assert_close(found, block.skip(x) + shift)


def test_the_resolution_is_halved_after_the_first_block() -> None:
    guide, seen = LatentClassifier(4, 2, (8, 16, 24)), []
    for block in guide.blocks:
        block.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    guide(torch.zeros(1, 4, 16, 16), torch.zeros(1))
    sides = [(given.shape[-1], out.shape[-1]) for given, out in seen]
    assert sides == [(16, 16), (16, 8), (8, 4)]
