"""The latency bench, against an engine whose times are known."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from everscene_bridge import bench, bench_demo, bench_load, bench_pipeline
from everscene_bridge.bench_server import WARM_CHUNKS
from everscene_bridge.cli import app
from everscene_bridge.errors import SettingsError
from everscene_bridge.pattern import PatternEngine, PatternTimes
from everscene_bridge.scene import load_scene
from everscene_bridge.stats import Distribution

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
    assert result["ok"] is (reached["p95"] <= result["bound_ms"])
    assert set(result["recache_depths"]) == {"all", "last"}
    assert result["recache_depths"]["all"]["bound_ms"] == result["bound_ms"]


def test_the_pipeline_is_measured_and_drawn(tmp_path: Path) -> None:
    result = bench_pipeline.pipeline(lambda: PatternEngine(width=64, height=36, times=TIMES), load_scene(), chunks=6)
    found = {span["stage"] for span in result["spans"]}
    assert {"recache", "denoise", "clean", "decode", "publish"} <= found
    assert all(0 <= span["start_ms"] <= span["end_ms"] for span in result["spans"])
    assert 0 <= result["overlap"] <= 1
    bench_pipeline.draw(result, tmp_path / "pipeline.png")
    with Image.open(tmp_path / "pipeline.png") as picture:
        assert picture.width == bench_pipeline.WIDTH


def test_overlap_is_the_part_of_decoding_during_which_something_is_generated() -> None:
    spans = [
        bench_pipeline.Span("denoise", WARM_CHUNKS, 100.0, 140.0),
        bench_pipeline.Span("decode", WARM_CHUNKS, 130.0, 150.0),
        bench_pipeline.Span("clean", WARM_CHUNKS + 1, 145.0, 160.0),
        bench_pipeline.Span("publish", -1, 160.0, 160.0),
        bench_pipeline.Span("publish", -1, 200.0, 200.0),
    ]
    result = bench_pipeline._result(spans, PatternEngine().info)
    assert result["overlap"] == pytest.approx(15 / 20)
    assert result["frame_gap_ms"]["max"] == pytest.approx(40)
    assert result["generating"] == pytest.approx(0.55)


def test_the_demo_is_run_and_every_frame_counted() -> None:
    done = CliRunner().invoke(app, ["bench", "demo", "--model", "pattern", "--seconds", "20", "--json"])
    found = json.loads(done.output)
    assert done.exit_code == 0 and found["ok"] and found["broken"] == [], found
    assert found["frames"] > 20 * 10 and found["missed"] == 0 and found["seconds"] >= 20
    assert 0 < found["longest_gap_ms"] <= 1000 and found["first_frame_s"] > 0
    assert sum(found["events"].values()) == 3 and "lost" not in found["events"]
    assert len(found["resident_bytes"]) in (0, 3)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (bench_demo.Count(missed=1), "1 frames were missed"),
        (bench_demo.Count(longest_gap_ms=1001.0), "the picture stood for 1001 ms"),
        (bench_demo.Count(events={"applied": 3, "lost": 2}), "2 events have no final receipt"),
        (bench_demo.Count(resident_bytes=[800, 1000, 1101]), "the memory grew by 10.1%"),
    ],
)
def test_what_does_not_hold_of_the_demo_is_named(count: bench_demo.Count, words: str) -> None:
    assert count.broken == [words]


def test_a_demo_whose_memory_cannot_be_read_may_be_sound() -> None:
    assert bench_demo.Count(longest_gap_ms=1000.0, events={"superseded": 2}).broken == []


def test_a_demo_that_does_not_start_is_told() -> None:
    with pytest.raises(SettingsError, match="ended before it had started"):
        bench_demo.demo("no-such-model", None, 1.0)


def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    spans = [bench_pipeline.Span("denoise", 4, 0.0, 1.0), bench_pipeline.Span("publish", -1, 2.0, 2.0)]
    result = bench_pipeline._result(spans, PatternEngine().info)
    with pytest.raises(SettingsError, match="cannot be written"):
        bench_pipeline.draw(result, tmp_path / "nowhere" / "a.png")


def test_a_hail_of_events_leaves_none_without_a_final_receipt() -> None:
    result = bench_load.load(
        lambda: PatternEngine(width=64, height=36, times=TIMES), load_scene(), rate=200, seconds=2, clients=3
    )
    assert result["sent"] == 400 == sum(result["final"].values())
    assert result["without_final"] == 0 and result["wrong"] == 0 and result["restarts"] == 0
    assert result["ok"] is not bool(result["broken"])


def test_what_a_hail_broke_is_named() -> None:
    tally = bench_load.Tally(sent=10, by_state={"applied": 7}, without_final=3, seconds=1.0)
    gaps = bench_load._Gaps()
    for gap in [1500.0] + [62.0] * 2000:
        gaps.add(gap)
    memory: list[int | None] = [100] * 11 + [120]
    result = bench_load._result(PatternEngine(), 20, tally, gaps, memory, {"held": 0, "restarts": 1}, empty_stats())
    assert not result["ok"]
    assert result["broken"] == [
        "only 10 events a second were sent",
        "3 events have no final receipt",
        "the stream stood for 1500 ms",
        "the engine was made anew 1 times",
        "the memory grew by 20.0%",
    ]


def test_a_hail_that_broke_nothing_is_fine() -> None:
    tally = bench_load.Tally(sent=10, by_state={"applied": 7, "superseded": 3}, seconds=1.0)
    result = bench_load._result(
        PatternEngine(), 10, tally, bench_load._Gaps(), [100] * 12, {"held": 0, "restarts": 0}, empty_stats()
    )
    assert result["ok"] and result["broken"] == []


def empty_stats() -> SimpleNamespace:
    """As much of `stats` as the result takes."""
    return SimpleNamespace(latency_ms=Distribution().message())


@pytest.mark.parametrize("clients", [0, 64])
def test_a_number_of_clients_that_cannot_be_is_refused(clients: int) -> None:
    with pytest.raises(SettingsError, match=f"--clients is {clients}"):
        bench_load.load(PatternEngine, load_scene(), 1, 1, clients)
