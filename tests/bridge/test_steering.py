"""Blends: what the engine is told for each chunk, and what becomes of an event in the middle of one."""

import pytest
from tests.bridge.simulation import MS, Simulation
from tests.bridge.test_commands import go_back

from everscene_bridge.scene import parse_scene
from everscene_bridge.steering import Steering
from everscene_bridge.timeline import TimelineSettings
from everscene_bridge.ways import RECACHE, Blend, Way
from everscene_engine.port import Mix

SCENE = """
name: blends
template: "{place} {time} {weather} {moment}"
slots: {place: harbour, time: day, weather: clear, moment: ""}
events:
  storm: {set: {weather: storm}, transition: {blend: 2s}, priority: 1}
  rain: {set: {weather: rain}, transition: {blend: {seconds: 2, ease: linear, path: slerp}}}
  night: {set: {time: night}}
  urgent: {set: {time: urgent}, priority: 1}
  elsewhere: {set: {place: city}, transition: cut, priority: 1}
  later: {set: {time: later}, otherwise: wait}
  glow: {set: {moment: glow}, for: 1s, transition: text, decay: {blend: 1s}}
  shade: {set: {moment: shade}, for: 0.8s, decay: text}
  spark: {set: {moment: spark}, for: 0.8s, transition: text, decay: {blend: 1s}}
"""
SECOND = Way("blend", Blend(1.0, "linear"))


def told(sim: Simulation) -> list[object]:
    return [work.steer for _, work in sim.work_log if work.steer is not None]


def weights(sim: Simulation, goal: str) -> list[float]:
    return [
        prompting.weight
        for _, work in sim.work_log
        if work.steer is not None and isinstance(prompting := work.steer[0], Mix) and prompting.after == goal
    ]


def simulation(**settings: float) -> Simulation:
    return Simulation(scene=parse_scene(SCENE), **settings)  # type: ignore[arg-type]


def test_a_blend_takes_its_seconds_of_content_and_ends_in_a_recache() -> None:
    sim = simulation()
    sim.event(2000, "rain")
    sim.run(6000)
    goal = "harbour day rain"
    assert weights(sim, goal) == pytest.approx([0.25, 0.5, 0.75])  # chunks of half a second
    assert told(sim)[-1] == (goal, "recache")
    assert sim.outcome(1).state == "applied"


def test_a_blend_shows_from_its_first_chunk_on() -> None:
    sim = simulation()
    sim.event(2000, "rain")
    sim.run(6000)
    assert sim.first_with("rain").number == sim.outcome(1).frame
    assert sim.outcome(1).latency_ns < 600e6


def test_an_ease_of_cosine_begins_and_ends_gently() -> None:
    blend = Blend(2.0, "cosine")
    assert [blend.weight(t) for t in (0, 0.5, 1, 1.5, 2, 9)] == pytest.approx([0, 0.1464, 0.5, 0.8536, 1, 1], abs=1e-4)


def test_an_engine_that_has_time_recaches_every_chunk_of_a_blend() -> None:
    steering = Steering(fps=8, frames_per_chunk=4)
    steering.next("a", RECACHE, 1, 1)
    kinds = [steering.next("b", Way("blend", Blend(2.0)), frame, 1)[1] for frame in (5, 9, 13, 17)]  # type: ignore[index]
    assert kinds == ["recache"] * 4


@pytest.mark.parametrize(
    ("every", "kinds"), [(2, ["text", "recache", "text", "recache"]), (0, ["text", "text", "text", "recache"])]
)
def test_an_engine_that_has_none_recaches_less_often_but_always_at_the_end(every: int, kinds: list[str]) -> None:
    steering = Steering(fps=8, frames_per_chunk=4)
    steering.next("a", RECACHE, 1, every)
    assert [steering.next("b", Way("blend", Blend(2.0)), frame, every)[1] for frame in (5, 9, 13, 17)] == kinds  # type: ignore[index]


def test_a_stream_that_keeps_up_keeps_up_in_a_blend() -> None:
    sim = simulation(recache_ms=300, forward_ms=40)  # 500 ms of content: 200 to generate, 300 to recache
    sim.event(2000, "storm")
    sim.run(8000)
    during = [shown for shown in sim.shown if 2600 < shown.at_ns / 1e6 < 3900]
    assert len(during) == pytest.approx(1.3 * 16, abs=2)


def test_lower_priority_does_not_break_into_a_blend() -> None:
    sim = simulation()
    sim.event(2000, "storm")
    sim.event(2800, "night")
    sim.run(6000)
    assert [why.code for why in sim.rejected] == ["outranked"]
    assert sim.shown[-1].prompt == "harbour day storm"


def test_an_event_that_waits_comes_after_the_blend() -> None:
    sim = simulation()
    sim.event(2000, "storm")
    sim.event(2800, "later")
    sim.run(8000)
    assert sim.outcome(2).state == "applied"
    assert not any(
        isinstance(work.steer[0], Mix) and "later" in work.steer[0].after for _, work in sim.work_log if work.steer
    )
    assert sim.shown[-1].prompt == "harbour later storm"


def test_an_event_that_may_break_in_ends_the_blend_at_its_goal() -> None:
    sim = simulation()
    sim.event(2000, "storm")
    sim.event(2800, "urgent")
    sim.run(6000)
    assert told(sim)[-1] == ("harbour urgent storm", "recache")
    assert max(weights(sim, "harbour day storm")) < 1


def test_a_cut_ends_a_blend() -> None:
    sim = simulation()
    sim.event(2000, "storm")
    sim.event(2800, "elsewhere")
    sim.run(6000)
    assert told(sim)[-1] == ("city day storm", "cut")


def test_a_blend_in_the_middle_of_another_goes_on_from_there() -> None:
    steering = Steering(fps=8, frames_per_chunk=4)
    steering.next("a", RECACHE, 1, 0)
    steering.next("b", SECOND, 5, 0)
    told = steering.next("c", SECOND, 9, 0)
    assert told == (Mix(Mix("a", "b", 0.5), "c", 0.5), "text")
    assert steering.next("c", RECACHE, 13, 0) == ("c", "recache")


def test_blends_within_blends_do_not_grow_without_end() -> None:
    steering = Steering(fps=8, frames_per_chunk=4)
    steering.next("0", RECACHE, 1, 0)
    for place in range(1, 40):
        told = steering.next(str(place), SECOND, 1 + 4 * place, 0)
    depth, mix = 0, told[0] if told else ""
    while isinstance(mix, Mix):
        depth, mix = depth + 1, mix.before
    assert 2 <= depth <= 5


def test_a_momentary_event_goes_back_on_its_own_way() -> None:
    sim = simulation()
    sim.event(2000, "glow")
    sim.run(6000)
    assert ("harbour day clear glow", "text") in told(sim)
    assert weights(sim, "harbour day clear") == pytest.approx([0.5])
    assert told(sim)[-1] == ("harbour day clear", "recache")


def test_a_dropped_chunk_of_a_blend_does_not_move_it() -> None:
    sim = simulation()
    sim.event(2000, "rain")
    for ms in range(2300, 3300, 130):
        sim.event(ms, "urgent")
    sim.run(6000)
    assert [outcome.state for outcome in sim.outcomes].count("rejected") == 0
    assert sim.shown[-1].prompt == "harbour urgent rain"


def test_a_failed_engine_goes_on_with_the_blend() -> None:
    sim = simulation(fail=lambda work: work.steer is not None and isinstance(work.steer[0], Mix) and work.number < 9)  # type: ignore[arg-type]
    sim.event(2000, "rain")
    sim.run(9000)
    assert sim.outcome(1).state in ("applied", "rejected")
    assert sim.timeline.state(sim.now) == "live"


def test_a_momentary_event_that_passes_in_a_blend_does_not_end_it() -> None:
    steering = Steering(fps=8, frames_per_chunk=4)
    steering.next("day glow", RECACHE, 1, 0)
    steering.next("night glow", Way("blend", Blend(2.0, "linear")), 5, 0)
    told = steering.next("night", RECACHE, 13, 0, decays=True)
    assert told == (Mix(Mix("day glow", "night glow", 0.5), "night", 0.5), "text")
    assert steering.next("night", RECACHE, 17, 0, decays=True) == ("night", "recache")


def test_the_way_back_of_a_momentary_event_does_not_shorten_a_blend() -> None:
    steering = Steering(fps=8, frames_per_chunk=4)
    steering.next("day glow", RECACHE, 1, 0)
    steering.next("night glow", Way("blend", Blend(4.0, "linear")), 5, 0)
    frames = range(13, 37, 4)
    told = [steering.next("night", SECOND, frame, 0, decays=True) for frame in frames]
    assert [isinstance(one[0], Mix) for one in told if one is not None] == [True] * 5 + [False]


def test_a_way_back_is_taken_though_the_event_was_over_before_the_next_chunk_began() -> None:
    sim = simulation()
    sim.timeline.settings = TimelineSettings(max_lead_ms=50)
    sim.event(2000, "spark")  # 13 frames; the chunk in which it ends has 8, and 3 of them are left then
    sim.run(6000)
    assert weights(sim, "harbour day clear") == pytest.approx([0.5])


def test_a_way_back_is_taken_once() -> None:
    sim = simulation()
    sim.event(2000, "spark")
    sim.event(4500, "night", when="chunk")
    sim.run(8000)
    assert told(sim)[-1] == ("harbour night clear", "recache")


def test_a_world_that_went_back_takes_no_way_back_of_an_event_from_before() -> None:
    sim = simulation()
    sim.event(2000, "shade")
    sim.run(3000)
    assert "shade" in sim.shown[-1].prompt
    go_back(sim, 1.5)
    sim.run(sim.now / MS + 3000)
    assert told(sim)[-1] == ("harbour day clear", "recache")
