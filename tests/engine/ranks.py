"""Streams of several ranks of small random networks, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from everscene_engine.config import StreamConfig, TransformerConfig
from everscene_engine.context_parallel import OneRank, Ranks
from everscene_engine.leading_stream import LeadingStream
from everscene_engine.rank_processes import RankProcesses
from everscene_engine.stored_linear import store_linears
from everscene_engine.stream import LatentStream, Transition
from everscene_engine.transformer import WanTransformer
from tests.engine.small import small_prompt, small_transformer

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


@dataclass(frozen=True)
class Made:
    """How a stream is made, the same on every rank."""

    config: StreamConfig = ODD
    sizes: TransformerConfig = FOUR_HEADS
    kv: str = "bf16"
    linears: str | None = None  # stored so
    fast: tuple[str, str] | None = None  # precision and attention of the fast path
    device: torch.device = CPU

    def transformer(self, ranks: Ranks) -> WanTransformer:
        """The same weights on every rank."""
        model = small_transformer(self.sizes).to(self.device)
        if self.linears is not None:
            store_linears(model, self.linears)
        model.ranks = ranks
        if self.fast is None:
            return model
        from everscene_engine.fast_transformer import accelerated

        return accelerated(model.to(torch.bfloat16), *self.fast)

    def alone(self) -> LatentStream:
        """The stream of one process."""
        return LatentStream(self.transformer(OneRank()), self.config, seed=7, kv=self.kv)


def follower(made: Made, ranks: Ranks, device: torch.device) -> LatentStream:
    """Another rank's stream."""
    return LatentStream(made.transformer(ranks), made.config, seed=7, kv=made.kv)


@contextmanager
def together(size: int, made: Made = Made()) -> Iterator[LeadingStream]:
    """The stream of several."""
    others = RankProcesses(size, made.device, partial(follower, made), threads=1)
    try:
        yield LeadingStream(others, made.transformer(others.ranks), made.config, seed=7, kv=made.kv)
    finally:
        others.close()


def latents_of(stream: LatentStream) -> Tensor:
    """Of the next chunk."""
    chunk = stream.generate()
    assert chunk is not None
    return chunk.latents


def steer(stream: LatentStream, prompt: int, transition: Transition = "recache") -> None:
    """To one of many prompts."""
    stream.steer(small_prompt(stream.transformer, seed=prompt), transition)


def history(stream: LatentStream) -> list[Tensor]:
    """Prompts, a recache, a cut, rollbacks (one into the middle of a chunk), an interrupt, a restored world."""
    made: list[Tensor] = []
    steer(stream, 1)
    made += [latents_of(stream) for _ in range(5)]
    steer(stream, 2)
    made += [latents_of(stream) for _ in range(2)]
    steer(stream, 3, "cut")
    made += [latents_of(stream) for _ in range(2)]
    stream.rollback(stream.next_frame - 4)
    made.append(latents_of(stream))
    answers = iter([False, True])
    assert stream.generate(lambda: next(answers)) is None
    steer(stream, 4, "text")
    made += [latents_of(stream) for _ in range(2)]
    kept = stream.kept_before(stream.next_frame - 1)
    steer(stream, 5, "reset")
    made.append(latents_of(stream))
    stream.restore(kept, small_prompt(stream.transformer, seed=1), seed=11)
    steer(stream, 6)
    return [*made, latents_of(stream)]
