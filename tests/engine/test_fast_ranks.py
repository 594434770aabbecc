"""The fast path over two ranks against the fast path on one: NCCL on two GPUs, else gloo and Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everscene_engine.config import TransformerConfig
from everscene_engine.stream import LatentStream
from tests.engine.ranks import ODD, Made, together
from tests.engine.small import small_prompt

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

INTERPRETED = triton.knobs.runtime.interpret
if not INTERPRETED and torch.cuda.device_count() < 2:
    pytest.skip("two ranks on GPUs need two of them", allow_module_level=True)

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
ROUNDING = 0.01  # relative: another split of rows lets a few roundings of bfloat16 fall the other way
SIZES = TransformerConfig(dim=32, ffn_dim=32, layers=1, heads=2, channels=4, text_dim=16, freq_dim=32)
CONFIG = replace(
    ODD, latent_height=2, window_chunks=1, sink_reach=None, steps=1, chunk_frames=1, shot_sink=False
)  # five tokens


def run(stream: LatentStream) -> Tensor:
    """A full window, then a recache."""
    made: list[Tensor] = []
    for prompt, chunks in ((0, 3), (1, 1)):
        stream.steer(small_prompt(stream.transformer, seed=prompt))
        for _ in range(chunks):
            chunk = stream.generate()
            assert chunk is not None
            made.append(chunk.latents.float())
    return torch.cat(made)


@pytest.mark.parametrize("fast", [("bf16", "bf16"), ("fp8", "triton")])
def test_two_ranks_compute_what_one_does(fast: tuple[str, str]) -> None:
    made = Made(CONFIG, SIZES, fast=fast, device=DEVICE)
    wanted = run(made.alone())
    with together(2, made) as stream:
        assert stream._cache.keys[0].shape[2] == 1
        found = run(stream)
    assert float((found - wanted).norm() / wanted.norm()) < ROUNDING
