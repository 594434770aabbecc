"""Streams of several ranks of small random networks, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from everscene_engine.config import StreamConfig, TransformerConfig
from everscene_engine.context_parallel import OneRank, Ranks
from everscene_engine.leading_stream import LeadingStream
from everscene_engine.rank_processes import RankProcesses
from everscene_engine.stored_linear import store_linears
from everscene_engine.stream import LatentStream
from everscene_engine.transformer import WanTransformer
from tests.engine.small import small_transformer

CPU = torch.device("cpu")
FOUR_HEADS = TransformerConfig(dim=64, ffn_dim=96, layers=3, heads=4, channels=4, text_dim=32, freq_dim=64)
ODD = StreamConfig(
    latent_height=6,
    latent_width=10,  # 15 tokens a latent frame: neither two nor four ranks have equal shares
    chunk_frames=3,
    window_chunks=3,
    sink_reach=14,
    steps=2,
    fps=16.0,
    shot_sink=True,
    shot_offset=8,
)


def transformer(ranks: Ranks, linears: str | None = None) -> WanTransformer:
    """The same weights on every rank."""
    model = small_transformer(FOUR_HEADS)
    if linears is not None:
        store_linears(model, linears)
    model.ranks = ranks
    return model


def follower(config: StreamConfig, kv: str, linears: str | None, ranks: Ranks, device: torch.device) -> LatentStream:
    """Another rank's stream."""
    return LatentStream(transformer(ranks, linears), config, seed=7, kv=kv)


def alone(config: StreamConfig = ODD, kv: str = "bf16", linears: str | None = None) -> LatentStream:
    """The stream of one process."""
    return LatentStream(transformer(OneRank(), linears), config, seed=7, kv=kv)


@contextmanager
def together(
    size: int, config: StreamConfig = ODD, kv: str = "bf16", linears: str | None = None
) -> Iterator[LeadingStream]:
    """The stream of several."""
    others = RankProcesses(size, CPU, partial(follower, config, kv, linears), threads=1)
    try:
        yield LeadingStream(others, transformer(others.ranks, linears), config, seed=7, kv=kv)
    finally:
        others.close()
