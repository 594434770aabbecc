"""Self-attention in FP8 over a full cache: its keys and values once more, in E4M3.

The cache keeps bfloat16, from which everything can be made again; beside it lie the same keys and values in E4M3. A
forward on the fast path writes its own slot in both forms, and keys of a sink that is presented later are turned in
both; slots that were written otherwise (a recache of several chunks) are converted when they are next seen, which the
cache's counts of changes tell.

Queries and keys are RMS-normed, so they need no scale. Values have one for each layer, a power of two from the size of
the weights that make them: it puts their deviation near 8, where E4M3 has 56 times as much above and 512 times below.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from everscene_engine.errors import ConfigError
from everscene_engine.kv_cache import CachedAttention, KVCache
from everscene_engine.rope import Rotation
from everscene_kernels import attention_cudnn, attention_triton, fused_triton
from everscene_kernels.fp8 import FP8Rows, e4m3
from everscene_kernels.fused_triton import EightBit

KINDS = ("cudnn", "triton")
_SPREAD = 8.0


def value_scale(weight: Tensor, bias: Tensor) -> float:
    """The scale of values v = W·h + b, W [D, in], for h of mean square one: a power of two."""
    square = float(weight.float().square().mean()) * weight.shape[1] + float(bias.float().square().mean())
    return 2.0 ** math.floor(math.log2(_SPREAD / max(math.sqrt(square), 1e-6)))


class EightBitCache:
    """See the module's head. For one cache of one clip; scales: of the values, one for each layer."""

    def __init__(self, cache: KVCache, scales: Sequence[float], kind: str) -> None:
        if kind not in KINDS:
            raise ConfigError(f"FP8 attention is {kind!r}; it is one of {', '.join(KINDS)}")
        if cache.shared:
            raise ConfigError("FP8 attention keeps the cache in eight bits beside its own; use it with a bf16 KV cache")
        self._cache = cache
        self._kind = kind
        shape, device = cache.keys[0].shape[1:], cache.keys[0].device  # [tokens, H, E]
        eight = torch.float8_e4m3fn

        def empty(of: tuple[int, ...]) -> list[Tensor]:
            return [torch.zeros(of, dtype=torch.uint8, device=device).view(eight) for _ in scales]

        self._keys, self._values = empty(tuple(shape)), empty(tuple(shape))
        tokens, heads, width = shape
        self._columns = empty((heads, width, tokens)) if kind == "triton" else []
        self._factors = list(scales)
        self._scales = torch.tensor(scales, device=device)[:, None]  # [layers, 1]
        self._descales = 1.0 / self._scales
        self._current = [-1] * cache.table.slots  # by slot: the count of changes that it was converted at
        self._cudnn = (
            attention_cudnn.CudnnFP8Attention(cache.slot_tokens, tokens, heads, width, device)
            if kind == "cudnn"
            else None
        )
        cache.keep_beside(self)

    def of(self, cache: KVCache) -> bool:
        """Whether it belongs to this cache."""
        return self._cache is cache

    def refresh(self, attention: CachedAttention) -> None:
        """Convert what the forward sees besides its own slot and what is not converted yet."""
        own = attention.own[0][0] // self._cache.slot_tokens
        for slot, changes in enumerate(self._cache.changes):
            if slot != own and self._current[slot] != changes:
                self._convert(slot)
                self._current[slot] = changes

    def written(self, attention: CachedAttention) -> None:
        """Take note that a forward wrote its slot in both forms."""
        own = attention.own[0][0] // self._cache.slot_tokens
        self._current[own] = self._cache.changes[own]

    def turn(self, layer: int, span: tuple[int, int], made: Tensor, turn: Rotation) -> None:
        """Turn a sink's keys in both forms (kv_cache.OtherForm). A slot that was converted stays so, and its values are
        left alone; one that was not is converted whole when it is next seen."""
        slot, part = span[0] // self._cache.slot_tokens, slice(span[0], sum(span))
        place, eight = self._cache.keys[layer][:, part], self._keys[layer][None, part]
        fused_triton.turn_keys(made, *turn, place, eight)
        if self._current[slot] == self._cache.changes[slot] - 1:
            self._current[slot] += 1

    def place(self, layer: int, attention: CachedAttention) -> EightBit:
        """Where a forward's queries, keys and values of a layer go."""
        part = slice(attention.own[0][0], sum(attention.own[0]))
        k, v = self._keys[layer][part], self._values[layer][part]
        return EightBit(torch.empty_like(k), k, v, self._scales[layer])

    def put(self, layer: int, attention: CachedAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Put a forward's keys and values of a layer, made elsewhere, into their places in E4M3; so the queries come
        back. All [R, H, E]."""
        to = self.place(layer, attention)
        to.k.copy_(e4m3(k))
        to.v.copy_(e4m3(v.float() * self._factors[layer]))
        return e4m3(q)

    def attend(self, layer: int, q: Tensor, attention: CachedAttention) -> Tensor | FP8Rows:
        """Queries [R, H, E] in E4M3 over the whole cache: rows [R, H·E] in bfloat16, or in FP8 where they come so."""
        if self._cudnn is not None:
            out = self._cudnn(
                q, self._keys[layer], self._values[layer], self._scales[layer], self._descales[layer]
            ).flatten(1)
            return FP8Rows(out, self._descales[layer].expand(len(out), 1).contiguous())
        start, length = attention.own[0]
        columns, rows = self._columns[layer].view(torch.uint8), self._values[layer].view(torch.uint8)
        columns[..., start : start + length] = rows[start : start + length].permute(1, 2, 0)
        descale = 1.0 / self._factors[layer]
        return attention_triton.attend_fp8(q, self._keys[layer], self._columns[layer], 1.0, descale).flatten(1)

    def _convert(self, slot: int) -> None:
        size = self._cache.slot_tokens
        part = slice(slot * size, (slot + 1) * size)
        for layer, factor in enumerate(self._factors):
            self._keys[layer][part] = e4m3(self._cache.keys[layer][0, part])
            self._values[layer][part] = e4m3(self._cache.values[layer][0, part].float() * factor)
            if self._columns:
                columns = self._columns[layer].view(torch.uint8)
                columns[..., part] = self._values[layer].view(torch.uint8)[part].permute(1, 2, 0)
