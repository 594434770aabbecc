"""The quicker Wan decoder against diffusers' own, in Triton's interpreter where there is no GPU."""

import copy
from typing import Any

import pytest
import torch

from everscene_engine.models import networks
from everscene_engine.wan_vae import WanVAE
from tests.engine.published import VAE_21, VAE_22, filled

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

DEVICE = torch.device("cpu" if triton.knobs.runtime.interpret else "cuda")


@pytest.mark.parametrize("config", [VAE_22, VAE_21], ids=["2.2", "2.1"])
@pytest.mark.parametrize("together", [1, 3])
def test_the_fused_decoder_gives_the_frames_of_the_plain_one(config: dict[str, Any], together: int) -> None:
    network = filled(networks.vae(config)).to(DEVICE, torch.bfloat16)
    quick = WanVAE(copy.deepcopy(network), together, quick=True)
    exact, plain = WanVAE(copy.deepcopy(network).float(), quick=False), WanVAE(network, quick=False)
    shape = (1, 5, config["z_dim"], 2, 3)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.bfloat16)
    for part in latents.split([1, 3, 1], dim=1):
        wanted = exact.feed(part)
        found, rounded = quick.feed(part).float(), plain.feed(part).float()
        assert found.shape == wanted.shape
        assert (found - wanted).norm() < 1.5 * (rounded - wanted).norm() + 1e-3


@pytest.mark.parametrize("before", [1, 2])
def test_a_restored_fused_decoder_gives_the_same_frames_again(before: int) -> None:
    stream = WanVAE(filled(networks.vae(VAE_22)).to(DEVICE, torch.bfloat16), quick=True)
    latents = torch.randn(1, 4, VAE_22["z_dim"], 2, 3, generator=torch.Generator().manual_seed(1))
    latents = latents.to(DEVICE, torch.bfloat16)
    stream.feed(latents[:, :before])
    state = stream.snapshot()
    first = stream.feed(latents[:, before:])
    stream.restore(state)
    assert torch.equal(stream.feed(latents[:, before:]), first)
