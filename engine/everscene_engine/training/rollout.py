"""A live stream opened up for training: the same cache, sink and recache, with the network's forwards in between.

`LatentStream.generate` makes a chunk in one go. Here it has three parts, so that several networks can follow one
stream (each with a cache of its own, made by its own clean passes) and so that some forwards can carry gradients:

    begin     recache if it is due, open the chunk's slot
    flow      any number of forwards of any network's prediction for this chunk; the past carries no gradient
    finish    the clean pass over the latents that were made, by whichever network
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from everscene_engine.attention import attend
from everscene_engine.conditioning import Conditioning, TextEmbedding
from everscene_engine.config import StreamConfig
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.pocket import best_dtype
from everscene_engine.slots import Resident
from everscene_engine.stream import LatentStream
from everscene_engine.training.block_by_block import block_runner, forward, run_block
from everscene_engine.transformer import WanTransformer


@dataclass(frozen=True)
class PastAttention:
    """One layer's self-attention over the past and the forward's own tokens. keys, values: [B, past, H, E], without a
    gradient; nothing is written to the cache."""

    keys: Tensor
    values: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = torch.cat([self.keys, k.to(self.keys.dtype)], dim=1)
        values = torch.cat([self.values, v.to(self.values.dtype)], dim=1)
        return attend(q.to(keys.dtype), keys, values)


class TrainingStream(LatentStream):
    """Networks in float32 compute in bf16 where the hardware does (autocast), unless low_precision is False; the cache
    holds what they compute in."""

    def __init__(
        self, transformer: WanTransformer, config: StreamConfig, seed: int, clips: int, low_precision: bool = True
    ) -> None:
        super().__init__(transformer, config, seed, clips)
        self._halved = low_precision and best_dtype(self._device) == torch.bfloat16
        if self._halved:
            for tensors in (self._cache.keys, self._cache.values):
                tensors[:] = [tensor.bfloat16() for tensor in tensors]
        self._slot: Resident | None = None
        self._past_of: list[PastAttention] = []
        self._run = block_runner(self._device)

    def computing(self) -> AbstractContextManager[object]:
        """A fresh autocast for each forward: its cast weights must not outlive a change of gradient mode."""
        return torch.autocast(self._device.type, torch.bfloat16) if self._halved else nullcontext()

    @torch.no_grad()
    def begin(self) -> None:
        """Be ready for the next chunk."""
        with self.computing():
            if self._recache_due:
                self._rebuild_window()
                self._recache_due = False
            slot = self._cache.table.open(self.next_chunk, self.next_frame, self.config.chunk_frames)
            self._present_sink(slot)
        self._slot = slot
        self._rotation = self._turn(slot)
        spans = self._cache.spans([resident for resident in self._cache.table.residents if resident is not slot])
        self._past_of = [
            PastAttention(gather(keys, spans), gather(values, spans))
            for keys, values in zip(self._cache.keys, self._cache.values, strict=True)
        ]

    def flow(self, x: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The network's flow for the chunk in work: x [B, F, C, h, w], timesteps [B]; in float32."""
        times = timesteps[:, None].expand(-1, x.shape[1])
        text = prepared(text)
        with self.computing():
            run = self._run if self._past_of[0].keys.shape[1] else run_block  # the first chunk's sizes come once only
            out = forward(self.transformer, run, x, times, self._rotation, self._past_of.__getitem__, text)
        return out.float()

    def condition(self, text: TextEmbedding) -> Conditioning:
        """Keys and values of the prompts, one a clip, under the weights of now."""
        with self.computing():
            return self.transformer.condition(text)

    @torch.no_grad()
    def finish(self, latents: Tensor) -> None:
        """Keep the chunk: its clean pass, and its latents for rollbacks and recaches."""
        assert self._slot is not None
        with self.computing():
            self._clean_pass(self._slot, latents)
        self._keep(LatentChunk(self.next_chunk, self.next_frame, latents), self._slot)
        self._slot = None


def gather(tokens: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """The tokens [B, …, H, E] of some (start, length) spans side by side; how many is nothing to compile for."""
    found = torch.cat([tokens[:, :0], *(tokens[:, start : start + length] for start, length in spans)], dim=1)
    if found.shape[1]:
        torch._dynamo.maybe_mark_dynamic(found, 1)
    return found


def prepared(text: Conditioning) -> Conditioning:
    """The same to a network, and one thing to its compiler whatever the prompts: any length, and a gradient only where
    gradients are on."""
    keys, values = text.keys, text.values
    if not torch.is_grad_enabled():
        keys, values = tuple(k.detach() for k in keys), tuple(v.detach() for v in values)
    for tensor in (*keys, *values):
        torch._dynamo.maybe_mark_dynamic(tensor, 1)
    if text.bias is not None:
        torch._dynamo.maybe_mark_dynamic(text.bias, 3)
    return Conditioning(keys, values, text.bias)
