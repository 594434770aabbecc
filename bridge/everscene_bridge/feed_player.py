"""Plays a feed: sends each step at its time on the wall clock.

The feed has a position, which goes with the clock (times `speed`), stands still while a step waits for its receipt, and
leaps at a jump. A feed that falls behind sends what is due at once, in order. What the server refuses is told, also
when nobody waits for it.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from everscene_bridge.errors import ClientError, NotInTime, Superseded
from everscene_bridge.feed import Deed, Feed, Step

WAIT_SLICE_S = 0.25
RECEIPTS_WATCHED = 256
LAST_RECEIPTS_S = 10.0
"""So long a feed that is over waits for receipts that are still open."""


class Player(Protocol):
    """What a feed needs of a `Client`."""

    def send_event(self, name: str, params: Mapping[str, Any], when: Any = None) -> Any: ...
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
    sent: Callable[[Step, Deed], None] = lambda step, deed: None,
) -> None:
    """Send each step at its time until `stop` is set, or to the end of a feed without `every`.

    A step that cannot be sent (no server at the moment), that is rejected, or whose receipt does not come in time is
    told to `say`; the feed goes on. `clock` gives seconds; speed: seconds of the feed in one of the clock. sent: told
    of each step, and which deed it was.
    """
    _Playing(client, feed, stop, clock, say, speed, sent).play()


class _Playing:
    def __init__(
        self,
        client: Player,
        feed: Feed,
        stop: Stop,
        clock: Callable[[], float],
        say: Callable[[str], None],
        speed: float,
        sent: Callable[[Step, Deed], None],
    ) -> None:
        self._client = client
        self._feed = feed
        self._stop = stop
        self._clock = clock
        self._say = say
        self._speed = speed
        self._sent = sent
        self._open: deque[tuple[Deed, Any]] = deque(maxlen=RECEIPTS_WATCHED)
        self._chance = random.Random(feed.seed)
        self._zero = clock()  # when position 0 of the round is, or would have been

    def play(self) -> None:
        feed = self._feed
        while self._round():
            if feed.every is None:
                self._wait_for_receipts()
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
        due = self._zero + position / self._speed
        while True:
            left = max(0.0, due - self._clock())
            piece = min(left, WAIT_SLICE_S) if self._open else left
            if self._stop.wait(piece):
                return True
            self._look_at_receipts()
            if piece == left:
                return False

    def _wait_for_receipts(self) -> None:
        end = self._clock() + LAST_RECEIPTS_S
        while self._open and self._clock() < end and not self._stop.wait(WAIT_SLICE_S):
            self._look_at_receipts()

    def _look_at_receipts(self) -> None:
        """Tell what was refused meanwhile."""
        for _ in range(len(self._open)):
            deed, receipt = self._open.popleft()
            try:
                receipt.wait("applied", 0.0)
            except NotInTime:
                self._open.append((deed, receipt))
            except Superseded:
                pass  # something later took its place, as it should
            except ClientError as problem:
                self._tell(deed, problem)

    def _tell(self, deed: Deed, problem: ClientError) -> None:
        self._say(f"the feed {self._feed.name!r}, {deed.what}: {problem}")

    def _take(self, step: Step) -> bool:
        """Do a step; whether it was stopped meanwhile."""
        deed: Deed = step
        if step.choose:
            deed = self._chance.choices(step.choose, [choice.weight for choice in step.choose])[0]
        elif not step.kinds:
            return False  # a label alone
        try:
            receipt = self._send(deed)
            self._sent(step, deed)
            if step.wait is not None and self._await(step, receipt):
                return True
            self._open.append((deed, receipt))
        except ClientError as problem:
            self._tell(deed, problem)
        return False

    def _send(self, deed: Deed) -> Any:
        if deed.event is not None:
            return self._client.send_event(deed.event, deed.params, deed.when)
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
