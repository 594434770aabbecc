"""The log of a run, and the run again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bridge.harness import QUICK

from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import ReplayError
from everscene_bridge.pattern import PatternEngine, PatternTimes
from everscene_bridge.replay import ReplayResult, replay
from everscene_bridge.run_log import RunLog
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_engine.port import EnginePort, GeneratedChunk

PATTERN = EngineChoice("pattern", seed=5)
AT_ONCE = PatternTimes(0.0, 0.0, 5, 0.0)


def live(choice: EngineChoice) -> PatternEngine:
    return PatternEngine(width=64, height=36, seed=choice.seed, times=QUICK)


def again(choice: EngineChoice) -> PatternEngine:
    return PatternEngine(width=64, height=36, seed=choice.seed, times=AT_ONCE)


def record(
    folder: Path,
    script: Callable[[Client], None],
    make: Callable[[], EnginePort] = lambda: live(PATTERN),
    choice: EngineChoice = PATTERN,
    **settings: Any,
) -> Path:
    """A run with a script, logged."""
    path = folder / "run.jsonl"
    engine = make()
    ports = {"control_port": 0, "frames_port": 0, "ring_dir": folder, "state_dir": folder}
    with (
        RunLog(path, choice, engine.info) as log,
        Server(engine, make, load_scene(), ServeSettings(**{**ports, **settings}), run_log=log) as server,
        Client(server.endpoint) as world,
    ):
        script(world)
    return path


def until(world: Client, frames: int) -> None:
    """Wait for so many more frames."""
    end = world.stats().frame + frames
    deadline = time.monotonic() + 20
    while world.stats().frame < end:
        assert time.monotonic() < deadline, "the frames do not come"
        time.sleep(0.01)


def lines(path: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == kind]


def with_events(world: Client) -> None:
    until(world, 8)
    for name in ("storm", "night", "calm", "lightning"):
        world.event(name).wait("applied", 5)
        world.event("rain")
        until(world, 5)
    world.prompt("another place", "reset").wait("applied", 5)
    until(world, 4)


def test_a_run_with_events_is_the_same_again(tmp_path: Path) -> None:
    path = record(tmp_path, with_events)
    assert [line for line in lines(path, "work") if line["rollback"] is not None], "no event interrupted anything"
    result = replay(path, again)
    assert result == ReplayResult(len(lines(path, "frame")), None, [])
    assert result.frames > 30


def test_ways_back_are_the_same_again(tmp_path: Path) -> None:
    def script(world: Client) -> None:
        until(world, 10)
        world.snapshot("kept")
        world.event("storm").wait("applied", 5)
        world.rewind(0.5)
        until(world, 6)
        world.restore("kept", seed=9)
        until(world, 6)
        world.branch(3)
        until(world, 6)

    path = record(tmp_path, script)
    assert len(lines(path, "restore")) == 2 and len(lines(path, "rollback")) == 1
    result = replay(path, again)
    assert (result.frames, result.first_difference) == (len(lines(path, "frame")), None)


class Patient(PatternEngine):
    """Its clean pass of chunk 3 goes on until it is to be left."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.left: list[int] = []

    def generate(self, interrupted: Callable[[], bool], *callbacks: Any) -> GeneratedChunk | None:
        finished, hurried = callbacks
        number = self._next_chunk

        def asked() -> bool:
            deadline = time.monotonic() + (10 if number == 3 else 0)
            while not (hurry := hurried()) and time.monotonic() < deadline:
                time.sleep(0.005)
            if hurry:
                self.left.append(number)
            return hurry

        return super().generate(interrupted, finished, asked)


def test_an_event_does_not_wait_for_a_clean_pass(tmp_path: Path) -> None:
    engine = Patient(width=64, height=36, times=QUICK)

    def script(world: Client) -> None:
        until(world, 24)
        world.event("storm").wait("applied", 5)

    record(tmp_path, script, lambda: engine)
    assert engine.left == [3]


def test_a_clean_pass_that_was_left_out_is_left_out_again(tmp_path: Path) -> None:
    made: list[Patient] = []

    def make() -> EnginePort:
        made.append(Patient(width=64, height=36, seed=5, times=QUICK))
        return made[-1]

    path = record(tmp_path, with_events, make)
    assert made[0].left
    assert replay(path, lambda choice: make()).first_difference is None
    assert made[1].left == made[0].left


def test_a_line_without_the_number_of_its_work_is_named(tmp_path: Path) -> None:
    path = record(tmp_path, lambda world: until(world, 4))
    path.write_text(path.read_text() + '{"kind": "unclean"}\n')
    with pytest.raises(ReplayError, match=f"line {len(path.read_text().splitlines())}: .* needs its number, not None"):
        replay(path, again)


def test_a_run_whose_engine_failed_is_the_same_again(tmp_path: Path) -> None:
    made: list[EnginePort] = []

    class Fragile(PatternEngine):
        def generate(self, interrupted: Callable[[], bool], *finished: Any) -> GeneratedChunk | None:
            if self is made[0] and self._next_chunk == 6:
                raise RuntimeError("it broke")
            return super().generate(interrupted, *finished)

    def make() -> EnginePort:
        made.append(Fragile(width=64, height=36, times=QUICK))
        return made[-1]

    path = record(tmp_path, lambda world: until(world, 70), make, autosave_s=0.2)
    assert lines(path, "engine")[0]["file"] is not None
    assert [line["outcome"] for line in lines(path, "work")].count("failed") == 1
    assert replay(path, again).first_difference is None


def test_the_first_frame_that_differs_is_named(tmp_path: Path) -> None:
    path = record(tmp_path, lambda world: until(world, 12))
    changed = path.read_text().replace(lines(path, "frame")[6]["hash"], "0" * 32)
    path.write_text(changed)
    result = replay(path, again)
    assert (result.first_difference, result.frames) == (7, 7)


def test_an_input_that_took_effect_elsewhere_is_noticed(tmp_path: Path) -> None:
    """The log is what is replayed: one other prompt in it, and its first frame differs."""
    path = record(tmp_path, with_events)
    first = next(line for line in lines(path, "work") if line["inputs"])
    whole = json.dumps(first, ensure_ascii=False, separators=(",", ":"))
    first["steer"][0] += " indeed"
    path.write_text(path.read_text().replace(whole, json.dumps(first)))
    shown = next(line["frame"] for line in lines(path, "frame") if line["work"] == first["number"])
    assert replay(path, again).first_difference == shown


def test_another_build_is_named(tmp_path: Path) -> None:
    path = record(tmp_path, lambda world: until(world, 2))
    head, rest = path.read_text().split("\n", 1)
    fields = json.loads(head)
    fields["versions"]["torch"] = "0.1"
    path.write_text(json.dumps(fields) + "\n" + rest)
    assert any("torch was 0.1, is" in line for line in replay(path, again).other_build)


def test_a_log_cut_off_by_a_kill_is_replayed_to_its_end(tmp_path: Path) -> None:
    path = record(tmp_path, lambda world: until(world, 6))
    path.write_text(path.read_text()[:-10])
    result = replay(path, again)
    assert result.first_difference is None and result.frames >= 5


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "nothing\n", '{"kind":"run","format":"everscene-run-1"}\n'])
def test_what_is_no_log_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ReplayError, match=r"x\.jsonl"):
        replay(path, again)


def test_the_shipped_model_is_bit_exact_again(tmp_path: Path) -> None:
    choice = EngineChoice("pocket", seed=4, threads=1)

    def script(world: Client) -> None:
        until(world, 10)
        world.event("storm").wait("applied", 30)
        world.event("night").wait("applied", 30)
        world.rewind(0.5)
        until(world, 6)

    path = record(tmp_path, script, loader(choice), choice)
    result = replay(path, lambda chosen: loader(chosen)())
    assert result.first_difference is None and result.frames > 16
