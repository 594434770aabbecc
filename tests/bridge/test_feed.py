"""Feeds: what is sent when, on a clock that the test turns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from everscene_bridge import feed_check
from everscene_bridge.errors import Disconnected, SceneError
from everscene_bridge.feed import Feed, load_feed
from everscene_bridge.feed_player import play
from everscene_bridge.messages import ReceiptMessage
from everscene_bridge.receipt import Receipt
from everscene_bridge.scene import load_scene


class Evening:
    """A clock, a client and a stop in one: waiting turns the clock, events are noted with their time."""

    def __init__(self, until: float = 1e9) -> None:
        self.now = 100.0
        self.until = 100.0 + until
        self.sent: list[tuple[float, Any]] = []
        self.gone = False
        self.receipt = Receipt(1, "it")

    def clock(self) -> float:
        return self.now

    def wait(self, timeout: float) -> bool:
        self.now += timeout
        return self.now >= self.until

    def send_event(self, name: str, params: Mapping[str, Any], when: str | None = None) -> Receipt:
        if self.gone:
            raise Disconnected("no server answers")
        self.sent.append((self.now - 100.0, (name, dict(params)) if params else name))
        return self.receipt

    def prompt(self, text: str, transition: Any = None, when: Any = None, **how: Any) -> Receipt:
        self.sent.append((self.now - 100.0, (text, transition, how["seconds"]) if transition else text))
        return self.receipt

    def slots(self, words: Mapping[str, str], transition: Any = None, when: Any = None, **how: Any) -> Receipt:
        self.sent.append((self.now - 100.0, dict(words)))
        return self.receipt


def feed(**fields: Any) -> Feed:
    return Feed.model_validate({"name": "test", **fields})


def test_steps_are_sent_at_their_times() -> None:
    evening = Evening()
    steps = [{"at": 1.5, "event": "rain", "params": {"intensity": 0.3}}, {"at": 4.0, "prompt": "a calm harbour"}]
    play(evening, feed(steps=steps), evening, evening.clock)
    assert evening.sent == [(1.5, ("rain", {"intensity": 0.3})), (4.0, "a calm harbour")]


def test_params_may_have_any_name() -> None:
    evening = Evening()
    play(evening, feed(steps=[{"at": 1, "event": "rain", "params": {"when": 3, "name": 4}}]), evening, evening.clock)
    assert evening.sent == [(1.0, ("rain", {"when": 3, "name": 4}))]


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
    slow = evening.send_event

    def send_event(name: str, params: Mapping[str, Any], when: str | None = None) -> Receipt:
        receipt = slow(name, params)
        evening.now += 3.0  # the call took long
        return receipt

    evening.send_event = send_event  # type: ignore[method-assign]
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
    demo = load_feed()
    assert demo.every and feed_check.problems(demo, load_scene()) == []


def test_what_a_scene_lacks_of_a_feed_is_named_with_its_time() -> None:
    choose = [{"event": "rain"}, {"event": "hail"}]
    steps = [
        {"at": 1, "event": "storm", "params": {"intensity": 7}},
        {"at": 2, "choose": choose},
        {"at": 3, "slots": {"mood": "gay"}},
        {"at": 4, "prompt": "anything"},
        {"at": 5, "jump": "x", "times": 1},
        {"at": 6, "label": "x"},
    ]
    found = feed_check.problems(feed(steps=steps), load_scene())
    assert [line.split(": ")[0] for line in found] == [
        "test, at 1 s, storm intensity=7",
        "test, at 2 s, hail",
        "test, at 3 s, mood='gay'",
    ]


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
        ("name: [", "is not YAML"),
        ("name: x\nsteps: [{at: f8, event: a}]", "f8 is a frame number, so the feed needs fps"),
        ("name: x\nsteps: [{at: soon, event: a}]", "steps.0.at"),
        ("name: x\nsteps:\n  - {at: 1, jump: home}", "steps.0.jump: there is no label 'home'; there are none"),
        ("name: x\nsteps: [{at: 1, label: a}, {at: 1, jump: a}]", "goes nowhere"),
        ("name: x\nsteps: [{at: 1, event: a, transition: cut}]", "the scene says the transition"),
        ("name: x\nsteps: [{at: 1, prompt: a, seconds: 2}]", "belong to the transition blend"),
        ("name: x\nsteps: [{at: 1, label: a, wait: applied}]", "wait belongs to a step"),
        ("name: x\nlength: 1\nsteps: [{at: 2, event: a}]", "must not be before the last step"),
        ("name: x\nsteps:\n  - {at: 2, event: a}\n  - {at: 1, event: b}", "4:6: steps.1.at"),
        ("name: x\nsteps:\n  - {at: f2, event: a}", "3:6: steps.0.at: f2 is a frame number"),
        ("name: x\nsteps:\n  - {at: 1, label: a}\n  - {at: 2, label: a}", "4:13: steps.1.label: 'a' is the label of"),
        ("name: x\nevery: 2\nsteps:\n  - {at: 4, event: a}", "2:1: every: 2 s must be later than the last step"),
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


def played(until: float = 1e9, speed: float = 1.0, **fields: Any) -> list[tuple[float, Any]]:
    evening = Evening(until)
    play(evening, feed(**fields), evening, evening.clock, speed=speed)
    return evening.sent


def test_times_can_be_seconds_minutes_or_frames() -> None:
    steps = [{"at": "f8", "event": "a"}, {"at": "12.5s", "event": "b"}, {"at": "1:02.5", "event": "c"}]
    assert played(fps=16, steps=steps) == [(0.5, "a"), (12.5, "b"), (62.5, "c")]


def test_a_feed_can_be_played_faster() -> None:
    steps = [{"at": 2, "event": "a"}, {"at": 6, "event": "b"}]
    assert played(steps=steps, speed=2.0, every=8, until=6) == [(1.0, "a"), (3.0, "b"), (5.0, "a")]


def test_a_jump_goes_to_the_time_of_its_label() -> None:
    steps = [{"at": 1, "event": "a"}, {"at": 2, "label": "here", "event": "b"}, {"at": 5, "jump": "here", "times": 2}]
    assert played(steps=[*steps, {"at": 6, "event": "c"}]) == [(1, "a"), (2, "b"), (5, "b"), (8, "b"), (12, "c")]


def test_a_jump_can_leave_steps_out() -> None:
    steps = [{"at": 1, "event": "a"}, {"at": 2, "jump": "end"}, {"at": 3, "event": "b"}, {"at": 9, "label": "end"}]
    assert played(steps=[*steps, {"at": 10, "event": "c"}]) == [(1, "a"), (3, "c")]


def test_random_choices_are_the_same_for_the_same_seed() -> None:
    choose = [{"event": "a", "weight": 3}, {"slots": {"time": "at dusk"}}]
    fields = {"every": 10, "until": 400, "steps": [{"at": 1, "choose": choose}]}
    first, again, other = played(seed=1, **fields), played(seed=1, **fields), played(seed=2, **fields)
    assert first == again != other
    chosen = [what for _, what in first]
    assert chosen.count("a") > chosen.count({"time": "at dusk"}) > 0


def test_a_prompt_can_blend_in() -> None:
    steps = [{"at": 1, "prompt": "dawn", "transition": "blend", "seconds": "4s"}]
    assert played(steps=steps) == [(1.0, ("dawn", "blend", 4.0))]


class Slow(Receipt):
    """A receipt that takes its time, on the clock of an evening."""

    def __init__(self, evening: Evening, seconds: float) -> None:
        super().__init__(1, "it")
        self.evening = evening
        self.seconds = seconds

    def wait(self, state: Any = "applied", timeout: float | None = None) -> Any:
        assert timeout is not None
        step = min(self.seconds, timeout)
        self.evening.now += step
        self.seconds -= step
        if self.seconds <= 0:
            self.take(ReceiptMessage(id=1, state="applied", order=1, frame=1))
        return super().wait(state, 0.0)


def test_a_feed_stands_still_while_it_waits_for_a_receipt() -> None:
    evening = Evening()
    evening.receipt = Slow(evening, 3.0)
    steps = [{"at": 1, "event": "a", "wait": "applied"}, {"at": 2, "event": "b"}]
    play(evening, feed(steps=steps), evening, evening.clock)
    assert evening.sent == [(1.0, "a"), (5.0, "b")]


def test_a_receipt_that_does_not_come_is_told_and_the_feed_goes_on() -> None:
    evening = Evening()
    evening.receipt = Slow(evening, 100.0)
    said: list[str] = []
    steps = [{"at": 1, "event": "a", "wait": "applied", "timeout": 2}, {"at": 2, "event": "b"}]
    play(evening, feed(steps=steps), evening, evening.clock, said.append)
    assert [what for _, what in evening.sent] == ["a", "b"]
    assert len(said) == 1 and "not applied within" in said[0]


class Refused(Evening):
    """A world that refuses everything, a second after it came."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_at = 0.0

    def send_event(self, name: str, params: Mapping[str, Any], when: str | None = None) -> Receipt:
        self.sent_at = self.now
        self.receipt = Receipt(1, name)
        return super().send_event(name, params, when)

    def wait(self, timeout: float) -> bool:
        over = super().wait(timeout)
        if self.now - self.sent_at >= 1.0:
            self.receipt.take(ReceiptMessage(id=1, state="rejected", code="outranked", reason="something outranks it"))
        return over


def test_what_is_refused_is_told_though_nobody_waits_for_it() -> None:
    evening = Refused()
    told: list[tuple[float, str]] = []
    steps = [{"at": 1, "event": "a", "params": {"force": 0.5}}, {"at": 9, "event": "b"}]
    play(evening, feed(steps=steps), evening, evening.clock, lambda line: told.append((evening.now - 100.0, line)))
    assert told == [
        (2.0, "the feed 'test', a force=0.5: something outranks it"),
        (10.0, "the feed 'test', b: something outranks it"),
    ]
    assert [at for at, _ in evening.sent] == [1.0, 9.0]


def test_each_step_is_told_when_it_is_sent() -> None:
    evening = Evening()
    told: list[tuple[float, str]] = []
    steps = [{"at": 1, "event": "a"}, {"at": 2, "label": "x"}, {"at": 3, "choose": [{"slots": {"time": "dusk"}}]}]
    play(evening, feed(steps=steps), evening, evening.clock, sent=lambda step, deed: told.append((step.at, deed.what)))
    assert told == [(1.0, "a"), (3.0, "time='dusk'")]


def test_a_jsonl_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"at": 1, "event": "a"}\n{"at": 2, event}\n')
    with pytest.raises(SceneError, match=r"lines\.jsonl:2:11: this is not JSON"):
        load_feed(path)


def test_what_is_wrong_in_a_jsonl_step_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"every": 9}\n\n{"at": 1, "event": "a"}\n{"at": 2, "evnt": "a"}\n')
    with pytest.raises(SceneError, match=r"lines\.jsonl:4:1: steps\.1\.evnt: there is no such field"):
        load_feed(path)


def test_what_is_wrong_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: x\nsteps:\n  - at: 1\n    event: a\n    wait: forever\n")
    with pytest.raises(SceneError, match=r"wrong\.yaml:5:5: steps\.0\.wait"):
        load_feed(path)
