"""The guide from its file, and for a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_histodiff import LatentClassifier, LatentDiffusion
from monai_histodiff.utils.weights import save_weights


def test_a_file_tells_the_latents_and_the_classes_of_its_guide(tmp_path: Path) -> None:
    torch.manual_seed(0)
    guide = LatentClassifier(5, 4).eval()
    save_weights(tmp_path / "model.pt", guide.state_dict())
    read = LatentClassifier.from_file(tmp_path / "model.pt")
    assert (read.in_channels, read.num_classes, read.training) == (5, 4, False)
    # the file is in float16
    z, t = torch.randn(3, 5, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(read(z, t), guide(z, t), atol=2e-3, rtol=1e-2)


def test_what_is_no_guide_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "other.pt", torch.nn.Linear(2, 3).state_dict())
    with pytest.raises(ValueError, match=r"must be those of a guide, got bias, weight \.\.\. in"):
        LatentClassifier.from_file(tmp_path / "other.pt")
    for lost in ("stem.weight", "logits.weight"):
        state = LatentClassifier(5, 4).state_dict()
        del state[lost]
        save_weights(tmp_path / "half.pt", state)
        with pytest.raises(ValueError, match=r"must be those of a guide, got .*half.pt"):
            LatentClassifier.from_file(tmp_path / "half.pt")
    small = LatentClassifier(5, 4, channels=(32, 32))
    save_weights(tmp_path / "small.pt", small.state_dict())
    with pytest.raises(ValueError, match="weights must fit the network, got"):
        LatentClassifier.from_file(tmp_path / "small.pt")
    with pytest.raises(FileNotFoundError, match="weights must exist, got none at"):
        LatentClassifier.from_file(tmp_path / "none.pt")


def test_a_guide_for_a_model_reads_its_latents(model: LatentDiffusion) -> None:
    guide = LatentClassifier.for_model(model, 3)
    assert (guide.in_channels, guide.num_classes) == (model.latent_shape[0], 3)
    assert guide(torch.zeros(2, *model.latent_shape)).shape == (2, 3)
