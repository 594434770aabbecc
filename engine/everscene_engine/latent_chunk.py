"""Finished latents, chunk by chunk, and what is left of them when a stream goes back."""

from collections.abc import MutableSequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from everscene_engine.slots import Resident


@dataclass(frozen=True)
class LatentChunk:
    """Clean latents [B, F, C, h, w] of one chunk. seconds: what each stage took (recache, denoise, clean). shot: how
    many cuts lie before it or at its beginning."""

    number: int
    first_frame: int
    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)
    shot: int = 0

    @property
    def end_frame(self) -> int:
        return self.first_frame + self.latents.shape[1]


def is_whole(resident: Resident, chunk: LatentChunk | None) -> bool:
    """Whether this chunk lies in the cache as it is."""
    return chunk is not None and resident.chunk == chunk.number and resident.end_frame == chunk.end_frame


def shortened(chunk: LatentChunk, end: int) -> LatentChunk:
    """The chunk with its latent frames before `end` only."""
    return replace(chunk, latents=chunk.latents[:, : end - chunk.first_frame])


def cut_short(chunks: MutableSequence[LatentChunk], end: int) -> None:
    """Take away every latent frame from `end` on."""
    while chunks and chunks[-1].first_frame >= end:
        chunks.pop()
    if chunks and chunks[-1].end_frame > end:
        chunks.append(shortened(chunks.pop(), end))
