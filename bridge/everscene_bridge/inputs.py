"""Events and prompts on their way to the picture, and what becomes of several that meet.

An input waits from its acceptance until a chunk starts. All that wait then go into that chunk and are settled
together: one of which nothing is left, because a later one replaced its words, is superseded; every other is used,
and applied when the first frame of that chunk is published. So nothing is lost in silence, and a burst of events
costs one recache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from everscene_bridge.protocol import TRANSITIONS, Transition, When


@dataclass(frozen=True)
class Action:
    """What an event or a prompt does to the scene: fill slots with words, or put a whole prompt in their place."""

    sets: Mapping[str, str] = field(default_factory=dict)  # slot → words
    prompt: str | None = None
    for_s: float | None = None  # seconds of content after which it goes back by itself
    transition: Transition = "recache"
    when: When = "now"


@dataclass(frozen=True)
class Input:
    """An accepted event or prompt."""

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
    """What became of inputs that went into the same chunk, in the order of their acceptance."""
    last_prompt = max((i.order for i in group if i.action.prompt is not None), default=0)
    final_is_prompt = bool(group) and group[-1].order == last_prompt
    settled: list[Settled] = []
    for position, one in enumerate(group):
        later = group[position + 1 :]
        if final_is_prompt:
            by = next((i.order for i in later if i.action.prompt is not None), None)
        elif one.action.prompt is not None:
            by = later[0].order
        else:
            by = next((i.order for i in later if _covers(i.action, one.action)), None)
        settled.append(Settled(one, by))
    return settled


def strongest(inputs: Sequence[Input]) -> Transition:
    """The strongest transition among inputs that meet in one chunk; `recache` when there are none."""
    if not inputs:
        return "recache"
    return max((i.action.transition for i in inputs), key=TRANSITIONS.index)


def _covers(later: Action, earlier: Action) -> bool:
    """Whether nothing of an earlier event is left after a later one."""
    if later.prompt is not None or earlier.prompt is not None:
        return False
    if later.for_s is not None and earlier.for_s is None:
        return False  # the earlier one comes back when the later one has passed
    return set(earlier.sets) <= set(later.sets)
