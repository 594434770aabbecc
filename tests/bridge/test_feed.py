"""Feeds: what is sent when, on a clock that the test turns."""

from pathlib import Path
from typing import Any

import pytest

from everscene_bridge.errors import Disconnected, SceneError
from everscene_bridge.feed import Feed, load_feed, play
from everscene_bridge.scene import load_scene


class Evening:
    """A clock, a client and a stop in one: waiting turns the clock, events are noted with their time."""

    def __init__(self, until: float = 1e9) -> None:
        self.now = 100.0
        self.until = 100.0 + until
        self.sent: list[tuple[float, Any]] = []
        self.gone = False

    def clock(self) -> float:
        return self.now

    def wait(self, timeout: float) -> bool:
        self.now += timeout
        return self.now >= self.until

    def event(self, name: str, when: str | None = None, **params: Any) -> None:
        if self.gone:
            raise Disconnected("no server answers")
        self.sent.append((self.now - 100.0, (name, params) if params else name))

    def prompt(self, text: str) -> None:
        self.sent.append((self.now - 100.0, text))


def feed(**fields: Any) -> Feed:
    return Feed.model_validate({"name": "test", **fields})


def test_steps_are_sent_at_their_times() -> None:
    evening = Evening()
    steps = [{"at": 1.5, "event": "rain", "params": {"intensity": 0.3}}, {"at": 4.0, "prompt": "a calm harbour"}]
    play(evening, feed(steps=steps), evening, evening.clock)
    assert evening.sent == [(1.5, ("rain", {"intensity": 0.3})), (4.0, "a calm harbour")]


def test_a_round_begins_anew_without_drift() -> None:
    evening = Evening(until=25.0)
    play(
        evening,
        feed(every=10.0, steps=[{"at": 0.0, "event": "day"}, {"at": 7.0, "event": "night"}]),
        evening,
        evening.clock,
    )
    assert evening.sent == [(0.0, "day"), (7.0, "night"), (10.0, "day"), (17.0, "night"), (20.0, "day")]


def test_it_stops_before_the_step_that_it_waits_for() -> None:
    evening = Evening(until=3.0)
    play(evening, feed(steps=[{"at": 1.0, "event": "day"}, {"at": 5.0, "event": "night"}]), evening, evening.clock)
    assert evening.sent == [(1.0, "day")]


def test_a_feed_that_is_late_sends_what_is_due_in_order() -> None:
    evening = Evening()
    slow = evening.event

    def event(name: str, when: str | None = None, **params: Any) -> None:
        slow(name, **params)
        evening.now += 3.0  # the call took long

    evening.event = event  # type: ignore[method-assign]
    steps = [{"at": 1.0, "event": "day"}, {"at": 2.0, "event": "dusk"}, {"at": 9.0, "event": "night"}]
    play(evening, feed(steps=steps), evening, evening.clock)
    assert evening.sent == [(1.0, "day"), (4.0, "dusk"), (9.0, "night")]


def test_a_step_that_cannot_be_sent_is_told_and_left_out() -> None:
    evening = Evening()
    evening.gone = True
    said: list[str] = []
    play(
        evening,
        feed(steps=[{"at": 1.0, "event": "day"}, {"at": 2.0, "prompt": "dawn"}]),
        evening,
        evening.clock,
        said.append,
    )
    assert evening.sent == [(2.0, "dawn")]
    assert len(said) == 1
    assert "day" in said[0]


def test_the_demo_feed_speaks_of_events_that_the_default_scene_has() -> None:
    scene = load_scene()
    demo = load_feed()
    assert demo.every
    for step in demo.steps:
        assert step.event is not None
        scene.action(step.event, step.params, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nsteps: []", "steps"),
        ("name: x\nsteps: [{at: 1}]", "either an event or a prompt"),
        ("name: x\nsteps: [{at: 1, event: a, prompt: b}]", "either an event or a prompt"),
        ("name: x\nsteps: [{at: 1, prompt: b, params: {c: 1}}]", "params belong to an event"),
        ("name: x\nsteps: [{at: 2, event: a}, {at: 1, event: b}]", "order of their times"),
        ("name: x\nevery: 3\nsteps: [{at: 4, event: a}]", "later than the last step"),
        ("name: x\nsteps: [{at: -1, event: a}]", "steps.0.at"),
        ("name: x\nsteps: [{at: 1, evnt: a}]", "steps.0.evnt"),
        ("name: [", "cannot read"),
    ],
)
def test_a_wrong_feed_is_refused_with_file_field_and_rule(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(SceneError) as error:
        load_feed(path)
    assert says in str(error.value)
    assert "wrong.yaml" in str(error.value)


def test_a_missing_feed_is_named(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"none\.yaml"):
        load_feed(tmp_path / "none.yaml")
