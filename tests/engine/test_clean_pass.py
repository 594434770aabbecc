"""A clean pass computes only what it leaves in the cache."""

import torch
from torch import Tensor

from everscene_engine.kv_cache import KVCache
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.rope import rotation
from everscene_engine.stream import LatentStream
from tests.engine.small import STREAM, TRANSFORMER, small_prompt, small_transformer


@torch.no_grad()
def test_without_the_flow_the_cache_is_left_the_same() -> None:
    model = small_transformer()
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 2, 4, 4, 6, generator=generator)
    turn, text = rotation(torch.arange(2), 2, 3, TRANSFORMER.head_dim), small_prompt(model)
    left: list[list[Tensor]] = []
    for flow in (True, False):
        cache = KVCache(3, 1, 2, 2, 6, 2, TRANSFORMER.head_dim, torch.float32, torch.device("cpu"))
        slot = cache.table.open(0, 0, 2)
        out = model(latents, torch.zeros(1, 2), turn, cache.attention(slot, []), text, flow=flow)
        assert torch.equal(out, latents) is not flow
        left.append([*cache.keys, *cache.values])
    assert all(torch.equal(a, b) for a, b in zip(*left, strict=True))


def test_latents_are_handed_on_before_their_clean_pass() -> None:
    model = small_transformer()
    stream = LatentStream(model, STREAM, seed=1)
    stream.steer(small_prompt(model))
    handed_on: list[tuple[LatentChunk, bool]] = []
    chunk = stream.generate(finished=lambda chunk: handed_on.append((chunk, "clean" in chunk.seconds)))
    assert handed_on == [(chunk, False)]
    assert chunk is not None and "clean" in chunk.seconds
