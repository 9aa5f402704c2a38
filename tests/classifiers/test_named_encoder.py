from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_histodiff import PatchEncoder
from monai_histodiff.classifiers.named_encoder import check_encoder_name, named_features
from monai_histodiff.utils.weights import load_weights, save_weights

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


class Means(nn.Module):
    """Mean of each colour of what it is given."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.one, self.pooled, self.shapes = nn.Parameter(torch.ones(())), pooled, []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.one * (x.mean((2, 3)) if self.pooled else x)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The two functions of timm that are called, by their signatures."""
    module: Any = ModuleType("timm")
    module.made = []

    def create_model(model_name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        module.made.append((model_name, pretrained, options))
        return Means(pooled=model_name != "unpooled")

    def resolve_model_data_config(model: nn.Module) -> dict[str, Any]:
        return {"input_size": (3, 48, 48), "mean": MEAN, "std": STD, "crop_pct": 0.875}

    module.create_model, module.data = create_model, ModuleType("timm.data")
    module.data.resolve_model_data_config = resolve_model_data_config
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_a_model_of_timm_sees_its_own_size_and_scale(timm: Any) -> None:
    features = named_features("timm:resnet18.a1_in1k", batch_size=2)
    assert timm.made == [("resnet18.a1_in1k", True, {"num_classes": 0})]
    colours = torch.tensor([[51, 102, 153], [0, 255, 128], [10, 20, 30]], dtype=torch.uint8)
    found = features(colours[:, :, None, None].expand(3, 3, 32, 32))
    expected = (colours.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(found, expected, atol=1e-5) and found.dtype == torch.float32
    assert features.network.shapes == [(2, 3, 48, 48), (1, 3, 48, 48)]  # type: ignore[attr-defined]


def test_a_model_of_the_hub_is_asked_for_by_its_whole_name(timm: Any) -> None:
    named_features("hf-hub:owner/name")
    assert timm.made[0][0] == "hf-hub:owner/name"


def test_features_without_pooling_are_refused(timm: Any) -> None:
    with pytest.raises(ValueError, match="must give one vector for each patch, got .* choose one"):
        named_features("timm:unpooled")(torch.zeros(1, 3, 48, 48))


def test_a_function_is_taken_as_it_is() -> None:
    assert named_features(torch.flatten) is torch.flatten


def test_a_file_of_our_own_weights(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    save_weights(path, PatchEncoder().state_dict())
    encoder = load_weights(PatchEncoder(), path).eval()
    patches = torch.rand(2, 3, 32, 32)
    assert torch.equal(named_features(tmp_path / "encoder.pt")(patches), encoder.features(patches))


def test_names_are_checked_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="where there is no file: give its path"):
        check_encoder_name("nowhere.pt")
    for name in ("", "timm:", "hf-hub:name", "hf-hub:a/b/c"):
        with pytest.raises(ValueError, match="an encoder must be 'timm:NAME'"):
            check_encoder_name(name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'monai-histodiff\[encoders\]'"):
        check_encoder_name("timm:resnet18")
