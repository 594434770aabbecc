"""The tiny decoder with our kernels between its convolutions, in Triton's interpreter where there is no GPU."""

import pytest
import torch

from everscene_engine import tiny_decoder
from everscene_engine.models.presets import preset
from everscene_engine.random_models import random_decoder

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

DEVICE = torch.device("cpu" if triton.knobs.runtime.interpret else "cuda")


@pytest.mark.parametrize("name", ["tiny", "tiny-wide"])
def test_frames_are_those_of_the_plain_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(1, 3, 48, 2, 2, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    exact = random_decoder(name, preset("longlive2-5b"), DEVICE, torch.float32)
    plain, quick = (random_decoder(name, preset("longlive2-5b"), DEVICE, torch.bfloat16) for _ in range(2))
    assert exact is not None and plain is not None and quick is not None
    for part in latents.split([1, 2], dim=1):
        monkeypatch.setattr(tiny_decoder, "has_kernels", lambda x: False)
        wanted = exact.feed(part)
        rounded = plain.feed(part.bfloat16()).float()
        monkeypatch.setattr(tiny_decoder, "has_kernels", lambda x: True)
        found = quick.feed(part.bfloat16()).float()
        assert found.shape == wanted.shape
        assert (found - wanted).norm() < 1.5 * (rounded - wanted).norm() + 1e-3
