"""Cuts, shot sinks and recaching, against the published bookkeeping of LongLive written down a second time.

`Published` is that bookkeeping as its authors do it: a buffer whose chunks move to the front, a pinned place that moves
with them. Ours moves nothing; both must hold the same chunks, whatever the pattern of cuts.
"""

from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everscene_engine.attention import FullAttention, MaskedAttention, attend
from everscene_engine.config import StreamConfig
from everscene_engine.errors import ConfigError
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.rope import rotation
from everscene_engine.slots import Resident
from everscene_engine.stream import LatentStream
from tests.engine.small import small_prompt, small_transformer

SHOTS = StreamConfig(
    latent_height=4,
    latent_width=6,
    chunk_frames=2,
    window_chunks=2,
    sink_reach=None,
    steps=2,
    fps=24.0,
    shot_sink=True,
    shot_offset=8,
)
MODEL = small_transformer()
TEXTS = [small_prompt(MODEL, seed) for seed in range(3)]


@dataclass
class Published:
    """LongLive 2.0's cache in whole chunks: sink of one chunk, four places."""

    clean_recache: bool = False
    slots: int = 4
    buffer: list[int] = field(default_factory=list)
    pinned: int | None = None  # place of the pinned chunk

    def chunk(self, number: int, cut: bool) -> list[int]:
        cut = cut and number > 0
        if len(self.buffer) == self.slots:
            protected = 2 if self.pinned == 1 else 1
            del self.buffer[protected]
            if self.pinned is not None and self.pinned > 1:
                self.pinned -= 1
        self.buffer.append(number)
        if cut and self.clean_recache:
            self.buffer = [self.buffer[0], number]
            self.pinned = None
        if cut:
            self.pinned = len(self.buffer) - 1
        return list(self.buffer)


def make_stream(config: StreamConfig = SHOTS, seed: int = 1) -> LatentStream:
    stream = LatentStream(MODEL, config, seed)
    stream.steer(TEXTS[0])
    return stream


def step(stream: LatentStream, cut: bool = False, text: int = 0) -> LatentChunk:
    if cut:
        stream.steer(TEXTS[text], "cut")
    made = stream.generate()
    assert made is not None
    return made


def numbers(stream: LatentStream) -> list[int]:
    return sorted(resident.chunk for resident in stream._cache.table.residents)


def keys_of(stream: LatentStream, resident: Resident, layer: int = -1) -> Tensor:
    cache = stream._cache
    start = resident.slot * cache.slot_tokens
    return cache.keys[layer][:, start : start + resident.frames * cache.frame_tokens].clone()


def all_keys(stream: LatentStream) -> dict[int, Tensor]:
    return {resident.chunk: keys_of(stream, resident) for resident in stream._cache.table.residents}


class NoWork(LatentStream):
    """A stream whose forwards compute nothing: its bookkeeping alone, quickly."""

    def _denoise(self, slot: Resident, interrupted: object) -> Tensor:
        return self._noise()

    def _clean_pass(self, *arguments: object, **named: object) -> None:
        pass


def bare_stream(config: StreamConfig) -> NoWork:
    stream = NoWork(MODEL, config, 1)
    stream.steer(TEXTS[0])
    return stream


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(0, 24)), st.booleans())
def test_the_cache_holds_what_the_published_one_holds_for_any_pattern_of_cuts(cuts: set[int], clears: bool) -> None:
    stream = bare_stream(replace(SHOTS, cut_clears_window=clears))
    published = Published(clears)
    for chunk in range(25):
        step(stream, chunk in cuts)
        assert numbers(stream) == published.chunk(chunk, chunk in cuts), chunk


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.booleans()), max_size=14), st.booleans())
def test_after_a_rollback_the_cache_is_that_of_a_stream_that_never_went_further(
    plan: list[tuple[bool, int, bool]], clears: bool
) -> None:
    """Each step makes a chunk (with a cut or not), then perhaps rolls some latent frames back."""
    config = replace(SHOTS, cut_clears_window=clears)
    stream = bare_stream(config)
    history: list[tuple[bool, int]] = []  # (cut, frames) of the chunks that stayed
    for cut, back, recache in plan:
        if recache:
            stream.steer(TEXTS[1], "recache")
        made = step(stream, cut)
        history.append((cut, made.latents.shape[1]))
        target = stream.next_frame - back
        if back and target > 0:
            stream.rollback(target)
            while history and sum(frames for _, frames in history[:-1]) >= target:
                history.pop()
            history[-1] = (history[-1][0], target - sum(frames for _, frames in history[:-1]))
    straight = bare_stream(config)
    first = 0
    for cut, frames in history:
        step(straight, cut)
        first += frames
        straight.rollback(first)
    step(stream), step(straight)
    assert [(r.chunk, r.first_frame, r.frames, r.offset, r.pinned) for r in sorted_residents(stream)] == [
        (r.chunk, r.first_frame, r.frames, r.offset, r.pinned) for r in sorted_residents(straight)
    ]


def sorted_residents(stream: LatentStream) -> list[Resident]:
    return sorted(stream._cache.table.residents, key=lambda resident: resident.chunk)


@settings(deadline=None, max_examples=40)
@given(st.sets(st.integers(1, 14), max_size=5), st.integers(2, 14))
def test_a_restored_snapshot_leaves_the_cache_as_a_rollback_does(cuts: set[int], upto: int) -> None:
    stream, fresh = bare_stream(SHOTS), bare_stream(SHOTS)
    for chunk in range(upto):
        step(stream, chunk in cuts)
    frame = stream.next_frame - 1
    kept = stream.kept_before(frame)
    stream.rollback(frame)
    fresh.restore(kept, TEXTS[0], 1)
    fresh.steer(TEXTS[0], "text")
    step(stream), step(fresh)
    assert [(r.chunk, r.frames, r.offset, r.pinned) for r in sorted_residents(fresh)] == [
        (r.chunk, r.frames, r.offset, r.pinned) for r in sorted_residents(stream)
    ]


def test_a_cut_moves_the_positions_of_every_later_chunk_ahead() -> None:
    stream = make_stream()
    for chunk in range(8):
        step(stream, chunk in (3, 6))
    assert {r.chunk: r.position for r in sorted_residents(stream)} == {0: 0, 5: 18, 6: 12 + 16, 7: 14 + 16}


def test_a_cut_before_the_first_chunk_is_no_cut() -> None:
    stream = make_stream()
    assert step(stream, cut=True).shot == 0
    assert step(stream).shot == 0


def test_the_chunk_of_a_cut_still_sees_the_window_while_it_is_denoised() -> None:
    """The order of the published loop: denoise under the old sinks, pin after the clean pass."""
    stream = make_stream()
    for _ in range(4):
        step(stream)
    seen: list[list[int]] = []
    real = stream._clean_pass

    def watched(slot: Resident, latents: Tensor, hurried: object) -> None:
        seen.append(numbers(stream))
        assert [r.chunk for r in stream._cache.table.pinned] == [0]
        real(slot, latents)

    stream._clean_pass = watched  # type: ignore[method-assign,assignment]
    step(stream, cut=True)
    assert seen == [[0, 2, 3, 4]]
    assert [r.chunk for r in stream._cache.table.pinned] == [0, 4]


def test_after_a_clearing_cut_the_clean_pass_sees_the_sink_and_the_chunk_alone() -> None:
    stream = make_stream(replace(SHOTS, cut_clears_window=True))
    for _ in range(4):
        step(stream)
    sink = stream._cache.table.residents[0]
    made = step(stream, cut=True)
    found = all_keys(stream)
    assert sorted(found) == [0, 4]
    other = make_stream(replace(SHOTS, cut_clears_window=True))
    chunk = other._open(replace(made, number=4))
    first = other._cache.table.open(0, 0, 2)
    for layer in range(3):
        for tensors, theirs in ((other._cache.keys, stream._cache.keys), (other._cache.values, stream._cache.values)):
            size = other._cache.slot_tokens
            place, source = first.slot * size, sink.slot * size
            tensors[layer][:, place : place + size] = theirs[layer][:, source : source + size]
    other._clean_pass(chunk, made.latents, [first])
    torch.testing.assert_close(keys_of(other, chunk), found[4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("clears", [False, True])
@pytest.mark.parametrize("frame", [7, 8, 9, 11])
def test_a_rollback_across_a_cut_goes_on_as_a_stream_that_never_went_further(frame: int, clears: bool) -> None:
    """In numbers too, where every chunk that stays is made again from the same latents."""
    config = replace(SHOTS, cut_clears_window=clears)
    stream, other = make_stream(config), make_stream(config)
    for chunk in range(7):
        step(stream, chunk == 4)
    stream.rollback(frame)
    for chunk in range((frame + 1) // 2):
        step(other, chunk == 4)
    other.steer(TEXTS[0], "recache")  # a rollback recaches, and one to where the stream stands is none
    other.rollback(frame)
    after, expected = step(stream), step(other)
    assert (after.number, after.shot) == (expected.number, expected.shot)
    torch.testing.assert_close(after.latents, expected.latents, atol=1e-5, rtol=0)


def test_a_shot_sink_that_was_evicted_comes_back_with_its_shot() -> None:
    stream = make_stream()
    for chunk in range(9):
        step(stream, chunk in (3, 7))
    assert 3 not in numbers(stream)
    stream.rollback(12)  # before the second cut
    step(stream)
    assert [r.chunk for r in stream._cache.table.pinned] == [0, 3]
    assert numbers(stream) == [0, 3, 5, 6]


def test_an_interrupted_cut_is_made_by_the_next_chunk() -> None:
    stream, calm = make_stream(), make_stream()
    for one in (stream, calm):
        for _ in range(3):
            step(one)
        one.steer(TEXTS[1], "cut")
    assert stream.generate(lambda: True) is None
    after, expected = step(stream), step(calm)
    assert after.shot == expected.shot == 1
    assert numbers(stream) == numbers(calm)


def test_far_sinks_are_presented_at_the_reach_in_positions() -> None:
    stream = make_stream(replace(SHOTS, sink_reach=10))
    for chunk in range(20):
        step(stream, chunk == 6)
    table, current = stream._cache.table, stream._cache.table.residents[-1]
    assert [r.chunk for r in table.pinned] == [0, 6]
    for sink in table.pinned:
        assert current.position - (sink.position + stream._cache._shifts[sink.slot]) == 10


def test_a_sink_within_reach_is_never_copied() -> None:
    stream = make_stream(replace(SHOTS, sink_reach=60))
    for chunk in range(6):
        step(stream, chunk == 3)
    assert not stream._cache._made


def test_a_shot_sink_that_is_let_go_has_its_own_keys_again() -> None:
    stream = make_stream(replace(SHOTS, sink_reach=10))
    for chunk in range(12):
        step(stream, chunk == 3)
    cache = stream._cache
    shot = cache.table.pinned[1]
    made = cache._made[shot.slot][-1]
    assert not torch.equal(keys_of(stream, shot), made)
    cache.unpin(shot)
    torch.testing.assert_close(keys_of(stream, shot), made, atol=1e-6, rtol=0)


def test_a_stream_has_no_length_limit() -> None:
    stream = bare_stream(SHOTS)
    stream._past.next_frame, stream._past.next_chunk = 2_000_000, 1_000_000
    assert step(stream).first_frame == 2_000_000
    turn = stream._turn(stream._cache.table.residents[-1])
    assert torch.isfinite(turn.cos).all()
    exact = torch.cos(torch.tensor(2_000_000, dtype=torch.float64)).float()
    assert turn.cos[0, 0] == exact  # the fastest pair turns by one radian a latent frame, still exactly


def test_a_window_with_no_room_for_a_shot_sink_is_refused() -> None:
    with pytest.raises(ConfigError, match="window_chunks is 1; a shot sink takes one"):
        replace(SHOTS, window_chunks=1)


# Bidirectional recache, as LongLive 1.0

TOGETHER = replace(SHOTS, shot_sink=False, shot_offset=0, recache="bidirectional")


@torch.no_grad()
@pytest.mark.parametrize("made", [2, 4])
def test_bidirectional_recache_of_a_young_stream_makes_all_anew_in_one_full_forward(made: int) -> None:
    """LongLive 1.0 up to 12 latent frames: the sink too, everything sees everything."""
    stream = make_stream(TOGETHER)
    latents = torch.cat([step(stream).latents for _ in range(made)], dim=1)
    frames = latents.shape[1]
    stream.steer(TEXTS[2], "recache")
    stream._rebuild_window()
    keys = Recorder(FullAttention())
    MODEL(latents, torch.zeros(1, frames), rotation(torch.arange(frames), 2, 3, 24), keys, TEXTS[2])
    found = torch.cat([keys_of(stream, resident) for resident in sorted_residents(stream)], dim=1)
    torch.testing.assert_close(found, keys.last, atol=1e-5, rtol=0)


@torch.no_grad()
def test_bidirectional_recache_later_keeps_the_sink_and_lets_the_window_see_it_and_itself() -> None:
    """LongLive 1.0 past 12 latent frames: the sink's keys stay under the old prompt, the last nine are one forward."""
    stream = make_stream(TOGETHER)
    made = [step(stream) for _ in range(7)]
    sink = stream._cache.table.residents[0]
    held = [(keys_of(stream, sink, layer), values_of(stream, sink, layer)) for layer in range(3)]
    stream.steer(TEXTS[2], "recache")
    stream._rebuild_window()
    assert torch.equal(keys_of(stream, sink), held[-1][0])
    window = torch.cat([chunk.latents for chunk in made[4:]], dim=1)
    keys = Recorder(WithSink(held))
    turn = rotation(torch.arange(8, 14), 2, 3, 24)
    MODEL(window, torch.zeros(1, 6), turn, keys, TEXTS[2])
    found = torch.cat([keys_of(stream, resident) for resident in sorted_residents(stream)[1:]], dim=1)
    torch.testing.assert_close(found, keys.last, atol=1e-5, rtol=0)
    step(stream)
    assert numbers(stream) == [0, 5, 6, 7]


@torch.no_grad()
def test_causal_recache_is_one_pass_under_a_causal_mask() -> None:
    stream = make_stream(replace(TOGETHER, recache="causal", window_chunks=8))
    latents = torch.cat([step(stream).latents for _ in range(4)], dim=1)
    stream._rebuild_window()
    chunk = torch.arange(8).repeat_interleave(6) // 2
    keys = Recorder(MaskedAttention(chunk[:, None] >= chunk[None]))
    MODEL(latents, torch.zeros(1, 8), rotation(torch.arange(8), 2, 3, 24), keys, TEXTS[0])
    found = torch.cat([keys_of(stream, resident) for resident in sorted_residents(stream)], dim=1)
    torch.testing.assert_close(found, keys.last, atol=1e-5, rtol=0)


def values_of(stream: LatentStream, resident: Resident, layer: int) -> Tensor:
    start = resident.slot * stream._cache.slot_tokens
    return stream._cache.values[layer][:, start : start + stream._cache.slot_tokens].clone()


class WithSink:
    """Every token sees a sink's keys and values and all the others."""

    def __init__(self, sink: list[tuple[Tensor, Tensor]]) -> None:
        self._sink = sink

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._sink[layer]
        return attend(q, torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1))


class Recorder:
    """Passes on, and keeps the keys of the last layer."""

    def __init__(self, inner: FullAttention | MaskedAttention | WithSink) -> None:
        self._inner = inner
        self.last = torch.zeros(0)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.last = k
        return self._inner(layer, q, k, v)


# A given first latent frame


def given() -> Tensor:
    return torch.randn(1, 1, 4, 4, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("sampler", ["unipc", "renoise"])
def test_the_first_latent_frame_is_the_one_that_was_given(sampler: str) -> None:
    config = replace(SHOTS, sampler=sampler)  # type: ignore[arg-type]
    stream, other = make_stream(config), make_stream(config)
    stream.begin_with(given())
    made, free = step(stream), step(other)
    assert torch.equal(made.latents[:, :1], given())
    assert not torch.allclose(made.latents[:, 1], free.latents[:, 1])


def test_a_given_latent_frame_is_clean_in_every_forward() -> None:
    stream = make_stream()
    stream.begin_with(given())
    seen: list[tuple[Tensor, list[float]]] = []
    hook = MODEL.register_forward_pre_hook(lambda _, args: seen.append((args[0][:, :1].clone(), args[1][0].tolist())))
    step(stream)
    step(stream)
    hook.remove()
    assert all(torch.equal(first, given()) for first, _ in seen[:3])
    assert [times for _, times in seen] == [[0, 999], [0, 833], [0, 0], [999, 999], [833, 833], [0, 0]]


def test_a_world_that_begins_again_begins_with_the_given_frame() -> None:
    stream = make_stream()
    stream.begin_with(given())
    step(stream)
    stream.rollback(0)
    assert torch.equal(step(stream).latents[:, :1], given())
    stream.begin_with(None)
    stream.steer(TEXTS[0], "reset")
    assert not torch.equal(step(stream).latents[:, :1], given())


def test_a_first_latent_frame_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has shape \[1, 2, 4, 4, 6\]; it must be \[1, 1, 4, 4, 6\]"):
        make_stream().begin_with(torch.zeros(1, 2, 4, 4, 6))
