"""A scene file that changes while the server runs."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bridge.simulation import MS, Simulation
from tests.bridge.simulation import SCENE as SIMULATED

from everscene_bridge.client import Client
from everscene_bridge.errors import SceneError
from everscene_bridge.messages import Notice
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.scene import Scene, load_scene, parse_scene
from everscene_bridge.scene_watch import SceneWatch
from everscene_bridge.server import Server

SCENE = """
name: bay
subject: a boat
template: "{subject} {sky} {sound}"
slots: {sky: clear, sound: ""}
events:
  storm: {set: {sky: storm}}
"""


class Room:
    """A scene file, and what became of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "scene.yaml"
        self.taken: list[Scene] = []
        self.problems: list[str] = []
        self.write(SCENE)
        self.watch = SceneWatch(self.path, self.taken.append, self.problems.append)

    def write(self, text: str) -> None:
        self.path.write_text(text, encoding="utf-8")
        self._count = getattr(self, "_count", 0) + 1
        os.utime(self.path, ns=(self._count, self._count))  # clocks of file systems are coarse

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.watch.look()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_a_file_that_did_not_change_is_not_read(room: Room) -> None:
    room.look(5)
    assert not room.taken and not room.problems


def test_a_changed_file_is_read_once_it_is_left_alone(room: Room) -> None:
    room.write(SCENE.replace("a boat", "a ship"))
    room.look(1)
    assert not room.taken
    room.look(3)
    assert [scene.initial.slots["subject"] for scene in room.taken] == ["a ship"]


def test_a_broken_file_is_named_with_line_and_column_and_not_taken(room: Room) -> None:
    room.write(SCENE.replace("sky: storm}", "cloud: storm}"))
    room.look()
    assert not room.taken
    assert f"{room.path}:7:17: events.storm.set.cloud: there is no slot of this name" in room.problems[0]


def test_a_file_that_is_gone_for_a_moment_changes_nothing(room: Room) -> None:
    room.path.unlink()
    room.look()
    assert not room.taken and not room.problems


def test_what_events_changed_stays_changed_in_the_new_scene(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with Client(server.endpoint) as world:
        world.event("storm").wait("applied", 10)
        text = load_scene().file
        changed = Scene(text.model_copy(update={"template": "{subject} the {setting} {time}, {weather}"}))
        changed = Scene(changed.file.model_copy(update={"slots": {**text.slots, "subject": text.slots["time"]}}))
        server.change_scene(changed)
        applied = world.event("night").wait("applied", 10)
    assert applied.prompt == "by day the harbour at night, storm"


def test_a_new_scene_is_in_the_next_chunks_and_no_frame_comes_late() -> None:
    sim = Simulation()
    sim.event(500, "storm")
    sim.at(2000, lambda: sim.timeline.ledger.change_scene(parse_scene(SIMULATED.replace("harbour", "bay"))))
    sim.run(4000)
    before = [frame.prompt for frame in sim.shown if frame.at_ns < 2000 * MS]
    assert {before[-1], sim.shown[-1].prompt} == {"harbour day storm", "bay day storm"}
    changed = next(frame for frame in sim.shown if frame.prompt.startswith("bay"))
    assert changed.at_ns / MS - 2000 < 1000 + 2 * sim.gaps_ms[-1]  # two chunks, of which one was begun before
    assert max(sim.gaps_ms[-40:]) == pytest.approx(1000 / 16) and len(sim.shown) > 56


def test_clients_hear_of_a_new_scene_and_of_a_broken_one(start_server: Callable[..., Server]) -> None:
    server = start_server()
    heard: dict[str, Notice] = {}
    both = threading.Event()

    def listen(notice: Notice) -> None:
        heard[notice.kind] = notice
        if {"scene", "scene_problem"} <= heard.keys():
            both.set()

    with Client(server.endpoint, on_notice=listen) as world:
        next(world.frames(timeout=10))
        server.change_scene(parse_scene(SCENE))
        server.tell_scene_problem("no such slot")
        assert both.wait(10)
        assert world.event("storm").wait("applied", 10).prompt == "a boat storm"
    assert heard["scene"].scene is not None and heard["scene"].scene.name == "bay"
    assert heard["scene_problem"].reason == "no such slot"


def test_a_scene_whose_first_prompt_the_engine_refuses_is_not_taken(start_server: Callable[..., Server]) -> None:
    words = frozenset(["a", "red", "fox", "trots", "along", "the", "harbour", "by", "day", "clear", "sky"])
    server = start_server(lambda: PatternEngine(vocabulary=words))
    with pytest.raises(SceneError, match="no such word: 'boat'"):
        server.change_scene(parse_scene(SCENE))
    assert server.stream.timeline.ledger.scene.file.name == "pocket world"
