"""Plays a feed: sends each step at its time on the wall clock.

The feed has a position, which goes with the clock (times `speed`), stands still while a step waits for its receipt, and
leaps at a jump. A feed that falls behind sends what is due at once, in order.
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from everscene_bridge.errors import ClientError, NotInTime
from everscene_bridge.feed import Deed, Feed, Step

WAIT_SLICE_S = 0.25


class Player(Protocol):
    """What a feed needs of a `Client`."""

    def event(self, name: str, when: Any = None, **params: Any) -> Any: ...
    def prompt(
        self,
        text: str,
        transition: Any = None,
        when: Any = None,
        *,
        seconds: Any = None,
        ease: Any = None,
        path: Any = None,
    ) -> Any: ...
    def slots(
        self,
        words: Mapping[str, str],
        transition: Any = None,
        when: Any = None,
        *,
        seconds: Any = None,
        ease: Any = None,
        path: Any = None,
    ) -> Any: ...


class Stop(Protocol):
    """What a feed needs of a `threading.Event`."""

    def wait(self, timeout: float) -> bool: ...


def play(
    client: Player,
    feed: Feed,
    stop: Stop,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda line: None,
    speed: float = 1.0,
) -> None:
    """Send each step at its time until `stop` is set, or to the end of a feed without `every`.

    A step that cannot be sent (no server at the moment) or whose receipt does not come is told to `say`; the feed goes
    on. `clock` gives seconds; speed: seconds of the feed in one of the clock.
    """
    _Playing(client, feed, stop, clock, say, speed).play()


class _Playing:
    def __init__(
        self,
        client: Player,
        feed: Feed,
        stop: Stop,
        clock: Callable[[], float],
        say: Callable[[str], None],
        speed: float,
    ) -> None:
        self._client = client
        self._feed = feed
        self._stop = stop
        self._clock = clock
        self._say = say
        self._speed = speed
        self._chance = random.Random(feed.seed)
        self._zero = clock()  # when position 0 of the round is, or would have been

    def play(self) -> None:
        feed = self._feed
        while self._round():
            if feed.every is None:
                return
            self._zero += feed.every / self._speed

    def _round(self) -> bool:
        """One round; False: it was stopped."""
        feed = self._feed
        left = {place: step.times for place, step in enumerate(feed.steps) if step.times is not None}
        place = 0
        while place < len(feed.steps):
            step = feed.steps[place]
            place += 1
            if self._wait_until(step.at):
                return False
            if step.jump is not None:
                times = left.get(place - 1)
                if times == 0:
                    continue
                if times is not None:
                    left[place - 1] = times - 1
                place = feed.place(step.jump)
                self._zero += (step.at - feed.steps[place].at) / self._speed
            elif self._take(step):
                return False
        end = feed.every if feed.every is not None else feed.length
        return end is None or not self._wait_until(end)

    def _wait_until(self, position: float) -> bool:
        """Whether it was stopped while the clock went there."""
        return self._stop.wait(max(0.0, self._zero + position / self._speed - self._clock()))

    def _take(self, step: Step) -> bool:
        deed: Deed = step
        if step.choose:
            deed = self._chance.choices(step.choose, [choice.weight for choice in step.choose])[0]
        elif not step.kinds:
            return False  # a label alone
        try:
            receipt = self._send(deed)
            return step.wait is not None and self._await(step, receipt)
        except ClientError as problem:
            self._say(f"the feed {self._feed.name!r}, {deed.what}: {problem}")
            return False

    def _send(self, deed: Deed) -> Any:
        if deed.event is not None:
            return self._client.event(deed.event, deed.when, **deed.params)
        how = {"seconds": deed.seconds, "ease": deed.ease, "path": deed.path}
        if deed.prompt is not None:
            return self._client.prompt(deed.prompt, deed.transition, deed.when, **how)
        return self._client.slots(deed.slots, deed.transition, deed.when, **how)

    def _await(self, step: Step, receipt: Any) -> bool:
        """Stand still until the receipt is there; whether it was stopped. Raises ClientError for a bad end."""
        began = self._clock()
        try:
            while True:
                left = step.timeout - (self._clock() - began)
                try:
                    receipt.wait(step.wait, min(WAIT_SLICE_S, max(0.0, left)))
                    return False
                except NotInTime:
                    if left <= WAIT_SLICE_S:
                        raise
                if self._stop.wait(0.0):
                    return True
        finally:
            self._zero += self._clock() - began
