"""`everscene bench latency`: from an event to the first frame under it, on a server of one's own.

Events are sent one after another, each a random while after the one before was applied, so that they meet chunks and
frames at any point. The same is done with the interrupt off, for comparison. The bound is 1.25 × (one recache, one
chunk generated, its first latent frame decoded), of the medians of the same run.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from time import sleep
from typing import Any

from everscene_bridge.client import Client
from everscene_bridge.errors import SettingsError
from everscene_bridge.messages import Stats
from everscene_bridge.scene import Scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_bridge.stats import Distribution
from everscene_bridge.timeline import TimelineSettings
from everscene_engine.port import EngineInfo, EnginePort

BOUND = 1.25
LONGEST_GAP_CHUNKS = 2.0
WARM_CHUNKS = 4
RECEIPT_S = 120.0


@dataclass(frozen=True)
class _Run:
    latency_ms: Distribution
    stats: Stats


def latency(load: Callable[[], EnginePort], scene: Scene, events: int, seed: int = 0) -> dict[str, Any]:
    """Measure; `event_to_frame_ms`, `bound_ms`, `without_interrupt_ms`, `stages` and what was measured on what.

    events: for each of the two runs. Raises SettingsError for a scene with fewer than two lasting events.
    """
    names = [event.name for event in scene.describe().events if event.for_s is None]
    if len(names) < 2:
        raise SettingsError("the scene needs two events that last, to go from one to the other")
    engine = load()
    info = engine.info
    with_interrupt = _measure(engine, load, scene, names, events, seed, True)
    without = _measure(load(), load, scene, names, events, seed, False)
    distribution, other = with_interrupt.latency_ms.message(), without.latency_ms.message()
    stages = with_interrupt.stats.stages_ms
    return {
        "event_to_frame_ms": {"p50": distribution.p50, "p95": distribution.p95, "max": distribution.max},
        "bound_ms": bound_ms(with_interrupt.stats, info),
        "without_interrupt_ms": {"p50": other.p50, "p95": other.p95},
        "stages": {name: {"p50": one.p50, "p95": one.p95, "max": one.max} for name, one in stages.items()},
        "events": events,
        "model": info.model,
        "device": info.device,
        "steps": info.steps,
        "size": [info.width, info.height],
        "fps": info.fps,
        "generation_fps": with_interrupt.stats.generation_fps,
    }


def bound_ms(stats: Stats, info: EngineInfo) -> float:
    """1.25 × (recache + denoise + clean pass + decode of one latent frame), medians, ms."""
    stage = {name: distribution.p50 for name, distribution in stats.stages_ms.items()}
    first = stage["decode"] / info.latent_frames_per_chunk
    return BOUND * (stage["recache"] + stage["denoise"] + stage["clean"] + first)


def _measure(
    engine: EnginePort,
    load: Callable[[], EnginePort],
    scene: Scene,
    names: list[str],
    events: int,
    seed: int,
    interrupt: bool,
) -> _Run:
    settings = ServeSettings(
        control_port=0, frames_port=0, autosave_s=0.0, timeline=TimelineSettings(interrupt=interrupt)
    )
    chance = random.Random(seed)
    chunk_s = engine.info.chunk_seconds
    found = Distribution()
    with Server(engine, load, scene, settings) as server, Client(server.endpoint, name="everscene bench") as world:
        for frame in world.frames(timeout=RECEIPT_S):
            if frame.chunk >= WARM_CHUNKS:
                break
        name = ""
        for _ in range(events):
            sleep(chance.uniform(0.0, LONGEST_GAP_CHUNKS * chunk_s))
            name = chance.choice([other for other in names if other != name])
            applied = world.event(name).wait("applied", RECEIPT_S)
            assert applied.latency_ms is not None
            found.add(applied.latency_ms)
        return _Run(found, world.stats())
