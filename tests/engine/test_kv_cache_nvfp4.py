"""The KV cache in NVFP4: what it keeps, what attention sees, and that a stream goes on through all that can happen."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everscene_engine.config import StreamConfig, TransformerConfig
from everscene_engine.errors import ConfigError
from everscene_engine.kv_cache import KVCache
from everscene_engine.kv_cache_nvfp4 import NVFP4KVCache, SmoothedKVCache
from everscene_engine.rope import rotate, time_shift
from everscene_engine.stream import LatentStream
from everscene_kernels.nvfp4 import dequantize
from everscene_kernels.nvfp4_kv import quantize_kv
from tests.engine.small import STREAM, small_prompt, small_transformer

CONFIG = TransformerConfig(dim=64, ffn_dim=96, layers=3, heads=2, channels=4, text_dim=32, freq_dim=64)
MODEL = small_transformer(CONFIG)
OLD, NEW = small_prompt(MODEL, seed=3), small_prompt(MODEL, seed=9)
SHOTS = replace(STREAM, shot_sink=True, shot_offset=8)
NEAR = 0.1  # relative, of latents: a window in NVFP4 is 0.03 to 0.06 away here


def make_cache(slots: int = 3) -> NVFP4KVCache:
    return NVFP4KVCache(2, 1, slots, 2, 6, 2, 32, torch.float32, torch.device("cpu"))


def tokens(seed: int, count: int = 12) -> Tensor:
    return torch.randn(1, count, 2, 32, generator=torch.Generator().manual_seed(seed))


def held(x: Tensor) -> Tensor:
    """What NVFP4 makes of a slot's keys or values."""
    return dequantize(quantize_kv(x[0]))[None]


def make_stream(config: StreamConfig = STREAM, chunks: int = 6, kv: str = "nvfp4") -> LatentStream:
    stream = LatentStream(MODEL, config, 1, kv=kv)
    stream.steer(OLD)
    for _ in range(chunks):
        assert stream.generate() is not None
    return stream


def kept(stream: LatentStream) -> dict[int, list[Tensor]]:
    """Keys and values of all layers as attention would see them, by chunk number."""
    cache = stream._cache
    found: dict[int, list[Tensor]] = {}
    for one in cache.table.residents:
        [(start, length)] = spans = cache.spans([one])
        found[one.chunk] = []
        for layer in range(CONFIG.layers):
            cache.load(layer, spans)
            found[one.chunk] += [part[layer][:, start : start + length].clone() for part in (cache.keys, cache.values)]
    return found


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_a_later_chunk_sees_what_four_bits_hold_and_its_own_keys_as_they_are() -> None:
    cache = make_cache()
    first = cache.table.open(0, 0, 2)
    for layer in range(2):
        cache.attention(first, []).keep(layer, tokens(layer), tokens(layer + 5))
    second = cache.table.open(1, 2, 2)
    attention = cache.attention(second, [first], clean=False)
    for layer in range(2):
        attention.keep(layer, tokens(8), tokens(9))
        keys, values = attention.seen(layer)
        assert torch.equal(keys, torch.cat([held(tokens(layer)), tokens(8)], dim=1))
        assert torch.equal(values, torch.cat([held(tokens(layer + 5)), tokens(9)], dim=1))


def test_a_forward_that_is_not_clean_leaves_the_slot_as_it_was() -> None:
    cache = make_cache()
    slot = cache.table.open(0, 0, 2)
    cache.attention(slot, []).keep(0, tokens(1), tokens(2))
    cache.attention(slot, [], clean=False).keep(0, tokens(3), tokens(4))
    cache.load(0, cache.spans([slot]))
    assert torch.equal(cache.keys[0][:, :12], held(tokens(1)))


def test_a_sink_is_turned_from_its_keys_as_they_were_made() -> None:
    cache = make_cache()
    sink = cache.table.open(0, 0, 2)
    cache.attention(sink, []).keep(0, tokens(1), tokens(2))
    for shift in (3, 7, 40):
        cache.present(sink, shift)
    cache.load(0, cache.spans([sink]))
    turned = rotate(held(tokens(1)), time_shift(40, 32, torch.device("cpu")))
    assert torch.equal(cache.keys[0][:, :12], turned)
    cache.unpin(cache.table.pin(sink))
    cache.load(0, cache.spans([sink]))
    assert torch.equal(cache.keys[0][:, :12], held(tokens(1)))


def test_it_takes_three_and_a_half_times_less_memory_than_bfloat16() -> None:
    sizes = (2, 1, 4, 2, 16, 2, 64)
    plain = KVCache(*sizes, torch.bfloat16, torch.device("cpu"))
    assert plain.nbytes >= 3.5 * NVFP4KVCache(*sizes, torch.bfloat16, torch.device("cpu")).nbytes


ACTS: dict[str, Callable[[LatentStream], None]] = {
    "nothing": lambda stream: None,
    "a recache": lambda stream: stream.steer(NEW),
    "a cut": lambda stream: stream.steer(NEW, "cut"),
    "a rollback between chunks": lambda stream: stream.rollback(6),
    "a rollback into a chunk": lambda stream: stream.rollback(5),
    "a rollback into the sink": lambda stream: stream.rollback(1),
    "an interrupt": lambda stream: assert_interrupted(stream),
}


def assert_interrupted(stream: LatentStream) -> None:
    asked = iter([False, True])
    assert stream.generate(lambda: next(asked)) is None


@pytest.mark.parametrize("format", ["nvfp4", "nvfp4-smooth"])
@pytest.mark.parametrize("act", ACTS)
def test_a_stream_goes_on_near_the_exact_one_after(act: str, format: str) -> None:
    made = []
    for kv in ("bf16", format):
        stream = make_stream(SHOTS, chunks=3, kv="bf16")  # the same latents before, so that errors do not add up
        other = LatentStream(MODEL, SHOTS, 1, kv=kv)
        other.restore(stream.kept_before(stream.next_frame), OLD, 1)
        other.steer(OLD)
        chunk = other.generate()
        assert chunk is not None
        ACTS[act](other)
        chunk = other.generate()
        assert chunk is not None
        made.append(chunk.latents)
    assert 0 < error(made[1], made[0]) < NEAR


@pytest.mark.parametrize("chunks", [2, 6, 7, 30])
def test_a_recache_in_one_forward_equals_a_clean_pass_for_each_chunk(chunks: int) -> None:
    streams = [make_stream(chunks=chunks) for _ in range(2)]
    for stream in streams:
        stream.steer(NEW)
    streams[0]._rebuild_window()
    with torch.inference_mode():
        streams[1]._restore_shot_sink(None)
        for chunk in streams[1]._window():
            slot = streams[1]._open(chunk)
            streams[1]._present_sink(slot)
            streams[1]._clean_pass(slot, chunk.latents)
    found, wanted = kept(streams[0]), kept(streams[1])
    assert found.keys() == wanted.keys()
    for number in wanted:
        for a, b in zip(found[number], wanted[number], strict=True):
            assert error(a, b) < 0.02  # a sum in another order may fall to another code, here and there


def test_smoothed_keys_with_a_standing_offset_are_nearer_to_what_they_were() -> None:
    offset = 10 * tokens(3, 1)
    errors = []
    for kind in (NVFP4KVCache, SmoothedKVCache):
        cache = kind(2, 1, 3, 2, 6, 2, 32, torch.float32, torch.device("cpu"))
        sink = cache.table.open(0, 0, 2)
        cache.attention(sink, []).keep(0, tokens(1) + offset, tokens(2))
        cache.present(sink, 7)
        cache.load(0, cache.spans([sink]))
        wanted = rotate(tokens(1) + offset, time_shift(7, 32, torch.device("cpu")))
        errors.append(error(cache.keys[0][:, :12], wanted))
    assert errors[1] < 0.3 * errors[0]


def test_smoothing_is_for_cached_and_current_keys_alike() -> None:
    """The published code takes a mean from the current chunk alone, which shifts its scores against cached ones."""
    cache = SmoothedKVCache(2, 1, 3, 2, 6, 2, 32, torch.float32, torch.device("cpu"))
    offset = 10 * tokens(3, 1)
    first, second = cache.table.open(0, 0, 2), cache.table.open(1, 2, 2)
    cache.attention(first, []).keep(0, tokens(1) + offset, tokens(2))
    attention = cache.attention(second, [first], clean=False)
    attention.keep(0, tokens(1) + offset, tokens(2))
    keys, _ = attention.seen(0)
    query = tokens(8, 1)
    past, present = (keys * query).sum(-1).unflatten(1, (2, 12)).mean(2)[0]
    assert (past - present).abs().max() < 0.02 * present.abs().max()


def test_the_same_stream_twice_is_the_same() -> None:
    one, other = make_stream(SHOTS, 8), make_stream(SHOTS, 8)
    assert torch.equal(one._past.chunks[-1].latents, other._past.chunks[-1].latents)


def test_what_it_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds one clip, not 2; use bf16"):
        LatentStream(MODEL, STREAM, 1, clips=2, kv="nvfp4")
    with pytest.raises(ConfigError, match="heads of a multiple of 16, not 24; use bf16"):
        LatentStream(small_transformer(), STREAM, 1, kv="nvfp4")
