"""Finished latents, chunk by chunk, and what is left of them when a stream goes back."""

from collections import deque
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import Tensor

from everscene_engine.errors import ConfigError
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


class Past:
    """The finished chunks of a world that it can go back to, and the place of the next one.

    sink: the first chunk. chunks: the newest others, oldest first. heads: first chunks of the shots after the first
    that `chunks` reach back to. next_chunk, next_frame: number and first latent frame of the chunk to come. shot: of
    the newest chunk.
    """

    def __init__(self, remembered: int) -> None:
        """remembered: chunks, besides the sink and the heads."""
        self.sink: LatentChunk | None = None
        self.chunks: deque[LatentChunk] = deque(maxlen=remembered)
        self.heads: list[LatentChunk] = []
        self.next_chunk = 0
        self.next_frame = 0
        self.shot = 0

    @classmethod
    def of(cls, kept: Sequence[LatentChunk], remembered: int) -> "Past":
        """One that stands after these chunks, which `before` gave."""
        past = cls(remembered)
        past.sink = kept[0]
        past.heads = [chunk for before, chunk in pairwise(kept) if chunk.shot > before.shot]
        gap = len(kept) > 2 and kept[1].end_frame < kept[2].first_frame  # a head of long ago, then the window
        past.chunks.extend(kept[2:] if gap else kept[1:])
        past._stand_after(kept[-1])
        return past

    def keep(self, chunk: LatentChunk) -> None:
        """The next chunk is finished."""
        chunk = replace(chunk, seconds={})
        if self.sink is None:
            self.sink = chunk
        else:
            self.chunks.append(chunk)
        if chunk.shot > self.shot:
            self.heads.append(chunk)
        self._stand_after(chunk)
        oldest = self.chunks[0].first_frame if self.chunks else 0
        while len(self.heads) > 1 and self.heads[1].first_frame <= oldest:
            self.heads.pop(0)

    def cut(self, frame: int) -> None:
        """Forget every latent frame from `frame` on, 1 ≤ frame. Raises ConfigError for one that is out of reach."""
        self._must_reach(frame)
        assert self.sink is not None
        cut_short(self.chunks, frame)
        cut_short(self.heads, frame)
        if frame < self.sink.end_frame:
            self.sink = shortened(self.sink, frame)
        self._stand_after(self.chunks[-1] if self.chunks else self.sink)

    def before(self, frame: int, window: int) -> list[LatentChunk]:
        """What `cut(frame)` would leave of sink, newest head and the newest `window` chunks, oldest first."""
        self._must_reach(frame)
        if frame < 1 or self.sink is None:
            raise ConfigError(f"there is nothing before latent frame {frame}")
        chunks, heads = [self.sink, *self.chunks], list(self.heads)
        cut_short(chunks, frame)
        cut_short(heads, frame)
        newest = chunks[1:][-window:]
        head = [chunk for chunk in heads[-1:] if all(chunk.number != other.number for other in newest)]
        return [chunks[0], *head, *newest]

    @property
    def earliest(self) -> int:
        """The first latent frame, but for 0, that can be gone back to."""
        oldest = self._oldest
        return 1 if self.sink is None or oldest == self.sink.end_frame else oldest

    def _must_reach(self, frame: int) -> None:
        """Raise ConfigError for a latent frame that lies before what is kept, or ahead."""
        oldest = self._oldest
        in_sink = self.sink is not None and frame <= self.sink.end_frame == oldest
        if frame > self.next_frame or (frame < oldest and not in_sink):
            raise ConfigError(
                f"cannot roll back to latent frame {frame}: it must be {oldest} to {self.next_frame}, or 0"
            )

    @property
    def _oldest(self) -> int:
        if self.chunks:
            return self.chunks[0].first_frame
        return self.sink.end_frame if self.sink else 0

    def _stand_after(self, chunk: LatentChunk) -> None:
        self.next_chunk, self.next_frame, self.shot = chunk.number + 1, chunk.end_frame, chunk.shot
