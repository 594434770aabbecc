"""The endless stream: one owner of the state that generation changes.

For each chunk: noise → denoise (every forward attends to sink, window and the chunk itself) → clean pass, which
leaves the chunk's keys and values in its slot. The first chunk is the sink and stays. At a prompt change:

    recache   the window's keys and values are made again from its latents under the new prompt; the sink stays
    text      only the text changes; the window remembers the old prompt until it has left
    cut       a new shot: as text, and the next chunk begins a shot: RoPE jumps ahead, and when the clean pass of that
              chunk is done it is the shot sink in place of the one before
    reset     everything is forgotten and a new world begins

What an interrupt, a hurry or a rollback takes from the window is made anew before the next chunk, under the prompt that
it was made under; chunks that are there whole are left alone.

A recache makes the whole window anew at once, or (`recache_depth`) its newest chunks alone, and the rest one by one
in `settle`, which whoever has time to spare calls. Settled before the next chunk, the cache is what a whole recache
leaves. Later it is what a whole recache of the same latents leaves as long as no chunk has left the window since;
the latents made in between are others, because they were denoised beside old keys and values.

Noise is drawn from the seed and the chunk's first latent frame alone, so a stream is the same for the same seed and
prompts, and a rollback needs no random state.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from everscene_engine.conditioning import Conditioning
from everscene_engine.config import StreamConfig
from everscene_engine.errors import ConfigError, GenerationFailed
from everscene_engine.heeding import Heeding
from everscene_engine.host_lead import FiniteCheck, HostLead, to_device
from everscene_engine.kv_cache import Turn
from everscene_engine.kv_cache_nvfp4 import CACHES
from everscene_engine.latent_chunk import LatentChunk, Past, is_whole
from everscene_engine.noise import drawn
from everscene_engine.rope import Rotation, rotation
from everscene_engine.sampler import (
    Interrupted,
    RenoiseSchedule,
    Schedule,
    denoise,
    make_renoise_schedule,
    make_schedule,
    renoise,
)
from everscene_engine.slots import Resident
from everscene_engine.stopwatch import Mark, Stopwatch
from everscene_engine.transformer import WanTransformer

Span = tuple[Mark, Mark]
"""Begin and end of a stage."""
Transition = Literal["recache", "text", "cut", "reset"]
TRANSITIONS: tuple[Transition, ...] = ("recache", "text", "cut", "reset")


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
        kv: str = "bf16",
    ) -> None:
        """kv: format of the KV cache: bf16 (the transformer's own dtype, that is), nvfp4 or nvfp4-smooth."""
        weight = transformer.patch_embedding.weight
        self.transformer = transformer
        self.config = config
        make = make_schedule if config.sampler == "unipc" else make_renoise_schedule
        self.schedule: Schedule | RenoiseSchedule = make(steps or config.steps, config.shift)
        self.seed = seed
        self.clips = clips
        self._device, self._dtype = weight.device, weight.dtype
        size = transformer.config
        self._cache = CACHES[kv](
            layers=size.layers,
            clips=clips,
            slots=config.window_chunks + 2,  # the sink, the window, the chunk in work
            slot_frames=config.chunk_frames,
            frame_tokens=config.frame_tokens,
            heads=transformer.ranks.heads(size.heads),
            head_dim=size.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )
        self._lead = HostLead(weight.device)
        self._watch = Stopwatch(weight.device)
        self._cleaned: Span | None = None  # the last clean pass of a GPU
        self._rows, self._columns = config.latent_height // 2, config.latent_width // 2
        self._text: Conditioning | None = None
        self._texts: dict[int, Conditioning] = {}  # what the keys and values of the newest chunks are to be made under
        self._recache_due = False
        self._shallow = False  # the recache that is due may leave older chunks for `settle`
        self._unsettled: list[int] = []  # numbers of the chunks that `settle` shall make anew, oldest first
        self._torn = False  # an interrupt or a rollback may have taken something from the window
        self._cut_due = False
        self._sink_text: Conditioning | None = None
        self._first_latent: Tensor | None = None  # what latent frame 0 must be
        self._past = Past(self._remembered)

    @property
    def _remembered(self) -> int:
        return 4 * self.config.window_chunks

    @property
    def next_chunk(self) -> int:
        """Number of the chunk to come."""
        return self._past.next_chunk

    @property
    def next_frame(self) -> int:
        """Its first latent frame."""
        return self._past.next_frame

    @torch.inference_mode()
    def steer(self, text: Conditioning, transition: Transition = "recache") -> None:
        """Use another prompt from the next chunk on. Recaching itself is done when that chunk starts."""
        if transition not in TRANSITIONS:
            raise ConfigError(f"transition is {transition!r}; it must be one of {', '.join(TRANSITIONS)}")
        if transition == "reset":
            self._forget()
        self._text = text
        if transition == "recache":
            self._recache_due = self._shallow = True
        elif transition == "cut":
            self._recache_due = False  # the window is of the shot that ends
        self._cut_due = transition == "cut"

    def begin_with(self, latent: Tensor | None) -> None:
        """Let the world begin with this latent frame [1, 1, C, h, w] (or [B, 1, …]), from the next time that the stream
        is at its start; None: with noise, as always. Raises ConfigError for another shape."""
        config = self.config
        wanted = (self.transformer.config.channels, config.latent_height, config.latent_width)
        if latent is not None and (latent.shape[1:] != (1, *wanted) or latent.shape[0] not in (1, self.clips)):
            raise ConfigError(f"a first latent frame has shape {list(latent.shape)}; it must be {[1, 1, *wanted]}")
        self._first_latent = None if latent is None else latent.to(self._device, self._dtype)

    @torch.inference_mode()
    def generate(
        self,
        interrupted: Callable[[], bool] = lambda: False,
        finished: Callable[[LatentChunk], None] = lambda chunk: None,
        hurried: Callable[[], bool] | None = None,
    ) -> LatentChunk | None:
        """The next chunk, or None if `interrupted` (asked before each forward, on a CPU before each layer of denoising)
        said so; then nothing changed.

        finished: on a CPU it is called with the chunk before its clean pass; on a GPU, where that pass is only queued,
        it is not. hurried: asked before the clean pass, on a CPU before each of its layers; when True the pass is left
        out, and the window lacks the chunk until the next one begins. A sink's pass is never left out. Raises
        GenerationFailed if the latents are no numbers.
        """
        if self._text is None:
            raise ConfigError("a stream needs a prompt before its first chunk")
        stages: dict[str, Span] = {}
        start = self._watch.mark()
        if self._recache_due or self._torn:
            if self._recache_due:
                self._rebuild_window(self.config.recache_depth if self._shallow else None)
            else:
                self._mend_window()
            self._recache_due = self._shallow = self._torn = False
            stages["recache"] = (start, self._watch.mark())
        start = self._watch.mark()
        config = self.config
        shot = self._past.shot + (1 if self._cut_due and self._past.sink is not None else 0)
        offset = shot * config.shot_offset
        slot = self._cache.table.open(self.next_chunk, self.next_frame, config.chunk_frames, offset)
        try:
            latents = self._denoise(slot, interrupted)
        except Interrupted:
            self._cache.table.drop(slot)
            self._torn = True  # the oldest chunk of the window gave its slot away
            return None
        stages["denoise"] = (start, self._watch.mark())
        check = FiniteCheck(latents)
        chunk = LatentChunk(self.next_chunk, self.next_frame, latents, {}, shot)
        if self._device.type == "cpu" and check.passed():
            chunk.seconds.update(self._seconds(stages))
            finished(chunk)
        self._lead.wait()  # more than two forwards in a GPU's queue block whoever else wants something of it
        start = self._watch.mark()
        if shot > self._past.shot and config.cut_clears_window:
            self._clear_but_sink(slot)
        sinks = self._past.sink is None or shot > self._past.shot
        whole = self._clean_or_leave(slot, latents, None if sinks else hurried)
        cleaned: Span | None = (start, self._watch.mark()) if whole else None
        passed = check.passed()  # on a GPU this waits: whoever gets the chunk gets finished latents
        if not (passed and whole):
            self._cache.table.drop(slot)
            self._torn = True
        if not passed:
            raise GenerationFailed(f"chunk {self.next_chunk} holds NaN or infinity")
        if self._device.type != "cpu":  # its clean pass is not over yet, that of the chunk before is
            cleaned, self._cleaned = self._cleaned, cleaned
        if cleaned is not None:
            stages["clean"] = cleaned
        chunk.seconds.update(self._seconds(stages))
        self._keep(chunk, slot)
        return chunk

    def _seconds(self, stages: dict[str, Span]) -> dict[str, float]:
        return {stage: self._watch.ms(start, end) / 1000 for stage, (start, end) in stages.items()}

    @property
    def unsettled(self) -> bool:
        """Whether a recache has left something for `settle`."""
        return bool(self._unsettled) and not (self._recache_due or self._torn)

    @torch.inference_mode()
    def settle(self) -> bool:
        """One clean pass of those that a recache has left for later, oldest chunk first; False: there is none."""
        if not self.unsettled:
            return False
        window = {chunk.number: chunk for chunk in self._window()}
        table = self._cache.table
        table.clear_window([resident for resident in table.window if resident.chunk in window])
        self._unsettled = [number for number in self._unsettled if number in window]
        if not self._unsettled:
            return False
        chunk = window[self._unsettled.pop(0)]
        slot = next((one for one in self._cache.table.window if one.chunk == chunk.number), None) or self._open(chunk)
        self._present_sink(slot)
        self._clean_pass(slot, chunk.latents, self._before(slot), self._text_of(chunk))
        return True

    @torch.inference_mode()
    def rollback(self, frame: int) -> None:
        """Forget every latent frame from `frame` on (0 forgets all). The next chunk fills what the window lacks then.

        A chunk cut short keeps its number and its first latents. Raises ConfigError for a frame that lies before
        what is kept, or ahead of the stream.
        """
        if frame == self.next_frame:
            return
        if frame == 0:
            self._forget()
            return
        sink = self._past.sink
        self._past.cut(frame)
        if self._past.sink is not sink:
            self._remake_sink()
        self._cut_due = False
        self._torn = True
        self._unsettled = [number for number in self._unsettled if number < self.next_chunk]

    def kept_before(self, frame: int) -> list[LatentChunk]:
        """Sinks and window (oldest first) as `rollback(frame)` would leave them, 1 ≤ frame; nothing changes.

        Raises ConfigError as `rollback` does.
        """
        further = 1 if self.config.recache == "bidirectional" else 0
        return self._past.before(frame, self.config.window_chunks + further)

    @torch.inference_mode()
    def restore(self, kept: Sequence[LatentChunk], sink_text: Conditioning, seed: int) -> None:
        """Go on after these chunks, which `kept_before` gave. The sink is made under `sink_text`, the window with
        the next chunk, under the prompt that is steered to before it."""
        self._forget()
        self.seed = seed
        self._text = sink_text
        self._sink_text = sink_text
        self._past = Past.of(kept, self._remembered)
        self._remake_sink()
        self._recache_due = True

    @property
    def sink_text(self) -> Conditioning | None:
        """What the sink's keys and values are made under; None: there is no sink yet."""
        return self._sink_text

    def close(self) -> None:
        """Let go of whoever else works for the stream; here nobody does."""

    @property
    def earliest(self) -> int:
        """The first latent frame, but for 0, that a rollback can go back to."""
        return self._past.earliest

    def _denoise(self, slot: Resident, interrupted: Callable[[], bool]) -> Tensor:
        self._present_sink(slot)
        seen = [resident for resident in self._cache.table.residents if resident is not slot]
        attention = self._cache.attention(slot, seen, clean=False)
        turn = self._turn(slot)
        first = self._first_latent if self.next_frame == 0 else None

        def stopped() -> bool:
            self._lead.wait()
            return interrupted()

        heeding = Heeding(attention, interrupted) if self._heeds_layers else attention

        def predict_flow(x: Tensor, timestep: float) -> Tensor:
            assert self._text is not None
            times = torch.full(x.shape[:2], timestep, device=self._device)
            if first is not None:
                x = torch.cat([first.expand(self.clips, -1, -1, -1, -1), x[:, 1:]], dim=1)
                times[:, 0] = 0.0  # a given latent frame is clean in every forward
            flow: Tensor = self.transformer(x, times, turn, heeding, self._text)
            return flow

        if isinstance(self.schedule, RenoiseSchedule):
            latents = renoise(predict_flow, self._noise, self.schedule, stopped)
        else:
            latents = denoise(predict_flow, self._noise(), self.schedule, stopped)
        if first is not None:
            latents[:, :1] = first
        return latents

    @property
    def _heeds_layers(self) -> bool:
        """Ranks agree on each forward alone, and on a GPU the host is far ahead of the layers."""
        return self._device.type == "cpu" and self.transformer.ranks.size == 1

    def _clean_or_leave(self, slot: Resident, latents: Tensor, hurried: Callable[[], bool] | None) -> bool:
        """The clean pass of a chunk that was denoised just now; False: it is left out."""
        if hurried is not None and hurried():
            return False
        try:
            self._clean_pass(slot, latents, hurried=hurried)
        except Interrupted:
            return False
        return True

    def _clean_pass(
        self,
        slot: Resident | Sequence[Resident],
        latents: Tensor,
        seen: Sequence[Resident] | None = None,
        text: Conditioning | None = None,
        hurried: Callable[[], bool] | None = None,
    ) -> None:
        """Leave the keys and values of finished latents in their slot, or in several by one forward. seen: None for
        all other residents. text: None for the present one. hurried: asked before each layer, where layers are heeded;
        Interrupted is raised when it says so."""
        text = text or self._text
        assert text is not None
        if seen is None:
            seen = [resident for resident in self._cache.table.residents if resident is not slot]
        times = torch.zeros(latents.shape[:2], device=self._device)
        attention = self._cache.attention(slot, seen)
        heeding = attention if hurried is None or not self._heeds_layers else Heeding(attention, hurried)
        self.transformer(latents, times, self._turn(slot), heeding, text, flow=False)

    def _clean_passes(self, chunks: Sequence[LatentChunk], text: Conditioning) -> None:
        """Clean passes over chunks one after the other, each seeing all before it: by one forward, whose linears take
        all tokens at once."""
        slots = [self._open(chunk) for chunk in chunks]
        turns = [Turn(slot, self._before(slot), self._sink_shifts(slot)) for slot in slots]
        latents = torch.cat([chunk.latents for chunk in chunks], dim=1)
        times = torch.zeros(latents.shape[:2], device=self._device)
        attention = self._cache.attention_in_turn(turns)
        self.transformer(latents, times, self._turn(slots), attention, text, flow=False)

    def _before(self, slot: Resident) -> list[Resident]:
        """The sinks, and the window's chunks before this one."""
        return [
            one for one in self._cache.table.residents if one is not slot and (one.pinned or one.chunk < slot.chunk)
        ]

    def _keep(self, chunk: LatentChunk, slot: Resident) -> None:
        assert self._text is not None
        if self._past.sink is None:
            self._sink_text = self._text
            self._cache.pin(slot)
        if chunk.shot > self._past.shot and self.config.shot_sink:
            self._unpin_shots()
            self._cache.pin(slot)
        self._past.keep(chunk)
        known = chunk.number - self._cache.table.slots - 2  # older ones come back by a long way back alone
        self._texts = {number: text for number, text in self._texts.items() if number > known}
        self._texts[chunk.number] = self._text
        self._unsettled = [number for number in self._unsettled if number > known]
        if self._unsettled:
            self._unsettled.append(chunk.number)
        self._cut_due = False

    def _unpin_shots(self) -> None:
        for resident in self._cache.table.pinned:
            if resident.chunk != 0:
                self._cache.unpin(resident)

    def _clear_but_sink(self, slot: Resident) -> None:
        """Empty the cache but for the sink and the chunk in work."""
        self._unpin_shots()
        self._cache.table.clear_window([slot])

    def _rebuild_window(self, depth: int | None = None) -> None:
        """RV-recache: clean passes over the window's latents under the present prompt. The sinks stay as they are.

        depth: so many of the newest chunks are made anew, the older ones stay as they are, or absent if they gave their
        slot away, until they are settled; None, or when more than half of them are absent: all.
        Block-causal: each chunk sees the sinks and the window's chunks before it, as when it was made. Bidirectional,
        as LongLive 1.0 does it: one forward over the window, in which all its chunks see each other, always the
        whole; it reaches one chunk further back (that one leaves with the next chunk), and while no chunk
        has left the cache yet, the sinks are made anew with the rest.
        """
        assert self._text is not None
        self._unsettled = []
        together = self.config.recache == "bidirectional"
        window = self._window(together)
        if depth is not None and not together and depth < len(window) and self._clear_but(window[:-depth]):
            self._unsettled = [chunk.number for chunk in window]
            now = window[-depth:]
        else:
            self._restore_shot_sink(self._text)
            now = window = self._window(together)
        self._texts |= dict.fromkeys((chunk.number for chunk in window), self._text)
        if together:
            self._recache_together(now, self._cache.table.pinned)
        elif now:
            self._clean_passes(now, self._text)

    def _mend_window(self) -> None:
        """Clean passes over those chunks that the window lacks or holds longer than they are now, each under its own
        prompt. As in a recache, older ones may be left for `settle`."""
        if not self._shot_sink_stands():
            head = self._shot_head
            self._restore_shot_sink(self._text_of(head) if head else None)
        window = self._window()
        whole = [one for one in self._cache.table.window if any(is_whole(one, chunk) for chunk in window)]
        self._cache.table.clear_window(whole)
        there = {resident.chunk for resident in whole}
        torn = [chunk for chunk in window if chunk.number not in there]
        depth = self.config.recache_depth
        if depth is not None and 2 * len(whole) >= len(window):
            later = {chunk.number for chunk in torn if chunk not in window[-depth:]}
            self._unsettled = sorted({*self._unsettled, *later})
            torn = [chunk for chunk in torn if chunk.number not in later]
        for _, chunks in groupby(torn, lambda chunk: id(self._text_of(chunk))):
            together = list(chunks)
            self._clean_passes(together, self._text_of(together[0]))

    def _text_of(self, chunk: LatentChunk) -> Conditioning:
        """The prompt that a chunk was made under; the present one if that is too long ago."""
        assert self._text is not None
        return self._texts.get(chunk.number, self._text)

    def _window(self, further: bool = False) -> list[LatentChunk]:
        """The finished chunks that the window has room for beside the next one, oldest first; none that is a sink.
        further: and the one before them."""
        pinned = self._cache.table.pinned
        sinks = {resident.chunk for resident in pinned}
        room = self._cache.table.slots - len(pinned) - (0 if further else 1)
        window = [chunk for chunk in self._past.chunks if chunk.number not in sinks]
        if self.config.cut_clears_window:
            window = [chunk for chunk in window if chunk.shot == self._past.shot]
        return window[-room:]

    def _clear_but(self, chunks: Sequence[LatentChunk]) -> bool:
        """Free the slots of the window but for those of these chunks. False, and nothing is done, if more than half of
        them are not there whole or another chunk should be the shot sink."""
        wanted = {(chunk.number, chunk.end_frame) for chunk in chunks}
        window = self._cache.table.window
        there = [resident for resident in window if (resident.chunk, resident.end_frame) in wanted]
        if 2 * len(there) < len(chunks) or not self._shot_sink_stands():
            return False
        self._cache.table.clear_window(there)
        return True

    def _recache_together(self, window: Sequence[LatentChunk], pinned: Sequence[Resident]) -> None:
        slots = [self._open(chunk) for chunk in window]
        latents = [chunk.latents for chunk in window]
        seen = list(pinned)
        if self.next_chunk <= self._cache.table.slots:
            known = {chunk.number: chunk for chunk in (self._past.sink, *self._past.heads) if chunk is not None}
            latents = [*(known[resident.chunk].latents for resident in pinned), *latents]
            slots, seen = [*pinned, *slots], []
            self._sink_text = self._text
        if not slots:
            return
        self._present_sink(slots[-1])
        self._clean_pass(slots, torch.cat(latents, dim=1), seen)

    def _restore_shot_sink(self, text: Conditioning | None) -> None:
        """Empty the window, and see to it that the present shot's first chunk, and no other, is the shot sink.

        text: for its keys and values if they must be made."""
        wanted = self._shot_head
        table = self._cache.table
        for resident in table.pinned:
            if resident.chunk != 0 and not is_whole(resident, wanted):
                self._cache.unpin(resident)
        table.clear_window()
        if wanted is not None and not self._shot_sink_stands():
            slot = self._open(wanted)
            self._present_sink(slot)
            self._clean_pass(slot, wanted.latents, text=text)
            self._cache.pin(slot)

    def _shot_sink_stands(self) -> bool:
        """Whether the shot sink is the present shot's first chunk, or there is to be none and none is there."""
        shots = [resident for resident in self._cache.table.pinned if resident.chunk != 0]
        wanted = self._shot_head
        return all(is_whole(resident, wanted) for resident in shots) and bool(shots) == (wanted is not None)

    @property
    def _shot_head(self) -> LatentChunk | None:
        """The chunk that is to be the shot sink."""
        return self._past.heads[-1] if self._past.heads and self.config.shot_sink else None

    def _open(self, chunk: LatentChunk) -> Resident:
        """A slot for a chunk that is there already."""
        offset = chunk.shot * self.config.shot_offset
        return self._cache.table.open(chunk.number, chunk.first_frame, chunk.latents.shape[1], offset)

    def _remake_sink(self) -> None:
        """The sink's keys and values anew, and nothing else in the cache."""
        sink = self._past.sink
        assert sink is not None
        self._cache.clear()
        slot = self._open(sink)
        self._clean_pass(slot, sink.latents, seen=(), text=self._sink_text)
        self._cache.pin(slot)

    def _present_sink(self, current: Resident) -> None:
        """Let a sink of long ago be seen at the reach, a distance that the model knows."""
        for resident, shift in self._sink_shifts(current).items():
            self._cache.present(resident, shift)

    def _sink_shifts(self, current: Resident) -> dict[Resident, int]:
        """By how many latent frames each sink is presented later than it was made."""
        reach = self.config.sink_reach
        if reach is None:
            return {}
        return {sink: max(0, current.position - sink.position - reach) for sink in self._cache.table.pinned}

    def _turn(self, slot: Resident | Sequence[Resident]) -> Rotation:
        slots = [slot] if isinstance(slot, Resident) else slot
        places = [torch.arange(one.position, one.position + one.frames, device=self._device) for one in slots]
        return rotation(torch.cat(places), self._rows, self._columns, self.transformer.config.head_dim)

    def _noise(self, step: int = 0) -> Tensor:
        config = self.config
        shape = (self.clips, config.chunk_frames, self.transformer.config.channels)
        noise = drawn(self.seed, self.next_frame, step, (*shape, config.latent_height, config.latent_width))
        return to_device(noise, self._device, self._dtype)  # [B, F, C, h, w]

    def _forget(self) -> None:
        self._cache.clear()
        self._past = Past(self._remembered)
        self._sink_text = None
        self._texts = {}
        self._recache_due = self._shallow = self._torn = False
        self._unsettled = []
        self._cut_due = False
