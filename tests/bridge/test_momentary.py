"""Momentary events on the simulated clock: when they are over, whatever else happens."""

import pytest
from tests.bridge.simulation import Simulation

from everscene_bridge import momentary
from everscene_bridge.momentary import Beginnings
from everscene_bridge.scene import Momentary, parse_scene

SCENE = """
name: moments
template: "{weather} {moment}"
slots: {weather: clear, moment: ""}
events:
  fog: {set: {weather: fog}, for: 6s, when: chunk}
  flash: {set: {moment: flash}, for: 0.1s, when: chunk}
"""


def test_a_long_event_ends_after_more_short_ones_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momentary, "REMEMBERED", 3)
    sim = Simulation(scene=parse_scene(SCENE))
    sim.event(1000, "fog")
    for ms in range(2000, 6000, 500):
        sim.event(ms, "flash")
    sim.run(12_000)
    foggy = [frame for frame in sim.shown if "fog" in frame.prompt]
    assert len(foggy) == 96  # 6 seconds, and chunks are half of one
    assert sim.shown[-1].prompt == "clear"


def test_the_oldest_event_that_is_over_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momentary, "REMEMBERED", 2)
    beginnings = Beginnings(fps=8)
    events = [Momentary(order, {}, for_s=1.0) for order in range(1, 4)]
    for event in events:
        beginnings.begin([event.order], event.order, standing=[events[0], event])
    assert [beginnings.left_s(event, 9) for event in events] == [0.0, 1.0, 0.25]
