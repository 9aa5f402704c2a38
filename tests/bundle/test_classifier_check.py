"""A classifier of anybody's is tried before any work, and the plan knows what it costs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from monai.networks.nets import DenseNet121
from torch import nn

from monai_histodiff import PatchClassifier
from monai_histodiff.bundle import speed
from monai_histodiff.bundle.classifier_check import checked_classifier, told_backbone
from monai_histodiff.bundle.plan import evaluation_steps

OURS = {"_target_": "monai_histodiff.PatchClassifier", "_mode_": "callable", "width": 8}
CASES: list[tuple[Any, str]] = [
    (
        {"_target_": "monai.networks.nets.DenseNet121", "_mode_": "callable", "spatial_dims": 2},
        "must take num_classes= .* got TypeError: .*'in_channels' and 'out_channels': see",
    ),
    ("$lambda num_classes: __import__('torch').nn.Flatten()", r"got \(2, 3072\) of 2 patches and"),
    ("$lambda num_classes: __import__('torch').nn.Identity()", "got .*: see 'Your own classifier"),
    (
        "$lambda num_classes: __import__('torch').nn.Conv2d(4, 2, 1)",
        "got RuntimeError: .*channels",
    ),
    (
        "$lambda num_classes: __import__('torch').nn.Sequential(__import__('torch').nn.Flatten(), "
        "__import__('torch').nn.Linear(3072, num_classes).requires_grad_(False))",
        "got RuntimeError: .* does not require grad",
    ),
    ("$nowhere", "got NameError: name 'nowhere' is not defined: see"),
]


@pytest.mark.parametrize(("classifier", "message"), CASES)
def test_what_cannot_be_trained_is_refused(classifier: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_classifier({"classifier": classifier}, 3, 32)


def test_the_network_is_made_and_draws_nothing_of_the_callers() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    network = checked_classifier({"classifier": OURS}, 3, 32)
    assert isinstance(network, PatchClassifier) and torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (PatchClassifier, "from scratch"),
        (partial(PatchClassifier, width=8), "from scratch"),
        (partial(DenseNet121, 2, 3), "DenseNet121, not ours"),
        (lambda num_classes: nn.Identity(), "<lambda>, not ours"),
    ],
)
def test_from_scratch_is_said_of_our_own_alone(make: Any, told: str) -> None:
    assert told_backbone(make).endswith(told)


def test_what_a_network_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speed.relative_cost(PatchClassifier(2), 32, "cpu") == 1.0
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 2))
    assert speed.relative_cost(flat, 48, "cpu") > 0, "at the size of the task"
    monkeypatch.setattr(
        speed,
        "_seconds",
        lambda network, *_: (len(network.state_dict()["resnet.fc.weight"][0]) / 256,),
    )
    assert speed.relative_cost(PatchClassifier(2, 64), 32, "cpu") == 2.0, "it is wider"
    values = {"arms": ["C"], "seeds": [0], "classifier_steps": 10, "further_steps": 0}
    ours, larger = (evaluation_steps({**values, "batch_size": 8}, 0, 128, r)[0] for r in (1, 5))
    assert larger.cost - ours.cost == pytest.approx(10 * 4)
