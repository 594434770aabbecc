"""The ledger of inputs: every event and prompt that was accepted is in it until it has its final receipt.

An input is first *unused* (accepted, in no chunk yet), then *used* (in a chunk of which no frame was shown yet),
then it has an outcome: applied, superseded or rejected, exactly one. The ledger also keeps the scene's state that
goes with that: the state under which the newest chunk was started, and the head, which is that state with the
unused inputs in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        self._check = check
        self._max_waiting = max_waiting
        self._head = scene.initial
        self._unused: list[Input] = []
        self._used: list[Input] = []
        self._next_order = 1

    def accept(
        self, action: Action, received_ns: int, client_id: int = 0, input_id: int = 0, client_ns: int | None = None
    ) -> Input:
        """Take an event or prompt. Raises InputRejected, and then nothing has changed."""
        if len(self._unused) >= self._max_waiting:
            self._settle()
        if len(self._unused) >= self._max_waiting:
            reason = f"{self._max_waiting} events and prompts are waiting; no more are taken"
            raise InputRejected("busy", reason)
        new = Input(self._next_order, action, received_ns, client_id, input_id, client_ns)
        head = self._head.after(new)
        try:
            self._check(self.scene.compose(head))
        except PromptRejected as why:
            raise InputRejected("prompt", str(why)) from None
        self._next_order += 1
        self._unused.append(new)
        self._head = head
        self.totals.accepted += 1
        return new

    @property
    def waiting(self) -> int:
        """Inputs that have no final receipt yet."""
        return len(self._unused) + len(self._used)

    @property
    def has_unused(self) -> bool:
        """Whether the next chunk will carry inputs."""
        return bool(self._unused)

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

    def applied(self, order: int, *, frame: int, chunk: int, prompt: str, published_ns: int) -> list[Input]:
        """A frame under all inputs up to `order` was published; those for which it was the first."""
        done = [one for one in self._used if one.order <= order]
        if done:
            self._used = [one for one in self._used if one.order > order]
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
        self._reject([*self._used, *self._unused], code, reason)
        self._used.clear()
        self._unused.clear()
        self._fold()

    def stand(self, state: SceneState) -> None:
        """The scene holds this from now on. Nothing may be waiting."""
        assert not self._unused and not self._used
        self.state = self._head = state

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
        for one in self._unused:
            self._head = self._head.after(one)
