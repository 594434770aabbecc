"""Scenes with rules and blends along a whole stream, on a simulated clock: nothing is lost, whatever comes when."""

from collections import Counter
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bridge.simulation import Simulation

from everscene_bridge.scene import parse_scene
from everscene_bridge.timeline import TimelineSettings, Work

SCENE = """
name: rules on a stream
template: "{place} {time} {weather} {moment}"
slots: {place: harbour, time: day, weather: clear, moment: ""}
events:
  storm: {set: {weather: storm}, transition: {blend: 2s}, priority: 2}
  calm: {set: {weather: calm}, otherwise: wait}
  rain: {set: {weather: rain}, transition: {blend: {seconds: 1s, ease: linear}}, coalesce: first}
  night: {set: {time: night}, cooldown: 1s, interrupts: any}
  late: {set: {time: late}, debounce: 0.3s}
  flash: {set: {moment: flash}, for: 0.5s, priority: 1, decay: {blend: 1s}}
  birds: {set: {moment: birds}, for: 1s, otherwise: wait, interrupts: none}
  patient: {set: {weather: fog}, when: chunk, interrupts: lower, otherwise: wait}
  city: {set: {place: city}, transition: cut, interrupts: any}
  anew: {set: {place: desert}, transition: reset, interrupts: any}
"""
NAMES = tuple(parse_scene(SCENE).file.events)
SENT = st.lists(st.tuples(st.floats(0, 6000), st.sampled_from(NAMES)), max_size=25)
QUIET_MS = 20_000
"""After the last event: long enough for every hold, blend and wait, one after the other."""


@settings(max_examples=120, deadline=None)
@given(sent=SENT, failing=st.sets(st.integers(1, 40), max_size=3), forward_ms=st.floats(5, 90), interrupt=st.booleans())
def test_every_event_has_one_end_and_frames_have_no_gaps(
    sent: list[tuple[float, str]], failing: set[int], forward_ms: float, interrupt: bool
) -> None:
    def fail(work: Work) -> bool:
        return work.number in failing

    sim = Simulation(
        scene=parse_scene(SCENE), forward_ms=forward_ms, fail=fail, settings=TimelineSettings(interrupt=interrupt)
    )
    for ms, name in sent:
        sim.event(ms, name)
    sim.run(6000 + QUIET_MS)
    ends = Counter(outcome.input.order for outcome in sim.outcomes)
    assert ends == Counter(one.order for one in sim.accepted)
    assert all(why.code in ("cooldown", "outranked") for why in sim.rejected)
    assert [frame.number for frame in sim.shown] == list(range(1, len(sim.shown) + 1))
    assert sim.timeline.ledger.waiting == 0 and sim.timeline.ledger.state.momentary == ()


@settings(max_examples=60, deadline=None)
@given(sent=SENT)
def test_the_engine_is_told_the_prompt_in_force_in_the_end(sent: list[tuple[float, str]]) -> None:
    sim = Simulation(scene=parse_scene(SCENE))
    for ms, name in sent:
        sim.event(ms, name)
    sim.run(6000 + QUIET_MS)
    told = [work.steer for _, work in sim.work_log if work.steer is not None][-1][0]
    assert told == sim.scene.compose(sim.timeline.ledger.state) == sim.shown[-1].prompt


@settings(max_examples=60, deadline=None)
@given(sent=SENT)
def test_an_applied_event_is_in_its_first_frame(sent: list[tuple[float, str]]) -> None:
    sim = Simulation(scene=parse_scene(SCENE))
    for ms, name in sent:
        sim.event(ms, name)
    sim.run(6000 + QUIET_MS)
    shown = {frame.number: frame for frame in sim.shown}
    for outcome in sim.outcomes:
        if outcome.state == "applied":
            assert shown[outcome.frame].prompt == outcome.prompt
            assert shown[outcome.frame].index == 0


OTHER = """
name: another file
template: "{place} {moment}"
slots: {place: hill, moment: ""}
events:
  flash: {set: {moment: spark}, for: 2s}
  city: {set: {place: town}, transition: {blend: 1s}}
"""


@settings(max_examples=60, deadline=None)
@given(sent=SENT, changes=st.lists(st.tuples(st.floats(0, 6000), st.booleans()), max_size=4))
def test_scene_files_that_change_at_any_time_lose_no_event(
    sent: list[tuple[float, str]], changes: list[tuple[float, bool]]
) -> None:
    scenes = (parse_scene(SCENE), parse_scene(OTHER))
    sim = Simulation(scene=scenes[0])

    def change(which: bool) -> None:
        sim.scene = scenes[which]
        sim.timeline.ledger.change_scene(sim.scene)

    def send(name: str) -> None:
        if name in sim.scene.file.events:
            sim._accept(sim.scene.action(name, {}, None))

    for ms, which in changes:
        sim.at(ms, partial(change, which))
    for ms, name in sent:
        sim.at(ms, partial(send, name))
    sim.run(6000 + QUIET_MS)
    assert Counter(outcome.input.order for outcome in sim.outcomes) == Counter(one.order for one in sim.accepted)
    assert [frame.number for frame in sim.shown] == list(range(1, len(sim.shown) + 1))
    assert sim.shown[-1].prompt == sim.scene.compose(sim.timeline.ledger.state)
