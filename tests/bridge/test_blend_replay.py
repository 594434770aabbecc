"""A run with blends can be done again from its log, bit for bit; the pocket model, so each mixture is in its frames."""

import json
from pathlib import Path

from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.replay import replay
from everscene_bridge.run_log import RunLog
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings

NIGHT = "a red fox trots along the forest at night, heavy snow"
CHOICE = EngineChoice("pocket", steps=1, device="cpu", threads=1)


def test_a_run_with_blends_is_done_again_bit_for_bit(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    engine = loader(CHOICE)()
    settings = ServeSettings(control_port=0, frames_port=0, ring_dir=tmp_path, state_dir=tmp_path)
    with (
        RunLog(log, CHOICE, engine.info) as run_log,
        Server(engine, loader(CHOICE), load_scene(), settings, run_log=run_log) as server,
        Client(server.endpoint) as world,
    ):
        first = next(frame.number for frame in world.frames(timeout=60))
        world.prompt(NIGHT, "blend", seconds=2.0).wait("applied", 60)
        world.slots({"time": "at dawn"}, "blend", seconds=1.0).wait("applied", 60)  # within the first
        end = next(frame for frame in world.frames(timeout=60) if frame.number > first + 60)
        assert end.prompt == "a red fox trots along the harbour at dawn, clear sky"
    works = [json.loads(line) for line in log.read_text().splitlines()]
    mixes = [line["steer"][0] for line in works if line["kind"] == "work" and line["steer"] is not None]
    assert any(isinstance(mix, list) and isinstance(mix[0], list) for mix in mixes)
    result = replay(log, lambda choice: loader(choice)())
    assert result.first_difference is None and result.frames > 60
