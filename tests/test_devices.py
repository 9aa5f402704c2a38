"""What is loaded to a device is there, all of it: tried on ``meta``, of which every machine has
one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import monai_histodiff as mh
from monai_histodiff.classifiers import ProbeTraining, named_encoder

BUNDLES = Path(__file__).parents[1] / "bundles"
LDM = BUNDLES / "histopathology_ldm"
GUIDANCE = BUNDLES / "histopathology_guidance"
CLASSES = 3


def critic(path: Path, probes: bool) -> Path:
    own = ProbeTraining(mh.PatchEncoder.from_bundle(LDM)).network
    members = [own(CLASSES) if probes else mh.PatchClassifier(CLASSES, 8) for _ in range(2)]
    mh.PatchCritic(members, CLASSES).save(path)
    return path


LOADED: dict[str, Callable[[Path], nn.Module]] = {
    "model": lambda folder: mh.LatentDiffusion.from_bundle(LDM, "meta"),
    "student": lambda folder: mh.LatentDiffusion.few_steps_from_bundle(LDM, "meta"),
    "encoder": lambda folder: mh.PatchEncoder.from_bundle(LDM, "meta"),
    "named encoder": lambda folder: named_encoder(LDM / "models" / "encoder.pt", "meta"),
    "guide": lambda folder: mh.LatentClassifier.from_file(
        GUIDANCE / "models" / "model.pt", device="meta"
    ),
    "critic of probes": lambda folder: mh.PatchCritic.load_probes(
        critic(folder / "critic.pt", True), LDM, CLASSES, "meta"
    ),
    "shipped critic": lambda folder: mh.PatchCritic.load_probes(
        GUIDANCE / "models" / "critic.pt", LDM, CLASSES, "meta"
    ),
    "critic from scratch": lambda folder: mh.PatchCritic.load_probes(
        critic(folder / "critic.pt", False), LDM, CLASSES, "meta"
    ),
    "critic of a network": lambda folder: mh.PatchCritic.load(
        critic(folder / "critic.pt", False),
        lambda num_classes: mh.PatchClassifier(num_classes, 8),
        CLASSES,
        "meta",
    ),
}


@pytest.mark.parametrize("name", LOADED)
def test_all_of_it_is_on_the_device(name: str, tmp_path: Path) -> None:
    found = LOADED[name](tmp_path)
    tensors = {**dict(found.named_parameters()), **dict(found.named_buffers())}
    assert tensors and not [n for n, tensor in tensors.items() if tensor.device.type != "meta"]
