"""The stream's bookkeeping on a simulated clock."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bridge.simulation import MS, Simulation

from everscene_bridge import protocol
from everscene_bridge.chunk_record import DueFrame
from everscene_bridge.messages import Stamps
from everscene_bridge.timeline import TimelineSettings

PERIOD_MS = 1000 / 16
WHOLE_CHUNK_MS = 110  # five forwards and the decode
REACTION_MS = 130  # with the recache
LATENT_FRAME_MS = 4 * PERIOD_MS


def latency_ms(sim: Simulation, order: int = 1) -> float:
    return sim.outcome(order).latency_ns / MS


def test_frames_come_at_the_contents_rate() -> None:
    sim = Simulation().run(5000)
    assert len(sim.shown) == pytest.approx((5000 - WHOLE_CHUNK_MS) / PERIOD_MS, abs=1)
    assert {round(gap, 3) for gap in sim.gaps_ms} == {PERIOD_MS}
    assert sim.timeline.clock.held == 0


def test_frame_numbers_have_no_gaps_whatever_is_discarded() -> None:
    sim = Simulation()
    for ms in range(300, 4000, 170):
        sim.event(ms, "storm" if ms % 2 else "night")
    sim.run(5000)
    assert sim.timeline.totals.discarded_frames > 0
    assert [frame.number for frame in sim.shown] == list(range(1, len(sim.shown) + 1))


def test_content_has_no_gaps_and_no_repeats_whatever_is_discarded() -> None:
    sim = Simulation()
    for ms in range(300, 4000, 130):
        sim.event(ms, "storm" if ms % 4 else "night")
    sim.run(5000)
    assert len(sim.rollbacks) > 3
    assert [frame.content for frame in sim.shown] == list(range(len(sim.shown)))


def test_a_chunk_starts_just_in_time() -> None:
    sim = Simulation().run(5000)
    ahead_ms = 1.5 * WHOLE_CHUNK_MS + 2 * PERIOD_MS
    starts = [now / MS for now, _ in sim.work_log][3:]
    due = [frame.at_ns / MS for frame in sim.shown if frame.index == 0][3:]
    for start, first in zip(starts, due, strict=False):
        assert first - start == pytest.approx(ahead_ms, abs=PERIOD_MS + 1)


def test_the_lead_is_bounded_in_ms() -> None:
    sim = Simulation(settings=TimelineSettings(max_lead_ms=50))
    sim.run(5000)
    starts = [now / MS for now, _ in sim.work_log][3:]
    due = [frame.at_ns / MS for frame in sim.shown if frame.index == 0][3:]
    for start, first in zip(starts, due, strict=False):
        assert first - start <= 120  # 50 allowed, or the whole chunk when that is not enough


def test_a_slow_engine_slows_the_stream_evenly() -> None:
    sim = Simulation(forward_ms=150).run(20_000)  # 750 ms for 500 ms of content
    gaps = sim.gaps_ms[40:]
    assert max(gaps) <= 1.05 * min(gaps)
    assert min(gaps) == pytest.approx(750 / 8, rel=0.03)
    assert sim.timeline.state(sim.now) == "slow"
    assert sim.timeline.clock.shifted_ns > 0


def test_a_slow_engine_builds_no_backlog() -> None:
    sim = Simulation(forward_ms=150).run(20_000)
    assert sim.timeline.unshown <= 16


def test_a_slow_decoder_slows_the_stream_evenly() -> None:
    sim = Simulation(decode_ms=700).run(20_000)
    gaps = sim.gaps_ms[40:]
    assert max(gaps) <= 1.05 * min(gaps)
    assert min(gaps) == pytest.approx(700 / 8, rel=0.03)


def test_the_stream_is_live_again_when_the_engine_is_fast_again() -> None:
    sim = Simulation(forward_ms=150).run(10_000)
    sim.forward_ms = 20
    sim.run(20_000)
    assert sim.timeline.state(sim.now) == "live"
    assert sim.gaps_ms[-1] == pytest.approx(PERIOD_MS)


def test_one_late_chunk_holds_the_last_frame_and_is_counted() -> None:
    sim = Simulation().run(3000)
    sim.forward_ms = 250
    sim.at(3700, lambda: setattr(sim, "forward_ms", 20))
    sim.run(8000)
    assert sim.timeline.clock.held > 0
    assert max(sim.gaps_ms) > 2 * PERIOD_MS
    assert sim.gaps_ms[-1] == pytest.approx(PERIOD_MS)


def test_an_event_breaks_into_the_chunk_in_flight() -> None:
    sim = Simulation()
    sim.run(2000)
    start = sim.work_log[-1][0] / MS
    while not sim._engine_busy:
        start += 1
        sim.run(start)
    sim.event(start + 45, "storm")
    sim.run(start + 2000)
    assert sim.timeline.totals.dropped_chunks == 1


@pytest.mark.parametrize("offset", range(0, 500, 20))
def test_an_event_is_visible_within_a_reaction_and_the_latent_frame_being_shown(offset: int) -> None:
    sim = Simulation()
    sim.event(1000, "night")  # so that the time of a recache is known
    sim.event(3000 + offset, "storm")
    sim.run(6000)
    assert sim.outcome(2).state == "applied"
    # a forward has to end before the chunk is dropped; frames of a latent frame half shown are shown to its end
    assert latency_ms(sim, 2) <= max(REACTION_MS + 20 + 10, LATENT_FRAME_MS) + PERIOD_MS


def test_with_interrupt_off_an_event_waits_for_what_was_generated() -> None:
    on, off = Simulation(), Simulation(settings=TimelineSettings(interrupt=False))
    for sim in (on, off):
        for ms in range(1000, 20_000, 770):
            sim.event(ms, "storm" if ms % 4 else "night")
        sim.run(22_000)
    mean = [sum(one.latency_ns for one in sim.outcomes) / len(sim.outcomes) for sim in (on, off)]
    assert mean[0] < 0.5 * mean[1]
    assert off.timeline.totals.dropped_chunks == off.timeline.totals.discarded_frames == 0


def test_a_patient_event_discards_nothing() -> None:
    sim = Simulation()
    for ms in range(1000, 5000, 777):
        sim.event(ms, "patient")
    sim.run(7000)
    assert sim.timeline.totals.discarded_frames == sim.timeline.totals.dropped_chunks == 0
    assert {one.state for one in sim.outcomes} == {"applied"}


def test_an_interrupt_hides_behind_frames_that_are_ready() -> None:
    sim = Simulation()
    sim.event(1000, "night")
    sim.event(2990, "storm")
    sim.run(5000)
    assert max(sim.gaps_ms) <= 2 * PERIOD_MS


def test_applied_names_the_first_frame_with_the_words() -> None:
    sim = Simulation()
    sim.event(1234, "storm")
    sim.run(3000)
    first = sim.first_with("storm")
    done = sim.outcome(1)
    assert (done.frame, done.chunk, done.prompt) == (first.number, first.chunk, first.prompt)
    assert done.latency_ns == first.at_ns - 1234 * MS


def test_frames_bear_the_order_of_the_latest_input_in_them() -> None:
    sim = Simulation()
    sim.event(1000, "storm")
    sim.event(2000, "night")
    sim.run(4000)
    for frame in sim.shown:
        words = frame.prompt.split()
        assert frame.order == ("storm" in words) + ("night" in words)


def test_events_that_arrive_together_build_on_each_other() -> None:
    sim = Simulation()
    sim.event(1000, "storm")
    sim.event(1000, "night")
    sim.run(3000)
    assert sim.outcome(1).frame == sim.outcome(2).frame
    assert sim.shown[-1].prompt == "harbour night storm"


def test_an_event_whose_words_were_all_replaced_is_superseded() -> None:
    sim = Simulation()
    sim.event(1000, "storm")
    sim.event(1000, "rain")
    sim.run(3000)
    assert (sim.outcome(1).state, sim.outcome(1).by) == ("superseded", 2)
    assert sim.outcome(2).state == "applied"


def test_a_prompt_replaced_before_it_was_used_is_superseded() -> None:
    sim = Simulation()
    sim.prompt(1000, "one")
    sim.prompt(1000, "two")
    sim.run(3000)
    assert (sim.outcome(1).state, sim.outcome(1).by) == ("superseded", 2)
    assert sim.shown[-1].prompt == "two"


def test_an_event_after_a_prompt_goes_back_to_the_scene() -> None:
    sim = Simulation()
    sim.event(1000, "night")
    sim.prompt(2000, "something else")
    sim.event(3000, "storm")
    sim.run(5000)
    assert sim.shown[-1].prompt == "harbour night storm"


def test_what_a_prompt_superseded_does_not_come_back() -> None:
    sim = Simulation()
    sim.event(1000, "storm")
    sim.prompt(1000, "something else")
    sim.event(3000, "night")
    sim.run(5000)
    assert sim.outcome(1).state == "superseded"
    assert sim.shown[-1].prompt == "harbour night clear"


def test_a_momentary_event_holds_for_its_time_of_content_and_goes_back() -> None:
    sim = Simulation()
    sim.event(1000, "flash")
    sim.run(5000)
    with_it = [frame for frame in sim.shown if "flash" in frame.prompt.split()]
    assert len(with_it) == 16  # one second, and a chunk is half of one
    assert sim.shown[-1].prompt == "harbour day clear"


def test_a_momentary_event_gives_back_what_was_there() -> None:
    sim = Simulation()
    sim.event(500, "storm")
    sim.event(1500, "drizzle")
    sim.run(6000)
    assert "drizzle" in {word for frame in sim.shown for word in frame.prompt.split()}
    assert sim.shown[-1].prompt == "harbour day storm"


def test_a_lasting_event_ends_a_momentary_one_on_the_same_words() -> None:
    sim = Simulation()
    sim.event(1000, "drizzle")
    sim.event(1400, "storm")
    sim.run(6000)
    after = itertools.dropwhile(lambda frame: "storm" not in frame.prompt.split(), sim.shown)
    assert {frame.prompt for frame in after} == {"harbour day storm"}


def test_an_unchanged_prompt_is_applied_without_a_recache() -> None:
    sim = Simulation()
    sim.event(1000, "storm", when="chunk")
    sim.event(3000, "storm", when="chunk")
    sim.run(5000)
    assert sim.outcome(2).state == "applied"
    assert sum(work.steer is not None for _, work in sim.work_log) == 2  # the first prompt, the storm


def test_a_cut_is_marked_in_its_first_frame() -> None:
    sim = Simulation()
    sim.event(1000, "elsewhere")
    sim.run(3000)
    marked = [frame for frame in sim.shown if frame.flags & protocol.FLAG_CUT]
    assert marked == [sim.first_with("city")]


def test_a_reset_waits_until_nothing_is_being_decoded() -> None:
    sim = Simulation(decode_ms=200)
    sim.event(1000, "anew", when="chunk")
    sim.run(4000)
    start = next(now for now, work in sim.work_log if work.steer is not None and work.steer[1] == "reset")
    assert sim.outcome(1).state == "applied"
    assert start >= 1000 * MS


def test_a_word_that_the_model_does_not_know_is_rejected_and_changes_nothing() -> None:
    sim = Simulation(bad_words={"storm"})
    sim.event(1000, "storm")
    sim.event(1000, "night")
    sim.run(3000)
    assert [why.code for why in sim.rejected] == ["prompt"]
    assert sim.shown[-1].prompt == "harbour night clear"


def test_a_prompt_that_the_engine_refuses_late_is_rejected() -> None:
    sim = Simulation()
    sim.event(1000, "storm")
    sim.at(1000, lambda: sim.bad_words.add("storm"))
    sim.run(3000)
    assert (sim.outcome(1).state, sim.outcome(1).code) == ("rejected", "prompt")
    assert sim.shown[-1].prompt == "harbour day clear"
    assert sim.gaps_ms[-1] == pytest.approx(PERIOD_MS)


def test_a_prompt_that_the_engine_refuses_after_a_moment_has_passed_leaves_the_old_one() -> None:
    sim = Simulation()
    sim.event(1000, "flash")
    sim.at(1500, lambda: sim.bad_prompts.add("harbour day clear"))
    sim.run(6000)
    assert sim.gaps_ms[-1] == pytest.approx(PERIOD_MS)
    assert "flash" in sim.shown[-1].prompt


def test_too_many_waiting_events_are_rejected_as_busy() -> None:
    sim = Simulation(settings=TimelineSettings(max_waiting=2))
    for text in ("storm", "night", "elsewhere"):
        sim.event(1000, text)
    sim.run(1000.5)
    assert [why.code for why in sim.rejected] == ["busy"]


def test_superseded_events_make_room_for_new_ones() -> None:
    sim = Simulation(settings=TimelineSettings(max_waiting=2))
    for _ in range(50):
        sim.event(1000, "storm")
    sim.run(3000)
    assert not sim.rejected
    assert sorted(one.state for one in sim.outcomes) == ["applied"] + ["superseded"] * 49


def test_a_hail_of_events_keeps_no_event_from_the_screen() -> None:
    sim = Simulation()
    for ms in range(1000, 9000):
        sim.event(ms, "storm" if ms % 2 else "rain")
    sim.run(12_000)
    applied = [one for one in sim.outcomes if one.state == "applied"]
    assert len(sim.outcomes) == 8000
    assert len(applied) > 20
    assert max(sim.gaps_ms) < 3 * PERIOD_MS
    assert sim.timeline.unshown <= 24


def test_an_engine_failure_keeps_what_was_decoded_and_applies_the_event_afterwards() -> None:
    failures = iter([True])
    sim = Simulation(fail=lambda work: work.steer is not None and "storm" in work.steer[0] and next(failures, False))
    sim.event(1000, "storm")
    sim.run(5000)
    assert sim.outcome(1).state == "applied"
    assert sim.timeline.totals.restarts == 1
    first = sim.first_with("storm")
    assert first.flags & protocol.FLAG_DISCONTINUITY
    assert [frame.number for frame in sim.shown] == list(range(1, len(sim.shown) + 1))


def test_an_event_on_which_the_engine_fails_again_is_rejected() -> None:
    sim = Simulation(fail=lambda work: work.steer is not None and "storm" in work.steer[0])
    sim.event(1000, "storm")
    sim.run(6000)
    assert (sim.outcome(1).state, sim.outcome(1).code) == ("rejected", "engine")
    assert sim.shown[-1].prompt == "harbour day clear"
    assert sim.timeline.state(sim.now) == "live"


def test_the_stream_is_restarting_while_there_is_no_engine() -> None:
    sim = Simulation(fail=lambda work: True, back_off_ms=10_000)
    sim.run(1000)
    assert sim.timeline.state(sim.now) == "restarting"


def test_a_stalled_stream_says_so() -> None:
    sim = Simulation().run(3000)
    sim.forward_ms = 10_000
    sim.run(6000)
    assert sim.timeline.state(sim.now) == "stalled"


def test_the_stream_is_starting_before_the_first_frame() -> None:
    assert Simulation().run(50).timeline.state(50 * MS) == "starting"


def stamps_of(sim: Simulation, until_ms: float) -> list[Stamps]:
    """Run; the stamps of each frame."""
    stamps: list[Stamps] = []
    publish = sim._publish

    def keep(due: DueFrame) -> None:
        publish(due)
        stamps.append(due.stamps(sim.now))

    sim._publish = keep  # type: ignore[method-assign]
    sim.run(until_ms)
    return stamps


def test_stamps_of_a_frame_are_in_order() -> None:
    sim = Simulation()
    sim.event(1000, "storm")
    stamps = stamps_of(sim, 3000)
    last = stamps[-1]
    first_with = next(one for one in stamps if one.received)
    assert first_with.received <= first_with.recached <= first_with.denoised <= first_with.decoded
    assert last.decoded <= last.published


def test_a_recache_ends_after_the_prompt_was_taken_and_the_window_made_anew() -> None:
    sim = Simulation(steer_ms=30, recache_ms=20)
    sim.event(1000, "storm")
    first_with = next(one for one in stamps_of(sim, 3000) if one.received)
    start = next(now for now, work in sim.work_log if work.orders)
    assert first_with.recached == start + 50 * MS


@pytest.mark.parametrize("names", [("elsewhere",), ("patient", "patient")], ids=["cut", "nothing new"])
def test_a_frame_for_which_nothing_was_recached_says_so(names: tuple[str, ...]) -> None:
    sim = Simulation()
    for place, name in enumerate(names, start=1):
        sim.event(1000 * place, name)
    last = stamps_of(sim, 4000)[-1]
    assert last.received == 1000 * len(names) * MS
    assert last.recached == 0


NAMES = ["storm", "rain", "night", "storm_night", "flash", "drizzle", "patient", "elsewhere", "anew"]


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.lists(
        st.tuples(st.integers(0, 4000), st.sampled_from([*NAMES, "a prompt", "another prompt"])), max_size=40
    ),
    forward_ms=st.sampled_from([1, 10, 20, 60, 150]),
    decode_ms=st.sampled_from([1, 10, 300]),
    in_parts=st.booleans(),
    failures=st.sets(st.integers(0, 40), max_size=3),
    interrupt=st.booleans(),
)
def test_every_input_has_exactly_one_end_and_the_stream_goes_on(
    inputs: list[tuple[int, str]],
    forward_ms: int,
    decode_ms: int,
    in_parts: bool,
    failures: set[int],
    interrupt: bool,
) -> None:
    works = itertools.count()
    sim = Simulation(
        forward_ms=forward_ms,
        decode_ms=decode_ms,
        in_parts=in_parts,
        settings=TimelineSettings(interrupt=interrupt),
        fail=lambda work: next(works) in failures,
    )
    for ms, name in inputs:
        if name in NAMES:
            sim.event(ms, name)
        else:
            sim.prompt(ms, name)
    sim.run(16_000)
    assert sorted(one.input.order for one in sim.outcomes) == [one.order for one in sim.accepted]
    assert sim.timeline.ledger.waiting == 0
    assert [frame.number for frame in sim.shown] == list(range(1, len(sim.shown) + 1))
    chunks = [frame.chunk for frame in sim.shown]
    assert chunks == sorted(chunks)
    orders = [frame.order for frame in sim.shown]
    assert orders == sorted(orders)
    assert sim.shown[-1].prompt == sim.scene.compose(sim.timeline.ledger.state, lambda _: False)
    for one in sim.outcomes:
        if one.state == "applied":
            frame = sim.shown[one.frame - 1]
            assert frame.order >= one.input.order
            assert one.frame == 1 or sim.shown[one.frame - 2].order < one.input.order


def test_the_first_frames_of_a_chunk_do_not_wait_for_the_last_to_be_decoded() -> None:
    waited = []
    for in_parts in (True, False):
        sim = Simulation(decode_ms=200, in_parts=in_parts)
        sim.event(2000, "storm")
        sim.run(4000)
        waited.append(sim.first_with("storm").at_ns / MS)
    assert waited[0] == pytest.approx(waited[1] - 100, abs=PERIOD_MS)


def test_a_chunk_of_which_frames_are_ready_is_not_lost_when_the_engine_fails() -> None:
    sim = Simulation(decode_ms=200).run(250)
    chunk = sim.timeline._decoding
    assert chunk is not None and chunk.decoded_frames == 4
    before = sim.timeline.unshown
    sim.timeline.failed("lost")
    assert sim.timeline.unshown == before - 4
