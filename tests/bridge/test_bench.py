"""The latency bench, against an engine whose times are known."""

from everscene_bridge import bench
from everscene_bridge.pattern import PatternEngine, PatternTimes
from everscene_bridge.scene import load_scene

TIMES = PatternTimes(recache=0.01, forward=0.01, forwards=5, decode=0.01)


def test_latency_is_measured_with_and_without_interrupt() -> None:
    loads = {name: lambda: PatternEngine(width=64, height=36, times=TIMES) for name in ("all", "last")}
    result = bench.latency(loads, load_scene(), events=4)
    reached = result["event_to_frame_ms"]
    assert 70 <= reached["p50"] <= reached["p95"] <= reached["max"], "no event is quicker than the engine can be"
    assert result["without_interrupt_ms"]["p50"] >= 70
    assert set(result["stages"]) == {"recache", "denoise", "clean", "decode", "publish"}
    stages = {name: stage["p50"] for name, stage in result["stages"].items()}
    wanted = 1.25 * (stages["recache"] + stages["denoise"] + stages["clean"] + stages["decode"] / 2)
    assert abs(result["bound_ms"] - wanted) < 1e-6
    assert result["bound_ms"] >= 1.25 * 65
    assert set(result["recache_depths"]) == {"all", "last"}
    assert result["recache_depths"]["all"]["bound_ms"] == result["bound_ms"]
