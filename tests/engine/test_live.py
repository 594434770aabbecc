"""What the live engine keeps, and lets go of: the pocket model on the CPU."""

import gc
import weakref

import pytest
import torch

from everscene_engine import live
from everscene_engine.config import CUT_PREFIX
from everscene_engine.errors import ConfigError, PromptRejected
from everscene_engine.load import load
from everscene_engine.text import words_of

FIRST = "a red fox in the harbour by day"
THEN = "a red fox in the harbour at night"


def test_a_closed_engine_holds_neither_networks_nor_cache_and_still_checks_prompts() -> None:
    engine = load("pocket")
    engine.steer(FIRST, "recache")
    chunk = engine.generate()
    assert chunk is not None
    engine.decode(chunk)
    held = [weakref.ref(engine._transformer), weakref.ref(engine._stream), weakref.ref(engine._stream._cache.keys[0])]
    del chunk
    engine.close()
    engine.close()
    gc.collect()
    assert [one() for one in held] == [None, None, None]
    engine.check(THEN)
    with pytest.raises(PromptRejected):
        engine.check("a zyxwv")


def test_kept_conditionings_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load("pocket")
    engine.steer(FIRST, "recache")
    size = engine._conditionings[FIRST].bytes
    monkeypatch.setattr(live, "REMEMBERED_BYTES", 2 * size)
    for time in ("dawn", "dusk", "night"):
        engine.steer(f"a red fox in the harbour at {time}", "text")
    assert len(engine._conditionings) == 2
    monkeypatch.setattr(live, "REMEMBERED_BYTES", 0)
    engine.steer(FIRST, "text")
    assert list(engine._conditionings) == [FIRST]


def test_kept_conditionings_are_bounded_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load("pocket")
    monkeypatch.setattr(live, "REMEMBERED_PROMPTS", 2)
    for time in ("dawn", "dusk", "night"):
        engine.steer(f"a red fox in the harbour at {time}", "text")
    assert len(engine._conditionings) == 2


def test_a_prompt_that_a_cut_could_not_take_is_refused_at_once() -> None:
    engine = load("pocket")
    room = 40 - len(words_of(CUT_PREFIX))
    engine.check(" ".join(["fox"] * room))
    with pytest.raises(PromptRejected, match=f"has {room + 1} words; the rule is at most {room}"):
        engine.check(" ".join(["fox"] * (room + 1)))


def test_a_rollback_that_the_decoder_cannot_follow_changes_nothing() -> None:
    engine, other = load("pocket", seed=3), load("pocket", seed=3)
    for one in (engine, other):
        one.steer(FIRST, "recache")
        for _ in range(3):
            chunk = one.generate()
            assert chunk is not None
            one.decode(chunk)
    engine._decoded.popleft()
    with pytest.raises(ConfigError, match="decoder has forgotten it"):
        engine.rollback(1)
    made, expected = engine.generate(), other.generate()
    assert made is not None and expected is not None and torch.equal(made.latents, expected.latents)
