"""The ledger of inputs: every event and prompt that was accepted is in it until it has its final receipt.

An input is first *kept* by the director or *unused* (accepted, in no chunk yet), then *used* (in a chunk of which no
frame was shown yet), then it has an outcome: applied, superseded or rejected, exactly one. The ledger also keeps the
scene's state that goes with that: the state under which the newest chunk was started, and the head, which is that state
with the unused inputs in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from everscene_bridge.allow import PromptRule
from everscene_bridge.director import Director, Scenery, combined, outranked, with_when_of
from everscene_bridge.errors import InputRejected
from everscene_bridge.inputs import Action, Input, settle
from everscene_bridge.scene import Scene, SceneState
from everscene_engine.errors import PromptRejected


@dataclass(frozen=True)
class Outcome:
    """The end of an input, to be told to its client. Which of the later fields are set follows from `state`."""

    input: Input
    state: str  # "applied", "superseded", "rejected"
    frame: int = 0  # applied: first frame number under it
    chunk: int = 0
    latency_ns: int = 0  # applied: from arrival to the publishing of that frame
    prompt: str = ""
    by: int = 0  # superseded: order of the one that replaced it
    code: str = ""  # rejected
    reason: str = ""


@dataclass
class InputTotals:
    """Since the start of the epoch."""

    accepted: int = 0
    applied: int = 0
    superseded: int = 0
    rejected: int = 0


class Ledger:
    """See the module's docstring. Not thread-safe."""

    def __init__(self, scene: Scene, check: Callable[[str], None], max_waiting: int) -> None:
        self.scene = scene
        self.state = scene.initial
        self.totals = InputTotals()
        self.outcomes: list[Outcome] = []  # whoever tells the clients takes them out
        self.blending: int | None = None  # priority of the blend under way
        self.director = Director()
        self.allow: PromptRule | None = None  # which free prompts are taken; None: any
        self._check = check
        self._max_waiting = max_waiting
        self._head = scene.initial
        self._unused: list[Input] = []
        self._ranks: dict[str, int] = {}  # slot → highest priority among the unused inputs that fill it
        self._used: list[Input] = []
        self._next_order = 1

    def accept(
        self, action: Action, received_ns: int, client_id: int = 0, input_id: int = 0, client_ns: int | None = None
    ) -> Input:
        """Take an event or prompt. Raises InputRejected, and then nothing has changed."""
        if self.allow is not None:
            self.allow.check(action, self.scene.slots)
        self._make_room()
        may_go_on = self.director.admit(action, self._scenery(), received_ns)
        earlier = self._earlier(action)
        if earlier is not None and action.rules.coalesce in ("max", "sum"):
            action = self._combined(earlier.action, action)
        new = Input(self._next_order, action, received_ns, client_id, input_id, client_ns)
        head = self._head.after(new)
        self._must_be_right(head)
        self._next_order += 1
        self.totals.accepted += 1
        if earlier is not None and action.rules.coalesce == "first":
            self._supersede(new, earlier)
            return new
        twin = self.director.twin(action)
        if twin is not None:
            self.director.drop([twin])
            self._supersede(twin, new)
        if may_go_on:
            self._let_through(new, head, received_ns)
        else:
            self.director.keep(new, received_ns)
        return new

    def release(self, now_ns: int) -> bool:
        """Let through what was kept back and may go on now; whether anything was."""
        released = False
        for one in self.director.due(now_ns) if self.director.kept else ():
            rank = self._scenery().outranking(one.action)
            if rank is not None and one.action.rules.otherwise == "wait":
                continue
            self.director.drop([one])
            head = self._head.after(one)
            try:
                if rank is not None:
                    raise outranked(one.action, rank)
                self._must_be_right(head)
            except InputRejected as why:
                self._reject([one], why.code, why.reason)
                continue
            self._let_through(one, head, now_ns)
            released = True
        return released

    def next_release_ns(self, now_ns: int) -> int | None:
        """When `release` may have something by time alone."""
        return self.director.next_due_ns(now_ns)

    @property
    def waiting(self) -> int:
        """Inputs that have no final receipt yet."""
        return len(self.director.kept) + len(self._unused) + len(self._used)

    @property
    def urgent(self) -> bool:
        """Whether an unused input does not want to wait for the chunk in flight."""
        return any(one.action.when == "now" for one in self._unused)

    @property
    def resets(self) -> bool:
        """Whether an unused input wants a new world."""
        return any(one.action.transition == "reset" for one in self._unused)

    def use(self) -> tuple[Input, ...]:
        """Settle the unused inputs for a chunk that starts; those that it carries. `state` then has them in it."""
        self._settle()
        carried = tuple(self._unused)
        self._used += carried
        self._unused.clear()
        self._ranks.clear()
        self.state = self._head
        return carried

    def put_back(self, inputs: Sequence[Input], state_before: SceneState) -> None:
        """The chunk that carried these is lost: they are unused again, and the state is as it was before it."""
        lost = {one.order for one in inputs}
        self._used = [one for one in self._used if one.order not in lost]
        self._unused[:0] = inputs
        self.state = state_before
        self._fold()

    def passed(self, orders: set[int]) -> None:
        """These momentary events are over for good."""
        self.state = self.state.without(orders)
        self._head = self._head.without(orders)

    def applied(
        self, inputs: Sequence[Input], *, frame: int, chunk: int, prompt: str, published_ns: int
    ) -> list[Input]:
        """A frame of the chunk that carries these was published; those for which it was the first."""
        orders = {one.order for one in inputs}
        done = [one for one in self._used if one.order in orders] if orders else []
        if done:
            self._used = [one for one in self._used if one.order not in orders]
            self.totals.applied += len(done)
        for one in done:
            latency = published_ns - one.received_ns
            self.outcomes.append(Outcome(one, "applied", frame, chunk, latency, prompt))
        return done

    def reject(self, inputs: Sequence[Input], code: str, reason: str) -> None:
        """Give these unused inputs a bad end."""
        gone = {one.order for one in inputs}
        self._unused = [one for one in self._unused if one.order not in gone]
        self._reject(inputs, code, reason)
        self._fold()

    def reject_all(self, code: str, reason: str) -> None:
        """Give every open input its end."""
        kept = [one.input for one in self.director.kept]
        self._reject(sorted([*self._used, *self._unused, *kept], key=lambda one: one.order), code, reason)
        self.director.drop(kept)
        self._used.clear()
        self._unused.clear()
        self._fold()

    def stand(self, state: SceneState) -> None:
        """The scene holds this from now on. Nothing may be waiting."""
        assert not self.waiting
        self.blending = None
        self.state = self._head = state

    def change_scene(self, scene: Scene) -> None:
        """Go by another scene from now on: words that events put into slots stay where it has such slots."""
        old, self.scene = self.scene, scene
        self.state = self.state.moved(old.initial, scene.initial)
        self._fold()

    # What the rules look at

    def _scenery(self) -> Scenery:
        return Scenery(self._head.momentary, self._ranks, self.blending)

    def _earlier(self, action: Action) -> Input | None:
        """The event of the same name that still waits and that nothing later has touched; None: there is none."""
        if action.rules.coalesce == "latest":
            return None
        twin = self.director.twin(action)
        if twin is not None:
            return twin
        for one in reversed(self._unused):
            if one.action.event == action.event:
                return one
            if one.action.prompt is not None or not one.action.sets.keys().isdisjoint(action.sets):
                return None
        return None

    def _combined(self, earlier: Action, later: Action) -> Action:
        params = combined(earlier, later, self.scene.number_bounds(later.event))
        return with_when_of(self.scene.action(later.event, params, later.when), earlier)

    def _must_be_right(self, state: SceneState) -> None:
        try:
            self._check(self.scene.compose(state))
        except PromptRejected as why:
            raise InputRejected("prompt", str(why)) from None

    def _make_room(self) -> None:
        if len(self._unused) + len(self.director.kept) < self._max_waiting:
            return
        self._settle()
        if len(self._unused) + len(self.director.kept) >= self._max_waiting:
            reason = f"{self._max_waiting} events and prompts are waiting; no more are taken"
            raise InputRejected("busy", reason)

    # What becomes of them

    def _let_through(self, new: Input, head: SceneState, now_ns: int) -> None:
        self._unused.append(new)
        self._head = head
        self._rank(new)
        self.director.take(new, now_ns)

    def _rank(self, one: Input) -> None:
        priority = one.action.rules.priority
        for slot in one.action.sets:
            self._ranks[slot] = max(priority, self._ranks.get(slot, priority))

    def _supersede(self, old: Input, by: Input) -> None:
        self.totals.superseded += 1
        self.outcomes.append(Outcome(old, "superseded", by=by.order))

    def _reject(self, inputs: Sequence[Input], code: str, reason: str) -> None:
        self.totals.rejected += len(inputs)
        self.outcomes += [Outcome(one, "rejected", code=code, reason=reason) for one in inputs]

    def _settle(self) -> None:
        survivors: list[Input] = []
        for settled in settle(self._unused):
            if settled.by is None:
                survivors.append(settled.input)
            else:
                self.totals.superseded += 1
                self.outcomes.append(Outcome(settled.input, "superseded", by=settled.by))
        self._unused = survivors
        self._fold()

    def _fold(self) -> None:
        self._head = self.state
        self._ranks.clear()
        for one in self._unused:
            self._head = self._head.after(one)
            self._rank(one)
