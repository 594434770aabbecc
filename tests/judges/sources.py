"""Where the frames of plays come from: a model that generates them, or the world itself, whose renders are the bound.

A source goes from chunk to chunk; frames are made of those chunks alone that somebody looks at. The pocket decoder
remembers no more latent frames than it has memory blocks, so fed with the last few it gives the frames of a stream that
was decoded from its beginning.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from everscene_engine.decoder import PocketDecoder
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.pocket import PocketModel
from everscene_engine.slots import Resident
from everscene_engine.stream import LatentStream, Transition
from everscene_engine.training.world.names import Attributes
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import Clip, Tracks, World, make_clip
from tests.judges.formats import DequantizedCache
from tests.judges.plays import Play, prompts

DECODED_TOGETHER = 32  # clips: bounds the decoder's memory


class Source(Protocol):
    """Makes chunk after chunk of B plays."""

    def advance(self) -> None:
        """Go on by one chunk."""
        ...

    def frames(self) -> Tensor:
        """The newest chunk, [B, T, 3, H, W] in 0..1."""
        ...


class Generated:
    """B plays generated side by side by a model."""

    def __init__(
        self,
        model: PocketModel,
        plays: Sequence[Play],
        transition: Transition = "recache",
        steps: int | None = None,
        kv: str = "bf16",
        sink: bool = True,
        settle: int = 0,
    ) -> None:
        """kv: format of the KV cache; nvfp4 is `DequantizedCache`. sink: whether the first chunk stays in the cache;
        its slot goes to the window if not. settle: clean passes after each chunk, of those that a recache has left."""
        self._model, self._plays = model, plays
        self._transition, self._settle = transition, settle
        self._stream = SideBySide(model.transformer, model.stream, plays[0].seed, clips=len(plays), steps=steps)
        self._stream.has_sink = sink
        if kv == "nvfp4":
            self._stream._cache = DequantizedCache.like(self._stream._cache)
        self._device = model.transformer.patch_embedding.weight.device
        groups = range(0, len(plays), DECODED_TOGETHER)
        self._groups = [slice(first, first + DECODED_TOGETHER) for first in groups]
        self._decoders = [PocketDecoder(model.autoencoder) for _ in groups]
        config = model.autoencoder.config
        remembered = sum(config.decoder_blocks)
        self._warmup = -(-remembered // model.stream.chunk_frames)  # chunks
        self._waiting: list[Tensor] = []  # latents that the decoders have not been fed
        self.chunk = -1

    @torch.inference_mode()
    def advance(self) -> None:
        self.chunk += 1
        if any(play.changes_at(self.chunk) for play in self._plays):
            embedding = self._model.text.encode(prompts(self._plays, self.chunk)).to(self._device)
            transition = self._transition if self.chunk else "recache"
            self._stream.steer(self._model.transformer.condition(embedding), transition)
        made = self._stream.generate()
        assert made is not None
        for _ in range(self._settle):
            self._stream.settle()
        self._waiting.append(made.latents)

    @torch.inference_mode()
    def frames(self) -> Tensor:
        if len(self._waiting) > self._warmup + 1:
            self._waiting = self._waiting[-self._warmup - 1 :]
            for decoder in self._decoders:
                decoder.reset()
        count = self._model.stream.chunk_frames * self._model.stream.frames_per_latent
        latents = torch.cat(self._waiting, dim=1)
        self._waiting = []
        parts = [
            decoder.feed(latents[group])[:, -count:]
            for decoder, group in zip(self._decoders, self._groups, strict=True)
        ]
        return (torch.cat(parts).float() * 0.5 + 0.5).clamp(0, 1)


class SideBySide(LatentStream):
    """A stream of many clips: noise is drawn where the model is, since a CPU takes longer over that of 200 clips than
    a GPU over the chunk. has_sink False: the first chunk leaves when it is the oldest; the window is longer by one."""

    has_sink = True

    def _noise(self, step: int = 0) -> Tensor:
        if self._device.type == "cpu":
            return super()._noise(step)
        config = self.config
        drawing = torch.Generator(self._device).manual_seed((self.seed << 40) + (self.next_frame << 8) + step)
        shape = (self.clips, config.chunk_frames, self.transformer.config.channels)
        size = (*shape, config.latent_height, config.latent_width)
        return torch.randn(*size, generator=drawing, device=self._device, dtype=torch.float32).to(self._dtype)

    def _keep(self, chunk: LatentChunk, slot: Resident) -> None:
        super()._keep(chunk, slot)
        if not self.has_sink:
            for resident in self._cache.table.pinned:
                self._cache.unpin(resident)


class Rendered:
    """B plays as the world itself paints them."""

    def __init__(self, plays: Sequence[Play], chunks: int, frames_per_chunk: int, device: torch.device) -> None:
        """chunks: how many there will be at most."""
        self._frames_per_chunk = frames_per_chunk
        self._clip = _joined([_clip_of(play, number, chunks) for number, play in enumerate(plays)], device)
        self.chunk = -1

    def advance(self) -> None:
        self.chunk += 1

    def frames(self) -> Tensor:
        first = self.chunk * self._frames_per_chunk
        part = slice(first, first + self._frames_per_chunk)
        return render(self._clip.world, self._clip.times[:, part], self._clip.tracks.frames(part))


def watch(source: Source, chunks: Collection[int]) -> Iterator[tuple[int, Tensor]]:
    """The chunks of these numbers, each with its frames."""
    wanted = set(chunks)
    for number in range(max(wanted) + 1):
        source.advance()
        if number in wanted:
            yield number, source.frames()


def _clip_of(play: Play, number: int, chunks: int) -> Clip:
    rng = random.Random(play.seed * 1000 + number)
    schedule: list[tuple[int, dict[str, str | bool | None]]] = []
    for (_, before), (chunk, after) in pairwise(play.changes):
        if chunk < chunks:
            schedule.append((chunk, _difference(before, after)))
    speed = rng.uniform(6, 30)
    start = rng.uniform(0, 3600)
    return make_clip(rng.randrange(2**31), schedule, chunks, play.changes[0][1], start=start, camera_speed=speed)


def _difference(before: Attributes, after: Attributes) -> dict[str, str | bool | None]:
    names = [field.name for field in fields(Attributes)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def _joined(clips: Sequence[Clip], device: torch.device) -> Clip:
    """Clips of one row each → one of all."""
    world = World(*(torch.cat([vars(c.world)[f.name] for c in clips]) for f in fields(World)))
    tracks = Tracks(*(torch.cat([vars(c.tracks)[f.name] for c in clips]) for f in fields(Tracks)))
    times = torch.cat([clip.times for clip in clips])
    return replace(clips[0], world=world.to(device), times=times.to(device), tracks=tracks.to(device))
