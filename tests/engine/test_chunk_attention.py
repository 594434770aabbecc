"""Attention chunk by chunk is attention under the mask, forward and backward."""

import pytest
import torch
from torch import Tensor

from everscene_engine.attention import MaskedAttention, SelfAttention
from everscene_engine.training.chunk_attention import ChunkAttention, dense_mask

LENGTHS, FRAME_TOKENS, WINDOW = (2, 2, 1, 1, 2, 2), 3, 2


def through(attention: SelfAttention) -> tuple[Tensor, ...]:
    """Output and the gradients of q, k and v for a fixed input and a fixed weighing of the output."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 2 * sum(LENGTHS) * FRAME_TOKENS, 2, 8)
    q, k, v, weights = (torch.randn(shape, generator=generator) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_(True)
    out = attention(0, q, k, v)
    return out, *torch.autograd.grad((out * weights).sum(), (q, k, v))


@pytest.mark.parametrize("which", range(4), ids=["output", "of q", "of k", "of v"])
def test_it_equals_the_mask(which: int) -> None:
    chunk = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))[None]
    wanted = through(MaskedAttention(dense_mask(chunk, FRAME_TOKENS, WINDOW)))[which]
    got = through(ChunkAttention(LENGTHS, FRAME_TOKENS, WINDOW))[which]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
