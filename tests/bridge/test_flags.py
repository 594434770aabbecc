"""A cut or a discontinuity is told in the first frame after it, also when the chunk that was to tell it is lost."""

from tests.bridge.simulation import MS, Simulation
from tests.bridge.test_commands import go_back

from everscene_bridge.protocol import FLAG_CUT, FLAG_DISCONTINUITY


def lose_engine(sim: Simulation) -> None:
    """It fails while it does nothing, and is there again when all that it had decoded was shown."""
    while sim._engine_busy:
        sim.run(sim.now / MS + 1)
    sim._engine_serial += 1
    sim._engine_busy = True
    sim.timeline.failed("lost")
    sim.at(sim.now / MS + 1000, sim._restart)


def event_while_paused(sim: Simulation) -> int:
    """An event discards what was made since the pause; the flags of the first frame under it."""
    sim.run(sim.now / MS + 1000)
    discarded = sim.timeline.totals.discarded_frames
    sim.event(sim.now / MS, "storm")
    sim.run(sim.now / MS + 1000)
    assert sim.timeline.totals.discarded_frames > discarded
    sim.timeline.resume()
    sim.run(sim.now / MS + 2000)
    return sim.first_with("storm").flags


def test_a_way_back_is_told_though_an_event_discards_its_first_chunk() -> None:
    sim = Simulation().run(4000)
    sim.timeline.pause()
    go_back(sim, 1.5)
    assert event_while_paused(sim) & FLAG_CUT


def test_a_discontinuity_is_told_though_an_event_discards_its_first_chunk() -> None:
    sim = Simulation().run(4000)
    lose_engine(sim)
    sim.run(sim.now / MS + 900)
    sim.timeline.pause()
    assert event_while_paused(sim) & FLAG_DISCONTINUITY


def test_a_discontinuity_is_told_though_another_world_comes_before_its_first_chunk() -> None:
    sim = Simulation().run(4000)
    moment = sim.timeline.moment()
    assert moment is not None
    lose_engine(sim)
    sim.run(sim.now / MS + 900)
    sim.timeline.pause()
    sim.run(6000)
    sim.timeline.go_back(moment, same_world=False)
    shown = len(sim.shown)
    sim.timeline.resume()
    sim.run(8000)
    assert sim.shown[shown].flags & (FLAG_CUT | FLAG_DISCONTINUITY) == FLAG_CUT | FLAG_DISCONTINUITY


def test_a_way_back_is_told_though_the_engine_fails_over_its_first_chunk() -> None:
    sim = Simulation(decode_ms=300, in_parts=False).run(4000)
    go_back(sim, 1.5)
    while not sim.timeline.decoding:
        sim.run(sim.now / MS + 1)
    shown = len(sim.shown)
    lose_engine(sim)
    sim.run(8000)
    assert sim.shown[shown].flags & (FLAG_CUT | FLAG_DISCONTINUITY) == FLAG_CUT | FLAG_DISCONTINUITY


def test_a_cut_that_the_engine_refuses_is_not_told() -> None:
    sim = Simulation()
    sim.event(1000, "elsewhere")
    sim.at(1000, lambda: sim.bad_words.add("city"))
    sim.run(4000)
    assert sim.outcome(1).code == "prompt"
    assert not [frame for frame in sim.shown if frame.flags & FLAG_CUT]
