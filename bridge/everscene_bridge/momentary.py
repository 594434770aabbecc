"""When momentary events begin to hold and when they are over: by frame numbers, so the same whatever the machine."""

from collections.abc import Iterable

from everscene_bridge.scene import Momentary

REMEMBERED = 1024
"""So many events that are over are kept for ways back; those that hold are always kept."""


class Beginnings:
    """At which frame number each momentary event begins to hold. Not thread-safe."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._frames: dict[int, int] = {}  # order of the event → frame number

    def begin(self, orders: Iterable[int], frame: int, standing: Iterable[Momentary]) -> None:
        """The events with these orders hold from this frame number on. standing: all that the scene holds now."""
        self._frames.update(dict.fromkeys(orders, frame))
        beyond = len(self._frames) - REMEMBERED
        if beyond <= 0:
            return
        kept = {one.order for one in standing}
        for order in [order for order in self._frames if order not in kept][:beyond]:
            del self._frames[order]

    def left_s(self, momentary: Momentary, frame: int) -> float:
        """Seconds of content that it still has to go at a frame number; all of them if it has not begun."""
        return momentary.for_s - (frame - self._frames.get(momentary.order, frame)) / self._fps

    def holds(self, momentary: Momentary, frame: int) -> bool:
        """Whether it still holds at a frame number."""
        return self.left_s(momentary, frame) > 0

    def is_over(self, momentary: Momentary, frame: int) -> bool:
        """Whether it has begun and does not hold any more."""
        return momentary.order in self._frames and not self.holds(momentary, frame)
