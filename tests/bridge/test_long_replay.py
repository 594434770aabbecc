"""Three minutes of the real pocket model with 40 events, and the same again to the last bit. `make test-replay`.

The recording does not wait for the clock: the engine says that its content has a higher rate, so frames leave as fast
as they are made.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.bridge.test_replay import lines, record

from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.replay import replay
from everscene_engine.port import EngineInfo, EnginePort

pytestmark = pytest.mark.slow

SECONDS, EVENTS = 180, 40
HURRY = 8


class Hurried:
    """An engine that asks to be shown at a multiple of its rate, or at a part of it."""

    def __init__(self, engine: EnginePort, times: float = HURRY) -> None:
        self._engine = engine
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def info(self) -> EngineInfo:
        return replace(self._engine.info, fps=self._times * self._engine.info.fps)


def script(frames: int) -> Callable[[Client], None]:
    """40 events and prompts at random frames, of every kind that the scene has."""
    chance = random.Random(7)
    times = sorted(chance.sample(range(frames // 40, frames - frames // 40), EVENTS))

    def play(world: Client) -> None:
        names = [event.name for event in world.scene.events]
        receipts = []
        for frame in world.frames(timeout=60):
            while times and frame.number >= times[0]:
                times.pop(0)
                receipts.append(world.event(chance.choice(names), chance.choice(["now", "chunk", None])))
            if frame.number >= frames and all(receipt.done for receipt in receipts):
                break
        assert len(receipts) == EVENTS and all(receipt.state in ("applied", "superseded") for receipt in receipts)

    return play


@pytest.mark.parametrize("recache_depth", [0, 1])
def test_a_three_minute_run_with_forty_events_is_the_same_again(tmp_path: Path, recache_depth: int) -> None:
    choice = EngineChoice("pocket", seed=20, recache_depth=recache_depth)
    engine = loader(choice)()
    frames = round(SECONDS * engine.info.fps)
    path = record(tmp_path, script(frames), lambda: Hurried(engine), choice, autosave_s=5.0)
    shown = lines(path, "frame")
    assert [line["frame"] for line in shown] == list(range(1, len(shown) + 1)) and len(shown) >= frames
    assert len({line["hash"] for line in shown}) > 0.9 * len(shown), "the picture moves"
    assert any(line["rollback"] is not None for line in lines(path, "work")), "no event interrupted anything"
    result = replay(path, lambda choice: loader(choice)())
    assert result.first_difference is None and result.frames == len(shown)
