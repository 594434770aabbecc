"""Recaching the newest chunks first, as the server does it: with the real pocket model."""

from pathlib import Path

import pytest
from tests.bridge.test_long_replay import Hurried
from tests.bridge.test_replay import lines, record, until

from everscene_bridge.cli_bench import recache_depth_of
from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import SettingsError
from everscene_bridge.replay import replay


def test_what_a_recache_left_is_done_in_idle_time_and_replayed(tmp_path: Path) -> None:
    """At a third of its rate, so that one thread on a busy machine has idle time too."""
    choice = EngineChoice("pocket", seed=4, threads=1, steps=1, recache_depth=1)

    def script(world: Client) -> None:
        until(world, 12)
        for name in ("night", "storm", "calm") * 4:
            world.event(name).wait("applied", 30)
            until(world, 12)
            if lines(tmp_path / "run.jsonl", "settle"):
                return

    path = record(tmp_path, script, lambda: Hurried(loader(choice)(), 1 / 3), choice)
    assert lines(path, "settle")
    result = replay(path, lambda choice: loader(choice)())
    assert result.first_difference is None and result.frames == len(lines(path, "frame"))


@pytest.mark.parametrize(("text", "depth"), [("own", None), ("all", 0), ("last", 1), ("3", 3)])
def test_a_depth_is_all_last_or_a_number(text: str, depth: int | None) -> None:
    assert recache_depth_of(text) == depth


@pytest.mark.parametrize("text", ["0", "-1", "some", "1.5", ""])
def test_another_depth_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--recache-depth is"):
        recache_depth_of(text)
