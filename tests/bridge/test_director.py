"""The director's rules: one by one, and for any sequence of events."""

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from everscene_bridge import director_bench
from everscene_bridge.errors import InputRejected
from everscene_bridge.inputs import Action, Input
from everscene_bridge.ledger import Ledger, Outcome
from everscene_bridge.messages import ParamValue
from everscene_bridge.protocol import NS
from everscene_bridge.scene import Scene, parse_scene
from everscene_bridge.ways import RECACHE

SCENE = """
name: rules
template: "{weather} {time} {moment} {hits}"
slots: {weather: clear, time: day, moment: "", hits: none}
events:
  calm: {set: {weather: clear}}
  storm: {set: {weather: storm}, priority: 5}
  night: {set: {time: night}, cooldown: 2s}
  flash: {set: {moment: flash}, for: 1s, priority: 3}
  birds: {set: {moment: birds}, for: 2s}
  bats: {set: {moment: bats}, for: 2s, otherwise: wait}
  shy: {set: {moment: shy}, for: 1s, interrupts: none, otherwise: wait}
  bold: {set: {moment: bold}, interrupts: any}
  rival: {set: {moment: rival}, priority: 3, interrupts: lower}
  fader: {set: {weather: "{level}"}, debounce: 0.5s, params: {level: {type: number, default: 0}}}
  late: {set: {moment: late}, debounce: 0.5s, priority: 1}
  hit:
    set: {hits: "{force}"}
    coalesce: sum
    params: {force: {type: number, max: 10, default: 1}, who: {type: text, default: nobody}}
  peak: {set: {hits: "{force}"}, coalesce: max, params: {force: {type: number, max: 10, default: 1}}}
  once: {set: {hits: once}, coalesce: first, cooldown: 1s}
"""


class Stage:
    """A ledger with a clock, and chunks that are started and shown at once."""

    def __init__(self) -> None:
        self.scene: Scene = parse_scene(SCENE)
        self.ledger = Ledger(self.scene, lambda prompt: None, 4096)
        self.now = 0
        self.ends: dict[int, int] = {}  # order of a momentary event → when it passes
        self.outcomes: dict[int, list[Outcome]] = {}

    def send(self, name: str, **params: ParamValue) -> Input:
        return self.ledger.accept(self.scene.action(name, params, None), self.now)

    def refused(self, name: str, **params: ParamValue) -> str:
        with pytest.raises(InputRejected) as caught:
            self.send(name, **params)
        return f"{caught.value.code}: {caught.value.reason}"

    def go(self, seconds: float) -> "Stage":
        self.now += round(seconds * NS)
        over = {order for order, end in self.ends.items() if end <= self.now}
        self.ledger.passed(over)
        self.ends = {order: end for order, end in self.ends.items() if order not in over}
        return self

    def show(self) -> str:
        """Start a chunk and show it; the prompt that is then in force."""
        self.ledger.release(self.now)
        carried = self.ledger.use()
        for one in carried:
            if one.action.for_s is not None:
                self.ends[one.order] = self.now + round(one.action.for_s * NS)
        prompt = self.scene.compose(self.ledger.state)
        self.ledger.applied(carried, frame=1, chunk=0, prompt=prompt, published_ns=self.now)
        self.collect()
        return prompt

    def collect(self) -> None:
        for outcome in self.ledger.outcomes:
            self.outcomes.setdefault(outcome.input.order, []).append(outcome)
        self.ledger.outcomes = []

    def state(self, one: Input) -> str:
        self.collect()
        ends = self.outcomes.get(one.order, [])
        assert len(ends) <= 1
        return ends[0].state if ends else "open"


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_cooldown_refuses_the_same_event_until_it_is_over(stage: Stage) -> None:
    stage.send("night")
    stage.go(1.5).show()
    assert stage.refused("night") == "cooldown: night was taken 1.5 s ago; its cooldown is 2 s"
    stage.go(0.5).send("night")


def test_a_debounced_event_comes_when_no_more_have_come(stage: Stage) -> None:
    first = stage.send("fader", level=0.1)
    second = stage.go(0.4).send("fader", level=0.2)
    assert stage.go(0.4).show().startswith("clear")
    assert (stage.state(first), stage.state(second)) == ("superseded", "open")
    assert stage.go(0.1).show().startswith("0.2")
    assert stage.state(second) == "applied"


def test_the_director_says_when_a_debounce_is_over(stage: Stage) -> None:
    stage.send("fader")
    assert stage.ledger.next_release_ns(stage.now) == NS // 2
    assert stage.ledger.next_release_ns(NS // 2) is None


def test_lower_priority_does_not_break_into_what_holds_its_slot(stage: Stage) -> None:
    stage.send("flash")
    stage.show()
    assert stage.refused("birds").startswith("outranked: birds has priority 0 and interrupts same")
    stage.send("calm")  # another slot
    stage.go(1.0).send("birds")
    assert "birds" in stage.show()


def test_lower_priority_does_not_supersede_what_waits_for_the_next_chunk(stage: Stage) -> None:
    storm = stage.send("storm")
    assert stage.refused("calm").startswith("outranked")
    assert stage.show().startswith("storm") and stage.state(storm) == "applied"
    stage.send("calm")  # a lasting event holds nothing once it is shown
    assert stage.show().startswith("clear")


def test_an_event_that_waits_comes_when_what_outranks_it_is_over(stage: Stage) -> None:
    stage.send("flash")
    stage.show()
    bats = stage.send("bats")
    assert "flash" in stage.go(0.9).show() and stage.state(bats) == "open"
    assert "bats" in stage.go(0.1).show() and stage.state(bats) == "applied"


def test_an_event_that_interrupts_nothing_waits_for_its_own_kind(stage: Stage) -> None:
    stage.send("shy")
    stage.show()
    again = stage.send("shy")
    stage.go(0.5).show()
    assert stage.state(again) == "open"
    stage.go(0.5).show()
    assert stage.state(again) == "applied"


def test_an_event_may_be_allowed_to_break_into_anything(stage: Stage) -> None:
    stage.send("flash")
    stage.show()
    stage.send("bold")
    assert "bold" in stage.show()


def test_equal_priority_may_be_too_little(stage: Stage) -> None:
    stage.send("flash")
    stage.show()
    assert "interrupts lower" in stage.refused("rival")


def test_a_blend_counts_for_every_slot(stage: Stage) -> None:
    stage.ledger.blending = 1
    assert stage.refused("night").startswith("outranked")
    stage.send("flash")
    stage.ledger.blending = None
    stage.send("night")


def test_events_that_coalesce_add_up_within_their_bounds(stage: Stage) -> None:
    hits = [stage.send("hit", force=4, who="first"), stage.send("hit", force=3), stage.send("hit", force=5, who="last")]
    assert stage.show().endswith(" 10")
    assert [stage.state(one) for one in hits] == ["superseded", "superseded", "applied"]
    assert hits[-1].action.params == {"force": 10, "who": "last"}


def test_the_greatest_of_several_can_count(stage: Stage) -> None:
    for force in (4, 7, 2):
        stage.send("peak", force=force)
    assert stage.show().endswith(" 7")


def test_the_first_of_several_can_count(stage: Stage) -> None:
    first, second = stage.send("once"), None
    with pytest.raises(InputRejected):
        second = stage.send("once")  # its cooldown counts first
    assert second is None
    stage.show()
    assert stage.state(first) == "applied"


def test_a_sum_begins_anew_after_an_event_in_between(stage: Stage) -> None:
    stage.send("hit", force=4)
    stage.send("peak", force=1)
    stage.send("hit", force=2)
    assert stage.show().endswith(" 2")


def test_an_event_that_waited_behind_a_debounce_is_refused_late(stage: Stage) -> None:
    late = stage.send("late")
    stage.send("flash")
    stage.show()
    stage.go(0.5).show()
    assert stage.state(late) == "rejected"
    assert stage.outcomes[late.order][0].code == "outranked"


def test_prompts_know_no_rules(stage: Stage) -> None:
    stage.send("flash")
    stage.show()
    stage.ledger.accept(Action(prompt="all else"), stage.now)
    assert stage.show() == "all else"


def test_slots_set_directly_wait_for_what_outranks_them(stage: Stage) -> None:
    stage.send("flash")
    stage.show()
    first = stage.ledger.accept(stage.scene.slots_action({"moment": "one"}, RECACHE, "now"), stage.now)
    second = stage.ledger.accept(stage.scene.slots_action({"moment": "two"}, RECACHE, "now"), stage.now)
    assert (stage.state(first), stage.state(second)) == ("superseded", "open")
    assert "two" in stage.go(1).show()


EVENTS = tuple(parse_scene(SCENE).file.events)


class AnySequence(RuleBasedStateMachine):
    """Events at any time, chunks at any time, a clock that goes on."""

    @initialize()
    def begin(self) -> None:
        self.stage = Stage()
        self.accepted: list[Input] = []
        self.taken: dict[str, list[int]] = {}

    @rule(name=st.sampled_from(EVENTS), force=st.floats(0, 1))
    def send(self, name: str, force: float) -> None:
        event = self.stage.scene.file.events[name]
        params = {key: force for key, param in event.params.items() if param.type == "number"}
        held = {m.order: m for m in self.stage.ledger._head.momentary}
        try:
            one = self.stage.send(name, **params)
        except InputRejected as why:
            assert why.code in ("cooldown", "outranked")
            return
        self.accepted.append(one)
        for momentary in held.values():  # what holds a slot yields only to what may interrupt it
            if momentary.order not in {m.order for m in self.stage.ledger._head.momentary}:
                assert one.action.rules.may_interrupt(momentary.priority)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.stage.go(seconds)

    @rule()
    def show(self) -> None:
        before = dict(self.stage.outcomes)
        self.stage.show()
        for order in self.stage.outcomes.keys() - before.keys():
            outcome = self.stage.outcomes[order][0]
            if outcome.state == "applied":
                self.taken.setdefault(outcome.input.action.event, []).append(outcome.input.received_ns)

    @precondition(lambda self: self.accepted)
    @rule(back=st.integers(1, 5))
    def lose_a_chunk(self, back: int) -> None:
        self.stage.ledger.release(self.stage.now)
        before = self.stage.ledger.state
        self.stage.ledger.put_back(self.stage.ledger.use(), before)
        self.stage.collect()

    @invariant()
    def every_accepted_event_has_at_most_one_end(self) -> None:
        open_now = 0
        for one in getattr(self, "accepted", []):
            open_now += self.stage.state(one) == "open"
        if hasattr(self, "stage"):
            assert open_now == self.stage.ledger.waiting

    @invariant()
    def cooldowns_hold(self) -> None:
        for name, times in getattr(self, "taken", {}).items():
            rules = self.stage.scene.file.events[name].rules
            if rules.cooldown_s and not rules.debounce_s:
                ordered = sorted(times)
                gaps = [later - before for before, later in itertools.pairwise(ordered)]
                assert all(gap >= rules.cooldown_s * NS for gap in gaps)

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        for _ in range(len(EVENTS) + 1):  # one may wait for the other
            self.stage.go(10.0).show()
        assert [self.stage.state(one) for one in self.accepted].count("open") == 0
        assert self.stage.ledger.state.momentary == () or self.stage.go(10.0).ledger.state.momentary == ()


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

LASTING = [name for name, event in parse_scene(SCENE).file.events.items() if event.for_s is None]
PASSING = [name for name in EVENTS if name not in LASTING]


def steps() -> st.SearchStrategy[list[tuple[str, float]]]:
    return st.lists(st.tuples(st.sampled_from(PASSING), st.floats(0, 1.5)), max_size=12)


@settings(max_examples=80, deadline=None)
@given(before=st.lists(st.sampled_from(LASTING), max_size=5), passing=steps())
def test_decays_return_to_the_state_before(before: list[str], passing: list[tuple[str, float]]) -> None:
    stage = Stage()
    for name in before:
        _try(stage, name)
        stage.go(5.0).show()
    prompt = stage.show()
    for name, seconds in passing:
        _try(stage, name)
        stage.go(seconds).show()
    for _ in range(2 * len(PASSING)):
        stage.go(10.0).show()
    assert stage.show() == prompt


def _try(stage: Stage, name: str) -> None:
    with contextlib.suppress(InputRejected):
        stage.send(name)


def test_the_bench_accounts_for_every_event() -> None:
    times = director_bench.measure(parse_scene(SCENE), events=1200)
    assert times.applied + times.superseded + times.rejected == times.events == 1200
    assert times.seconds > 0
