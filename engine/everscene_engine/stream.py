"""The endless stream: one owner of the state that generation changes.

For each chunk: noise → denoise (every forward attends to sink, window and the chunk itself) → clean pass, which
leaves the chunk's keys and values in its slot. The first chunk is the sink and stays. At a prompt change:

    recache   the window's keys and values are made again from its latents under the new prompt; the sink stays
    text      only the text changes; the window remembers the old prompt until it has left

    reset     everything is forgotten and a new world begins

Noise is drawn from the seed and the chunk's first latent frame alone, so a stream is the same for the same seed and
prompts, and a rollback needs no random state.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from everscene_engine.conditioning import Conditioning
from everscene_engine.config import StreamConfig
from everscene_engine.errors import ConfigError, GenerationFailed
from everscene_engine.kv_cache import KVCache
from everscene_engine.rope import Rotation, rotation
from everscene_engine.sampler import Interrupted, denoise, make_schedule
from everscene_engine.slots import Resident
from everscene_engine.transformer import WanTransformer

Transition = Literal["recache", "text", "reset"]
TRANSITIONS: tuple[Transition, ...] = ("recache", "text", "reset")

_SEED_STRIDE = 0x9E3779B97F4A7C15  # odd, so that neighbouring seeds and frames share no noise


@dataclass(frozen=True)
class LatentChunk:
    """Clean latents [B, F, C, h, w] of one chunk. seconds: what each stage took (recache, denoise, clean)."""

    number: int
    first_frame: int
    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def end_frame(self) -> int:
        return self.first_frame + self.latents.shape[1]


class LatentStream:
    """Generates chunk after chunk for B clips side by side (a live stream has one).

    transformer: the network, on its device and in its dtype. conditioning changes through `steer`.
    """

    def __init__(
        self,
        transformer: WanTransformer,
        config: StreamConfig,
        seed: int,
        clips: int = 1,
        steps: int | None = None,
    ) -> None:
        weight = transformer.patch_embedding.weight
        self.transformer = transformer
        self.config = config
        self.schedule = make_schedule(steps or config.steps, config.shift)
        self.seed = seed
        self.clips = clips
        self._device, self._dtype = weight.device, weight.dtype
        size = transformer.config
        self._cache = KVCache(
            layers=size.layers,
            clips=clips,
            slots=config.window_chunks + 2,  # the sink, the window, the chunk in work
            slot_frames=config.chunk_frames,
            frame_tokens=config.frame_tokens,
            heads=size.heads,
            head_dim=size.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )
        self._rows, self._columns = config.latent_height // 2, config.latent_width // 2
        self._generator = torch.Generator()
        self._text: Conditioning | None = None
        self._recache_due = False
        self._sink: LatentChunk | None = None
        self._past: deque[LatentChunk] = deque(maxlen=4 * config.window_chunks)  # finished chunks, sink left out
        self.next_chunk = 0
        self.next_frame = 0

    @torch.inference_mode()
    def steer(self, text: Conditioning, transition: Transition = "recache") -> None:
        """Use another prompt from the next chunk on. Recaching itself is done when that chunk starts."""
        if transition not in TRANSITIONS:
            raise ConfigError(f"transition is {transition!r}; it must be one of {', '.join(TRANSITIONS)}")
        if transition == "reset":
            self._forget()
        self._text = text
        self._recache_due = self._recache_due or transition == "recache"

    @torch.inference_mode()
    def generate(self, interrupted: Callable[[], bool] = lambda: False) -> LatentChunk | None:
        """The next chunk, or None if `interrupted` (asked before each forward) said so; then nothing changed.

        Raises GenerationFailed if the latents are no numbers.
        """
        if self._text is None:
            raise ConfigError("a stream needs a prompt before its first chunk")
        seconds: dict[str, float] = {}
        start = time.perf_counter()
        if self._recache_due:
            self._rebuild_window()
            self._recache_due = False
            seconds["recache"] = time.perf_counter() - start
        start = time.perf_counter()
        config = self.config
        slot = self._cache.table.open(self.next_chunk, self.next_frame, config.chunk_frames)
        try:
            latents = self._denoise(slot, interrupted)
        except Interrupted:
            self._cache.table.drop(slot)
            self._recache_due = True  # the oldest chunk of the window gave its slot away
            return None
        seconds["denoise"] = time.perf_counter() - start
        start = time.perf_counter()
        if not bool(torch.isfinite(latents).all()):
            self._cache.table.drop(slot)
            self._recache_due = True
            raise GenerationFailed(f"chunk {self.next_chunk} holds NaN or infinity")
        self._clean_pass(slot, latents)
        seconds["clean"] = time.perf_counter() - start
        chunk = LatentChunk(self.next_chunk, self.next_frame, latents, seconds)
        self._keep(chunk, slot)
        return chunk

    @torch.inference_mode()
    def rollback(self, frame: int) -> None:
        """Forget every latent frame from `frame` on (0 forgets all). The window is rebuilt at the next chunk.

        A chunk cut short keeps its number and its first latents. Raises ConfigError for a frame that lies before
        what is kept, or ahead of the stream.
        """
        if frame == self.next_frame:
            return
        if frame == 0:
            self._forget()
            return
        self._must_reach(frame)
        sink_end = self._sink.end_frame if self._sink else 0
        while self._past and self._past[-1].first_frame >= frame:
            self._past.pop()
        if self._past and self._past[-1].end_frame > frame:
            self._past.append(_shortened(self._past.pop(), frame))
        last = self._past[-1] if self._past else self._sink
        assert last is not None
        if frame < sink_end:
            self._sink = last = _shortened(last, frame)
            self._remake_sink(last)
        self.next_frame = frame
        self.next_chunk = last.number + 1
        self._recache_due = True

    def kept_before(self, frame: int) -> list[LatentChunk]:
        """Sink and window (oldest first) as `rollback(frame)` would leave them, 1 ≤ frame; nothing changes.

        Raises ConfigError as `rollback` does.
        """
        self._must_reach(frame)
        if frame < 1 or self._sink is None:
            raise ConfigError(f"there is nothing before latent frame {frame}")
        chunks = [chunk for chunk in (self._sink, *self._past) if chunk.first_frame < frame]
        kept = [chunk if chunk.end_frame <= frame else _shortened(chunk, frame) for chunk in chunks]
        return [kept[0], *kept[1:][-self.config.window_chunks :]]

    @torch.inference_mode()
    def restore(self, kept: Sequence[LatentChunk], sink_text: Conditioning, seed: int) -> None:
        """Go on after these chunks, which `kept_before` gave. The sink is made under `sink_text`, the window with
        the next chunk, under the prompt that is steered to before it."""
        self._forget()
        self.seed = seed
        self._text = sink_text
        self._sink = kept[0]
        self._remake_sink(kept[0])
        self._past.extend(kept[1:])
        self.next_chunk, self.next_frame = kept[-1].number + 1, kept[-1].end_frame
        self._recache_due = True

    def _must_reach(self, frame: int) -> None:
        sink_end = self._sink.end_frame if self._sink else 0
        oldest = self._past[0].first_frame if self._past else sink_end
        reachable = frame <= sink_end if not self._past or oldest == sink_end else False
        if frame > self.next_frame or (frame < oldest and not reachable):
            raise ConfigError(
                f"cannot roll back to latent frame {frame}: it must be {oldest} to {self.next_frame}, or 0"
            )

    def _denoise(self, slot: Resident, interrupted: Callable[[], bool]) -> Tensor:
        self._present_sink(slot)
        seen = [resident for resident in self._cache.table.residents if resident is not slot]
        attention = self._cache.attention(slot, seen)
        turn = self._turn(slot)

        def predict_flow(x: Tensor, timestep: float) -> Tensor:
            assert self._text is not None
            times = torch.full(x.shape[:2], timestep, device=self._device)
            flow: Tensor = self.transformer(x, times, turn, attention, self._text)
            return flow

        return denoise(predict_flow, self._noise(), self.schedule, interrupted)

    def _clean_pass(self, slot: Resident, latents: Tensor, seen: Sequence[Resident] | None = None) -> None:
        """Leave the keys and values of finished latents in their slot."""
        assert self._text is not None
        if seen is None:
            seen = [resident for resident in self._cache.table.residents if resident is not slot]
        times = torch.zeros(latents.shape[:2], device=self._device)
        attention = self._cache.attention(slot, seen)
        self.transformer(latents, times, self._turn(slot), attention, self._text)

    def _keep(self, chunk: LatentChunk, slot: Resident) -> None:
        if self._sink is None:
            self._sink = chunk
            self._cache.pin(slot)
        else:
            self._past.append(replace(chunk, seconds={}))
        self.next_chunk += 1
        self.next_frame = chunk.end_frame

    def _rebuild_window(self) -> None:
        """RV-recache: clean passes over the window's latents under the present prompt, oldest first.

        Each chunk sees the sink and the window's chunks before it, as when it was made (block-causal).
        """
        table = self._cache.table
        table.clear_window()
        for chunk in list(self._past)[-self.config.window_chunks :]:
            slot = table.open(chunk.number, chunk.first_frame, chunk.latents.shape[1])
            self._present_sink(slot)
            self._clean_pass(slot, chunk.latents)

    def _remake_sink(self, sink: LatentChunk) -> None:
        self._cache.clear()
        slot = self._cache.table.open(sink.number, sink.first_frame, sink.latents.shape[1])
        self._clean_pass(slot, sink.latents, seen=())
        self._cache.pin(slot)

    def _present_sink(self, current: Resident) -> None:
        """Let a sink of long ago be seen at the reach, a distance that the model knows."""
        reach = self.config.sink_reach
        if reach is None:
            return
        for resident in self._cache.table.residents:
            if resident.pinned:
                distance = current.first_frame - resident.first_frame
                self._cache.present(resident, max(0, distance - reach))

    def _turn(self, slot: Resident) -> Rotation:
        frames = torch.arange(slot.first_frame, slot.end_frame, device=self._device)
        return rotation(frames, self._rows, self._columns, self.transformer.config.head_dim)

    def _noise(self) -> Tensor:
        self._generator.manual_seed((self.seed * _SEED_STRIDE + self.next_frame + 1) % 2**63)
        config = self.config
        shape = (self.clips, config.chunk_frames, self.transformer.config.channels)
        noise = torch.randn(*shape, config.latent_height, config.latent_width, generator=self._generator)
        return noise.to(self._device, self._dtype)  # [B, F, C, h, w]

    def _forget(self) -> None:
        self._cache.clear()
        self._past.clear()
        self._sink = None
        self._recache_due = False
        self.next_chunk = 0
        self.next_frame = 0


def _shortened(chunk: LatentChunk, end: int) -> LatentChunk:
    """The chunk with its latent frames before `end` only."""
    return replace(chunk, latents=chunk.latents[:, : end - chunk.first_frame])
