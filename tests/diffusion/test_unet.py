"""The UNet with a finer grid: what it starts from, what its grid is, that it learns, and what it
refuses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from monai_histodiff import FineUNet, LatentDiffusion, PatchAutoencoder
from monai_histodiff.diffusion.sharing import load_autoencoder
from monai_histodiff.diffusion.unet import EMBEDDING, _FineBlock
from monai_histodiff.training.checkpoints import EMAHandler
from monai_histodiff.utils.weights import load_weights, save_weights

MakeModel = Callable[..., LatentDiffusion]
TIMES = torch.tensor([10.0, 700.0])


class Nothing(nn.Module):
    """A UNet that predicts zero, so that what is left is the correction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_channels = self.out_channels = channels

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return torch.zeros_like(x)


def fitted(channels: int, stem: int = 4) -> PatchAutoencoder:
    """An autoencoder of blocks of ``2 * stem`` pixels that knows random patches' components."""
    generator = torch.Generator().manual_seed(0)
    return PatchAutoencoder((8, 8), (1, 1), channels, stem).fit(
        torch.rand(8, 3, 64, 64, generator=generator)
    )


def make(unet: nn.Module | DiffusionModelUNet, trained: bool = True, **options: int) -> FineUNet:
    """A small one; ``trained``: no weight is zero."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        fine = FineUNet(unet, **{"channels": 8, "num_res_blocks": 2, **options})  # type: ignore[arg-type]
        for parameter in fine.parameters() if trained else ():
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return fine.eval()


def test_a_block_scales_and_shifts_by_what_the_time_says() -> None:
    block = _FineBlock(8)
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    x, time = torch.randn(2, 8, 5, 5), torch.randn(2, EMBEDDING)
    scale, shift = block.modulate(time).chunk(2, 1)
    normed = block.norm2(block.conv1(F.silu(block.norm1(x))))
    bent = torch.einsum("nchw,nc->nchw", normed, 1 + scale) + shift[..., None, None]
    torch.testing.assert_close(block(x, time), x + block.conv2(F.silu(bent)))


def test_a_fresh_one_predicts_what_its_unet_does(model: LatentDiffusion) -> None:
    z = torch.randn(2, 4, 8, 8)
    assert torch.equal(make(model.unet, trained=False, block=4)(z, TIMES), model.unet(z, TIMES))
    assert not torch.allclose(make(model.unet, block=4)(z, TIMES), model.unet(z, TIMES), atol=1e-3)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_the_finer_grid_is_that_of_the_patches(factor: int) -> None:
    autoencoder, fine = fitted(24), make(Nothing(24), factor=factor)
    fine.see(autoencoder)
    z = torch.randn(2, 24, 4, 4)
    grid = F.pixel_shuffle(fine.to_pixels(z), factor)
    assert grid.shape == (2, 3 * (8 // factor) ** 2, 4 * factor, 4 * factor)
    pixels = F.conv_transpose2d(z * autoencoder.scale, autoencoder.basis, stride=8)
    own = F.pixel_shuffle(grid, 8 // factor)
    ratio = own.norm() / pixels.norm()
    assert torch.allclose(own, ratio * pixels, atol=1e-4)
    assert float(own.detach().square().mean().sqrt()) == pytest.approx(1, abs=0.1), (
        "unit latents make unit pixels"
    )
    assert torch.allclose(fine.to_latent(fine.to_pixels(z)), z, atol=1e-4)


@pytest.mark.parametrize("shift", [1, 3, 8])
def test_an_outline_is_corrected_alike_wherever_it_lies_in_its_block(shift: int) -> None:
    """With all components the latent holds the patch itself; one place of the finer grid is then
    one pixel.
    """
    autoencoder, fine = fitted(192).double(), make(Nothing(192), factor=8).double()
    fine.see(autoencoder)

    def correction(patch: Tensor) -> Tensor:
        z = F.conv2d(patch, autoencoder.basis, stride=8) / autoencoder.scale
        return F.conv_transpose2d(
            fine(z, TIMES[:1]) * autoencoder.scale, autoencoder.basis, stride=8
        )

    patch = torch.zeros(1, 3, 64, 64, dtype=torch.double)
    patch[:, :, 28:34, 28:34] = torch.randn(3, 6, 6, dtype=torch.double)
    moved = correction(patch.roll(shift, 3))
    here = correction(patch)
    inner = slice(16, 48)
    assert torch.allclose(
        moved.roll(-shift, 3)[..., inner, inner], here[..., inner, inner], atol=1e-5
    ), "the components are stored in float32"
    assert (here[..., inner, inner] - here[..., 16:17, 16:17]).abs().max() > 1e-2, (
        "the outline is corrected"
    )


def test_time_changes_the_correction() -> None:
    fine, z = make(Nothing(4), block=4), torch.randn(1, 4, 4, 4)
    first, second = (fine(z, t.view(1)) for t in TIMES)
    assert (first - second).abs().max() > 1e-3


def test_each_latent_is_predicted_for_itself(model: LatentDiffusion) -> None:
    fine, z = make(model.unet, block=4), torch.randn(2, 4, 8, 8)
    alone = torch.cat([fine(z[i : i + 1], TIMES[i : i + 1]) for i in range(2)])
    assert torch.allclose(fine(z, TIMES), alone, atol=1e-5)


def test_every_weight_learns(make_model: MakeModel) -> None:
    model = make_model()
    fine = make(copy.deepcopy(model.unet), trained=False, block=4).train()
    optimizer = torch.optim.Adam(fine.parameters(), lr=0.01)
    z, target = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    before = {name: p.detach().clone() for name, p in fine.named_parameters()}
    for _ in range(6):  # one layer after the other leaves zero
        optimizer.zero_grad()
        (fine(z, TIMES.repeat(2)) - target).square().mean().backward()
        optimizer.step()
    still = [name for name, p in fine.named_parameters() if torch.equal(p, before[name])]
    assert [
        name for name in still if not name.startswith("unet.")
    ] == [] and "unet.conv_in.conv.weight" not in still


def test_it_corrects_what_the_coarse_unet_cannot_know() -> None:
    """Fitted to the linear denoiser of a smooth patch, which mixes the pixels of neighbouring
    blocks.
    """
    torch.manual_seed(0)
    fine = FineUNet(Nothing(12), block=2, factor=2, channels=8, num_res_blocks=1)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(fine.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        x = F.avg_pool2d(torch.randn(8, 3, 20, 20), 5, 1) * 5  # 16 x 16
        clean = F.pixel_unshuffle(x, 2)
        loss = (
            (fine(clean + torch.randn_like(clean), torch.full((8,), 500.0)) - clean)
            .square()
            .mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.5, "the best filter of single pixels errs by 0.5"


def test_autocast_computes_in_bfloat16(model: LatentDiffusion) -> None:
    fine, z = make(model.unet, block=4), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = fine(z, TIMES)
    exact = fine(z, TIMES)
    assert torch.allclose(low.float(), exact, atol=0.1) and not torch.equal(low.float(), exact)


def test_weights_and_averages_of_it_are_kept(make_model: MakeModel, tmp_path: Path) -> None:
    saved, loaded = (make_model(seed) for seed in (0, 1))
    saved.unet, loaded.unet = make(saved.unet, block=4), make(loaded.unet, trained=False, block=4)
    save_weights(tmp_path / "model.pt", saved.state_dict())
    load_weights(loaded, tmp_path / "model.pt")
    z = torch.randn(2, 4, 8, 8)
    assert torch.allclose(
        loaded.denoise(z, TIMES / 1000), saved.denoise(z, TIMES / 1000), atol=2e-2
    )
    assert set(EMAHandler(saved.unet).average.module.state_dict()) == set(saved.unet.state_dict())


def test_a_training_from_an_autoencoder_alone_is_shown_its_components(
    make_model: MakeModel, tmp_path: Path
) -> None:
    saved, model, expected = make_model(0), make_model(1), make(make_model(1).unet, block=4)
    save_weights(tmp_path / "model.pt", saved.state_dict())
    model.unet = make(model.unet, block=4)
    load_autoencoder(model, tmp_path / "model.pt")
    before = expected.to_pixels.weight.clone()
    expected.see(model.autoencoder)
    assert not torch.equal(before, expected.to_pixels.weight)
    assert isinstance(model.unet, FineUNet)
    assert torch.equal(model.unet.to_pixels.weight, expected.to_pixels.weight)
    assert torch.equal(model.unet.to_latent.weight, expected.to_latent.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 3}, "factor must be a divisor of the block of 8 pixels, got 3"),
        ({"factor": 0}, "factor must be a divisor of the block of 8 pixels, got 0"),
        ({"channels": 12}, "channels must be a multiple of 8, got 12"),
        ({"channels": 0}, "channels must be a multiple of 8, got 0"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineUNet(Nothing(4), **options)  # type: ignore[arg-type]


def test_an_autoencoder_of_other_blocks_or_channels() -> None:
    with pytest.raises(
        ValueError,
        match=r"autoencoder and UNet must share channels and block, got \(24, 8\) and \(24, 4\)",
    ):
        make(Nothing(24), block=4).see(fitted(24))
    with pytest.raises(ValueError, match=r"got \(20, 8\) and \(24, 8\)"):
        make(Nothing(24)).see(fitted(20))
