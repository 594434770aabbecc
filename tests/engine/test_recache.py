"""Recaching: one forward for chunks in turn, and a recache whose older part is settled later."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everscene_engine.config import StreamConfig
from everscene_engine.errors import ConfigError
from everscene_engine.stream import LatentStream
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
    stream._restore_shot_sink()
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
    whole._past.clear(), whole._past.extend(stream._past)
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


def test_without_a_change_of_prompt_a_rollback_recaches_all() -> None:
    stream = make_stream(LAST)
    stream.rollback(11)
    stream.generate()
    assert not stream.unsettled


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
