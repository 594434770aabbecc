"""Snapshots of the live engine: what is restored goes on as what was never interrupted. On the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from everscene_engine.errors import ConfigError, SnapshotError
from everscene_engine.live import LiveEngine
from everscene_engine.load import load
from everscene_engine.port import EngineState
from everscene_engine.stream import LatentStream
from tests.engine.small import STREAM, small_prompt, small_transformer

FIRST = "a red fox in the harbour by day"
THEN = "a red fox in the harbour at night"


def run(engine: LiveEngine, chunks: int) -> list[np.ndarray]:
    blocks = []
    for _ in range(chunks):
        chunk = engine.generate()
        assert chunk is not None
        blocks.append(engine.decode(chunk).pixels)
    return blocks


@pytest.fixture(scope="module")
def rolled_back() -> tuple[EngineState, list[np.ndarray]]:
    """A snapshot inside a chunk, and what the engine it is from gave after a rollback to the same place: with a whole
    recache, which is what a restored one makes."""
    engine = load("pocket", seed=3, recache_depth=0)
    engine.steer(FIRST, "recache")
    run(engine, 4)
    state = engine.snapshot(5)
    engine.rollback(5)
    engine.steer(THEN, "recache")
    return state, run(engine, 2)


def test_a_new_engine_goes_on_from_a_snapshot_as_the_old_one_did(
    rolled_back: tuple[EngineState, list[np.ndarray]],
) -> None:
    state, expected = rolled_back
    engine = load("pocket", seed=77, recache_depth=0)
    engine.restore(state)
    engine.steer(THEN, "recache")
    for pixels, wanted in zip(run(engine, 2), expected, strict=True):
        assert (pixels == wanted).all()


def test_another_seed_makes_another_future(rolled_back: tuple[EngineState, list[np.ndarray]]) -> None:
    state, expected = rolled_back
    engine = load("pocket", seed=3)
    engine.restore(state.with_seed(4))
    engine.steer(THEN, "recache")
    assert not (run(engine, 1)[0] == expected[0]).all()


def test_a_snapshot_is_small_and_leaves_the_stream_alone() -> None:
    taken, undisturbed = load("pocket", seed=3), load("pocket", seed=3)
    for engine in (taken, undisturbed):
        engine.steer(FIRST, "recache")
        run(engine, 2)
    state = taken.snapshot(3)
    assert sum(array.nbytes for array in state.arrays.values()) < 4_000_000
    assert (run(taken, 1)[0] == run(undisturbed, 1)[0]).all()


def test_a_large_decoder_is_warmed_up_in_place_of_being_kept(
    rolled_back: tuple[EngineState, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = rolled_back
    monkeypatch.setattr("everscene_engine.live.SNAPSHOT_DECODER_BYTES", 0)
    engine = load("pocket", seed=3)
    engine.steer(FIRST, "recache")
    run(engine, 4)
    state = engine.snapshot(5)
    assert not [name for name in state.arrays if name.startswith("decoder.")]
    engine.restore(state)
    engine.steer(THEN, "recache")
    assert (run(engine, 1)[0] == expected[0]).mean() > 0.9


@pytest.mark.parametrize("facts", [{"decoder": "another"}, {"decoder": None}])
def test_with_another_decoder_the_newest_latents_warm_it_up(
    rolled_back: tuple[EngineState, list[np.ndarray]], facts: dict[str, object]
) -> None:
    """A state of another decoder or another dtype, and of a file from before the kind was written."""
    state, expected = rolled_back
    arrays = {name: array[..., :1] if name.startswith("decoder.") else array for name, array in state.arrays.items()}
    engine = load("pocket", seed=3, recache_depth=0)
    engine.restore(EngineState({**state.facts, **facts}, arrays))
    engine.steer(THEN, "recache")
    assert (run(engine, 1)[0] == expected[0]).mean() > 0.9


def test_the_sink_of_a_snapshot_has_the_prompt_that_it_was_made_under() -> None:
    engine = load("pocket", seed=3)
    engine.steer(FIRST, "recache")
    run(engine, 2)
    engine.steer(THEN, "recache")
    run(engine, 1)
    assert engine.snapshot(5).facts["sink_prompt"] == FIRST
    engine.rollback(1)
    engine.steer(THEN, "text")
    run(engine, 1)
    assert engine.snapshot(2).facts["sink_prompt"] == FIRST


def test_another_models_snapshot_is_refused_by_name(rolled_back: tuple[EngineState, list[np.ndarray]]) -> None:
    state, _ = rolled_back
    other = replace(state, facts={**state.facts, "model": "longlive2-5b", "width": 1280, "height": 704})
    engine = load("pocket")
    with pytest.raises(SnapshotError, match=r"'longlive2-5b' at 1280×704; this engine runs 'pocket' at 256×144"):
        engine.restore(other)


def test_a_snapshot_that_lacks_something_is_refused(rolled_back: tuple[EngineState, list[np.ndarray]]) -> None:
    state, _ = rolled_back
    arrays = {name: array for name, array in state.arrays.items() if name != "fed"}
    with pytest.raises(SnapshotError, match=r"damaged.*fed"):
        load("pocket").restore(replace(state, arrays=arrays))


@pytest.mark.parametrize("frame", [0, 9, 100])
def test_there_is_no_snapshot_where_nothing_is_kept(frame: int) -> None:
    model = small_transformer()
    stream = LatentStream(model, STREAM, seed=1)
    stream.steer(small_prompt(model))
    for _ in range(20 if frame == 9 else 3):
        stream.generate()
    with pytest.raises(ConfigError, match=str(frame)):
        stream.kept_before(frame)


def test_a_restored_stream_makes_the_same_latents_far_from_the_start() -> None:
    """The sink's keys are made under the prompt it was first made under, whatever is steered to later."""
    model = small_transformer()
    first, then = small_prompt(model), small_prompt(model, seed=9)
    stream = LatentStream(model, STREAM, seed=1)
    stream.steer(first)
    for _ in range(10):
        stream.generate()
    other = LatentStream(model, STREAM, seed=5)
    other.restore(stream.kept_before(19), first, seed=1)
    stream.rollback(19)
    for one in (stream, other):
        one.steer(then)
    made, again = stream.generate(), other.generate()
    assert made is not None and again is not None
    assert (made.number, made.first_frame) == (again.number, again.first_frame) == (10, 19)
    torch.testing.assert_close(again.latents, made.latents, atol=1e-5, rtol=0)
