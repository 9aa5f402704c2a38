"""Evaluation mode for as long as it is needed; and where the package needs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from monai_histodiff import GuidedSampler, LatentClassifier, LatentDiffusion, PatchCritic
from monai_histodiff.classifiers.classifier import predict
from monai_histodiff.diffusion import encode_latents
from monai_histodiff.evaluation.generator import reconstruct
from monai_histodiff.selection.selector import CentroidSelector
from monai_histodiff.utils import modes as utils_modes
from monai_histodiff.utils.modes import evaluating

MakeModel = Callable[..., LatentDiffusion]


def modes(*networks: nn.Module) -> list[bool]:
    return [module.training for network in networks for module in network.modules()]


def test_each_module_is_left_in_its_own_mode_also_after_an_error() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())).train()
    network[1].eval()
    network[1][1].train()
    before = modes(network)
    with evaluating(network, None, nn.ReLU()):
        assert not any(modes(network))
    assert modes(network) == before == [True, True, False, False, True]
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert modes(network) == before


def test_the_last_of_several_threads_gives_the_mode_back() -> None:
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval())
    before = modes(network)
    first, second = evaluating(network), evaluating(network)
    first.__enter__()
    with ThreadPoolExecutor(1) as other:
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        assert not any(modes(network)), "the other one still evaluates"
        other.submit(second.__exit__, None, None, None).result()
    assert modes(network) == before == [True, True, False]


def test_sampling_leaves_the_networks_in_their_mode(
    make_model: MakeModel, guide: LatentClassifier
) -> None:
    model = make_model(0)
    sampler = GuidedSampler(model, guide, steps=2, progress=False)
    expected = sampler([0, 1], [3, 4])
    model.train()
    try:
        guide.train()
        before = modes(model, guide)
        assert torch.equal(sampler([0, 1], [3, 4]), expected)
        assert modes(model, guide) == before and model.training and guide.training
    finally:
        guide.eval()


class Moody(nn.Module):
    """A classifier of which each patch of a batch changes the others, in training mode, and of
    which chance takes a part.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.resnet = nn.Module()
        self.resnet.fc = nn.Linear(3, 3)
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet.fc(self.layers(x).mean((2, 3)) * 9)  # type: ignore[no-any-return]


@pytest.mark.parametrize("trained", [True, False])
def test_a_critic_judges_in_evaluation_mode(trained: bool) -> None:
    torch.manual_seed(1)
    patches, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 3
    member = Moody().train(trained)
    critic = PatchCritic([member], 3)
    critic.folds = torch.zeros(6, dtype=torch.long)
    before, state = modes(critic), {k: v.clone() for k, v in critic.state_dict().items()}
    found = critic.probabilities(patches)
    assert torch.allclose(critic.probabilities(patches[:2]), found[:2], atol=1e-6)
    own = critic.probabilities(patches, torch.arange(6))
    torch.testing.assert_close(own, found)
    torch.testing.assert_close(predict(member, patches).softmax(1), found)
    selector = CentroidSelector(critic, patches, labels, 16)
    judged = selector(patches, labels)
    torch.testing.assert_close(selector(patches[:1], labels[:1]).confidence, judged.confidence[:1])
    assert modes(critic) == before
    assert all(torch.equal(v, state[k]) for k, v in critic.state_dict().items())


class Counting(nn.Module):
    """Stands for an autoencoder that learns from what it encodes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.learnt = inner, 0
        self.factor, self.latent_channels = inner.factor, inner.latent_channels

    def encode(self, x: Tensor) -> Tensor:
        self.learnt += self.training
        return self.inner.encode(x)  # type: ignore[operator,no-any-return]

    def decode(self, z: Tensor) -> Tensor:
        return self.inner.decode(z)  # type: ignore[operator,no-any-return]


def test_latents_and_reconstructions_teach_the_autoencoder_nothing(make_model: MakeModel) -> None:
    model = make_model(0)
    model.autoencoder = Counting(model.autoencoder)  # type: ignore[assignment]
    model.train()
    model.unet.eval()
    before = modes(model)
    encode_latents(model, [{"image": torch.rand(3, 32, 32), "label": 0}])  # type: ignore[arg-type]
    reconstruct(model, torch.rand(1, 3, 32, 32))
    assert model.autoencoder.learnt == 0 and modes(model) == before


def test_the_caller_s_autocast_stays_outside(
    make_model: MakeModel, guide: LatentClassifier
) -> None:
    sampler = GuidedSampler(make_model(), guide, steps=2)
    labels, seeds = torch.tensor([0, 1]), [1, 2]
    plain = sampler(labels, seeds)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sampler(labels, seeds), plain)
        with evaluating(guide):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    network = nn.Dropout().train()
    with evaluating(network), utils_modes._lock:
        child = os.fork()
        if not child:
            with evaluating(network):
                found = network.training
            os._exit(int(found))
        assert os.waitpid(child, 0)[1] == 0


def test_training_that_is_begun_inside_comes_back_in_the_end() -> None:
    network = nn.Dropout().eval()
    with evaluating(network):
        network.train()
        with evaluating(network):
            assert not network.training
    assert network.training
