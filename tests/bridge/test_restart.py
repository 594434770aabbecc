"""An engine that failed is made anew: what becomes of those that did not work."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.bridge.harness import QUICK
from tests.bridge.test_commands import wait_for

from everscene_bridge import back_off
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.server import Server
from everscene_engine.port import EngineState, GeneratedChunk

StartServer = Callable[..., Server]


class Fragile(PatternEngine):
    """Breaks when it is told to, and counts how often it was closed."""

    broken = False
    restores = True
    closed = 0

    def generate(self, interrupted: Callable[[], bool], *callbacks: Any) -> GeneratedChunk | None:
        if self.broken:
            raise RuntimeError("it broke")
        return super().generate(interrupted, *callbacks)

    def restore(self, state: EngineState) -> None:
        if not self.restores:
            raise RuntimeError("out of memory")
        super().restore(state)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "FIRST_S", 0.05)


def engines(made: list[Fragile], bad: range) -> Callable[[], Fragile]:
    """Makes engines; those at these places cannot restore."""

    def make() -> Fragile:
        made.append(Fragile(width=64, height=36, times=QUICK))
        made[-1].restores = len(made) - 1 not in bad
        return made[-1]

    return make


def breaks(start_server: StartServer, made: list[Fragile], bad: range) -> Server:
    """A server that has three automatic snapshots, whose engine then breaks, and which goes on with the first good."""
    server: Server = start_server(engines(made, bad), autosave_s=0.1)
    wait_for(lambda: len(server.stream._autosaves) == 3, "no automatic snapshots")
    made[0].broken = True
    wait_for(lambda: server.stream.timeline.totals.restarts == 1, "the engine was not made anew")
    return server


def test_an_engine_that_cannot_be_restored_is_closed(start_server: StartServer) -> None:
    made: list[Fragile] = []
    breaks(start_server, made, range(1, 3))
    assert [engine.closed for engine in made] == [1, 1, 1, 0]


def test_an_engine_that_failed_is_closed_once_however_often_a_new_one_is_tried(start_server: StartServer) -> None:
    made: list[Fragile] = []
    server = breaks(start_server, made, range(1, 3))
    server.stop()
    assert [engine.closed for engine in made] == [1, 1, 1, 1]


def test_a_new_engine_comes_though_the_old_one_cannot_be_closed(start_server: StartServer) -> None:
    class Clinging(Fragile):
        def close(self) -> None:
            super().close()
            if self.broken:
                raise RuntimeError("the device is lost")

    made: list[Clinging] = []

    def make() -> Clinging:
        made.append(Clinging(width=64, height=36, times=QUICK))
        return made[-1]

    server = start_server(make, autosave_s=0.0)
    made[0].broken = True
    wait_for(lambda: server.stream.timeline.totals.restarts == 1, "the engine was not made anew")
    before = server.stream.timeline.latest
    time.sleep(0.3)
    assert server.stream.timeline.latest > before
