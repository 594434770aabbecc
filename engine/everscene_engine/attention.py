"""How tokens see each other. The transformer computes queries, keys and values; one of these does the rest.

Self-attention comes in kinds, one object for each: everything sees everything (`FullAttention`), a mask decides
(`MaskedAttention`, for training), or past chunks are read from the cache (`kv_cache.CachedAttention`).
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# On Hopper cuDNN takes 3.95 ms where FlashAttention-2, torch's own first choice, takes 6.84 (7040 queries, 28160 keys).
GPU_BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class SelfAttention(Protocol):
    """One forward's self-attention.

    Called once for each layer with queries, keys (both already turned by RoPE) and values [B, tokens, H, E];
    returns [B, tokens, H, E].
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ/√E + bias)·v.

    q [B, tokens, H, E], k and v [B, keys, H, E]; bias broadcasts to [B, H, tokens, keys], added to the logits
    (or a bool mask, True where a key is seen). Returns [B, tokens, H, E].
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)
    with sdpa_kernel(GPU_BACKENDS, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


class FullAttention:
    """Every token of the forward sees every other; nothing from before."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v)


class MaskedAttention:
    """A bool mask [tokens, keys] (or broadcastable to [B, H, tokens, keys]) says which keys are seen."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self._mask)
