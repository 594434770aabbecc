"""Pause, snapshots and ways back: the timeline's part on a simulated clock, the whole over a running server."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.bridge.harness import QUICK, Bare, make_engine
from tests.bridge.simulation import MS, Simulation
from tests.waiting import wait_for

from everscene_bridge import protocol, snapshots
from everscene_bridge.client import Client
from everscene_bridge.client_frames import Frame
from everscene_bridge.errors import RequestFailed, SettingsError, SnapshotUnreadable
from everscene_bridge.history import Moment
from everscene_bridge.pattern import PatternEngine, read_mark
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_engine.errors import SnapshotError
from everscene_engine.port import EngineState, GeneratedChunk

StartServer = Callable[..., Server]


def content(frame: Frame) -> int:
    return read_mark(frame.pixels)[0]


def following(world: Client, after: int) -> list[Frame]:
    """The frames after this number, one by one, from the first on; stop when you have enough."""
    frames = (frame for frame in world.frames(in_order=True, timeout=5) if frame.number > after)
    return [next(frames) for _ in range(6)]


def first_with(flag: int, frames: Iterator[Frame], after: int = 0) -> Frame:
    """The first frame with this flag, among the next 200."""
    for frame in itertools.islice(frames, 200):
        if frame.number > after and frame.flags & flag:
            return frame
    raise AssertionError("200 frames without it")


def first_cut(world: Client, after: int, command: Callable[[], Any]) -> tuple[Any, Frame]:
    """What the command gives, and the first frame of the world that it sent back. The frames are taken while the
    command runs: the ring holds those of half a second, and an answer may take longer than that."""
    frames = world.frames(in_order=True, timeout=5)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(command)
        frame = first_with(protocol.FLAG_CUT, frames, after)
        return answer.result(), frame


@pytest.fixture
def showing(world: Client) -> Iterator[Client]:
    """A world of which a second was shown."""
    wait_for(lambda: (frame := world.latest()) is not None and frame.number >= 16, "no frames came")
    yield world


# Pause, on the simulated clock


def test_while_paused_no_frame_is_due_and_then_they_go_on_without_a_gap_in_content() -> None:
    sim = Simulation()
    sim.at(2000, sim.timeline.pause)
    sim.at(5000, sim.timeline.resume)
    sim.run(7000)
    assert not [frame for frame in sim.shown if 2000 * MS < frame.at_ns < 5000 * MS]
    assert [frame.content for frame in sim.shown] == list(range(len(sim.shown)))
    after = next(frame for frame in sim.shown if frame.at_ns >= 2000 * MS)
    assert after.at_ns == 5000 * MS
    assert sim.timeline.clock.held == 0


def test_an_event_of_the_pause_is_applied_after_it() -> None:
    sim = Simulation()
    sim.at(2000, sim.timeline.pause)
    sim.event(3000, "storm")
    sim.at(5000, sim.timeline.resume)
    sim.run(7000)
    assert sim.outcome(1).state == "applied"
    assert 5000 * MS <= sim.first_with("storm").at_ns < 5700 * MS


def test_a_paused_stream_says_so_and_generates_no_backlog() -> None:
    sim = Simulation().run(2000)
    sim.timeline.pause()
    sim.run(2500)
    chunks = sim.timeline.totals.chunks
    sim.run(60_000)
    assert sim.timeline.state(sim.now) == "paused"
    assert sim.timeline.totals.chunks <= chunks + 1


# Going back, on the simulated clock


def go_back(sim: Simulation, seconds: float) -> Moment:
    while sim.timeline.decoding or sim._engine_busy:
        sim.run(sim.now / MS + 1)
    moment = sim.timeline.moment(seconds)
    assert moment is not None
    sim._latent = moment.latent_frame + 1
    sim.timeline.go_back(moment, same_world=True)
    return moment


def test_a_rewound_world_goes_on_after_the_picture_of_then() -> None:
    sim = Simulation().run(4000)
    shown = len(sim.shown)
    moment = go_back(sim, 1.5)
    sim.run(6000)
    old, new = sim.shown[:shown], next(frame for frame in sim.shown[shown - 1 :] if frame.flags & protocol.FLAG_CUT)
    assert new.content == (moment.latent_frame + 1) * 4
    assert abs(old[-1].content - new.content + 1 - 24) <= 4
    assert [frame.number for frame in sim.shown] == list(range(1, len(sim.shown) + 1))


def test_the_scene_of_then_comes_back_with_the_world() -> None:
    sim = Simulation()
    sim.event(3000, "storm")
    sim.run(4000)
    go_back(sim, 2.0)
    sim.run(6000)
    assert sim.shown[-1].prompt == "harbour day clear"


def test_a_momentary_event_comes_back_with_the_time_it_had_left() -> None:
    sim = Simulation()
    sim.event(3000, "flash")
    sim.run(5000)
    first = sim.first_with("flash")
    sim.run(first.at_ns / MS + 1700)
    before = len(sim.shown)
    go_back(sim, (sim.shown[-1].number - first.number - 4) / 16)
    sim.run(9000)
    again = [frame for frame in sim.shown[before:] if "flash" in frame.prompt]
    assert 4 <= len(again) <= 16


def test_what_was_not_in_a_frame_is_rejected_when_the_world_goes_back() -> None:
    sim = Simulation().run(3000)
    sim.event(3000, "storm", when="chunk")
    sim.run(3001)
    go_back(sim, 1.0)
    sim.run(5000)
    assert (sim.outcome(1).state, sim.outcome(1).code) == ("rejected", "went_back")


def test_before_the_first_frame_there_is_nothing_to_go_back_to() -> None:
    assert Simulation().timeline.moment() is None


def test_a_new_world_has_no_past() -> None:
    sim = Simulation()
    sim.event(3000, "anew")
    sim.run(6000)
    moment, first = sim.timeline.moment(100), sim.first_with("desert")
    assert moment is not None and moment.frame == first.number


# Over a running server


def test_a_restored_world_goes_on_after_the_picture_of_the_snapshot(showing: Client, server: Server) -> None:
    receipt = showing.event("storm")
    receipt.wait("applied", 5)
    assert showing.snapshot("before the night") > 0
    kept = snapshots.load(snapshots.path_of(server.settings.state_folder, "before the night"))
    showing.event("night").wait("applied", 5)
    last = showing.latest()
    assert last is not None
    _, frame = first_cut(showing, last.number, lambda: showing.restore("before the night"))
    assert content(frame) == (kept.moment.latent_frame + 1) * 4
    assert frame.prompt == kept.moment.prompt and "storm" in frame.prompt


def test_a_rewind_goes_back_in_content(showing: Client) -> None:
    last = showing.latest()
    assert last is not None
    went, frame = first_cut(showing, last.number, lambda: showing.rewind(0.5))
    assert went == 0.5
    assert content(frame) < content(last) and frame.number > last.number


def test_a_rewind_goes_no_further_than_the_engine_remembers(showing: Client) -> None:
    assert 0 < showing.rewind(3000) < 60


def test_a_branch_goes_on_from_the_picture_with_another_seed(showing: Client, server: Server) -> None:
    last = showing.latest()
    assert last is not None
    seed, frame = first_cut(showing, last.number, lambda: showing.branch(41))
    assert seed == 41
    assert content(frame) > content(last) - 1
    showing.snapshot("branched")
    assert snapshots.load(snapshots.path_of(server.settings.state_folder, "branched")).engine.facts["seed"] == 41


def test_pause_and_resume(showing: Client) -> None:
    showing.pause()
    wait_for(lambda: showing.state == "paused", "it is not paused")
    before = showing.stats().frame
    time.sleep(0.3)
    assert showing.stats().frame == before
    showing.resume()
    wait_for(lambda: showing.stats().frame > before, "it does not go on")


def test_a_snapshot_outlives_its_server(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server()
    with Client(first.endpoint) as world:
        world.event("storm").wait("applied", 5)
        world.snapshot("show")
    first.stop()
    kept = snapshots.load(snapshots.path_of(first.settings.state_folder, "show"))
    second = start_server(restore="show")
    with Client(second.endpoint) as world:
        assert world.info.prompt == kept.moment.prompt
        frame = next(world.frames(in_order=True, timeout=5))
        assert content(frame) - (frame.number - 1) == (kept.moment.latent_frame + 1) * 4
        assert "storm" in frame.prompt


def test_another_models_snapshot_is_refused_at_the_start(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server()
    with Client(first.endpoint) as world:
        wait_for(lambda: world.latest() is not None, "no frame came")
        world.snapshot("small")
    with pytest.raises(SnapshotError, match=r"pattern.*64.*36.*pattern.*128"):
        start_server(lambda: PatternEngine(width=128, height=36, times=QUICK), restore="small")
    first.stop()
    assert not list(tmp_path.glob("everscene-*")), "the ring of the server that did not start is still there"


def test_another_models_snapshot_is_refused_and_the_stream_goes_on(showing: Client, server: Server) -> None:
    other = PatternEngine(width=32, height=32)
    other.generate(lambda: False)
    moment = server.stream.timeline.moment()
    assert moment is not None
    path = snapshots.path_of(server.settings.state_folder, "other")
    snapshots.save(path, snapshots.Snapshot(other.snapshot(1), moment, "x"))
    with pytest.raises(RequestFailed, match="other_model"):
        showing.restore("other")
    last = showing.latest()
    assert last is not None
    contents = [content(frame) for frame in following(showing, last.number)]
    assert contents == list(range(contents[0], contents[0] + 6))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "restore", "args": {"name": "nothing"}}, "no_snapshot"),
        ({"name": "snapshot"}, "missing_field"),
        ({"name": "snapshot", "args": {"name": "../up"}}, "out_of_range"),
        ({"name": "snapshot", "args": {"name": " x"}}, "out_of_range"),
        ({"name": "snapshot", "args": {"name": "x\n"}}, "out_of_range"),
        ({"name": "rewind", "args": {"seconds": -1}}, "out_of_range"),
        ({"name": "rewind", "args": {"seconds": "1"}}, "wrong_type"),
        ({"name": "branch", "args": {"seed": -1}}, "out_of_range"),
        ({"name": "dance"}, "unknown_command"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(bare: Bare, fields: dict[str, Any], code: str) -> None:
    bare.hello()
    reply = bare.ask(type="command", id=9, **fields)
    assert (reply["type"], reply["id"], reply["ok"], reply["code"]) == ("reply", 9, False, code)
    assert reply["reason"]


def test_a_snapshot_before_the_first_frame_is_refused(start_server: StartServer) -> None:
    class Slow(PatternEngine):
        def generate(self, interrupted: Callable[[], bool], *finished: Any) -> GeneratedChunk | None:
            time.sleep(0.5)
            return super().generate(interrupted)  # handed on when it ends, so that the command comes before the frame

    server = start_server(Slow)
    with Client(server.endpoint) as world, pytest.raises(RequestFailed, match="not_now"):
        world.snapshot("early")


def test_a_failed_engine_goes_on_from_the_automatic_snapshot(start_server: StartServer) -> None:
    made: list[PatternEngine] = []
    broken = [False]

    class Fragile(PatternEngine):
        def generate(self, interrupted: Callable[[], bool], *finished: Any) -> GeneratedChunk | None:
            if broken[0] and made[0] is self:
                raise RuntimeError("the device is lost")
            return super().generate(interrupted, *finished)

        def restore(self, state: EngineState) -> None:
            restored.append(state.facts["latent_frame"])
            super().restore(state)

    restored: list[int] = []

    def make() -> PatternEngine:
        made.append(Fragile(width=64, height=36, times=QUICK))
        return made[-1]

    server = start_server(make, autosave_s=0.2)
    with Client(server.endpoint) as world:
        wait_for(lambda: len(server.stream._autosaves) == 3, "no automatic snapshots")
        frames = world.frames(in_order=True, timeout=5)
        broken[0] = True
        frame = first_with(protocol.FLAG_DISCONTINUITY, frames)
        assert server.stream.timeline.totals.restarts == 1
        assert len(restored) == 1 and restored[0] > 0
        assert content(frame) == restored[0] * 4


def test_a_failure_inside_a_command_is_answered(start_server: StartServer) -> None:
    class Fragile(PatternEngine):
        def snapshot(self, latent_frame: int) -> EngineState:
            raise RuntimeError("out of memory")

    server = start_server(lambda: Fragile(width=64, height=36, times=QUICK), autosave_s=0)
    with Client(server.endpoint) as world:
        wait_for(lambda: world.latest() is not None, "no frame came")
        with pytest.raises(RequestFailed, match=r"out of memory \(engine\)"):
            world.snapshot("x")


# Files


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(SnapshotUnreadable, match=r"x\.safetensors"):
        snapshots.load(path)


def test_a_moment_reads_back_as_it_was_written() -> None:
    sim = Simulation()
    sim.event(2000, "flash")
    sim.run(2600)
    moment = sim.timeline.moment()
    assert moment is not None and moment.state.momentary
    again = Moment.from_json(moment.to_json())
    assert again.to_json() == moment.to_json()


@pytest.mark.parametrize("settings", [{"restore": "../x"}, {"autosave_s": -1}, {"autosave_s": 0.01}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        ServeSettings(**settings)


def test_the_quick_engine_can_be_restored() -> None:
    engine = make_engine()
    engine.generate(lambda: False)
    engine.restore(engine.snapshot(2).with_seed(3))
    assert engine.snapshot(2).facts["seed"] == 3
