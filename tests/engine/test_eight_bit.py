"""The cache's second form, E4M3, through everything that happens to a sink; in Triton's interpreter without a GPU."""

import gc
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everscene_engine.config import TransformerConfig
from everscene_engine.kv_cache import CachedAttention, KVCache, Turn
from everscene_engine.rope import Rotation, rotate
from everscene_engine.slots import Resident
from everscene_engine.stream import LatentStream
from tests.engine.small import STREAM, small_prompt, small_transformer

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

from everscene_engine.eight_bit import EightBitCache
from everscene_engine.fast_transformer import accelerated
from everscene_kernels.fp8 import e4m3

DEVICE = torch.device("cpu" if triton.knobs.runtime.interpret else "cuda")
LAYERS, SLOTS, FRAMES, FRAME_TOKENS, HEADS, WIDTH = 2, 3, 2, 3, 1, 8
TOKENS = FRAMES * FRAME_TOKENS
SCALES = [4.0, 0.5]
CONFIG = TransformerConfig(dim=32, ffn_dim=32, layers=1, heads=2, channels=4, text_dim=16, freq_dim=32)
SHORT = replace(
    STREAM, latent_height=2, latent_width=2, window_chunks=2, shot_sink=True, shot_offset=2, steps=1, sink_reach=6
)  # a token a latent frame


def full_cache() -> tuple[KVCache, list[Resident]]:
    """A sink and two chunks, each full."""
    cache = KVCache(LAYERS, 1, SLOTS, FRAMES, FRAME_TOKENS, HEADS, WIDTH, torch.bfloat16, DEVICE)
    residents = [cache.table.open(chunk, FRAMES * chunk, FRAMES) for chunk in range(SLOTS)]
    for seed, resident in enumerate(residents):
        write(cache, resident, seed)
    residents[0] = cache.table.pin(residents[0])
    return cache, residents


def numbers(seed: int) -> Tensor:
    """Queries, keys and values [3, 1, tokens, H, E]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 1, TOKENS, HEADS, WIDTH, generator=generator).to(DEVICE, torch.bfloat16)


def seeing_all(cache: KVCache, own: Resident) -> CachedAttention:
    return cache.attention(own, cache.table.residents)


def write(cache: KVCache, resident: Resident, seed: int) -> None:
    """In bfloat16 alone, as a forward that does not see the whole cache."""
    _, k, v = numbers(seed)
    for layer in range(LAYERS):
        cache.attention(resident, []).keep(layer, k, v)


def write_both(cache: KVCache, eight: EightBitCache, own: Resident, seed: int) -> None:
    """As a forward with FP8 attention."""
    attention = seeing_all(cache, own)
    eight.refresh(attention)
    q, k, v = numbers(seed)
    for layer in range(LAYERS):
        place = attention.place(layer)
        assert place is not None
        place[0].copy_(k)
        place[1].copy_(v)
        eight.put(layer, attention, q[0], k[0], v[0])
    attention.written()
    eight.written(attention)


def assert_converted(cache: KVCache, eight: EightBitCache, own: Resident) -> None:
    """After a refresh for a forward of `own`, the other slots are in E4M3 what they are in bfloat16."""
    eight.refresh(seeing_all(cache, own))
    for layer, scale in enumerate(SCALES):
        for slot in range(SLOTS):
            part = slice(slot * TOKENS, (slot + 1) * TOKENS)
            if slot != own.slot:
                keys, values = cache.keys[layer][0, part], cache.values[layer][0, part].float() * scale
                assert same(eight._keys[layer][part], e4m3(keys)), "keys"
                assert same(eight._values[layer][part], e4m3(values)), "values"


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


class Conversions:
    """Counts the slots that are converted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slots: list[int] = []
        convert = EightBitCache._convert

        def counted(eight: EightBitCache, slot: int) -> None:
            self.slots.append(slot)
            convert(eight, slot)

        monkeypatch.setattr(EightBitCache, "_convert", counted)


def test_values_are_not_converted_again_when_keys_alone_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = Conversions(monkeypatch)
    cache, (sink, _, last) = full_cache()
    eight = EightBitCache(cache, SCALES, "triton")
    assert_converted(cache, eight, last)
    assert converted.slots == [0, 1]
    for shift in (1, 2, 9, 0):
        cache.present(sink, shift)
        assert_converted(cache, eight, last)
    assert converted.slots == [0, 1]


def test_a_sink_that_is_turned_before_it_was_ever_converted_is_converted_whole() -> None:
    cache, (sink, _, last) = full_cache()
    cache.present(sink, 3)
    eight = EightBitCache(cache, SCALES, "triton")
    cache.present(sink, 5)
    assert_converted(cache, eight, last)


def test_a_sink_that_is_let_go_and_turned_back_stays_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = Conversions(monkeypatch)
    cache, (sink, _, last) = full_cache()
    eight = EightBitCache(cache, SCALES, "triton")
    cache.present(sink, 3)
    assert_converted(cache, eight, last)
    cache.unpin(sink)
    assert_converted(cache, eight, last)
    assert converted.slots == [0, 1]


def test_a_part_of_a_slot_that_is_turned_leaves_the_rest_to_be_converted() -> None:
    """As after a rollback into a chunk: the resident has fewer latent frames than its slot."""
    cache, (sink, _, last) = full_cache()
    eight = EightBitCache(cache, SCALES, "triton")
    cache.present(replace(sink, frames=1), 3)
    assert_converted(cache, eight, last)
    cache.present(replace(sink, frames=1), 4)
    assert_converted(cache, eight, last)


def test_a_form_of_the_cache_that_is_not_the_last_one_converts_what_it_missed() -> None:
    cache, (sink, _, last) = full_cache()
    older, newer = (EightBitCache(cache, SCALES, "triton") for _ in range(2))
    for one in (older, newer):
        assert_converted(cache, one, last)
    cache.present(sink, 3)
    for one in (older, newer):
        assert_converted(cache, one, last)


def test_a_cache_whose_other_form_is_gone_turns_its_keys_alone() -> None:
    cache, (sink, *_) = full_cache()
    alone, (other, *_) = full_cache()
    eight = EightBitCache(cache, SCALES, "triton")
    del eight
    gc.collect()
    for one, resident in ((cache, sink), (alone, other)):
        one.present(resident, 3)
    assert cache._other_form is not None and cache._other_form() is None
    assert all(torch.equal(a, b) for a, b in zip(cache.keys, alone.keys, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_both_forms_agree_whatever_happened(seed: int) -> None:
    """Slots written in one form or in both, sinks turned, made anew, let go, turned in the middle of a recache."""
    rng = random.Random(seed)
    cache, residents = full_cache()
    eight = EightBitCache(cache, SCALES, "triton")

    def in_turn(sink: Resident) -> None:
        parts = [Turn(own, [sink], {sink: rng.randrange(9)}) for own in residents[1:]]
        together = torch.cat([numbers(rng.randrange(99)), numbers(rng.randrange(99))], dim=2)
        attention = cache.attention_in_turn(parts)
        for layer in range(LAYERS):
            attention(layer, *together)

    def made_anew(sink: Resident) -> None:
        cache.unpin(sink)
        write(cache, residents[0], rng.randrange(99))
        cache.table.pin(cache.table.residents[0])

    acts: list[Callable[[Resident], None]] = [
        lambda sink: cache.present(sink, rng.randrange(9)),
        lambda sink: cache.present(sink, rng.randrange(9)),
        lambda _: write(cache, rng.choice(residents[1:]), rng.randrange(99)),
        lambda _: write_both(cache, eight, rng.choice(residents[1:]), rng.randrange(99)),
        in_turn,
        made_anew,
        lambda _: assert_converted(cache, eight, rng.choice(residents[1:])),
    ]
    for _ in range(24):
        rng.choice(acts)(cache.table.pinned[0])
    for own in residents[1:]:
        assert_converted(cache, eight, own)


def history() -> tuple[list[Tensor], LatentStream]:
    """A stream of the fast path with FP8 attention, whose sinks soon are far away, through a recache, a cut and a
    rollback into a chunk."""
    model = small_transformer(CONFIG).to(DEVICE, torch.bfloat16)
    stream = LatentStream(accelerated(model, attention="triton"), SHORT, seed=1)
    made: list[Tensor] = []

    def chunks(count: int) -> None:
        for _ in range(count):
            chunk = stream.generate()
            assert chunk is not None
            made.append(chunk.latents)

    stream.steer(small_prompt(stream.transformer))
    chunks(6)
    stream.steer(small_prompt(stream.transformer, seed=1))
    chunks(1)
    stream.steer(small_prompt(stream.transformer, seed=2), "cut")
    chunks(4)
    stream.rollback(stream.next_frame - 3)
    chunks(1)
    return made, stream


def converted_later(eight: EightBitCache, layer: int, span: tuple[int, int], made: Tensor, turn: Rotation) -> None:
    """The plain way: keys turned in bfloat16 alone, the slot converted whole when it is next seen."""
    eight._cache.keys[layer][:, span[0] : sum(span)] = rotate(made, turn)


def test_a_stream_makes_the_same_latents_as_with_keys_turned_and_converted_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted = Conversions(monkeypatch)
    found, stream = history()
    fewer = len(converted.slots)
    assert any(stream._cache._shifts.values()), "a sink is presented later"
    monkeypatch.setattr(EightBitCache, "turn", converted_later)
    wanted, _ = history()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert fewer < len(converted.slots) - fewer
