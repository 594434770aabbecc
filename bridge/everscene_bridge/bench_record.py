"""`everscene bench record`: does a recording slow the stream down?

One server runs all the time. Windows without and with a recorder follow one another in turn, so that what else happens
on the machine falls on both alike. In each, the rate of generation is asked for several times a second; compared are
the medians.
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everscene_bridge.bench_server import wait_until_warm
from everscene_bridge.client import Client
from everscene_bridge.scene import Scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_bridge.show import RecorderProcess
from everscene_engine.port import EnginePort

ASK_EVERY_S = 0.2
SETTLE_CHUNKS = 8
"""Chunks left out at the start of each window: the rate of generation is a median over so many."""


@dataclass
class _Windows:
    """What was seen in all windows of one kind."""

    generation_fps: list[float] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0
    held: int = 0

    def summary(self) -> dict[str, float]:
        """For people."""
        return {
            "generation_fps": statistics.median(self.generation_fps) if self.generation_fps else 0.0,
            "fps": self.frames / self.seconds if self.seconds else 0.0,
            "held": self.held,
        }


def measure(load: Callable[[], EnginePort], scene: Scene, window_s: float, rounds: int) -> dict[str, Any]:
    """`without`, `with` and their `ratio` of generation; `recorded` and `lost` frames of the recordings."""
    engine = load()
    info = engine.info
    settle_s = SETTLE_CHUNKS * info.chunk_seconds
    without, recorded = _Windows(), _Windows()
    settings = ServeSettings(control_port=0, frames_port=0, autosave_s=0.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(engine, load, scene, settings) as server,
        Client(server.endpoint, name="everscene bench") as world,
    ):
        wait_until_warm(world)
        for number in range(rounds):
            take = Path(folder) / f"{number}.mp4"
            for windows, recording in ((without, nullcontext()), (recorded, _recording(server.endpoint, take))):
                with recording:
                    threading.Event().wait(settle_s)
                    _watch(world, windows, window_s)
        frames, lost = _counts(Path(folder))
    plain, busy = without.summary(), recorded.summary()
    ratio = busy["generation_fps"] / plain["generation_fps"] if plain["generation_fps"] else 0.0
    about = {"model": info.model, "device": info.device, "size": [info.width, info.height], "steps": info.steps}
    return {"without": plain, "with": busy, "ratio": ratio, "recorded": frames, "lost": lost, **about}


def _watch(world: Client, windows: _Windows, window_s: float) -> None:
    before, start = world.stats(), time.monotonic()
    while time.monotonic() - start < window_s:
        threading.Event().wait(ASK_EVERY_S)
        windows.generation_fps.append(world.stats().generation_fps)
    after = world.stats()
    windows.frames += after.frames - before.frames
    windows.held += after.held - before.held
    windows.seconds += time.monotonic() - start


@contextmanager
def _recording(endpoint: str, path: Path) -> Iterator[None]:
    recorder = RecorderProcess(["record", "--endpoint", endpoint], lambda: path, None)
    recorder.begin()
    try:
        yield
    finally:
        recorder.end()


def _counts(folder: Path) -> tuple[int, int]:
    """Frames recorded and lost, by the recordings' own account."""
    ends = [json.loads(path.read_text(encoding="utf-8").splitlines()[-1]) for path in sorted(folder.glob("*.jsonl"))]
    return sum(end["frames"] for end in ends), sum(end["lost"] for end in ends)
