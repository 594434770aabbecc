"""Events, prompts and slots on their way to the picture, and what becomes of several that meet.

An input waits from its acceptance until a chunk starts (the director may keep it back for longer, see director.py). All
that wait then go into that chunk and are settled together: one of which nothing is left, because a later one replaced
its words, is superseded; every other is used, and applied when the first frame of that chunk is published. So nothing
is lost in silence, and a burst of events costs one recache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from everscene_bridge.messages import ParamValue
from everscene_bridge.protocol import TRANSITIONS, Transition, When
from everscene_bridge.ways import DEFAULT_BLEND, RECACHE, Blend, Way

Coalesce = Literal["latest", "first", "max", "sum"]
Interrupts = Literal["any", "same", "lower", "none"]
Otherwise = Literal["reject", "wait"]


@dataclass(frozen=True)
class Rules:
    """What the director goes by. docs/director.md says what each means."""

    priority: int = 0
    cooldown_s: float = 0.0
    debounce_s: float = 0.0
    coalesce: Coalesce = "latest"
    interrupts: Interrupts = "same"
    otherwise: Otherwise = "reject"

    def may_interrupt(self, priority: int) -> bool:
        """Whether what holds or blends with this priority may be broken into."""
        if self.interrupts == "any":
            return True
        if self.interrupts == "none":
            return False
        return priority < self.priority or (self.interrupts == "same" and priority == self.priority)


UNRULED = Rules(interrupts="any")
"""For whole prompts: somebody wrote them by hand, and means them."""


@dataclass(frozen=True)
class Action:
    """What an input does to the scene: fill slots with words, or put a whole prompt in their place."""

    sets: Mapping[str, str] = field(default_factory=dict)  # slot → words
    prompt: str | None = None
    for_s: float | None = None  # seconds of content after which it goes back by itself
    transition: Transition = "recache"
    when: When = "now"
    blend: Blend = DEFAULT_BLEND  # with the transition `blend`
    back: Way = RECACHE  # with `for_s`: the way back
    event: str = ""  # name; empty for a prompt and for slots that are set directly
    params: Mapping[str, ParamValue] = field(default_factory=dict)  # of the event, all of them
    rules: Rules = UNRULED


@dataclass(frozen=True)
class Input:
    """An accepted input."""

    order: int  # 1 and up within an epoch
    action: Action
    received_ns: int  # server clock
    client_id: int = 0
    id: int = 0
    client_ns: int | None = None


@dataclass(frozen=True)
class Settled:
    """What became of an input when a chunk started: used (`by` is None), or superseded by the one with order `by`."""

    input: Input
    by: int | None


def settle(group: Sequence[Input]) -> list[Settled]:
    """What became of inputs that went into the same chunk, in the order in which they take effect.

    From the last to the first, remembering for each set of slots the nearest later event that fills it: as there are
    few different sets, the time goes with the number of inputs, not with its square.
    """
    settled: list[Settled] = []
    ends_in_prompt = bool(group) and group[-1].action.prompt is not None
    next_order: int | None = None
    next_prompt: int | None = None
    lasting: dict[frozenset[str], tuple[int, int]] = {}  # slots → place and order of the nearest later such event
    momentary: dict[frozenset[str], tuple[int, int]] = {}
    for place in range(len(group) - 1, -1, -1):
        one = group[place]
        action = one.action
        if ends_in_prompt:
            by = next_prompt
        elif action.prompt is not None:
            by = next_order
        else:
            covering = [lasting] if action.for_s is None else [lasting, momentary]
            by = _nearest(covering, action.sets)
        settled.append(Settled(one, by))
        next_order = one.order
        if action.prompt is not None:
            next_prompt = one.order
        else:
            (lasting if action.for_s is None else momentary)[frozenset(action.sets)] = (place, one.order)
    settled.reverse()
    return settled


def _nearest(later: Sequence[Mapping[frozenset[str], tuple[int, int]]], sets: Mapping[str, str]) -> int | None:
    """Order of the nearest later event that fills at least these slots.

    A momentary event does not count against a lasting one: that comes back when it has passed.
    """
    slots = sets.keys()
    found = [entry for known in later for filled, entry in known.items() if slots <= filled]
    return min(found)[1] if found else None


def strongest(inputs: Sequence[Input]) -> Transition:
    """The strongest transition among inputs that meet in one chunk; `recache` when there are none."""
    if not inputs:
        return "recache"
    return max((i.action.transition for i in inputs), key=TRANSITIONS.index)


def way_of(inputs: Sequence[Input]) -> Way:
    """The strongest transition, and the blend of the latest input that has one."""
    blends = [one.action.blend for one in inputs if one.action.transition == "blend"]
    return Way(strongest(inputs), blends[-1] if blends else DEFAULT_BLEND)
