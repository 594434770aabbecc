"""The director: decides when an accepted event may go on to the picture. Pure rules, and a clock that is handed in.

Each event of a scene has rules (`inputs.Rules`). On its way in, an event can be

    refused      its cooldown runs, or what holds its slots outranks it and it does not want to wait
    coalesced    one of the same name is still waiting: the two become one
    kept back    until no further one has come for `debounce` seconds, or until what outranks it is over
    let through  into the next chunk

What outranks an event: a momentary event that holds one of its slots, an event that waits for the next chunk and fills
one of them, or a blend that is under way, unless the event's rules let it break into it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from everscene_bridge.errors import InputRejected
from everscene_bridge.inputs import Action, Input
from everscene_bridge.messages import ParamValue
from everscene_bridge.protocol import NS


class Holding(Protocol):
    """A momentary event in force."""

    @property
    def sets(self) -> Mapping[str, str]: ...
    @property
    def priority(self) -> int: ...


@dataclass(frozen=True)
class Kept:
    """An input that is kept back. due_ns: when its debounce is over; after that it waits for what outranks it."""

    input: Input
    due_ns: int


class Scenery(NamedTuple):
    """What is going on when an input comes."""

    holding: Sequence[Holding]
    waiting: Mapping[str, int]  # slot → highest priority of what the next chunk fills it with
    blending: int | None  # priority of the blend under way

    def outranking(self, action: Action) -> int | None:
        """The highest priority that the action may not break into; None: nothing is in its way."""
        rules = action.rules
        if rules.interrupts == "any":
            return None
        slots = action.sets.keys()
        highest = -1 if self.blending is None else self.blending
        for one in self.holding:
            if one.priority > highest and not slots.isdisjoint(one.sets):
                highest = one.priority
        for slot in slots:
            highest = max(highest, self.waiting.get(slot, -1))
        return None if highest < 0 or rules.may_interrupt(highest) else highest


class Director:
    """See the module's docstring. Not thread-safe."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []  # oldest first
        self._taken_ns: dict[str, int] = {}  # event → when it was last let through

    def admit(self, action: Action, scenery: Scenery, now_ns: int) -> bool:
        """Whether an event may go on at once; False: it is to be kept back. Raises InputRejected if it is refused.

        A cooldown does not refuse an event that becomes one with another that is kept back.
        """
        rules = action.rules
        if rules.cooldown_s > 0 and self.twin(action) is None:
            since_ns = now_ns - self._taken_ns.get(action.event, now_ns - round(rules.cooldown_s * NS))
            if since_ns < rules.cooldown_s * NS:
                reason = f"{action.event} was taken {since_ns / NS:.2g} s ago; its cooldown is {rules.cooldown_s:g} s"
                raise InputRejected("cooldown", reason)
        if rules.debounce_s:
            return False
        rank = scenery.outranking(action)
        if rank is not None and rules.otherwise == "reject":
            raise outranked(action, rank)
        return rank is None

    def keep(self, new: Input, now_ns: int) -> None:
        """Keep an input back."""
        self.kept.append(Kept(new, now_ns + round(new.action.rules.debounce_s * NS)))

    def take(self, new: Input, now_ns: int) -> None:
        """An input was let through."""
        if new.action.rules.cooldown_s > 0:
            self._taken_ns[new.action.event] = now_ns

    def twin(self, action: Action) -> Input | None:
        """The newest event of the same name (or input on the same slots directly) that is kept back."""
        for one in reversed(self.kept):
            other = one.input.action
            if other.event == action.event and (action.event or other.sets.keys() == action.sets.keys()):
                return one.input
        return None

    def drop(self, gone: Iterable[Input]) -> None:
        """Keep these back no longer."""
        orders = {one.order for one in gone}
        self.kept = [one for one in self.kept if one.input.order not in orders]

    def due(self, now_ns: int) -> list[Input]:
        """Inputs whose debounce is over, the most important first, then the oldest."""
        found = [one.input for one in self.kept if one.due_ns <= now_ns]
        return sorted(found, key=lambda one: (-one.action.rules.priority, one.order))

    def next_due_ns(self, now_ns: int) -> int | None:
        """When the next debounce is over; None: none runs."""
        return min((one.due_ns for one in self.kept if one.due_ns > now_ns), default=None)


def outranked(action: Action, rank: int) -> InputRejected:
    """What an event is told that does not want to wait."""
    rules = action.rules
    name = action.event or "this"
    reason = (
        f"{name} has priority {rules.priority} and interrupts {rules.interrupts}; what is under way has priority {rank}"
    )
    return InputRejected("outranked", reason)


def combined(earlier: Action, later: Action, bounds: Mapping[str, tuple[float, float]]) -> Mapping[str, ParamValue]:
    """Params of two events that become one: numbers as `coalesce` says, the rest as the later one has them.

    bounds: of the number params; a sum stays within them.
    """
    params = dict(later.params)
    for name, (low, high) in bounds.items():
        before, after = earlier.params.get(name), later.params.get(name)
        if isinstance(before, str) or isinstance(after, str) or before is None or after is None:
            continue
        value = max(before, after) if later.rules.coalesce == "max" else before + after
        params[name] = min(max(value, low), high)
    return params


def with_when_of(action: Action, other: Action) -> Action:
    """The action, as urgent as the more urgent of both."""
    return action if action.when == "now" or other.when != "now" else replace(action, when="now")
