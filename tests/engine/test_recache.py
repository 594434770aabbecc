"""Recaching: one forward for chunks in turn, and a recache whose older part is settled later."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everscene_engine.config import StreamConfig
from everscene_engine.errors import ConfigError
from everscene_engine.stream import LatentStream, Transition
from tests.engine.small import STREAM, small_prompt, small_transformer

MODEL = small_transformer()
OLD, NEW = small_prompt(MODEL, seed=3), small_prompt(MODEL, seed=9)
LAST = replace(STREAM, recache_depth=1)


def make_stream(config: StreamConfig = STREAM, chunks: int = 6) -> LatentStream:
    stream = LatentStream(MODEL, config, 1)
    stream.steer(OLD)
    for _ in range(chunks):
        assert stream.generate() is not None
    return stream


def cache_of(stream: LatentStream) -> dict[int, list[Tensor]]:
    """Keys and values of all layers by chunk number."""
    cache = stream._cache
    found: dict[int, list[Tensor]] = {}
    for one in cache.table.residents:
        [(start, length)] = cache.spans([one])
        found[one.chunk] = [held[:, start : start + length].clone() for held in (*cache.keys, *cache.values)]
    return found


def same(one: dict[int, list[Tensor]], other: dict[int, list[Tensor]], tolerance: float = 1e-5) -> bool:
    """tolerance: float32 sums of one forward over several chunks may be ordered otherwise than those of one chunk."""
    return one.keys() == other.keys() and all(
        torch.allclose(a, b, atol=tolerance, rtol=0) for n in one for a, b in zip(one[n], other[n], strict=True)
    )


def recache(stream: LatentStream, depth: int | None = None) -> None:
    """What `generate` begins with."""
    stream._rebuild_window(depth)
    stream._recache_due = False


@torch.inference_mode()
def chunk_by_chunk(stream: LatentStream) -> None:
    """What a recache is defined as."""
    stream._restore_shot_sink(None)
    for chunk in stream._window():
        slot = stream._open(chunk)
        stream._present_sink(slot)
        stream._clean_pass(slot, chunk.latents)


@pytest.mark.parametrize("chunks", [2, 5, 6, 7, 30])
def test_one_forward_over_the_window_equals_a_clean_pass_for_each_chunk(chunks: int) -> None:
    """At 7 chunks the window's last alone meets the sink at the reach; at 30 each meets it turned by another angle."""
    stream, other = make_stream(chunks=chunks), make_stream(chunks=chunks)
    stream.steer(NEW), other.steer(NEW)
    stream._rebuild_window()
    chunk_by_chunk(other)
    assert same(cache_of(stream), cache_of(other))
    assert stream._cache._shifts == other._cache._shifts
    assert stream._cache.table.residents == other._cache.table.residents


def test_one_forward_over_a_window_with_a_shot_sink_equals_a_clean_pass_for_each_chunk() -> None:
    streams = [make_stream(replace(STREAM, shot_sink=True, shot_offset=8)) for _ in range(2)]
    for stream in streams:
        stream.steer(OLD, "cut")
        for _ in range(9):
            stream.generate()
        stream.steer(NEW)
    streams[0]._rebuild_window()
    chunk_by_chunk(streams[1])
    assert same(cache_of(streams[0]), cache_of(streams[1]))


def test_a_recache_of_depth_one_makes_the_newest_chunk_anew_and_no_other() -> None:
    stream = make_stream(LAST)
    before = cache_of(stream)
    stream.steer(NEW)
    stream._rebuild_window(1)
    after = cache_of(stream)
    assert sorted(after) == [0, 3, 4, 5]
    changed = [n for n in after if not all(torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))]
    assert changed == [5]


def test_settled_at_once_it_is_a_whole_recache() -> None:
    stream, whole = make_stream(LAST), make_stream()
    stream.steer(NEW), whole.steer(NEW)
    recache(stream, 1)
    recache(whole)
    passes = 0
    while stream.settle():
        passes += 1
    assert passes == 3
    assert same(cache_of(stream), cache_of(whole))


def test_settled_after_the_next_chunk_it_is_a_whole_recache_of_what_is_there_while_nothing_has_left() -> None:
    """Window not full yet: the oldest chunk that the pass over a younger one saw is still there."""
    roomy = replace(STREAM, window_chunks=8, sink_reach=None, recache_depth=1)
    stream = make_stream(roomy, chunks=4)
    stream.steer(NEW)
    stream.generate()
    assert stream.unsettled
    while stream.settle():
        pass
    settled = cache_of(stream)
    stream.steer(NEW)
    stream._rebuild_window()
    assert same(settled, cache_of(stream))


def test_chunks_that_leave_the_window_need_not_be_settled() -> None:
    stream = make_stream(LAST)
    stream.steer(NEW)
    for _ in range(6):
        stream.generate()
    passes = 0
    while stream.settle():
        passes += 1
    assert passes == 3, "the three that are in the window now"


def test_settling_goes_on_under_the_text_of_the_recache() -> None:
    stream, other = make_stream(LAST), make_stream(LAST)
    stream.steer(NEW), other.steer(NEW)
    recache(stream, 1), recache(other, 1)
    stream.steer(OLD, "text")
    while stream.settle():
        pass
    while other.settle():
        pass
    assert same(cache_of(stream), cache_of(other))


def test_a_new_recache_takes_the_place_of_what_was_unsettled() -> None:
    stream, whole = make_stream(LAST), make_stream()
    stream.steer(NEW), stream.generate()
    stream.settle()
    stream.steer(OLD), recache(stream, 1)
    while stream.settle():
        pass
    whole.steer(OLD)
    whole._past.chunks.clear(), whole._past.chunks.extend(stream._past.chunks)
    whole._rebuild_window()
    assert same(cache_of(stream), cache_of(whole))


def test_after_a_rollback_the_chunks_that_lost_their_slot_are_absent_until_they_are_settled() -> None:
    stream = make_stream(LAST, chunks=7)
    stream.rollback(11)  # of chunk 5 one latent frame stays; chunk 2 had given its slot away
    stream.steer(NEW)
    made = stream.generate()
    assert made is not None and made.first_frame == 11
    while stream.settle():
        pass
    assert [one.chunk for one in stream._cache.table.residents] == [0, 4, 5, 6]
    again = stream.generate()
    assert again is not None and again.number == 7


def test_a_restored_world_is_recached_whole() -> None:
    stream, fresh = make_stream(LAST), LatentStream(MODEL, LAST, 1)
    fresh.restore(stream.kept_before(12), OLD, 1)
    fresh.steer(NEW)
    made = fresh.generate()
    assert made is not None and not fresh.unsettled


def unchanged(before: dict[int, list[Tensor]], after: dict[int, list[Tensor]]) -> list[int]:
    """The chunks whose keys and values are the same to the bit."""
    both = sorted(before.keys() & after.keys())
    return [n for n in both if all(torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))]


@pytest.mark.parametrize("transition", ["text", "cut"])
def test_after_a_rollback_only_a_recache_takes_the_new_prompt_into_the_window(transition: Transition) -> None:
    stream, other = make_stream(chunks=7), make_stream(chunks=7)
    for one in (stream, other):
        one.rollback(11)  # of chunk 5 one latent frame stays; chunk 2 had given its slot away
    stream.steer(NEW, transition)
    for one in (stream, other):
        one._mend_window()
    assert sorted(cache_of(stream)) == [0, 3, 4, 5]
    assert unchanged(cache_of(stream), cache_of(other)) == [0, 3, 4, 5]


def test_after_a_rollback_chunks_that_are_there_whole_stay_as_they_are() -> None:
    stream = make_stream(chunks=7)
    before = cache_of(stream)
    stream.rollback(10)
    stream._mend_window()
    assert unchanged(before, cache_of(stream)) == [0, 3, 4]
    assert sorted(cache_of(stream)) == [0, 2, 3, 4]


def test_each_chunk_is_mended_under_the_prompt_that_it_was_made_under() -> None:
    """Two chunks are gone from the window, one of each prompt."""
    stream = make_stream(chunks=3)
    stream.steer(NEW, "text")
    for _ in range(3):
        stream.generate()
    alone = make_stream(chunks=3)
    alone.steer(NEW, "text"), alone.generate()
    stream.rollback(8), alone.rollback(8)
    stream.steer(OLD, "text")
    for one in (stream, alone):
        one._cache.table.clear_window()
        one._mend_window()
    assert unchanged(cache_of(stream), cache_of(alone)) == [0, 1, 2, 3]
    stream.steer(OLD), recache(stream)
    assert 3 not in unchanged(cache_of(stream), cache_of(alone))


def test_an_interrupted_chunk_is_made_the_second_time_as_if_it_were_the_first() -> None:
    stream, other = make_stream(), make_stream()
    assert stream.generate(lambda: True) is None
    made, expected = stream.generate(), other.generate()
    assert made is not None and expected is not None and torch.equal(made.latents, expected.latents)
    assert unchanged(cache_of(stream), cache_of(other)) == [0, 3, 4, 5, 6]


def test_a_chunk_made_after_the_recache_is_settled_under_its_own_prompt() -> None:
    roomy = replace(STREAM, window_chunks=8, sink_reach=None, recache_depth=1)
    stream, other = make_stream(roomy, chunks=4), make_stream(roomy, chunks=4)
    for one in (stream, other):
        one.steer(NEW), recache(one, 1)
    while other.settle():
        pass
    stream.steer(OLD, "text"), other.steer(OLD, "text")
    made = stream.generate()
    assert made is not None
    while stream.settle():
        pass
    slot = other._open(made)
    other._present_sink(slot)
    other._clean_pass(slot, made.latents, other._before(slot), OLD)
    assert same(cache_of(stream), cache_of(other))


def test_a_rollback_into_the_sink_keeps_the_prompt_of_the_sink() -> None:
    stream, other = make_stream(chunks=3), make_stream(chunks=1)
    stream.steer(NEW), stream.generate()
    stream.rollback(1), other.rollback(1)
    assert unchanged(cache_of(stream), cache_of(other)) == [0]
    assert stream.sink_text is OLD


def test_a_bidirectional_recache_of_the_sink_gives_it_the_new_prompt() -> None:
    stream = make_stream(replace(STREAM, recache="bidirectional"), chunks=2)
    stream.steer(NEW), stream.generate()
    assert stream.sink_text is NEW


def test_a_bidirectional_recache_is_always_whole() -> None:
    stream = make_stream(replace(LAST, recache="bidirectional"))
    stream.steer(NEW)
    stream.generate()
    assert not stream.unsettled


def test_a_reset_leaves_nothing_to_settle() -> None:
    stream = make_stream(LAST)
    stream.steer(NEW), stream.generate()
    stream.steer(OLD, "reset")
    assert not stream.settle()


def test_a_recache_depth_of_none_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="recache_depth is 0"):
        replace(STREAM, recache_depth=0)
