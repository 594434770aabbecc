"""`everscene bench latency`: from an event to the first frame under it, on a server of one's own.

Events are sent one after another, each a random while after the one before was applied, so that they meet chunks and
frames at any point. The same is done with the interrupt off, for comparison. The bound is 1.25 × (one recache, one
chunk generated, its first latent frame decoded), of the medians of the same run. Several depths of recaching can be
compared in one go.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import sleep
from typing import Any

from everscene_bridge.bench_server import wait_until_warm
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
RECEIPT_S = 120.0
WARM_EVENTS = 3
"""Sent and not counted: kernels are compiled and graphs captured when the first recaches need them."""


@dataclass(frozen=True)
class _Run:
    latency_ms: Distribution
    stats: Stats
    info: EngineInfo


def latency(
    loads: Mapping[str, Callable[[], EnginePort]],
    scene: Scene,
    events: int,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure; `event_to_frame_ms`, `bound_ms`, `stages`, `without_interrupt_ms` and what was measured on what.

    loads: makes of the engine by the name of its recache depth; the keys named above are those of the first, and
    `recache_depths` has the first three of each. `ok`: p95 of the first is within its bound. events: for each run, of
    which there is one more than `loads`. tell: takes a line after each run, for whoever waits.
    Raises SettingsError for a scene with fewer than two lasting events.
    """
    names = [event.name for event in scene.describe().events if event.for_s is None]
    if len(names) < 2:
        raise SettingsError("the scene needs two events that last, to go from one to the other")
    first = next(iter(loads.values()))
    runs: dict[str, _Run] = {}
    depths: dict[str, dict[str, Any]] = {}
    for name, load in loads.items():
        runs[name] = _measure(load, scene, names, events, seed, True)
        depths[name] = _reaction(runs[name])
        reached = depths[name]["event_to_frame_ms"]
        bound = depths[name]["bound_ms"]
        tell(f"recache depth {name}: p50 {reached['p50']:.0f}, p95 {reached['p95']:.0f} ms, bound {bound:.0f} ms")
    without = _measure(first, scene, names, events, seed, False).latency_ms.message()
    info = next(iter(runs.values())).info
    found = next(iter(depths.values()))
    return {
        "ok": found["event_to_frame_ms"]["p95"] <= found["bound_ms"],
        **found,
        "without_interrupt_ms": {"p50": without.p50, "p95": without.p95},
        "recache_depths": depths,
        "events": events,
        "model": info.model,
        "device": info.device,
        "steps": info.steps,
        "size": [info.width, info.height],
        "fps": info.fps,
        "generation_fps": next(iter(runs.values())).stats.generation_fps,
    }


def _reaction(run: _Run) -> dict[str, Any]:
    found = run.latency_ms.message()
    stages = run.stats.stages_ms
    return {
        "event_to_frame_ms": {"p50": found.p50, "p95": found.p95, "max": found.max},
        "bound_ms": bound_ms(run.stats, run.info),
        "stages": {name: {"p50": one.p50, "p95": one.p95, "max": one.max} for name, one in stages.items()},
    }


def bound_ms(stats: Stats, info: EngineInfo) -> float:
    """1.25 × (recache + denoise + clean pass + decode of one latent frame), medians, ms."""
    stage = {name: distribution.p50 for name, distribution in stats.stages_ms.items()}
    first = stage["decode"] / info.latent_frames_per_chunk
    return BOUND * (stage["recache"] + stage["denoise"] + stage["clean"] + first)


def _measure(
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
    engine = load()
    chunk_s = engine.info.chunk_seconds
    found = Distribution()
    with Server(engine, load, scene, settings) as server, Client(server.endpoint, name="everscene bench") as world:
        wait_until_warm(world)
        name = ""
        for number in range(WARM_EVENTS + events):
            sleep(chance.uniform(0.0, LONGEST_GAP_CHUNKS * chunk_s))
            name = chance.choice([other for other in names if other != name])
            applied = world.event(name).wait("applied", RECEIPT_S)
            if number >= WARM_EVENTS:
                found.add(applied.latency_ms)
        return _Run(found, world.stats(), engine.info)
