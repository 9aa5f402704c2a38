from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from monai.transforms import Compose, ScaleIntensityRanged
from torch import Tensor, nn

from monai_histodiff import ClassifierTraining, PatchCritic, PatchEncoder, PatchSet, fit_critic
from monai_histodiff.classifiers import EncoderStart, ProbeTraining, linear_probe
from monai_histodiff.classifiers.encoder_names import (
    NamedEncoder,
    check_encoder_name,
    named_encoder,
    named_features,
    stored_name,
)
from monai_histodiff.utils.fingerprint import fingerprint
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
    encoder: Any = named_encoder("timm:resnet18.a1_in1k")
    assert timm.made == [("resnet18.a1_in1k", True, {"num_classes": 0})]
    colours = torch.tensor([[51, 102, 153], [0, 255, 128], [10, 20, 30]], dtype=torch.uint8)
    patches = colours[:, :, None, None].expand(3, 3, 32, 32)
    found = encoder.features(patches, batch_size=2)
    assert torch.equal(named_features("timm:resnet18.a1_in1k")(patches), found)
    expected = (colours.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(found, expected, atol=1e-5) and found.dtype == torch.float32
    assert encoder.network.shapes[1:] == [(2, 3, 48, 48), (1, 3, 48, 48)]
    assert encoder.num_features == 3


def test_a_model_of_the_hub_is_asked_for_by_its_whole_name(timm: Any) -> None:
    named_features("hf-hub:owner/name")
    assert timm.made[0][0] == "hf-hub:owner/name"


def test_features_without_pooling_are_refused(timm: Any) -> None:
    with pytest.raises(ValueError, match="must give one vector for each patch, got .* choose one"):
        named_features("timm:unpooled")


@pytest.mark.parametrize(
    "about",
    [
        {"std": (0.2, 0.0, 0.2)},
        {"std": (0.2, -1.0, 0.2)},
        {"std": [math.inf] * 3},
        {"mean": [math.nan] * 3},
    ],
)
def test_what_cannot_scale_a_patch_is_refused(about: dict[str, Any]) -> None:
    known = {"input_size": (3, 48, 48), "mean": MEAN, "std": STD, **about}
    with pytest.raises(ValueError, match="its std finite and above 0, got .*: give those of the"):
        NamedEncoder(Means(), known)


def test_a_function_is_taken_as_it_is() -> None:
    assert named_features(torch.flatten) is torch.flatten


def test_a_file_of_our_own_weights(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    save_weights(path, PatchEncoder().state_dict())
    encoder = load_weights(PatchEncoder(), path).eval()
    patches = torch.rand(2, 3, 32, 32)
    bundle = tmp_path / "bundle" / "models"
    bundle.mkdir(parents=True)
    (bundle / "encoder.pt").write_bytes(path.read_bytes())
    assert torch.equal(named_features(bundle.parent)(patches), encoder.features(patches))
    assert torch.equal(named_features(tmp_path / "encoder.pt")(patches), encoder.features(patches))


def test_names_are_checked_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="where there is no file: give its path"):
        check_encoder_name("nowhere.pt")
    for name in ("", "timm:", "hf-hub:name", "hf-hub:a/b/c"):
        with pytest.raises(ValueError, match="an encoder must be 'timm:NAME'"):
            check_encoder_name(name)
    with pytest.raises(ValueError, match="an encoder must be 'timm:NAME'"):
        named_encoder("")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'monai-histodiff\[encoders\]'"):
        check_encoder_name("timm:resnet18")


# -------------------------------------------------------------------------------------------------
# -- the roles that it plays


SCALED = Compose([ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0.0, b_max=1.0)])


def test_a_critic_stands_on_a_named_encoder(
    timm: Any, patch_set: PatchSet, tmp_path: Path
) -> None:
    """The three classes have each its colour: their means tell them apart."""
    training = ProbeTraining(named_encoder("timm:means"), views=1)
    critic = fit_critic(patch_set, training, SCALED, size=32, folds=2, target_precision=0.5)
    images = patch_set.images(32)
    assert torch.equal(critic.probabilities(images).argmax(1), patch_set.labels)
    critic.save(tmp_path / "critic.pt")
    for again in (
        PatchCritic.load(tmp_path / "critic.pt", training.network, 3),
        PatchCritic.load_probes(tmp_path / "critic.pt", "named in the file", 3),
    ):
        torch.testing.assert_close(
            again.probabilities(images), critic.probabilities(images), atol=1e-2, rtol=1e-2
        )


def test_a_classifier_starts_from_a_named_encoder(timm: Any, patch_set: PatchSet) -> None:
    start = EncoderStart("timm:means")
    assert start.backbone == "timm:means"
    network = start(num_classes=3)
    assert all(p.requires_grad for p in network.parameters()) and network[1].in_features == 3
    recipe = ClassifierTraining(start, steps=2, batch_size=4)
    items = [patch_set[i] for i in range(len(patch_set))]
    data = [{"image": item["image"], "label": item["label"]} for item in items]
    trained = recipe(data, SCALED, 3, seed=0)
    assert not torch.equal(trained[0].network.one, start.encoder.network.one), "all is trained"


def test_a_probe_and_the_cache_know_a_named_encoder(timm: Any, patch_set: PatchSet) -> None:
    features = named_features("timm:means")
    assert fingerprint(features) == fingerprint(named_features("timm:means"))
    found = features(patch_set.images(32))
    probe = linear_probe(found, patch_set.labels)
    assert torch.equal(probe(found).argmax(1), patch_set.labels)


def test_a_bundle_is_a_name_too(tmp_path: Path) -> None:
    encoder = PatchEncoder()
    save_weights(tmp_path / "models" / "encoder.pt", encoder.state_dict())
    assert isinstance(named_encoder(tmp_path), PatchEncoder)


def test_a_licence_that_forbids_to_pass_on_is_warned_of(
    timm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    named_encoder("hf-hub:MahmoodLab/UNI2-h")
    assert "licence of 'hf-hub:MahmoodLab/UNI2-h' (CC BY-NC-ND 4.0)" in caplog.text
    assert "must not be passed on" in caplog.text
    caplog.clear()
    named_encoder("hf-hub:bioptimus/H-optimus-0")
    assert not caplog.text


def test_timm_itself_serves(patch_set: PatchSet, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is in an extra", exc_type=ImportError)
    made = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    torch.save(made.state_dict(), tmp_path / "weights.pth")

    def create(name: str, pretrained: bool, **options: Any) -> nn.Module:
        network = timm_create(name, pretrained=False, **options)
        network.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
        return network

    timm_create = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", create)
        encoder: Any = named_encoder("timm:test_resnet")
    about = timm.data.resolve_model_data_config(made)
    images = patch_set.images(32)
    x = nn.functional.interpolate(
        images / 255, about["input_size"][1:], mode="bicubic", antialias=True
    ).clamp(0, 1)
    mean, std = (torch.tensor(about[k])[:, None, None] for k in ("mean", "std"))
    with torch.no_grad():
        truth = made.eval()((x - mean) / std)
    assert torch.allclose(encoder.features(images), truth, atol=1e-4)
    assert encoder.num_features == made.num_features


@pytest.mark.parametrize(
    "name", [b"nonsense", b"/etc/passwd", b"\xff", b"", torch.tensor([1.0]), "timm:x"]
)
def test_a_file_names_no_encoder_but_those_of_others(name: Any) -> None:
    kept = torch.tensor(list(name), dtype=torch.uint8) if isinstance(name, bytes) else name
    with pytest.raises(ValueError, match="must name an encoder that begins with timm: or hf-hub:"):
        stored_name(kept, "critic.pt")
    good = torch.tensor(list(b"timm:vit"), dtype=torch.uint8)
    assert stored_name(good, "critic.pt") == "timm:vit"
