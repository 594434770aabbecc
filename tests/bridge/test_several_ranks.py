"""A server whose stream is made by two processes."""

import os
import signal
from collections.abc import Callable

import pytest
from tests.waiting import wait_for
from typer.testing import CliRunner

from everscene_bridge.cli import app
from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.server import Server

pytest.importorskip("torch")

from everscene_engine.live import LiveEngine
from everscene_engine.rank_processes import RankProcesses

TWO = EngineChoice("pocket", steps=1, device="cpu", threads=1, gpus=2)


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
        wait_for(lambda: server.stream._autosaves, "no automatic snapshot", 30)
        lost = others_of(server).process_ids
        os.kill(lost[0], signal.SIGKILL)
        wait_for(lambda: "rank 1 was ended by signal 9" in server.stream.timeline.engine_down, "it was not told", 5)
        wait_for(lambda: not server.stream.timeline.engine_down, "the engine was not made anew", 60)
        before = world.stats().frame
        wait_for(lambda: world.stats().frame > before + 8, "the stream has stopped", 60)
        assert others_of(server).process_ids != lost
        assert "rain" in world.stats().prompt


def test_heads_that_cannot_be_shared_out_are_told_at_the_door() -> None:
    result = CliRunner().invoke(app, ["serve", "--gpus", "4", "--device", "cpu"])
    assert result.exit_code == 1
    assert "6 heads cannot be shared out over 4 GPUs; take a number of 1, 2, 3, 6" in result.output
