"""A server whose stream is made by two processes."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from everscene_bridge.cli import app
from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.server import Server

pytest.importorskip("torch")

from everscene_engine.live import LiveEngine
from everscene_engine.rank_processes import RankProcesses

TWO = EngineChoice("pocket", steps=1, device="cpu", threads=1, gpus=2)


def within(seconds: float, ready: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def others_of(server: Server) -> RankProcesses:
    engine = server.stream._engine
    assert isinstance(engine, LiveEngine)
    others: RankProcesses = engine._stream._others  # type: ignore[attr-defined]
    return others


def test_a_killed_rank_is_told_within_five_seconds_and_the_server_goes_on(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(loader(TWO), autosave_s=0.2)
    with Client(server.endpoint) as world:
        world.event("rain").wait("applied", 30)
        assert within(30, lambda: bool(server.stream._autosaves))
        lost = others_of(server).process_ids
        os.kill(lost[0], signal.SIGKILL)
        assert within(5, lambda: "rank 1 was ended by signal 9" in server.stream.timeline.engine_down)
        assert within(60, lambda: not server.stream.timeline.engine_down)
        before = world.stats().frame
        assert within(60, lambda: world.stats().frame > before + 8)
        assert others_of(server).process_ids != lost
        assert "rain" in world.stats().prompt


def test_heads_that_cannot_be_shared_out_are_told_at_the_door() -> None:
    result = CliRunner().invoke(app, ["serve", "--gpus", "4", "--device", "cpu"])
    assert result.exit_code == 1
    assert "6 heads cannot be shared out over 4 GPUs; take a number of 1, 2, 3, 6" in result.output
