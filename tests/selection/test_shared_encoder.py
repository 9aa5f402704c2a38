"""Members on one encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_histodiff import PatchCritic


class Means(nn.Module):
    """The mean of each colour; counts how often it is asked."""

    asked = 0

    def forward(self, patches: Tensor) -> Tensor:
        self.asked += 1
        return patches.mean((2, 3))


def test_an_encoder_that_all_members_stand_on_sees_each_patch_once() -> None:
    torch.manual_seed(0)
    encoder, layers = Means(), [nn.Linear(3, 4) for _ in range(3)]
    patches = torch.rand(5, 3, 8, 8)
    shared = PatchCritic([nn.Sequential(encoder, layer) for layer in layers], 4)
    shared.temperature.fill_(0.5)
    expected = torch.stack([(layer(patches.mean((2, 3))) / 0.5).softmax(1) for layer in layers])
    torch.testing.assert_close(shared.probabilities(patches), expected.mean(0))
    assert encoder.asked == 1


def test_members_with_encoders_of_their_own_are_asked_each() -> None:
    torch.manual_seed(0)
    members = [nn.Sequential(Means(), nn.Linear(3, 4)) for _ in range(2)]
    patches = torch.rand(5, 3, 8, 8)
    found = PatchCritic(members, 4).probabilities(patches)
    torch.testing.assert_close(
        found, torch.stack([m(patches).softmax(1) for m in members]).mean(0)
    )
    assert [m[0].asked for m in members] == [2, 2]
